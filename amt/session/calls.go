package session

import (
	"context"

	"github.com/provisiond/provisiond/amt/wsman"
)

// A Call is one exchange with a device, handshake or question, as a trace shows it.
type Call = wsman.Call

// HandshakeCall is the name of a TLS handshake among calls.
const HandshakeCall = "tls_handshake"

// WithCalls lets fn see each exchange with a device that is made under the
// context it gives, and names the trace they become part of. fn must not block.
func WithCalls(ctx context.Context, trace string, fn func(Call)) context.Context {
	return wsman.WithCalls(ctx, trace, fn)
}
