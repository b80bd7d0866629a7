package session

import (
	"bytes"
	"crypto/tls"
	"net"
	"testing"

	"github.com/provisiond/provisiond/certs/certtest"
)

// recorded is the first flight of a TLS 1.2 device, as it comes over the wire.
func recorded(t testing.TB, version uint16) []byte {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer there.Close()
		_ = tls.Server(there, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version, ClientAuth: tls.RequireAnyClientCert,
			Certificates: []tls.Certificate{deviceCertificate(certtest.Options{})}}).Handshake()
	}()
	o := &observer{Conn: here}
	_ = tls.Client(o, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: version,
		CipherSuites: cipherSuites}).Handshake()
	_ = here.Close()
	<-done
	return o.seen
}

func TestObserver(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS12} {
		got := (&observer{seen: recorded(t, version)}).look()
		if got.version != version || got.cipher == 0 || !got.certAsked || got.notTLS ||
			!bytes.Equal(got.certificate, deviceCertificate(certtest.Options{}).Certificate[0]) && len(got.certificate) == 0 {
			t.Errorf("%s: %+v", tls.VersionName(version), got)
		}
		if err := got.certificateProblem(); err != nil {
			t.Error(err)
		}
	}
}

// Whatever a device sends, looking at it ends and stays inside it.
func FuzzObserver(f *testing.F) {
	f.Add(recorded(f, tls.VersionTLS12))
	f.Add([]byte("SSH-2.0-x\r\n"))
	f.Add([]byte{22, 3, 1, 0, 4, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		got := (&observer{seen: in}).look()
		_ = got.certificateProblem()
		if len(got.certificate) > len(in) {
			t.Errorf("a certificate of %d bytes in %d", len(got.certificate), len(in))
		}
	})
}
