package store

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// CreateOTP stores a one-time password for a host agent.
func (tx *Tx) CreateOTP(ctx context.Context, o OTP) (int64, error) {
	row := rand.Text()
	sealed, key, err := tx.seal(o.Password, seal.At("otps", "sealed", row))
	if err != nil {
		return 0, fmt.Errorf("one-time password: %w", err)
	}
	var id int64
	mac, err := tx.sign(o.at(row))
	if err != nil {
		return 0, fmt.Errorf("one-time password: %w", err)
	}
	err = tx.one(ctx, `INSERT INTO otps (uuid, sealed, key_id, seal_row, issued_to, created_at, expires_at, signed)
		VALUES ($1, $2, $3, $4, $5, {now}, $6, $7) RETURNING id`, []any{o.UUID, sealed, key, row, o.IssuedTo, o.ExpiresAt, mac}, &id)
	return id, about(err, "one-time password")
}

// OTPFor is the newest one-time password of a device that is neither used nor
// expired, or ErrNotFound.
func (tx *Tx) OTPFor(ctx context.Context, uuid amt.UUID) (OTP, error) {
	v, err := first(tx.LiveOTPs(ctx, uuid))
	return v, about(err, "one-time password of %s", uuid)
}

const otpColumns = "id, uuid, sealed, seal_row, issued_to, created_at, expires_at, used_at, signed"

type otpRow struct {
	OTP
	sealed, signed []byte
	place          string
}

func scanOTP(s scanner) (otpRow, error) {
	var r otpRow
	err := s.Scan(&r.ID, &r.UUID, &r.sealed, &r.place, &r.IssuedTo, timeOf{&r.CreatedAt}, timeOf{&r.ExpiresAt}, timeOf{&r.UsedAt},
		&r.signed)
	return r, err
}

// at names a password's whole row, since a writer of the database could move
// the envelope alone to another device.
func (o OTP) at(row string) seal.Place { return place("otps", row, o.UUID, o.IssuedTo, o.ExpiresAt) }

func (r otpRow) at() seal.Place { return r.OTP.at(r.place) }

// LiveOTPs lists a device's passwords that are neither used nor expired, newest
// first.
func (tx *Tx) LiveOTPs(ctx context.Context, uuid amt.UUID) ([]OTP, error) {
	rows, err := list(ctx, tx, scanOTP, "SELECT "+otpColumns+` FROM otps WHERE uuid = $1 AND used_at IS NULL AND expires_at > {now}
		ORDER BY id DESC`, uuid)
	var out []OTP
	for _, r := range rows {
		if !tx.counts("otps", r.ID, r.at(), r.signed) {
			continue
		}
		if r.Password, err = tx.open(ctx, r.sealed, seal.At("otps", "sealed", r.place)); err != nil {
			return nil, fmt.Errorf("one-time password %d: %w", r.ID, err)
		}
		out = append(out, r.OTP)
	}
	return out, err
}

// UseOTP spends a password; ErrGone if it is spent already or has expired.
func (tx *Tx) UseOTP(ctx context.Context, id int64) error {
	n, err := tx.exec(ctx, "UPDATE otps SET used_at = {now} WHERE id = $1 AND used_at IS NULL AND expires_at > {now}", id)
	return touched(n, err, ErrGone)
}
