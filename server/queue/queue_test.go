package queue_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 2 * time.Minute // the race detector makes SQLite thirty times slower

// worker is a function.
type worker func(ctx context.Context, run int64) (time.Time, error)

func (w worker) Work(ctx context.Context, run int64) (time.Time, error) { return w(ctx, run) }

func place(tb testing.TB, engine string) store.Options {
	tb.Helper()
	o := storetest.Options(tb, engine)
	if engine == store.Postgres {
		o.URL += "&pool_max_conns=10"
	}
	return o
}

func open(tb testing.TB, o store.Options) *store.DB {
	tb.Helper()
	db, err := store.Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

func start(tb testing.TB, db *store.DB, cfg queue.Config, w worker) *queue.Queue {
	tb.Helper()
	if cfg.Node == "" {
		cfg.Node = "n1"
	}
	q, err := queue.New(db, cfg, w, zap.NewNop(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	if err := q.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stop(tb, q) })
	return q
}

func stop(tb testing.TB, q *queue.Queue) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := q.Stop(ctx); err != nil {
		tb.Error(err)
	}
}

func enqueue(tb testing.TB, db *store.DB, q *queue.Queue, run int64, at time.Time) {
	tb.Helper()
	err := db.Write(tb.Context(), func(tx *store.Tx) error { return q.EnqueueTx(tb.Context(), tx, run, at, queue.Normal) })
	if err != nil {
		tb.Fatal(err)
	}
}

func forEachEngine(t *testing.T, claim func(t *testing.T, o store.Options)) {
	t.Helper()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			claim(t, place(t, engine))
		})
	}
}

func wait[T any](tb testing.TB, c <-chan T, what string) (v T) {
	tb.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		tb.Fatalf("%s did not happen", what)
	}
	return v
}

func TestAJobIsWorkedWhenItsTransactionCommits(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		worked := make(chan int64, 10)
		q := start(t, db, queue.Config{}, func(_ context.Context, run int64) (time.Time, error) {
			worked <- run
			return time.Time{}, nil
		})
		no := errors.New("no")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			return errors.Join(q.EnqueueTx(t.Context(), tx, 1, time.Time{}, queue.Urgent), no)
		})
		if !errors.Is(err, no) {
			t.Fatal(err)
		}
		enqueue(t, db, q, 2, time.Time{})
		if run := wait(t, worked, "the job"); run != 2 {
			t.Errorf("run %d was worked, its transaction was rolled back", run)
		}
		for _, p := range []int{0, 5} {
			if err := db.Write(t.Context(), func(tx *store.Tx) error {
				return q.EnqueueTx(t.Context(), tx, 1, time.Time{},
					p)
			}); err == nil {
				t.Errorf("priority %d was accepted", p)
			}
		}
	})
}

// The one worker there is takes what has least time left, whatever was asked
// for first.
func TestTheUrgentGoFirst(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		began, goOn := make(chan struct{}), make(chan struct{})
		worked := make(chan int64, 20)
		q := start(t, db, queue.Config{Workers: 1}, func(_ context.Context, run int64) (time.Time, error) {
			if run == 0 {
				close(began)
				<-goOn
			}
			worked <- run
			return time.Time{}, nil
		})
		enqueue(t, db, q, 0, time.Time{})
		wait(t, began, "the first job")
		now := time.Now()
		left := []time.Duration{30 * time.Hour, 5 * time.Hour, 20 * time.Minute, 7 * time.Hour, 2 * time.Hour, -time.Minute}
		if err := db.Write(t.Context(), func(tx *store.Tx) error {
			for i, l := range left {
				if err := q.EnqueueTx(t.Context(), tx, int64(i+1), time.Time{}, queue.Priority(now.Add(l), now)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		var order []int64
		for range len(left) + 1 {
			order = append(order, wait(t, worked, "a job"))
		}
		if want := []int64{0, 3, 6, 2, 5, 1, 4}; !slices.Equal(order, want) {
			t.Errorf("worked in the order %v, want %v", order, want)
		}
	})
}

// Again, an error and a panic each bring the run back.
func TestARunComesBack(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		var calls [4]atomic.Int32
		done := make(chan int64, 10)
		q := start(t, db, queue.Config{}, func(_ context.Context, run int64) (time.Time, error) {
			if calls[run].Add(1) == 1 {
				switch run {
				case 1:
					return time.Now().Add(100 * time.Millisecond), nil
				case 2:
					return time.Time{}, errors.New("the database was away")
				case 3:
					panic("boom")
				}
			}
			done <- run
			return time.Time{}, nil
		})
		for run := range int64(4) {
			enqueue(t, db, q, run, time.Time{})
		}
		for range 4 {
			wait(t, done, "the second attempt")
		}
		for run := range 4 {
			if n := calls[run].Load(); n != int32(min(run, 1)+1) {
				t.Errorf("run %d was worked %d times", run, n)
			}
		}
	})
}

func TestAJobWaitsForItsTime(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		worked := make(chan time.Time, 1)
		q := start(t, db, queue.Config{}, func(context.Context, int64) (time.Time, error) {
			worked <- time.Now()
			return time.Time{}, nil
		})
		at := time.Now().Add(700 * time.Millisecond)
		enqueue(t, db, q, 1, at)
		if got := wait(t, worked, "the job"); got.Before(at.Add(-10 * time.Millisecond)) {
			t.Errorf("worked %s early", at.Sub(got))
		}
	})
}

func TestStopWaitsForWhatRuns(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		began, goOn := make(chan struct{}), make(chan struct{})
		var ended atomic.Bool
		q := start(t, db, queue.Config{}, func(ctx context.Context, _ int64) (time.Time, error) {
			close(began)
			<-goOn
			if ctx.Err() == nil {
				ended.Store(true)
			}
			return time.Time{}, nil
		})
		enqueue(t, db, q, 1, time.Time{})
		wait(t, began, "the job")
		stopped := make(chan struct{})
		go func() { stop(t, q); close(stopped) }()
		select {
		case <-stopped:
			t.Error("stopped while an attempt was under way")
		case <-time.After(100 * time.Millisecond):
		}
		close(goOn)
		wait(t, stopped, "the stop")
		if !ended.Load() {
			t.Error("the attempt was cut off")
		}
		stop(t, q)
		err := db.Read(t.Context(), func(tx *store.Tx) error {
			nodes, err := tx.Nodes(t.Context())
			if len(nodes) != 0 {
				t.Errorf("after leaving: %v", nodes)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestAnImpatientStopCancels(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		began := make(chan struct{})
		q := start(t, db, queue.Config{}, func(ctx context.Context, _ int64) (time.Time, error) {
			close(began)
			<-ctx.Done()
			return time.Time{}, ctx.Err()
		})
		enqueue(t, db, q, 1, time.Time{})
		wait(t, began, "the job")
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if err := q.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// A process that dies in the middle leaves a running job behind. On SQLite the
// next process takes it at once, on Postgres any other node soon.
func TestTheJobsOfADeadNodeAreRescued(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		began := make(chan struct{}, 2)
		ended := make(chan struct{})
		// This one hangs; its heartbeats are so rare that it looks dead.
		dead := start(t, db, queue.Config{Node: "dead/1", Workers: 1, Heartbeat: time.Hour},
			func(context.Context, int64) (time.Time, error) {
				began <- struct{}{}
				<-ended
				return time.Time{}, nil
			})
		t.Cleanup(func() { close(ended) })
		enqueue(t, db, dead, 7, time.Time{})
		wait(t, began, "the first attempt")
		worked := make(chan int64, 2)
		reg := prometheus.NewRegistry()
		m := queue.NewMetrics(reg)
		w := worker(func(_ context.Context, run int64) (time.Time, error) {
			worked <- run
			return time.Time{}, nil
		})
		q, err := queue.New(db, queue.Config{Node: "live/1", Heartbeat: 20 * time.Millisecond, Silent: time.Second}, w, zap.NewNop(), m)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stop(t, q) })
		if run := wait(t, worked, "the rescue"); run != 7 {
			t.Errorf("run %d", run)
		}
		if n, err := testutil.GatherAndCount(reg); err != nil || n == 0 {
			t.Error(n, err)
		}
	})
}

// A node that beats keeps its jobs, however long they take.
func TestALivingNodeKeepsItsJobs(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.Postgres))
	var calls atomic.Int32
	ended := make(chan struct{})
	began := make(chan struct{}, 8)
	a := start(t, db, queue.Config{Node: "a/1", Heartbeat: 50 * time.Millisecond}, func(context.Context, int64) (time.Time, error) {
		calls.Add(1)
		began <- struct{}{}
		<-ended
		return time.Time{}, nil
	})
	enqueue(t, db, a, 7, time.Time{})
	wait(t, began, "the attempt")
	// It was not heard of for a day, until it beats again.
	seen := func() (at time.Time) {
		err := db.Read(t.Context(), func(tx *store.Tx) error {
			nodes, err := tx.Nodes(t.Context())
			if len(nodes) == 1 {
				at = nodes[0].SeenAt
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if _, err := db.Pool().Exec(t.Context(), "UPDATE nodes SET seen_at = now() - interval '1 day'"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Since(seen()) > time.Hour; <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not beat")
		}
	}
	looks := make(chan struct{}, 100)
	b, err := queue.New(db, queue.Config{Node: "b/1", Heartbeat: 50 * time.Millisecond, Silent: time.Hour},
		worker(func(context.Context, int64) (time.Time, error) {
			calls.Add(1)
			return time.Time{}, nil
		}), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Every("look", 60*time.Millisecond, func(context.Context) error { looks <- struct{}{}; return nil })
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		wait(t, looks, "a periodic call")
	}
	close(ended)
	stop(t, b)
	if n := calls.Load(); n != 1 {
		t.Errorf("worked %d times", n)
	}
}

func TestPeriodicWorkGoesOnAfterAPanic(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	q, err := queue.New(db, queue.Config{Node: "n"}, worker(nil), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	calls := make(chan int, 100)
	n := 0
	q.Every("x", time.Millisecond, func(context.Context) error {
		n++
		calls <- n
		if n == 1 {
			panic("boom")
		}
		return errors.New("no")
	})
	if err := q.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 3; want++ {
		if got := wait(t, calls, "a periodic call"); got != want {
			t.Errorf("call %d, want %d", got, want)
		}
	}
	stop(t, q)
}

// Two jobs for one run on two nodes: the lease lets one attempt through.
func TestTwoJobsForOneRunAreOneAttempt(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		uuid := amt.UUID{1}
		var run store.Run
		err := db.Write(t.Context(), func(tx *store.Tx) (err error) {
			if _, _, err = tx.SeeHello(t.Context(), store.SeenHello{UUID: uuid, From: netip.MustParseAddrPort("10.0.0.1:1")}); err != nil {
				return err
			}
			run, err = tx.CreateRun(t.Context(), store.NewRun{UUID: uuid, Kind: "provision", Trigger: "hello"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var attempts, turned atomic.Int32
		turnedAway := make(chan struct{}, 10)
		done := make(chan struct{})
		work := func(node string) worker {
			return func(ctx context.Context, id int64) (time.Time, error) {
				var c store.Claim
				err := db.Write(ctx, func(tx *store.Tx) (err error) { c, err = tx.Claim(ctx, id, node, time.Minute); return err })
				var held store.ErrHeld
				switch {
				case errors.As(err, &held):
					if turned.Add(1) == 1 {
						turnedAway <- struct{}{}
					}
					return time.Now().Add(50 * time.Millisecond), nil
				case errors.Is(err, store.ErrGone):
					return time.Time{}, nil
				case err != nil:
					return time.Time{}, err
				}
				if attempts.Add(1) == 1 {
					<-turnedAway
				}
				err = db.Write(ctx, func(tx *store.Tx) error {
					return errors.Join(tx.CheckFence(ctx, uuid, c.Fence), tx.FinishRun(ctx, id, store.RunDone, "", "", "none"),
						tx.Release(ctx, uuid, c.Fence, time.Time{}))
				})
				close(done)
				return time.Time{}, err
			}
		}
		a := start(t, db, queue.Config{Node: "a/1"}, work("a/1"))
		start(t, db, queue.Config{Node: "b/1"}, work("b/1"))
		for range 2 {
			enqueue(t, db, a, run.ID, time.Time{})
		}
		wait(t, done, "the attempt")
		if attempts.Load() != 1 {
			t.Errorf("%d attempts", attempts.Load())
		}
	})
}

func TestManyJobsAreWorkedOnceEach(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, o store.Options) {
		db := open(t, o)
		const jobs = 120
		var mu sync.Mutex
		seen := map[int64]int{}
		done := make(chan struct{})
		w := func(_ context.Context, run int64) (time.Time, error) {
			mu.Lock()
			defer mu.Unlock()
			if seen[run]++; len(seen) == jobs {
				close(done)
			}
			return time.Time{}, nil
		}
		a := start(t, db, queue.Config{Node: "a"}, w)
		start(t, db, queue.Config{Node: "b"}, w)
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				for run := n; run < jobs; run += 8 {
					enqueue(t, db, a, int64(run), time.Time{})
				}
			})
		}
		wg.Wait()
		wait(t, done, "all of them")
		mu.Lock()
		defer mu.Unlock()
		for run, n := range seen {
			if n != 1 {
				t.Errorf("run %d was worked %d times", run, n)
			}
		}
	})
}

// River shares SQLite's one write connection with the store and still gets
// its turn while hellos flood in.
func TestJobsAreWorkedBesideAFloodOfHellos(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	const jobs = 10
	done := make(chan int64, jobs)
	q := start(t, db, queue.Config{}, func(_ context.Context, run int64) (time.Time, error) {
		done <- run
		return time.Time{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var hellos atomic.Int64
	for n := range 16 {
		flood.Go(func() {
			for ctx.Err() == nil {
				err := db.Write(ctx, func(tx *store.Tx) error {
					_, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: amt.UUID{2, byte(n)}, From: netip.MustParseAddrPort("10.0.0.1:1")})
					return err
				})
				if err == nil {
					hellos.Add(1)
				}
			}
		})
	}
	begin := time.Now()
	for run := range int64(jobs) {
		enqueue(t, db, q, run, time.Time{})
	}
	for range jobs {
		wait(t, done, "a job beside the flood")
	}
	t.Logf("%d jobs in %s beside %d hellos", jobs, time.Since(begin), hellos.Load())
	cancel()
	flood.Wait()
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	for _, cfg := range []queue.Config{{Workers: 5000, Node: "n"}, {Workers: -1, Node: "n"}, {}} {
		if _, err := queue.New(db, cfg, worker(nil), nil, nil); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

// River's modules belong together: a mix compiles and cancels jobs that were
// meant to run. `go get -u` makes one silently.
func TestAllRiverModulesHaveOneVersion(t *testing.T) {
	t.Parallel()
	// A test binary does not say what it is built of, so its source does: with a
	// pruned module graph go.mod names every module that is built in.
	file, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s+(github\.com/riverqueue/river\S*) (v\S+)`).FindAllStringSubmatch(string(file), -1) {
		versions[m[2]] = append(versions[m[2]], m[1])
	}
	if len(versions) != 1 {
		t.Errorf("want one version of all River modules, have %s", fmt.Sprint(versions))
	}
}
