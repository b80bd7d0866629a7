package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// rowsSigned is the sealed setting that says that every row that counts is
// signed. A node makes it once.
const rowsSigned = "rows_signed"

// The actions of audit records about MACs.
const (
	ActionRowsSigned  = "rows.signed"
	ActionRowsRefused = "rows.refused"
)

// oldNodesFor is how long the heartbeat of a node that signs nothing keeps this
// release from signing the rows of an upgraded database; waitForOld is the
// longest wait.
const (
	oldNodesFor = 5 * time.Minute
	waitForOld  = 7 * 24 * time.Hour
)

// RowsStrict reports whether the store refuses rows without a right MAC.
func (db *DB) RowsStrict() bool { return db.strict.Load() }

// openRows finds out whether the rows are signed. An empty database starts as
// signed. If the mark is gone although this node or the audit remembers it,
// somebody deleted it, and the store does not sign the rows again.
func (db *DB) openRows(ctx context.Context, o Options) error {
	if db.keys == nil || db.schema < signedSince {
		return nil
	}
	if o.restored {
		db.memory.forget()
	}
	known := false
	err := db.Read(ctx, func(tx *Tx) error {
		_, err := tx.SealedSetting(ctx, rowsSigned)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		known = true // also if it does not open: only a stranger wrote it then
		return nil
	})
	if err != nil {
		return err
	}
	if known {
		db.nowStrict()
		return nil
	}
	once, empty := db.memory.of(db.lineage()).RowsSigned, false
	err = db.Read(ctx, func(tx *Tx) error {
		if !once {
			if once, err = tx.exists(ctx, "audit WHERE action = '"+ActionRowsSigned+"'"); err != nil || once {
				return err
			}
		}
		empty = true
		for _, t := range signedTables {
			there, err := tx.exists(ctx, t.table+" WHERE "+t.grants)
			if err != nil || there {
				empty = false
				return err
			}
		}
		return nil
	})
	if err != nil || !once && (!empty || o.Beside) {
		return err
	}
	if once {
		db.log.Error("rows.mark_gone", zap.String("hint",
			"somebody deleted from the database the mark that its rows are signed; they are not "+
				"signed again"))
	}
	if !o.Beside {
		err = db.Write(ctx, func(tx *Tx) error {
			_, err := tx.noteOnce(ctx, rowsSigned)
			return err
		})
		if err != nil {
			return err
		}
	}
	db.nowStrict()
	return nil
}

func (db *DB) nowStrict() {
	db.strict.Store(true)
	db.memory.keep(db.lineage(), func(r *remembered) { r.RowsSigned = true })
}

// lineage identifies the database by its keys, also in a backup and on another
// engine.
func (db *DB) lineage() string {
	mac, err := db.keys.Mac(seal.At("", "lineage"))
	if err != nil {
		return ""
	}
	return hex.EncodeToString(mac[:16])
}

// signedSince is the schema in which every signed table has a column for its
// MAC.
const signedSince = 20

// ErrOldNodes means that a node of a release that signs nothing still runs.
var ErrOldNodes = errors.New("a node of an earlier release still writes rows that it does not sign")

// SignRows signs the rows of an earlier release, once, in short transactions,
// and returns how many by table. From then on an unsigned row counts for
// nothing. While nodes that sign nothing run, it returns ErrOldNodes, for a
// week at most, so that nothing they write is lost. Any node may call it at any
// time.
func (db *DB) SignRows(ctx context.Context) (map[string]int, error) {
	if db.keys == nil || db.strict.Load() {
		return nil, nil
	}
	if err := db.openRows(ctx, Options{}); err != nil || db.strict.Load() {
		return nil, err
	}
	if err := db.oldNodesGone(ctx); err != nil {
		return nil, err
	}
	signed, err := db.signAll(ctx)
	if err != nil {
		return nil, err
	}
	err = db.Write(ctx, func(tx *Tx) error {
		ours, err := tx.noteOnce(ctx, rowsSigned)
		if err != nil || !ours {
			signed = nil // another node was first, and its audit record says how many
			return err
		}
		return tx.Audit(ctx, AuditRecord{Actor: "system", Action: ActionRowsSigned, Subject: "database", Detail: counted(signed)})
	})
	if err != nil {
		return nil, fmt.Errorf("sign the rows: %w", err)
	}
	db.nowStrict()
	return signed, nil
}

// noteOnce keeps the time in a sealed setting, unless a node has done so before;
// first says that none had.
func (tx *Tx) noteOnce(ctx context.Context, key string) (first bool, err error) {
	err = tx.CreateSealedSetting(ctx, key, amt.NewSecret(tx.Now().Format(time.RFC3339)))
	if errors.Is(err, ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

func counted(n map[string]int) map[string]any {
	out, all := map[string]any{}, 0
	for table, k := range n {
		out[table] = k
		all += k
	}
	out["rows"] = all
	return out
}

// waitSince is the sealed setting with the time at which a node first waited
// for old nodes.
const waitSince = "rows_wait_since"

func (db *DB) oldNodesGone(ctx context.Context) error {
	if db.engine == SQLite { // only this process has the directory
		return nil
	}
	old := false
	var now, since time.Time
	err := db.Read(ctx, func(tx *Tx) error {
		now = tx.Now()
		var n int
		if err := tx.one(ctx, "SELECT count(*) FROM nodes WHERE NOT signs AND seen_at > {now+$1}", []any{-oldNodesFor.Milliseconds()},
			&n); err != nil || n == 0 {
			return err
		}
		old = true
		s, err := tx.SealedSetting(ctx, waitSince)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err == nil {
			since, err = time.Parse(time.RFC3339, s.Reveal())
		}
		return err
	})
	switch {
	case err != nil || !old:
		return err
	case since.IsZero():
		err = db.Write(ctx, func(tx *Tx) error {
			_, err := tx.noteOnce(ctx, waitSince)
			return err
		})
		if err != nil {
			return err
		}
	case now.Sub(since) >= waitForOld:
		return nil
	}
	return ErrOldNodes
}

// signAll signs every row that has no right MAC.
func (db *DB) signAll(ctx context.Context) (map[string]int, error) {
	signed := map[string]int{}
	if err := db.Write(ctx, func(tx *Tx) error { return tx.adoptUsers(ctx) }); err != nil {
		return nil, err
	}
	if err := db.adoptPins(ctx); err != nil {
		return nil, err
	}
	for _, t := range signedTables {
		signed[t.name()] = 0
		err := db.eachUnsigned(ctx, t, func(tx *Tx, rows []signedRow) error {
			all := make([]statement, len(rows))
			for i, r := range rows {
				mac, err := db.keys.Mac(r.at)
				if err != nil {
					return err
				}
				that, args := byKey(t.key, "=", r.key, []any{mac})
				all[i] = statement{q: "UPDATE " + t.table + " SET signed = $1 WHERE " + t.grants + " AND " + that, args: args}
			}
			return tx.pipeline(ctx, all...)
		}, func(rows []signedRow) { signed[t.name()] += len(rows) })
		if err != nil {
			return nil, fmt.Errorf("sign the %w", err)
		}
	}
	return signed, nil
}

// ResignRows signs the rows that CheckRows finds, on the word of somebody who
// may read the master key: a node of an earlier release wrote them, or somebody
// restored an older dump. The audit keeps who and how many.
func (db *DB) ResignRows(ctx context.Context, actor, why string) (map[string]int, error) {
	if db.keys == nil {
		return nil, errors.New("without the master key no row can be signed")
	}
	signed, err := db.signAll(ctx)
	if err != nil {
		return nil, err
	}
	detail := counted(signed)
	detail["reason"] = why
	err = db.Write(ctx, func(tx *Tx) error {
		if _, err := tx.noteOnce(ctx, rowsSigned); err != nil {
			return err
		}
		return tx.Audit(ctx, AuditRecord{Actor: actor, Action: ActionRowsSigned, Subject: "database", Detail: detail})
	})
	if err != nil {
		return nil, err
	}
	db.nowStrict()
	return signed, nil
}
