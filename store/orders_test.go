package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// TestForgedOrdersBeginNothing: a run, a job or a device of a job that somebody
// wrote into the database is not carried out, keeps no honest one from it, and
// becomes no honest one by a change.
func TestForgedOrdersBeginNothing(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		now := "CAST(unixepoch('subsec') * 1000 AS integer)"
		if db.Pool() != nil {
			now = "now()"
		}
		exec := func(q string, args ...any) {
			t.Helper()
			if err := db.Exec(t.Context(), fmt.Sprintf(q, args...)); err != nil {
				t.Fatal(err)
			}
		}
		// refused does something that has to be refused, and changes nothing by it.
		refused := func(what string, want error, do func(context.Context, *store.Tx) error) {
			t.Helper()
			if err := db.Write(t.Context(), func(tx *store.Tx) error { return do(t.Context(), tx) }); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			var errs []error
			for n := range 6 {
				errs = append(errs, tx.ImportDevice(ctx, uuid(n), "test", store.DeviceFacts{}))
			}
			return errors.Join(errs...)
		})

		// A run: not claimed, not swept up, not asked for; the next one takes its place.
		exec("INSERT INTO runs (uuid, kind, triggered_by, state, created_at, not_before) VALUES ('%s', 'unprovision', 'api', 'queued', "+
			"%s, %s)", uuid(1), now, now)
		id, err := db.Count(t.Context(), "SELECT id FROM runs")
		if err != nil {
			t.Fatal(err)
		}
		refused("claim", store.ErrGone, func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.Claim(ctx, int64(id), "node", time.Minute)
			return err
		})
		refused("ask", store.ErrGone, func(ctx context.Context, tx *store.Tx) error { return tx.AskForRun(ctx, int64(id), time.Time{}) })
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			d, err := tx.Device(ctx, uuid(1))
			waiting, err2 := tx.WaitingRuns(ctx, 0, 0)
			live, err3 := tx.LiveRuns(ctx, []amt.UUID{uuid(1)})
			if d.Owner != "" || d.Fence != 0 || len(waiting) != 0 || len(live) != 0 {
				t.Errorf("owner %q, fence %d, %d waiting, %d live", d.Owner, d.Fence, len(waiting), len(live))
			}
			return errors.Join(err, err2, err3)
		})
		var own store.Run
		write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
			own, err = tx.CreateRun(ctx, store.NewRun{UUID: uuid(1), Kind: "maintain", Trigger: "timer"})
			return err
		})
		refused("a second run", store.ErrConflict, func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.CreateRun(ctx, store.NewRun{UUID: uuid(1), Kind: "maintain", Trigger: "timer"})
			return err
		})
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.AskForRun(ctx, own.ID, time.Time{}) })
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			old, err := tx.Run(ctx, int64(id))
			if old.State != store.RunCancelled || old.Reason != reason.Cancelled || old.Detail == "" {
				t.Errorf("the run that gave way: %+v", old)
			}
			c, err2 := tx.Claim(ctx, own.ID, "node", time.Minute)
			if c.Run.Trigger != "api" || c.Run.Kind != "maintain" {
				t.Errorf("claimed %+v", c.Run)
			}
			return errors.Join(err, err2)
		})

		// A job: it moves nowhere but to its end.
		var job int64
		write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
			if job, err = tx.CreateJob(ctx, store.BulkJob{Kind: "rollout", Target: "office@2", Cause: "version", State: store.JobWaiting,
				Canary: 1, CreatedBy: "system"}); err != nil {
				return err
			}
			if err := tx.AddJobItems(ctx, job, []amt.UUID{uuid(5)}); err != nil {
				return err
			}
			return tx.SetJobState(ctx, job, store.JobRunning, "")
		})
		exec("INSERT INTO jobs (kind, filter, options, state, target, cause, created_by, created_at, stopped_at) SELECT kind, filter, " +
			"options, 'draft', target, cause, created_by, created_at, created_at FROM jobs")
		forged := job + 1
		for _, state := range []string{store.JobWaiting, store.JobRunning} {
			refused("begin a forged job", store.ErrGone,
				func(ctx context.Context, tx *store.Tx) error { return tx.SetJobState(ctx, forged, state, "bob") })
		}
		refused("resume a forged job", store.ErrGone, func(ctx context.Context, tx *store.Tx) error { return tx.ResumeJob(ctx, forged) })
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			if got, err := tx.RolloutOf(ctx, "office@2", "version"); got != job || err != nil {
				t.Errorf("devices join job %d, %v", got, err)
			}
			stopped, err := tx.Jobs(ctx, store.JobStopped, 0)
			j, err2 := tx.Job(ctx, forged)
			if len(stopped) != 0 || j.State != store.JobForged || j.Detail == "" {
				t.Errorf("%d stopped; %+v", len(stopped), j)
			}
			return errors.Join(err, err2)
		})
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.SetJobState(ctx, forged, store.JobAborted, "")
		})

		// Devices of a job: those put in are not begun, take no room, and prove nothing.
		for n := range 4 {
			exec("INSERT INTO job_items (job_id, uuid, state, wave, updated_at) VALUES (%d, '%s', '%s', %d, %s)", job, uuid(n),
				[]string{"waiting", "waiting", "done", "running"}[n], []int{0, 0, 1, 2}[n], now)
		}
		exec("UPDATE job_items SET run_id = %d WHERE uuid = '%s'", id, uuid(3))
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			for _, best := range []bool{true, false} {
				items, err := tx.NextInWave(ctx, job, false, best, 1)
				if err != nil || len(items) != 1 || items[0].UUID != uuid(5) {
					t.Errorf("next: %+v, %v", items, err)
				}
			}
			items, err := tx.JobItems(ctx, job, store.ItemWaiting, amt.UUID{}, 1)
			if err != nil || len(items) != 1 || items[0].UUID != uuid(5) {
				t.Errorf("waiting: %+v, %v", items, err)
			}
			waves, err := tx.JobWaves(ctx, job)
			ended, _, err2 := tx.JobEnded(ctx, job, 0)
			if len(waves) != 0 || len(ended) != 0 {
				t.Errorf("waves %v, ended %v", waves, ended)
			}
			all, err3 := tx.JobItems(ctx, job, "", amt.UUID{}, 0)
			for _, i := range all {
				if forged := i.UUID != uuid(5) && i.UUID != uuid(2); len(all) != 5 || forged != (i.State == store.ItemForged) {
					t.Errorf("item %+v", i)
				}
			}
			return errors.Join(err, err2, err3)
		})
		found, err := db.CheckRows(t.Context())
		if err != nil || found.Count != 4 || found.Tables["job_items"] != 4 ||
			found.Some[0] != fmt.Sprintf("job_items %d:%s", job, uuid(0)) {
			t.Errorf("%+v, %v", found, err)
		}
		// What is honest goes its way: begun, proved, done.
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			items, err := tx.NextInWave(ctx, job, false, true, 1)
			if err != nil {
				return err
			}
			i := items[0]
			i.State, i.Wave, i.Proves, i.RunID = store.ItemDone, 1, 0, own.ID
			return tx.PutJobItem(ctx, i)
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			waves, err := tx.JobWaves(ctx, job)
			if waves[1] != (store.Wave{Done: 1}) {
				t.Errorf("waves %v", waves)
			}
			return err
		})
	})
}
