// Package queue says who should work, on River. Who may work is decided by the
// lease and the fence on the device row (store.Claim): a job is a nudge, so
// two jobs for one run, or a job for a run that is over, do no harm.
package queue

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/store"
)

// Priorities, 1 is worked first.
const (
	Urgent     = 1 // a setup window is about to close
	Normal     = 2
	Background = 3
	Idle       = 4
)

// A Worker makes one bounded attempt at a run.
type Worker interface {
	// Work returns when to come again (zero: the run needs no further job), or
	// an error, which makes the queue come back after a back-off.
	Work(ctx context.Context, runID int64) (again time.Time, err error)
}

// Config of a Queue; zero values are the defaults.
type Config struct {
	Node    string        // this process: node id and boot nonce, never used by two processes at once
	Workers int           // at most so many attempts at once: 256, up to 4096
	Timeout time.Duration // of one attempt: 3 minutes
}

// Metrics of the queue.
type Metrics struct{}

// NewMetrics registers the queue's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics { return &Metrics{} }

// Queue hands runs to a Worker.
type Queue struct{}

// New wires a queue to a store.
func New(db *store.DB, cfg Config, w Worker, log *zap.Logger, m *Metrics) (*Queue, error) {
	return nil, errors.New("not written yet")
}

// EnqueueTx asks for an attempt at runID at or after at, in the caller's transaction.
func (q *Queue) EnqueueTx(ctx context.Context, tx *store.Tx, runID int64, at time.Time, priority int) error {
	return errors.New("not written yet")
}

// Every calls fn each d on this node while the queue runs; call it before Start.
func (q *Queue) Every(name string, d time.Duration, fn func(context.Context) error) {}

// Start begins to work.
func (q *Queue) Start(ctx context.Context) error { return errors.New("not written yet") }

// Stop takes no new work, waits for what runs until ctx ends, then cancels it.
func (q *Queue) Stop(ctx context.Context) error { return nil }
