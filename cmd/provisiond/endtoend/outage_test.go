//go:build long

package endtoend

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
)

// TestLongDatabaseAway: the database is away for 30 s in the middle of a fleet. No
// device is told a password meanwhile, hellos that come in are kept, and when it is
// back all devices become managed, none twice, every password known.
func TestLongDatabaseAway(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		seat(t)
		pg := pgtest.Start(t)
		newSite(t, pg.URL()).outage(func() { pg.Kill(t) }, func() { pg.Restart(t) })
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, "")
		// There is no server to stop: somebody else keeps the file locked.
		var db *sql.DB
		s.outage(func() {
			var err error
			if db, err = sql.Open("sqlite", "file:"+filepath.Join(s.path("data"), store.DatabaseFile)+
				"?_pragma=busy_timeout(30000)"); err != nil {
				t.Fatal(err)
			}
			db.SetMaxOpenConns(1)
			t.Cleanup(func() { _ = db.Close() })
			if _, err := db.ExecContext(context.Background(), "BEGIN IMMEDIATE"); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if _, err := db.ExecContext(context.Background(), "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
		})
	})
}

func (s *site) outage(away, back func()) {
	t := s.t
	const before, during = 40, 10
	d := s.serve(nil)
	h := s.herd()
	slow := func(c *sim.Config) { c.Latency = 100 * time.Millisecond }
	wake := time.NewTicker(100 * time.Millisecond)
	defer wake.Stop()
	for i := range before {
		<-wake.C
		h.live(2*time.Second, one(d.hello), h.add(generations[i%len(generations)], slow))
	}
	poll(t, "some are managed, others under way", 2*time.Minute, func() bool {
		n := d.metric(`provisiond_devices{state="provisioned"}`)
		return n >= before/8 && n < before*7/8 && d.metric("provisiond_sessions_active") >= 3
	})
	away()
	gone := time.Now()
	// What was written down before may still arrive.
	<-time.After(3 * time.Second)
	told := h.told()
	var quiet []*sim.Device
	for i := range during {
		dev := h.add(generations[i%len(generations)], nil)
		quiet = append(quiet, dev)
		if err := dev.SayHello(t.Context(), d.hello); err != nil { // once, and never again
			t.Fatal(err)
		}
	}
	<-time.After(30*time.Second - time.Since(gone))
	for _, dev := range quiet {
		told[dev.UUID()] = 0
	}
	if diff := cmp.Diff(told, h.told()); diff != "" {
		t.Errorf("passwords that devices were told, 3 s and 30 s after the database went (-3 s +30 s):\n%s", diff)
	}
	lasted := time.Since(gone)
	back()
	returned := time.Now()
	d.managed(before+during, 45*time.Second)
	took := time.Since(returned)
	h.settled(d)
	d.stop()
	t.Logf("the database was away for %.0f s: %d devices that were under way and %d that said hello once meanwhile were all managed %.1f "+
		"s after it came back, no password was sent meanwhile",
		lasted.Seconds(), before, during, took.Seconds())
}

// told counts the passwords that each device was ever told.
func (h *herd) told() map[amt.UUID]int {
	m := map[amt.UUID]int{}
	for _, dev := range h.devices {
		snap := dev.Snapshot()
		m[snap.UUID] = len(snap.SecretsSeen) + len(snap.AdminHA1Seen)
	}
	return m
}
