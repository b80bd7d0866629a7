package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/amt/sim/simtest"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

// lab is the daemon as it is shipped, on ports of its own, and simulated
// devices on addresses of their own.
type lab struct {
	t     *testing.T
	s     *Server
	o     Options
	certs *certs.Provisioning
	api   *api.Client
}

// forEachEngine runs a claim on SQLite and on Postgres.
func forEachEngine(t *testing.T, change func(*Options), f func(t *testing.T, l *lab)) {
	t.Helper()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			f(t, newLab(t, engine, change))
		})
	}
}

func newLab(t *testing.T, engine string, change func(*Options)) *lab {
	t.Helper()
	master := make([]byte, 32)
	_, _ = rand.Read(master)
	keys, err := seal.New(master)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certtest.NewLab(time.Now()).Plain("Test Root", "prov.corp.example.com")
	p, err := certs.LoadPFX(t.Context(), leaf.PFX(certtest.Modern, "secret"), amt.NewSecret("secret"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Version: "test", Node: "n1", DataDir: t.TempDir(), Keys: keys, HelloListen: "127.0.0.1:0", APIListen: "127.0.0.1:0",
		Certificates: []*certs.Provisioning{p}, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Admission: admit.Open, Workers: 8, CallTimeout: 30 * time.Second, AttemptTimeout: 10 * time.Minute, Lease: time.Minute,
		ClaimPause: time.Millisecond, Quiet: 20 * time.Millisecond, Retry: []time.Duration{50 * time.Millisecond}, Drain: 30 * time.Second,
		RevealsHour: 30,
		Registry:    prometheus.NewRegistry(), Log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)),
	}
	if engine == store.Postgres {
		o.DatabaseURL = storetest.URL(t)
	} else {
		storetest.File(t, o.DataDir)
	}
	if change != nil {
		change(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.HoldRoads(t, s.DB)
	token, err := os.ReadFile(s.TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	return &lab{t: t, s: s, o: o, certs: p, api: &api.Client{Base: "http://" + s.APIAddr().String(),
		Token: strings.TrimSpace(string(token))}}
}

func (l *lab) roots() []amt.TrustHash { return l.certs.Paths[0].RootHashes }

// address is one that no other test of this machine uses.
func address() netip.Addr { return simtest.Addr() }

// device starts a simulated device that says nothing by itself.
func (l *lab) device(faults sim.Faults, change ...func(*sim.Config)) *sim.Device {
	l.t.Helper()
	cfg := sim.Config{UUID: newUUID(), Personality: "11", Addr: address(), Suffix: "corp.example.com", Roots: l.roots(), Faults: faults,
		Restart: 20 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	d, err := sim.New(cfg)
	if err == nil {
		err = d.Start()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = d.Close() })
	return d
}

// again is the same machine as it left the factory.
func (l *lab) again(d *sim.Device) *sim.Device {
	l.t.Helper()
	if err := d.Close(); err != nil {
		l.t.Fatal(err)
	}
	return l.device(sim.Faults{}, func(c *sim.Config) { c.UUID, c.Addr = d.UUID(), d.Addr().Addr() })
}

func newUUID() (u amt.UUID) {
	_, _ = rand.Read(u[:])
	return u
}

// says sends a device's hello.
func (l *lab) says(d *sim.Device) {
	l.t.Helper()
	if err := d.SayHello(l.t.Context(), l.s.HelloAddr().String()); err != nil {
		l.t.Fatal(err)
	}
}

// hello sends any hello from any address of this machine.
func (l *lab) hello(from netip.Addr, u amt.UUID, retry uint32, roots []amt.TrustHash) {
	l.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: patience}
	c, err := d.DialContext(l.t.Context(), "tcp", l.s.HelloAddr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	m := hello.Message{AdminCredentialsSet: true, Version: hello.VersionPKI, RetryCount: retry, UUID: u, Hashes: roots}
	if _, err := c.Write(m.Encode()); err != nil {
		l.t.Fatal(err)
	}
}

// until waits for a device to be as wanted.
func (l *lab) until(u amt.UUID, what string, ok func(store.Device) bool) store.Device {
	l.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var d store.Device
		err := l.s.DB.Read(context.WithoutCancel(l.t.Context()), func(tx *store.Tx) (err error) {
			d, err = tx.Device(context.Background(), u)
			return err
		})
		if err == nil && ok(d) {
			return d
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: waited for %s, and it is %s %s (%s) with %d hellos: %v\n%s", u, what, d.Lifecycle, d.Reason, d.Detail,
				d.HelloCount, err, l.story(u))
		}
		<-tick.C
	}
}

func (l *lab) untilState(u amt.UUID, want store.Lifecycle) store.Device {
	l.t.Helper()
	return l.until(u, string(want), func(d store.Device) bool { return d.Lifecycle == want })
}

// heard waits for so many hellos of a device to be durable.
func (l *lab) heard(u amt.UUID, n int) store.Device {
	l.t.Helper()
	return l.until(u, fmt.Sprintf("%d hellos", n), func(d store.Device) bool { return d.HelloCount >= n })
}

// read runs fn on what is committed.
func (l *lab) read(fn func(ctx context.Context, tx *store.Tx) error) {
	l.t.Helper()
	if err := l.s.DB.Read(l.t.Context(), func(tx *store.Tx) error { return fn(l.t.Context(), tx) }); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) write(fn func(ctx context.Context, tx *store.Tx) error) {
	l.t.Helper()
	if err := l.s.DB.Write(l.t.Context(), func(tx *store.Tx) error { return fn(l.t.Context(), tx) }); err != nil {
		l.t.Fatal(err)
	}
}

// events lists the names of a device's events, oldest first.
func (l *lab) events(u amt.UUID) (names []string) {
	l.t.Helper()
	l.read(func(ctx context.Context, tx *store.Tx) error {
		list, err := tx.Events(ctx, store.EventFilter{UUID: u, Limit: 1000})
		names = names[:0]
		for _, e := range list {
			names = append(names, e.Name)
		}
		return err
	})
	return names
}

func (l *lab) story(u amt.UUID) string {
	out := ""
	_ = l.s.DB.Read(context.Background(), func(tx *store.Tx) error {
		list, err := tx.Events(context.Background(), store.EventFilter{UUID: u, Limit: 1000})
		for _, e := range list {
			out += fmt.Sprintf("  %s %s %s %s\n", e.At.Format("15:04:05.000"), e.Name, e.Reason, e.Detail)
		}
		return err
	})
	return out
}

// passwords counts the generations of admin passwords of a device.
func (l *lab) passwords(u amt.UUID) (n int) {
	l.t.Helper()
	l.read(func(ctx context.Context, tx *store.Tx) error {
		list, err := tx.Credentials(ctx, u, store.KindAdmin)
		n = len(list)
		return err
	})
	return n
}

// keeps holds that no password the device may hold is unknown here.
func (l *lab) keeps(d *sim.Device) {
	l.t.Helper()
	l.read(func(ctx context.Context, tx *store.Tx) error {
		for _, k := range []struct {
			kind    string
			accepts func(string) bool
		}{
			{store.KindAdmin, func(p string) bool { return d.AcceptsAdmin("admin", p) }},
			{store.KindMEBx, d.AcceptsMEBx},
		} {
			if k.accepts("admin") {
				continue // the factory's
			}
			list, err := tx.Credentials(ctx, d.UUID(), k.kind)
			if err != nil {
				return err
			}
			found := false
			for _, c := range list {
				found = found || k.accepts(c.Password.Reveal())
			}
			if !found {
				l.t.Errorf("the device holds a %s password that the store does not", k.kind)
			}
		}
		return nil
	})
}

// metric reads one series.
func (l *lab) metric(name string, labels ...string) float64 {
	l.t.Helper()
	families, err := l.o.Registry.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			found := 0
			for _, p := range m.GetLabel() {
				for i := 0; i+1 < len(labels); i += 2 {
					if p.GetName() == labels[i] && p.GetValue() == labels[i+1] {
						found++
					}
				}
			}
			if 2*found != len(labels) {
				continue
			}
			if m.GetCounter() != nil {
				return m.GetCounter().GetValue()
			}
			return m.GetGauge().GetValue()
		}
	}
	l.t.Fatalf("no series %s %v", name, labels)
	return 0
}
