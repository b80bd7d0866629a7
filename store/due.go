package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// Due says which managed devices need a maintenance run.
type Due struct {
	CertBefore time.Time // the device's own certificate ends before; zero: any
	// Passwords says by profile since when a device must have changed its password;
	// "" is for devices without a profile of their own.
	Passwords     map[string]time.Time
	ContactBefore time.Time     // the last contact was before
	Names         bool          // the device does not have the wanted name
	Rest          time.Duration // leave a device alone for so long after its last run
	After         amt.UUID
	Among         int // look through at most so many devices; 0: all
	Limit         int
}

// DueDevices lists managed devices, by UUID, that need a maintenance run, that
// no run works on and that rested. next is the device after which to go on,
// zero after the last one.
func (tx *Tx) DueDevices(ctx context.Context, d Due) (found []Device, next amt.UUID, err error) {
	if d.Among > 0 {
		// Walking the key alone is quick.
		err := tx.one(ctx, "SELECT uuid FROM devices WHERE uuid > $1 ORDER BY uuid LIMIT 1 OFFSET $2", []any{d.After, int64(d.Among - 1)},
			&next)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, next, fmt.Errorf("devices with maintenance due: %w", err)
		}
	}
	if found, err = tx.due(ctx, d, next); err != nil {
		return nil, next, fmt.Errorf("devices with maintenance due: %w", err)
	}
	if n := len(found); n > 0 && int64(n) == page(d.Limit) {
		next = found[n-1].UUID
	}
	return found, next, nil
}

func (tx *Tx) due(ctx context.Context, d Due, last amt.UUID) ([]Device, error) {
	never := time.UnixMilli(0)
	for _, t := range []*time.Time{&d.CertBefore, &d.ContactBefore} {
		if t.IsZero() {
			*t = never
		}
	}
	args := []any{d.After, d.CertBefore, d.ContactBefore, -d.Rest.Milliseconds(), page(d.Limit)}
	// A reason on a managed device means that its run failed, so it gets another.
	// On a drifted device the reason says what differs, or that its setup is gone.
	due := "device_cert_not_after < $2 OR last_contact < $3 OR lifecycle = 'provisioned' AND reason <> '' OR reason = '" +
		string(reason.ReappearedUnprovisioned) + "'"
	const misnamed = "fqdn <> '' AND lower(fqdn) <> lower(CASE WHEN domain = '' THEN host ELSE host || '.' || domain END)"
	if d.Names {
		due += " OR " + misnamed
	}
	for _, name := range slices.Sorted(maps.Keys(d.Passwords)) {
		args = append(args, name, d.Passwords[name])
		due += fmt.Sprintf(" OR profile = $%d AND password_changed_at < $%d", len(args)-1, len(args))
	}
	// What a person changed just now does not wait for the rest: a run that
	// succeeds brings the device up to date, and one that fails sets next_retry.
	changed := "1 = 0"
	if d.Names {
		changed += " OR " + misnamed + ` AND EXISTS (SELECT 1 FROM names n WHERE n.uuid = devices.uuid
			AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.uuid = devices.uuid AND r.kind = 'maintain' AND r.state = 'done'
			AND r.finished_at > n.updated_at))`
	}
	until := ""
	if !last.IsZero() {
		args = append(args, last)
		until = fmt.Sprintf(" AND uuid <= $%d", len(args))
	}
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+` FROM devices
		WHERE uuid > $1`+until+` AND `+tx.noIndex("lifecycle")+` IN ('provisioned', 'drifted') AND (`+tx.noIndex("next_retry")+
		` IS NULL OR next_retry <= {now})
			AND (`+changed+` OR (`+due+`)
				AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.uuid = devices.uuid AND r.kind = 'maintain' AND r.finished_at > {now+$4}))
			AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.uuid = devices.uuid AND r.state IN ('queued', 'running'))
		ORDER BY uuid LIMIT $5`, args...)
}

// CountLiveRuns counts runs of a kind that are queued or under way.
func (tx *Tx) CountLiveRuns(ctx context.Context, kind string) (int, error) {
	n, err := tx.number(ctx, "SELECT count(*) FROM runs WHERE state IN ('queued', 'running') AND kind = $1", kind)
	return n, about(err, "count runs under way")
}

// LockJob reads a job and keeps every other node from it until this transaction
// ends.
func (tx *Tx) LockJob(ctx context.Context, id int64) (BulkJob, error) {
	return tx.job(ctx, id, " {lock}")
}

// JobStarted counts the job's devices that began within a time.
func (tx *Tx) JobStarted(ctx context.Context, id int64, within time.Duration) (int, error) {
	var n int
	err := tx.one(ctx, `SELECT count(*) FROM job_items i LEFT JOIN runs r ON r.id = i.run_id WHERE i.job_id = $1
		AND (r.created_at > {now+$2} OR i.run_id = 0 AND i.state IN ('done', 'failed') AND i.updated_at > {now+$2})`,
		[]any{id, -within.Milliseconds()}, &n)
	return n, about(err, "job %d", id)
}

// JobDevicesOf lists at most most devices that a user's jobs of a kind reach
// without another user's approval. It counts jobs that the user made within a
// time or that have not ended, and leaves out devices that a job skipped.
func (tx *Tx) JobDevicesOf(ctx context.Context, kind, user string, within time.Duration, most int) ([]amt.UUID, error) {
	found, err := list(ctx, tx, scanUUID, `SELECT DISTINCT i.uuid FROM jobs j JOIN job_items i ON i.job_id = j.id
		WHERE j.kind = $1 AND j.created_by = $2 AND j.approved_by = '' AND i.state <> 'skipped'
		AND (j.state IN ('waiting', 'running') OR j.stopped_at IS NOT NULL OR j.state <> 'draft' AND j.created_at > {now+$3}) LIMIT $4`, kind,
		user, -within.Milliseconds(), most)
	return found, about(err, "devices of the jobs of %s", user)
}

// JobEnded lists a job's items that are under way or handed over and whose run
// has ended, each with that run.
func (tx *Tx) JobEnded(ctx context.Context, id int64, limit int) ([]JobItem, []Run, error) {
	var items []JobItem
	var runs []Run
	err := tx.each(ctx, func(s scanner) error {
		var i JobItem
		var r Run
		if err := s.Scan(append(i.dest(), r.dest()...)...); err != nil {
			return err
		}
		if tx.judgeItem(&i) {
			items, runs = append(items, i), append(runs, r)
		}
		return nil
	}, "SELECT "+itemColumns+", "+prefixed("r", runColumns)+` FROM job_items i JOIN runs r ON r.id = i.run_id
		WHERE i.job_id = $1 AND i.state = 'running' AND r.state NOT IN ('queued', 'running') ORDER BY i.uuid LIMIT $2`, id, page(limit))
	return items, runs, about(err, "items of job %d", id)
}

// SkipJobItems ends all items of a job that have not begun.
func (tx *Tx) SkipJobItems(ctx context.Context, id int64, detail string) (int64, error) {
	n, err := tx.exec(ctx, "UPDATE job_items SET state = 'skipped', detail = $2, updated_at = {now}, signed = NULL WHERE job_id = $1 AND "+
		"state = 'waiting'", id, detail)
	return n, about(err, "items of job %d", id)
}
