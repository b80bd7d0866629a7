package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// zone is a real dnsmasq on an address of its own.
type zone struct {
	t    *testing.T
	at   netip.AddrPort
	proc *exec.Cmd
}

const dnsmasq = "/usr/sbin/dnsmasq" // deploy/test/needs.sh installs it

// serve has the zone hold these records and no others.
func (z *zone) serve(records ...string) {
	z.t.Helper()
	z.stop()
	args := []string{"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=", "--bind-interfaces",
		"--log-facility=-", "--user=root",
		"--listen-address=" + z.at.Addr().String(), fmt.Sprint("--port=", z.at.Port()), "--local=/corp.example.com/",
		"--local=/in-addr.arpa/"}
	proc := exec.Command(dnsmasq, append(args, records...)...)
	if err := proc.Start(); err != nil {
		z.t.Fatalf("this test needs dnsmasq: apt-get install dnsmasq-base: %v", err)
	}
	z.proc = proc
	ok := waitFor(z.t, func() bool {
		_, err := z.resolver().LookupNetIP(context.Background(), "ip", "nobody.corp.example.com.")
		var dns *net.DNSError
		return errors.As(err, &dns) && dns.IsNotFound
	})
	if !ok {
		z.t.Fatal("dnsmasq does not answer")
	}
}

func (z *zone) stop() {
	if z.proc != nil {
		_ = z.proc.Process.Kill()
		_ = z.proc.Wait()
		z.proc = nil
	}
}

func (z *zone) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, z.at.String())
	}}
}

func newZone(t *testing.T) *zone {
	t.Helper()
	at := address()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{t: t, at: c.LocalAddr().(*net.UDPAddr).AddrPort()}
	_ = c.Close()
	t.Cleanup(z.stop)
	return z
}

func host(name string, a netip.Addr) string { return "--host-record=" + name + "," + a.String() }

// TestANewLeaseIsFollowed: a managed device that got another address is found by
// its name in DNS, by its agent's word, or by a person's, and is called there from
// then on. Whoever else has the name, or the address, is told nothing.
func TestANewLeaseIsFollowed(t *testing.T) {
	t.Parallel()
	z := newZone(t)
	z.serve()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			l := newLab(t, engine, func(o *Options) { o.Lookup.ReverseDNS = z.resolver() })
			d, other := l.managed(), l.managed()
			name := l.untilState(d.UUID(), store.Provisioned).FQDN
			check := func() store.Device {
				t.Helper()
				l.meets(d)
				return l.until(d.UUID(), "the address that worked", func(dev store.Device) bool { return dev.Address == d.Addr().Addr() })
			}
			move := func() (to netip.Addr) {
				t.Helper()
				if err := d.Lease(address()); err != nil {
					t.Fatal(err)
				}
				return d.Addr().Addr()
			}
			z.serve(host(name, move()))
			if dev := check(); dev.AddressBy != store.ByDNS || dev.GoodAddress != dev.Address {
				t.Errorf("DNS led there, and it is said to be by %q, good %s", dev.AddressBy, dev.GoodAddress)
			}
			// The name leads to another machine of ours, and to an address with another name: neither is it.
			before := other.Snapshot()
			z.serve(host(name, other.Addr().Addr()), "--address=/x.corp.example.com/"+address().String())
			if dev := check(); dev.AddressBy == store.ByHello {
				t.Errorf("by %q", dev.AddressBy)
			}
			if s := other.Snapshot(); s.Requests != before.Requests {
				t.Errorf("another machine heard %d requests", s.Requests-before.Requests)
			}
			// Its agent says where it is.
			z.serve()
			h := helloOf(d, nil, time.Now())
			h.Message.Version, h.Via, h.Peer, h.PeerNames, h.Address = 0, hello.ViaAgent, name, []string{name}, move()
			if got, err := l.s.Admit.HandleHello(t.Context(), h); err != nil || got != hello.Updated {
				t.Fatalf("%s %v", got, err)
			}
			if dev := check(); dev.AddressBy != store.ByAgent || dev.AgentAddress.IsValid() {
				t.Errorf("by %q, its agent's word is kept: %s", dev.AddressBy, dev.AgentAddress)
			}
			// A person does.
			to := move()
			if res, err := l.api.AddressDevice(t.Context(), d.UUID().String(),
				api.NewAddress{Address: to.String(), Note: "moved"}); err != nil || res.Device.Address != to.String() {
				t.Fatalf("%+v %v", res, err)
			}
			check()
			l.keeps(d)
		})
	}
}

// TestWhereADeviceWasLookedFor: of one that is nowhere it is said where it was
// looked for, and what each place answered.
func TestWhereADeviceWasLookedFor(t *testing.T) {
	t.Parallel()
	z := newZone(t)
	z.serve()
	l := newLab(t, store.SQLite, func(o *Options) { o.Lookup.ReverseDNS = z.resolver() })
	d, other := l.managed(), l.managed()
	home := l.untilState(d.UUID(), store.Provisioned)
	stolen, far := address(), netip.MustParseAddr("192.0.2.9")
	z.serve("--host-record="+home.FQDN+","+other.Addr().Addr().String(), "--address=/"+home.FQDN+"/"+other.Addr().Addr().String(),
		"--host-record="+home.FQDN+","+far.String(), "--host-record="+home.FQDN+","+stolen.String(),
		"--ptr-record="+reversed(stolen)+",somebody.else.example.com")
	if err := d.Lease(netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.api.Maintain(t.Context(), d.UUID().String(), api.MaintainBody{Task: "check"}); err != nil {
		t.Fatal(err)
	}
	l.until(d.UUID(), "its attempt to fail", func(d store.Device) bool { return d.Health == "unreachable" })
	why, err := l.api.Why(t.Context(), d.UUID().String())
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(why.Tried, "\n")
	for _, want := range []string{
		other.Addr().Addr().String() + " (its name in DNS): another machine",
		far.String() + ", which provisioning.networks does not name",
		stolen.String() + ", whose own name is somebody.else.example.com",
		home.Address.String() + " (its last good address): ",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("why does not say %q:\n%s", want, said)
		}
	}
}

func reversed(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", b[3], b[2], b[1], b[0])
}

// TestAStormOfStrays: strangers say hello in the name of every device of a fleet,
// again and again. No device leaves management, and each can be maintained.
func TestAStormOfStrays(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Workers = 16 }, func(t *testing.T, l *lab) { l.storm(12, 300) })
}

func (l *lab) storm(devices, strays int) {
	t := l.t
	t.Helper()
	var fleet []*sim.Device
	for range devices {
		d := l.device(sim.Faults{})
		l.says(d)
		fleet = append(fleet, d)
	}
	for _, d := range fleet {
		l.untilState(d.UUID(), store.Provisioned)
	}
	lists := [][]amt.TrustHash{l.roots(), amt.HashesOf([]byte("another board")), nil}
	from := make([]netip.Addr, 16)
	for i := range from {
		from[i] = address()
	}
	began := time.Now()
	for i := range strays {
		h := helloFrom(fleet[i%devices].UUID(), from[i%len(from)], lists[i%len(lists)], began.Add(time.Duration(i)*time.Millisecond))
		if _, err := l.s.Admit.HandleHello(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range fleet {
		l.stays(d)
	}
	probes := 0
	l.read(func(ctx context.Context, tx *store.Tx) error {
		for _, d := range fleet {
			runs, err := tx.Runs(ctx, d.UUID(), 100)
			if err != nil {
				return err
			}
			for _, r := range runs {
				if r.Kind == store.ProbeRun {
					probes++
				}
			}
		}
		return nil
	})
	if probes == 0 || probes > strays {
		t.Errorf("%d calls for %d strays", probes, strays)
	}
	for _, d := range fleet {
		l.meets(d)
		l.keeps(d)
	}
}
