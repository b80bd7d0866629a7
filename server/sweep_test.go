package server

import (
	"context"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
)

// TestSweepGoesByTheDatabasesClock: a run that has waited for some seconds has its
// job in the queue. A node whose clock is ahead must not think that it was lost,
// and queue it again every five seconds.
func TestSweepGoesByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	at := pgtest.URL(t)
	c, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	// The database's clock is an hour behind ours.
	for _, q := range []string{
		"CREATE SCHEMA behind",
		"CREATE FUNCTION behind.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$SELECT pg_catalog.clock_timestamp() - " +
			"interval '1 hour'$$",
	} {
		if _, err := c.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", "behind,pg_catalog,public")
	u.RawQuery = q.Encode()
	l := newLab(t, store.Postgres, func(o *Options) { o.DatabaseURL = u.String() })
	l.sweepsAlone()
	var run store.Run
	l.write(func(ctx context.Context, tx *store.Tx) error {
		id := newUUID()
		if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: id, From: netip.MustParseAddrPort("10.0.0.1:1"), Version: 3}); err != nil {
			return err
		}
		var err error
		run, err = tx.CreateRun(ctx, store.NewRun{UUID: id, Kind: "provision", Trigger: "hello",
			NotBefore: tx.Now().Add(-20 * time.Second)})
		return err
	})
	if off := time.Since(run.NotBefore); off < 50*time.Minute {
		t.Fatalf("the clocks differ by %s only", off)
	}
	if jobs := l.sweep(); jobs != 0 {
		t.Errorf("%d jobs for a run that waits for 20 seconds", jobs)
	}
}

// TestABusyQueueIsNotFilledBySweeps: a run whose turn does not come for an hour is
// given one more job, in case it has lost its own, and not one with each sweep.
func TestABusyQueueIsNotFilledBySweeps(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.Postgres, nil)
	l.sweepsAlone()
	l.write(func(ctx context.Context, tx *store.Tx) error {
		id := newUUID()
		if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: id, From: netip.MustParseAddrPort("10.0.0.1:1"), Version: 3}); err != nil {
			return err
		}
		_, err := tx.CreateRun(ctx, store.NewRun{UUID: id, Kind: "provision", Trigger: "hello", NotBefore: tx.Now().Add(-time.Hour)})
		return err
	})
	began := time.Now()
	for n := range 5 {
		if jobs, most := l.sweep(), 1+int(time.Since(began)/jobLost); jobs < 1 || jobs > most {
			t.Errorf("%d jobs after %d sweeps, want %d", jobs, n+1, most)
		}
	}
}

// sweepsAlone stops the queue, so that nothing is worked and nobody else sweeps,
// and makes the first sweep, which is for what a restored database holds.
func (l *lab) sweepsAlone() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	if err := l.s.queue.Stop(ctx); err != nil {
		l.t.Fatal(err)
	}
	l.sweep()
}

// sweep counts the jobs afterwards.
func (l *lab) sweep() (jobs int) {
	l.t.Helper()
	if err := l.s.sweep(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	if err := l.s.DB.Pool().QueryRow(l.t.Context(), "SELECT count(*) FROM river_job WHERE kind = 'run'").Scan(&jobs); err != nil {
		l.t.Fatal(err)
	}
	return jobs
}
