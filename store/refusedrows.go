package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
)

// mostRefused bounds how many refused rows a node remembers.
const mostRefused = 1000

// refusedRows are the rows with a wrong MAC that this node met.
type refusedRows struct {
	mu     sync.Mutex
	rows   map[string]bool // table and key
	looked time.Time
	told   int // how many rows had been met at that look
}

// lookForRows is the pause between two looks at all rows if the node meets no
// new one.
const lookForRows = time.Hour

// due reports whether the node should look at all rows now, and notes the look.
func (r *refusedRows) due(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == r.told && now.Sub(r.looked).Abs() < lookForRows {
		return false
	}
	r.looked, r.told = now, len(r.rows)
	return true
}

func (r *refusedRows) add(table, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows == nil {
		r.rows = map[string]bool{}
	}
	if len(r.rows) < mostRefused {
		r.rows[table+" "+key] = true
	}
}

// TendRows is a node's regular work on signed rows: it signs those of an
// upgraded database, once, and looks for rows that do not count: soon after
// meeting one, and otherwise once an hour.
func (db *DB) TendRows(ctx context.Context) error {
	if !db.strict.Load() {
		signed, err := db.SignRows(ctx)
		switch {
		case errors.Is(err, ErrOldNodes):
			db.log.Warn("rows.not_signed_yet", zap.String("hint",
				"a node of an earlier release is running beside this one; rows of the database "+
					"are signed when it has gone"))
			return nil
		case signed != nil:
			db.log.Info("rows.signed", zap.Any("rows", counted(signed)))
		}
		return err
	}
	if !db.refused.due(db.clock()) {
		return nil
	}
	found, err := db.AuditRefused(ctx)
	if err == nil && found.Count > 0 {
		db.log.Error("rows.refused", zap.Int("rows", found.Count), zap.Strings("some", found.Some),
			zap.String("hint", "somebody wrote them into the database itself, or a node of an earlier release did; they count for nothing"))
	}
	return err
}

// RefusedRows are rows that grant something and have no right MAC.
type RefusedRows struct {
	Count  int
	Tables map[string]int
	Some   []string // table and key of the first ones
}

const someRefused = 20

// CheckRows looks at every row that grants something.
func (db *DB) CheckRows(ctx context.Context) (RefusedRows, error) {
	out := RefusedRows{Tables: map[string]int{}}
	if db.keys == nil || db.schema < signedSince {
		return out, nil
	}
	for _, t := range signedTables {
		err := db.eachUnsigned(ctx, t, nil, func(rows []signedRow) {
			for _, r := range rows {
				out.Count++
				out.Tables[t.name()]++
				if len(out.Some) < someRefused {
					out.Some = append(out.Some, fmt.Sprint(t.name(), " ", r.key))
				}
			}
		})
		if err != nil {
			return out, fmt.Errorf("check the %w", err)
		}
	}
	return out, nil
}

// refusedSetting holds what the audit's last record of refused rows said.
const refusedSetting = "rows_refused"

// AuditRefused looks for rows that do not count and sets the metric. If they
// differ from those in the audit's last record, it writes another: one record,
// however often and by however many nodes the rows are met.
func (db *DB) AuditRefused(ctx context.Context) (RefusedRows, error) {
	if !db.strict.Load() {
		return RefusedRows{}, nil
	}
	found, err := db.CheckRows(ctx)
	if err != nil {
		return found, err
	}
	db.metrics.refused.Set(float64(found.Count))
	text := ""
	if found.Count > 0 {
		text = fmt.Sprint(found.Count, found.Tables, found.Some)
	}
	last := func(tx *Tx) (string, error) {
		s, err := tx.SealedSetting(ctx, refusedSetting)
		if errors.Is(err, ErrNotFound) {
			return "", nil
		}
		return s.Reveal(), err
	}
	told := ""
	if err := db.Read(ctx, func(tx *Tx) (err error) { told, err = last(tx); return err }); err != nil || told == text {
		return found, err
	}
	return found, db.Write(ctx, func(tx *Tx) error {
		if told, err := last(tx); err != nil || told == text {
			return err
		}
		if err := tx.PutSealedSetting(ctx, refusedSetting, amt.NewSecret(text)); err != nil || found.Count == 0 {
			return err
		}
		detail := map[string]any{"rows": found.Count, "some": found.Some}
		for _, t := range slices.Sorted(maps.Keys(found.Tables)) {
			detail[t] = found.Tables[t]
		}
		return tx.Audit(ctx, AuditRecord{Actor: "system", Action: ActionRowsRefused, Subject: "database", Detail: detail})
	})
}
