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

// WithCalls lets fn see each call that is made under the context it gives. fn
// runs on the caller's goroutine, once the call has ended, and must not block.
func WithCalls(ctx context.Context, fn func(Call)) context.Context {
	return context.WithValue(ctx, callsKey{}, fn)
}

// Called tells whoever listens on ctx.
func Called(ctx context.Context, c Call) {
	if fn, ok := ctx.Value(callsKey{}).(func(Call)); ok {
		fn(c)
	}
}
