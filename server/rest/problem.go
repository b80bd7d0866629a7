package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
)

func conflict(format string, args ...any) *api.Problem {
	return api.NewProblem(http.StatusConflict, api.CodeConflict, format, args...)
}

// busy is a device that a run is working on.
func busy(run store.Run) *api.Problem {
	return stands(api.CodeBusy, "run %d is working on it right now; ask again when it is over", run.ID)
}

func notFound(format string, args ...any) *api.Problem {
	return api.NewProblem(http.StatusNotFound, api.CodeNotFound, format, args...)
}

// invalid says what is wrong with one field of a request.
func invalid(field, format string, args ...any) *api.Problem {
	why := fmt.Sprintf(format, args...)
	p := api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "%s: %s", field, why)
	p.Errors = []api.ProblemField{{Location: field, Message: why}}
	return p
}

// explain turns any error into what the caller may know. It is the one place
// that does, and it logs what it keeps back.
func (s *Server) explain(ctx context.Context, op string, err error) error {
	var p *api.Problem
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
		return api.NewProblem(http.StatusServiceUnavailable, api.CodeUnknownEnd, "the line to the database broke during the commit, so this may or may not have happened: look before you repeat it")
	case errors.As(err, &re):
		return api.NewProblem(http.StatusConflict, string(re.Code), "%s", re.Error())
	case ctx.Err() != nil:
		return api.NewProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "the request ended before its answer")
	case errors.Is(err, store.ErrClosed):
		return api.NewProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "the server is stopping")
	}
	s.log.Error("api.failed", zap.String("operation", op), zap.Error(err))
	return api.NewProblem(http.StatusInternalServerError, api.CodeInternal, "the server failed at this; its log says why")
}

// asProblem rewrites huma's own errors: a code is added, and the offending
// value, which may be a password, is left out.
func asProblem(ctx huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := api.NewProblem(e.Status, api.CodeInvalid, "%s", e.Detail)
	if e.Status >= 500 {
		p.Code = api.CodeInternal
		p.Detail = "the server failed at this; its log says why"
		return p, nil
	}
	if e.Status == http.StatusRequestEntityTooLarge {
		p.Code, p.Detail = api.CodeTooLarge, "the request is larger than what is read here"
		if op := ctx.Operation(); op != nil && op.MaxBodyBytes == uploadLimit {
			p.Code, p.Detail = string(reason.CertInputInvalid), "the files are too large: at most 4 MB a file and 16 MB together are read"
		}
	}
	for _, d := range e.Errors {
		if d != nil {
			p.Errors = append(p.Errors, api.ProblemField{Location: d.Location, Message: d.Message})
		}
	}
	return p, nil
}

// write answers with a problem outside of huma.
func write(w http.ResponseWriter, p *api.Problem) {
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
