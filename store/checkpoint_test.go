package store_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/chain"
)

func record(t *testing.T, db *store.DB, n int) {
	t.Helper()
	for i := range n {
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.Audit(ctx, store.AuditRecord{Actor: "token:a", Action: "secret.reveal", Subject: uuid(i).String(),
				Detail: map[string]any{"reason": "<ticket> \"4711\" & ü"}})
		})
	}
}

func sign(t *testing.T, db *store.DB) (c store.AuditCheckpoint) {
	t.Helper()
	write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
		c, err = tx.SignAudit(ctx)
		return err
	})
	return c
}

func export(t *testing.T, db *store.DB) []byte {
	t.Helper()
	last := sign(t, db)
	var out strings.Builder
	read(t, db, func(ctx context.Context, tx *store.Tx) error {
		key, err := tx.AuditKey(ctx)
		if err != nil {
			return err
		}
		out.WriteString(chain.Head(key) + "\n")
		for after := int64(0); ; {
			lines, next, err := tx.AuditFileLines(ctx, after, last.Seq, 3)
			for _, l := range lines {
				out.WriteString(l + "\n")
			}
			if after = next; err != nil || next == 0 {
				return err
			}
		}
	})
	return []byte(out.String())
}

// TestAuditFileTamper: of an exported audit no byte can be another one, and no
// line can be missing or elsewhere.
func TestAuditFileTamper(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		record(t, db, 5)
		first := sign(t, db)
		record(t, db, 4)
		file := export(t, db)
		got, err := chain.CheckFile(bytes.NewReader(file))
		if err != nil || got.Records != 9 || got.Checkpoints != 2 || got.Last.Seq != 9 || first.Seq != 5 {
			t.Fatalf("%+v, %v\n%s", got, err, file)
		}
		for i := range file {
			bad := bytes.Clone(file)
			bad[i] ^= []byte{0x01, 0x20, 0x80}[(i+len(db.Engine()))%3] // 0x20 changes the case of a letter
			if _, err := chain.CheckFile(bytes.NewReader(bad)); err == nil {
				t.Fatalf("byte %d of %d, %q made %q, was not noticed", i, len(file), file[i], bad[i])
			}
		}
		lines := bytes.SplitAfter(file, []byte("\n"))
		for i := range len(lines) - 1 {
			bad := append(bytes.Join(lines[:i], nil), bytes.Join(lines[i+1:], nil)...)
			_, err := chain.CheckFile(bytes.NewReader(bad))
			if i == 6 && err == nil {
				continue // one checkpoint of two: the other one holds for more
			}
			if err == nil {
				t.Errorf("line %d was left out and nobody noticed", i+1)
			}
		}
		if _, err := chain.CheckFile(bytes.NewReader(file[:len(file)-1])); err == nil {
			t.Error("a cut file was not noticed")
		}
	})
}

// TestCheckpointsSeeAChainComputedAnew: whoever owns the database can write a
// whole chain that holds; the signed checkpoints tell.
func TestCheckpointsSeeAChainComputedAnew(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		record(t, db, 3)
		if again, c := sign(t, db), sign(t, db); again.Seq != 3 || c.Seq != 3 || !again.At.Equal(c.At) {
			t.Errorf("an audit that did not grow was signed twice: %+v, %+v", again, c)
		}
		record(t, db, 1)
		if n, err := db.CheckAudit(t.Context()); n != 4 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		off := []string{"ALTER TABLE audit DISABLE TRIGGER ALL", "ALTER TABLE audit_checkpoints DISABLE TRIGGER ALL"}
		if db.Engine() == store.SQLite {
			off = []string{"DROP TRIGGER audit_kept_update", "DROP TRIGGER audit_kept_delete", "DROP TRIGGER audit_checkpoints_kept_update"}
		}
		for _, q := range append(off, "DELETE FROM audit", "UPDATE audit_head SET seq = 0, hash = prev.hash FROM (SELECT CAST('' AS "+
			map[string]string{store.SQLite: "blob", store.Postgres: "bytea"}[db.Engine()]+") AS hash) AS prev") {
			if err := db.Exec(t.Context(), q); err != nil {
				t.Fatal(q, err)
			}
		}
		var broken *store.AuditError
		if _, err := db.CheckAudit(t.Context()); !errors.As(err, &broken) || broken.Seq != 3 {
			t.Errorf("an audit that was emptied: %v", err)
		}
		record(t, db, 4) // another story, in a chain that holds
		if _, err := db.CheckAudit(t.Context()); !errors.As(err, &broken) || broken.Seq != 3 {
			t.Errorf("a chain computed anew: %v", err)
		}
		if err := db.Exec(t.Context(), "UPDATE audit_checkpoints SET hash = (SELECT hash FROM audit WHERE seq = 3)"); err != nil {
			t.Fatal(err)
		}
		if _, err := db.CheckAudit(t.Context()); !errors.As(err, &broken) || !strings.Contains(broken.Problem, "did not sign") {
			t.Errorf("a checkpoint that nobody signed: %v", err)
		}
	})
}

// TestCheckpointWhenDue: the first records are signed at once, the next ones
// after an hour or a thousand.
func TestCheckpointWhenDue(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		last := func() (c store.AuditCheckpoint) {
			if err := db.SignAuditWhenDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			read(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
				if c, err = tx.LastCheckpoint(ctx); errors.Is(err, store.ErrNotFound) {
					err = nil
				}
				return err
			})
			return c
		}
		if c := last(); c.Seq != 0 {
			t.Errorf("an empty audit was signed: %+v", c)
		}
		record(t, db, 2)
		if c := last(); c.Seq != 2 || time.Since(c.At).Abs() > time.Minute {
			t.Errorf("%+v", c)
		}
		record(t, db, 1)
		if c := last(); c.Seq != 2 {
			t.Errorf("signed again at once: %+v", c)
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			for range store.CheckpointRecords {
				if err := tx.Audit(ctx, store.AuditRecord{Actor: "a", Action: "b"}); err != nil {
					return err
				}
			}
			return nil
		})
		if c := last(); c.Seq != 3+store.CheckpointRecords {
			t.Errorf("a thousand records were not signed: %+v", c)
		}
	})
}
