package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store/seal"
)

const runColumns = `id, uuid, kind, triggered_by, state, attempt, node, fence, profile, task, certificate, created_at,
	not_before, started_at, finished_at, reason, detail, blame, signed`

func (r *Run) dest() []any {
	return []any{&r.ID, &r.UUID, &r.Kind, &r.Trigger, &r.State, &r.Attempt, &r.Node, &r.Fence, &r.Profile, &r.Task,
		&r.Certificate, timeOf{&r.CreatedAt}, timeOf{&r.NotBefore}, timeOf{&r.StartedAt}, timeOf{&r.FinishedAt},
		&r.Reason, &r.Detail, &r.Blame, &r.signed}
}

// place names a run by its device and its creation time: no device has two runs
// at once.
func (r *Run) place() seal.Place {
	return place("runs", r.UUID, r.CreatedAt, r.Kind, r.Trigger, r.Profile, r.Task)
}

// judgeRun marks a live run as forged that nobody ordered here.
func (tx *Tx) judgeRun(r *Run) {
	r.Forged = r.Live() && !tx.counts("runs", r.UUID, r.place(), r.signed)
}

// runs lists the runs that count.
func (tx *Tx) runs(ctx context.Context, q string, args ...any) ([]Run, error) {
	return ours(ctx, tx, func(s scanner) (Run, bool, error) {
		r, err := scanRun(s)
		if err == nil {
			tx.judgeRun(&r)
		}
		return r, !r.Forged, err
	}, q, args...)
}

func scanRun(s scanner) (Run, error) {
	var r Run
	err := s.Scan(r.dest()...)
	return r, err
}

// Live reports whether the run still waits or is under way.
func (r Run) Live() bool { return !r.Forged && (r.State == RunQueued || r.State == RunRunning) }

// CreateRun makes the one live run of a device; ErrConflict if the device has
// one already, whoever made it on whichever node.
func (tx *Tx) CreateRun(ctx context.Context, n NewRun) (Run, error) {
	r, err := tx.createRun(ctx, n)
	if err == ErrNotFound { //nolint:errorlint // the insert returned no row; a wrapped ErrNotFound is the missing device
		var gone bool
		switch gone, err = tx.endForged(ctx, n.UUID); {
		case err == nil && gone:
			r, err = tx.createRun(ctx, n)
		case err == nil, errors.Is(err, ErrNotFound):
			err = fmt.Errorf("a live one is %w", ErrConflict)
		}
	}
	return r, about(err, "start a run for %s", n.UUID)
}

func (tx *Tx) createRun(ctx context.Context, n NewRun) (Run, error) {
	r := Run{UUID: n.UUID, Kind: n.Kind, Trigger: n.Trigger, Profile: n.Profile, Task: n.Task, CreatedAt: tx.Now()}
	mac, err := tx.sign(r.place())
	if err != nil {
		return r, err
	}
	at, args := "{now}", []any{n.UUID, n.Kind, n.Trigger, n.Profile, n.Task, r.CreatedAt, mac}
	if !n.NotBefore.IsZero() {
		at, args = "$8", append(args, n.NotBefore)
	}
	err = tx.one(ctx, `INSERT INTO runs (uuid, kind, triggered_by, state, profile, task, created_at, signed, not_before)
		VALUES ($1, $2, $3, 'queued', $4, $5, $6, $7, `+at+`) ON CONFLICT DO NOTHING RETURNING `+runColumns, args, r.dest()...)
	return r, err
}

// endForged ends a device's live run if nobody ordered it here.
func (tx *Tx) endForged(ctx context.Context, uuid amt.UUID) (bool, error) {
	var r Run
	if err := tx.one(ctx, "SELECT "+runColumns+" FROM runs WHERE uuid = $1 AND "+liveRuns, []any{uuid}, r.dest()...); err != nil {
		return false, err
	}
	if tx.judgeRun(&r); !r.Forged {
		return false, nil
	}
	return true, tx.StopRun(ctx, uuid, r.ID, "this server did not write it: it was put into the database, and counted for nothing")
}

// Run reads one run.
func (tx *Tx) Run(ctx context.Context, id int64) (Run, error) {
	var r Run
	if err := tx.one(ctx, "SELECT "+runColumns+" FROM runs WHERE id = $1", []any{id}, r.dest()...); err != nil {
		return r, fmt.Errorf("run %d: %w", id, err)
	}
	tx.judgeRun(&r)
	return r, nil
}

// LiveRun reads the device's queued or running run, or ErrNotFound.
func (tx *Tx) LiveRun(ctx context.Context, uuid amt.UUID) (Run, error) {
	v, err := first(tx.runs(ctx, "SELECT "+runColumns+" FROM runs WHERE uuid = $1 AND "+liveRuns, uuid))
	return v, about(err, "live run of %s", uuid)
}

// Kinds of runs.
const (
	ProvisionRun   = "provision"
	MaintainRun    = "maintain"
	RotateRun      = "rotate"
	UnprovisionRun = "unprovision"
	// ProbeRun checks whether a device is still where it was, since somebody says
	// hello in its name elsewhere. It changes nothing.
	ProbeRun = "probe"
)

// LiveWork is LiveRun for callers that want to work on the device: a probe
// gives way, and comes again while somebody claims the device.
func (tx *Tx) LiveWork(ctx context.Context, uuid amt.UUID) (Run, error) {
	r, err := tx.LiveRun(ctx, uuid)
	if err != nil || r.Kind != ProbeRun {
		return r, err
	}
	if err := tx.StopRun(ctx, uuid, r.ID, "something else is to be done with the device"); err != nil {
		return Run{}, err
	}
	return Run{}, fmt.Errorf("live run of %s: %w", uuid, ErrNotFound)
}

// Runs lists a device's runs, newest first.
func (tx *Tx) Runs(ctx context.Context, uuid amt.UUID, limit int) ([]Run, error) {
	return list(ctx, tx, scanRun, "SELECT "+runColumns+" FROM runs WHERE uuid = $1 ORDER BY id DESC LIMIT $2", uuid, page(limit))
}

// WaitingRuns lists live runs that have been due for a time and whose device is
// free: the sweeper requeues them if the queue lost their job.
func (tx *Tx) WaitingRuns(ctx context.Context, since time.Duration, limit int) ([]Run, error) {
	return tx.runs(ctx, "SELECT "+prefixed("r", runColumns)+` FROM runs r JOIN devices d ON d.uuid = r.uuid
		WHERE r.state IN ('queued', 'running') AND r.not_before <= {now+$1} AND (d.lease_until IS NULL OR d.lease_until <= {lease+$1})
		ORDER BY r.not_before LIMIT $2`, -since.Milliseconds(), page(limit))
}

// FarRuns lists live runs that are due later than any pause lasts: a node wrote
// them while its clock was ahead.
func (tx *Tx) FarRuns(ctx context.Context, beyond time.Duration, limit int) ([]Run, error) {
	return tx.runs(ctx, "SELECT "+runColumns+` FROM runs
		WHERE state IN ('queued', 'running') AND not_before > {now+$1} ORDER BY not_before LIMIT $2`, beyond.Milliseconds(), page(limit))
}

// liveRuns is the condition of the partial indexes on live runs. SQLite does
// not see that one of the two states implies it, and would walk through all
// runs.
const liveRuns = "state IN ('queued', 'running')"

// OldestWaiting is when the longest-waiting run became due; zero if none waits.
func (tx *Tx) OldestWaiting(ctx context.Context) (time.Time, error) {
	var t time.Time
	err := tx.one(ctx, "SELECT min(not_before) FROM runs WHERE "+liveRuns+" AND state = 'queued' AND not_before <= {now}", nil, timeOf{&t})
	return t, err
}

// HastenRun makes a live run due at t if it would have waited longer; zero is
// now.
func (tx *Tx) HastenRun(ctx context.Context, id int64, t time.Time) error {
	return tx.moveRun(ctx, id, t, sooner)
}

// AskForRun is HastenRun on a person's word: the run becomes theirs, so that
// the limits on work that nobody asked for do not hold it up.
func (tx *Tx) AskForRun(ctx context.Context, id int64, t time.Time) error {
	r, err := tx.Run(ctx, id)
	if err == nil && !r.Live() {
		err = fmt.Errorf("run %d: %w", id, ErrGone)
	}
	if err != nil {
		return err
	}
	r.Trigger = "api"
	mac, err := tx.sign(r.place())
	if err != nil {
		return err
	}
	return tx.moveRun(ctx, id, t, sooner+", triggered_by = 'api', signed = $2", mac)
}

// PostponeRun makes a live run wait until t, whatever it waited for before.
func (tx *Tx) PostponeRun(ctx context.Context, id int64, t time.Time) error {
	return tx.moveRun(ctx, id, t, "%[1]s")
}

const sooner = "CASE WHEN not_before > %[1]s THEN %[1]s ELSE not_before END"

func (tx *Tx) moveRun(ctx context.Context, id int64, t time.Time, to string, more ...any) error {
	at, args := "{now}", append([]any{id}, more...)
	if !t.IsZero() {
		args = append(args, t)
		at = fmt.Sprintf("$%d", len(args))
		if tx.pg != nil {
			at = "CAST(" + at + " AS timestamptz)"
		}
	}
	n, err := tx.exec(ctx, "UPDATE runs SET not_before = "+fmt.Sprintf(to, at)+" WHERE id = $1 AND state IN ('queued', 'running')", args...)
	return about(touched(n, err, ErrGone), "run %d", id)
}

// FinishRun ends a live run for good as done, failed or cancelled; ErrGone if
// it has ended before. The caller has checked its fence in the same
// transaction.
func (tx *Tx) FinishRun(ctx context.Context, id int64, state string, code reason.Code, detail, blame string) error {
	switch state {
	case RunDone, RunFailed, RunCancelled:
	default:
		return fmt.Errorf("finish run %d: %q is not an end", id, state)
	}
	n, err := tx.exec(ctx, `UPDATE runs SET state = $2, reason = $3, detail = $4, blame = $5, finished_at = {now}, signed = NULL
		WHERE id = $1 AND state IN ('queued', 'running')`, id, state, code, detail, blame)
	return about(touched(n, err, ErrGone), "finish run %d", id)
}

// PutSteps writes lines of a run's journal. A line replaces the one with the
// same attempt and number.
func (tx *Tx) PutSteps(ctx context.Context, runID int64, steps []StepRecord) error {
	all := make([]statement, len(steps))
	for i, s := range steps {
		all[i] = statement{q: `INSERT INTO run_steps (run_id, attempt, seq, name, state, started_at, finished_at, reason, detail)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (run_id, attempt, seq) DO UPDATE SET name = excluded.name, state = excluded.state,
				started_at = coalesce(excluded.started_at, run_steps.started_at), finished_at = excluded.finished_at,
				reason = excluded.reason, detail = excluded.detail`,
			args: []any{runID, s.Attempt, s.Seq, s.Name, s.State, s.StartedAt, s.FinishedAt, s.Reason, s.Detail}}
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return fmt.Errorf("journal of run %d: %w", runID, err)
	}
	return nil
}

// Steps reads a run's journal, attempt by attempt.
func (tx *Tx) Steps(ctx context.Context, runID int64) ([]StepRecord, error) {
	return list(ctx, tx, func(s scanner) (StepRecord, error) {
		var r StepRecord
		err := s.Scan(&r.Attempt, &r.Seq, &r.Name, &r.State, timeOf{&r.StartedAt}, timeOf{&r.FinishedAt}, &r.Reason, &r.Detail)
		return r, err
	}, "SELECT attempt, seq, name, state, started_at, finished_at, reason, detail FROM run_steps WHERE run_id = $1 ORDER BY attempt, seq",
		runID)
}
