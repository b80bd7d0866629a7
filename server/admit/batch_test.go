package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// scenes are hellos and what was known of their devices before.
var scenes = []struct {
	name   string
	before store.Lifecycle // "": never heard of
	facts  store.DeviceFacts
	reason reason.Code
	run    *store.NewRun
	with   func(ctx context.Context, tx *store.Tx, u amt.UUID) error
	hello  func(*hello.Hello)
	alone  bool // more follows than a row that waits
}{
	{name: "never heard of"},
	{name: "never heard of, ours", hello: func(h *hello.Hello) { h.Hashes = ours }, alone: true},
	{name: "never heard of, no root", hello: func(h *hello.Hello) { h.Hashes = nil }},
	{name: "never heard of, elsewhere", hello: func(h *hello.Hello) { h.From = netip.MustParseAddrPort("192.0.2.7:1") }},
	{name: "PSK", hello: func(h *hello.Hello) { h.Version, h.PID, h.Hashes = hello.VersionPSK, "4444-4444", nil }},
	{name: "bytes behind its end", hello: func(h *hello.Hello) { h.Trailing, h.Raw = []byte{1}, []byte{2, 3} }},
	{name: "authorised by UUID", with: authorise("uuid", "", "pc1.corp.example", "")},
	{name: "authorised by UUID, ours", with: authorise("uuid", "", "", ""), hello: func(h *hello.Hello) { h.Hashes = ours }, alone: true},
	{name: "authorised by network", hello: func(h *hello.Hello) { h.From = netip.MustParseAddrPort("10.77.0.1:1") }},
	{name: "authorised by serial", before: store.PendingApproval, facts: store.DeviceFacts{Serial: ptr("SN-7")}, with: authorise("serial", "SN-7", "", "")},
	{name: "authorised by MAC", before: store.PendingApproval, facts: store.DeviceFacts{MAC: ptr("00:AA")}, with: authorise("mac", "00:aa", "", "")},
	{name: "a profile that does not exist", with: authorise("uuid", "", "", "lost")},
	{name: "named", with: func(ctx context.Context, tx *store.Tx, u amt.UUID) error {
		return tx.PutName(ctx, store.Name{UUID: u, FQDN: "PC2.corp.example", Source: FromImport})
	}},
	{name: "waits for a certificate", before: store.PendingCertificate, reason: reason.RootNotTrusted},
	{name: "waits, and its list changed", before: store.PendingCertificate, hello: func(h *hello.Hello) { h.Hashes = strangers(4) }},
	{name: "waits, and now it is ours", before: store.PendingCertificate, hello: func(h *hello.Hello) { h.Hashes = ours }, facts: store.DeviceFacts{Approved: ptr(true)}, alone: true},
	{name: "waits, and moved", before: store.PendingCertificate, hello: func(h *hello.Hello) { h.From = netip.MustParseAddrPort("10.9.9.9:1") }, alone: true},
	{name: "waits for approval", before: store.PendingApproval, reason: reason.NotAuthorized},
	{name: "approved", before: store.PendingApproval, facts: store.DeviceFacts{Approved: ptr(true)}},
	{name: "retired", before: store.Retired},
	{name: "quarantined", before: store.Quarantined, reason: reason.UUIDDuplicate},
	{name: "managed", before: store.Provisioned, facts: store.DeviceFacts{ProvisionedAt: ptr(time.Now().Add(-time.Hour))}},
	{name: "managed a moment ago", before: store.Provisioned, facts: store.DeviceFacts{ProvisionedAt: ptr(time.Now().Add(time.Hour))}},
	{name: "taken back", before: store.Unprovisioned},
	{name: "failed", before: store.Failed, reason: reason.NetworkNotAllowed},
	{name: "failed twice", before: store.Failed, reason: reason.AuthFailed, facts: store.DeviceFacts{Attempts: ptr(2)}},
	{name: "a run is queued", before: store.Queued, run: &store.NewRun{Kind: "provision", Trigger: "hello"}},
	{name: "a run waits", before: store.Failed, run: &store.NewRun{Kind: "provision", Trigger: "hello", NotBefore: time.Now().Add(time.Hour)}},
}

func ptr[T any](v T) *T { return &v }

func authorise(kind, value, fqdn, profile string) func(context.Context, *store.Tx, amt.UUID) error {
	return func(ctx context.Context, tx *store.Tx, u amt.UUID) error {
		a := store.AuthorisedDevice{Kind: kind, Value: value, FQDN: fqdn, Profile: profile}
		if kind == "uuid" {
			a.Value = u.String()
		}
		_, err := tx.Authorise(ctx, a)
		return err
	}
}

// stage makes the scenes' devices and gives their hellos.
func (d *desk) stage(t *testing.T, at time.Time) []hello.Hello {
	t.Helper()
	ctx := t.Context()
	out := make([]hello.Hello, len(scenes))
	err := d.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "network", Value: "10.77.0.0/16", Profile: "default"}); err != nil {
			return err
		}
		if _, err := tx.PutAssignmentRule(ctx, store.AssignmentRule{Name: "named list", Enabled: true,
			Match: json.RawMessage(`{"networks":["10.9.0.0/16"]}`), Assign: json.RawMessage(`{"profile":"default"}`)}); err != nil {
			return err
		}
		for i, s := range scenes {
			h := plain(i, strangers(3))
			h.At = at
			out[i] = h
			if s.hello != nil {
				s.hello(&out[i])
			}
			if s.before != "" {
				first := seen(h)
				first.At = h.At.Add(-time.Minute)
				if _, _, err := tx.SeeHello(ctx, first); err != nil {
					return err
				}
				if err := tx.UpdateDevice(ctx, h.UUID, s.facts); err != nil {
					return err
				}
				if err := tx.Transition(ctx, store.Transition{UUID: h.UUID, To: s.before, Reason: s.reason, Event: "staged"}); err != nil {
					return err
				}
			}
			if s.run != nil {
				n := *s.run
				n.UUID = h.UUID
				if _, err := tx.CreateRun(ctx, n); err != nil {
					return err
				}
			}
			if s.with != nil {
				if err := s.with(ctx, tx, h.UUID); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// picture is all that hellos may have changed.
type picture struct {
	Device store.Device
	Hashes []amt.TrustHash
	Events []store.Event
	Hellos []store.HelloRecord
	Runs   []store.Run
}

func (d *desk) picture(t *testing.T, u amt.UUID) (p picture) {
	t.Helper()
	ctx := t.Context()
	err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		var errs [5]error
		p.Device, errs[0] = tx.Device(ctx, u)
		p.Hashes, errs[1] = tx.TrustHashes(ctx, p.Device.TrustTable)
		p.Events, errs[2] = tx.Events(ctx, store.EventFilter{UUID: u})
		p.Hellos, errs[3] = tx.Hellos(ctx, u, 10)
		p.Runs, errs[4] = tx.Runs(ctx, u, 10)
		return errors.Join(errs[:]...)
	})
	if err != nil {
		t.Fatal(err)
	}
	// Numbers and the moments of this very run say nothing.
	p.Device.TrustTable = 0
	if !p.Device.WindowUntil.IsZero() {
		p.Device.WindowUntil = time.Unix(0, 0)
	}
	for i := range p.Events {
		p.Events[i].ID, p.Events[i].At, p.Events[i].RunID = 0, time.Time{}, 0
	}
	for i := range p.Hellos {
		p.Hellos[i].ID, p.Hellos[i].TrustTable = 0, 0
	}
	for i := range p.Runs {
		p.Runs[i].ID, p.Runs[i].CreatedAt, p.Runs[i].NotBefore = 0, time.Time{}, time.Time{}
	}
	return p
}

// TestTogetherAsAlone: hellos that are decided together leave behind what each
// leaves when it is decided alone.
func TestTogetherAsAlone(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		for _, mode := range []Mode{Open, Approve, AllowList} {
			for _, again := range []Reprovision{ReprovisionAuto, ReprovisionApprove, ReprovisionDeny} {
				if engine == store.Postgres && mode == AllowList {
					continue // what differs there is not the engine's
				}
				t.Run(fmt.Sprint(engine, "/", mode, "/", again), func(t *testing.T) {
					t.Parallel()
					p := openPolicy()
					p.Mode, p.Reprovision = mode, again
					p.HelloPause = time.Hour // however long the two desks take
					one, many := newDesk(t, engine, false, p), newDesk(t, engine, false, p)
					at := time.Now()
					hellos := one.stage(t, at)
					many.stage(t, at)
					results := make([]hello.Result, len(hellos))
					for i, h := range hellos {
						var err error
						if results[i], err = one.alone(t.Context(), h); err != nil {
							t.Fatalf("%s: %v", scenes[i].name, err)
						}
					}
					members := make([]*member, len(hellos))
					for i, h := range hellos {
						members[i] = &member{ctx: t.Context(), h: h, lead: make(chan struct{}), done: make(chan struct{})}
					}
					many.run(members)
					together := 0
					for i, m := range members {
						got := m.decision.Result
						if m.over {
							together++
						} else {
							var err error
							if got, err = many.alone(t.Context(), m.h); err != nil {
								t.Fatalf("%s: %v", scenes[i].name, err)
							}
						}
						if mode == Open && m.over == scenes[i].alone {
							t.Errorf("%s: decided together is %v", scenes[i].name, m.over)
						}
						if got != results[i] {
							t.Errorf("%s: alone %s, together %s", scenes[i].name, results[i], got)
						}
						if diff := cmp.Diff(one.picture(t, m.h.UUID), many.picture(t, m.h.UUID), cmpopts.EquateEmpty(),
							cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreUnexported(store.Run{})); diff != "" {
							t.Errorf("%s (-alone +together):\n%s", scenes[i].name, diff)
						}
					}
					if together < len(members)/2 {
						t.Errorf("only %d of %d were decided together", together, len(members))
					}
				})
			}
		}
	}
}

// TestOneBadHelloSpoilsNoOther: whose hello the store does not take gets the
// error; all others of its batch are stored.
func TestOneBadHelloSpoilsNoOther(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, engine, false, openPolicy())
			match := d.Config.Match
			d.Config.Match = func(list []amt.TrustHash, h certs.Hints) ([]certs.Candidate, error) {
				if len(list) == 13 {
					panic("a list nobody thought of")
				}
				return match(list, h)
			}
			const n = 40
			errs := make([]error, n)
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					h := plain(i, strangers(3))
					if i%10 == 3 {
						h.Hashes = strangers(13)
					}
					_, errs[i] = d.HandleHello(t.Context(), h)
				})
			}
			wg.Wait()
			for i, err := range errs {
				if bad := i%10 == 3; (err != nil) != bad {
					t.Errorf("hello %d: %v", i, err)
				}
				stored := d.DB.Read(t.Context(), func(tx *store.Tx) error {
					_, err := tx.Device(t.Context(), uuidOf(i))
					return err
				})
				if (stored == nil) != (err == nil) {
					t.Errorf("hello %d: answered %v, stored %v", i, err, stored)
				}
			}
		})
	}
}

// TestAChangeCountsForTheNextHello: nothing that decides about hellos is
// remembered from one batch to the next, on this node or on another.
func TestAChangeCountsForTheNextHello(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			p := openPolicy()
			p.Mode = AllowList
			d := newDesk(t, engine, false, p)
			other := d.DB // another node's, where there can be one
			if pool := d.DB.Pool(); pool != nil {
				var err error
				if other, err = store.Open(ctx, store.Options{URL: pool.Config().ConnString(), Keys: labKeys(t)}); err != nil {
					t.Fatal(err)
				}
				defer other.Close()
			}
			n := 0
			// say lets a crowd speak and gives where the last of it stands.
			say := func(list []amt.TrustHash) store.Device {
				t.Helper()
				var wg sync.WaitGroup
				for range 8 {
					n++
					number := n
					wg.Go(func() {
						if _, err := d.HandleHello(ctx, plain(number, list)); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				var dev store.Device
				if err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
					dev, err = tx.Device(ctx, uuidOf(n))
					return err
				}); err != nil {
					t.Fatal(err)
				}
				return dev
			}
			change := func(f func(tx *store.Tx) error) {
				t.Helper()
				if err := other.Write(ctx, f); err != nil {
					t.Fatal(err)
				}
			}
			expect := func(what string, dev store.Device, want store.Lifecycle, code reason.Code) {
				t.Helper()
				if dev.Lifecycle != want || dev.Reason != code {
					t.Errorf("%s: %s %s (%s), want %s %s", what, dev.Lifecycle, dev.Reason, dev.Detail, want, code)
				}
			}
			expect("nobody is on the list", say(strangers(3)), store.PendingApproval, reason.NotAuthorized)
			var entry int64
			change(func(tx *store.Tx) (err error) {
				entry, err = tx.Authorise(ctx, store.AuthorisedDevice{Kind: "network", Value: "10.0.0.0/8"})
				return err
			})
			expect("the network was put on the list", say(strangers(3)), store.PendingCertificate, reason.RootNotTrusted)
			change(func(tx *store.Tx) error {
				_, err := tx.PutAssignmentRule(ctx,
					store.AssignmentRule{Name: "all", Enabled: true, Assign: json.RawMessage(`{"profile":"kiosk"}`)})
				return err
			})
			expect("a rule names a profile that does not exist", say(strangers(3)), store.PendingIdentity, reason.NoProfileRule)
			change(func(tx *store.Tx) error {
				_, err := tx.PutProfile(ctx, store.Profile{Name: "kiosk", Document: json.RawMessage(`{}`)})
				return err
			})
			expect("now it does", say(strangers(3)), store.PendingCertificate, reason.RootNotTrusted)
			change(func(tx *store.Tx) error { return tx.DeleteAssignmentRule(ctx, "all") })
			if dev := say(strangers(3)); dev.Profile != "" {
				t.Errorf("the rule is gone, and its profile is %q", dev.Profile)
			}
			// A certificate comes and goes.
			match := d.Config.Match
			d.Config.Match = func([]amt.TrustHash, certs.Hints) ([]certs.Candidate, error) { return nil, nil }
			expect("a certificate for all was loaded", say(strangers(3)), store.Queued, "")
			d.Config.Match = match
			expect("and taken away", say(strangers(3)), store.PendingCertificate, reason.RootNotTrusted)
			d.policy.Networks = nil
			expect("no network is allowed any more", say(strangers(3)), store.Failed, reason.NetworkNotAllowed)
			d.policy.Networks = p.Networks
			change(func(tx *store.Tx) error { return tx.Unauthorise(ctx, entry) })
			expect("the entry was taken from the list", say(strangers(3)), store.PendingApproval, reason.NotAuthorized)
		})
	}
}

// TestTwoNodesMeetOneDevice: first hellos of one device on two nodes at the same
// moment are two hellos of one device.
func TestTwoNodesMeetOneDevice(t *testing.T) {
	t.Parallel()
	a := newDesk(t, store.Postgres, false, openPolicy())
	b := &desk{policy: openPolicy()}
	b.Admitter = New(a.Config)
	const n = 200
	var wg sync.WaitGroup
	for i := range n {
		for _, d := range []*desk{a, b} {
			wg.Go(func() {
				if _, err := d.HandleHello(t.Context(), plain(i, strangers(3))); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	for i := range n {
		p := a.picture(t, uuidOf(i))
		if p.Device.HelloCount != 2 || len(p.Hellos) != 2 || len(p.Events) != 1 || p.Device.Lifecycle != store.PendingCertificate {
			t.Errorf("device %d: %d counted, %d recorded, %s, events %v", i, p.Device.HelloCount, len(p.Hellos), p.Device.Lifecycle,
				p.Events)
		}
	}
}

// TestALeaderThatLeaves: whoever gives up waiting takes nobody's turn with it.
func TestALeaderThatLeaves(t *testing.T) {
	t.Parallel()
	d := newDesk(t, store.SQLite, false, openPolicy())
	for round := range 20 {
		hold, held := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = d.DB.Write(context.Background(), func(*store.Tx) error { close(held); <-hold; return nil })
		})
		<-held // every batch waits now
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 30 {
			use := t.Context()
			if i%2 == 0 {
				use = ctx
			}
			wg.Go(func() {
				_, err := d.HandleHello(use, plain(round*100+i, strangers(3)))
				if err != nil && use != ctx {
					t.Errorf("round %d, hello %d: %v", round, i, err)
				}
			})
		}
		cancel()
		close(hold)
		wg.Wait()
	}
	d.batch.mu.Lock()
	defer d.batch.mu.Unlock()
	if d.batch.leading != 0 || len(d.batch.waiting) != 0 {
		t.Errorf("%d lead and %d wait after the end", d.batch.leading, len(d.batch.waiting))
	}
}

// TestALeaderWhoseTimeIsOver spoils no batch: the others have their own time.
func TestALeaderWhoseTimeIsOver(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, engine, false, openPolicy())
			over, cancel := context.WithCancel(t.Context())
			cancel()
			long, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			var members []*member
			for i, ctx := range []context.Context{over, long, over, long} {
				members = append(members, &member{ctx: ctx, h: plain(i, strangers(3)), lead: make(chan struct{}),
					done: make(chan struct{})})
			}
			d.run(members)
			for i, m := range members {
				if <-m.done; !m.over {
					t.Errorf("hello %d has to go its own road", i)
				}
			}
		})
	}
}
