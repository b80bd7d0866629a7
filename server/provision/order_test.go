package provision

import (
	"context"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// TestRetriesAreOrderedByTheWindow: the next attempt at a device whose window
// ends soon goes before the next attempts at those that have time. Each goes one
// step behind a first attempt at a device of the same window.
func TestRetriesAreOrderedByTheWindow(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		asked := map[int64]int{}
		for _, c := range []struct {
			name string
			left time.Duration // of the window; 0: not known
			kind string
			want int
		}{
			{"half an hour is left", 30 * time.Minute, KindProvision, queue.Normal},
			{"it should be over", -time.Minute, KindProvision, queue.Normal},
			{"three hours are left", 3 * time.Hour, KindProvision, queue.Background},
			{"a day is left", 24 * time.Hour, KindProvision, queue.Idle},
			{"not known", 0, KindProvision, queue.Background},
			{"managed", 0, KindMaintain, queue.Background},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := l.in(t)
				l.engine.Store.(*Journal).Enqueue = func(_ context.Context, _ *store.Tx, id int64, _ time.Time, priority int) error {
					asked[id] = priority
					return nil
				}
				d := l.device("11", sim.With(sim.Fault{Kind: sim.NeverListen}))
				if c.kind == KindMaintain {
					d = l.managed("11")
					l.order(d, KindMaintain, "")
					_ = d.Close()
				} else {
					l.hello(d)
				}
				if c.left != 0 {
					at := time.Now().Add(c.left)
					if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
						return tx.UpdateDevice(t.Context(), d.UUID(), store.DeviceFacts{WindowUntil: &at})
					}); err != nil {
						t.Fatal(err)
					}
				}
				_, id := l.look(d)
				if _, err := l.engine.Work(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				dev, next := l.look(d)
				if next == 0 || next == id {
					t.Fatalf("nothing is to come: %s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
				}
				if asked[next] != c.want {
					t.Errorf("the next attempt has priority %d, want %d", asked[next], c.want)
				}
			})
		}
	})
}
