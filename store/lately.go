package store

import (
	"context"
	"fmt"
	"time"
)

// Kinds of events that the table lately counts.
const (
	LatelyReveal = "reveal" // somebody read a password; key: the token's name
	LatelySilent = "silent" // nobody answered a call; key: the address
)

// A Limit allows Most events of a kind within any time of this length.
type Limit struct {
	Kind   string
	Most   int
	Within time.Duration
}

// Full is when the limit allows the next event; zero: at once.
func (tx *Tx) Full(ctx context.Context, l Limit, key string, now time.Time) (time.Time, error) {
	if l.Most <= 0 {
		return now.Add(l.Within), nil
	}
	times, err := list(ctx, tx, func(s scanner) (at time.Time, err error) {
		err = s.Scan(timeOf{&at})
		return at, err
	}, "SELECT at FROM lately WHERE kind = $1 AND key = $2 AND at > $3 ORDER BY at DESC LIMIT 1 OFFSET $4", l.Kind, key, now.Add(-l.Within),
		int64(l.Most-1))
	if err != nil {
		return time.Time{}, fmt.Errorf("limit %s of %s: %w", l.Kind, key, err)
	}
	if len(times) == 0 {
		return time.Time{}, nil
	}
	return times[0].Add(l.Within), nil
}

// Take counts an event if the limit allows it; otherwise until is when it
// allows the next. Callers with the same key take turns, on all nodes.
func (tx *Tx) Take(ctx context.Context, l Limit, key string, now time.Time) (until time.Time, err error) {
	if err := tx.TakeTurns(ctx, "lately "+l.Kind+" "+key); err != nil {
		return time.Time{}, err
	}
	if until, err = tx.Full(ctx, l, key, now); err != nil || !until.IsZero() {
		return until, err
	}
	return time.Time{}, tx.Count(ctx, l, key, now)
}

// Count counts an event whether the limit allows it or not. It removes what no
// query would find any more, so that a key never has more than Most rows.
func (tx *Tx) Count(ctx context.Context, l Limit, key string, now time.Time) error {
	if _, err := tx.exec(ctx, "INSERT INTO lately (kind, key, at) VALUES ($1, $2, $3)", l.Kind, key, now); err != nil {
		return fmt.Errorf("limit %s of %s: %w", l.Kind, key, err)
	}
	_, err := tx.exec(ctx, `DELETE FROM lately WHERE kind = $1 AND key = $2 AND (at <= $3
		OR at < (SELECT l.at FROM lately l WHERE l.kind = $1 AND l.key = $2 ORDER BY l.at DESC LIMIT 1 OFFSET $4))`, l.Kind, key,
		now.Add(-l.Within), int64(max(l.Most, 1)-1))
	return err
}

// Uncount forgets all events of a key.
func (tx *Tx) Uncount(ctx context.Context, kind, key string) error {
	_, err := tx.exec(ctx, "DELETE FROM lately WHERE kind = $1 AND key = $2", kind, key)
	return err
}

// Counted reports whether a key has any event.
func (tx *Tx) Counted(ctx context.Context, kind, key string) (bool, error) {
	return tx.exists(ctx, "lately WHERE kind = $1 AND key = $2", kind, key)
}
