package session

import (
	"context"

	"github.com/provisiond/provisiond/amt/wsman"
)

// A Call is one exchange with a device, a handshake or a question, as a trace
// shows it.
type Call = wsman.Call

// HandshakeCall is the name of a TLS handshake among calls.
const HandshakeCall = "tls_handshake"

// WithCalls calls fn with each exchange under the returned context, and names
// the trace of which they become part. fn must not block.
func WithCalls(ctx context.Context, trace string, fn func(Call)) context.Context {
	return wsman.WithCalls(ctx, trace, fn)
}
