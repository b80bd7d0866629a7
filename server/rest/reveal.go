package rest

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// RevealInput asks for one password.
type RevealInput struct {
	OneDevice
	Body api.RevealBody
}

func (s *Server) revealRoute(to huma.API) {
	add(s, to, huma.Operation{
		OperationID: "reveal-secret", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/secrets/reveal", Summary: "Read one password",
		Description: "The password in use, or else the newest one that was sent to the device. The audit record of it is durable before " +
			"the answer is written.",
		Tags: []string{"secrets"},
	}, s.reveal)
}

// reveal is the only way a password leaves by the API. The order is the point:
// count, record, commit, and only then look at the password.
func (s *Server) reveal(ctx context.Context, in *RevealInput) (api.Revealed, error) {
	who, _ := PrincipalOf(ctx)
	u, err := s.which(ctx, in.UUID)
	if err != nil {
		return api.Revealed{}, err
	}
	why := strings.TrimSpace(api.Clean(in.Body.Reason))
	if len(why) < 3 {
		return api.Revealed{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid,
			"say why the password is needed; the audit keeps it")
	}
	var chosen store.Credential
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		limit := store.Limit{Kind: store.LatelyReveal, Most: s.RevealsPerHour, Within: time.Hour}
		if until, err := tx.Take(ctx, limit, who.Name, tx.Now()); err != nil {
			return err
		} else if !until.IsZero() {
			wait := until.Sub(tx.Now())
			p := api.NewProblem(http.StatusTooManyRequests, api.CodeLimited,
				"%d passwords an hour is the limit of one token; the next is possible in %s", s.RevealsPerHour, operate.Ago(wait))
			return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {strconv.Itoa(int(wait.Seconds()) + 1)}})
		}
		var err error
		if chosen, err = pick(ctx, tx, u, in.Body.Kind); err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "secret.reveal", Subject: u.String(), Detail: map[string]any{
			"kind": in.Body.Kind, "generation": chosen.Generation, "state": chosen.State, "reason": why, "role": string(who.Role),
		}})
	})
	if err != nil {
		result := secretError
		var p *api.Problem
		switch {
		case !errors.As(err, &p):
		case p.Status == http.StatusNotFound:
			result = secretNotFound
		case p.Status == http.StatusTooManyRequests:
			result = secretLimited
		}
		s.metrics.secretRead(who.Role, result)
		return api.Revealed{}, err
	}
	s.metrics.secretRead(who.Role, secretOK)
	return api.Revealed{Password: chosen.Password.Reveal()}, nil
}

// pick chooses the password that the device most likely takes.
func pick(ctx context.Context, tx *store.Tx, u amt.UUID, kind string) (store.Credential, error) {
	if _, err := tx.Device(ctx, u); errors.Is(err, store.ErrNotFound) {
		return store.Credential{}, operate.NoDevice(u)
	} else if err != nil {
		return store.Credential{}, err
	}
	list, err := tx.Credentials(ctx, u, kind)
	if name, is := strings.CutPrefix(kind, store.KindUser); is {
		var users []store.UserPassword
		users, err = tx.UserPasswords(ctx, u, name)
		for _, c := range users {
			list = append(list, c.Credential())
		}
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Credential{}, err
	}
	for _, c := range list {
		if c.State == store.CredentialActive {
			return c, nil
		}
	}
	for _, c := range list {
		if c.State == store.CredentialCandidate && !c.SentAt.IsZero() {
			return c, nil
		}
	}
	return store.Credential{}, operate.NoSuch("no %s password of %s has reached the device yet", kind, u)
}
