package endtoend

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/store/pgtest"
)

// TestBoxNoise: strangers of every kind call the hello port while a fleet is
// set up. The fleet is managed all the same, and each stranger is counted.
func TestBoxNoise(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	ca := certtest.NewLab(time.Now()).ClientCA("relays")
	s.file("relays.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}))
	d := s.serve([]string{"PROVISIOND_HELLO_CLIENT_CA=" + s.path("relays.pem"), "PROVISIOND_HELLO_READ_TIMEOUT=2s"})
	stranger := strings.TrimSuffix(rangeOf(), "1") + "9"

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dial := func() (net.Conn, error) {
		return (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(stranger), 0))}).DialContext(ctx,
			"tcp", d.hello)
	}
	says := func(text string) func() error {
		return func() error {
			c, err := dial()
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte(text)); err != nil {
				return err
			}
			_, _ = c.Read(make([]byte, 1)) // until it hangs up
			return nil
		}
	}
	kinds := []struct {
		name, result string
		call         func() error
	}{
		{"random bytes", "malformed", func() error {
			b := make([]byte, 200)
			for i := range b {
				b[i] = byte(2 + rand.IntN(20)) // neither a hello's first byte
			}
			b[0] = 0x7f
			return says(string(b))()
		}},
		{"HTTP", "malformed", says("GET / HTTP/1.1\r\nHost: provisionserver\r\n\r\n")},
		{"SSH", "malformed", says("SSH-2.0-OpenSSH_9.6\r\n")},
		{"a hello of another version", "malformed", says("\x01\x00\x09\x00\x00\x00\x00\x00" + strings.Repeat("\x11", 16) + "\x00")},
		{"a hello that breaks off", "malformed", func() error {
			c, err := dial()
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("\x01\x00\x03\x00\x00\x00\x00\x00" + strings.Repeat("\x11", 16) + "\x09\x01\x14"))
			return errorsOf(err, c.Close())
		}},
		{"TLS without a client certificate", "denied_device", func() error {
			c, err := dial()
			if err != nil {
				return err
			}
			defer c.Close()
			tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
			if tc.HandshakeContext(ctx) == nil {
				return fmt.Errorf("let in without a client certificate")
			}
			return nil
		}},
		{"a byte now and then", "malformed", func() error {
			c, err := dial()
			if err != nil {
				return err
			}
			defer c.Close()
			began := time.Now()
			for _, b := range []byte("\x01\x00\x03\x00\x00\x00\x00\x00" + strings.Repeat("\x11", 16) + "\xff" +
				strings.Repeat("\x01\x14"+strings.Repeat("\x22", 20), 50)) {
				if _, err := c.Write([]byte{b}); err != nil {
					break
				}
				_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := c.Read(make([]byte, 1)); err != nil && !os.IsTimeout(err) {
					break
				}
			}
			if took := time.Since(began); took > 90*time.Second {
				return fmt.Errorf("held for %s", took)
			}
			return nil
		}},
	}

	const each = 12
	want := map[string]float64{}
	var wg sync.WaitGroup
	for _, k := range kinds {
		want[k.result] += each
		for range each {
			wg.Go(func() {
				if err := k.call(); err != nil {
					t.Errorf("%s: %v", k.name, err)
				}
			})
		}
	}
	h := s.herd()
	devices := h.mixed(t, size(20, 10))
	h.live(3*time.Second, one(d.hello), devices...)
	d.managed(len(devices), 2*time.Minute)
	wg.Wait()
	for result, n := range want {
		poll(t, fmt.Sprintf("%v counted as %s", n, result), 10*time.Second, func() bool {
			return d.metric(`provisiond_hello_received_total{result="`+result+`"}`) == n
		})
	}
	h.settled(d)
	d.stop()
}

func errorsOf(errs ...error) error {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// TestBoxPortInUse: the message names the process that has the port.
func TestBoxPortInUse(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	d := s.serve(nil)
	other := newSite(t, "")
	_, errs, status := command(t, program(t, box.daemon), nil, "serve", "--config", other.cfg, "--hello-listen", d.hello)
	if want := fmt.Sprintf("is in use by provisiond (pid %d)", d.cmd.Process.Pid); status != 1 || !strings.Contains(errs, want) ||
		!strings.Contains(errs, "hello.listen") {
		t.Errorf("status %d, want 1; it says %q, want %q", status, errs, want)
	}
}

// freePort is one nobody listens on, a moment ago at least.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestBoxDatabaseAway: a daemon whose database does not answer says so, stays
// red and goes on by itself when the database comes, at the start and later.
func TestBoxDatabaseAway(t *testing.T) {
	t.Parallel()
	seat(t)
	pg := pgtest.Start(t)
	s := newSite(t, pg.URL())
	pg.Kill(t)
	s.hello, s.api = freePort(t), freePort(t)
	d := s.launch(program(t, box.daemon), nil)
	d.api, d.hello = s.api, s.hello
	d.line("store.down", 30*time.Second)
	asked := func(path string, want int) bool {
		status, _, err := fetch(t.Context(), "http://"+d.api+path)
		return err == nil && status == want
	}
	poll(t, "alive and not ready", 20*time.Second, func() bool { return asked("/healthz", 200) && asked("/readyz", 503) })
	if _, errs, status := command(t, program(t, box.daemon), nil, "health", "--config", s.cfg, "--api-listen", d.api); status != 1 ||
		!strings.Contains(errs, "database") {
		t.Errorf("provisiond health: status %d, %q; want 1 and the database named", status, errs)
	}

	pg.Restart(t)
	d.ready()
	if !asked("/readyz", 200) {
		t.Error("the database is there and /readyz is not green")
	}
	h := s.herd()
	h.live(2*time.Second, one(d.hello), h.add("11", nil))
	d.managed(1, time.Minute)

	pg.Kill(t)
	poll(t, "red again", 30*time.Second, func() bool { return asked("/readyz", 503) })
	h.live(2*time.Second, one(d.hello), h.add("16", nil))
	pg.Restart(t)
	poll(t, "green again", 60*time.Second, func() bool { return asked("/readyz", 200) })
	d.managed(2, 90*time.Second)
	h.settled(d)
	d.stop()
}

// TestBoxConfigProblems: every problem at once, each with its line, and a
// status of its own.
func TestBoxConfigProblems(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	s.cfg = s.file("bad.yaml", []byte(`data_dir: `+s.dir+`/data
helo: {listen: "127.0.0.1:0"}
hello:
  listen: "127.0.0.1"
  read_timeout: soon
  limits: {per_source_per_minute: many}
provisioning:
  admission: everybody
  networks: [10.0.0.0/40]
  certificates: [{pfx: `+s.dir+`/none.pfx}]
api: {listen: "0.0.0.0:8080"}
`))
	for _, args := range [][]string{{"serve"}, {"config", "check"}} {
		out, errs, status := command(t, program(t, box.daemon), nil, append(args, "--config", s.cfg)...)
		if status != 3 {
			t.Errorf("%v: status %d, want 3: %s%s", args, status, out, errs)
		}
		for line, about := range map[int]string{2: "helo", 4: "hello.listen", 5: "hello.read_timeout",
			6: "hello.limits.per_source_per_minute", 8: "provisioning.admission",
			9: "provisioning.networks", 10: "provisioning.certificates", 11: "api.listen"} {
			if !regexp.MustCompile(regexp.QuoteMeta(fmt.Sprintf("%s:%d: %s", s.cfg, line, about)) + `.*`).MatchString(errs) {
				t.Errorf("%v: nothing about %s on line %d:\n%s", args, about, line, errs)
			}
		}
		if n := strings.Count(errs, "example: "); n < 5 {
			t.Errorf("%v: %d problems come with an example:\n%s", args, n, errs)
		}
		if _, err := os.Stat(s.path("data")); err == nil {
			t.Errorf("%v: a daemon that cannot start made its data_dir", args)
		}
	}
}

// TestBoxCertificateProblems: a provisioning certificate that no device could
// accept ends the start with its reason; one that is merely late is said.
func TestBoxCertificateProblems(t *testing.T) {
	t.Parallel()
	lab := certtest.NewLab(time.Now())
	name := certtest.Options{Name: "provisionserver.corp.example.com"}
	with := func(change func(*certtest.Options)) certtest.Options {
		o := name
		change(&o)
		return o
	}
	root := lab.Root(certtest.Options{Name: "Bad Root"})
	middle := root.Intermediate(certtest.Options{Name: "Bad Issuing"})
	good := middle.Leaf(name, root.Cert)
	keyless, err := pkcs12.Modern2023.EncodeTrustStore(good.Chain(), sitePassword)
	if err != nil {
		t.Fatal(err)
	}
	pfx := func(l certtest.Leaf) []byte { return l.PFX(certtest.Modern, sitePassword) }
	for _, c := range []struct {
		name   string
		pfx    []byte
		env    string // instead of the file
		status int
		says   string
	}{
		{"wrong password", good.PFX(certtest.Modern, "another"), "", 1, "pfx_password_wrong"},
		{"garbage", []byte("this is not a PFX"), "", 1, "cert_input_invalid"},
		{"no key", keyless, "", 1, "cert_private_key_missing"},
		{"PEM without its key", certtest.PEM(good.Chain()...), "", 1, "cert_private_key_missing"},
		{"wrong key", certtest.PFX(certtest.Modern, sitePassword, lab.RSAKey("another", 2048), good.Chain()...), "", 1, "cert_key_mismatch"},
		{"missing intermediate", certtest.PFX(certtest.Modern, sitePassword, good.Key, good.Cert, root.Cert), "", 1, "chain_incomplete"},
		{"missing root", certtest.PFX(certtest.Modern, sitePassword, good.Key, good.Cert, middle.Cert), "", 1, "chain_incomplete"},
		{"no OID and no OU", pfx(middle.Leaf(with(func(o *certtest.Options) { o.NoOID = true }), root.Cert)), "", 1, "cert_missing_amt_usage"},
		{"self-signed", pfx(lab.SelfSigned(name)), "", 1, "cert_self_signed"},
		{"empty file", nil, "", 3, "is empty"},
		{"a directory", nil, "dir", 3, "is a directory"},
		{"no such file", nil, "none", 3, "none.pfx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, "")
			switch c.env {
			case "dir":
				_ = os.Remove(s.path("prov.pfx"))
				if err := os.Mkdir(s.path("prov.pfx"), 0o700); err != nil {
					t.Fatal(err)
				}
			case "none":
				s.file("provisiond.yaml", []byte(strings.ReplaceAll(readFile(t, s.cfg), "prov.pfx", "none.pfx")))
			default:
				s.file("prov.pfx", c.pfx)
			}
			_, errs, status := command(t, program(t, box.daemon), nil, "serve", "--config", s.cfg)
			if status != c.status || !strings.Contains(errs, c.says) || !strings.Contains(errs, s.dir) {
				t.Errorf("status %d, want %d; it says:\n%s\nwant %q and the file", status, c.status, errs, c.says)
			}
			if strings.Contains(errs, sitePassword) {
				t.Error("the message holds the password")
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, "")
		late := middle.Leaf(with(func(o *certtest.Options) {
			o.NotBefore, o.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
		}), root.Cert)
		s.file("prov.pfx", pfx(late))
		d := s.serve(nil)
		if !strings.Contains(d.errs.String(), "cert_expired") {
			t.Error("nothing is said about a certificate that has expired")
		}
		d.stop()
	})
}
