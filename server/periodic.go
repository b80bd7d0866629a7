package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

type uuidT = amt.UUID

// every starts what each node does on a timer.
func (s *Server) every() {
	lease := s.o.Lease
	if lease == 0 {
		lease = 30 * time.Second
	}
	s.queue.Every("beat", lease/3, s.engine.Beat)
	s.queue.Every("sweep", 5*time.Second, s.sweep)
	s.queue.Every("jobs", jobTick, s.runJobs)
	s.queue.Every("maintenance", dueTick, s.maintainDue)
	s.queue.Every("claims", claimTick, s.callClaimed)
	s.queue.Every("reseal", resealTick, s.reseal)
	s.queue.Every("prune", pruneTick, s.prune)
	s.queue.Every("checkpoint", checkpointTick, s.DB.TendAudit)
	s.queue.Every("rows", rowsTick, s.DB.TendRows)
	s.queue.Every("windows", 15*time.Second, seldom(s.windows))
	s.queue.Every("paused networks", 30*time.Second, s.breaker.measure)
	s.queue.Every("names", 2*time.Second, s.Admit.ResolveNames)
	s.queue.Every("reconsider", 5*time.Minute, s.reconsider)
	s.queue.Every("strangers", 20*time.Second, seldom(s.strangers))
	s.queue.Every("certificates", pollCertificates, s.Desk.Poll)
	s.queue.Every("certificate reminders", tickCertificates, s.Desk.Tick)
}

// rowsTick is how often a node looks whether it has met rows that count for
// nothing.
const rowsTick = 30 * time.Second

// checkpointTick is how often a node compares the audit with what it saw
// before, and signs it when that is due.
const checkpointTick = time.Minute

// jobLost is how long a run waits for its queue job before the sweep gives it
// another one. A large site that wakes up keeps the queue busy for longer: then
// each run gets one more job in that time, not one per sweep.
const jobLost = 2 * time.Minute

// A foundRun is a run to which this node gave another queue job.
type foundRun struct {
	attempt int
	at      time.Time
}

// leftBehind is what the sweep remembers; its timer alone uses it.
type leftBehind struct {
	swept bool
	found map[int64]foundRun // the runs to which the sweep gave another job
}

// sweep finds live runs that no worker has: the worker died, or could not write
// an outcome. They go the same way as a first attempt.
func (s *Server) sweep(ctx context.Context) error {
	var waiting []store.Run
	var now time.Time
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		now = tx.Now()
		waiting, err = tx.WaitingRuns(ctx, 10*time.Second, 500)
		return err
	}); err != nil {
		return fmt.Errorf("look for runs left behind: %w", err)
	}
	first, before, turned := !s.left.swept, s.left.found, s.shares.waiting(jobLost) // a restored database has runs and no queue
	s.left.swept, s.left.found = true, make(map[int64]foundRun, len(waiting))
	for _, r := range waiting {
		if !first && r.State != store.RunRunning && now.Sub(r.NotBefore) < jobLost {
			continue // the queue has its job, and is just busy
		}
		if !first && turned[r.ID] {
			continue // its job asks again and again for a worker
		}
		if f, ok := before[r.ID]; ok && f.attempt == r.Attempt && time.Since(f.at) < jobLost {
			s.left.found[r.ID] = f
			continue // the job that this node gave it is in the queue
		}
		if err := s.DB.Write(ctx, func(tx *store.Tx) error { return s.enqueue(ctx, tx, r.ID, tx.Now(), 1) }); err != nil {
			return fmt.Errorf("queue run %d again: %w", r.ID, err)
		}
		s.left.found[r.ID] = foundRun{r.Attempt, time.Now()}
		s.log.Info("run.found", zap.Int64("run", r.ID), zap.Stringer("device", r.UUID), zap.String("node", r.Node))
	}
	return s.hastenFar(ctx)
}

// hastenFar brings back runs that a node postponed while its clock was ahead:
// no run waits longer than twice the longest pause, unless a wrong clock wrote
// its time.
func (s *Server) hastenFar(ctx context.Context) error {
	longest := queue.LongestPatience
	for _, d := range s.o.Retry {
		longest = max(longest, d)
	}
	var far []store.Run
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		far, err = tx.FarRuns(ctx, 2*longest, 500)
		return err
	}); err != nil {
		return fmt.Errorf("look for runs that wait for a far day: %w", err)
	}
	for _, r := range far {
		err := s.DB.Write(ctx, func(tx *store.Tx) error {
			now := tx.Now()
			if err := tx.HastenRun(ctx, r.ID, now); err != nil {
				return err
			}
			return s.enqueue(ctx, tx, r.ID, now, 1)
		})
		if errors.Is(err, store.ErrGone) {
			continue // it has ended
		}
		if err != nil {
			return fmt.Errorf("bring run %d back to today: %w", r.ID, err)
		}
		s.log.Warn("run.clock_was_ahead", zap.Int64("run", r.ID), zap.Stringer("device", r.UUID), zap.Time("waited_for", r.NotBefore))
	}
	return nil
}

// wallClock is the time for runs.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func (wallClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// ownAddresses are this machine's, which no device can have.
func ownAddresses() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
