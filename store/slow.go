package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/zap"
)

const (
	slowText   = 1000             // most bytes of a statement that a line shows
	slowPause  = 10 * time.Second // between two lines about one statement
	slowOfThem = 1000             // most statements that the log tells apart
)

// slowLog writes a line for a slow statement: the text as it stands in this
// program, with $1 for a value, and never the values, which are names,
// addresses and sealed passwords. Of an error it shows only the code, since
// Postgres quotes values in its texts. In a slow database everything is slow,
// so slowLog pauses between lines about one statement.
type slowLog struct {
	log  *zap.Logger
	over time.Duration

	mu     sync.Mutex
	last   map[string]time.Time
	silent map[string]int // how often since the last line
}

// newSlowLog returns nil for no threshold: a slowLog that writes nothing.
func newSlowLog(log *zap.Logger, over time.Duration) *slowLog {
	if over <= 0 {
		return nil
	}
	return &slowLog{log: log, over: over, last: map[string]time.Time{}, silent: map[string]int{}}
}

// took takes note of a statement that has ended.
func (s *slowLog) took(text string, began time.Time, err error) {
	if s == nil {
		return
	}
	now := time.Now()
	took := now.Sub(began)
	if took < s.over {
		return
	}
	s.mu.Lock()
	if now.Sub(s.last[text]) < slowPause {
		s.silent[text]++
		s.mu.Unlock()
		return
	}
	before := s.silent[text]
	if len(s.last) >= slowOfThem {
		clear(s.last)
		clear(s.silent)
	}
	s.last[text] = now
	delete(s.silent, text)
	s.mu.Unlock()

	shown := strings.Join(strings.Fields(text), " ")
	fields := []zap.Field{zap.String("sql", shown[:min(len(shown), slowText)]), zap.Duration("took", took.Round(time.Millisecond))}
	if before > 0 {
		fields = append(fields, zap.Int("unsaid", before))
	}
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg):
		fields = append(fields, zap.String("sqlstate", pg.Code))
	case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		fields = append(fields, zap.String("err", "given up"))
	case err != nil:
		fields = append(fields, zap.String("err", "failed"))
	}
	s.log.Warn("store.slow", fields...)
}

type (
	slowQueryKey struct{}
	slowQuery    struct {
		text  string
		began time.Time
	}
	slowBatchKey struct{}
	slowBatch    struct {
		began time.Time
		texts []string
	}
)

// The methods below are pgx's QueryTracer and BatchTracer. Every statement on
// the pool passes here, the queue's too.

func (s *slowLog) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	return context.WithValue(ctx, slowQueryKey{}, slowQuery{d.SQL, time.Now()})
}

func (s *slowLog) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryEndData) {
	if q, ok := ctx.Value(slowQueryKey{}).(slowQuery); ok {
		s.took(q.text, q.began, d.Err)
	}
}

func (s *slowLog) TraceBatchStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	b := &slowBatch{began: time.Now()}
	for _, q := range d.Batch.QueuedQueries {
		b.texts = append(b.texts, q.SQL)
	}
	return context.WithValue(ctx, slowBatchKey{}, b)
}

func (s *slowLog) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd writes one line for all statements of a batch: they go in one
// packet, so nobody here can see which of them took the time.
func (s *slowLog) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, d pgx.TraceBatchEndData) {
	if b, ok := ctx.Value(slowBatchKey{}).(*slowBatch); ok && time.Since(b.began) >= s.over {
		s.took(strings.Join(b.texts, "; "), b.began, d.Err)
	}
}
