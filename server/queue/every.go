package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
)

type timer struct {
	name string
	d    time.Duration
	fn   func(context.Context) error
}

// Every calls fn each d on this node while the queue runs; call it before
// Start. It asks no leader: what must happen once for all nodes takes its turn
// in the database.
func (q *Queue) Every(name string, d time.Duration, fn func(context.Context) error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timers = append(q.timers, timer{name, d, fn})
}

// loop waits a random part of d first, so that nodes started together do not
// beat together.
func (t timer) loop(ctx context.Context, log *zap.Logger) {
	next := time.NewTimer(rand.N(t.d) + 1)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		began := time.Now()
		if err := t.once(ctx); err != nil && !errors.Is(err, context.Canceled) {
			log.Warn("periodic work", zap.String("name", t.name), zap.Error(err))
		}
		// What took long comes again soon: a lease that was renewed late, since the
		// database did not answer, has little of its time left.
		next.Reset(max(t.d-time.Since(began), t.d/4))
	}
}

func (t timer) once(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return t.fn(ctx)
}
