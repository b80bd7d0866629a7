package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.uber.org/zap"
)

// A Worker makes one bounded attempt at a run.
type Worker interface {
	// Work returns when to come again (zero: the run needs no further job), or
	// an error, which makes the queue come back after a back-off. ctx ends at
	// the attempt's timeout or when the daemon has to stop.
	Work(ctx context.Context, runID int64) (again time.Time, err error)
}

// runArgs is a job: the run, nothing else. Everything about it is read afresh.
type runArgs struct {
	Run int64 `json:"run"`
}

// Kind is River's word for the type of a job; it stands in the database.
func (runArgs) Kind() string { return "run" }

type worker struct {
	river.WorkerDefaults[runArgs]
	work    Worker
	log     *zap.Logger
	metrics *Metrics
	timeout time.Duration
}

func (w *worker) Timeout(*river.Job[runArgs]) time.Duration { return w.timeout }

// NextRetry is the back-off after an error of the worker itself (the database
// was away, a panic): 1 s doubling to 2 minutes, spread by half. What a device
// makes a run wait for comes as Again instead.
func (w *worker) NextRetry(job *river.Job[runArgs]) time.Time {
	d := time.Second << min(max(len(job.Errors), 0), 7)
	d = min(d, 2*time.Minute)
	return time.Now().Add(d/2 + rand.N(d/2+1))
}

func (w *worker) Work(ctx context.Context, job *river.Job[runArgs]) error {
	w.metrics.working.Inc()
	defer w.metrics.working.Dec()
	again, err := w.attempt(ctx, job.Args.Run)
	switch {
	case err != nil:
		w.metrics.jobs.WithLabelValues("error").Inc()
		w.log.Warn("attempt", zap.Int64("run", job.Args.Run), zap.Int("job_attempt", job.Attempt), zap.Error(err))
		return err
	case !again.IsZero():
		w.metrics.jobs.WithLabelValues("again").Inc()
		return river.JobSnooze(max(0, time.Until(again)))
	}
	w.metrics.jobs.WithLabelValues("done").Inc()
	return nil
}

// attempt makes an error of a panic, with the place it came from in the log.
func (w *worker) attempt(ctx context.Context, run int64) (again time.Time, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.metrics.jobs.WithLabelValues("panic").Inc()
			w.log.Error("a worker panicked", zap.Int64("run", run), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("run %d: panic: %v", run, p)
		}
	}()
	return w.work.Work(ctx, run)
}

var _ rivertype.JobArgs = runArgs{}
