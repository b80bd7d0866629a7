package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/amt/sim/simtest"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// TestADeviceWaitsForItsName: until a source knows it, an operator says it, or
// the rules ask another source.
func TestADeviceWaitsForItsName(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	known := map[string]string{}
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			UUID string `json:"uuid"`
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		mu.Lock()
		defer mu.Unlock()
		if known[q.UUID] == "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"fqdn": known[q.UUID]})
	}))
	t.Cleanup(hook.Close)
	forEachEngine(t, func(o *Options) {
		o.Names = []profile.Source{profile.Assigned, profile.Webhook}
		o.Lookup = admit.Lookup{Webhook: hook.URL, HTTP: hook.Client().Transport.(*http.Transport)}
	}, func(t *testing.T, l *lab) {
		asked, told := l.device(sim.Faults{}), l.device(sim.Faults{})
		mu.Lock()
		known[asked.UUID().String()] = "pc1.corp.example.com"
		mu.Unlock()
		l.says(asked)
		l.says(told)
		if d := l.untilState(asked.UUID(), store.Provisioned); d.FQDN != "pc1.corp.example.com" {
			t.Errorf("named %q", d.FQDN)
		}
		d := l.until(told.UUID(), "an answer of the webhook", func(d store.Device) bool {
			return d.Lifecycle == store.PendingIdentity && d.Reason == reason.IdentityIncomplete &&
				d.Detail != "its name is being looked up: webhook"
		})
		before := len(l.events(told.UUID()))
		l.says(told)
		l.heard(told.UUID(), 2)
		if n := len(l.events(told.UUID())); n != before {
			t.Errorf("a hello in between made %d events: %s", n-before, d.Detail)
		}
		if _, err := l.api.NameDevice(t.Context(), told.UUID().String(), api.NewName{FQDN: "pc2.corp.example.com"}); err != nil {
			t.Fatal(err)
		}
		if d := l.untilState(told.UUID(), store.Provisioned); d.FQDN != "pc2.corp.example.com" || told.Snapshot().HostName != "pc2" {
			t.Errorf("named %q, and %q in the device", d.FQDN, told.Snapshot().HostName)
		}
	})
}

type nameServer map[netip.Addr]string

func (z nameServer) LookupAddr(_ context.Context, a string) ([]string, error) {
	if n, ok := z[netip.MustParseAddr(a)]; ok {
		return []string{n}, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

func (z nameServer) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	for a, n := range z {
		if n == host {
			return []netip.Addr{a}, nil
		}
	}
	return nil, &net.DNSError{IsNotFound: true}
}

// TestARuleDecidesProfileAndName: by network, with reverse DNS first and the
// rule's pattern behind it.
func TestARuleDecidesProfileAndName(t *testing.T) {
	t.Parallel()
	in, bare := address(), address()
	dns := nameServer{in: "desk7.branch.example.com"}
	for i, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, engine, func(o *Options) { o.Lookup.ReverseDNS = dns })
			if _, err := l.api.ApplyProfile(t.Context(), "kiosk",
				api.NewProfile{Document: map[string]any{"host_name": "kiosk-{uuid8}"}}); err != nil {
				t.Fatal(err)
			}
			if _, err := l.api.ApplyRules(t.Context(), api.RuleSet{Rules: []map[string]any{{
				"name": "branch", "match": map[string]any{"networks": []string{simtest.Network().String()}},
				"assign": map[string]any{"profile": "kiosk", "names": []string{"reverse_dns", "pattern"}, "domain": "branch.example.com"},
			}}}); err != nil {
				t.Fatal(err)
			}
			u := newUUID()
			if i == 0 {
				d := l.device(sim.Faults{}, func(c *sim.Config) { c.Addr = in })
				l.says(d)
				if got := l.untilState(d.UUID(), store.Provisioned); got.FQDN != "desk7.branch.example.com" || got.Profile != "kiosk" {
					t.Errorf("%s with profile %q", got.FQDN, got.Profile)
				}
				return
			}
			d := l.device(sim.Faults{}, func(c *sim.Config) { c.UUID, c.Addr = u, bare })
			l.says(d)
			want := "kiosk-" + u.String()[:8] + ".branch.example.com"
			if got := l.untilState(d.UUID(), store.Provisioned); got.FQDN != want || d.Snapshot().HostName+"."+d.Snapshot().Domain != want {
				t.Errorf("%s, want %s; the device says %s.%s\n%s", got.FQDN, want, d.Snapshot().HostName, d.Snapshot().Domain, l.story(u))
			}
		})
	}
}

// TestOneTimePassword: what an agent announced is kept sealed and compared with
// what the device holds.
func TestOneTimePassword(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.OTP = admit.OTPRequired }, func(t *testing.T, l *lab) {
		announce := func(d *sim.Device, otp string) {
			h := helloOf(d, nil, time.Now())
			h.Message.Version, h.Via, h.Peer, h.OTP = 0, hello.ViaAgent, "agent-7", amt.NewSecret(otp)
			h.FQDN, h.Address = "pc"+d.UUID().String()[:4]+".corp.example.com", d.Addr().Addr()
			h.PeerNames = []string{h.FQDN}
			if _, err := l.s.Admit.HandleHello(t.Context(), h); err != nil {
				t.Fatal(err)
			}
		}
		with := func(otp string) *sim.Device { return l.device(sim.Faults{}, func(c *sim.Config) { c.OTP = otp }) }
		good, bad, none := with("Canary-Otp-1!"), with("Canary-Otp-2!"), with("Canary-Otp-3!")
		announce(good, "Canary-Otp-1!")
		announce(bad, "Canary-Otp-9!")
		for _, d := range []*sim.Device{good, bad, none} {
			l.says(d)
		}
		if d := l.untilState(good.UUID(), store.Provisioned); d.FQDN != "pc"+d.UUID.String()[:4]+".corp.example.com" {
			t.Errorf("the agent's name is lost: %q", d.FQDN)
		}
		if d := l.untilState(bad.UUID(), store.Quarantined); d.Reason != reason.OTPMismatch {
			t.Errorf("another password: %s", d.Reason)
		}
		if d := l.untilState(none.UUID(), store.Failed); d.Reason != reason.OTPRequired {
			t.Errorf("no password: %s", d.Reason)
		}
		for _, d := range []*sim.Device{bad, none} {
			if s := d.Snapshot(); s.Commits != 0 || len(s.SecretsSeen) != 0 || len(s.AdminHA1Seen) != 0 {
				t.Errorf("%s was told a password", d.UUID())
			}
		}
	})
}

// TestSetupWindow: from the first hello on, spoken of before it closes, and the
// device is put to rest when it is over; a hello wakes it.
func TestSetupWindow(t *testing.T) {
	t.Parallel()
	forEachEngine(t, approveMode, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{})
		l.says(d)
		dev := l.untilState(d.UUID(), store.PendingApproval)
		if left := time.Until(dev.WindowUntil); left < 5*time.Hour || left > 6*time.Hour+time.Minute {
			t.Errorf("%s are left", left)
		}
		set := func(in time.Duration) {
			at := time.Now().Add(in)
			l.write(func(ctx context.Context, tx *store.Tx) error {
				return tx.UpdateDevice(ctx, d.UUID(), store.DeviceFacts{WindowUntil: &at})
			})
		}
		count := func(event string) (n int) {
			for _, e := range l.events(d.UUID()) {
				if e == event {
					n++
				}
			}
			return n
		}
		pass := func() {
			t.Helper()
			if err := l.s.windows(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		set(30 * time.Minute)
		pass()
		pass()
		if n := count("setup_window_closing"); n != 1 {
			t.Errorf("said %d times that it closes", n)
		}
		if n := l.metric("provisiond_setup_windows_closing"); n != 1 {
			t.Errorf("%v windows close", n)
		}
		set(-5 * time.Minute)
		pass()
		if got := l.heard(d.UUID(), 1); got.Lifecycle != store.PendingApproval {
			t.Errorf("%s although it may be listening yet", got.Lifecycle)
		}
		set(-time.Hour)
		pass()
		got := l.untilState(d.UUID(), store.Dormant)
		if got.Reason != reason.SetupWindowExpired || !slices.Contains(l.events(d.UUID()), "window_expired") {
			t.Errorf("%s\n%s", got.Reason, l.story(d.UUID()))
		}
		if res, err := l.api.Act(t.Context(), "approve", d.UUID().String(), ""); err != nil || res.RunID != 0 {
			t.Errorf("approved while it sleeps: %+v %v", res, err)
		}
		l.says(d) // its power came back
		if got = l.untilState(d.UUID(), store.Provisioned); got.Reason != "" {
			t.Errorf("reason %s", got.Reason)
		}
		l.keeps(d)
	})
}

// TestRefusedPasswordsAreNotRepeated: a device that refuses them is left alone
// for an hour, whoever asks.
func TestRefusedPasswordsAreNotRepeated(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		other := l.device(sim.Faults{}) // somebody else's tool gave it another password
		l.write(func(ctx context.Context, tx *store.Tx) error {
			if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: other.UUID(), From: other.Addr(), Address: other.Addr().Addr(),
				Version: 3, Hashes: l.roots()}); err != nil {
				return err
			}
			run, err := tx.CreateRun(ctx, store.NewRun{UUID: other.UUID(), Kind: "provision", Trigger: "hello"})
			if err != nil {
				return err
			}
			if err := tx.FinishRun(ctx, run.ID, store.RunFailed, reason.CredentialsUnknown, "refused", "device"); err != nil {
				return err
			}
			return tx.Transition(ctx, store.Transition{UUID: other.UUID(), To: store.CredentialsUnknown, Reason: reason.CredentialsUnknown,
				Event: "attempt_failed", Actor: "test"})
		})
		if _, err := l.api.Act(t.Context(), "retry", other.UUID().String(), ""); err != nil {
			t.Fatal(err)
		}
		ok := waitFor(t, func() bool {
			put := false
			_ = l.s.DB.Read(context.Background(), func(tx *store.Tx) error {
				r, err := tx.LiveRun(context.Background(), other.UUID())
				put = err == nil && time.Until(r.NotBefore) > 50*time.Minute
				return err
			})
			return put
		})
		if !ok {
			t.Errorf("the run is not put off\n%s", l.story(other.UUID()))
		}
		if s := other.Snapshot(); s.Connections != 0 {
			t.Errorf("%d connections within the hour", s.Connections)
		}
	})
}

// TestEachPasswordGetsItsTurnInTime: a device holds the oldest of eight stored
// passwords. Three an hour are tried, never the same twice, and in the third
// hour it is found.
func TestEachPasswordGetsItsTurnInTime(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite, nil)
	d := l.device(sim.Faults{})
	l.says(d)
	l.untilState(d.UUID(), store.Provisioned)
	l.write(func(ctx context.Context, tx *store.Tx) error {
		held, err := tx.Credentials(ctx, d.UUID(), store.KindAdmin)
		if err != nil {
			return err
		}
		for i := range 7 {
			if _, err := tx.StageWithin(ctx, d.UUID(), 0, held[0].Setup, amt.NewSecret(fmt.Sprintf("Never-taken-%d!", i)),
				amt.Secret{}); err != nil {
				return err
			}
		}
		list, err := tx.Credentials(ctx, d.UUID(), store.KindAdmin)
		if err != nil {
			return err
		}
		return tx.Activate(ctx, list[0].ID)
	})
	before := d.Snapshot().LoginsFailed
	l.write(func(ctx context.Context, tx *store.Tx) error {
		if _, err := tx.LiveRun(ctx, d.UUID()); err == nil {
			return nil
		}
		run, err := tx.CreateRun(ctx, store.NewRun{UUID: d.UUID(), Kind: "maintain", Trigger: "timer"})
		if err != nil {
			return err
		}
		return l.s.enqueue(ctx, tx, run.ID, time.Time{}, 2)
	})
	for hour, want := range []int{3, 6} {
		l.until(d.UUID(), fmt.Sprintf("hour %d: put off", hour), func(store.Device) bool {
			off := false
			_ = l.s.DB.Read(context.Background(), func(tx *store.Tx) error {
				r, err := tx.LiveRun(context.Background(), d.UUID())
				off = err == nil && r.State == store.RunQueued && time.Until(r.NotBefore) > 50*time.Minute
				return err
			})
			return off
		})
		if n := d.Snapshot().LoginsFailed - before; n != want {
			t.Errorf("hour %d: %d wrong logins so far, want %d\n%s", hour, n, want, l.story(d.UUID()))
		}
		// An hour passes.
		if _, err := l.s.DB.SQL().ExecContext(t.Context(),
			"UPDATE credentials SET refused_at = refused_at - 3600000 WHERE refused_at IS NOT NULL"); err != nil {
			t.Fatal(err)
		}
		l.write(func(ctx context.Context, tx *store.Tx) error {
			r, err := tx.LiveRun(ctx, d.UUID())
			if err != nil {
				return err
			}
			if err := tx.HastenRun(ctx, r.ID, time.Time{}); err != nil {
				return err
			}
			return l.s.enqueue(ctx, tx, r.ID, time.Time{}, 2)
		})
	}
	l.until(d.UUID(), "it is found", func(dev store.Device) bool {
		return dev.Lifecycle == store.Provisioned && dev.Reason == "" && dev.Owner == ""
	})
	if n := d.Snapshot().LoginsFailed - before; n != 7 {
		t.Errorf("%d wrong logins in all, want 7", n)
	}
	l.keeps(d)
}
