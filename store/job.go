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
	// JobStopped is a job that lost a device, or proved none, and waits for a
	// person. Its row says draft, which nodes of every version leave alone.
	JobStopped = "stopped"
	JobDone    = "done"
	JobAborted = "aborted"

	ItemWaiting = "waiting"
	ItemRunning = "running"
	// ItemHanded is a device that was given its command, and whose run has not ended.
	ItemHanded  = "handed_over"
	ItemDone    = "done"
	ItemFailed  = "failed"
	ItemSkipped = "skipped"
)

const (
	jobState   = "CASE WHEN state = 'draft' AND stopped_at IS NOT NULL THEN 'stopped' ELSE state END"
	jobColumns = "id, kind, filter, options, " + jobState + ", per_minute, canary, target, cause, detail, not_before, created_by, approved_by, created_at, finished_at, stopped_at, resumed_at"

	itemState   = "CASE WHEN i.handed AND i.state = 'running' THEN 'handed_over' ELSE i.state END"
	itemColumns = "i.job_id, i.uuid, " + itemState + ", i.run_id, i.wave, i.proves, i.detail, i.updated_at"
)

func (j *Job) dest() []any {
	return []any{&j.ID, &j.Kind, jsonOf{&j.Filter}, jsonOf{&j.Options}, &j.State, &j.PerMinute, &j.Canary, &j.Target, &j.Cause, &j.Detail, timeOf{&j.NotBefore}, &j.CreatedBy, &j.ApprovedBy,
		timeOf{&j.CreatedAt}, timeOf{&j.FinishedAt}, timeOf{&j.StoppedAt}, timeOf{&j.ResumedAt}}
}

func scanJob(s scanner) (Job, error) {
	var j Job
	err := s.Scan(j.dest()...)
	return j, err
}

func (i *JobItem) dest() []any {
	return []any{&i.JobID, &i.UUID, &i.State, &i.RunID, &i.Wave, &i.Proves, &i.Detail, timeOf{&i.UpdatedAt}}
}

func scanItem(s scanner) (JobItem, error) {
	var i JobItem
	err := s.Scan(i.dest()...)
	return i, err
}

// CreateJob keeps a bulk operation; its items come with AddJobItems.
func (tx *Tx) CreateJob(ctx context.Context, j Job) (int64, error) {
	var id int64
	err := tx.one(ctx, `INSERT INTO jobs (kind, filter, options, state, per_minute, canary, target, cause, not_before, created_by, approved_by, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, {now}) RETURNING id`,
		[]any{j.Kind, object(j.Filter), object(j.Options), j.State, j.PerMinute, j.Canary, j.Target, j.Cause, j.NotBefore, j.CreatedBy, j.ApprovedBy}, &id)
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
	return list(ctx, tx, scanJob, "SELECT "+jobColumns+" FROM jobs WHERE (CAST($1 AS text) = '' OR "+jobState+" = CAST($1 AS text)) ORDER BY id DESC LIMIT $2", state, page(limit))
}

// SetJobState moves a job that has not ended, and notes who approved it when
// approvedBy is given; ErrGone when it has. From its begin on lost devices hold it.
func (tx *Tx) SetJobState(ctx context.Context, id int64, state, approvedBy string) error {
	n, err := tx.exec(ctx, `UPDATE jobs SET state = $2, approved_by = CASE WHEN CAST($3 AS text) = '' THEN approved_by ELSE CAST($3 AS text) END,
		finished_at = CASE WHEN CAST($2 AS text) IN ('done', 'aborted') THEN {now} ELSE finished_at END, stopped_at = NULL,
		resumed_at = CASE WHEN CAST($2 AS text) = 'running' THEN {now} ELSE resumed_at END
		WHERE id = $1 AND state NOT IN ('done', 'aborted')`, id, state, approvedBy)
	if err := touched(n, err, ErrGone); err != nil {
		return fmt.Errorf("job %d: %w", id, err)
	}
	return nil
}

// StopJob lets a job that is under way begin nothing more until a person has
// looked; ErrGone when it is not under way.
func (tx *Tx) StopJob(ctx context.Context, id int64, why string) error {
	n, err := tx.exec(ctx, "UPDATE jobs SET state = 'draft', stopped_at = {now}, detail = $2 WHERE id = $1 AND state = 'running'", id, why)
	if err := touched(n, err, ErrGone); err != nil {
		return fmt.Errorf("job %d: %w", id, err)
	}
	return nil
}

// ResumeJob lets a stopped job go on: devices lost until now no longer hold it.
// ErrGone when it is not stopped.
func (tx *Tx) ResumeJob(ctx context.Context, id int64) error {
	n, err := tx.exec(ctx, "UPDATE jobs SET state = 'waiting', stopped_at = NULL, resumed_at = {now}, detail = '' WHERE id = $1 AND state = 'draft' AND stopped_at IS NOT NULL", id)
	if err := touched(n, err, ErrGone); err != nil {
		return fmt.Errorf("job %d: %w", id, err)
	}
	return nil
}

// SetJobDetail says why a job ended early.
func (tx *Tx) SetJobDetail(ctx context.Context, id int64, detail string) error {
	n, err := tx.exec(ctx, "UPDATE jobs SET detail = $2 WHERE id = $1", id, detail)
	return touched(n, err, ErrNotFound)
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
	state, handed := i.State, i.State == ItemHanded
	if handed {
		state = ItemRunning
	}
	n, err := tx.exec(ctx, `UPDATE job_items SET state = $3, run_id = $4, detail = $5, handed = $6, wave = $7, proves = $8, updated_at = {now} WHERE job_id = $1 AND uuid = $2`,
		i.JobID, i.UUID, state, i.RunID, i.Detail, handed, i.Wave, i.Proves)
	if err := touched(n, err, ErrNotFound); err != nil {
		return fmt.Errorf("item %s of job %d: %w", i.UUID, i.JobID, err)
	}
	return nil
}

// JobItems lists a page of a job's items in one state ("" any), by UUID.
func (tx *Tx) JobItems(ctx context.Context, job int64, state string, after amt.UUID, limit int) ([]JobItem, error) {
	fits, args := "", []any{job, after, page(limit)}
	switch state {
	case "":
	case ItemHanded, ItemRunning:
		args = append(args, state == ItemHanded)
		fits = " AND i.state = 'running' AND i.handed = $4"
	default:
		args = append(args, state)
		fits = " AND i.state = $4"
	}
	return list(ctx, tx, scanItem, "SELECT "+itemColumns+" FROM job_items i WHERE i.job_id = $1 AND i.uuid > $2"+fits+" ORDER BY i.uuid LIMIT $3", args...)
}

// CountJobItems counts a job's items by state.
func (tx *Tx) CountJobItems(ctx context.Context, job int64) (map[string]int, error) {
	out := map[string]int{}
	err := tx.each(ctx, func(s scanner) error {
		var k string
		var n int
		err := s.Scan(&k, &n)
		out[k] += n
		return err
	}, "SELECT "+itemState+", count(*) FROM job_items i WHERE i.job_id = $1 GROUP BY 1", job)
	return out, err
}
