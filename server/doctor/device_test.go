package doctor

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
)

// TestWhereTheRoadToADeviceStops: each milestone, with a device that stops there.
func TestWhereTheRoadToADeviceStops(t *testing.T) {
	t.Parallel()
	p, err := certs.LoadPFX(t.Context(), labCertificate().PFX(certtest.Modern, "secret"), amt.NewSecret("secret"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := labRoots()
	for i, c := range []struct {
		name   string
		config *sim.Config // nil: something that is no device
		status Status
		detail string
	}{
		{"as it should be", &sim.Config{Roots: roots}, Pass, "it took our certificate; WS-MAN answers: AMT 11"},
		{"old firmware", &sim.Config{Roots: roots, Personality: "5"}, Pass, "WS-MAN answers: AMT 5"},
		{"another root", &sim.Config{}, Fail, "it stops at the chain"},
		{"another suffix", &sim.Config{Roots: roots, MEBxSuffix: "plant.local"}, Fail, "it stops at the chain"},
		{"asks for a password", &sim.Config{Roots: roots, Tune: func(p *sim.Personality) { p.AsksDigest = true }}, Pass, "it stops at digest"},
		{"no TLS there", nil, Fail, "it stops at TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr := netip.AddrFrom4([4]byte{127, 95, 0, byte(10 + i)})
			if c.config == nil {
				greeter(t, addr)
			} else {
				cfg := *c.config
				cfg.UUID, cfg.Addr = amt.UUID{0x95, 15: byte(i + 1)}, addr
				if cfg.Suffix == "" {
					cfg.Suffix = labZone
				}
				d, err := sim.New(cfg)
				if err == nil {
					err = d.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = d.Close() })
			}
			r, _ := New(Config{
				HelloListen: "127.0.0.1:0", Own: func() []netip.Addr { return nil }, Sample: addr,
				Networks:     []netip.Prefix{netip.MustParsePrefix("127.95.0.0/16")},
				Certificates: func() ([]*certs.Provisioning, []error) { return []*certs.Provisioning{p}, nil },
			}).Run(t.Context())
			want(t, checkOf(t, r, "device:"+addr.String()), c.status, []string{c.detail}, nil)
		})
	}
}

// greeter speaks first and no TLS, as an SSH server does.
func greeter(t *testing.T, addr netip.Addr) {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, sim.DefaultPort).String())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.6\r\n"))
			_ = c.Close()
		}
	}()
}
