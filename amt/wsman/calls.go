package wsman

import (
	"context"
	"time"
)

// A Call is one exchange on the wire: a question to the device with its answer,
// or the TLS handshake before them. It holds no content.
type Call struct {
	Name   string // the operation, such as CommitChanges, or tls_handshake
	Began  time.Time
	Took   time.Duration
	Err    error             // nil: it succeeded
	Labels map[string]string // version and cipher of a handshake
}

type callsKey struct{}

type listener struct {
	trace string
	fn    func(Call)
}

// WithCalls calls fn with each call under the returned context. fn runs on the
// caller's goroutine, once the call has ended, and must not block. trace is the
// id, in hexadecimal, of the trace of which the calls become part: the
// histogram of their durations shows it as an exemplar.
func WithCalls(ctx context.Context, trace string, fn func(Call)) context.Context {
	return context.WithValue(ctx, callsKey{}, listener{trace, fn})
}

// Called tells the listener of ctx, if there is one.
func Called(ctx context.Context, c Call) {
	if l, ok := ctx.Value(callsKey{}).(listener); ok {
		l.fn(c)
	}
}

// traceOf is the trace of calls under ctx, "" for none.
func traceOf(ctx context.Context) string {
	l, _ := ctx.Value(callsKey{}).(listener)
	return l.trace
}
