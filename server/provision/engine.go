package provision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// Engine works runs. It keeps the leases of all its live runs alive with one
// beat, and holds no other state: what matters is in the store.
type Engine struct {
	Config
	metrics *Metrics
	log     *zap.Logger

	mu   sync.Mutex
	live map[int64]*lease // by run
}

// New makes an Engine; Beat must be called about three times a lease.
func New(cfg Config, log *zap.Logger, m *Metrics) *Engine {
	return &Engine{Config: cfg.withDefaults(), metrics: m, log: log, live: map[int64]*lease{}}
}

// Work makes one attempt at a run. again is non-zero when another worker holds
// the device and the run should be looked at later. An error means the outcome
// could not be written down: the lease runs out, and the run is found again.
func (e *Engine) Work(ctx context.Context, runID int64) (again time.Time, err error) {
	t0 := e.Clock.Now()
	job, err := e.Store.Claim(ctx, runID, e.Lease)
	var held *Held
	switch {
	case errors.As(err, &held):
		return held.Until, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("claim run %d: %w", runID, err)
	case job == nil:
		return time.Time{}, nil
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bounded, stop := context.WithTimeout(ctx, e.AttemptFor)
	defer stop()

	r := &Run{
		Job: *job, Profile: job.Profile, e: e,
		log: e.log.With(zap.Int64("run", runID), zap.Stringer("device", job.Device.UUID), zap.Int("attempt", job.Run.Attempt)),
		lease: &lease{
			Lease: Lease{UUID: job.Device.UUID, RunID: runID, Fence: job.Fence, For: e.Lease},
			end:   t0.Add(e.Lease), margin: e.Margin, cancel: cancel,
		},
	}
	if t := e.Tracer; t != nil {
		r.trace = t.TraceID(job.Run)
		r.log = r.log.With(zap.String("trace_id", r.trace))
	}
	e.begin(r)
	defer e.end(r)

	if t := e.Tracer; t != nil {
		bounded = session.WithCalls(bounded, r.trace, func(c session.Call) { t.Call(runID, c) })
	}
	err = r.attempt(bounded)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return time.Time{}, r.settle(ctx, err)
}

// attempt is one conversation, from the first packet to the verified login.
func (r *Run) attempt(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = reason.Because(reason.InternalError, "the attempt panicked: %v", p)
			r.log.Error("run panicked", zap.Any("panic", p), zap.Stack("stack"))
		}
		r.dropRope()
		r.hangUp()
	}()
	p := planOf(r.Job.Run.Kind)
	if err := p.contact(r, ctx); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return r.walk(ctx, p.steps)
}

func (e *Engine) begin(r *Run) {
	e.mu.Lock()
	e.live[r.Job.Run.ID] = r.lease
	e.mu.Unlock()
	e.metrics.started(r.Job.Run.Trigger)
	r.log.Info("run.started", zap.String("kind", r.Job.Run.Kind), zap.String("trigger", r.Job.Run.Trigger),
		zap.Stringer("address", r.Job.Device.Address))
}

func (e *Engine) end(r *Run) {
	e.mu.Lock()
	delete(e.live, r.Job.Run.ID)
	e.mu.Unlock()
	e.metrics.ended()
}

// Beat renews the leases of all live runs in one call and ends the runs whose
// lease was taken. When the store does not answer, nothing is extended: the
// sockets' deadlines stop this node before anybody else may take over.
func (e *Engine) Beat(ctx context.Context) error {
	e.mu.Lock()
	live := slices.Collect(maps.Values(e.live))
	e.mu.Unlock()
	if len(live) == 0 {
		return nil
	}
	// One order for every node: rows touched in any other could deadlock.
	slices.SortFunc(live, func(a, b *lease) int { return bytes.Compare(a.UUID[:], b.UUID[:]) })
	asked := make([]Lease, len(live))
	for i, l := range live {
		asked[i] = l.Lease
	}
	t0 := e.Clock.Now()
	lost, err := e.Store.Renew(ctx, asked)
	if err != nil {
		return fmt.Errorf("renew %d leases: %w", len(asked), err)
	}
	gone := make(map[int64]bool, len(lost))
	for _, l := range lost {
		gone[l.RunID] = true
	}
	for _, l := range live {
		if gone[l.RunID] {
			l.cancel(reason.Because(reason.LeaseLost, "another worker took over run %d", l.RunID))
			continue
		}
		l.extend(t0.Add(e.Lease))
	}
	return nil
}

// Live is the number of runs under way here.
func (e *Engine) Live() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.live)
}

// settle writes the outcome down, on a context that shutdown cannot cancel.
func (r *Run) settle(ctx context.Context, err error) error {
	v := planOf(r.Job.Run.Kind).verdict(r, err)
	v.Kind = r.Job.Run.Kind
	out, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()

	fields := []zap.Field{zap.String("step", r.lastStep()), zap.Duration("took", r.e.Clock.Now().Sub(r.began()))}
	for pause := 100 * time.Millisecond; ; pause *= 2 {
		err := r.e.Store.Settle(out, r.lease.Lease, v)
		switch {
		case err == nil:
			r.e.metrics.finished(v, r.Job, r.trace)
			if t := r.e.Tracer; t != nil {
				t.Done(r.Job, r.began(), v)
			}
			if v.OK {
				r.log.Info("run.finished", append(fields, zap.String("result", string(v.Ended)))...)
			} else {
				r.log.Warn("run.finished", append(fields, zap.String("result", "failed"), zap.String("reason", string(v.Reason)),
					zap.String("detail", v.Detail), zap.Duration("again", v.Again))...)
			}
			return nil
		case errors.Is(err, store.ErrFenced):
			r.log.Warn("lease.lost", append(fields, zap.String("detail", "another worker took over; this outcome is dropped"))...)
			return nil
		}
		// The store is away. While the lease holds, keep trying: nobody else
		// may touch the device meanwhile. After that the run is found again.
		if r.lease.left(r.e.Clock.Now()) <= 0 || out.Err() != nil {
			return fmt.Errorf("write down the outcome of run %d: %w", r.Job.Run.ID, err)
		}
		if r.e.Clock.Sleep(out, min(pause, 2*time.Second)) != nil {
			return fmt.Errorf("write down the outcome of run %d: %w", r.Job.Run.ID, err)
		}
	}
}

func (r *Run) lastStep() string {
	if len(r.book) == 0 {
		return "connect"
	}
	return r.book[len(r.book)-1].Name
}

func (r *Run) began() time.Time {
	if !r.Job.Run.StartedAt.IsZero() {
		return r.Job.Run.StartedAt
	}
	return r.e.Clock.Now()
}

func (r *Run) hangUp() {
	if r.Device == nil {
		return
	}
	r.lease.guard(nil)
	_ = r.Device.Close()
	r.Device = nil
}
