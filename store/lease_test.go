package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

func claim(tb testing.TB, db *store.DB, run int64, node string, lease time.Duration) (c store.Claim, err error) {
	tb.Helper()
	err = db.Write(tb.Context(), func(tx *store.Tx) (err error) {
		c, err = tx.Claim(tb.Context(), run, node, lease)
		return err
	})
	return c, err
}

func TestOneLiveRunPerDevice(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		start := func() (r store.Run, err error) {
			err = db.Write(t.Context(), func(tx *store.Tx) (err error) {
				r, err = tx.CreateRun(t.Context(), store.NewRun{UUID: uuid(1), Kind: "provision", Trigger: "hello", Profile: "p",
					Task: "t"})
				return err
			})
			return r, err
		}
		var first store.Run
		var won, refused atomic.Int32
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				switch r, err := start(); {
				case err == nil:
					won.Add(1)
					first = r
				case errors.Is(err, store.ErrConflict):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || refused.Load() != 15 {
			t.Fatalf("%d runs were made, %d refused", won.Load(), refused.Load())
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			live, err := tx.LiveRun(ctx, uuid(1))
			if diff := cmp.Diff(first, live, cmpopts.IgnoreUnexported(store.Run{})); diff != "" {
				t.Error(diff)
			}
			if live.State != store.RunQueued || live.Profile != "p" || live.Task != "t" || live.Trigger != "hello" ||
				live.NotBefore.IsZero() {
				t.Errorf("%+v", live)
			}
			return err
		})
		finish := func(state string) error {
			return db.Write(t.Context(), func(tx *store.Tx) error {
				return tx.FinishRun(t.Context(), first.ID, state, reason.AuthFailed, "d", "device")
			})
		}
		if err := finish("nearly"); err == nil {
			t.Error("an end that is none was accepted")
		}
		if err := finish(store.RunFailed); err != nil {
			t.Fatal(err)
		}
		if err := finish(store.RunDone); !errors.Is(err, store.ErrGone) {
			t.Errorf("finished twice: %v", err)
		}
		if _, err := start(); err != nil {
			t.Errorf("a new run after the end: %v", err)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			runs, err := tx.Runs(ctx, uuid(1), 0)
			if len(runs) != 2 || runs[1].State != store.RunFailed || runs[1].Reason != reason.AuthFailed || runs[1].Blame != "device" ||
				runs[1].FinishedAt.IsZero() {
				t.Errorf("runs %+v", runs)
			}
			return err
		})
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.CreateRun(t.Context(), store.NewRun{UUID: uuid(9), Kind: "provision", Trigger: "api"})
			return err
		})
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a run for an unknown device: %v", err)
		}
	})
}

func TestALeaseIsHeldByOne(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		r := run(t, db, 1)
		c, err := claim(t, db, r.ID, "a/1", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if c.Fence != 1 || c.Run.State != store.RunRunning || c.Run.Attempt != 1 || c.Run.Node != "a/1" || c.Device.Owner != "a/1" ||
			c.Run.Fence != 1 {
			t.Errorf("claim %+v", c)
		}
		var held store.ErrHeld
		if _, err := claim(t, db, r.ID, "b/1", time.Hour); !errors.As(err, &held) || !near(held.Until, time.Now().Add(time.Hour)) {
			t.Errorf("a second claim: %v", err)
		}
		fence := func(f int64) [2]error {
			var out [2]error
			for i, do := range []func(*store.Tx) error{
				func(tx *store.Tx) error { return tx.CheckFence(t.Context(), uuid(1), f) },
				func(tx *store.Tx) error { return tx.Renew(t.Context(), uuid(1), f, time.Hour) },
			} {
				out[i] = db.Write(t.Context(), do)
			}
			return out
		}
		if e := fence(1); e[0] != nil || e[1] != nil {
			t.Errorf("the holder: %v", e)
		}
		for _, f := range []int64{0, 2} {
			if e := fence(f); !errors.Is(e[0], store.ErrFenced) || !errors.Is(e[1], store.ErrFenced) {
				t.Errorf("fence %d: %v", f, e)
			}
		}
		release := func(f int64, quiet time.Time) error {
			return db.Write(t.Context(), func(tx *store.Tx) error { return tx.Release(t.Context(), uuid(1), f, quiet) })
		}
		if err := release(7, time.Time{}); !errors.Is(err, store.ErrFenced) {
			t.Errorf("released by a stranger: %v", err)
		}
		if err := release(1, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if e := fence(1); !errors.Is(e[0], store.ErrFenced) || !errors.Is(e[1], store.ErrFenced) {
			t.Errorf("after the release, in the quiet period: %v", e)
		}
		if _, err := claim(t, db, r.ID, "b/1", time.Hour); !errors.As(err, &held) || !near(held.Until, time.Now().Add(time.Hour)) {
			t.Errorf("claimed in a quiet period: %v", err)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			got, err := tx.Run(ctx, r.ID)
			if got.State != store.RunQueued {
				t.Errorf("a released run is %s", got.State)
			}
			return err
		})
	})
}

func TestALeaseThatIsOverCanBeTaken(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		r := run(t, db, 1)
		if _, err := claim(t, db, r.ID, "a/1", 0); err != nil {
			t.Fatal(err)
		}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.CheckFence(t.Context(), uuid(1), 1) }); !errors.Is(err,
			store.ErrFenced) {
			t.Errorf("a lease that is over: %v", err)
		}
		c, err := claim(t, db, r.ID, "b/1", time.Hour)
		if err != nil || c.Fence != 2 || c.Run.Attempt != 2 {
			t.Errorf("claim %+v: %v", c, err)
		}
	})
}

func TestARunIsClaimedWhenItIsDueAndLive(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		r := run(t, db, 1)
		move := func(do func(tx *store.Tx) error) {
			if err := db.Write(t.Context(), do); err != nil {
				t.Fatal(err)
			}
		}
		later := time.Now().Add(time.Hour)
		move(func(tx *store.Tx) error { return tx.PostponeRun(t.Context(), r.ID, later) })
		move(func(tx *store.Tx) error { return tx.HastenRun(t.Context(), r.ID, later.Add(time.Hour)) })
		var held store.ErrHeld
		if _, err := claim(t, db, r.ID, "a/1", time.Hour); !errors.As(err, &held) || held.Until.UnixMilli() != later.UnixMilli() {
			t.Errorf("before its time: %v", err)
		}
		move(func(tx *store.Tx) error { return tx.HastenRun(t.Context(), r.ID, time.Time{}) })
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			rows, err := tx.WaitingRuns(ctx, 0, 10)
			oldest, err2 := tx.OldestWaiting(ctx)
			if len(rows) != 1 || !near(oldest, time.Now()) {
				t.Errorf("waiting %v, oldest %v", rows, oldest)
			}
			return errors.Join(err, err2)
		})
		if _, err := claim(t, db, r.ID, "a/1", time.Hour); err != nil {
			t.Error(err)
		}
		move(func(tx *store.Tx) error { return tx.FinishRun(t.Context(), r.ID, store.RunCancelled, "", "", "none") })
		for _, id := range []int64{r.ID, 999} {
			if _, err := claim(t, db, id, "a/1", time.Hour); !errors.Is(err, store.ErrGone) {
				t.Errorf("run %d: %v", id, err)
			}
		}
	})
}

// Sixteen workers on two nodes: at no moment do two hold a device, and no
// stale fence writes.
func TestSixteenWorkersNeverShareADevice(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := place(t, engine)
			nodes := []*store.DB{open(t, o)}
			if engine == store.Postgres {
				nodes = append(nodes, open(t, again(t, o)))
			} else {
				nodes = append(nodes, nodes[0]) // one process owns a file: two nodes inside it
			}
			const devices, cycles = 4, 60
			ids := make([]int64, devices)
			for n := range devices {
				hello(t, nodes[0], n)
				ids[n] = run(t, nodes[0], n).ID
			}
			var owner [devices]atomic.Int64
			var left atomic.Int64
			left.Store(cycles)
			var stale, staleRefused atomic.Int64
			var wg sync.WaitGroup
			for w := range 16 {
				db, name := nodes[w%2], fmt.Sprintf("n%d/%d", w%2, w)
				wg.Go(func() {
					for i := w; left.Load() > 0; i++ {
						n := i % devices
						c, err := claim(t, db, ids[n], name, time.Minute)
						var held store.ErrHeld
						if errors.As(err, &held) {
							continue
						}
						if err != nil {
							t.Error(err)
							return
						}
						if !owner[n].CompareAndSwap(0, c.Fence) {
							t.Errorf("device %d: %s has it while another does", n, name)
						}
						// One who believes in the fence before this one is refused.
						stale.Add(1)
						if err := db.Write(t.Context(),
							func(tx *store.Tx) error { return tx.CheckFence(t.Context(), uuid(n), c.Fence-1) }); errors.Is(err,
							store.ErrFenced) {
							staleRefused.Add(1)
						}
						owner[n].Store(0)
						if err := db.Write(t.Context(),
							func(tx *store.Tx) error { return tx.Release(t.Context(), uuid(n), c.Fence, time.Time{}) }); err != nil {
							t.Error(err)
							return
						}
						left.Add(-1)
					}
				})
			}
			wg.Wait()
			if stale.Load() != staleRefused.Load() {
				t.Errorf("%d of %d stale writes were refused", staleRefused.Load(), stale.Load())
			}
		})
	}
}

func TestTheJournalOfARun(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		r := run(t, db, 1)
		at := time.Date(2026, 1, 1, 0, 0, 0, 5_000_000, time.UTC)
		put := func(s ...store.StepRecord) {
			write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.PutSteps(ctx, r.ID, s) })
		}
		put(store.StepRecord{Seq: 1, Name: "connect", State: "done", Attempt: 1, StartedAt: at, FinishedAt: at},
			store.StepRecord{Seq: 2, Name: "clock", State: "started", Attempt: 1, StartedAt: at})
		put(store.StepRecord{Seq: 2, Name: "clock", State: "failed", Attempt: 1, FinishedAt: at.Add(time.Second), Detail: "d",
			Reason: reason.ClockSyncFailed})
		put(store.StepRecord{Seq: 1, Name: "connect", State: "started", Attempt: 2, StartedAt: at})
		put()
		want := []store.StepRecord{
			{Seq: 1, Name: "connect", State: "done", Attempt: 1, StartedAt: at, FinishedAt: at},
			{Seq: 2, Name: "clock", State: "failed", Attempt: 1, StartedAt: at, FinishedAt: at.Add(time.Second), Detail: "d", Reason: reason.ClockSyncFailed},
			{Seq: 1, Name: "connect", State: "started", Attempt: 2, StartedAt: at},
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			got, err := tx.Steps(ctx, r.ID)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			return err
		})
	})
}
