package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
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
		started, err := l.api.StartJob(ctx, api.JobRequest{Kind: "rotate", All: true, Note: "quarterly"})
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
		undo := api.JobRequest{Kind: "unprovision", Mode: "full", All: true, NeedApprover: true}
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
	// The one that is gone is the first, by UUID, so that both jobs call it: more
	// often together than an address that is silent is called in an hour by itself.
	slices.SortFunc(fleet, func(a, b *sim.Device) int { return strings.Compare(a.UUID().String(), b.UUID().String()) })
	if err := fleet[0].Close(); err != nil {
		t.Fatal(err)
	}
	started, err := l.api.StartJob(t.Context(), api.JobRequest{Kind: "maintain", All: true, PerMinute: 12, Confirm: "6"})
	if err != nil {
		t.Fatal(err)
	}
	// A sixth of 12 at a time, and 10 seconds between: with the one that is gone
	// and the one that is proved after it two have begun, then no more at once.
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
	started, err = l.api.StartJob(t.Context(), api.JobRequest{Kind: "maintain", Task: "clock", All: true, Confirm: "maintain 6"})
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
		for _, d := range fleet {
			l.until(d.UUID(), "the new version", func(d store.Device) bool {
				return d.ProfileVersion == newest &&
					d.Lifecycle == store.Provisioned
			})
		}
		if n := l.drifted("is the newest"); n != 3 {
			t.Errorf("%d times a device was found to differ, want each once", n)
		}
		// What a person changes does not wait for the next day.
		if _, err := l.api.ApplyProfile(ctx, "kiosk", api.NewProfile{Document: map[string]any{"certificate_days": 300}}); err != nil {
			t.Fatal(err)
		}
		one := fleet[0].UUID()
		if _, err := l.api.Change(ctx, "assign-profile", one.String(), api.ChangeBody{Change: api.Change{Profile: "kiosk"}}); err != nil {
			t.Fatal(err)
		}
		if err := l.s.maintainDue(ctx); err != nil {
			t.Fatal(err)
		}
		l.until(one, "the profile that it was given", func(d store.Device) bool {
			return d.Profile == "kiosk" && d.ProfileVersion == 1 && d.Lifecycle == store.Provisioned
		})
		if err := l.s.maintainDue(ctx); err != nil {
			t.Fatal(err)
		}
		l.read(func(ctx context.Context, tx *store.Tx) error {
			if run, err := tx.LiveRun(ctx, one); err == nil {
				t.Errorf("run %d (%s) was begun although nothing is due", run.ID, run.Kind)
			}
			return nil
		})
	})
}

// TestCommandJobs: what can be said to one device can be said to all that a
// query finds, with a result for each.
func TestCommandJobs(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Admission = admit.Approve }, func(t *testing.T, l *lab) {
		ctx := t.Context()
		var fleet []*sim.Device
		for range 4 {
			d := l.device(sim.Faults{})
			l.says(d)
			l.untilState(d.UUID(), store.PendingApproval)
			fleet = append(fleet, d)
		}
		start := func(j api.JobRequest, want map[string]int) api.JobDetail {
			t.Helper()
			dry := j
			dry.DryRun = true
			preview, err := l.api.StartJob(ctx, dry)
			if err != nil || preview.ID != 0 || preview.Devices == 0 || len(preview.Sample) == 0 {
				t.Fatalf("preview of %s: %+v, %v", j.Kind, preview, err)
			}
			j.Confirm = preview.Confirm
			made, err := l.api.StartJob(ctx, j)
			if err != nil || made.Devices != preview.Devices {
				t.Fatalf("%s: %+v, %v; the preview said %d", j.Kind, made, err, preview.Devices)
			}
			done := l.job(made.ID, j.Kind, over)
			for state, n := range want {
				if done.Counts[state] != n {
					t.Errorf("%s: %v, want %v: %+v", j.Kind, done.Counts, want, done.Results)
					break
				}
			}
			return done
		}
		dev := func(d *sim.Device) (out store.Device) {
			l.read(func(ctx context.Context, tx *store.Tx) (err error) {
				out, err = tx.Device(ctx, d.UUID())
				return err
			})
			return out
		}

		if _, err := l.api.StartJob(ctx, api.JobRequest{Kind: "tag"}); err == nil {
			t.Error("a job that says no tags was begun")
		}
		if _, err := l.api.StartJob(ctx, api.JobRequest{Kind: "assign-profile", Change: api.Change{Profile: "kiosk"}}); err == nil {
			t.Error("a profile that does not exist was assigned")
		}
		if _, err := l.api.ApplyProfile(ctx, "kiosk", api.NewProfile{Document: map[string]any{"certificate_days": 300}}); err != nil {
			t.Fatal(err)
		}
		start(api.JobRequest{Kind: "tag", All: true, Change: api.Change{Tags: []string{"branch", "lobby"}}}, map[string]int{"done": 4})
		one := fleet[0].UUID().String()
		start(api.JobRequest{Kind: "untag", Devices: []string{one}, Change: api.Change{Tags: []string{"lobby", "never"}}},
			map[string]int{"done": 1})
		if got := dev(fleet[0]).Tags; !slices.Equal(got, []string{"branch"}) {
			t.Errorf("tags %q", got)
		}
		// What was taken out can be taken back, and asks to be let in anew.
		start(api.JobRequest{Kind: "retire", Devices: []string{one}}, map[string]int{"done": 1})
		start(api.JobRequest{Kind: "restore", All: true}, map[string]int{"done": 1})
		if got := dev(fleet[0]); got.Lifecycle != store.Discovered || got.Approved {
			t.Errorf("restored, it is %s, approved: %t", got.Lifecycle, got.Approved)
		}
		start(api.JobRequest{Kind: "assign-profile", Query: "tag:lobby", Change: api.Change{Profile: "kiosk"}}, map[string]int{"done": 3})
		start(api.JobRequest{Kind: "quarantine", Devices: []string{one}}, map[string]int{"done": 1})
		approved := start(api.JobRequest{Kind: "approve", All: true, Note: "the lobby is ours"}, map[string]int{"done": 3})
		for _, r := range approved.Results {
			if r.RunID == 0 || !strings.Contains(r.Detail, "approved") {
				t.Errorf("%+v", r)
			}
		}
		for _, d := range fleet[1:] {
			got := l.until(d.UUID(), "the profile that it was given", func(d store.Device) bool { return d.Lifecycle == store.Provisioned })
			if got.Profile != "kiosk" || got.ProfileVersion != 1 || got.AssignedProfile != "kiosk" {
				t.Errorf("%s has the profile %q version %d", d.UUID(), got.Profile, got.ProfileVersion)
			}
		}
		if got := dev(fleet[0]); got.Lifecycle != store.Quarantined || got.Approved {
			t.Errorf("the one that is kept out is %s, approved: %t", got.Lifecycle, got.Approved)
		}

		// Turned away, its hellos change nothing, until a person thinks better of it.
		visitor := l.device(sim.Faults{})
		l.says(visitor)
		l.untilState(visitor.UUID(), store.PendingApproval)
		said := start(api.JobRequest{Kind: "reject", All: true, Note: "a visitor"}, map[string]int{"done": 1})
		if r := said.Results[0]; r.UUID != visitor.UUID().String() || !strings.Contains(r.Detail, "turned away") || r.RunID != 0 {
			t.Errorf("%+v", r)
		}
		hellos := dev(visitor).HelloCount
		l.says(visitor)
		l.until(visitor.UUID(), "its next hello", func(d store.Device) bool { return d.HelloCount > hellos })
		if got := dev(visitor); got.Lifecycle != store.Quarantined || got.Reason != reason.Rejected || got.Detail != "a visitor" ||
			got.Approved {
			t.Errorf("turned away, it is %s, %s (%s), approved: %t", got.Lifecycle, got.Reason, got.Detail, got.Approved)
		}
		if _, err := l.api.Act(ctx, "approve", visitor.UUID().String(), "ours after all"); err != nil {
			t.Fatal(err)
		}
		l.untilState(visitor.UUID(), store.Provisioned)
		l.read(func(ctx context.Context, tx *store.Tx) error {
			events, err := tx.Events(ctx, store.EventFilter{UUID: fleet[1].UUID(), Limit: 100})
			found := false
			for _, e := range events {
				found = found || e.Name == "approved" && strings.HasPrefix(e.Actor, "job:") && e.Data["note"] == "the lobby is ours"
			}
			if !found {
				t.Errorf("the timeline does not say which job approved it: %+v", events)
			}
			return err
		})
		start(api.JobRequest{Kind: "release", All: true}, map[string]int{"done": 1})
		if got := dev(fleet[0]); got.Lifecycle != store.Discovered {
			t.Errorf("released, and it is %s", got.Lifecycle)
		}

		// Failures are forgotten, and nothing begins by that.
		l.write(func(ctx context.Context, tx *store.Tx) error {
			if err := tx.Transition(ctx, store.Transition{UUID: fleet[0].UUID(), To: store.Failed, Reason: reason.DeviceUnreachable,
				Event: "attempt_failed", Actor: "test"}); err != nil {
				return err
			}
			many := 7
			return tx.UpdateDevice(ctx, fleet[0].UUID(), store.DeviceFacts{Attempts: &many})
		})
		start(api.JobRequest{Kind: "clear-failures", All: true}, map[string]int{"done": 1})
		if got := dev(fleet[0]); got.Lifecycle != store.Failed || got.Attempts != 0 || got.Reason != reason.DeviceUnreachable {
			t.Errorf("its failures forgotten, it is %s with %d attempts", got.Lifecycle, got.Attempts)
		}
		l.read(func(ctx context.Context, tx *store.Tx) error {
			if run, err := tx.LiveRun(ctx, fleet[0].UUID()); err == nil {
				t.Errorf("run %d began", run.ID)
			}
			events, err := tx.Events(ctx, store.EventFilter{UUID: fleet[0].UUID(), Name: "failures_cleared"})
			if len(events) != 1 || events[0].Actor == "" {
				t.Errorf("%+v", events)
			}
			return err
		})
		start(api.JobRequest{Kind: "retire", Query: "tag:branch"}, map[string]int{"done": 4})
	})
}

// TestForgedItemsHoldUpNoJob: devices that somebody wrote into a job by SQL are
// refused and counted, take no room, and the job comes to its end.
func TestForgedItemsHoldUpNoJob(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		own, other := amt.UUID{1}, amt.UUID{2}
		var job int64
		l.write(func(ctx context.Context, tx *store.Tx) error {
			err := errors.Join(tx.ImportDevice(ctx, own, "test", store.DeviceFacts{}),
				tx.ImportDevice(ctx, other, "test", store.DeviceFacts{}))
			if err != nil {
				return err
			}
			options, err := json.Marshal(operate.JobOptions{Change: api.Change{Tags: []string{"floor-3"}}})
			if err != nil {
				return err
			}
			if job, err = tx.CreateJob(ctx, store.BulkJob{Kind: "tag", State: store.JobWaiting, Options: options,
				CreatedBy: "alice"}); err != nil {
				return err
			}
			if err := tx.AddJobItems(ctx, job, []amt.UUID{own}); err != nil {
				return err
			}
			exec := func(q string) error { // behind the store's back, and before a node looks
				if pg, ok := tx.Handle().(pgx.Tx); ok {
					_, err := pg.Exec(ctx, strings.ReplaceAll(q, "NOW", "now()"))
					return err
				}
				_, err := tx.Handle().(*sql.Tx).ExecContext(ctx, strings.ReplaceAll(q, "NOW", "0"))
				return err
			}
			if err := exec(fmt.Sprintf("INSERT INTO job_items (job_id, uuid, state, updated_at) VALUES (%d, '%s', 'waiting', NOW)", job,
				other)); err != nil {
				return err
			}
			for n := range jobMost { // as many as may be under way
				if err := exec(fmt.Sprintf("INSERT INTO job_items (job_id, uuid, state, updated_at) VALUES (%d, '%s', 'running', NOW)", job,
					amt.UUID{3, byte(n >> 8), byte(n)})); err != nil {
					return err
				}
			}
			return nil
		})
		done := l.job(job, "its end", over)
		if want := map[string]int{"done": 1, "forged": jobMost + 1, "waiting": 0, "running": 0, "handed_over": 0, "failed": 0,
			"skipped": 0}; !maps.Equal(done.Counts, want) || done.Devices != 1 {
			t.Errorf("%d devices, %v, want %v", done.Devices, done.Counts, want)
		}
		l.read(func(ctx context.Context, tx *store.Tx) error {
			d, err := tx.Device(ctx, own)
			strange, err2 := tx.Device(ctx, other)
			if !slices.Equal(d.Tags, []string{"floor-3"}) || len(strange.Tags) != 0 {
				t.Errorf("tags %v and %v", d.Tags, strange.Tags)
			}
			items, err3 := tx.JobItems(ctx, job, store.ItemForged, amt.UUID{}, 1)
			if len(items) != 1 || items[0].UUID != other || items[0].Detail == "" {
				t.Errorf("%+v", items)
			}
			return errors.Join(err, err2, err3)
		})
		if found, err := l.s.DB.CheckRows(t.Context()); err != nil || found.Tables["job_items"] != jobMost+1 {
			t.Errorf("after the end %+v, %v", found, err)
		}
	})
}
