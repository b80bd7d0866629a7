package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

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

// AuthorisedFor finds the entry that lets a device in: by UUID, serial, MAC or
// network, the narrowest first; ErrNotFound when nobody authorised it.
func (tx *Tx) AuthorisedFor(ctx context.Context, d Device) (AuthorisedDevice, error) {
	var networks []AuthorisedDevice
	err := tx.each(ctx, func(s scanner) error {
		a, err := scanAuthorisedFor(s)
		if err == nil {
			networks = append(networks, a)
		}
		return err
	}, `SELECT id, kind, value, profile, fqdn, note, created_by, created_at, expires_at, used_at FROM authorised_devices
		WHERE (expires_at IS NULL OR expires_at > {now}) AND (kind = 'network'
			OR (kind = 'uuid' AND value = $1) OR (kind = 'serial' AND value = $2 AND value <> '') OR (kind = 'mac' AND value = $3 AND value <> ''))
		ORDER BY CASE kind WHEN 'uuid' THEN 0 WHEN 'serial' THEN 1 WHEN 'mac' THEN 2 ELSE 3 END, id`,
		d.UUID.String(), strings.ToLower(d.Serial), strings.ToLower(d.MAC))
	if err != nil {
		return AuthorisedDevice{}, fmt.Errorf("who authorised %s: %w", d.UUID, err)
	}
	best, bits := AuthorisedDevice{}, -1
	for _, a := range networks {
		if a.Kind != "network" {
			return a, nil
		}
		if p, err := netip.ParsePrefix(a.Value); err == nil && p.Contains(d.Address) && p.Bits() > bits {
			best, bits = a, p.Bits()
		}
	}
	if bits < 0 {
		return best, fmt.Errorf("who authorised %s: %w", d.UUID, ErrNotFound)
	}
	return best, nil
}

func scanAuthorisedFor(s scanner) (AuthorisedDevice, error) {
	var a AuthorisedDevice
	err := s.Scan(&a.ID, &a.Kind, &a.Value, &a.Profile, &a.FQDN, &a.Note, &a.CreatedBy, timeOf{&a.CreatedAt}, timeOf{&a.ExpiresAt}, timeOf{&a.UsedAt})
	return a, err
}

// CreateSealedSetting keeps a secret under a key that nobody took before;
// ErrConflict when another node was first.
func (tx *Tx) CreateSealedSetting(ctx context.Context, key string, value amt.Secret) error {
	sealed, id, err := tx.seal(value, seal.At("settings", "sealed", key))
	if err != nil {
		return fmt.Errorf("setting %s: %w", key, err)
	}
	n, err := tx.exec(ctx, "INSERT INTO settings (key, sealed, key_id, updated_at) VALUES ($1, $2, $3, {now}) ON CONFLICT (key) DO NOTHING", key, sealed, id)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("setting %s: %w", key, err)
	}
	return err
}
