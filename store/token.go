package store

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/provisiond/provisiond/store/seal"
)

// A node of the release before keeps console logins among the tokens, under
// names of this form, which no token has. This release has a table for them.
const notASession = "t.name NOT LIKE 'session:%'"

// tokenUser is the user of a token. A token that a node of the release before
// made names no user and belongs to the user of its own name.
const tokenUser = "coalesce(nullif(t.user_name, ''), t.name)"

const tokenColumns = "t.id, t.name, " + tokenUser + ", t.role, t.hash, t.created_by, t.created_at, t.expires_at, t.last_used, " +
	"t.revoked_at, t.signed"

func (t *Token) dest() []any {
	return []any{&t.ID, &t.Name, &t.User, &t.Role, &t.Hash, &t.CreatedBy, timeOf{&t.CreatedAt}, timeOf{&t.ExpiresAt}, timeOf{&t.LastUsed},
		timeOf{&t.RevokedAt}, &t.signed}
}

func (t *Token) place() seal.Place {
	return place("tokens", t.ID, t.Name, t.User, t.Role, t.Hash, t.ExpiresAt)
}

// judge marks a token as forged that is not revoked and has no right MAC.
func (tx *Tx) judge(t *Token) {
	t.Forged = t.RevokedAt.IsZero() && !tx.counts("tokens", t.ID, t.place(), t.signed)
}

func scanToken(s scanner) (Token, error) {
	var t Token
	err := s.Scan(t.dest()...)
	return t, err
}

// goodToken is the condition that a token is neither revoked nor expired and
// that its user is enabled.
const goodToken = notASession + ` AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > {now})
	AND NOT EXISTS (SELECT 1 FROM users u WHERE u.name = ` + tokenUser + ` AND u.disabled_at IS NOT NULL)`

// CreateToken stores a token's hash; ErrConflict if the name is in use. The
// caller checks the user.
func (tx *Tx) CreateToken(ctx context.Context, t Token) (int64, error) {
	if t.User == "" {
		t.User = t.Name
	}
	err := tx.one(ctx, `INSERT INTO tokens (name, user_name, role, hash, created_by, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, {now}, $6)
		RETURNING id`, []any{t.Name, t.User, t.Role, t.Hash, t.CreatedBy, t.ExpiresAt}, &t.ID)
	if err == nil {
		if t.signed, err = tx.sign(t.place()); err == nil {
			_, err = tx.exec(ctx, "UPDATE tokens SET signed = $2 WHERE id = $1", t.ID, t.signed)
		}
	}
	return t.ID, about(err, "token %s", t.Name)
}

// TokenByHash finds a token that is not revoked, not expired, and of an enabled
// user.
func (tx *Tx) TokenByHash(ctx context.Context, hash []byte) (Token, error) {
	rows, err := list(ctx, tx, scanToken, "SELECT "+tokenColumns+" FROM tokens t WHERE t.hash = $1 AND "+goodToken, hash)
	if err != nil {
		return Token{}, err
	}
	for _, t := range rows {
		if tx.judge(&t); !t.Forged {
			return t, nil
		}
	}
	return Token{}, fmt.Errorf("token: %w", ErrNotFound)
}

// Tokens lists all tokens, revoked ones too.
func (tx *Tx) Tokens(ctx context.Context) ([]Token, error) {
	all, err := list(ctx, tx, scanToken, "SELECT "+tokenColumns+" FROM tokens t WHERE "+notASession+" ORDER BY t.id")
	for i := range all {
		tx.judge(&all[i])
	}
	return all, err
}

// UsedToken notes the token's last use.
func (tx *Tx) UsedToken(ctx context.Context, id int64) error {
	_, err := tx.exec(ctx, "UPDATE tokens SET last_used = {now} WHERE id = $1", id)
	return err
}

// RevokeToken ends a token and the console logins made with it.
func (tx *Tx) RevokeToken(ctx context.Context, id int64) error {
	n, err := tx.exec(ctx, "UPDATE tokens SET revoked_at = coalesce(revoked_at, {now}), signed = NULL WHERE id = $1", id)
	if err := touched(n, err, ErrNotFound); err != nil {
		return err
	}
	if _, err := tx.exec(ctx, "UPDATE sessions SET ended_at = {now}, signed = NULL WHERE token_id = $1 AND ended_at IS NULL",
		id); err != nil {
		return err
	}
	// Also logins of nodes of the release before, which do not look into sessions.
	_, err = tx.exec(ctx, `UPDATE tokens SET revoked_at = {now} WHERE revoked_at IS NULL AND name LIKE 'session:%'
		AND created_by = 'token:' || (SELECT p.name FROM tokens p WHERE p.id = $1)`, id)
	return err
}

// CreateSession stores a console login's hash. The login ends with s.TokenID at
// the latest.
func (tx *Tx) CreateSession(ctx context.Context, s Session) error {
	mac, err := tx.sign(s.place())
	if err == nil {
		_, err = tx.exec(ctx, "INSERT INTO sessions (hash, token_id, created_at, expires_at, signed) VALUES ($1, $2, {now}, $3, $4)",
			s.Hash,
			s.TokenID, s.ExpiresAt, mac)
	}
	return about(err, "session")
}

func (s *Session) dest() []any { return []any{&s.Hash, &s.TokenID, timeOf{&s.ExpiresAt}, &s.signed} }

func (s *Session) place() seal.Place { return place("sessions", s.Hash, s.TokenID, s.ExpiresAt) }

// SessionByHash finds the token behind a console login that lasts, if token and
// user are good. ExpiresAt is the earlier of both ends.
func (tx *Tx) SessionByHash(ctx context.Context, hash []byte) (Token, error) {
	rows, err := list(ctx, tx, func(s scanner) (Token, error) {
		var t Token
		var own Session
		if err := s.Scan(append(t.dest(), own.dest()...)...); err != nil {
			return t, err
		}
		tx.judge(&t)
		t.Forged = t.Forged || own.TokenID != t.ID || !tx.counts("sessions", hex.EncodeToString(own.Hash[:min(4, len(own.Hash))]),
			own.place(),
			own.signed)
		t.Hash = own.Hash
		if t.ExpiresAt.IsZero() || own.ExpiresAt.Before(t.ExpiresAt) {
			t.ExpiresAt = own.ExpiresAt
		}
		return t, nil
	}, "SELECT "+tokenColumns+", s.hash, s.token_id, s.expires_at, s.signed FROM sessions s JOIN tokens t ON t.id = s.token_id "+
		"WHERE s.hash = $1 AND s.ended_at IS NULL AND s.expires_at > {now} AND "+goodToken, hash)
	if err == nil && (len(rows) == 0 || rows[0].Forged) {
		err = fmt.Errorf("session: %w", ErrNotFound)
	}
	if err != nil {
		return Token{}, err
	}
	return rows[0], nil
}

// EndSession ends a console login; one that has ended stays so.
func (tx *Tx) EndSession(ctx context.Context, hash []byte) error {
	_, err := tx.exec(ctx, "UPDATE sessions SET ended_at = {now}, signed = NULL WHERE hash = $1 AND ended_at IS NULL", hash)
	return err
}
