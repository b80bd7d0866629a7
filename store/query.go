package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// scanner is a row.
type scanner interface{ Scan(dest ...any) error }

// bind converts arguments to their columns' form: a time to milliseconds or
// timestamptz (zero is NULL), words and addresses to text.
func (tx *Tx) bind(t *text, args []any) []any {
	out := make([]any, len(args), len(args)+2)
	for i, a := range args {
		switch v := a.(type) {
		case time.Time:
			out[i] = tx.stamp(v)
		case amt.UUID:
			out[i] = v.String()
		case amt.Version:
			out[i] = v.String()
		case Lifecycle:
			out[i] = string(v)
		case reason.Code:
			out[i] = string(v)
		case netip.Addr:
			out[i] = amt.Text(v)
		case netip.AddrPort:
			out[i] = ""
			if v.IsValid() {
				out[i] = v.String()
			}
		case uint32:
			out[i] = int64(v)
		case int:
			out[i] = int64(v)
		case json.RawMessage:
			out[i] = nil
			if len(v) > 0 {
				out[i] = string(v)
			}
		case []byte:
			out[i] = nil
			if v != nil {
				out[i] = v
			}
		default:
			out[i] = a
		}
	}
	if t.now {
		out = append(out, tx.now.UnixMilli())
	}
	if t.lease {
		out = append(out, tx.lease.UnixMilli())
	}
	return out
}

func (tx *Tx) stamp(t time.Time) any {
	switch {
	case t.IsZero():
		return nil
	case tx.pg != nil:
		return millis(t)
	}
	return t.UnixMilli()
}

// live is the context of one statement. On SQLite's write connection nothing
// may interrupt a statement, since that would roll back every closure of the
// batch. So live checks the caller's context before each statement instead.
func (tx *Tx) live(ctx context.Context) (context.Context, error) {
	if tx.pg != nil || !tx.write {
		return ctx, nil
	}
	return context.Background(), ctx.Err()
}

// exec runs a statement and returns how many rows it touched.
func (tx *Tx) exec(ctx context.Context, q string, args ...any) (int64, error) {
	t := tx.db.texts.get(tx.db.engine, q, len(args))
	args = tx.bind(t, args)
	if tx.pg != nil {
		tag, err := tx.pg.Exec(ctx, t.sql, args...)
		return tag.RowsAffected(), kind(err)
	}
	ctx, err := tx.live(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	res, err := tx.lite.ExecContext(ctx, t.sql, args...)
	tx.db.slow.took(t.sql, began, err)
	if err != nil {
		return 0, kind(err)
	}
	return res.RowsAffected()
}

// one runs a statement that returns at most one row; none is ErrNotFound.
func (tx *Tx) one(ctx context.Context, q string, args []any, dest ...any) error {
	t := tx.db.texts.get(tx.db.engine, q, len(args))
	args = tx.bind(t, args)
	if tx.pg != nil {
		return noRows(tx.pg.QueryRow(ctx, t.sql, args...).Scan(dest...))
	}
	ctx, err := tx.live(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	err = tx.lite.QueryRowContext(ctx, t.sql, args...).Scan(dest...)
	tx.db.slow.took(t.sql, began, err)
	return noRows(err)
}

func noRows(err error) error {
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return kind(err)
}

// list collects rows; scan copies one.
func list[T any](ctx context.Context, tx *Tx, scan func(scanner) (T, error), q string, args ...any) ([]T, error) {
	var out []T
	err := tx.each(ctx, func(s scanner) error {
		v, err := scan(s)
		if err == nil {
			out = append(out, v)
		}
		return err
	}, q, args...)
	return out, err
}

// number runs a query for one number.
func (tx *Tx) number(ctx context.Context, q string, args ...any) (n int, err error) {
	err = tx.one(ctx, q, args, &n)
	return n, err
}

// exists reports whether there is a row FROM from.
func (tx *Tx) exists(ctx context.Context, from string, args ...any) (bool, error) {
	n, err := tx.number(ctx, "SELECT count(*) FROM (SELECT 1 AS x FROM "+from+" LIMIT 1) AS t", args...)
	return n > 0, err
}

func scanUUID(s scanner) (u amt.UUID, err error) {
	err = s.Scan(&u)
	return u, err
}

// first is the one row that was asked for, or ErrNotFound.
func first[T any](all []T, err error) (T, error) {
	if err == nil && len(all) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return *new(T), err
	}
	return all[0], nil
}

func (tx *Tx) each(ctx context.Context, row func(scanner) error, q string, args ...any) error {
	t := tx.db.texts.get(tx.db.engine, q, len(args))
	args = tx.bind(t, args)
	if tx.pg != nil {
		rows, err := tx.pg.Query(ctx, t.sql, args...)
		if err != nil {
			return kind(err)
		}
		defer rows.Close()
		for rows.Next() {
			if err := row(rows); err != nil {
				return err
			}
		}
		return kind(rows.Err())
	}
	ctx, err := tx.live(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	rows, err := tx.lite.QueryContext(ctx, t.sql, args...)
	if err != nil {
		tx.db.slow.took(t.sql, began, err)
		return kind(err)
	}
	defer rows.Close()
	defer func() { tx.db.slow.took(t.sql, began, rows.Err()) }()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return kind(rows.Err())
}

// A statement of a pipeline; dest is nil if it returns no row.
type statement struct {
	q    string
	args []any
	dest []any
}

// pipeline runs statements one after the other; on Postgres in one round trip.
func (tx *Tx) pipeline(ctx context.Context, all ...statement) error {
	if tx.pg == nil {
		for _, s := range all {
			var err error
			if s.dest == nil {
				_, err = tx.exec(ctx, s.q, s.args...)
			} else {
				err = tx.one(ctx, s.q, s.args, s.dest...)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	b := &pgx.Batch{}
	for _, s := range all {
		t := tx.db.texts.get(tx.db.engine, s.q, len(s.args))
		b.Queue(t.sql, tx.bind(t, s.args)...)
	}
	res := tx.pg.SendBatch(ctx, b)
	defer res.Close()
	for _, s := range all {
		var err error
		if s.dest == nil {
			_, err = res.Exec()
		} else {
			err = noRows(res.QueryRow().Scan(s.dest...))
		}
		if err = kind(err); err != nil {
			return err
		}
	}
	return res.Close()
}

// about says what an error is about; nil stays nil.
func about(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
}

// touched turns a statement that met no row into an error.
func touched(n int64, err, none error) error {
	if err == nil && n == 0 {
		return none
	}
	return err
}

// Scanners from a column's form to Go types.

type timeOf struct{ t *time.Time }

func (s timeOf) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*s.t = time.Time{}
	case int64:
		*s.t = time.UnixMilli(v).UTC()
	case time.Time:
		*s.t = v.UTC()
	default:
		return fmt.Errorf("time: cannot read a %T", src)
	}
	return nil
}

type addrOf struct{ a *netip.Addr }

func (s addrOf) Scan(src any) error {
	v, _ := src.(string)
	*s.a = netip.Addr{}
	if v == "" {
		return nil
	}
	a, err := netip.ParseAddr(v)
	*s.a = a
	return err
}

type versionOf struct{ v *amt.Version }

func (s versionOf) Scan(src any) error {
	v, _ := src.(string)
	return s.v.UnmarshalText([]byte(v))
}

// uuidOf reads a UUID that may be NULL.
type uuidOf struct{ u *amt.UUID }

func (s uuidOf) Scan(src any) error {
	if src == nil {
		*s.u = amt.UUID{}
		return nil
	}
	return s.u.Scan(src)
}

type jsonOf struct{ v any }

func (s jsonOf) Scan(src any) error {
	var b []byte
	switch v := src.(type) {
	case nil:
		return nil
	case string:
		b = []byte(v)
	case []byte:
		b = append(b, v...)
	default:
		return fmt.Errorf("json: cannot read a %T", src)
	}
	if len(b) == 0 {
		return nil
	}
	if raw, ok := s.v.(*json.RawMessage); ok {
		*raw = b
		return nil
	}
	return json.Unmarshal(b, s.v)
}

// jsonText is v as text for a JSON column.
func jsonText(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func uuidOrNull(u amt.UUID) any {
	if u.IsZero() {
		return nil
	}
	return u.String()
}

// page bounds a limit: 0 is 100, 1000 the most.
func page(n int) int64 {
	switch {
	case n <= 0:
		return 100
	case n > 1000:
		return 1000
	}
	return int64(n)
}
