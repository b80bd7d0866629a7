package server

import (
	"context"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestWhatWaitsForTomorrow: a pause that was written while the clock was a day
// ahead does not last a day, though the device says nothing more.
func TestWhatWaitsForTomorrow(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Retry = []time.Duration{time.Hour} }, func(t *testing.T, l *lab) {
		u, from := newUUID(), address()
		l.hello(from, u, 0, l.roots())
		var waits store.Run
		l.until(u, "a pause after nobody answered", func(d store.Device) bool {
			found := false
			l.read(func(ctx context.Context, tx *store.Tx) error {
				r, err := tx.LiveRun(ctx, u)
				found = err == nil && r.State == store.RunQueued && r.NotBefore.After(time.Now().Add(time.Minute))
				waits = r
				return nil
			})
			return found
		})
		if err := l.s.DB.Write(t.Context(), func(tx *store.Tx) error {
			return tx.PostponeRun(t.Context(), waits.ID, time.Now().Add(25*time.Hour))
		}); err != nil {
			t.Fatal(err)
		}
		l.device(sim.Faults{}, func(c *sim.Config) { c.UUID, c.Addr = u, from })
		l.untilState(u, store.Provisioned)
	})
}
