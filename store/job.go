package store

import (
	"context"
	"fmt"

	"github.com/provisiond/provisiond/amt"
)

// States of a job and of its items.
const (
	JobDraft   = "draft"
	JobWaiting = "waiting"
	JobRunning = "running"
	JobDone    = "done"
	JobAborted = "aborted"

	ItemWaiting = "waiting"
	ItemRunning = "running"
	ItemDone    = "done"
	ItemFailed  = "failed"
	ItemSkipped = "skipped"
)

const jobColumns = "id, kind, filter, options, state, per_minute, not_before, created_by, approved_by, created_at, finished_at"

func (j *Job) dest() []any {
	return []any{&j.ID, &j.Kind, jsonOf{&j.Filter}, jsonOf{&j.Options}, &j.State, &j.PerMinute, timeOf{&j.NotBefore}, &j.CreatedBy, &j.ApprovedBy, timeOf{&j.CreatedAt}, timeOf{&j.FinishedAt}}
}

// CreateJob keeps a bulk operation; its items come with AddJobItems.
func (tx *Tx) CreateJob(ctx context.Context, j Job) (int64, error) {
	var id int64
	err := tx.one(ctx, `INSERT INTO jobs (kind, filter, options, state, per_minute, not_before, created_by, approved_by, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {now}) RETURNING id`,
		[]any{j.Kind, object(j.Filter), object(j.Options), j.State, j.PerMinute, j.NotBefore, j.CreatedBy, j.ApprovedBy}, &id)
	if err != nil {
		return 0, fmt.Errorf("job %s: %w", j.Kind, err)
	}
	return id, nil
}

// Job reads one.
func (tx *Tx) Job(ctx context.Context, id int64) (Job, error) {
	var j Job
	if err := tx.one(ctx, "SELECT "+jobColumns+" FROM jobs WHERE id = $1", []any{id}, j.dest()...); err != nil {
		return j, fmt.Errorf("job %d: %w", id, err)
	}
	return j, nil
}

// Jobs lists jobs in one state ("" any), newest first.
func (tx *Tx) Jobs(ctx context.Context, state string, limit int) ([]Job, error) {
	return list(ctx, tx, func(s scanner) (Job, error) {
		var j Job
		err := s.Scan(j.dest()...)
		return j, err
	}, "SELECT "+jobColumns+" FROM jobs WHERE (CAST($1 AS text) = '' OR state = CAST($1 AS text)) ORDER BY id DESC LIMIT $2", state, page(limit))
}

// SetJobState moves a job that has not ended, and notes who approved it when
// approvedBy is given; ErrGone when it has.
func (tx *Tx) SetJobState(ctx context.Context, id int64, state, approvedBy string) error {
	n, err := tx.exec(ctx, `UPDATE jobs SET state = $2, approved_by = CASE WHEN CAST($3 AS text) = '' THEN approved_by ELSE CAST($3 AS text) END,
		finished_at = CASE WHEN CAST($2 AS text) IN ('done', 'aborted') THEN {now} ELSE finished_at END
		WHERE id = $1 AND state NOT IN ('done', 'aborted')`, id, state, approvedBy)
	if err := touched(n, err, ErrGone); err != nil {
		return fmt.Errorf("job %d: %w", id, err)
	}
	return nil
}

// AddJobItems adds devices to a job; one that is there already stays as it is.
func (tx *Tx) AddJobItems(ctx context.Context, job int64, devices []amt.UUID) error {
	all := make([]statement, len(devices))
	for i, u := range devices {
		all[i] = statement{q: "INSERT INTO job_items (job_id, uuid, state, updated_at) VALUES ($1, $2, 'waiting', {now}) ON CONFLICT DO NOTHING", args: []any{job, u}}
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return fmt.Errorf("items of job %d: %w", job, err)
	}
	return nil
}

// PutJobItem writes one device's part.
func (tx *Tx) PutJobItem(ctx context.Context, i JobItem) error {
	n, err := tx.exec(ctx, "UPDATE job_items SET state = $3, run_id = $4, detail = $5, updated_at = {now} WHERE job_id = $1 AND uuid = $2", i.JobID, i.UUID, i.State, i.RunID, i.Detail)
	if err := touched(n, err, ErrNotFound); err != nil {
		return fmt.Errorf("item %s of job %d: %w", i.UUID, i.JobID, err)
	}
	return nil
}

// JobItems lists a page of a job's items in one state ("" any), by UUID.
func (tx *Tx) JobItems(ctx context.Context, job int64, state string, after amt.UUID, limit int) ([]JobItem, error) {
	return list(ctx, tx, func(s scanner) (JobItem, error) {
		var i JobItem
		err := s.Scan(&i.JobID, &i.UUID, &i.State, &i.RunID, &i.Detail, timeOf{&i.UpdatedAt})
		return i, err
	}, `SELECT job_id, uuid, state, run_id, detail, updated_at FROM job_items
		WHERE job_id = $1 AND (CAST($2 AS text) = '' OR state = CAST($2 AS text)) AND uuid > $3 ORDER BY uuid LIMIT $4`, job, state, after, page(limit))
}

// CountJobItems counts a job's items by state.
func (tx *Tx) CountJobItems(ctx context.Context, job int64) (map[string]int, error) {
	out := map[string]int{}
	err := tx.each(ctx, func(s scanner) error {
		var k string
		var n int
		err := s.Scan(&k, &n)
		out[k] = n
		return err
	}, "SELECT state, count(*) FROM job_items WHERE job_id = $1 GROUP BY state", job)
	return out, err
}
