package receive_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

// ca is a throw-away certificate authority.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{t, cert, key}
}

func (c *ca) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

func (c *ca) issue(name string, usage x509.ExtKeyUsage, notAfter time.Time) *tls.Certificate {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, &key.PublicKey, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, c.cert.Raw}, PrivateKey: key}
}

// lab is an intake with TLS, and what its clients need.
type lab struct {
	*intake
	clients *ca
	roots   *x509.CertPool
	agent   *tls.Certificate
}

const ourName = "provision.example.com"

func newLab(t *testing.T, cfg receive.Config, answer func(context.Context, hello.Hello) (hello.Result, error)) *lab {
	t.Helper()
	ours, clients := newCA(t, "provisioning root"), newCA(t, "client CA")
	inADay := time.Now().Add(24 * time.Hour)
	cert := ours.issue(ourName, x509.ExtKeyUsageServerAuth, inADay)
	cfg.ClientCAs = clients.pool
	cfg.Certificate = func() (*tls.Certificate, error) { return cert, nil }
	return &lab{listen(t, cfg, "127.0.0.1:0", answer), clients, ours.pool(), clients.issue("relay-7", x509.ExtKeyUsageClientAuth, inADay)}
}

func (l *lab) client(cert *tls.Certificate, protocols ...string) *tls.Config {
	cfg := &tls.Config{RootCAs: l.roots, ServerName: ourName, NextProtos: protocols}
	if cert != nil {
		// Unlike Certificates this sends it whatever CAs the server names.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

func TestRelay(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{PlainOff: true}, nil)
	b := append(capture(t, "2"), 0xfe, 0xed)
	for _, segments := range [][][]byte{{b}, {b[:1], b[1:]}, {b[:100], b[100:]}} {
		c := tls.Client(l.dial(), l.client(l.agent))
		for _, s := range segments {
			if _, err := c.Write(s); err != nil {
				t.Fatal(err)
			}
		}
		h := l.next()
		if !bytes.Equal(h.Raw, b) || h.Via != hello.ViaRelay || h.Peer != "relay-7" || len(h.Trailing) != 2 {
			t.Errorf("%d segments: via %s, peer %q, %d bytes, %d trailing", len(segments), h.Via, h.Peer, len(h.Raw), len(h.Trailing))
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("the relay got %d bytes, %v", n, err)
		}
	}
}

func TestRelayedNoise(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{}, nil)
	c := tls.Client(l.dial(), l.client(l.agent))
	if _, err := c.Write([]byte{0x99, 1, 2}); err != nil {
		t.Fatal(err)
	}
	l.closes(c)
	l.stop()
	if l.received(hello.Malformed) != 1 {
		t.Error("not counted")
	}
}

func TestARelayHasNoSourceLimitOfItsOwn(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{Limits: receive.Limits{PerSourcePerMinute: 1, PerNetworkPerMinute: 5}}, nil)
	began := time.Now()
	for range 7 {
		c := tls.Client(l.dial(), l.client(l.agent))
		_, _ = c.Write(psk())
		_, _ = io.ReadAll(c)
	}
	l.stop()
	more := float64(time.Since(began) / (12 * time.Second)) // the bucket refills by one in that time
	if a, r := l.received(hello.Accepted), l.received(hello.RateLimited); a < 5 || a > 5+more || a+r != 7 {
		t.Errorf("%v accepted, %v limited in %s; want 5 and 2", a, r, time.Since(began))
	}
}

func TestWhoeverDoesNotProveItselfIsRefused(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, c := range []struct {
		name   string
		cert   func(l *lab) *tls.Certificate
		max    uint16
		result hello.Result
		log    string
	}{
		{"no certificate", func(*lab) *tls.Certificate { return nil }, 0, hello.DeniedDevice, "provide a certificate"},
		{"no certificate, TLS 1.2", func(*lab) *tls.Certificate { return nil }, tls.VersionTLS12, hello.DeniedDevice, "provide a certificate"},
		{"another CA", func(*lab) *tls.Certificate {
			return newCA(t, "client CA").issue("x", x509.ExtKeyUsageClientAuth, time.Now().Add(day))
		}, 0, hello.DeniedDevice, "unknown authority"},
		{"expired", func(l *lab) *tls.Certificate {
			return l.clients.issue("x", x509.ExtKeyUsageClientAuth, time.Now().Add(-time.Hour))
		}, 0, hello.DeniedDevice, "expired"},
		{"a server's certificate", func(l *lab) *tls.Certificate {
			return l.clients.issue("x", x509.ExtKeyUsageServerAuth, time.Now().Add(day))
		}, 0, hello.DeniedDevice, "key usage"},
		{"TLS 1.1", func(l *lab) *tls.Certificate { return l.agent }, tls.VersionTLS11, hello.Malformed, "version"},
	} {
		l := newLab(t, receive.Config{}, nil)
		cfg := l.client(c.cert(l))
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, c.max
		conn := tls.Client(l.dial(), cfg)
		_, _ = conn.Write(capture(t, "1"))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%s: the client read %d bytes, %v", c.name, n, err)
		}
		l.stop()
		if l.received(c.result) != 1 || len(l.heard) != 0 || !strings.Contains(l.logged(), c.log) {
			t.Errorf("%s: not refused as %s with %q:\n%s", c.name, c.result, c.log, l.logged())
		}
	}
}

func TestBrokenHandshakeIsMalformed(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{}, nil)
	c := l.dial()
	_, _ = c.Write([]byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00"))
	_, _ = io.ReadAll(c) // a TLS alert may come
	l.stop()
	if l.received(hello.Malformed) != 1 {
		t.Errorf("log:\n%s", l.logged())
	}
}

// http is a client of the agents' endpoints.
func (l *lab) http() *http.Client {
	transport := &http.Transport{TLSClientConfig: l.client(l.agent)}
	l.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

type answered struct {
	Status int
	Result hello.Result
	Kind   hello.Kind
	Offset *int
	Detail string
	Title  string
	header http.Header
}

func (l *lab) do(c *http.Client, method, path, media string, body []byte) answered {
	l.Helper()
	r, err := http.NewRequestWithContext(l.Context(), method, "https://"+l.addr.String()+path, bytes.NewReader(body))
	if err != nil {
		l.Fatal(err)
	}
	r.Header.Set("Content-Type", media)
	w, err := c.Do(r)
	if err != nil {
		l.Fatal(err)
	}
	defer w.Body.Close()
	var a answered
	if err := json.NewDecoder(w.Body).Decode(&a); err != nil {
		l.Errorf("%s %s: the answer is not JSON: %v", method, path, err)
	}
	if w.StatusCode >= 300 && (a.Status != w.StatusCode || a.Detail == "" || w.Header.Get("Content-Type") != "application/problem+json") {
		l.Errorf("%s %s: no problem document: %+v", method, path, a)
	}
	a.Status, a.header = w.StatusCode, w.Header
	return a
}

const (
	octets  = "application/octet-stream"
	asJSON  = "application/json; charset=utf-8"
	request = `{"uuid":"11223344-5566-7788-99aa-bbccddeeff00","fqdn":"PC7.example.com.","otp":"s3cret-Canary","address":"::ffff:192.0.2.9"}`
)

func TestAgentPostsAHello(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{PlainOff: true}, nil)
	c := l.http()
	b := capture(t, "3")
	if a := l.do(c, "POST", "/v1/hello", octets, b); a.Status != 202 || a.Result != hello.Accepted {
		t.Errorf("got %+v", a)
	}
	h := l.next()
	if !bytes.Equal(h.Raw, b) || h.Via != hello.ViaAgent || h.Peer != "relay-7" || h.Address.IsValid() ||
		h.From.Addr().String() != "127.0.0.1" {
		t.Errorf("got %+v", h)
	}
	l.do(c, "POST", "/v1/hello?address=2001:db8::9", octets, b)
	if h := l.next(); h.Address.String() != "2001:db8::9" {
		t.Errorf("address %v", h.Address)
	}
	if a := l.do(c, "POST", "/v1/hello", octets, psk()); a.Status != 202 || l.next().PID != "4444-444" {
		t.Errorf("pre-shared key: %+v", a)
	}
}

func TestAgentAsksForProvisioning(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{}, func(context.Context, hello.Hello) (hello.Result, error) { return hello.Duplicate, nil })
	if a := l.do(l.http(), "POST", "/v1/provisioning-requests", asJSON, []byte(request)); a.Status != 202 || a.Result != hello.Duplicate {
		t.Errorf("got %+v", a)
	}
	h := l.next()
	if h.UUID.String() != "11223344-5566-7788-99aa-bbccddeeff00" || h.FQDN != "pc7.example.com" || h.OTP.Reveal() != "s3cret-Canary" ||
		h.Address.String() != "192.0.2.9" || h.Via != hello.ViaAgent || len(h.Hashes) != 0 || h.Version != 0 {
		t.Errorf("got %+v", h)
	}
	l.do(l.http(), "POST", "/v1/provisioning-requests", asJSON, []byte(`{"uuid":"{11223344-5566-7788-99AA-BBCCDDEEFF00}"}`))
	if h := l.next(); h.FQDN != "" || !h.OTP.IsZero() || h.Address.IsValid() {
		t.Errorf("got %+v", h)
	}
}

func TestWrongRequestsAreExplained(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{}, nil)
	c := l.http()
	const prov = "/v1/provisioning-requests"
	uuid := `"uuid":"11223344-5566-7788-99aa-bbccddeeff00"`
	count := 0.0
	for _, r := range []struct {
		name, method, path, media, body string
		status                          int
		detail                          string
	}{
		{"unknown path", "POST", "/v1/hellos", octets, "", 404, "POST /v1/hello"},
		{"root", "GET", "/", "", "", 404, ""},
		{"wrong method", "GET", "/v1/hello", "", "", 405, "POST"},
		{"wrong method", "PUT", prov, asJSON, request, 405, "POST"},
		{"wrong media type", "POST", "/v1/hello", asJSON, "{}", 415, octets},
		{"no media type", "POST", prov, "", request, 415, "application/json"},
		{"too long", "POST", "/v1/hello", octets, strings.Repeat("\x01", 30<<10), 413, "bytes"},
		{"too long", "POST", prov, asJSON, `{"fqdn":"` + strings.Repeat("x", 5000) + `"}`, 413, "4096"},
		{"empty", "POST", "/v1/hello", octets, "", 400, "byte 0"},
		{"truncated", "POST", "/v1/hello", octets, string(psk()[:30]), 400, "byte 30, PID"},
		{"noise", "POST", "/v1/hello", octets, "hello world", 400, "byte 0"},
		{"unknown version", "POST", "/v1/hello", octets, "\x01\x00\x07\x00", 400, "7 is unknown"},
		{"misspelt query", "POST", "/v1/hello?adress=192.0.2.1", octets, string(psk()), 400, "only query parameter"},
		{"a name for an address", "POST", "/v1/hello?address=localhost", octets, string(psk()), 400, "address: want"},
		{"no address at all", "POST", "/v1/hello?address=0.0.0.0", octets, string(psk()), 400, "address: want"},
		{"no JSON", "POST", prov, asJSON, `uuid=1`, 400, "not one JSON object"},
		{"null", "POST", prov, asJSON, `null`, 400, "not one JSON object"},
		{"two documents", "POST", prov, asJSON, request + request, 400, "not one JSON object"},
		{"no uuid", "POST", prov, asJSON, `{}`, 400, "uuid: want"},
		{"bad uuid", "POST", prov, asJSON, `{"uuid":"12"}`, 400, "uuid: want"},
		{"unknown member", "POST", prov, asJSON, `{` + uuid + `,"fqnd":"x"}`, 400, `"fqnd" is unknown`},
		{"a number for an otp", "POST", prov, asJSON, `{` + uuid + `,"otp":31337}`, 400, "otp is not a string"},
		{"an otp with a line break", "POST", prov, asJSON, `{` + uuid + `,"otp":"31337\n"}`, 400, "otp: want"},
		{"a bad name", "POST", prov, asJSON, `{` + uuid + `,"fqdn":"a b"}`, 400, "fqdn: want"},
		{"a multicast address", "POST", prov, asJSON, `{` + uuid + `,"address":"ff02::1"}`, 400, "address: want"},
	} {
		a := l.do(c, r.method, r.path, r.media, []byte(r.body))
		if a.Status != r.status || !strings.Contains(a.Detail, r.detail) {
			t.Errorf("%s: %d %q, want %d with %q", r.name, a.Status, a.Detail, r.status, r.detail)
		}
		if a.Status == 405 && a.header.Get("Allow") != "POST" {
			t.Errorf("%s: Allow: %q", r.name, a.header.Get("Allow"))
		}
		if strings.Contains(a.Detail, "31337") {
			t.Errorf("%s: the answer quotes the password", r.name)
		}
		if r.status != 404 && r.status != 405 {
			count++
		}
	}
	a := l.do(c, "POST", "/v1/hello", octets, append(pki(1), 2, 20))
	if a.Offset == nil || *a.Offset != 26 || a.Kind != hello.KindMalformed || a.Result != hello.Malformed {
		t.Errorf("the byte is not named: %+v", a)
	}
	l.stop()
	if n := l.received(hello.Malformed); n != count+1 || len(l.heard) != 0 {
		t.Errorf("%v counted as malformed, want %v", n, count+1)
	}
	if strings.Contains(l.logged(), "31337") {
		t.Error("the log quotes the password")
	}
}

func TestAgentIsToldOfRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		do     func() (hello.Result, error)
		status int
		result hello.Result
	}{
		{func() (hello.Result, error) { return hello.DeniedDevice, nil }, 403, hello.DeniedDevice},
		{func() (hello.Result, error) { return hello.DeniedNetwork, nil }, 403, hello.DeniedNetwork},
		{func() (hello.Result, error) { return "", errors.New("disk full at /secret/path") }, 503, hello.StoreError},
	} {
		l := newLab(t, receive.Config{}, func(context.Context, hello.Hello) (hello.Result, error) { return c.do() })
		a := l.do(l.http(), "POST", "/v1/hello", octets, psk())
		if a.Status != c.status || a.Result != c.result || strings.Contains(a.Detail, "secret") {
			t.Errorf("got %+v, want %d %s", a, c.status, c.result)
		}
		if a.Status == 503 && a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}

	l := newLab(t, receive.Config{Limits: receive.Limits{PerSourcePerMinute: 2}}, nil)
	c := l.http()
	began := time.Now()
	for i, want := range []int{202, 202, 429, 429} {
		a := l.do(c, "POST", "/v1/hello?address=192.0.2.1", octets, psk())
		if a.Status == 202 && time.Since(began) > 25*time.Second {
			continue // the bucket refills by one in thirty seconds
		}
		if a.Status != want || want == 429 && (a.Result != hello.RateLimited || a.header.Get("Retry-After") != "60") {
			t.Errorf("request %d: %+v, want %d", i+1, a, want)
		}
	}
	if a := l.do(c, "POST", "/v1/hello?address=192.0.2.2", octets, psk()); a.Status != 202 {
		t.Errorf("another device: %+v", a)
	}
}

func TestHTTPWithAndWithoutALPN(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{}, nil)
	for _, protocols := range [][]string{nil, {"http/1.1"}, {"h2", "http/1.1"}} {
		c := tls.Client(l.dial(), l.client(l.agent, protocols...))
		b := psk()
		fmt.Fprintf(c, "POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s",
			len(b), b)
		w, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%v: %v", protocols, err)
			continue
		}
		w.Body.Close()
		if w.StatusCode != 202 || l.next().Via != hello.ViaAgent {
			t.Errorf("%v: %s", protocols, w.Status)
		}
		c.Close()
	}
}

func TestSlowAgentIsCut(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{ReadTimeout: 300 * time.Millisecond}, nil)
	for _, start := range []string{"", "POST /v1/he",
		"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 32\r\n\r\n\x01"} {
		// On a slow machine it is cut in the handshake already, which shows nothing.
		var c *tls.Conn
		for shaken := false; !shaken; {
			c = tls.Client(l.dial(), l.client(l.agent, "http/1.1"))
			_, err := io.WriteString(c, start)
			shaken = err == nil
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				t.Fatalf("%q: the handshake is not cut", start)
			}
		}
		if _, err := io.ReadAll(c); err != nil {
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				t.Errorf("%q: not cut", start)
			}
		}
	}
}

func TestShutdownWithAgentsConnected(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	l := newLab(t, receive.Config{}, func(context.Context, hello.Hello) (hello.Result, error) {
		<-release
		return hello.Accepted, nil
	})
	fresh := tls.Client(l.dial(), l.client(l.agent, "http/1.1"))
	if err := fresh.Handshake(); err != nil {
		t.Fatal(err)
	}
	got := make(chan answered, 1)
	c := l.http()
	go func() { got <- l.do(c, "POST", "/v1/hello", octets, psk()) }()
	l.next()
	began, done := time.Now(), make(chan error, 1)
	go func() { done <- l.server.Shutdown(context.Background()) }()
	l.closes(fresh)
	close(release)
	if a := <-got; a.Status != 202 {
		t.Errorf("the request under way got %+v", a)
	}
	if err := <-done; err != nil || time.Since(began) > patience {
		t.Errorf("shut down in %v: %v", time.Since(began), err)
	}
}

func TestNoCertificateOfOurOwn(t *testing.T) {
	t.Parallel()
	clients := newCA(t, "client CA")
	in := listen(t, receive.Config{ClientCAs: clients.pool, Certificate: func() (*tls.Certificate, error) {
		return nil, errors.New("no provisioning certificate is loaded")
	}}, "127.0.0.1:0", nil)
	c := tls.Client(in.dial(), &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err == nil {
		t.Error("the handshake succeeded")
	}
	in.say(capture(t, "1")) // firmware is served all the same
	in.stop()
	if in.received(hello.Accepted) != 1 || !strings.Contains(in.logged(), "no provisioning certificate is loaded") {
		t.Errorf("log:\n%s", in.logged())
	}
}
