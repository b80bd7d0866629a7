package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/store"
)

// TestALimitIsOneForAllNodes: within any hour no more than the limit, whoever
// counts, and the table keeps no more rows than questions can find.
func TestALimitIsOneForAllNodes(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		three := store.Limit{Kind: store.LatelyReveal, Most: 3, Within: time.Hour}
		start := time.Date(2026, 3, 1, 8, 59, 0, 0, time.UTC)
		take := func(l store.Limit, key string, after time.Duration) (until time.Time) {
			t.Helper()
			write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
				until, err = tx.Take(ctx, l, key, start.Add(after))
				return err
			})
			return until
		}
		for _, after := range []time.Duration{0, 20 * time.Minute, 40 * time.Minute} {
			if until := take(three, "a", after); !until.IsZero() {
				t.Errorf("the one after %v is refused until %s", after, until)
			}
		}
		if until := take(three, "a", 40*time.Minute); !until.Equal(start.Add(time.Hour)) {
			t.Errorf("the fourth in an hour: allowed at %s", until)
		}
		if until := take(three, "b", 40*time.Minute); !until.IsZero() {
			t.Errorf("another key: %s", until)
		}
		if until := take(three, "a", time.Hour); !until.IsZero() {
			t.Errorf("an hour later: %s", until)
		}
		if until := take(store.Limit{Kind: store.LatelyReveal, Within: time.Hour}, "c", 0); until.IsZero() {
			t.Error("a limit of none lets one through")
		}

		// At the same moment, and many: as many as are allowed, and no more rows.
		var mu sync.Mutex
		var wg sync.WaitGroup
		allowed := 0
		for range 20 {
			wg.Go(func() {
				ok := false
				err := db.Write(t.Context(), func(tx *store.Tx) error {
					until, err := tx.Take(t.Context(), three, "crowd", start)
					ok = until.IsZero()
					return err
				})
				if err != nil {
					t.Error(err)
				}
				if ok {
					mu.Lock()
					allowed++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if allowed != 3 {
			t.Errorf("%d of a crowd were let through", allowed)
		}
		for i := range 20 {
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				return tx.Count(ctx, three, "counted", start.Add(time.Duration(i)*time.Second))
			})
		}
		p, err := db.Prune(t.Context(), store.Retention{LatelyAge: time.Hour}) // all of it is long ago
		if want := int64(3 + 1 + 3 + 3); err != nil || p.Lately != want {
			t.Errorf("%d rows, want %d, no more of a key than its limit: %v", p.Lately, want, err)
		}
	})
}
