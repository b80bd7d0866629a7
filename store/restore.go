package store

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// RestoreBackup fills an empty database from a backup. It first verifies the
// file to its end, so that a bad file leaves the target untouched. One
// transaction inserts the rows at the backup's schema; then the store migrates
// them like any older database. The target's master key wraps the data keys
// that the source's master key wrapped.
func RestoreBackup(ctx context.Context, file io.ReadSeeker, passphrase amt.Secret, target func() (Options, error)) (BackupReport, error) {
	report, err := VerifyBackup(ctx, file, passphrase)
	if err != nil {
		return report, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return report, err
	}
	o, err := target()
	if err != nil {
		return report, err
	}
	keys := o.Keys
	o.Keys, o.upTo = nil, report.Schema // make no data key: the backup brings its own
	db, err := Open(ctx, o)
	if err != nil {
		return report, err
	}
	err = db.Write(ctx, func(tx *Tx) error { return tx.restore(ctx, file, passphrase, keys) })
	if closed := db.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return report, err
	}
	o.Keys, o.upTo, o.restored = keys, 0, true
	db, err = Open(ctx, o)
	if err != nil {
		return report, fmt.Errorf("open what was restored: %w", err)
	}
	defer db.Close()
	if n, err := db.CheckAudit(ctx); err != nil || n != report.Audit {
		return report, fmt.Errorf("look at what was restored: %d of %d audit records: %w", n, report.Audit, err)
	}
	if !db.strict.Load() && keys != nil { // the backup opened, and is older than the signing of rows
		if _, err := db.ResignRows(ctx, "restore", "the backup is of a time before rows were signed"); err != nil {
			return report, fmt.Errorf("sign what was restored: %w", err)
		}
	}
	return report, nil
}

func (tx *Tx) restore(ctx context.Context, file io.ReadSeeker, passphrase amt.Secret, keys *seal.Keyring) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil { // Write may try the transaction again
		return err
	}
	if err := tx.mustBeEmpty(ctx); err != nil {
		return err
	}
	var from *seal.Keyring
	var insert string
	var batch []statement
	flush := func() error {
		err := tx.pipeline(ctx, batch...)
		batch = batch[:0]
		return err
	}
	var identities []string
	_, err := walkBackup(file, passphrase, visitor{
		master: func(k *seal.Keyring) error { from = k; return nil },
		table: func(t table, columns []column) error {
			if err := flush(); err != nil {
				return err
			}
			if t.identity {
				identities = append(identities, t.name)
			}
			names, marks := make([]string, len(columns)), make([]string, len(columns))
			for i, c := range columns {
				names[i], marks[i] = c.name, "$"+strconv.Itoa(i+1)
			}
			insert = "INSERT INTO " + t.name + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(marks, ", ") + ")"
			return nil
		},
		row: func(t table, columns []column, row []any) error {
			if t.name == "data_keys" {
				for i, c := range columns {
					if c.name == "wrapped" {
						b, err := from.Rewrap(uint32(field[int64](columns, row, "id")), row[i].([]byte), keys)
						if err != nil {
							return err
						}
						row[i] = b
					}
				}
			}
			batch = append(batch, statement{q: insert, args: row})
			if len(batch) < 200 {
				return nil
			}
			return flush()
		},
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if tx.pg == nil {
		return nil
	}
	for _, name := range identities {
		if _, err := tx.exec(ctx, "SELECT setval(pg_get_serial_sequence('"+name+"', 'id'), greatest((SELECT coalesce(max(id), 0) FROM "+
			name+
			"), 1), EXISTS (SELECT 1 FROM "+name+"))"); err != nil {
			return fmt.Errorf("restore: set the numbers of %s: %w", name, err)
		}
	}
	return nil
}

// mustBeEmpty refuses a database in use, and deletes the rows that the schema
// itself made.
func (tx *Tx) mustBeEmpty(ctx context.Context) error {
	tables, err := ownTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.name == "audit_head" {
			continue
		}
		there := "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1"
		if tx.pg != nil {
			there = "SELECT count(*) FROM pg_class WHERE oid = to_regclass($1)"
		}
		var n int64
		if err := tx.one(ctx, there, []any{t.name}, &n); err != nil {
			return fmt.Errorf("look for %s: %w", t.name, err)
		}
		if n == 0 {
			continue // the backup's schema is older than this table
		}
		if t.name == "settings" { // the backup brings the schema's own settings too
			if _, err := tx.exec(ctx, "DELETE FROM settings WHERE key = 'schema_readable_from'"); err != nil {
				return fmt.Errorf("clear settings: %w", err)
			}
		}
		used, err := tx.exists(ctx, t.name)
		if err != nil {
			return fmt.Errorf("look into %s: %w", t.name, err)
		}
		if used {
			return fmt.Errorf("the database is in use: its table %s is not empty, and a backup is restored into an empty database only; "+
				"name "+
				"another data_dir or database", t.name)
		}
	}
	_, err = tx.exec(ctx, "DELETE FROM audit_head")
	return err
}
