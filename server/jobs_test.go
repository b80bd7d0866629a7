package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// fleet sets n devices up.
func (l *lab) fleet(n int, change ...func(*sim.Config)) []*sim.Device {
	l.t.Helper()
	var list []*sim.Device
	for range n {
		d := l.device(sim.Faults{}, change...)
		l.says(d)
		list = append(list, d)
	}
	managed := func() bool {
		n := 0
		err := l.s.DB.Read(context.WithoutCancel(l.t.Context()), func(tx *store.Tx) error {
			counts, err := tx.CountDevices(context.Background())
			n = counts[store.Provisioned]
			return err
		})
		return err == nil && n >= len(list)
	}
	if !waitFor(l.t, managed) && !waitFor(l.t, managed) { // a loaded machine takes its time
		waitFor(l.t, managed)
	}
	for _, d := range list {
		l.untilState(d.UUID(), store.Provisioned)
	}
	return list
}

// job waits for a job to be as wanted.
func (l *lab) job(id int64, what string, ok func(api.JobDetail) bool) api.JobDetail {
	l.t.Helper()
	var j api.JobDetail
	var err error
	look := func() bool {
		j, err = l.api.Job(context.WithoutCancel(l.t.Context()), api.OneJob{ID: id})
		return err == nil && ok(j)
	}
	// A device out of reach is tried five times, on a loaded machine.
	if !waitFor(l.t, look) && !waitFor(l.t, look) && !waitFor(l.t, look) {
		l.t.Fatalf("job %d: waited for %s: %v %+v", id, what, err, j)
	}
	return j
}

func over(j api.JobDetail) bool { return j.State == "done" }

// TestJobs: a job changes the password of each device it found and says so for
// each; one that cannot be undone asks, waits for another person, and undoes.
func TestJobs(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		ctx := t.Context()
		fleet := l.fleet(5)
		before := map[amt.UUID]int{}
		for _, d := range fleet {
			before[d.UUID()] = l.untilState(d.UUID(), store.Provisioned).Generation
		}
		dry, err := l.api.StartJob(ctx, api.JobRequest{Kind: "rotate", DryRun: true})
		if err != nil || dry.Devices != 5 || dry.ID != 0 || dry.Confirm != "" {
			t.Fatalf("dry run: %+v, %v", dry, err)
		}
		started, err := l.api.StartJob(ctx, api.JobRequest{Kind: "rotate", Note: "quarterly"})
		if err != nil {
			t.Fatal(err)
		}
		j := l.job(started.ID, "its end", over)
		if j.Counts["done"] != 5 {
			t.Errorf("%v", j.Counts)
		}
		for _, r := range j.Results {
			if r.State != "done" || r.RunID == 0 {
				t.Errorf("%+v", r)
			}
		}
		for _, d := range fleet {
			now := l.untilState(d.UUID(), store.Provisioned)
			if now.Generation <= before[d.UUID()] || !l.taken(d) {
				t.Errorf("%s: generation %d after %d, taken: %t", d.UUID(), now.Generation, before[d.UUID()], l.taken(d))
			}
		}

		// Undoing asks for the word, and for somebody else.
		undo := api.JobRequest{Kind: "unprovision", Mode: "full", NeedApprover: true}
		if _, err := l.api.StartJob(ctx, undo); err == nil || !strings.Contains(err.Error(), `"unprovision 5"`) {
			t.Fatalf("started without a word: %v", err)
		}
		undo.Confirm = "unprovision 5"
		started, err = l.api.StartJob(ctx, undo)
		if err != nil || started.State != "draft" {
			t.Fatalf("%+v, %v", started, err)
		}
		if _, err := l.api.JobCommand(ctx, started.ID, "approve"); err == nil {
			t.Fatal("a person approved a job of their own")
		}
		token, err := l.api.CreateToken(ctx, api.NewToken{Name: "second", Role: "operator"})
		if err != nil {
			t.Fatal(err)
		}
		second := &api.Client{Base: l.api.Base, Token: token.Secret}
		if _, err := second.JobCommand(ctx, started.ID, "approve"); err != nil {
			t.Fatal(err)
		}
		j = l.job(started.ID, "its end", over)
		if j.Counts["done"] != 5 || j.ApprovedBy != "second" {
			t.Errorf("%v, approved by %q", j.Counts, j.ApprovedBy)
		}
		for _, d := range fleet {
			if dev := l.untilState(d.UUID(), store.Unprovisioned); d.Snapshot().State != amt.StatePre || dev.Approved {
				t.Errorf("%s: %s, approved: %t", d.UUID(), d.Snapshot().State, dev.Approved)
			}
		}
	})
}

// taken reports whether a device takes the password the store calls active.
func (l *lab) taken(d *sim.Device) (ok bool) {
	l.t.Helper()
	l.read(func(ctx context.Context, tx *store.Tx) error {
		list, err := tx.Credentials(ctx, d.UUID(), store.KindAdmin)
		for _, c := range list {
			ok = ok || c.State == store.CredentialActive && d.AcceptsAdmin("admin", c.Password.Reveal())
		}
		return err
	})
	return ok
}

// TestJobRateAndAbort: a job begins no more devices than its cap allows, and
// none after it was aborted; a device that is gone has its own result.
func TestJobRateAndAbort(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite, func(o *Options) { o.Retry = []time.Duration{10 * time.Millisecond} })
	fleet := l.fleet(6)
	if err := fleet[0].Close(); err != nil {
		t.Fatal(err)
	}
	started, err := l.api.StartJob(t.Context(), api.JobRequest{Kind: "maintain", PerMinute: 12})
	if err != nil {
		t.Fatal(err)
	}
	// A sixth of 12 at a time, and 10 seconds between: two, then no more at once.
	j := l.job(started.ID, "its first devices", func(j api.JobDetail) bool { return j.Counts["waiting"] <= 4 })
	if j.Counts["waiting"] != 4 {
		t.Errorf("%v at once", j.Counts)
	}
	if _, err := l.api.JobCommand(t.Context(), started.ID, "abort"); err != nil {
		t.Fatal(err)
	}
	j = l.job(started.ID, "the end of what was under way", func(j api.JobDetail) bool { return j.Counts["running"] == 0 })
	if j.State != "aborted" || j.Counts["skipped"] != 4 {
		t.Errorf("%s %v", j.State, j.Counts)
	}

	// The device that does not answer fails; the others are done.
	started, err = l.api.StartJob(t.Context(), api.JobRequest{Kind: "maintain", Task: "clock"})
	if err != nil {
		t.Fatal(err)
	}
	j = l.job(started.ID, "its end", over)
	if j.Counts["done"] != 5 || j.Counts["failed"] != 1 {
		t.Errorf("%v", j.Counts)
	}
	for _, r := range j.Results {
		if r.State == "failed" && (r.UUID != fleet[0].UUID().String() || !strings.HasPrefix(r.Detail, "device_unreachable")) {
			t.Errorf("%+v", r)
		}
	}
	dev := l.until(fleet[0].UUID(), "unreachable", func(d store.Device) bool { return d.Health == "unreachable" })
	if dev.Lifecycle != store.Provisioned {
		t.Errorf("a device out of reach is %s", dev.Lifecycle)
	}
}

// TestDueIsDoneOnce: what becomes due is begun by itself, and a device that was
// looked at is not looked at again all day.
func TestDueIsDoneOnce(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		d := l.fleet(2)[0]
		name := "renamed.corp.example.com"
		l.write(func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, d.UUID(), store.DeviceFacts{FQDN: &name})
		})
		if err := l.s.maintainDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.until(d.UUID(), "its new name", func(dev store.Device) bool {
			return dev.HostName == "renamed" && dev.Lifecycle == store.Provisioned
		})
		if got := d.Snapshot().HostName; got != "renamed" {
			t.Errorf("the device is called %q", got)
		}
		// Its certificate is for the old name: that was seen too.
		if err := l.s.maintainDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		runs := 0
		l.read(func(ctx context.Context, tx *store.Tx) error {
			list, err := tx.Runs(ctx, d.UUID(), 10)
			for _, r := range list {
				if r.Kind == "maintain" {
					runs++
				}
			}
			return err
		})
		if runs != 1 {
			t.Errorf("%d maintain runs", runs)
		}
	})
}

// TestKeyRotation: a new data key takes over everything, in the background, and
// the passwords are what they were.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		fleet := l.fleet(3)
		keys, err := l.api.RotateKey(t.Context())
		if err != nil || len(keys.Keys) != 2 || keys.Left == 0 {
			t.Fatalf("%+v, %v", keys, err)
		}
		if err := l.s.reseal(t.Context()); err != nil {
			t.Fatal(err)
		}
		keys, err = l.api.Keys(t.Context())
		if err != nil || keys.Left != 0 || !keys.Keys[0].Current || keys.Keys[0].Secrets == 0 {
			t.Fatalf("%+v, %v", keys, err)
		}
		for _, d := range fleet {
			if !l.taken(d) {
				t.Errorf("%s: its password cannot be read any more", d.UUID())
			}
		}
	})
}

// TestANewVersionIsDrift: a profile's new version is noticed on devices that an
// older one made, each is looked at once, and then has the new one.
func TestANewVersionIsDrift(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.MaintainAtOnce = 2 }, func(t *testing.T, l *lab) {
		ctx := t.Context()
		fleet := l.fleet(3)
		for _, d := range fleet {
			if dev := l.untilState(d.UUID(), store.Provisioned); dev.Profile != "default" || dev.ProfileVersion != 1 {
				t.Errorf("set up as %q version %d", dev.Profile, dev.ProfileVersion)
			}
		}
		v, err := l.api.ApplyProfile(ctx, "default", api.NewProfile{Document: map[string]any{"certificate_days": 500}})
		newest := v.Version
		if err != nil || newest != 2 {
			t.Fatalf("version %d, %v", newest, err)
		}
		if err := l.s.maintainDue(ctx); err != nil {
			t.Fatal(err)
		}
		live := 0
		l.read(func(ctx context.Context, tx *store.Tx) (err error) {
			events, err := tx.Events(ctx, store.EventFilter{Limit: 1000})
			for _, e := range events {
				if e.Name == "drift_found" && strings.Contains(e.Detail, "is the newest") {
					live++
				}
			}
			return err
		})
		if live != 2 {
			t.Errorf("%d devices were begun, want the 2 that may be at once", live)
		}
		has := func(want int) func() bool {
			return func() bool {
				n := 0
				for _, d := range fleet {
					l.read(func(ctx context.Context, tx *store.Tx) error {
						dev, err := tx.Device(ctx, d.UUID())
						if err == nil && dev.ProfileVersion == newest && dev.Lifecycle == store.Provisioned {
							n++
						}
						return err
					})
				}
				return n >= want
			}
		}
		if !waitFor(t, has(2)) {
			t.Fatal("two devices were not brought to the new version")
		}
		if err := l.s.maintainDue(ctx); err != nil {
			t.Fatal(err)
		}
		if !waitFor(t, has(3)) {
			t.Fatal("the third device was not brought to the new version")
		}
	})
}
