package rest

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// TokenInput describes a token to be made.
type TokenInput struct {
	Body api.NewToken
}

// TokenID names a token in a path.
type TokenID struct {
	ID int64 `path:"id" minimum:"1"`
}

func (s *Server) tokenRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "list-tokens", Method: http.MethodGet, Path: "/api/v1/tokens", Summary: "List tokens",
		Tags: []string{"tokens"}}, s.listTokens)
	add(s, to, huma.Operation{OperationID: "create-token", Method: http.MethodPost, Path: "/api/v1/tokens",
		DefaultStatus: http.StatusCreated, Summary: "Make a token", Description: "Its text is in the answer and nowhere else.",
		Tags: []string{"tokens"}}, s.createToken)
	add(s, to, huma.Operation{OperationID: "revoke-token", Method: http.MethodDelete, Path: "/api/v1/tokens/{id}",
		Summary: "Revoke a token", Description: "Console logins made with it end too.", Tags: []string{"tokens"}}, s.revokeToken)
}

func (s *Server) listTokens(ctx context.Context, _ *none) (api.TokenList, error) {
	out := api.TokenList{Tokens: []api.Token{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		all, err := tx.Tokens(ctx)
		for _, t := range all {
			out.Tokens = append(out.Tokens, toToken(t))
		}
		return err
	})
	return out, err
}

func (s *Server) createToken(ctx context.Context, in *TokenInput) (api.TokenCreated, error) {
	who, _ := PrincipalOf(ctx)
	text, hash := newToken(tokenPrefix)
	t := store.Token{Name: in.Body.Name, User: in.Body.User, Role: in.Body.Role, Hash: hash, CreatedBy: who.Actor()}
	if t.User == "" {
		t.User = t.Name
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := createToken(ctx, tx, t, in.Body.Days); err != nil {
			return err
		}
		all, err := tx.Tokens(ctx)
		if err != nil {
			return err
		}
		t = all[slices.IndexFunc(all, func(other store.Token) bool { return string(other.Hash) == string(hash) })]
		return nil
	})
	return api.TokenCreated{Token: toToken(t), Secret: text}, err
}

// createToken keeps a token of a user who may have its role. The user of the
// token's own name is made when there is none: a service needs no more.
func createToken(ctx context.Context, tx *store.Tx, t store.Token, days int) error {
	if err := tx.AdoptUsers(ctx); err != nil {
		return err
	}
	u, err := tx.User(ctx, t.User)
	switch {
	case errors.Is(err, store.ErrNotFound) && t.User == t.Name:
		if err := createUser(ctx, tx, store.User{Name: t.Name, Roles: []string{t.Role}, CreatedBy: t.CreatedBy}); err != nil {
			return err
		}
	case errors.Is(err, store.ErrNotFound):
		return operate.NoSuch("there is no user %s; provctl user add %s --role %s makes one", t.User, t.User, t.Role)
	case err != nil:
		return err
	case !u.DisabledAt.IsZero():
		return operate.Conflict("the user %s is disabled; provctl user enable %s", u.Name, u.Name)
	case !covers(u.Roles, t.Role):
		return operate.Conflict("the user %s has the roles %s, and not %s; provctl user role %s --role … gives others", u.Name,
			strings.Join(u.Roles, ", "), t.Role, u.Name)
	}
	if t.User != t.Name {
		if _, err := tx.User(ctx, t.Name); err == nil {
			return operate.Conflict("%s is a user, so a token of %s is not to be named so; try %s-%s", t.Name, t.User, t.User, t.Name)
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	if days > 0 {
		t.ExpiresAt = tx.Now().AddDate(0, 0, days)
	}
	if _, err := tx.CreateToken(ctx, t); errors.Is(err, store.ErrConflict) {
		return operate.Conflict("a token named %s is there already", t.Name)
	} else if err != nil {
		return err
	}
	return tx.Audit(ctx, store.AuditRecord{Actor: t.CreatedBy, Action: "token.create", Subject: t.Name,
		Detail: map[string]any{"user": t.User, "role": t.Role, "days": days}})
}

func (s *Server) revokeToken(ctx context.Context, in *TokenID) (api.Token, error) {
	who, _ := PrincipalOf(ctx)
	var out api.Token
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		all, err := tx.Tokens(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(t store.Token) bool { return t.ID == in.ID })
		if i < 0 {
			return operate.NoSuch("no token %d", in.ID)
		}
		target := &all[i]
		if err := s.keepAnAdmin(all, *target); err != nil {
			return err
		}
		if err := tx.RevokeToken(ctx, in.ID); err != nil {
			return err
		}
		if target.RevokedAt.IsZero() {
			target.RevokedAt = tx.Now()
		}
		out = toToken(*target)
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "token.revoke", Subject: target.Name,
			Detail: map[string]any{"user": target.User}})
	})
	s.recent.stale()
	return out, err
}

// keepAnAdmin refuses to end the last admin tokens: nobody could make another.
func (s *Server) keepAnAdmin(all []store.Token, ending ...store.Token) error {
	admin := func(t store.Token) bool { return api.Role(t.Role) == api.Admin && live(t, s.now()) && !t.Forged }
	last := slices.IndexFunc(ending, admin)
	left := slices.ContainsFunc(all, func(t store.Token) bool {
		return admin(t) && !slices.ContainsFunc(ending, func(e store.Token) bool { return e.ID == t.ID })
	})
	if last >= 0 && !left {
		return operate.Conflict("%s is the last admin token; make another one first", ending[last].Name)
	}
	return nil
}

// Login makes a session for the console, with the role of the token, that ends
// by itself. The text goes into a cookie; source is the caller's host:port.
func (s *Server) Login(ctx context.Context, text, source string, lifetime time.Duration) (session string, p operate.Principal, err error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, sessionPrefix) {
		text = "" // a login never makes a longer one
	}
	p, err = s.Authenticate(ctx, text, source)
	if err != nil {
		return "", p, err
	}
	session, hash := newToken(sessionPrefix)
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.CreateSession(ctx, store.Session{Hash: hash, TokenID: p.ID, ExpiresAt: tx.Now().Add(lifetime)}); err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: p.Actor(), Action: "console.login", Subject: p.User})
	})
	if err != nil {
		return "", p, s.explain(ctx, "login", err)
	}
	return session, p, nil
}

// Logout ends a session.
func (s *Server) Logout(ctx context.Context, session string) error {
	defer s.recent.stale()
	return s.db.Write(ctx, func(tx *store.Tx) error { return tx.EndSession(ctx, hashToken(session)) })
}
