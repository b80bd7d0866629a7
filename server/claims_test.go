package server

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// managed sets a device up.
func (l *lab) managed(change ...func(*sim.Config)) *sim.Device {
	l.t.Helper()
	d := l.device(sim.Faults{}, change...)
	l.says(d)
	if l.o.Admission == admit.Approve {
		l.untilState(d.UUID(), store.PendingApproval)
		if _, err := l.api.Act(l.t.Context(), "approve", d.UUID().String(), ""); err != nil {
			l.t.Fatal(err)
		}
	}
	l.untilState(d.UUID(), store.Provisioned)
	return d
}

// judged waits until nobody's claim of a device is open any more.
func (l *lab) judged(u amt.UUID) store.Device {
	l.t.Helper()
	return l.until(u, "its claim to be judged", func(d store.Device) bool {
		live := false
		l.read(func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.LiveRun(ctx, u)
			live = err == nil
			return nil
		})
		return d.ClaimDue.IsZero() && !live
	})
}

// stays fails unless a device is under management where it was.
func (l *lab) stays(d *sim.Device) {
	l.t.Helper()
	dev := l.judged(d.UUID())
	if dev.Lifecycle != store.Provisioned || dev.Address != d.Addr().Addr() || dev.Reason != "" {
		l.t.Errorf("it is %s %s at %s, want provisioned at %s\n%s", dev.Lifecycle, dev.Reason, dev.Address, d.Addr().Addr(),
			l.story(d.UUID()))
	}
}

// meets fails unless a device can be maintained.
func (l *lab) meets(d *sim.Device) {
	l.t.Helper()
	was := l.untilState(d.UUID(), store.Provisioned).LastContact
	if _, err := l.api.Maintain(l.t.Context(), d.UUID().String(), api.MaintainBody{Task: "check"}); err != nil {
		l.t.Fatalf("maintain: %v\n%s", err, l.story(d.UUID()))
	}
	l.until(d.UUID(), "another contact", func(d store.Device) bool { return d.Lifecycle == store.Provisioned && d.LastContact.After(was) })
}

// TestAStrangersHelloMovesNothing: one hello with a managed device's UUID from
// elsewhere, whatever it says, leaves the device under management and where it is.
func TestAStrangersHelloMovesNothing(t *testing.T) {
	t.Parallel()
	for _, p := range []admit.Reprovision{admit.ReprovisionApprove, admit.ReprovisionAuto, admit.ReprovisionDeny} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(o *Options) { o.Reprovision = p }, func(t *testing.T, l *lab) {
				d := l.managed()
				secrets, roots := l.passwords(d.UUID()), l.untilState(d.UUID(), store.Provisioned).TrustTable
				for i, list := range [][]amt.TrustHash{l.roots(), amt.HashesOf([]byte("another board")), nil} {
					l.hello(address(), d.UUID(), uint32(i), list)
					l.heard(d.UUID(), i+2)
					l.stays(d)
				}
				dev := l.untilState(d.UUID(), store.Provisioned)
				if dev.TrustTable != roots || l.passwords(d.UUID()) != secrets {
					t.Errorf("roots %d, were %d; %d passwords, were %d", dev.TrustTable, roots, l.passwords(d.UUID()), secrets)
				}
				said := 0
				for _, e := range l.events(d.UUID()) {
					if e == "stray_hello" {
						said++
					}
				}
				if said != 1 {
					t.Errorf("the timeline has %d strays:\n%s", said, l.story(d.UUID()))
				}
				strays := func() float64 { return l.metric("provisiond_stray_hellos_total", "outcome", "answered") }
				if n := strays(); n < 1 && !waitFor(t, func() bool { return strays() >= 1 }) { // counted after the commit
					t.Errorf("%v strays counted", n)
				}
				l.meets(d)
				l.keeps(d)
			})
		})
	}
}

// TestAManagedDeviceThatLostItsSetupElsewhere: what answered nowhere as the
// device is believed to be it, at the address of its hello, as the policy says.
func TestAManagedDeviceThatLostItsSetupElsewhere(t *testing.T) {
	t.Parallel()
	for _, p := range []admit.Reprovision{admit.ReprovisionApprove, admit.ReprovisionAuto, admit.ReprovisionDeny} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(o *Options) { o.Reprovision = p }, func(t *testing.T, l *lab) {
				d := l.managed()
				at := address()
				l.hello(at, d.UUID(), 0, l.roots()) // a stranger, before
				l.heard(d.UUID(), 2)
				l.stays(d)
				first := l.untilState(d.UUID(), store.Provisioned)
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
				again := l.device(sim.Faults{}, func(c *sim.Config) { c.UUID = d.UUID() }) // its board was reset, and it got another lease
				l.says(again)
				switch p {
				case admit.ReprovisionDeny:
					dev := l.until(d.UUID(), "the reason", func(d store.Device) bool { return d.Reason == reason.ReappearedUnprovisioned })
					if dev.Lifecycle != store.Provisioned || dev.Address != first.Address {
						t.Errorf("%s at %s", dev.Lifecycle, dev.Address)
					}
					return
				case admit.ReprovisionApprove:
					dev := l.untilState(d.UUID(), store.PendingApproval)
					if dev.Reason != reason.ReappearedUnprovisioned || dev.Address != again.Addr().Addr() || dev.Approved {
						t.Errorf("%s at %s, approved: %t", dev.Reason, dev.Address, dev.Approved)
					}
					if _, err := l.api.Act(t.Context(), "approve", d.UUID().String(), ""); err != nil {
						t.Fatal(err)
					}
				}
				l.until(d.UUID(), "a second setup", func(d store.Device) bool {
					return d.Lifecycle == store.Provisioned && d.ProvisionedAt.After(first.ProvisionedAt) &&
						d.Address == again.Addr().Addr()
				})
				l.keeps(again)
			})
		})
	}
}

// TestADeviceThatWasOnlyOff is taken for lost when somebody says hello in its
// name, and found again when it is back.
func TestADeviceThatWasOnlyOff(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		d := l.managed()
		home, stranger := d.Addr().Addr(), address()
		if err := d.Lease(netip.Addr{}); err != nil {
			t.Fatal(err)
		}
		l.hello(stranger, d.UUID(), 0, l.roots())
		dev := l.untilState(d.UUID(), store.PendingApproval)
		if dev.Address != stranger || dev.GoodAddress != home || dev.ClaimDue.IsZero() {
			t.Errorf("at %s, last well met at %s, looked for again at %s", dev.Address, dev.GoodAddress, dev.ClaimDue)
		}
		if err := d.Lease(home); err != nil {
			t.Fatal(err)
		}
		l.write(func(ctx context.Context, tx *store.Tx) error {
			now := tx.Now()
			return tx.UpdateDevice(ctx, d.UUID(), store.DeviceFacts{ClaimDue: &now}) // the hour is over
		})
		l.untilState(d.UUID(), store.Provisioned)
		l.stays(d)
		l.meets(d)
	})
}

// TestAStrangerFromOutside proves nothing and moves nothing: not of a device that
// waits, nor of one that is on the list, nor of one that is set up just now.
func TestAStrangerFromOutside(t *testing.T) {
	t.Parallel()
	for _, mode := range []admit.Mode{admit.Approve, admit.AllowList} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(o *Options) { o.Admission = mode }, func(t *testing.T, l *lab) {
				d := l.device(sim.Faults{})
				from := netip.MustParseAddr("192.0.2.66")
				at := time.Now()
				say := func(hashes []amt.TrustHash) {
					t.Helper()
					at = at.Add(time.Millisecond)
					if got, err := l.s.Admit.HandleHello(t.Context(), helloFrom(d.UUID(), from, hashes, at)); err != nil ||
						got != hello.DeniedNetwork {
						t.Fatalf("%s %v", got, err)
					}
				}
				say(amt.HashesOf([]byte("another board"))) // before the device has spoken
				l.says(d)
				dev := l.untilState(d.UUID(), store.PendingApproval)
				for range 3 {
					say(amt.HashesOf([]byte("another board")))
					l.says(d)
				}
				now := l.heard(d.UUID(), 8)
				if now.Lifecycle != store.PendingApproval || now.Address != d.Addr().Addr() || now.TrustTable != dev.TrustTable {
					t.Fatalf("%s %s at %s\n%s", now.Lifecycle, now.Reason, now.Address, l.story(d.UUID()))
				}
				if mode == admit.AllowList {
					l.write(func(ctx context.Context, tx *store.Tx) error {
						_, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "uuid", Value: d.UUID().String(), CreatedBy: "test"})
						return err
					})
					if _, err := l.s.Admit.Reconsider(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else if _, err := l.api.Act(t.Context(), "approve", d.UUID().String(), ""); err != nil {
					t.Fatal(err)
				}
				say(nil)
				l.untilState(d.UUID(), store.Provisioned)
				say(amt.HashesOf([]byte("another board")))
				l.stays(d)
				l.keeps(d)
			})
		})
	}
}

// TestHellosFromElsewhereDuringARun: the run goes on with the device it is at.
func TestHellosFromElsewhereDuringARun(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{}, slow)
		l.says(d)
		l.midRun(d)
		for i, list := range [][]amt.TrustHash{nil, amt.HashesOf([]byte("another board")), l.roots(),
			amt.HashesOf([]byte("a third board"))} {
			l.hello(address(), d.UUID(), uint32(i), list)
		}
		dev := l.heard(d.UUID(), 5)
		if dev.Address != d.Addr().Addr() {
			t.Errorf("its address is %s now", dev.Address)
		}
		l.untilState(d.UUID(), store.Provisioned)
		l.stays(d)
		if s := d.Snapshot(); s.Commits != 1 {
			t.Errorf("%d commits", s.Commits)
		}
		l.keeps(d)
	})
}

// TestAnApprovalIsOfOneAddress: who says hello in an approved device's name from
// elsewhere is not approved, and keeps nobody out.
func TestAnApprovalIsOfOneAddress(t *testing.T) {
	t.Parallel()
	forEachEngine(t, approveMode, func(t *testing.T, l *lab) {
		u, mine, other := newUUID(), address(), address()
		nobody := amt.HashesOf([]byte("a root that no certificate here ends in"))
		l.hello(mine, u, 0, nobody)
		l.untilState(u, store.PendingApproval)
		if _, err := l.api.Act(t.Context(), "approve", u.String(), ""); err != nil {
			t.Fatal(err)
		}
		waits := l.until(u, "a certificate to be missing", func(d store.Device) bool { return d.Reason == reason.RootNotTrusted })
		l.hello(other, u, 0, l.roots()) // for this one there is a certificate
		dev := l.heard(u, 2)
		if dev.Lifecycle != waits.Lifecycle || dev.Address != mine || dev.TrustTable != waits.TrustTable || dev.HeardFrom != other {
			t.Errorf("%s %s at %s, heard from %s\n%s", dev.Lifecycle, dev.Reason, dev.Address, dev.HeardFrom, l.story(u))
		}
		if n := l.passwords(u); n != 1 {
			t.Errorf("%d passwords", n)
		}
		if !slices.Contains(l.events(u), "stray_hello") {
			t.Errorf("nothing in the timeline:\n%s", l.story(u))
		}
	})
}
