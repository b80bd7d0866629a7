package provision

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// dns leads every name to one address, once there is one.
type dns struct{ to atomic.Pointer[netip.Addr] }

func (z *dns) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a := z.to.Load(); a != nil {
		return []netip.Addr{*a}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (z *dns) LookupAddr(_ context.Context, addr string) ([]string, error) {
	return nil, &net.DNSError{Err: "no such name", Name: addr, IsNotFound: true}
}

// thenMoves has the device of a set-up get another lease as it restarts after its
// commit.
type thenMoves struct {
	Device
	move func()
}

func (m thenMoves) Commit(ctx context.Context) error {
	err := m.Device.Commit(ctx)
	m.move()
	return err
}

// said is the newest event of a name.
func (l *lab) said(d *sim.Device, name string) (e store.Event) {
	l.t.Helper()
	if err := l.db.Read(context.WithoutCancel(l.t.Context()), func(tx *store.Tx) error {
		list, err := tx.Events(context.Background(), store.EventFilter{UUID: d.UUID(), Name: name, Newest: true, Limit: 1})
		if len(list) > 0 {
			e = list[0]
		}
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return e
}

// TestANewLeaseAtTheCommit: a device that comes back from its commit at another
// address is looked for by its name and by its agent's word, and its key decides. Who
// has its address by then is told nothing.
func TestANewLeaseAtTheCommit(t *testing.T) {
	t.Parallel()
	for _, by := range []store.AddressBy{store.ByDNS, store.ByAgent} {
		t.Run(string(by), func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(t *testing.T, l *lab) {
				z := &dns{}
				l.engine.Names, l.engine.VerifyFor = z, 300*time.Millisecond
				d := l.device("11", sim.Faults{})
				was, is := d.Addr().Addr(), address()
				var heir *sim.Device
				dial := l.engine.Dial
				l.engine.Dial = func(ctx context.Context, target session.Target) (Device, error) {
					s, err := dial(ctx, target)
					if err != nil {
						return nil, err
					}
					return thenMoves{s, func() {
						if err := d.Lease(is); err != nil {
							t.Error(err)
						}
						heir = l.device("11", sim.Faults{}, func(c *sim.Config) { c.Addr = was })
						if by == store.ByDNS {
							z.to.Store(&is)
						}
					}}, nil
				}
				first := l.hello(d)
				if _, err := l.engine.Work(t.Context(), first); err != nil {
					t.Fatal(err)
				}
				if dev, _ := l.look(d); dev.Reason != reason.CommitUnverified || heir == nil {
					t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				l.engine.VerifyFor = patience
				if by == store.ByAgent {
					l.meets(d, was, func(f *store.DeviceFacts) { f.AgentAddress = &is })
				}
				dev := l.settle(l.engine, d)
				if dev.Lifecycle != store.Provisioned || dev.Address != is || dev.GoodAddress != is || dev.AddressBy != by {
					t.Fatalf("%s at %s (%s): %s: %s\n%s", dev.Lifecycle, dev.Address, dev.AddressBy, dev.Reason, dev.Detail, l.journal(d))
				}
				l.invariants(d, dev)
				if s := heir.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen)+len(s.Changes) != 0 {
					t.Errorf("who has its address by now was told something: %v", s.Changes)
				}
			})
		})
	}
}

// TestTheBelievedDeviceIsAskedFirst: a stranger's hello was believed while the device
// was off. Each attempt at the stranger asks the device first, and as soon as it
// answers it is what it was.
func TestTheBelievedDeviceIsAskedFirst(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.managed("11")
		was, _ := l.look(d)
		active, _ := l.active(d)
		mebx := l.credentials(d, store.KindMEBx)[0]
		home := d.Addr().Addr()
		if err := d.Lease(netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		rogue := l.device("11", sim.With(sim.Refused("SetAdminAclEntryEx", 1)), func(c *sim.Config) { c.UUID = d.UUID() })
		first := l.hello(rogue)
		if _, err := l.engine.Work(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		dev, live := l.look(d)
		if live == 0 || rogue.Snapshot().Handshakes != 1 || dev.Address != rogue.Addr().Addr() {
			t.Fatalf("%s at %s, %d handshakes: %s: %s\n%s", dev.Lifecycle, dev.Address, rogue.Snapshot().Handshakes, dev.Reason, dev.Detail,
				l.journal(d))
		}
		if err := d.Lease(home); err != nil {
			t.Fatal(err)
		}
		dev = l.settle(l.engine, d)
		if dev.Lifecycle != store.Provisioned || dev.Address != home || !dev.ProvisionedAt.Equal(was.ProvisionedAt) ||
			!dev.PasswordChangedAt.Equal(was.PasswordChangedAt) {
			t.Fatalf("%s at %s, set up at %s: %s: %s\n%s", dev.Lifecycle, dev.Address, dev.ProvisionedAt, dev.Reason, dev.Detail,
				l.journal(d))
		}
		if n := rogue.Snapshot().Handshakes; n != 1 {
			t.Errorf("the stranger was called again: %d handshakes", n)
		}
		if e := l.said(d, "answered"); !strings.Contains(e.Detail, "never was without its setup") {
			t.Errorf("the timeline says %q", e.Detail)
		}
		if e := l.said(d, "address_changed"); e.Data["address"] != home.String() {
			t.Errorf("the timeline says of its address: %v", e.Data)
		}
		if now, takes := l.active(d); now.ID != active.ID || !takes {
			t.Errorf("active is password %d, taken %t; it was %d", now.ID, takes, active.ID)
		}
		l.invariants(d, dev)
		if i := slices.IndexFunc(l.credentials(d, store.KindMEBx),
			func(c store.Credential) bool { return c.State == store.CredentialActive }); l.credentials(d, store.KindMEBx)[i].ID != mebx.ID {
			t.Error("the MEBx password that the stranger was told is taken for the device's")
		}
	})
}

// TestASetUpProvedLate: a device that lost its setup was set up again, and nobody knew
// that it came through. The call that finds out says so, and takes over what belongs
// to that set-up.
func TestASetUpProvedLate(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.again = true
		d := l.managed("11", func(c *sim.Config) {
			c.Faults = sim.With(sim.Fault{Kind: sim.PowerCycle, Call: "CommitChanges", Nth: 2, Arg: "off"})
		})
		was, _ := l.look(d)
		if err := l.admin(d).Unprovision(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		powerOn(t, d, 0)
		l.engine.VerifyFor, l.engine.Attempts = 200*time.Millisecond, 1
		l.hello(d)
		dev := l.settle(l.engine, d)
		if dev.Lifecycle != store.Failed || dev.Reason != reason.CommitUnverified {
			t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
		powerOn(t, d, 0)
		dev = l.do(d, KindProbe, "")
		if dev.Lifecycle != store.Provisioned || !dev.ProvisionedAt.After(was.ProvisionedAt) {
			t.Fatalf("%s, set up at %s: %s: %s\n%s", dev.Lifecycle, dev.ProvisionedAt, dev.Reason, dev.Detail, l.journal(d))
		}
		if e := l.said(d, "answered"); !strings.Contains(e.Detail, "its last set-up") || strings.Contains(e.Detail, "never was") {
			t.Errorf("the timeline says %q", e.Detail)
		}
		l.invariants(d, dev)
	})
}

// TestTheMEBxPasswordThatStays: firmware that lets its MEBx password be set once keeps
// the one of its first set-up; that one, and not the one it refused, is believed in.
func TestTheMEBxPasswordThatStays(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.again = true
		d := l.managed("11", func(c *sim.Config) { c.Tune = func(p *sim.Personality) { p.MEBxPolicy = sim.MEBxDefaultOnly } })
		for range 2 {
			if dev := l.do(d, KindUnprovision, "partial"); dev.Lifecycle != store.Unprovisioned {
				t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			l.hello(d)
			dev := l.settle(l.engine, d)
			if dev.Lifecycle != store.Provisioned {
				t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			l.invariants(d, dev)
		}
	})
}
