package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// refusal is the problem that says what package operate or the certificate desk
// refused; nil when neither did.
func refusal(err error) *api.Problem {
	var refused *operate.Refused
	var unknown *operate.Unknown
	var invalid *operate.Invalid
	var deskUnknown *desk.UnknownError
	var deskRefused *desk.RefusedError
	problem := func(status int, code, why string, more []api.ProblemField) *api.Problem {
		p := api.NewProblem(status, code, "%s", why)
		p.Errors = more
		return p
	}
	switch {
	case errors.As(err, &refused):
		return problem(http.StatusConflict, refused.Code, refused.Why, refused.More)
	case errors.As(err, &unknown):
		return problem(http.StatusNotFound, unknown.Code, unknown.Why, nil)
	case errors.As(err, &invalid):
		return problem(http.StatusUnprocessableEntity, api.CodeInvalid, invalid.Why, invalid.More)
	case errors.As(err, &deskUnknown):
		return problem(http.StatusNotFound, api.CodeNotFound, deskUnknown.Error(), nil)
	case errors.As(err, &deskRefused):
		return problem(http.StatusConflict, api.CodeConflict, deskRefused.Error(), nil)
	}
	return nil
}

// explain turns any error into what the caller may know. It is the one place
// that does, and it logs what it keeps back.
func (s *Server) explain(ctx context.Context, op string, err error) error {
	var p *api.Problem
	var re *reason.Error
	switch no := refusal(err); {
	case errors.As(err, &p):
		return err
	case no != nil:
		return no
	case errors.Is(err, store.ErrNotFound):
		return api.NewProblem(http.StatusNotFound, api.CodeNotFound, "no such thing: %s", op)
	case errors.Is(err, store.ErrConflict):
		return api.NewProblem(http.StatusConflict, api.CodeConflict, "somebody else was faster; look again")
	case errors.Is(err, store.ErrUnknownOutcome):
		s.log.Error("api.outcome_unknown", zap.String("operation", op), zap.Error(err))
		return api.NewProblem(http.StatusServiceUnavailable, api.CodeUnknownEnd,
			"the line to the database broke during the commit, so this may or may not have happened: look before you repeat it")
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
