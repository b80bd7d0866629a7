package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
)

// TestWhoIsLost: a device is lost when it was changed, no run came to a good end since,
// and it cannot be spoken to; one that was told nothing is out of reach and no more.
func TestWhoIsLost(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		var uuids []amt.UUID
		for n := range 4 {
			h := helloOf(n + 1)
			u := h.UUID
			uuids = append(uuids, u)
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				if _, _, err := tx.SeeHello(ctx, h); err != nil {
					return err
				}
				return tx.Transition(ctx, store.Transition{UUID: u, To: store.Provisioned, Event: "verified", Actor: "test"})
			})
		}
		mark := func(u amt.UUID, sent, unanswered, want bool) {
			t.Helper()
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				lost, err := tx.MarkUnproved(ctx, u, sent, unanswered)
				if lost != want {
					t.Errorf("sent %t, unanswered %t: newly lost %t", sent, unanswered, lost)
				}
				return err
			})
		}
		before := time.Now().Add(-time.Minute)
		mark(uuids[0], false, true, false) // switched off
		mark(uuids[1], true, true, true)   // gone in the middle of a change
		mark(uuids[1], false, true, false) // and still gone: not lost anew
		mark(uuids[2], true, false, false) // the node was killed between change and proof
		mark(uuids[2], false, true, true)  // and the next attempt finds nobody
		mark(uuids[3], true, true, true)
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.MarkAnswered(ctx, uuids[3]) })
		mark(uuids[3], false, true, false) // switched off later, with nothing unproved
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			lost, err := tx.LostDevices(ctx, before, 10)
			if len(lost) != 2 || lost[0].UUID != uuids[1] || lost[1].UUID != uuids[2] || lost[0].Tried {
				t.Errorf("%+v", lost)
			}
			if later, err := tx.LostDevices(ctx, time.Now().Add(time.Hour), 10); err != nil || len(later) != 0 {
				t.Errorf("%+v, %v", later, err)
			}
			return err
		})
	})
}
