package store_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/provisiond/provisiond/store"
)

// TestAnyFlippedByteOfTheAuditIsFound: whoever owns the database and changes one
// bit of one column of any record is found, whichever it is.
func TestAnyFlippedByteOfTheAuditIsFound(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		const records = 12
		record(t, db, records)
		off := []string{"ALTER TABLE audit DISABLE TRIGGER ALL"}
		if db.Engine() == store.SQLite {
			off = []string{"DROP TRIGGER audit_kept_update", "DROP TRIGGER audit_kept_delete"}
		}
		for _, q := range off {
			if err := db.Exec(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 1))
		for i := range 60 {
			seq := 1 + rng.IntN(records)
			column := []string{"actor", "action", "subject", "detail", "at", "prev_hash", "hash"}[rng.IntN(7)]
			at, bit := 0, rng.IntN(7) // the eighth bit makes text that Postgres does not take
			value := ""
			if column == "prev_hash" {
				seq = max(seq, 2) // the first record has none
			}
			switch {
			case column == "at":
				value = fmt.Sprintf("at + %d", 1+rng.IntN(1<<20))
				if db.Engine() == store.Postgres {
					value = fmt.Sprintf("at + interval '%d milliseconds'", 1+rng.IntN(1<<20))
				}
			case column == "prev_hash" || column == "hash":
				at = rng.IntN(32)
				value = fmt.Sprintf("set_byte(%[1]s, %[2]d, get_byte(%[1]s, %[2]d) # %[3]d)", column, at, 1<<bit)
				if db.Engine() == store.SQLite {
					value = flippedInSQLite(column, at, rng.IntN(256))
				}
			default:
				// One letter becomes another one.
				at = 3 + rng.IntN(4) // in the detail, inside the first name
				value = fmt.Sprintf("substr(%[1]s, 1, %[2]d) || CASE WHEN substr(%[1]s, %[3]d, 1) = 'q' THEN 'Q' ELSE 'q' END || "+
					"substr(%[1]s, %[4]d)", column, at-1, at, at+1)
			}
			undo := fmt.Sprintf("CREATE TABLE flip_%d AS SELECT %s AS v FROM audit WHERE seq = %d", i, column, seq)
			change := fmt.Sprintf("UPDATE audit SET %s = %s WHERE seq = %d", column, value, seq)
			back := fmt.Sprintf("UPDATE audit SET %s = (SELECT v FROM flip_%d) WHERE seq = %d", column, i, seq)
			for _, q := range []string{undo, change} {
				if err := db.Exec(t.Context(), q); err != nil {
					t.Fatalf("%s: %v", q, err)
				}
			}
			var changed error
			err := db.Read(t.Context(), func(tx *store.Tx) error { _, changed = tx.VerifyAudit(t.Context()); return nil })
			if err != nil || changed == nil {
				t.Fatalf("seed %d: %s: nobody noticed (%v)", seed, change, err)
			}
			for _, q := range []string{back, fmt.Sprintf("DROP TABLE flip_%d", i)} {
				if err := db.Exec(t.Context(), q); err != nil {
					t.Fatalf("%s: %v", q, err)
				}
			}
		}
		if n, err := db.CheckAudit(t.Context()); n != records || err != nil {
			t.Errorf("after all is back: %d records, %v", n, err)
		}
	})
}

// flippedInSQLite puts another byte at a place of a blob.
func flippedInSQLite(column string, at, b int) string {
	return fmt.Sprintf("CAST(substr(%[1]s, 1, %[2]d) || CASE WHEN substr(%[1]s, %[3]d, 1) = x'%02[4]x' THEN x'%02[5]x' ELSE x'%02[4]x' "+
		"END || substr(%[1]s, %[6]d) AS blob)",
		column, at, at+1, b, b^1, at+2)
}
