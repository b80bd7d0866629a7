package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
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
func problem(status int, code, format string, args ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

func conflict(format string, args ...any) *Problem {
	return problem(http.StatusConflict, CodeConflict, format, args...)
}

// busy is a device that a run is working on.
func busy(run store.Run) *Problem {
	return stands(CodeBusy, "run %d is working on it right now; ask again when it is over", run.ID)
}

func notFound(format string, args ...any) *Problem {
	return problem(http.StatusNotFound, CodeNotFound, format, args...)
}

// invalid says what is wrong with one field of a request.
func invalid(field, format string, args ...any) *Problem {
	why := fmt.Sprintf(format, args...)
	p := problem(http.StatusUnprocessableEntity, CodeInvalid, "%s: %s", field, why)
	p.Errors = []ProblemField{{Location: field, Message: why}}
	return p
}

// explain turns any error into what the caller may know. It is the one place
// that does, and it logs what it keeps back.
func (s *Server) explain(ctx context.Context, op string, err error) error {
	var p *Problem
	var re *reason.Error
	var unknown *desk.UnknownError
	var refused *desk.RefusedError
	switch {
	case errors.As(err, &p):
		return err
	case errors.As(err, &unknown):
		return notFound("%s", unknown.Error())
	case errors.As(err, &refused):
		return conflict("%s", refused.Error())
	case errors.Is(err, store.ErrNotFound):
		return notFound("no such thing: %s", op)
	case errors.Is(err, store.ErrConflict):
		return conflict("somebody else was faster; look again")
	case errors.Is(err, store.ErrUnknownOutcome):
		s.log.Error("api.outcome_unknown", zap.String("operation", op), zap.Error(err))
		return problem(http.StatusServiceUnavailable, CodeUnknownEnd, "the line to the database broke during the commit, so this may or may not have happened: look before you repeat it")
	case errors.As(err, &re):
		return problem(http.StatusConflict, string(re.Code), "%s", re.Error())
	case ctx.Err() != nil:
		return problem(http.StatusServiceUnavailable, CodeUnavailable, "the request ended before its answer")
	case errors.Is(err, store.ErrClosed):
		return problem(http.StatusServiceUnavailable, CodeUnavailable, "the server is stopping")
	}
	s.log.Error("api.failed", zap.String("operation", op), zap.Error(err))
	return problem(http.StatusInternalServerError, CodeInternal, "the server failed at this; its log says why")
}

// asProblem rewrites huma's own errors: a code is added, and the offending
// value, which may be a password, is left out.
func asProblem(ctx huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := problem(e.Status, CodeInvalid, "%s", e.Detail)
	if e.Status >= 500 {
		p.Code = CodeInternal
		p.Detail = "the server failed at this; its log says why"
		return p, nil
	}
	if e.Status == http.StatusRequestEntityTooLarge {
		p.Code, p.Detail = CodeTooLarge, "the request is larger than what is read here"
		if op := ctx.Operation(); op != nil && op.MaxBodyBytes == uploadLimit {
			p.Code, p.Detail = string(reason.CertInputInvalid), "the files are too large: at most 4 MB a file and 16 MB together are read"
		}
	}
	for _, d := range e.Errors {
		if d != nil {
			p.Errors = append(p.Errors, ProblemField{Location: d.Location, Message: d.Message})
		}
	}
	return p, nil
}

// write answers with the problem outside of huma.
func (p *Problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
