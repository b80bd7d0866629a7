package provision

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// middle sits at a device's address and has the device itself at another one.
// It ends our TLS with a certificate of its own, and has a look at ours.
type middle struct {
	l    net.Listener
	mu   sync.Mutex
	ours [][]byte // the chain we showed
	got  []byte   // what we said
	with error    // of a handshake with the device, with our chain and a key of its own
	bare error    // the same without a certificate
}

func (l *lab) middle(at netip.Addr, real *sim.Device) *middle {
	l.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader,
		&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Intel AMT"}, NotAfter: time.Now().Add(time.Hour)},
		&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Intel AMT"}}, key.Public(), key)
	if err != nil {
		l.t.Fatal(err)
	}
	m := &middle{}
	if m.l, err = tls.Listen("tcp", netip.AddrPortFrom(at, 16993).String(), &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequireAnyClientCert,
	}); err != nil {
		l.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := m.l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { m.serve(c.(*tls.Conn), real.Addr().String()) })
		}
	})
	l.t.Cleanup(func() { _ = m.l.Close(); wg.Wait() })
	return m
}

func (m *middle) serve(c *tls.Conn, device string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if c.Handshake() != nil {
		return
	}
	var chain [][]byte
	for _, cert := range c.ConnectionState().PeerCertificates {
		chain = append(chain, cert.Raw)
	}
	stolen, _ := rsa.GenerateKey(rand.Reader, 2048) // it has our certificate now, and not our key
	with := tryDevice(device, &tls.Certificate{Certificate: chain, PrivateKey: stolen})
	bare := tryDevice(device, new(tls.Certificate))
	m.mu.Lock()
	m.ours, m.with, m.bare = chain, with, bare
	m.mu.Unlock()
	buf := make([]byte, 8<<10)
	n, _ := c.Read(buf)
	m.mu.Lock()
	m.got = append(m.got, buf[:n]...)
	m.mu.Unlock()
}

// tryDevice makes a handshake and one request as somebody else.
func tryDevice(device string, cert *tls.Certificate) error {
	raw, err := net.DialTimeout("tcp", device, patience)
	if err != nil {
		return err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(patience))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }})
	if err := c.Handshake(); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "POST /wsman HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return err
	}
	return errors.New("the device talked to it") //nolint:errorlint // compared by its text below
}

// TestManInTheMiddle: who sits between us and a device learns our certificate,
// which is public, and what we say to whom we take for the device; with neither
// it gets a word out of the device itself.
func TestManInTheMiddle(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	real := l.device("12", sim.Faults{})
	at := address()
	m := l.middle(at, real)
	id := l.hello(real)
	if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
		_, _, err := tx.SeeHello(t.Context(), store.SeenHello{UUID: real.UUID(), From: netip.AddrPortFrom(at, 40000), Address: at,
			Version: 3, Hashes: l.roots()})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.engine.Work(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.ours) == 0 {
		t.Fatal("nobody came")
	}
	for what, err := range map[string]error{"our certificate and another key": m.with, "no certificate": m.bare} {
		if err == nil || err.Error() == "the device talked to it" {
			t.Errorf("with %s the device let it in", what)
		}
	}
	for _, secret := range []string{"SetMEBxPassword", "SetAdminAclEntryEx", "Authorization"} {
		if bytes.Contains(m.got, []byte(secret)) {
			t.Errorf("before it answered one question it was told %s", secret)
		}
	}
	if s := real.Snapshot(); s.State != amt.StateIn || len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 {
		t.Errorf("the device is in %s mode and was told %d passwords", s.State, len(s.SecretsSeen)+len(s.AdminHA1Seen))
	}
}

// TestNoDowngrade: a device that spoke TLS 1.2 to us before is not spoken to
// with less, whoever breaks off the better handshakes; nothing is told to it.
func TestNoDowngrade(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.device("7", sim.Faults{}) // speaks nothing newer than 1.1
		l.hello(d)
		version := "TLS 1.2"
		if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
			return tx.UpdateDevice(t.Context(), d.UUID(), store.DeviceFacts{TLSVersion: &version})
		}); err != nil {
			t.Fatal(err)
		}
		_, id := l.look(d)
		if _, err := l.engine.Work(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		dev, _ := l.look(d)
		if s := d.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 || s.Handshakes != 0 || s.Connections == 0 {
			t.Errorf("after %d handshakes of %d it was told %d passwords", s.Handshakes, s.Connections,
				len(s.SecretsSeen)+len(s.AdminHA1Seen))
		}
		if dev.Reason == "" || dev.TLSVersion != version {
			t.Errorf("%s: %s: %s; best version known: %s", dev.Lifecycle, dev.Reason, dev.Detail, dev.TLSVersion)
		}
		t.Logf("%s: %s", dev.Reason, dev.Detail)
	})
}
