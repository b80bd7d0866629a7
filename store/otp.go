package store

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// CreateOTP keeps a one-time password issued to a host agent.
func (tx *Tx) CreateOTP(ctx context.Context, o OTP) (int64, error) {
	row := rand.Text()
	sealed, key, err := tx.seal(o.Password, seal.At("otps", "sealed", row))
	if err != nil {
		return 0, fmt.Errorf("one-time password: %w", err)
	}
	var id int64
	err = tx.one(ctx, `INSERT INTO otps (uuid, sealed, key_id, seal_row, issued_to, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, {now}, $6) RETURNING id`, []any{o.UUID, sealed, key, row, o.IssuedTo, o.ExpiresAt}, &id)
	if err != nil {
		return 0, fmt.Errorf("one-time password: %w", err)
	}
	return id, nil
}

// OTPFor is the newest one-time password issued for a device that is neither
// used nor expired, or ErrNotFound.
func (tx *Tx) OTPFor(ctx context.Context, uuid amt.UUID) (OTP, error) {
	var o OTP
	var sealed []byte
	var row string
	err := tx.one(ctx, `SELECT id, uuid, sealed, seal_row, issued_to, created_at, expires_at FROM otps
		WHERE uuid = $1 AND used_at IS NULL AND expires_at > {now} ORDER BY id DESC LIMIT 1`, []any{uuid},
		&o.ID, &o.UUID, &sealed, &row, &o.IssuedTo, timeOf{&o.CreatedAt}, timeOf{&o.ExpiresAt})
	if err != nil {
		return o, fmt.Errorf("one-time password of %s: %w", uuid, err)
	}
	o.Password, err = tx.open(ctx, sealed, seal.At("otps", "sealed", row))
	return o, err
}

// LiveOTPs lists a device's passwords that are neither used nor expired,
// newest first.
func (tx *Tx) LiveOTPs(ctx context.Context, uuid amt.UUID) ([]OTP, error) {
	type row struct {
		OTP
		sealed []byte
		place  string
	}
	rows, err := list(ctx, tx, func(s scanner) (row, error) {
		var r row
		err := s.Scan(&r.ID, &r.UUID, &r.sealed, &r.place, &r.IssuedTo, timeOf{&r.CreatedAt}, timeOf{&r.ExpiresAt}, timeOf{&r.UsedAt})
		return r, err
	}, `SELECT id, uuid, sealed, seal_row, issued_to, created_at, expires_at, used_at FROM otps
		WHERE uuid = $1 AND used_at IS NULL AND expires_at > {now} ORDER BY id DESC`, uuid)
	out := make([]OTP, len(rows))
	for i, r := range rows {
		if r.Password, err = tx.open(ctx, r.sealed, seal.At("otps", "sealed", r.place)); err != nil {
			return nil, fmt.Errorf("one-time password %d: %w", r.ID, err)
		}
		out[i] = r.OTP
	}
	return out, err
}

// UseOTP spends one; ErrGone when it was spent or has expired.
func (tx *Tx) UseOTP(ctx context.Context, id int64) error {
	n, err := tx.exec(ctx, "UPDATE otps SET used_at = {now} WHERE id = $1 AND used_at IS NULL AND expires_at > {now}", id)
	return touched(n, err, ErrGone)
}
