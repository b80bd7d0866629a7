package provision

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// becomes gives the fleet another profile; each device keeps the one that it has
// until a run brings it there.
func (l *lab) becomes(e *Engine, p profile.Profile) {
	l.t.Helper()
	had := l.prof
	journal := e.Store.(*Journal)
	p.Version = had.Version + 1
	journal.Kept = func(_ context.Context, _ *store.Tx, d store.Device) (profile.Profile, bool, error) {
		if d.ProfileVersion == p.Version {
			return p, true, nil
		}
		return had, true, nil
	}
	l.prof = p
}

// listen counts who calls.
func listen(t *testing.T, at netip.AddrPort) (callers *atomic.Int32) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	callers = new(atomic.Int32)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			callers.Add(1)
			_ = c.Close()
		}
	}()
	return callers
}

// powerOn waits until a device that was off listens again.
func powerOn(t *testing.T, d *sim.Device, port int) {
	t.Helper()
	d.PowerCycle(true)
	at := netip.AddrPortFrom(d.Addr().Addr(), uint16(int(d.Addr().Port())+port)).String()
	for until := time.Now().Add(patience); ; _ = (realClock{}).Sleep(t.Context(), 10*time.Millisecond) {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

func unprotected() profile.Profile {
	p := profile.Default()
	p.TLS, p.Unprotected = profile.TLSNone, true
	return p
}

// TestTLSComesToDevicesWithout: a device that was set up without TLS is met as it
// last let us in, whatever its profile wants by now, is given TLS, and is met with
// TLS alone from then on.
func TestTLSComesToDevicesWithout(t *testing.T) {
	t.Parallel()
	for _, mode := range []profile.TLSMode{profile.TLSServer, profile.TLSMutual} {
		for _, engine := range []string{store.SQLite, store.Postgres} {
			t.Run(string(mode)+"/"+engine, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, engine)
				l.again = true
				l.prof = unprotected()
				d := l.managed("11")
				if dev, _ := l.look(d); dev.TLSVersion != "none" {
					t.Errorf("it let us in without TLS, and the row says %q", dev.TLSVersion)
				}
				if dev := l.do(d, KindMaintain, ""); dev.Reason != "" || d.Snapshot().TLSEnabled {
					t.Fatalf("as it is: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				p := profile.Default()
				p.TLS = mode
				l.becomes(l.engine, p)
				for _, o := range []struct{ kind, task string }{{KindRotate, ""}, {KindProbe, ""},
					{KindMaintain, TaskCheck + "," + TaskKept}} {
					if dev := l.do(d, o.kind, o.task); dev.Reason != "" || d.Snapshot().TLSEnabled {
						t.Fatalf("%s %s: %s: %s: %s\n%s", o.kind, o.task, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
					}
				}
				dev := l.do(d, KindMaintain, "")
				if s := d.Snapshot(); dev.Reason != "" || !s.TLSEnabled || s.TLSMutual != (mode == profile.TLSMutual) {
					t.Fatalf("%s: %s: %s; TLS %t\n%s", dev.Lifecycle, dev.Reason, dev.Detail, s.TLSEnabled, l.journal(d))
				}
				if !strings.HasPrefix(dev.TLSVersion, "TLS ") || len(dev.PeerFingerprint) == 0 || dev.ProfileVersion != l.prof.Version {
					t.Errorf("the row says TLS %q, fingerprint %x, profile version %d", dev.TLSVersion, dev.PeerFingerprint,
						dev.ProfileVersion)
				}
				l.invariants(d, dev)
				// Whoever takes the port without TLS by now hears nothing, also when a profile
				// comes that wants none.
				l.becomes(l.engine, unprotected())
				at := d.Addr()
				if err := d.Lease(netip.Addr{}); err != nil {
					t.Fatal(err)
				}
				callers := listen(t, netip.AddrPortFrom(at.Addr(), at.Port()-1))
				if dev := l.do(d, KindMaintain, TaskClock); dev.Reason != reason.DeviceUnreachable {
					t.Errorf("%s: %s", dev.Reason, dev.Detail)
				}
				if n := callers.Load(); n != 0 {
					t.Errorf("called %d times without TLS", n)
				}
			})
		}
	}
}

// TestTLSThatCameUnnoticed: the attempt that gave a device TLS ends between the
// commit and its proof; the next one finds it.
func TestTLSThatCameUnnoticed(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.again = true
		l.prof = unprotected()
		d := l.managed("11", func(c *sim.Config) {
			c.Faults = sim.With(sim.Fault{Kind: sim.PowerCycle, Call: "CommitChanges", Nth: 2, Arg: "off"})
		})
		l.becomes(l.engine, profile.Default())
		l.engine.VerifyFor, l.engine.Tries = 200*time.Millisecond, 1
		if dev := l.do(d, KindMaintain, ""); dev.Reason != reason.CommitUnverified {
			t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
		powerOn(t, d, 0)
		if !d.Snapshot().TLSEnabled {
			t.Fatal("it has no TLS, so this shows nothing")
		}
		l.engine.VerifyFor = 4 * time.Second
		if dev := l.do(d, KindMaintain, ""); dev.Reason != "" || !strings.HasPrefix(dev.TLSVersion, "TLS ") {
			t.Errorf("%s: %s: %s (%s)\n%s", dev.Lifecycle, dev.Reason, dev.Detail, dev.TLSVersion, l.journal(d))
		}
	})
}

// TestCommittedWithoutTLS: a set-up without TLS that ends between the commit and the
// first login is found by the next attempt.
func TestCommittedWithoutTLS(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.prof = unprotected()
		d := l.device("11", sim.With(sim.Fault{Kind: sim.PowerCycle, Call: "CommitChanges", Arg: "off"}))
		l.engine.VerifyFor = 200 * time.Millisecond
		first := l.hello(d)
		if _, err := l.engine.Work(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if dev, _ := l.look(d); dev.Reason != reason.CommitUnverified {
			t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
		powerOn(t, d, -1)
		dev := l.settle(l.engine, d)
		if dev.Lifecycle != store.Provisioned || dev.TLSVersion != "none" {
			t.Fatalf("%s: %s: %s (%s)\n%s", dev.Lifecycle, dev.Reason, dev.Detail, dev.TLSVersion, l.journal(d))
		}
		l.invariants(d, dev)
	})
}
