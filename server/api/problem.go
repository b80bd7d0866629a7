package api

import (
	"fmt"
	"net/http"
)

// Codes of problems; those of reasons appear as well.
const (
	CodeInvalid     = "invalid_request"
	CodeUnknown     = "token_unknown"    // no token, or one that is unknown, revoked or expired
	CodeForbidden   = "role_missing"     // a good token without the role
	CodeNotFound    = "not_found"        // no such thing
	CodeNoDevice    = "device_unknown"   // no hello of such a device was ever seen
	CodeConflict    = "conflict"         // not possible as things stand
	CodeBusy        = "device_busy"      // a run is working on it; as device_… of eligible.go
	CodeAmbiguous   = "device_ambiguous" // several devices fit; errors lists them
	CodeNoAddress   = "device_address_unknown"
	CodeConfirm     = "confirmation_needed" // it is about many devices: say how many, or yes
	CodeCount       = "count_changed"       // it is about another number of devices now than was confirmed
	CodeTooLarge    = "too_large"           // more bytes than are read
	CodeLimited     = "rate_limited"        // too much of this; Retry-After says when
	CodeUnavailable = "not_now"             // the database or the server itself
	CodeUnknownEnd  = "outcome_unknown"     // the line to the database broke during the commit: look before repeating
	CodeInternal    = "internal_error"
)

func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType names RFC 9457's type.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// problem makes one with a formatted sentence.
func NewProblem(status int, code, format string, args ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}
