package rest

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/provisiond/provisiond/store"
)

// TestCountsOfALargeFleetRest: a small fleet is counted for every page; a large
// one is shown as it was, with its age, for twenty times as long as it took.
func TestCountsOfALargeFleetRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c counter
		asked, few := 0, 10
		ask := func(takes time.Duration, fails error) (fleetCounts, error) {
			return c.count(func() (fleetCounts, error) {
				asked++
				time.Sleep(takes)
				return fleetCounts{lifecycles: map[store.Lifecycle]int{store.Failed: asked, store.Provisioned: few}}, fails
			})
		}
		for i := range 3 {
			if got, err := ask(time.Second, nil); err != nil || got.lifecycles[store.Failed] != i+1 || !got.at.IsZero() {
				t.Errorf("a small fleet, the %d. time: %+v, %v", i, got, err)
			}
		}
		few = 1_000_000
		if got, err := ask(time.Second, nil); err != nil || got.lifecycles[store.Failed] != 4 || !got.at.IsZero() {
			t.Errorf("the first time it takes long: %+v, %v", got, err)
		}
		counted := time.Now()
		time.Sleep(19 * time.Second)
		if got, err := ask(time.Second, nil); err != nil || got.lifecycles[store.Failed] != 4 || !got.at.Equal(counted) {
			t.Errorf("19 s later: %+v, %v", got, err)
		}
		time.Sleep(2 * time.Second)
		if got, err := ask(time.Second, nil); err != nil || got.lifecycles[store.Failed] != 5 || !got.at.IsZero() {
			t.Errorf("21 s later: %+v, %v", got, err)
		}
		time.Sleep(21 * time.Second)
		if _, err := ask(time.Second, errors.New("away")); err == nil {
			t.Error("a count that failed was given")
		}
		if got, err := ask(0, nil); err != nil || got.lifecycles[store.Failed] != 7 {
			t.Errorf("after one that failed: %+v, %v", got, err)
		}
	})
}
