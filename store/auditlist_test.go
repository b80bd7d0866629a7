package store_test

import (
	"context"
	"fmt"
	"testing"

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
		if d := cmp.Diff([]int64{24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2}, all(store.AuditFilter{Limit: 5, Actor: "a_1", Action: "APPROVE"})); d != "" {
			t.Errorf("(-want +got)\n%s", d)
		}
		if got := all(store.AuditFilter{Actor: "a%1"}); got != nil {
			t.Errorf("a percent sign found %v", got)
		}
	})
}
