package store

import (
	"context"
	"fmt"
)

const tokenColumns = "id, name, role, hash, created_by, created_at, expires_at, last_used, revoked_at"

func scanToken(s scanner) (Token, error) {
	var t Token
	err := s.Scan(&t.ID, &t.Name, &t.Role, &t.Hash, &t.CreatedBy, timeOf{&t.CreatedAt}, timeOf{&t.ExpiresAt}, timeOf{&t.LastUsed}, timeOf{&t.RevokedAt})
	return t, err
}

// CreateToken keeps a token's hash; ErrConflict when the name is in use.
func (tx *Tx) CreateToken(ctx context.Context, t Token) (int64, error) {
	var id int64
	err := tx.one(ctx, `INSERT INTO tokens (name, role, hash, created_by, created_at, expires_at) VALUES ($1, $2, $3, $4, {now}, $5)
		RETURNING id`, []any{t.Name, t.Role, t.Hash, t.CreatedBy, t.ExpiresAt}, &id)
	if err != nil {
		return 0, fmt.Errorf("token %s: %w", t.Name, err)
	}
	return id, nil
}

// TokenByHash finds a token that is neither revoked nor expired.
func (tx *Tx) TokenByHash(ctx context.Context, hash []byte) (Token, error) {
	rows, err := list(ctx, tx, scanToken, "SELECT "+tokenColumns+" FROM tokens WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > {now})", hash)
	if err == nil && len(rows) == 0 {
		err = fmt.Errorf("token: %w", ErrNotFound)
	}
	if err != nil {
		return Token{}, err
	}
	return rows[0], nil
}

// Tokens lists all of them, revoked ones too.
func (tx *Tx) Tokens(ctx context.Context) ([]Token, error) {
	return list(ctx, tx, scanToken, "SELECT "+tokenColumns+" FROM tokens ORDER BY id")
}

// UsedToken notes that a token was used.
func (tx *Tx) UsedToken(ctx context.Context, id int64) error {
	_, err := tx.exec(ctx, "UPDATE tokens SET last_used = {now} WHERE id = $1", id)
	return err
}

// RevokeToken ends a token.
func (tx *Tx) RevokeToken(ctx context.Context, id int64) error {
	n, err := tx.exec(ctx, "UPDATE tokens SET revoked_at = coalesce(revoked_at, {now}) WHERE id = $1", id)
	return touched(n, err, ErrNotFound)
}
