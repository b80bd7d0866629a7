package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// What the store keeps so that no change reaches a fleet before one device
// proved it, and so that the first lost device stops the change.
//
//  1. A run that sent a change and did not end well leaves the device unproved; a
//     run that ends well takes the mark away.
//  2. An unproved device that does not answer is lost, until it answers.

// kindRollout is the kind of jobs that bring devices to the newest version of
// their profile.
const kindRollout = "rollout"

// managedStates are the lifecycles of devices that answer as ours.
const managedStates = "('provisioned', 'drifted', 'maintaining')"

// MarkUnproved notes that a run sent a change to a device without proving it,
// and if contact broke off, since when. It reports whether the device became
// lost just now.
func (tx *Tx) MarkUnproved(ctx context.Context, uuid amt.UUID, sent, unanswered bool) (lost bool, err error) {
	if sent {
		if _, err := tx.exec(ctx, "UPDATE devices SET unproved_at = {now} WHERE uuid = $1 AND unproved_at IS NULL", uuid); err != nil {
			return false, fmt.Errorf("device %s: %w", uuid, err)
		}
	}
	if !unanswered {
		return false, nil
	}
	n, err := tx.exec(ctx, "UPDATE devices SET lost_at = {now} WHERE uuid = $1 AND unproved_at IS NOT NULL AND lost_at IS NULL", uuid)
	return n > 0, about(err, "device %s", uuid)
}

// MarkAnswered takes both marks away, since a run ended well.
func (tx *Tx) MarkAnswered(ctx context.Context, uuid amt.UUID) error {
	if _, err := tx.exec(ctx, "UPDATE devices SET unproved_at = NULL, lost_at = NULL WHERE uuid = $1 AND (unproved_at IS NOT NULL OR "+
		"lost_at IS NOT NULL)", uuid); err != nil {
		return fmt.Errorf("device %s: %w", uuid, err)
	}
	return nil
}

// StepCutOff reports whether an attempt of a run ended between a step's start
// and its outcome, so that it may have sent the step's change.
func (tx *Tx) StepCutOff(ctx context.Context, runID int64) (bool, error) {
	cut, err := tx.exists(ctx, "run_steps WHERE run_id = $1 AND state = 'started'", runID)
	return cut, about(err, "journal of run %d", runID)
}

// A Lost device is one that a run changed and that has not answered since.
type Lost struct {
	UUID   amt.UUID
	Name   string
	At     time.Time
	Reason reason.Code
	Detail string
	Tried  bool // a further attempt waits or is under way
}

// LostDevices lists managed devices lost since a moment, oldest loss first.
func (tx *Tx) LostDevices(ctx context.Context, since time.Time, limit int) ([]Lost, error) {
	found, err := list(ctx, tx, func(s scanner) (Lost, error) {
		var l Lost
		err := s.Scan(&l.UUID, &l.Name, timeOf{&l.At}, &l.Reason, &l.Detail, &l.Tried)
		return l, err
	}, `SELECT uuid, CASE WHEN host <> '' THEN host ELSE fqdn END, lost_at, reason, detail,
			EXISTS (SELECT 1 FROM runs r WHERE r.uuid = devices.uuid AND r.state IN ('queued', 'running'))
		FROM devices WHERE lost_at IS NOT NULL AND lost_at >= $1 AND `+tx.noIndex("lifecycle")+
		` IN ('provisioned', 'drifted', 'maintaining', 'credentials_unknown')
		ORDER BY lost_at, uuid LIMIT $2`, since, page(limit))
	return found, about(err, "devices lost")
}

// A Wave is the progress of one wave of a job.
type Wave struct{ Done, Running int }

// JobWaves counts each wave's devices that are proved or under way.
func (tx *Tx) JobWaves(ctx context.Context, id int64) (map[int]Wave, error) {
	out := map[int]Wave{}
	err := tx.each(ctx, func(s scanner) error {
		var n int
		var w Wave
		err := s.Scan(&n, &w.Done, &w.Running)
		out[n] = w
		return err
	}, `SELECT wave, count(CASE WHEN state = 'done' THEN 1 END), count(CASE WHEN state = 'running' THEN 1 END) FROM job_items
		WHERE job_id = $1 AND wave > 2 GROUP BY wave`, id)
	if err == nil { // judge one by one those that prove something
		err = tx.each(ctx, func(s scanner) error {
			i, err := scanItem(s)
			if err != nil || !tx.counts("job_items", rowKey{i.JobID, i.UUID}, i.place(), i.signed) {
				return err
			}
			w := out[i.Wave]
			if i.State == ItemDone {
				w.Done++
			} else {
				w.Running++
			}
			out[i.Wave] = w
			return nil
		}, "SELECT "+itemColumns+" FROM job_items i WHERE i.job_id = $1 AND i.wave IN (1, 2) AND i.state IN ('done', 'running')", id)
	}
	return out, about(err, "waves of job %d", id)
}

// refusals are the reasons for which runs leave a device alone because of its
// answer. Another version of its profile asks something else.
var refusals = func() string {
	var list []string
	for _, e := range reason.All() {
		if e.Blame == reason.ThePolicy {
			list = append(list, string(e.Code))
		}
	}
	return "('" + strings.Join(list, "', '") + "')"
}()

// NextInWave lists waiting items of a job. idle leaves out devices that a run
// works on or that rest for a while; a device that rests because it refused
// another job counts as idle if this job has not asked it yet. best puts those
// first that no run works on and that answered last time.
func (tx *Tx) NextInWave(ctx context.Context, id int64, idle, best bool, limit int) ([]JobItem, error) {
	const busy = "EXISTS (SELECT 1 FROM runs r WHERE r.uuid = i.uuid AND r.state IN ('queued', 'running'))"
	only, order := "", ""
	if best {
		order = "CASE WHEN " + busy + " THEN 2 WHEN d.health = 'ok' THEN 0 ELSE 1 END, "
	}
	if idle {
		only = " AND (d.next_retry IS NULL OR d.next_retry <= {now} OR i.run_id = 0 AND d.reason IN " + refusals + ") AND NOT " + busy
	}
	found, err := tx.items(ctx, "SELECT "+itemColumns+` FROM job_items i LEFT JOIN devices d ON d.uuid = i.uuid
		WHERE i.job_id = $1 AND i.state = 'waiting'`+only+`
		ORDER BY `+order+`i.uuid`, limit, id)
	return found, about(err, "items of job %d", id)
}

// Outgrown says which devices differ from the newest version of their profile.
type Outgrown struct {
	Profile string
	Version int
	Cause   string
	After   amt.UUID
	Limit   int
}

// OutgrownDevices lists managed devices, by UUID, that have an older version of
// a profile than the newest, or another profile than the one a person gave
// them. It leaves out devices that a rollout to the same version has, or had
// when it was aborted for the same cause: what waits stays as it was.
func (tx *Tx) OutgrownDevices(ctx context.Context, o Outgrown, assigned bool) ([]amt.UUID, error) {
	which := "profile = $3 AND profile_version > 0 AND profile_version <> $4 AND assigned_profile IN ('', $3)"
	if assigned {
		which = "assigned_profile = $3 AND assigned_profile <> '' AND assigned_profile <> profile AND CAST($4 AS bigint) >= 0"
	}
	in, args, err := tx.rolledOut(ctx, o, 5)
	if err != nil {
		return nil, err
	}
	found, err := list(ctx, tx, scanUUID, `SELECT uuid FROM devices WHERE uuid > $1 AND `+tx.noIndex("lifecycle")+` IN `+managedStates+
		` AND `+which+in+` ORDER BY uuid LIMIT $2`,
		append([]any{o.After, page(o.Limit), o.Profile, int64(o.Version)}, args...)...)
	return found, about(err, "devices that differ from profile %s", o.Profile)
}

// RolledOut reports whether a rollout to the same version has this device.
func (tx *Tx) RolledOut(ctx context.Context, o Outgrown, uuid amt.UUID) (bool, error) {
	in, args, err := tx.rolledOut(ctx, o, 2)
	if err != nil || in == "" {
		return false, err
	}
	left, err := tx.exists(ctx, "devices WHERE uuid = $1"+in, append([]any{uuid}, args...)...)
	return !left, err
}

// rolledOut is the condition that no rollout to a target has the device.
func (tx *Tx) rolledOut(ctx context.Context, o Outgrown, first int) (in string, args []any, err error) {
	marks := []string{}
	err = tx.each(ctx, func(s scanner) error {
		var id int64
		err := s.Scan(&id)
		args, marks = append(args, id), append(marks, fmt.Sprintf("$%d", first+len(args)))
		return err
	}, "SELECT id FROM jobs WHERE kind = '"+kindRollout+"' AND target = $1 AND state <> 'done' AND (state <> 'aborted' OR cause = $2)",
		Target(o.Profile, o.Version), o.Cause)
	if err != nil {
		return "", nil, fmt.Errorf("rollouts of profile %s: %w", o.Profile, err)
	}
	if len(marks) > 0 {
		in = " AND NOT EXISTS (SELECT 1 FROM job_items i WHERE i.uuid = devices.uuid AND i.job_id IN (" + strings.Join(marks, ", ") + "))"
	}
	return in, args, nil
}

// Target names what a rollout gives its devices.
func Target(profile string, version int) string { return fmt.Sprintf("%s@%d", profile, version) }

// OpenRollout reports whether any rollout of a profile has not ended.
func (tx *Tx) OpenRollout(ctx context.Context, profile string) (bool, error) {
	open, err := tx.exists(ctx, "jobs WHERE kind = '"+kindRollout+"' AND state <> 'done' AND substr(target, 1, $2) = $1", profile+"@",
		len(profile)+1)
	return open, about(err, "rollouts of profile %s", profile)
}

// Unproved reports whether a device is lost after a change, or still unproved.
func (tx *Tx) Unproved(ctx context.Context, uuid amt.UUID) (lost, unproved bool, err error) {
	err = tx.one(ctx, "SELECT lost_at IS NOT NULL, unproved_at IS NOT NULL FROM devices WHERE uuid = $1", []any{uuid}, &lost, &unproved)
	return lost, unproved, about(err, "device %s", uuid)
}

// RolloutOf finds the open rollout for a target and cause, or returns
// ErrNotFound.
func (tx *Tx) RolloutOf(ctx context.Context, target, cause string) (id int64, err error) {
	all, err := tx.jobs(ctx, "SELECT "+jobColumns+" FROM jobs WHERE kind = '"+kindRollout+
		"' AND target = $1 AND cause = $2 AND state NOT IN ('done', 'aborted') ORDER BY id DESC", target, cause)
	for _, j := range all {
		if j.State != JobForged {
			return j.ID, nil
		}
	}
	if err == nil {
		err = ErrNotFound
	}
	return 0, fmt.Errorf("rollout to %s: %w", target, err)
}

// OlderRollouts lists open rollouts of a profile to another version than the
// newest in which devices wait or which stopped.
func (tx *Tx) OlderRollouts(ctx context.Context, profile, newest string) ([]BulkJob, error) {
	found, err := tx.jobs(ctx, "SELECT "+jobColumns+` FROM jobs WHERE kind = '`+kindRollout+`' AND state NOT IN ('done', 'aborted')
		AND substr(target, 1, $2) = $1 AND target <> $3 AND (stopped_at IS NOT NULL OR EXISTS (SELECT 1 FROM job_items i
		WHERE i.job_id = jobs.id AND i.state = 'waiting'))
		ORDER BY id`, profile+"@", len(profile)+1, newest)
	return found, about(err, "rollouts of profile %s", profile)
}

// StoppedWith lists stopped jobs in which a device waits, the newest first.
func (tx *Tx) StoppedWith(ctx context.Context, uuid amt.UUID) (jobs []BulkJob, err error) {
	found, err := list(ctx, tx, func(s scanner) (id int64, err error) {
		err = s.Scan(&id)
		return id, err
	}, `SELECT job_id FROM job_items WHERE uuid = $1 AND state = 'waiting'
		AND job_id IN (SELECT id FROM jobs WHERE stopped_at IS NOT NULL) ORDER BY job_id DESC LIMIT 5`, uuid)
	for _, id := range found {
		j, err := tx.Job(ctx, id)
		if err != nil {
			return nil, err
		}
		if j.State == JobStopped {
			jobs = append(jobs, j)
		}
	}
	return jobs, err
}
