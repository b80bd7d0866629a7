package store

import (
	"context"
	"fmt"
)

const eventColumns = "id, at, uuid, run_id, name, reason, detail, actor, data"

func scanEvent(s scanner) (Event, error) {
	var e Event
	err := s.Scan(&e.ID, timeOf{&e.At}, uuidOf{&e.UUID}, &e.RunID, &e.Name, &e.Reason, &e.Detail, &e.Actor, jsonOf{&e.Data})
	return e, err
}

// AddEvent appends to the timeline.
func (tx *Tx) AddEvent(ctx context.Context, e Event) (int64, error) {
	var data any
	if len(e.Data) > 0 {
		t, err := jsonText(e.Data)
		if err != nil {
			return 0, fmt.Errorf("event %s: %w", e.Name, err)
		}
		data = t
	}
	var id int64
	q := `INSERT INTO events (at, uuid, run_id, name, reason, detail, actor, data) VALUES ({now}, $1, $2, $3, $4, $5, $6, $7) RETURNING id`
	args := []any{uuidOrNull(e.UUID), e.RunID, e.Name, e.Reason, e.Detail, e.Actor, data}
	if !e.At.IsZero() {
		q = `INSERT INTO events (at, uuid, run_id, name, reason, detail, actor, data) VALUES ($8, $1, $2, $3, $4, $5, $6, $7) RETURNING id`
		args = append(args, e.At)
	}
	if err := tx.one(ctx, q, args, &id); err != nil {
		return 0, fmt.Errorf("event %s: %w", e.Name, err)
	}
	return id, nil
}

// Events lists a page of the timeline.
func (tx *Tx) Events(ctx context.Context, f EventFilter) ([]Event, error) {
	c := &clause{}
	if f.After > 0 {
		c.add("id > ?", f.After)
	}
	if f.Before > 0 {
		c.add("id < ?", f.Before)
	}
	if !f.UUID.IsZero() {
		c.add("uuid = ?", f.UUID)
	}
	if f.RunID != 0 {
		c.add("run_id = ?", f.RunID)
	}
	if f.Name != "" {
		c.add("name = ?", f.Name)
	}
	if f.Follow {
		c.add("{follow}")
	}
	order := " ORDER BY id"
	if f.Newest {
		order = " ORDER BY id DESC"
	}
	c.args = append(c.args, page(f.Limit))
	out, err := list(ctx, tx, scanEvent, "SELECT "+eventColumns+" FROM events"+c.where()+order+fmt.Sprintf(" LIMIT $%d", len(c.args)),
		c.args...)
	return out, about(err, "list events")
}

// LastEvent is the id of the newest event, 0 if there is none: the place where
// a follower begins that wants no history.
func (tx *Tx) LastEvent(ctx context.Context) (int64, error) {
	var id int64
	err := tx.one(ctx, "SELECT coalesce(max(id), 0) FROM events", nil, &id)
	return id, err
}
