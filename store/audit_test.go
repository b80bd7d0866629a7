package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/store"
)

// TestAuditedTogether has many transactions with several records each, of odd
// words and times, some of which change their mind: one whole chain, in which
// the records of a transaction stand together and those given up are not.
func TestAuditedTogether(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		sorry := errors.New("changed its mind")
		var wg sync.WaitGroup
		const crowd = 60
		for n := range crowd {
			wg.Go(func() {
				err := db.Write(t.Context(), func(tx *store.Tx) error {
					for i, at := range []time.Time{{}, time.Date(2026, 2, 28, 23, 59, 59, 999_999_999, time.FixedZone("", 3600)),
						time.Unix(1, 1_499_999)} {
						if err := tx.Audit(t.Context(), store.AuditRecord{At: at, Actor: fmt.Sprint("Zoë\t", n), Action: "",
							Subject: "漢字 𝄞 '\"\\", Detail: map[string]any{"part": i, "é": "\u2028<"}}); err != nil {
							return err
						}
					}
					if n%3 == 0 {
						return sorry
					}
					return nil
				})
				if n%3 == 0 != errors.Is(err, sorry) || n%3 != 0 && err != nil {
					t.Errorf("%d: %v", n, err)
				}
			})
		}
		wg.Wait()
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			n, err := tx.VerifyAudit(ctx)
			if n != crowd*2/3*3 {
				t.Errorf("%d records", n)
			}
			if err != nil {
				return err
			}
			rows, err := tx.AuditRecords(ctx, 0, 0)
			for i, r := range rows {
				if part := fmt.Sprint(r.Detail["part"]); part != fmt.Sprint(i%3) || r.Actor != rows[i/3*3].Actor {
					t.Errorf("record %d is part %s of %q's", r.Seq, part, r.Actor)
				}
			}
			return err
		})
	})
}

// TestAuditTakesTheChangeWithIt has a record that the database refuses.
func TestAuditTakesTheChangeWithIt(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		if db.Engine() == store.SQLite {
			if err := db.Exec(t.Context(), "CREATE TRIGGER refuse BEFORE INSERT ON audit WHEN NEW.actor = 'refused' BEGIN SELECT "+
				"RAISE(ABORT, 'refused'); END"); err != nil {
				t.Fatal(err)
			}
		} else if err := db.Exec(t.Context(), "ALTER TABLE audit ADD CHECK (actor <> 'refused')"); err != nil {
			t.Fatal(err)
		}
		change := func(actor string) error {
			return db.Write(t.Context(), func(tx *store.Tx) error {
				if err := tx.Audit(t.Context(), store.AuditRecord{Actor: actor, Action: "note"}); err != nil {
					return err
				}
				return tx.PutSetting(t.Context(), "note", actor)
			})
		}
		if err := change("first"); err != nil {
			t.Fatal(err)
		}
		for range 40 { // more than there are connections
			if err := change("refused"); err == nil || errors.Is(err, store.ErrUnknownOutcome) {
				t.Fatalf("the refusal is told as: %v", err)
			}
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			got, err := tx.Setting(ctx, "note")
			if got != "first" {
				t.Errorf("the change of a refused record was kept: %q", got)
			}
			return err
		})
		if err := change("last"); err != nil {
			t.Error(err)
		}
	})
}
