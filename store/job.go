package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// States of a job and of its items.
const (
	JobDraft   = "draft"
	JobWaiting = "waiting"
	JobRunning = "running"
	// JobStopped is a job that lost a device, or proved none, and waits for a
	// person. Its row says draft, which nodes of every version leave alone.
	JobStopped = "stopped"
	// JobForged is a job that has not ended and that nobody ordered here, or not
	// like that (signed.go). It begins nothing; a person can abort it.
	JobForged  = "forged"
	JobDone    = "done"
	JobAborted = "aborted"

	ItemWaiting = "waiting"
	ItemRunning = "running"
	// ItemHanded is a device that got its command and whose run has not ended.
	ItemHanded  = "handed_over"
	ItemDone    = "done"
	ItemFailed  = "failed"
	ItemSkipped = "skipped"
	// ItemForged is a device that no job of this server was made with. It counts
	// for nothing.
	ItemForged = "forged"
)

const (
	jobState   = "CASE WHEN state = 'draft' AND stopped_at IS NOT NULL THEN 'stopped' ELSE state END"
	jobColumns = "id, kind, filter, options, " + jobState + ", per_minute, canary, target, cause, detail, not_before, " +
		"created_by, approved_by, created_at, finished_at, stopped_at, resumed_at, signed"

	itemState   = "CASE WHEN i.forged THEN 'forged' WHEN i.handed AND i.state = 'running' THEN 'handed_over' ELSE i.state END"
	itemColumns = "i.job_id, i.uuid, " + itemState + ", i.run_id, i.wave, i.proves, i.detail, i.updated_at, i.signed"

	// itemGrants selects the items that a job still acts on, those that prove a
	// wave, and the refused ones, which stay counted after their job's end.
	itemGrants = "(i.forged OR (i.state IN ('waiting', 'running') OR i.state = 'done' AND i.wave IN (1, 2)) " +
		"AND i.job_id IN (SELECT id FROM jobs WHERE state <> 'done'))"

	itemForgedText = "this server did not write it like that, and it counts for nothing"
)

func (j *BulkJob) dest() []any {
	return []any{&j.ID, &j.Kind, jsonOf{&j.Filter}, jsonOf{&j.Options}, &j.State, &j.PerMinute, &j.Canary, &j.Target, &j.Cause, &j.Detail,
		timeOf{&j.NotBefore}, &j.CreatedBy, &j.ApprovedBy,
		timeOf{&j.CreatedAt}, timeOf{&j.FinishedAt}, timeOf{&j.StoppedAt}, timeOf{&j.ResumedAt}, &j.signed}
}

func (j *BulkJob) ended() bool { return j.State == JobDone || j.State == JobAborted }

func (j *BulkJob) place() seal.Place {
	return place("jobs", j.ID, j.Kind, j.Filter, j.Options, j.State, j.PerMinute, j.Canary, j.Target, j.Cause, j.NotBefore, j.CreatedBy,
		j.ApprovedBy)
}

// judgeJob marks a job as forged that this server did not write like that.
func (tx *Tx) judgeJob(j *BulkJob) {
	if !j.ended() && !tx.counts("jobs", j.ID, j.place(), j.signed) {
		j.State, j.Detail = JobForged, fmt.Sprintf("this server did not write it like that: it was put into the database, or changed "+
			"there, "+
			"and begins nothing; provctl job abort %d ends it", j.ID)
	}
}

func (tx *Tx) jobs(ctx context.Context, q string, args ...any) ([]BulkJob, error) {
	return list(ctx, tx, func(s scanner) (BulkJob, error) {
		j, err := scanJob(s)
		if err == nil {
			tx.judgeJob(&j)
		}
		return j, err
	}, q, args...)
}

func (tx *Tx) job(ctx context.Context, id int64, lock string) (BulkJob, error) {
	v, err := first(tx.jobs(ctx, "SELECT "+jobColumns+" FROM jobs WHERE id = $1"+lock, id))
	return v, about(err, "job %d", id)
}

func scanJob(s scanner) (BulkJob, error) {
	var j BulkJob
	err := s.Scan(j.dest()...)
	return j, err
}

func (i *JobItem) dest() []any {
	return []any{&i.JobID, &i.UUID, &i.State, &i.RunID, &i.Wave, &i.Proves, &i.Detail, timeOf{&i.UpdatedAt}, &i.signed}
}

func (i *JobItem) place() seal.Place {
	return place("job_items", i.JobID, i.UUID, i.State, i.RunID, i.Wave, i.Proves)
}

// acts reports whether the job still acts on the item.
func (i *JobItem) acts() bool {
	return i.State == ItemWaiting || i.State == ItemRunning || i.State == ItemHanded
}

// judgeItem marks an item as forged that this server did not write like that,
// and reports whether it counts.
func (tx *Tx) judgeItem(i *JobItem) bool {
	ok := !i.acts() || tx.counts("job_items", rowKey{i.JobID, i.UUID}, i.place(), i.signed)
	if !ok {
		i.State, i.Detail = ItemForged, itemForgedText
	}
	return ok
}

// items lists at most limit items that count, and passes over those that do
// not.
func (tx *Tx) items(ctx context.Context, q string, limit int, args ...any) ([]JobItem, error) {
	var out []JobItem
	most, seen := int(page(limit)), 0
	for {
		n := 0
		err := tx.each(ctx, func(s scanner) error {
			n++
			i, err := scanItem(s)
			if err == nil && tx.judgeItem(&i) {
				out = append(out, i)
			}
			return err
		}, fmt.Sprintf("%s LIMIT %d OFFSET %d", q, most-len(out), seen), args...)
		if seen += n; err != nil || len(out) == most || n == 0 {
			return out, err
		}
	}
}

func scanItem(s scanner) (JobItem, error) {
	var i JobItem
	err := s.Scan(i.dest()...)
	return i, err
}

// CreateJob stores a bulk operation; AddJobItems adds its items.
func (tx *Tx) CreateJob(ctx context.Context, j BulkJob) (int64, error) {
	err := tx.one(ctx, `INSERT INTO jobs (kind, filter, options, state, per_minute, canary, target, cause, not_before, created_by,
		approved_by, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, {now}) RETURNING `+jobColumns,
		[]any{j.Kind, object(j.Filter), object(j.Options), j.State, j.PerMinute, j.Canary, j.Target, j.Cause, j.NotBefore, j.CreatedBy,
			j.ApprovedBy}, j.dest()...)
	if err == nil {
		err = tx.signJob(ctx, &j, "")
	}
	return j.ID, about(err, "job %s", j.Kind)
}

// signJob signs a job as it is now, and writes what changed with it.
func (tx *Tx) signJob(ctx context.Context, j *BulkJob, set string, args ...any) error {
	var mac []byte // a job that has ended begins nothing again
	if !j.ended() {
		var err error
		if mac, err = tx.sign(j.place()); err != nil {
			return err
		}
	}
	n, err := tx.exec(ctx, "UPDATE jobs SET "+set+"signed = $2 WHERE id = $1", append([]any{j.ID, mac}, args...)...)
	return touched(n, err, ErrGone)
}

// Job reads one job.
func (tx *Tx) Job(ctx context.Context, id int64) (BulkJob, error) { return tx.job(ctx, id, "") }

// Jobs lists jobs in one state ("" any), newest first.
func (tx *Tx) Jobs(ctx context.Context, state string, limit int) ([]BulkJob, error) {
	found, err := tx.jobs(ctx, "SELECT "+jobColumns+" FROM jobs WHERE (CAST($1 AS text) = '' OR "+jobState+
		" = CAST($1 AS text)) ORDER BY id DESC LIMIT $2", state, page(limit))
	if state != "" {
		found = slices.DeleteFunc(found, func(j BulkJob) bool { return j.State != state })
	}
	return found, err
}

// SetJobState moves a job that has not ended, and notes who approved it if
// approvedBy is given. ErrGone: the job has ended, or it is forged and state is
// no end. From its begin on, lost devices hold the job.
func (tx *Tx) SetJobState(ctx context.Context, id int64, state, approvedBy string) error {
	return tx.moveJob(ctx, id, func(j *BulkJob) (string, []any) {
		forged := j.State == JobForged
		if j.ended() {
			return "", nil
		}
		if j.State = state; forged && !j.ended() {
			return "", nil
		}
		if approvedBy != "" {
			j.ApprovedBy = approvedBy
		}
		set := "state = $3, approved_by = $4, stopped_at = NULL, "
		switch {
		case j.ended():
			set += "finished_at = {now}, "
		case state == JobRunning:
			set += "resumed_at = {now}, "
		}
		return set, []any{state, j.ApprovedBy}
	})
}

// StopJob keeps a running job from beginning anything more until a person has
// looked; ErrGone if the job is not running.
func (tx *Tx) StopJob(ctx context.Context, id int64, why string) error {
	return tx.moveJob(ctx, id, func(j *BulkJob) (string, []any) {
		if j.State != JobRunning {
			return "", nil
		}
		j.State = JobStopped
		return "state = 'draft', stopped_at = {now}, detail = $3, ", []any{why}
	})
}

// ResumeJob lets a stopped job go on: devices lost until now no longer hold it.
// ErrGone if the job is not stopped.
func (tx *Tx) ResumeJob(ctx context.Context, id int64) error {
	return tx.moveJob(ctx, id, func(j *BulkJob) (string, []any) {
		if j.State != JobStopped {
			return "", nil
		}
		j.State = JobWaiting
		return "state = 'waiting', stopped_at = NULL, resumed_at = {now}, detail = '', ", nil
	})
}

// moveJob lets move change a job, and signs it anew; ErrGone if move changes
// nothing.
func (tx *Tx) moveJob(ctx context.Context, id int64, move func(*BulkJob) (set string, args []any)) error {
	j, err := tx.LockJob(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("job %d: %w", id, ErrGone)
	}
	if err != nil {
		return err
	}
	set, args := move(&j)
	if set == "" {
		return fmt.Errorf("job %d: %w", id, ErrGone)
	}
	if err := tx.signJob(ctx, &j, set, args...); err != nil {
		return fmt.Errorf("job %d: %w", id, err)
	}
	return nil
}

// SetJobDetail notes why a job ended early.
func (tx *Tx) SetJobDetail(ctx context.Context, id int64, detail string) error {
	n, err := tx.exec(ctx, "UPDATE jobs SET detail = $2 WHERE id = $1", id, detail)
	return touched(n, err, ErrNotFound)
}

// AddJobItems adds devices to a job; a device that is there already stays as it
// is.
func (tx *Tx) AddJobItems(ctx context.Context, job int64, devices []amt.UUID) error {
	all := make([]statement, len(devices))
	for i, u := range devices {
		item := JobItem{JobID: job, UUID: u, State: ItemWaiting}
		mac, err := tx.sign(item.place())
		if err != nil {
			return fmt.Errorf("items of job %d: %w", job, err)
		}
		all[i] = statement{q: "INSERT INTO job_items (job_id, uuid, state, updated_at, signed) VALUES ($1, $2, 'waiting', {now}, $3) " +
			"ON CONFLICT DO NOTHING", args: []any{job, u, mac}}
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return fmt.Errorf("items of job %d: %w", job, err)
	}
	return nil
}

// PutJobItem writes one device's part of a job.
func (tx *Tx) PutJobItem(ctx context.Context, i JobItem) error {
	state, handed := i.State, i.State == ItemHanded
	if handed {
		state = ItemRunning
	}
	mac, err := tx.sign(i.place())
	if err != nil {
		return fmt.Errorf("item %s of job %d: %w", i.UUID, i.JobID, err)
	}
	n, err := tx.exec(ctx, `UPDATE job_items SET state = $3, run_id = $4, detail = $5, handed = $6, wave = $7, proves = $8,
		updated_at = {now}, signed = $9 WHERE job_id = $1 AND uuid = $2`,
		i.JobID, i.UUID, state, i.RunID, i.Detail, handed, i.Wave, i.Proves, mac)
	return about(touched(n, err, ErrNotFound), "item %s of job %d", i.UUID, i.JobID)
}

// JobItems lists a page of a job's items in one state, by UUID. With "" it
// lists all states, and items that do not count too.
func (tx *Tx) JobItems(ctx context.Context, job int64, state string, after amt.UUID, limit int) ([]JobItem, error) {
	fits, args := "", []any{job, after}
	switch state {
	case "":
		return list(ctx, tx, func(s scanner) (JobItem, error) {
			i, err := scanItem(s)
			if err == nil {
				tx.judgeItem(&i)
			}
			return i, err
		}, "SELECT "+itemColumns+" FROM job_items i WHERE i.job_id = $1 AND i.uuid > $2 ORDER BY i.uuid LIMIT $3", job, after, page(limit))
	case ItemHanded, ItemRunning:
		args = append(args, state == ItemHanded)
		fits = " AND i.state = 'running' AND i.handed = $3"
	case ItemForged:
		fits = " AND i.forged"
	default:
		args = append(args, state)
		fits = " AND i.state = $3 AND NOT i.forged"
	}
	return tx.items(ctx, "SELECT "+itemColumns+" FROM job_items i WHERE i.job_id = $1 AND i.uuid > $2"+fits+" ORDER BY i.uuid", limit,
		args...)
}

// RefuseJobItems takes items out of a job that this server did not put in, so
// that they hold up neither its pace nor its end. It looks at the items under
// way, and at the waiting ones as far as the first that counts.
func (tx *Tx) RefuseJobItems(ctx context.Context, job int64) error {
	for _, state := range []string{ItemRunning, ItemWaiting} {
		for after, more := (amt.UUID{}), true; more; {
			items, err := list(ctx, tx, scanItem, "SELECT "+itemColumns+" FROM job_items i WHERE i.job_id = $1 AND i.uuid > $2 "+
				"AND i.state = '"+state+"' ORDER BY i.uuid LIMIT $3",
				job, after, page(0))
			if err != nil {
				return fmt.Errorf("items of job %d: %w", job, err)
			}
			var refused []statement
			for _, i := range items {
				if after = i.UUID; !tx.judgeItem(&i) {
					refused = append(refused, statement{q: `UPDATE job_items SET state = 'skipped', forged = true, detail = $3,
						updated_at = {now}, signed = NULL
						WHERE job_id = $1 AND uuid = $2`, args: []any{job, i.UUID, itemForgedText}})
				}
			}
			if err := tx.pipeline(ctx, refused...); err != nil {
				return fmt.Errorf("refuse items of job %d: %w", job, err)
			}
			more = int64(len(items)) == page(0) && (state == ItemRunning || len(refused) == len(items))
		}
	}
	return nil
}

// CountJobItems counts a job's items by state.
func (tx *Tx) CountJobItems(ctx context.Context, job int64) (map[string]int, error) {
	out := map[string]int{}
	return out, countBy(ctx, tx, out, "SELECT "+itemState+", count(*) FROM job_items i WHERE i.job_id = $1 GROUP BY 1", job)
}
