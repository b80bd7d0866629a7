// Package queue says who should work, on River. Who may work is decided by the
// lease and the fence on the device row (store.Claim): a job is a nudge, so
// two jobs for one run, or a job for a run that is over, do no harm.
//
//  1. A run and its job are written in one transaction (EnqueueTx).
//  2. A node fetches the job and gives the run to its Worker for one bounded
//     attempt. "Again at T" puts the same job back to sleep until T; an error
//     brings it back after a back-off; a panic is an error.
//  3. A node that dies leaves its jobs marked as running. River notices after
//     minutes; the heartbeats here notice within half a minute (rescue.go).
//
// Nothing is ever retried or cancelled by way of River's own commands: a retry
// by an operator is a new job for a new run.
package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/provisiond/provisiond/store"
)

// Priorities, 1 is worked first.
const (
	Urgent     = 1 // a setup window is about to close
	Normal     = 2
	Background = 3
	Idle       = 4
)

// Priority orders work on devices in setup by what is left of their window at
// the moment the work can begin. A window that is not known is taken to be wide.
func Priority(windowUntil, at time.Time) int {
	switch left := windowUntil.Sub(at); {
	case windowUntil.IsZero(), left > 6*time.Hour:
		return Background
	case left > time.Hour:
		return Normal
	}
	return Urgent
}

// Behind is a priority so many steps lower: for who was tried in vain before, and
// for whom nobody knows.
func Behind(priority, steps int) int { return min(priority+steps, Idle) }

const (
	defaultWorkers = 256
	maxWorkers     = 4096
	defaultTimeout = 3 * time.Minute

	// rescueMargin is how much longer than an attempt's timeout River waits
	// before it takes a job away from a worker.
	rescueMargin = time.Minute

	fetchCooldown = 20 * time.Millisecond
	fetchPoll     = 250 * time.Millisecond

	// Jobs are nudges: what is worth remembering stands in runs and events.
	keepCompleted = 10 * time.Minute
	keepCancelled = time.Hour
	keepDiscarded = 24 * time.Hour

	// A run ends by its own rules, never because its job was tried too often.
	maxAttempts = 10_000
)

// Config of a Queue; zero values are the defaults.
type Config struct {
	Node    string // the node's id; "id/boot" when the caller has made a boot nonce already
	Address string // where the node can be reached, for the list of nodes
	Version string
	Workers int           // at most so many attempts at once: 256, up to 4096
	Timeout time.Duration // of one attempt: 3 minutes

	Heartbeat time.Duration // 5 s
	Silent    time.Duration // a node not heard for so long is dead: 20 s
}

// Queue hands runs to a Worker.
type Queue struct {
	db      *store.DB
	cfg     Config
	node    store.Node
	log     *zap.Logger
	metrics *Metrics
	client  client

	mu      sync.Mutex
	started bool
	stopped bool
	timers  []timer
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// client is River's, with its transaction type put away.
type client interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	StopAndCancel(ctx context.Context) error
	insert(ctx context.Context, handle any, args runArgs, opts *river.InsertOpts) error
}

type riverClient[T any] struct{ *river.Client[T] }

func (c riverClient[T]) insert(ctx context.Context, handle any, args runArgs, opts *river.InsertOpts) error {
	tx, ok := handle.(T)
	if !ok {
		return fmt.Errorf("a transaction of another engine: %T", handle)
	}
	_, err := c.InsertTx(ctx, tx, args, opts)
	return err
}

func newClient[T any](d riverdriver.Driver[T], cfg *river.Config) (client, error) {
	c, err := river.NewClient(d, cfg)
	if err != nil {
		return nil, err
	}
	return riverClient[T]{c}, nil
}

// New wires a queue to a store; nothing runs before Start.
func New(db *store.DB, cfg Config, w Worker, log *zap.Logger, m *Metrics) (*Queue, error) {
	if log == nil {
		log = zap.NewNop()
	}
	if m == nil {
		m = NewMetrics(nil)
	}
	if cfg.Workers == 0 {
		cfg.Workers = defaultWorkers
	}
	if cfg.Workers < 1 || cfg.Workers > maxWorkers {
		return nil, fmt.Errorf("queue: %d workers: want 1 to %d", cfg.Workers, maxWorkers)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 5 * time.Second
	}
	if cfg.Silent == 0 {
		cfg.Silent = 20 * time.Second
	}
	if cfg.Node == "" {
		return nil, errors.New("queue: the node has no name")
	}
	q := &Queue{db: db, cfg: cfg, log: log, metrics: m}
	q.node = store.Node{ID: cfg.Node, Boot: rand.Text()[:12], Address: cfg.Address, Version: cfg.Version}
	if id, boot, ok := strings.Cut(cfg.Node, "/"); ok {
		q.node.ID, q.node.Boot = id, boot
	}
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &worker{work: w, log: log, metrics: m, timeout: cfg.Timeout}); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	rc := &river.Config{
		ID: q.node.Name(),
		Logger: slog.New(zapslog.NewHandler(log.Core(), zapslog.WithName("river"),
			zapslog.AddStacktraceAt(slog.LevelError+1))),
		Queues:                      map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: cfg.Workers}},
		Workers:                     workers,
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           fetchPoll,
		JobTimeout:                  cfg.Timeout,
		RescueStuckJobsAfter:        cfg.Timeout + rescueMargin,
		MaxAttempts:                 maxAttempts,
		CompletedJobRetentionPeriod: keepCompleted,
		CancelledJobRetentionPeriod: keepCancelled,
		DiscardedJobRetentionPeriod: keepDiscarded,
	}
	var err error
	if db.Pool() != nil {
		q.client, err = newClient(riverpgxv5.New(db.Pool()), rc)
	} else {
		q.client, err = newClient(riversqlite.New(db.SQL()), rc)
	}
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return q, nil
}

// Node is this process as the list of nodes has it; Node().Name() is what to
// claim leases with.
func (q *Queue) Node() store.Node { return q.node }

// EnqueueTx asks for an attempt at runID at or after at (zero: at once), in the
// caller's transaction. A run may be asked for more than once.
func (q *Queue) EnqueueTx(ctx context.Context, tx *store.Tx, runID int64, at time.Time, priority int) error {
	if priority < Urgent || priority > Idle {
		return fmt.Errorf("enqueue run %d: priority %d: want 1 to 4", runID, priority)
	}
	// River parks a job with a time in "scheduled", also one whose time has
	// come, until its leader looks again.
	if !at.After(time.Now()) {
		at = time.Time{}
	}
	// On SQLite a context that ends in mid-statement would roll back the
	// writes of others that share the commit.
	if tx.Handle() != nil && q.db.Engine() == store.SQLite {
		if err := ctx.Err(); err != nil {
			return err
		}
		ctx = context.WithoutCancel(ctx)
	}
	if err := q.client.insert(ctx, tx.Handle(), runArgs{Run: runID}, &river.InsertOpts{ScheduledAt: at, Priority: priority}); err != nil {
		return fmt.Errorf("enqueue run %d: %w", runID, err)
	}
	return nil
}

// Start begins to work. ctx bounds the start alone; Stop ends the work.
func (q *Queue) Start(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.started {
		return errors.New("queue: started already")
	}
	// Heard of before the first job is taken: whoever finds our name on a job
	// of a dead process must be able to find it in the list as well.
	if err := q.beat(ctx); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if q.db.Engine() == store.SQLite {
		if err := q.rescueAll(ctx); err != nil {
			return fmt.Errorf("queue: %w", err)
		}
	}
	if err := q.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	q.started, q.stop = true, stop
	q.timers = append(q.timers,
		timer{"heartbeat", q.cfg.Heartbeat, q.beat},
		timer{"rescue", q.cfg.Heartbeat, q.rescueSilent},
		timer{"queue_age", q.cfg.Heartbeat, q.measure})
	for _, t := range q.timers {
		q.wg.Go(func() { t.loop(run, q.log) })
	}
	return nil
}

// Stop takes no new work and waits for attempts under way. When ctx ends first
// their contexts are cancelled and they get a little longer to write down
// where they are. It may be called twice.
func (q *Queue) Stop(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.started || q.stopped {
		return nil
	}
	q.stopped = true
	// Heartbeats go on: others must not take over what still runs here.
	err := q.client.Stop(ctx)
	if err != nil && ctx.Err() != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = q.client.StopAndCancel(late)
	}
	q.stop()
	q.wg.Wait()
	if err != nil {
		return fmt.Errorf("queue: stop: %w", err)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := q.db.Write(end, func(tx *store.Tx) error { return tx.ForgetNode(end, q.node) }); err != nil {
		return fmt.Errorf("queue: leave the list of nodes: %w", err)
	}
	return nil
}

func (q *Queue) beat(ctx context.Context) error {
	return q.db.Write(ctx, func(tx *store.Tx) error { return tx.Heartbeat(ctx, q.node) })
}

func (q *Queue) measure(ctx context.Context) error {
	return q.db.Read(ctx, func(tx *store.Tx) error {
		oldest, err := tx.OldestWaiting(ctx)
		age := 0.0
		if err == nil && !oldest.IsZero() {
			age = max(0, tx.Now().Sub(oldest).Seconds())
		}
		q.metrics.oldest.Set(age)
		return err
	})
}
