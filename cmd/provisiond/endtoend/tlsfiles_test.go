package endtoend

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
)

// TestBoxCertificateFilesAreTakenUp: the API's pair and the relays' authorities
// are files that somebody renews. A running daemon takes the new ones up; what
// makes no sense changes nothing, is said once and found by the doctor; and
// health says ready all along.
func TestBoxCertificateFilesAreTakenUp(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	lab := certtest.NewLab(time.Now())
	ca := lab.ClientCA("office")
	leaf := func(name string, o certtest.Options) certtest.Leaf {
		o.Name, o.Names, o.NoOID = name, []string{"provisiond.example.com"}, true
		return ca.Leaf(o)
	}
	first, second, third := leaf("first", certtest.Options{}), leaf("second", certtest.Options{}), leaf("third", certtest.Options{})
	office, branch := lab.ClientCA("relays of the office"), lab.ClientCA("relays of the branch")
	put := func(cert, key certtest.Leaf) {
		s.file("api.crt", certtest.PEM(append([]*x509.Certificate{cert.Cert}, cert.Issuers...)...))
		s.file("api.key", certtest.KeyPEM(key.Key))
	}
	put(first, first)
	s.file("relays.pem", certtest.PEM(office.Cert))
	env := []string{"PROVISIOND_API_TLS_CERT=" + s.path("api.crt"), "PROVISIOND_API_TLS_KEY=" + s.path("api.key"),
		"PROVISIOND_HELLO_CLIENT_CA=" + s.path("relays.pem")}
	d := s.serve(env)

	shows := func(want certtest.Leaf) bool {
		c, err := (&tls.Dialer{Config: &tls.Config{RootCAs: ca.Pool(), ServerName: "provisiond.example.com"}}).DialContext(t.Context(),
			"tcp", d.api)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Equal(want.Cert)
	}
	healthy := func(when string) {
		t.Helper()
		if out, errs, status := command(t, program(t, box.daemon), env, "health", "--config", s.cfg, "--api-listen", d.api); status != 0 ||
			!strings.Contains(out, "ok") {
			t.Errorf("%s: health: status %d: %s%s", when, status, out, errs)
		}
	}
	token, err := os.ReadFile(d.token)
	if err != nil {
		t.Fatal(err)
	}
	c := &api.Client{Base: "https://" + d.api, Token: strings.TrimSpace(string(token)), HTTP: &http.Client{Timeout: 2 * time.Minute,
		Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "provisiond.example.com"}}}}
	doctor := func(check string) api.DoctorCheck {
		t.Helper()
		r, err := c.RunDoctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range r.Checks {
			if k.Name == check {
				return k
			}
		}
		t.Fatalf("the doctor has no check %s: %+v", check, r.Checks)
		return api.DoctorCheck{}
	}
	said := func(name, detail string) bool {
		p, err := c.Events(t.Context(), api.EventQuery{Limit: 200})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range p.Events {
			if e.Name == name && strings.Contains(e.Detail, detail) {
				return true
			}
		}
		return false
	}

	if !shows(first) {
		t.Fatal("the daemon does not show the certificate of its files")
	}
	healthy("before")
	if k := doctor("tls:api"); k.Status != "pass" || !strings.Contains(k.Detail, "provisiond.example.com: ") ||
		!strings.Contains(k.Detail, "days left, until "+first.Cert.NotAfter.UTC().Format(time.DateOnly)) {
		t.Errorf("the doctor: %+v", k)
	}

	// Half of a pair: the certificate has come, its key has not.
	put(second, first)
	healthy("half replaced")
	poll(t, "a warning", 30*time.Second, func() bool { _ = shows(first); return strings.Contains(d.errs.String(), `"files.unusable"`) })
	healthy("half replaced, and known")
	if !shows(first) {
		t.Error("the daemon does not go on with the pair it had")
	}
	k := doctor("tls:api")
	if k.Status != "fail" || !strings.Contains(k.Detail, "no pair") || !strings.Contains(k.Detail, "days left") ||
		!strings.Contains(k.Hint, "A restart would fail") {
		t.Errorf("the doctor: %+v", k)
	}
	if !said("doctor.failed", "tls:api: what the files of api.tls hold cannot be used") {
		t.Error("there is no event of it")
	}
	if out, _, status := command(t, program(t, box.daemon), env, "doctor", "--config", s.cfg, "--api-listen", d.api); status != 2 ||
		!strings.Contains(out, "cannot be used") {
		t.Errorf("provisiond doctor: status %d: %s", status, out)
	}

	put(second, second)
	poll(t, "the second pair", 30*time.Second, func() bool { return shows(second) })
	healthy("replaced")
	if k := doctor("tls:api"); k.Status != "pass" || !said("doctor.recovered", "tls:api") {
		t.Errorf("the doctor: %+v", k)
	}
	if n := strings.Count(d.errs.String(), `"files.unusable"`); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}

	// Gone for a while, then back as a link to elsewhere, which is how a secret
	// comes into a container.
	if err := os.Remove(s.path("api.key")); err != nil {
		t.Fatal(err)
	}
	poll(t, "a second warning", 30*time.Second, func() bool {
		return shows(second) && strings.Count(d.errs.String(), `"files.unusable"`) == 2
	})
	healthy("without a key")
	s.file("third.key", certtest.KeyPEM(third.Key))
	s.file("third.crt", certtest.PEM(third.Cert))
	for _, name := range []string{"crt", "key"} {
		_ = os.Remove(s.path("api." + name))
		if err := os.Symlink(s.path("third."+name), s.path("api."+name)); err != nil {
			t.Fatal(err)
		}
	}
	poll(t, "the third pair", 30*time.Second, func() bool { return shows(third) })
	healthy("after")

	// The authorities of relays.
	root := x509.NewCertPool()
	root.AddCert(s.leaf.Issuers[len(s.leaf.Issuers)-1])
	getsIn := func(client *tls.Certificate) bool {
		h := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: root, ServerName: "provisionserver.corp.example.com",
				Certificates: []tls.Certificate{*client}, NextProtos: []string{"http/1.1"}}}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+d.hello+"/v1/hello", strings.NewReader("nonsense"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := h.Do(req)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return true
	}
	of := map[bool]*tls.Certificate{true: office.Client("relay-1"), false: branch.Client("relay-2")}
	if !getsIn(of[true]) || getsIn(of[false]) {
		t.Error("the relay of the office is to get in, that of the branch not")
	}
	s.file("relays.pem", certtest.PEM(branch.Cert))
	poll(t, "the relay of the branch", 30*time.Second, func() bool { return getsIn(of[false]) })
	if getsIn(of[true]) {
		t.Error("the relay of the office still gets in")
	}
	s.file("relays.pem", []byte("nonsense"))
	poll(t, "a third warning", 30*time.Second, func() bool {
		return getsIn(of[false]) && strings.Count(d.errs.String(), `"files.unusable"`) == 3
	})
	if k := doctor("tls:relays"); k.Status != "fail" || !strings.Contains(k.Detail, "relays.pem: this is not PEM") ||
		!strings.Contains(k.Detail, "days left") {
		t.Errorf("the doctor: %+v", k)
	}
	d.stop()
}
