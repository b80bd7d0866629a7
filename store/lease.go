package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// Who may act on a device.
//
//  1. Claim takes the device's lease for a run and raises its fence by one, in
//     one statement. It succeeds only if no lease lasts and the run is live and
//     due.
//  2. The caller counts the lease on its own monotonic clock from before it
//     asked. It never learns the lease's end from a later read: by then another
//     run may have it.
//  3. Every write about the device goes through Renew, CheckFence or Release
//     with the fence in the same transaction. ErrFenced means: stop.
//  4. Release gives the lease back. After an ambiguous failure it adds a quiet
//     period, since bytes may still be on their way to the device, which knows
//     no fence.
//
// The database's clock judges when a lease ends: on Postgres the server's, on
// SQLite a clock of this process that no clock step moves.

// Claim takes the device for a run. ErrHeld says until when another run has the
// device, or until when the run or the device must wait. ErrGone says that the
// run is over or that nobody here ordered it; then the caller must give up the
// transaction.
func (tx *Tx) Claim(ctx context.Context, runID int64, node string, lease time.Duration) (Claim, error) {
	c, err := tx.claim(ctx, runID, node, lease)
	var held ErrHeld
	switch {
	case err == nil:
		m := tx.db.metrics
		tx.after = append(tx.after, m.claims.WithLabelValues("won").Inc)
	case errors.As(err, &held), errors.Is(err, ErrGone):
		tx.db.metrics.claims.WithLabelValues("empty").Inc()
	default:
		tx.db.metrics.claims.WithLabelValues("error").Inc()
	}
	return c, about(err, "claim run %d", runID)
}

func (tx *Tx) claim(ctx context.Context, runID int64, node string, lease time.Duration) (Claim, error) {
	if node == "" {
		return Claim{}, errors.New("no node is named")
	}
	var d Device
	err := tx.one(ctx, `UPDATE devices SET fence = fence + 1, owner = $2, lease_until = {lease+$3}
		WHERE uuid = (SELECT uuid FROM runs WHERE id = $1 AND state IN ('queued', 'running') AND not_before <= {now})
			AND (lease_until IS NULL OR lease_until <= {lease})
		RETURNING `+deviceColumns, []any{runID, node, lease.Milliseconds()}, d.dest()...)
	if errors.Is(err, ErrNotFound) {
		return Claim{}, tx.whyHeld(ctx, runID)
	}
	if err != nil {
		return Claim{}, err
	}
	tx.settle(&d)
	var r Run
	err = tx.one(ctx, `UPDATE runs SET state = 'running', attempt = attempt + 1, node = $2, fence = $3,
		started_at = coalesce(started_at, {now}) WHERE id = $1 AND state IN ('queued', 'running') RETURNING `+runColumns,
		[]any{runID, node, d.Fence}, r.dest()...)
	if errors.Is(err, ErrNotFound) { // another transaction ended it between the two statements
		return Claim{}, ErrGone
	}
	if tx.judgeRun(&r); r.Forged && err == nil {
		return Claim{}, fmt.Errorf("nobody here ordered it: %w", ErrGone)
	}
	return Claim{Run: r, Device: d, Fence: d.Fence}, err
}

// whyHeld explains a claim that met no row. Its answer only tells the caller
// how long to wait.
func (tx *Tx) whyHeld(ctx context.Context, runID int64) error {
	r, err := tx.Run(ctx, runID)
	if errors.Is(err, ErrNotFound) || err == nil && !r.Live() {
		return ErrGone
	}
	if err != nil {
		return err
	}
	d, err := tx.Device(ctx, r.UUID)
	if err != nil {
		return err
	}
	until := tx.Now()
	if r.NotBefore.After(until) {
		until = r.NotBefore
	}
	if l := d.LeaseUntil.Add(-tx.leaseShift()); !d.LeaseUntil.IsZero() && l.After(until) {
		until = l
	}
	return ErrHeld{Until: until}
}

// leaseShift is how far the leases' clock is ahead of the wall clock.
func (tx *Tx) leaseShift() time.Duration {
	if tx.pg != nil {
		return 0
	}
	return tx.lease.Sub(tx.now)
}

// Renew extends the lease from now; ErrFenced if the lease has ended or another
// run has it.
func (tx *Tx) Renew(ctx context.Context, uuid amt.UUID, fence int64, lease time.Duration) error {
	n, err := tx.exec(ctx, `UPDATE devices SET lease_until = {lease+$3}
		WHERE uuid = $1 AND fence = $2 AND owner <> '' AND lease_until > {lease}`, uuid, fence, lease.Milliseconds())
	return tx.fenced("renew the lease on "+uuid.String(), n, err)
}

// CheckFence keeps the lease as it is until this transaction ends, or returns
// ErrFenced: so no stale run writes beside it.
func (tx *Tx) CheckFence(ctx context.Context, uuid amt.UUID, fence int64) error {
	var one int
	err := tx.one(ctx, `SELECT 1 FROM devices WHERE uuid = $1 AND fence = $2 AND owner <> '' AND lease_until > {lease} {lock}`,
		[]any{uuid, fence}, &one)
	n := int64(1)
	if errors.Is(err, ErrNotFound) {
		n, err = 0, nil
	}
	return tx.fenced("device "+uuid.String(), n, err)
}

// Release gives the lease back and requeues a run that is still running.
// quietUntil keeps everybody from the device until then; it is for the seconds
// after an ambiguous failure. A back-off of minutes belongs in PostponeRun, or
// a hello could not shorten it.
func (tx *Tx) Release(ctx context.Context, uuid amt.UUID, fence int64, quietUntil time.Time) error {
	if !quietUntil.IsZero() {
		quietUntil = quietUntil.Add(tx.leaseShift())
	}
	n, err := tx.exec(ctx, `UPDATE devices SET owner = '', lease_until = $3 WHERE uuid = $1 AND fence = $2 AND owner <> ''`, uuid, fence,
		quietUntil)
	if err := tx.fenced("release "+uuid.String(), n, err); err != nil {
		return err
	}
	_, err = tx.exec(ctx, "UPDATE runs SET state = 'queued' WHERE uuid = $1 AND fence = $2 AND state = 'running'", uuid, fence)
	return err
}

func (tx *Tx) fenced(what string, n int64, err error) error {
	if err == nil && n == 0 {
		tx.db.metrics.fenced.Inc()
		err = ErrFenced
	}
	return about(err, "%s", what)
}

// prefixed puts a table's alias in front of each column.
func prefixed(alias, columns string) string {
	parts := strings.Split(columns, ",")
	for i, p := range parts {
		parts[i] = alias + "." + strings.TrimSpace(p)
	}
	return strings.Join(parts, ", ")
}
