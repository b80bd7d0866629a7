package server

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/store"
)

func approveMode(o *Options) { o.Admission = admit.Approve }

// TestAnAuthorisationLetsWaitingDevicesIn: also one that comes after the hello.
func TestAnAuthorisationLetsWaitingDevicesIn(t *testing.T) {
	t.Parallel()
	forEachEngine(t, approveMode, func(t *testing.T, l *lab) {
		d, stranger := l.device(sim.Faults{}), l.device(sim.Faults{})
		l.says(d)
		l.says(stranger)
		l.untilState(d.UUID(), store.PendingApproval)
		l.untilState(stranger.UUID(), store.PendingApproval)
		l.write(func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "network", Value: netip.PrefixFrom(d.Addr().Addr(), 32).String(),
				FQDN: "pc7.corp.example.com", CreatedBy: "test"})
			return err
		})
		if n, err := l.s.Admit.Reconsider(t.Context()); n != 1 || err != nil {
			t.Fatalf("%d runs started, %v", n, err)
		}
		dev := l.untilState(d.UUID(), store.Provisioned)
		if dev.FQDN != "pc7.corp.example.com" {
			t.Errorf("named %q", dev.FQDN)
		}
		if s := l.untilState(stranger.UUID(), store.PendingApproval); s.Reason != reason.NotAuthorized {
			t.Errorf("the stranger: %s", s.Reason)
		}
		l.keeps(d)
		if n, err := l.s.Admit.Reconsider(t.Context()); n != 0 || err != nil {
			t.Errorf("again: %d runs started, %v", n, err)
		}
	})
}

// TestTwoMachinesWithOneUUID: both are kept out before either is told a
// password, until a person has looked; a lease that changes is no twin.
func TestTwoMachinesWithOneUUID(t *testing.T) {
	t.Parallel()
	forEachEngine(t, approveMode, func(t *testing.T, l *lab) {
		u := newUUID()
		a, b := address(), address()
		l.hello(a, u, 0, amt.HashesOf([]byte("one board")))
		l.untilState(u, store.PendingApproval)
		l.hello(b, u, 0, amt.HashesOf([]byte("another board")))
		d := l.untilState(u, store.Quarantined)
		if d.Reason != reason.UUIDDuplicate {
			t.Errorf("reason %s: %s", d.Reason, d.Detail)
		}
		n := 0.0
		for late := time.Now().Add(patience); n != 1 && time.Now().Before(late); <-time.After(20 * time.Millisecond) {
			n = l.metric("provisiond_device_alarms_total", "alarm", "duplicate_uuid") // counted after the commit
		}
		if n != 1 {
			t.Errorf("%v alarms", n)
		}
		if _, err := l.api.Act(t.Context(), "approve", u.String(), ""); err == nil {
			t.Error("approved although two machines carry the UUID")
		}
		l.hello(a, u, 1, amt.HashesOf([]byte("one board")))
		l.heard(u, 3)
		if n := l.passwords(u); n != 0 {
			t.Errorf("%d passwords made", n)
		}
		if _, err := l.api.Act(t.Context(), "release", u.String(), "looked at it"); err != nil {
			t.Fatal(err)
		}
		l.hello(a, u, 2, amt.HashesOf([]byte("one board")))
		l.untilState(u, store.PendingApproval)
		// The other one is still there, so it does not stay released.
		l.hello(b, u, 2, amt.HashesOf([]byte("another board")))
		l.untilState(u, store.Quarantined)
	})
}

// TestANewLeaseIsNoTwin takes a device through four addresses.
func TestANewLeaseIsNoTwin(t *testing.T) {
	t.Parallel()
	forEachEngine(t, approveMode, func(t *testing.T, l *lab) {
		u := newUUID()
		for i := range 4 {
			l.hello(address(), u, uint32(i), l.roots())
			if d := l.heard(u, i+1); d.Lifecycle == store.Quarantined {
				t.Fatalf("quarantined after %d addresses: %s", i+1, d.Detail)
			}
		}
	})
}

// TestARetiredDeviceRaisesAnAlarm and stays retired, however often it calls.
func TestARetiredDeviceRaisesAnAlarm(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{})
		l.says(d)
		l.untilState(d.UUID(), store.Provisioned)
		if _, err := l.api.Act(t.Context(), "retire", d.UUID().String(), "sold"); err != nil {
			t.Fatal(err)
		}
		before := l.passwords(d.UUID())
		for range 5 {
			l.says(d)
		}
		dev := l.heard(d.UUID(), 6)
		if dev.Lifecycle != store.Retired || dev.Reason != reason.Blocklisted {
			t.Errorf("%s %s", dev.Lifecycle, dev.Reason)
		}
		alarms := func() float64 { return l.metric("provisiond_device_alarms_total", "alarm", "retired_hello") }
		if !waitFor(t, func() bool { return alarms() >= 5 }) || alarms() != 5 { // counted after the commit
			t.Errorf("%v alarms", alarms())
		}
		said := 0
		for _, e := range l.events(d.UUID()) {
			if e == "retired_device_hello" {
				said++
			}
		}
		if said != 1 {
			t.Errorf("the timeline says it %d times", said)
		}
		if n := l.passwords(d.UUID()); n != before {
			t.Errorf("%d passwords, there were %d", n, before)
		}
	})
}

// TestReplayedHellosOfAManagedDevice: ten thousand of them make no secret, no
// run and one line in the timeline, under each policy that asks.
func TestReplayedHellosOfAManagedDevice(t *testing.T) {
	t.Parallel()
	for _, p := range []admit.Reprovision{admit.ReprovisionApprove, admit.ReprovisionDeny} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(o *Options) { o.Reprovision = p; o.Admission = admit.Approve }, func(t *testing.T, l *lab) {
				d := l.device(sim.Faults{})
				l.says(d)
				l.untilState(d.UUID(), store.PendingApproval)
				if _, err := l.api.Act(t.Context(), "approve", d.UUID().String(), ""); err != nil {
					t.Fatal(err)
				}
				dev := l.untilState(d.UUID(), store.Provisioned)
				secrets := l.passwords(d.UUID())
				many := 10000
				if testing.Short() || raceEnabled {
					many = 300 // the rest is for a run that is not watched for races
				}
				h := helloOf(d, l.roots(), dev.ProvisionedAt.Add(2*time.Second))
				for range many {
					if _, err := l.s.Admit.HandleHello(t.Context(), h); err != nil {
						t.Fatal(err)
					}
				}
				dev = l.heard(d.UUID(), many+1)
				if n := l.passwords(d.UUID()); n != secrets {
					t.Errorf("%d passwords, there were %d", n, secrets)
				}
				want := store.PendingApproval
				if p == admit.ReprovisionDeny {
					want = store.Provisioned
				}
				if dev.Lifecycle != want || dev.Reason != reason.ReappearedUnprovisioned {
					t.Errorf("%s %s", dev.Lifecycle, dev.Reason)
				}
				events := l.events(d.UUID())
				// Once, and once more each time that maintenance has met the device
				// meanwhile and found it as it should be.
				n, most := 0, 1
				for _, e := range events {
					switch e {
					case "reappeared_unprovisioned":
						n++
					case "maintained":
						most++
					}
				}
				if n < 1 || n > most {
					t.Errorf("the timeline says it %d times: %v", n, events)
				}
			})
		})
	}
}

// TestAStragglerIsNoReappearance: a hello sent before the commit and read after.
func TestAStragglerIsNoReappearance(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Reprovision = admit.ReprovisionAuto }, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{})
		l.says(d)
		dev := l.untilState(d.UUID(), store.Provisioned)
		for _, early := range []time.Duration{time.Minute, time.Second, 0, -900 * time.Millisecond} {
			if _, err := l.s.Admit.HandleHello(t.Context(), helloOf(d, l.roots(), dev.ProvisionedAt.Add(-early))); err != nil {
				t.Fatal(err)
			}
		}
		dev = l.heard(d.UUID(), 5)
		if dev.Lifecycle != store.Provisioned || dev.Reason != "" || slices.Contains(l.events(d.UUID()), "reappeared_unprovisioned") {
			t.Errorf("%s %s\n%s", dev.Lifecycle, dev.Reason, l.story(d.UUID()))
		}
	})
}

// TestAManagedDeviceThatLostItsSetup is set up again, by itself or when
// somebody approves: with new passwords, the old ones kept.
func TestAManagedDeviceThatLostItsSetup(t *testing.T) {
	t.Parallel()
	for _, p := range []admit.Reprovision{admit.ReprovisionAuto, admit.ReprovisionApprove} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(o *Options) { o.Reprovision = p }, func(t *testing.T, l *lab) {
				d := l.device(sim.Faults{})
				l.says(d)
				first := l.untilState(d.UUID(), store.Provisioned)
				d = l.again(d) // its battery was taken out
				l.until(d.UUID(), "a second to pass",
					func(store.Device) bool { return time.Since(first.ProvisionedAt) > 1100*time.Millisecond })
				l.says(d)
				if p == admit.ReprovisionApprove {
					l.untilState(d.UUID(), store.PendingApproval)
					l.says(d) // approved once is not approved again
					l.heard(d.UUID(), 3)
					if _, err := l.api.Act(t.Context(), "approve", d.UUID().String(), ""); err != nil {
						t.Fatal(err)
					}
				}
				dev := l.until(d.UUID(), "a second setup", func(d store.Device) bool {
					return d.Lifecycle == store.Provisioned && d.ProvisionedAt.After(first.ProvisionedAt)
				})
				l.keeps(d)
				if n := l.passwords(d.UUID()); n < 2 {
					t.Errorf("%d passwords; the first one is to be kept", n)
				}
				if !slices.Contains(l.events(dev.UUID), "reappeared_unprovisioned") {
					t.Errorf("nothing in the timeline:\n%s", l.story(dev.UUID))
				}
			})
		})
	}
}

// TestAFloodOfStrangersIsBounded: the newest rows stay, and nothing goes that a
// person decided about: who was turned away does not come back as a new face.
func TestAFloodOfStrangersIsBounded(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Admission = admit.Approve; o.Strangers = 50 }, func(t *testing.T, l *lab) {
		mine := l.device(sim.Faults{})
		l.says(mine)
		l.untilState(mine.UUID(), store.PendingApproval)
		if _, err := l.api.Act(t.Context(), "approve", mine.UUID().String(), ""); err != nil {
			t.Fatal(err)
		}
		l.untilState(mine.UUID(), store.Provisioned)
		said := map[string]amt.UUID{"reject": newUUID(), "quarantine": newUUID()}
		for verb, u := range said {
			if _, err := l.s.Admit.HandleHello(t.Context(),
				helloFrom(u, netip.MustParseAddr("127.83.250.2"), l.roots(), time.Now().Add(-time.Hour))); err != nil {
				t.Fatal(err)
			}
			if _, err := l.api.Act(t.Context(), verb, u.String(), "not ours"); err != nil {
				t.Fatal(err)
			}
		}
		const flood = 400
		base := time.Now()
		var last amt.UUID
		for i := range flood {
			h := helloFrom(newUUID(), netip.MustParseAddr("127.83.250.1"), l.roots(), base.Add(time.Duration(i)*time.Millisecond))
			last = h.UUID
			if _, err := l.s.Admit.HandleHello(t.Context(), h); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.s.strangers(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.read(func(ctx context.Context, tx *store.Tx) error {
			n, err := tx.CountDevices(ctx)
			if n[store.PendingApproval] != 50 || n[store.Provisioned] != 1 {
				t.Errorf("%d wait, %d are managed", n[store.PendingApproval], n[store.Provisioned])
			}
			if _, err := tx.Device(ctx, last); err != nil {
				t.Errorf("the newest is gone: %v", err)
			}
			for verb, u := range said {
				if d, err := tx.Device(ctx, u); err != nil || d.Lifecycle != store.Quarantined {
					t.Errorf("after %s: it is %s, %v", verb, d.Lifecycle, err)
				}
			}
			return err
		})
	})
}

// TestStrangersThroughAnOpenDoor: what an open door let in and nobody ever set up is
// forgotten like any stranger, with its unused passwords. What a device may hold a
// password of, what somebody ordered, and what a list knows stays.
func TestStrangersThroughAnOpenDoor(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Admission = admit.Open }, func(t *testing.T, l *lab) {
		ctx := t.Context()
		at := netip.MustParseAddr("127.83.251.1")
		cases := []struct {
			name    string
			stays   bool
			trigger string // of its run; "" it has none
			live    bool
			sent    string // the kind of the password that it was sent
			commit  bool
			listed  bool
			u       amt.UUID
		}{
			{name: "waits for a certificate"},
			{name: "never reached", trigger: "hello"},
			{name: "an admin password on its way to setup mode", trigger: "hello", sent: store.KindAdmin},
			{name: "a MEBx password", trigger: "hello", sent: store.KindMEBx, stays: true},
			{name: "a commit on its way", trigger: "hello", sent: store.KindAdmin, commit: true, stays: true},
			{name: "somebody tried it again", trigger: "api", stays: true},
			{name: "at work", trigger: "hello", live: true, stays: true},
			{name: "listed", trigger: "hello", listed: true, stays: true},
		}
		for i := range cases {
			c := &cases[i]
			c.u = newUUID()
			l.write(func(ctx context.Context, tx *store.Tx) error {
				h := store.SeenHello{UUID: c.u, From: netip.AddrPortFrom(at, 40000), Address: at, Version: 3, Hashes: l.roots()}
				if _, _, err := tx.SeeHello(ctx, h); err != nil {
					return err
				}
				if c.listed {
					if _, err := tx.Authorise(ctx,
						store.AuthorisedDevice{Kind: "uuid", Value: c.u.String(), CreatedBy: "test"}); err != nil {
						return err
					}
				}
				ends := store.Transition{UUID: c.u, To: store.PendingCertificate, Reason: reason.RootNotTrusted, Event: "staged"}
				if c.trigger != "" {
					run, err := tx.CreateRun(ctx, store.NewRun{UUID: c.u, Kind: "provision", Trigger: c.trigger,
						NotBefore: time.Now().Add(time.Hour)})
					if err != nil {
						return err
					}
					if _, err := tx.StageCredentials(ctx, c.u, run.ID, amt.NewSecret("Adm1n!adm1n"),
						amt.NewSecret("Meb!x1mebx")); err != nil {
						return err
					}
					if c.sent != "" {
						list, err := tx.Credentials(ctx, c.u, c.sent)
						if err != nil {
							return err
						}
						if err := tx.MarkSent(ctx, list[0].ID, "admin", "Digest:A", make([]byte, 32), at, false); err != nil {
							return err
						}
						if c.commit {
							if err := tx.Known(ctx, c.u, list[0].Setup, nil, true); err != nil {
								return err
							}
						}
					}
					if !c.live {
						if err := tx.FinishRun(ctx, run.ID, store.RunFailed, reason.DeviceUnreachable, "", ""); err != nil {
							return err
						}
						ends.To, ends.Reason = store.Failed, reason.DeviceUnreachable
					}
				}
				return tx.Transition(ctx, ends)
			})
		}
		want := 0
		for _, c := range cases {
			if !c.stays {
				want++
			}
		}
		if n, err := l.s.DB.PruneStrangers(ctx, 0); err != nil || n != want {
			t.Errorf("%d removed, want %d: %v", n, want, err)
		}
		l.read(func(ctx context.Context, tx *store.Tx) error {
			for _, c := range cases {
				_, err := tx.Device(ctx, c.u)
				list, err2 := tx.Credentials(ctx, c.u, "")
				if c.stays != (err == nil) || !c.stays && len(list) > 0 || err2 != nil {
					t.Errorf("%s: its row %v, %d passwords (%v)", c.name, err, len(list), err2)
				}
			}
			return nil
		})
	})
}

// TestNoAnnouncedRootIsNotForgotten: firmware without an active root hash goes
// on waiting, however often it is asked again whether a certificate has come.
func TestNoAnnouncedRootIsNotForgotten(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Admission = admit.Open }, func(t *testing.T, l *lab) {
		u := newUUID()
		l.hello(address(), u, 0, nil)
		l.untilState(u, store.PendingCertificate)
		if n, err := l.s.Admit.Reconsider(t.Context()); n != 0 || err != nil {
			t.Errorf("%d runs started, %v\n%s", n, err, l.story(u))
		}
	})
}
