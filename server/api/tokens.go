package api

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/store"
)

// TokenList is every token, revoked ones too; console logins are left out.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

// TokenInput describes a token to be made.
type TokenInput struct {
	Body NewToken
}

// NewToken says who a token is for and what it may do.
type NewToken struct {
	Name string `json:"name" pattern:"^[a-z0-9][a-z0-9._-]{0,62}$" patternDescription:"lower-case letters, digits, dots, hyphens and underscores" doc:"who it is for; appears in the audit"`
	Role string `json:"role" enum:"viewer,operator,secret-reader,policy-admin,key-admin,auditor,admin"`
	Days int    `json:"days,omitempty" minimum:"0" maximum:"3650" doc:"how long it is good for; 0 for ever"`
}

// TokenID names a token in a path.
type TokenID struct {
	ID int64 `path:"id" minimum:"1"`
}

func (s *Server) tokenRoutes(api huma.API) {
	add(s, api, huma.Operation{OperationID: "list-tokens", Method: http.MethodGet, Path: "/api/v1/tokens", Summary: "List tokens", Tags: []string{"tokens"}}, s.listTokens)
	add(s, api, huma.Operation{OperationID: "create-token", Method: http.MethodPost, Path: "/api/v1/tokens", DefaultStatus: http.StatusCreated, Summary: "Make a token", Description: "Its text is in the answer and nowhere else.", Tags: []string{"tokens"}}, s.createToken)
	add(s, api, huma.Operation{OperationID: "revoke-token", Method: http.MethodDelete, Path: "/api/v1/tokens/{id}", Summary: "Revoke a token", Description: "Console logins made with it end too.", Tags: []string{"tokens"}}, s.revokeToken)
}

func (s *Server) listTokens(ctx context.Context, _ *none) (TokenList, error) {
	out := TokenList{Tokens: []Token{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		all, err := tx.Tokens(ctx)
		for _, t := range all {
			if !strings.HasPrefix(t.Name, sessionPrefix) {
				out.Tokens = append(out.Tokens, toToken(t))
			}
		}
		return err
	})
	return out, err
}

func (s *Server) createToken(ctx context.Context, in *TokenInput) (TokenCreated, error) {
	who, _ := PrincipalOf(ctx)
	text, hash := newToken()
	t := store.Token{Name: in.Body.Name, Role: in.Body.Role, Hash: hash, CreatedBy: who.Actor()}
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		t.CreatedAt = tx.Now()
		if in.Body.Days > 0 {
			t.ExpiresAt = t.CreatedAt.AddDate(0, 0, in.Body.Days)
		}
		if t.ID, err = tx.CreateToken(ctx, t); errors.Is(err, store.ErrConflict) {
			return conflict("a token named %s is there already", in.Body.Name)
		} else if err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "token.create", Subject: t.Name, Detail: map[string]any{"role": t.Role, "days": in.Body.Days}})
	})
	return TokenCreated{Token: toToken(t), Secret: text}, err
}

func (s *Server) revokeToken(ctx context.Context, in *TokenID) (Token, error) {
	who, _ := PrincipalOf(ctx)
	var out Token
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		all, err := tx.Tokens(ctx)
		if err != nil {
			return err
		}
		var target *store.Token
		admins := 0
		for i, t := range all {
			if t.ID == in.ID {
				target = &all[i]
			} else if Role(t.Role) == Admin && live(t, s.now()) && !strings.HasPrefix(t.Name, sessionPrefix) {
				admins++
			}
		}
		switch {
		case target == nil || strings.HasPrefix(target.Name, sessionPrefix):
			return notFound("no token %d", in.ID)
		case Role(target.Role) == Admin && live(*target, s.now()) && admins == 0:
			return conflict("%s is the last admin token; make another one first", target.Name)
		}
		for _, t := range all {
			child := strings.HasPrefix(t.Name, sessionPrefix) && t.CreatedBy == "token:"+target.Name
			if (child || t.ID == in.ID) && t.RevokedAt.IsZero() {
				if err := tx.RevokeToken(ctx, t.ID); err != nil {
					return err
				}
			}
		}
		if target.RevokedAt.IsZero() {
			target.RevokedAt = tx.Now()
		}
		out = toToken(*target)
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "token.revoke", Subject: target.Name})
	})
	s.recent.clear()
	return out, err
}

// Login makes a session for the console: a token of the same role that ends by
// itself. The text goes into a cookie; source is the caller's host:port.
func (s *Server) Login(ctx context.Context, text, source string, lifetime time.Duration) (session string, p Principal, err error) {
	p, err = s.Authenticate(ctx, strings.TrimSpace(text), source)
	if err != nil {
		return "", p, err
	}
	session, hash := newToken()
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		t := store.Token{
			Name: sessionPrefix + hex.EncodeToString(hash[:8]), Role: string(p.Role), Hash: hash, CreatedBy: p.Actor(), ExpiresAt: tx.Now().Add(lifetime),
		}
		if _, err := tx.CreateToken(ctx, t); err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: p.Actor(), Action: "console.login", Subject: p.Name})
	})
	if err != nil {
		return "", p, s.explain(ctx, "login", err)
	}
	return session, p, nil
}

// Logout ends a session.
func (s *Server) Logout(ctx context.Context, session string) error {
	defer s.recent.clear()
	return s.db.Write(ctx, func(tx *store.Tx) error {
		t, err := tx.TokenByHash(ctx, hashToken(session))
		if errors.Is(err, store.ErrNotFound) || err == nil && !strings.HasPrefix(t.Name, sessionPrefix) {
			return nil
		}
		if err != nil {
			return err
		}
		return tx.RevokeToken(ctx, t.ID)
	})
}
