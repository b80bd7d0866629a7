package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Hasty makes backups whose passphrase is guessed quickly, and made quickly.
func (o *Options) Hasty() { o.work = 4 }

// Exec runs a statement behind the store's back.
func (db *DB) Exec(ctx context.Context, q string) error {
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, q)
		return err
	})
}

// Count asks for one number.
func (db *DB) Count(ctx context.Context, q string) (n int, err error) {
	err = db.Read(ctx, func(tx *Tx) error { return tx.one(ctx, q, nil, &n) })
	return n, err
}

// CountTo makes the engine work for as long as it takes to count to n, and takes
// word along as a value.
func (db *DB) CountTo(ctx context.Context, n int, word string) error {
	return db.Read(ctx, func(tx *Tx) error {
		return tx.one(ctx, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < $1)\n\tSELECT count(*) FROM c WHERE "+
			"$2 <> ''", []any{n, word}, new(int))
	})
}

// UpSince says when the process began.
func (db *DB) UpSince(at time.Time) { db.up = at }

// AsBefore makes the database one whose rows nobody has signed yet.
func (db *DB) AsBefore(ctx context.Context) error {
	db.strict.Store(false)
	db.memory.keep(db.lineage(), func(r *remembered) { r.RowsSigned = false })
	return db.Exec(ctx, "DELETE FROM settings WHERE key = '"+rowsSigned+"'")
}

// Exec runs a statement inside a transaction.
func (tx *Tx) Exec(ctx context.Context, q string) error {
	_, err := tx.exec(ctx, q)
	return err
}

// CommitFor sets how long a commit may take.
func (db *DB) CommitFor(d time.Duration) { db.commitFor = d }

// Waiting counts closures that the writer has not begun.
func (db *DB) Waiting() int { return len(db.writer.queue) }

// Dump is every row that a backup carries, as JSON with sorted keys.
func (db *DB) Dump(ctx context.Context) (map[string][]string, error) {
	tables, err := ownTables()
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	err = db.Read(ctx, func(tx *Tx) error {
		for _, t := range tables {
			if slices.Contains(notInBackup, t.name) {
				continue
			}
			var b bytes.Buffer
			if _, err := tx.dump(ctx, t, json.NewEncoder(&b)); err != nil {
				return err
			}
			for i, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
				if i == 0 {
					continue
				}
				row, err := decodeRow([]byte(line), t.columns)
				if err != nil {
					return err
				}
				text := ""
				for j, c := range t.columns {
					v := row[j]
					switch {
					case t.name == "data_keys" && c.name == "wrapped":
						v = "wrapped"
					case c.kind == kindJSON && v != nil:
						var doc any
						if err := json.Unmarshal([]byte(v.(string)), &doc); err != nil {
							return err
						}
						sorted, _ := json.Marshal(doc)
						v = string(sorted)
					}
					text += fmt.Sprintf("%s=%v ", c.name, v)
				}
				out[t.name] = append(out[t.name], text)
			}
		}
		return nil
	})
	return out, err
}

// OwnColumns is what ownTables reads out of the migrations: table.column kind.
func OwnColumns() ([]string, error) {
	tables, err := ownTables()
	var out []string
	for _, t := range tables {
		for _, c := range t.columns {
			out = append(out, t.name+"."+c.name+" "+string(c.kind))
		}
	}
	return out, err
}

// Catalogue is what the engine itself says, in the same words.
func (db *DB) Catalogue(ctx context.Context) (out []string, err error) {
	q := `SELECT table_name || '.' || column_name, udt_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
		WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name NOT LIKE 'river%' AND table_name NOT LIKE 'goose%'`
	if db.engine == SQLite {
		q = `SELECT m.name || '.' || c.name, lower(c.type) FROM sqlite_master m JOIN pragma_table_info(m.name) c
			WHERE m.type = 'table' AND m.name NOT LIKE 'river%' AND m.name NOT LIKE 'goose%' AND m.name NOT LIKE 'sqlite%'`
	}
	err = db.Read(ctx, func(tx *Tx) error {
		return tx.each(ctx, func(s scanner) error {
			var name, kind string
			if err := s.Scan(&name, &kind); err != nil {
				return err
			}
			if kind != "xid8" {
				out = append(out, name+" "+kind)
			}
			return nil
		}, q)
	})
	return out, err
}

// SignedTables names the tables whose rows carry a MAC.
func SignedTables() (names []string) {
	for _, t := range signedTables {
		name, _, _ := strings.Cut(t.table, " ")
		names = append(names, name)
	}
	return names
}
