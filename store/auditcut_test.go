package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/chain"
)

// cutAudit takes the records behind seq away, and the checkpoints, as somebody
// who owns the database can: what is left is a chain that holds.
func cutAudit(t *testing.T, db *store.DB, seq int) {
	t.Helper()
	off := []string{"ALTER TABLE audit DISABLE TRIGGER ALL", "ALTER TABLE audit_checkpoints DISABLE TRIGGER ALL"}
	if db.Engine() == store.SQLite {
		off = []string{"DROP TRIGGER IF EXISTS audit_kept_delete", "DROP TRIGGER IF EXISTS audit_checkpoints_kept_delete"}
	}
	for _, q := range append(off,
		fmt.Sprintf("DELETE FROM audit WHERE seq > %d", seq), fmt.Sprintf("DELETE FROM audit_checkpoints WHERE seq > %d", seq),
		fmt.Sprintf("UPDATE audit_head SET seq = %d, hash = (SELECT hash FROM audit WHERE seq = %d)", seq, seq)) {
		if err := db.Exec(t.Context(), q); err != nil {
			t.Fatal(q, err)
		}
	}
}

// TestTheEndOfTheAuditCannotBeCutOff: the last records and the newest checkpoint
// taken together leave a chain that holds; the data folder knows better, on this
// node, after a restart, and from a program beside the daemon. Nothing is signed
// over it.
func TestTheEndOfTheAuditCannotBeCutOff(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := place(t, engine)
			o.Dir = t.TempDir()
			db := open(t, o)
			record(t, db, 20)
			if err := db.TendAudit(t.Context()); err != nil { // signs 20
				t.Fatal(err)
			}
			record(t, db, 11)
			sign(t, db) // 31
			record(t, db, 1)
			if err := db.TendAudit(t.Context()); err != nil { // has seen 32
				t.Fatal(err)
			}
			if n, err := db.CheckAudit(t.Context()); n != 32 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			seen, err := os.ReadFile(filepath.Join(o.Dir, store.MemoryFile))
			if err != nil || !strings.Contains(string(seen), `"seq":32`) || !strings.Contains(string(seen), `"checkpoint":31`) {
				t.Fatalf("%s, %v", seen, err)
			}
			cutAudit(t, db, 20)
			broken := func(db *store.DB, want int64) {
				t.Helper()
				var e *store.AuditError
				if _, err := db.CheckAudit(t.Context()); !errors.As(err, &e) || e.Seq != want {
					t.Errorf("want a break at %d, got %v", want, err)
				}
			}
			broken(db, 21)
			// Other records in their place, in a chain that holds, are no help; and this
			// node does not sign them.
			record(t, db, 15)
			broken(db, 32)
			if err := db.TendAudit(t.Context()); err != nil {
				t.Error(err)
			}
			if err := db.Write(t.Context(), func(tx *store.Tx) error { _, err := tx.SignAudit(t.Context()); return err }); err == nil {
				t.Error("a chain that this node knows to be another one was signed")
			}
			broken(db, 32)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = open(t, again(t, o))
			broken(db, 32)
			besides := again(t, o)
			besides.Beside = true
			broken(open(t, besides), 32)
			// A checkpoint alone is missed as well.
			if err := os.Remove(filepath.Join(o.Dir, store.MemoryFile)); err != nil {
				t.Fatal(err)
			}
			sign(t, db)
			if err := db.TendAudit(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, err := db.CheckAudit(t.Context()); n != 35 || err != nil {
				t.Fatalf("a node that remembers nothing: %d, %v", n, err)
			}
			if err := db.Exec(t.Context(), "DELETE FROM audit_checkpoints WHERE seq > 20"); err != nil {
				t.Fatal(err)
			}
			broken(db, 35)
		})
	}
}

// TestACheckpointThatIsDueIsMissed: a daemon that was up when it was due would
// have made it.
func TestACheckpointThatIsDueIsMissed(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		audit := func(at time.Duration) {
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				return tx.Audit(ctx, store.AuditRecord{Actor: "a", Action: "b", Subject: "c", At: tx.Now().Add(at)})
			})
		}
		audit(-3 * time.Hour)
		audit(-2 * time.Hour)
		if _, err := db.CheckAudit(t.Context()); err != nil {
			t.Errorf("a daemon that has just begun: %v", err)
		}
		db.UpSince(time.Now().Add(-24 * time.Hour))
		var e *store.AuditError
		if _, err := db.CheckAudit(t.Context()); !errors.As(err, &e) || e.Seq != 1 || !strings.Contains(e.Problem, "no checkpoint") {
			t.Errorf("%v", err)
		}
		if err := db.TendAudit(t.Context()); err != nil {
			t.Fatal(err)
		}
		audit(-time.Minute)
		if n, err := db.CheckAudit(t.Context()); n != 3 || err != nil {
			t.Errorf("once it is made: %d, %v", n, err)
		}
	})
}

// TestAFileIsHeldAgainstACheckpoint: one that was kept elsewhere, whole or by its
// first digits.
func TestAFileIsHeldAgainstACheckpoint(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		record(t, db, 5)
		first := sign(t, db)
		record(t, db, 3)
		file := string(export(t, db))
		cut := strings.Join(slices.Concat(strings.SplitAfter(file, "\n")[:7]), "") // up to the first checkpoint
		other := slices.Clone(first.Hash)
		other[0] ^= 1
		for _, c := range []struct {
			name, file string
			mark       chain.Mark
			ok         bool
		}{
			{"whole", file, chain.Mark{Seq: 5, Hash: first.Hash}, true},
			{"its first digits", file, chain.Mark{Seq: 5, Hash: first.Hash[:6]}, true},
			{"another hash", file, chain.Mark{Seq: 5, Hash: other}, false},
			{"of another record", file, chain.Mark{Seq: 4, Hash: first.Hash}, false},
			{"cut behind it", cut, chain.Mark{Seq: 5, Hash: first.Hash}, true},
			{"cut before it", cut, chain.Mark{Seq: 8, Hash: first.Hash}, false},
		} {
			if _, err := chain.CheckFile(strings.NewReader(c.file), c.mark); (err == nil) != c.ok {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
}
