package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"modernc.org/sqlite"
)

// A batch ends after maxBatch closures or maxBatchTime, so that River, which
// shares the connection, gets its turn between two batches.
const (
	maxBatch     = 128
	maxBatchTime = 8 * time.Millisecond
)

// The writer is SQLite's group commit. One goroutine takes all waiting
// closures, runs each inside a SAVEPOINT of one transaction, commits once and
// answers them all: a commit costs a disk flush, and sixty-four callers share
// it.
type writer struct {
	db    *DB
	queue chan *request
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
}

type request struct {
	ctx   context.Context
	fn    func(tx *Tx) error
	state atomic.Int32 // waiting, taken, abandoned
	err   error
	after []func()
	done  chan struct{}
}

const (
	waiting int32 = iota
	taken
	abandoned
)

func newWriter(db *DB) *writer {
	return &writer{db: db, queue: make(chan *request, 4*maxBatch), stop: make(chan struct{}), done: make(chan struct{})}
}

// do hands fn to the writer and waits. Once the closure has begun, do waits for
// its answer whatever ctx says, since only then is the outcome known.
func (w *writer) do(ctx context.Context, fn func(tx *Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{ctx: ctx, fn: fn, done: make(chan struct{})}
	select {
	case <-w.stop:
		return ErrClosed
	default:
	}
	select {
	case w.queue <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-w.stop:
		return ErrClosed
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(waiting, abandoned) {
			return ctx.Err()
		}
		<-r.done
	case <-w.done: // the writer ended between our two looks at stop
		select {
		case <-r.done:
		default:
			return ErrClosed
		}
	}
	for _, f := range r.after {
		f()
	}
	return r.err
}

func (w *writer) close() {
	w.once.Do(func() { close(w.stop) })
	<-w.done
}

func (w *writer) loop() {
	ended := false
	defer func() {
		if ended {
			close(w.done)
			return
		}
		go w.loop() // a closure ended the goroutine (runtime.Goexit); the other callers must not notice
	}()
	for {
		select {
		case r := <-w.queue:
			w.batch(r)
		case <-w.stop:
			for { // do what the queue accepted before the end
				select {
				case r := <-w.queue:
					w.batch(r)
				default:
					ended = true
					return
				}
			}
		}
	}
}

// batch runs one transaction that begins with first.
func (w *writer) batch(first *request) {
	var members []*request
	var tx *sql.Tx
	whole := false
	defer func() {
		if !whole && tx != nil { // a closure ended the goroutine
			_ = tx.Rollback()
			for _, r := range members {
				r.err, r.after = errors.New("a closure of the same batch ended the writer's goroutine"), nil
			}
		}
		for _, r := range members {
			close(r.done)
		}
	}()
	start := time.Now()
	var good []*request
	broken := false
	for r := first; r != nil; r = w.next(start, len(members)) {
		if !r.state.CompareAndSwap(waiting, taken) {
			continue
		}
		members = append(members, r)
		if r.err = r.ctx.Err(); r.err != nil {
			continue
		}
		if tx == nil {
			if tx, r.err = w.begin(); r.err != nil {
				break
			}
		}
		if len(good) == 0 {
			// The transaction holds nobody's part yet: it can roll back as a whole, and
			// needs no copy of each page for a SAVEPOINT.
			if r.err = w.bare(tx, r); r.err != nil {
				_ = tx.Rollback()
				tx = nil
				continue
			}
		} else if broken = w.one(tx, r); broken {
			break
		}
		if r.err == nil {
			good = append(good, r)
		}
	}
	whole = true
	if broken {
		// SQLite itself gave up the transaction (disk full, I/O error): run again each
		// closure that had done its part, alone.
		_ = tx.Rollback()
		for _, r := range good {
			w.alone(r)
		}
		return
	}
	w.db.metrics.batch.Observe(float64(len(good)))
	if len(good) > 0 {
		w.commit(tx, good)
	}
}

func (w *writer) begin() (*sql.Tx, error) {
	tx, err := w.db.write.BeginTx(context.Background(), nil)
	return tx, about(err, "begin a write")
}

func (w *writer) commit(tx *sql.Tx, good []*request) {
	start := time.Now()
	err := tx.Commit()
	w.db.metrics.done("commit", start, err)
	if err == nil {
		return
	}
	_ = tx.Rollback()
	for _, r := range good {
		r.err = fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		r.after = nil
	}
}

// next is another waiting request, or nil.
func (w *writer) next(start time.Time, n int) *request {
	if n >= maxBatch || time.Since(start) > maxBatchTime {
		return nil
	}
	select {
	case r := <-w.queue:
		return r
	default:
		return nil
	}
}

// bare runs a closure that has the transaction to itself.
func (w *writer) bare(tx *sql.Tx, r *request) error {
	t := w.tx(tx)
	err := contain(t, r.fn)
	if err == nil {
		r.after = t.after
	}
	return err
}

func (w *writer) tx(tx *sql.Tx) *Tx {
	wall, lease := w.db.clocks()
	return &Tx{db: w.db, lite: tx, write: true, now: wall, lease: lease}
}

// one runs a closure between SAVEPOINT and RELEASE; broken means that the
// transaction around it is gone.
func (w *writer) one(tx *sql.Tx, r *request) (broken bool) {
	t := w.tx(tx)
	ctx := context.Background()
	if _, r.err = t.exec(ctx, "SAVEPOINT w"); r.err != nil {
		return true
	}
	r.err = contain(t, r.fn)
	if r.err == nil {
		if _, r.err = t.exec(ctx, "RELEASE w"); r.err == nil {
			r.after = t.after
			return false
		}
	}
	if _, err := t.exec(ctx, "ROLLBACK TO w"); err != nil {
		return true
	}
	_, err := t.exec(ctx, "RELEASE w")
	return err != nil || lost(r.err)
}

// lost reports errors after which SQLite may have rolled back by itself
// (sqlite.org/lang_transaction.html, "Response To Errors Within A
// Transaction").
func lost(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case 7, 9, 10, 13: // NOMEM, INTERRUPT, IOERR, FULL
		return true
	}
	return false
}

func (w *writer) alone(r *request) {
	r.after = nil
	tx, err := w.begin()
	if err == nil {
		err = w.bare(tx, r)
	}
	if r.err = err; err != nil {
		if tx != nil {
			_ = tx.Rollback()
		}
		return
	}
	w.commit(tx, []*request{r})
}

// contain runs fn and turns a panic into an error. It logs the stack, which the
// caller's own stack does not have.
func contain(tx *Tx, fn func(*Tx) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			tx.db.log.Error("store.closure_panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = &PanicError{Value: p}
		}
	}()
	return fn(tx)
}
