package wsman

import (
	"context"
	"time"
)

// A Call is one conversation step on the wire: a question to the device with its
// answer, or the TLS handshake before them. It holds no content.
type Call struct {
	Name   string // the operation, such as CommitChanges, or tls_handshake
	Began  time.Time
	Took   time.Duration
	Err    error             // nil: it went well
	Labels map[string]string // version and cipher of a handshake
}

type callsKey struct{}

type listener struct {
	trace string
	fn    func(Call)
}

// WithCalls lets fn see each call that is made under the context it gives. fn
// runs on the caller's goroutine, once the call has ended, and must not block.
// trace is the id, in hexadecimal, of the trace that the calls become part of:
// the histogram of their durations shows it as an exemplar.
func WithCalls(ctx context.Context, trace string, fn func(Call)) context.Context {
	return context.WithValue(ctx, callsKey{}, listener{trace, fn})
}

// Called tells whoever listens on ctx.
func Called(ctx context.Context, c Call) {
	if l, ok := ctx.Value(callsKey{}).(listener); ok {
		l.fn(c)
	}
}

// traceOf is the trace that calls under ctx become part of, "" when none.
func traceOf(ctx context.Context) string {
	l, _ := ctx.Value(callsKey{}).(listener)
	return l.trace
}
