package store_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/store"
)

// TestNewestAudit: pages from the newest on, each record once, whatever is looked for.
func TestNewestAudit(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			for i := range 25 {
				r := store.AuditRecord{Actor: fmt.Sprintf("token:A_%d", i%2), Action: "device.approve", Subject: fmt.Sprint(i)}
				if err := tx.Audit(ctx, r); err != nil {
					return err
				}
			}
			return nil
		})
		all := func(f store.AuditFilter) (seqs []int64) {
			t.Helper()
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				for {
					page, next, err := tx.NewestAudit(ctx, f)
					for _, r := range page {
						seqs = append(seqs, r.Seq)
					}
					if err != nil || next == 0 {
						return err
					}
					f.Before = next
				}
			})
			return seqs
		}
		got := all(store.AuditFilter{Limit: 10})
		if len(got) != 25 || got[0] != 25 || got[24] != 1 {
			t.Errorf("%v", got)
		}
		if d := cmp.Diff([]int64{24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2},
			all(store.AuditFilter{Limit: 5, Actor: "a_1", Action: "APPROVE"})); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
		if got := all(store.AuditFilter{Actor: "a%1"}); got != nil {
			t.Errorf("a percent sign found %v", got)
		}

		// By time. All was written just now, so that the borders are around it.
		var now time.Time
		read(t, db, func(_ context.Context, tx *store.Tx) error { now = tx.Now(); return nil })
		hour := time.Hour
		for _, c := range []struct {
			name string
			f    store.AuditFilter
			want int
		}{
			{"since an hour ago", store.AuditFilter{Since: now.Add(-hour)}, 25},
			{"since the next hour", store.AuditFilter{Since: now.Add(hour)}, 0},
			{"until an hour ago", store.AuditFilter{Until: now.Add(-hour)}, 0},
			{"until the next hour", store.AuditFilter{Until: now.Add(hour), Limit: 7}, 25},
			{"between, and by one", store.AuditFilter{Since: now.Add(-hour), Until: now.Add(hour), Actor: "a_1", Limit: 4}, 12},
		} {
			if got := all(c.f); len(got) != c.want {
				t.Errorf("%s: %v, want %d", c.name, got, c.want)
			}
		}
	})
}
