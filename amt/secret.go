package amt

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

const redacted = "***"

// A Secret is a password or key that cannot be printed: every formatter and
// encoder sees ***. Only Reveal returns the text; call it in amt/session and
// store/seal alone.
type Secret struct{ v *string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{&s} }

// Reveal returns the secret's text.
func (s Secret) Reveal() string {
	if s.v == nil {
		return ""
	}
	return *s.v
}

// IsZero reports whether there is no secret at all.
func (s Secret) IsZero() bool { return s.v == nil || *s.v == "" }

// Equal compares in constant time for equal lengths.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

func (Secret) String() string                               { return redacted }
func (Secret) GoString() string                             { return redacted }
func (Secret) Format(f fmt.State, _ rune)                   { _, _ = io.WriteString(f, redacted) }
func (Secret) MarshalText() ([]byte, error)                 { return []byte(redacted), nil }
func (Secret) MarshalJSON() ([]byte, error)                 { return []byte(`"` + redacted + `"`), nil }
func (Secret) MarshalYAML() (any, error)                    { return redacted, nil }
func (Secret) LogValue() slog.Value                         { return slog.StringValue(redacted) }
func (Secret) MarshalLogObject(zapcore.ObjectEncoder) error { return nil }
