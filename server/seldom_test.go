package server

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/provisiond/provisiond/store"
)

// TestWorkThatTakesLongComesSeldom: a timer of 15 s whose work takes 2 s of a
// large fleet does it each 40 s or so, and one that failed tries again at once.
func TestWorkThatTakesLongComesSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		did, takes, fails := 0, time.Duration(0), error(nil)
		work := seldom(func(context.Context) error {
			did++
			time.Sleep(takes)
			return fails
		})
		tick := func(times int) int {
			before := did
			for range times {
				_ = work(t.Context())
				time.Sleep(15 * time.Second)
			}
			return did - before
		}
		if n := tick(10); n != 10 {
			t.Errorf("work that takes no time was done %d times of 10", n)
		}
		takes = 2 * time.Second
		if n := tick(12); n != 4 {
			t.Errorf("work that takes 2 s was done %d times of 12", n)
		}
		time.Sleep(time.Minute)
		fails = errors.New("the database is away")
		if n := tick(5); n != 5 {
			t.Errorf("work that fails was tried %d times of 5", n)
		}
		takes, fails = time.Hour, nil
		tick(1)
		time.Sleep(10 * time.Minute)
		if n := tick(1); n != 1 {
			t.Error("after ten minutes it was not done")
		}
	})
}

// TestFactsOfALargeFleet: the figures of a fleet that takes 2 s to count are
// read by the timer alone, each 40 s, and a scrape shows the old ones at once.
func TestFactsOfALargeFleet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reads, takes, devices := 0, 2*time.Second, 1_000_000
		f := &facts{read: func(context.Context) (store.Facts, error) {
			reads++
			time.Sleep(takes)
			return store.Facts{Due: reads, Lifecycle: map[store.Lifecycle]int{store.Provisioned: devices}}, nil
		}}
		if err := f.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 30 { // five minutes, a scrape and a turn of the timer each ten seconds
			time.Sleep(10 * time.Second)
			began := time.Now()
			if got, at, good := f.now(); !good || got.Due != reads || time.Since(at) > 55*time.Second || time.Since(began) != 0 {
				t.Errorf("a scrape waited %v for figures %v old, good %v", time.Since(began), time.Since(at), good)
			}
			if err := f.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if reads < 6 || reads > 8 {
			t.Errorf("read %d times in five minutes, want 7", reads)
		}
		takes, devices = 0, 100
		time.Sleep(time.Minute)
		if err := f.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := reads
		time.Sleep(time.Second)
		if got, _, _ := f.now(); got.Due != before+1 {
			t.Error("a scrape of a small fleet does not read for itself")
		}
	})
}
