package session

import (
	"crypto/tls"
	"runtime"
	"testing"

	"github.com/provisiond/provisiond/certs/certtest"
)

// BenchmarkDevice is what one device costs: two handshakes with a client
// certificate and thirty calls, the far end's work included.
func BenchmarkDevice(b *testing.B) {
	conf := &tls.Config{MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{deviceCertificate(certtest.Options{})}}
	s := startServer(b, conf, nil)
	d := NewDialer(Config{}, nil, nil)
	b.ReportAllocs()
	for b.Loop() {
		for range 2 {
			c, err := d.Dial(b.Context(), Target{Addr: s.addr, Client: ourChain()})
			if err != nil {
				b.Fatal(err)
			}
			for range 15 {
				if _, err := c.State(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			_ = c.Close()
		}
	}
}

// Two thousand devices may be in flight at once. The far end of each session is
// in this process too and counts against the limit.
func TestMemoryOfAnIdleSession(t *testing.T) {
	conf := &tls.Config{MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert,
		Certificates: []tls.Certificate{deviceCertificate(certtest.Options{})}}
	s := startServer(t, conf, nil)
	d := NewDialer(Config{}, nil, nil)
	const n = 100
	open := make([]*Session, 0, n)
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := used()
	for range n {
		c, err := d.Dial(t.Context(), Target{Addr: s.addr, Client: ourChain()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	each := (used() - before) / n
	t.Logf("%d KiB a session, both ends", each>>10)
	if each > 100<<10 {
		t.Errorf("an idle session takes %d KiB with its far end, want at most 100", each>>10)
	}
	runtime.KeepAlive(open)
}
