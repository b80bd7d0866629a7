package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

var testLab = sync.OnceValue(func() *certtest.Lab { return certtest.NewLab(time.Now()) })

// ourChain is leaf, intermediate, root, as a provisioning certificate is sent.
var ourChain = sync.OnceValue(func() *tls.Certificate {
	f := testLab().Plain("Ours", "provisionserver.lab.test")
	c := &tls.Certificate{PrivateKey: f.Key}
	for _, x := range f.Chain() {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
})

// deviceCertificate is what firmware makes for itself.
func deviceCertificate(o certtest.Options) tls.Certificate {
	if o.Name == "" {
		o.Name = "Intel AMT self-signed"
	}
	ca := testLab().Root(o)
	return tls.Certificate{Certificate: [][]byte{ca.Cert.Raw}, PrivateKey: ca.Key}
}

// A server is the far end of a handshake. It answers every request with a
// ProvisioningState, over whatever crypto/tls makes of conf.
type server struct {
	addr    netip.AddrPort
	conns   atomic.Int32
	clients sync.Map // connection number -> [][]byte, the chain the client sent
}

func startServer(t testing.TB, conf *tls.Config, raw func(n int, c net.Conn) bool) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: netip.MustParseAddrPort(l.Addr().String())}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n := int(s.conns.Add(1)) - 1
			open.Go(func() {
				defer c.Close()
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer stop()
				if raw != nil && !raw(n, c) {
					return
				}
				tc := tls.Server(c, conf)
				if tc.Handshake() != nil {
					return
				}
				var chain [][]byte
				for _, x := range tc.ConnectionState().PeerCertificates {
					chain = append(chain, x.Raw)
				}
				s.clients.Store(n, chain)
				answerStates(tc)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		cancel()
		open.Wait()
	})
	return s
}

// stateAnswer says that the device is in setup.
const stateAnswer = `<E:Envelope xmlns:E="http://www.w3.org/2003/05/soap-envelope"><E:Body><x:AMT_SetupAndConfigurationService xmlns:x="u"><x:ProvisioningState>1</x:ProvisioningState></x:AMT_SetupAndConfigurationService></E:Body></E:Envelope>`

// answerStates answers requests for as long as they come.
func answerStates(c io.ReadWriter) {
	buf := make([]byte, 16<<10)
	for {
		// One Write of ours may arrive as several records (TLS 1.0 splits off the
		// first byte), so read to the envelope's end.
		var got []byte
		for !bytes.Contains(got, []byte("</Envelope>")) {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			got = append(got, buf[:n]...)
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(stateAnswer), stateAnswer); err != nil {
			return
		}
	}
}

// patience is for a machine that stands still for half a minute.
const patience = 2 * time.Minute

func testDialer(t *testing.T, cfg Config) (*Dialer, func() string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	if cfg.RefusedPatience == 0 {
		cfg.RefusedPatience = -1
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = patience
	}
	cfg.ConnectTimeout, cfg.CallTimeout = patience, patience
	d := NewDialer(cfg, nil, NewMetrics(reg))
	return d, func() string {
		w := httptest.NewRecorder()
		promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Body.String()
	}
}

// roundTrip dials and asks one question.
func roundTrip(t *testing.T, d *Dialer, target Target) (Peer, error) {
	t.Helper()
	s, err := d.Dial(t.Context(), target)
	if err != nil {
		return Peer{}, err
	}
	defer s.Close()
	state, err := s.State(t.Context())
	if err == nil && state != amt.StateIn {
		t.Errorf("state %v", state)
	}
	return s.Peer(), err
}

func wantReason(t *testing.T, err error, code reason.Code) {
	t.Helper()
	why := new(reason.Error)
	if !errors.As(err, &why) {
		t.Fatalf("got %v, want a *reason.Error with %s", err, code)
	}
	if why.Code != code {
		t.Fatalf("got %s (%v), want %s", why.Code, err, code)
	}
}

func TestHandshakes(t *testing.T) {
	t.Parallel()
	strangers := x509.NewCertPool()
	strangers.AddCert(testLab().Root(certtest.Options{Name: "Unrelated CA"}).Cert)
	for _, tc := range []struct {
		name    string
		conf    *tls.Config
		cert    certtest.Options
		version uint16
		cipher  uint16
		legacy  []string
	}{
		{"1.0 RSA", &tls.Config{MaxVersion: tls.VersionTLS10, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}, certtest.Options{Bits: 1024, SHA1: true, Name: "old"},
			tls.VersionTLS10, tls.TLS_RSA_WITH_AES_128_CBC_SHA, []string{"tls10", "rsa_kex", "rsa_1024", "sha1_signature"}},
		{"1.0 3DES", &tls.Config{MaxVersion: tls.VersionTLS10, CipherSuites: []uint16{tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA}}, certtest.Options{},
			tls.VersionTLS10, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, []string{"tls10", "rsa_kex", "3des"}},
		{"1.1 RSA", &tls.Config{MaxVersion: tls.VersionTLS11, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_256_CBC_SHA}}, certtest.Options{},
			tls.VersionTLS11, tls.TLS_RSA_WITH_AES_256_CBC_SHA, []string{"tls11", "rsa_kex"}},
		{"1.2 RSA GCM", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, certtest.Options{},
			tls.VersionTLS12, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, []string{"rsa_kex"}},
		{"1.2 ECDHE", &tls.Config{MaxVersion: tls.VersionTLS12}, certtest.Options{NegativeSerial: true, Name: "negative"},
			tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, []string{"negative_serial"}},
		{"1.2 ECDSA P-384", &tls.Config{MaxVersion: tls.VersionTLS12}, certtest.Options{ECC: true, Name: "ec"},
			tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, nil},
		{"1.3 takes 1.2", &tls.Config{}, certtest.Options{}, tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, nil},
		{"1.3 alone", &tls.Config{MinVersion: tls.VersionTLS13}, certtest.Options{}, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, nil},
		{"authorities unknown to us", &tls.Config{MaxVersion: tls.VersionTLS12, ClientCAs: strangers}, certtest.Options{},
			tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			conf := tc.conf.Clone()
			if conf.MinVersion == 0 {
				conf.MinVersion = tls.VersionTLS10
			}
			conf.ClientAuth = tls.RequireAnyClientCert
			conf.Certificates = []tls.Certificate{deviceCertificate(tc.cert)}
			s := startServer(t, conf, nil)
			d, scrape := testDialer(t, Config{})
			peer, err := roundTrip(t, d, Target{Addr: s.addr, Client: ourChain()})
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(conf.Certificates[0].Certificate[0])
			if peer.TLSVersion != tc.version || peer.Cipher != tc.cipher && tc.version != tls.VersionTLS13 ||
				!bytes.Equal(peer.Fingerprint, sum[:]) {
				t.Errorf("got %s %s %x", tls.VersionName(peer.TLSVersion), tls.CipherSuiteName(peer.Cipher), peer.Fingerprint)
			}
			if !peer.ClientCertAsked || !peer.ClientCertSent || peer.ODCA || peer.Verified != "none" {
				t.Errorf("peer %+v", peer)
			}
			n := s.conns.Load() - 1
			chain, _ := s.clients.Load(int(n))
			if got := chain.([][]byte); len(got) != 3 || !bytes.Equal(got[2], ourChain().Certificate[2]) {
				t.Errorf("the device got %d certificates, want leaf, intermediate and root", len(got))
			}
			text := scrape()
			if !strings.Contains(text, fmt.Sprintf(`provisiond_tls_handshakes_total{cipher=%q,result="ok",version=%q} 1`,
				tls.CipherSuiteName(peer.Cipher), versionLabel(peer.TLSVersion))) {
				t.Error("the handshake was not counted")
			}
			for _, f := range legacyFeatures {
				want := 0
				for _, l := range tc.legacy {
					if l == f {
						want = 1
					}
				}
				if !strings.Contains(text, fmt.Sprintf("provisiond_tls_legacy_features_total{feature=%q} %d\n", f, want)) {
					t.Errorf("feature %s is not counted as %d", f, want)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	good := func() *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert,
			Certificates: []tls.Certificate{deviceCertificate(certtest.Options{})}}
	}
	refusing := func(version uint16) *tls.Config {
		c := good()
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, version
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		return c
	}
	resetAfter := func(version uint16) *tls.Config {
		c := good()
		c.MinVersion, c.MaxVersion = version, version
		return c
	}
	// alert writes a fatal alert instead of any answer to the hello.
	alert := func(code byte) func(int, net.Conn) bool {
		return func(_ int, c net.Conn) bool {
			_, _ = c.Read(make([]byte, 2048))
			_, _ = c.Write([]byte{21, 3, 1, 0, 2, 2, code})
			return false
		}
	}
	for _, tc := range []struct {
		name   string
		conf   *tls.Config
		raw    func(n int, c net.Conn) bool
		target Target
		cfg    Config
		code   reason.Code
		conns  int32 // 0: not looked at
	}{
		{name: "our root is not known, 1.2", conf: refusing(tls.VersionTLS12), code: reason.TLSClientCertRefused, conns: 1},
		{name: "our root is not known, 1.1", conf: refusing(tls.VersionTLS11), code: reason.TLSClientCertRefused, conns: 1},
		{name: "our root is not known, 1.0", conf: refusing(tls.VersionTLS10), code: reason.TLSClientCertRefused, conns: 1},
		{name: "our root is not known, 1.3", conf: func() *tls.Config {
			c := refusing(tls.VersionTLS13)
			c.MinVersion = tls.VersionTLS13
			return c
		}(), code: reason.TLSClientCertRefused, conns: 2},
		{name: "reset after our certificate, 1.2", conf: func() *tls.Config {
			c := resetAfter(tls.VersionTLS12)
			return c
		}(), raw: resetOnCertificate, code: reason.TLSClientCertRefused, conns: 1},
		{name: "reset after our certificate, 1.0", conf: resetAfter(tls.VersionTLS10), raw: resetOnCertificate, code: reason.TLSClientCertRefused, conns: 1},
		{name: "none of ours and one is wanted", conf: good(), target: Target{MinTLS: tls.VersionTLS10}, code: reason.TLSClientCertRefused, conns: 1},
		{name: "certificate_unknown at once", raw: alert(46), code: reason.TLSClientCertRefused, conns: 1},
		{name: "access_denied", raw: alert(49), code: reason.TLSClientCertRefused, conns: 1},
		{name: "handshake_failure at once", raw: alert(40), code: reason.TLSVersionRefused, conns: 3},
		{name: "protocol_version", raw: alert(70), code: reason.TLSVersionRefused, conns: 4},
		{name: "bad_record_mac", raw: alert(20), code: reason.TLSHandshakeFailed, conns: 3},
		{name: "too old for the policy", conf: &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, Certificates: good().Certificates},
			target: Target{MinTLS: tls.VersionTLS12}, code: reason.TLSVersionRefused},
		{name: "an SSH server", raw: func(_ int, c net.Conn) bool { _, _ = io.WriteString(c, "SSH-2.0-x\r\n"); return true }, conf: good(), code: reason.TLSHandshakeFailed, conns: 1},
		{name: "closes at once", raw: func(int, net.Conn) bool { return false }, code: reason.TLSHandshakeFailed, conns: 3},
		{name: "never answers", raw: func(_ int, c net.Conn) bool { _, _ = io.Copy(io.Discard, c); return false }, cfg: Config{HandshakeTimeout: 100 * time.Millisecond}, code: reason.TLSHandshakeFailed, conns: 1},
		{name: "a certificate that cannot be parsed", conf: &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{damaged()}}, code: reason.TLSPeerCertInvalid, conns: 1},
		{name: "another key than before", conf: good(), target: Target{Pin: make([]byte, 32), Client: nil}, code: reason.TLSPinnedKeyChanged, conns: 1},
		{name: "egress denied", conf: good(), cfg: Config{Control: EgressGuard(prefixes("10.0.0.0/8"), nil)}, code: reason.NetworkNotAllowed},
		{name: "versions upside down", conf: good(), target: Target{MinTLS: tls.VersionTLS12, MaxTLS: tls.VersionTLS11}, code: reason.TLSVersionRefused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, tc.conf, tc.raw)
			d, _ := testDialer(t, tc.cfg)
			target := tc.target
			target.Addr = s.addr
			if target.Client == nil && target.MinTLS != tls.VersionTLS10 {
				target.Client = ourChain()
			}
			_, err := roundTrip(t, d, target)
			wantReason(t, err, tc.code)
			if got := s.conns.Load(); tc.conns != 0 && got != tc.conns {
				t.Errorf("%d connections, want %d", got, tc.conns)
			}
		})
	}
}

// resetOnCertificate lets a handshake begin and resets once the client has sent
// what follows the server's first flight.
func resetOnCertificate(_ int, c net.Conn) bool {
	conf := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{deviceCertificate(certtest.Options{})}}
	conf.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		return errors.New("gone")
	}
	_ = tls.Server(c, conf).Handshake()
	return false
}

// damaged is a certificate with a byte after its end.
func damaged() tls.Certificate {
	c := deviceCertificate(certtest.Options{})
	return tls.Certificate{Certificate: [][]byte{append(bytes.Clone(c.Certificate[0]), 0)}, PrivateKey: c.PrivateKey}
}

// A device that breaks off at a version it does not know gets the next older
// one on a new connection.
func TestLadder(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		highest uint16 // highest hello version tolerated
		target  Target
		version uint16
		conns   int32
	}{
		{"intolerant of 1.2", tls.VersionTLS11, Target{}, tls.VersionTLS11, 2},
		{"intolerant of 1.1", tls.VersionTLS10, Target{}, tls.VersionTLS10, 3},
		{"not below the policy", tls.VersionTLS10, Target{MinTLS: tls.VersionTLS11}, 0, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			conf := &tls.Config{MinVersion: tls.VersionTLS10, ClientAuth: tls.RequireAnyClientCert,
				Certificates: []tls.Certificate{deviceCertificate(certtest.Options{})},
				GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
					if h.SupportedVersions[0] > tc.highest {
						_ = h.Conn.Close()
						return nil, errors.New("too new")
					}
					return nil, nil
				}}
			s := startServer(t, conf, nil)
			d, _ := testDialer(t, Config{})
			tc.target.Addr, tc.target.Client = s.addr, ourChain()
			peer, err := roundTrip(t, d, tc.target)
			if peer.TLSVersion != tc.version || (err == nil) != (tc.version != 0) || s.conns.Load() != tc.conns {
				t.Errorf("got %s, %v, %d connections; want %s, %d", tls.VersionName(peer.TLSVersion), err, s.conns.Load(),
					tls.VersionName(tc.version), tc.conns)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		d, _ := testDialer(t, Config{})
		_, err := roundTrip(t, d, Target{Addr: addr})
		wantReason(t, err, reason.DeviceUnreachable)
	})
	t.Run("refused for as long as patience lasts", func(t *testing.T) {
		t.Parallel()
		d, _ := testDialer(t, Config{RefusedPatience: 300 * time.Millisecond})
		started := time.Now()
		_, err := roundTrip(t, d, Target{Addr: addr})
		wantReason(t, err, reason.DeviceUnreachable)
		if took := time.Since(started); took > patience {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("cancelled while patient", func(t *testing.T) {
		t.Parallel()
		d, _ := testDialer(t, Config{RefusedPatience: time.Hour})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(reason.Because(reason.Cancelled, "an operator"))
		_, err := d.Dial(ctx, Target{Addr: addr})
		wantReason(t, err, reason.Cancelled)
	})
}

// The listener of a device opens a little after its hello.
func TestPatienceWithARefusedConnection(t *testing.T) {
	t.Parallel()
	var tries atomic.Int32
	s := startServer(t, &tls.Config{Certificates: []tls.Certificate{deviceCertificate(certtest.Options{})}}, nil)
	d, _ := testDialer(t, Config{RefusedPatience: patience})
	d.cfg.Control = refuseFirst(&tries, 2)
	if _, err := roundTrip(t, d, Target{Addr: s.addr}); err != nil {
		t.Fatal(err)
	}
	if tries.Load() != 3 {
		t.Errorf("%d tries, want 3", tries.Load())
	}
}

// refuseFirst makes the first n connections end the way a closed port does.
func refuseFirst(tries *atomic.Int32, n int32) func(string, string, syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error {
		if tries.Add(1) <= n {
			return syscall.ECONNREFUSED
		}
		return nil
	}
}
