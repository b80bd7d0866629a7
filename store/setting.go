package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// KeptProfile begins the keys of settings that hold what the nodes'
// configurations said of a profile: NAME@VERSION. They say how devices are set
// up, so they carry a MAC.
const KeptProfile = "profile_configured:"

const settingGrants = "key LIKE '" + KeptProfile + "%@%'"

func settingGranting(key string) bool {
	return strings.HasPrefix(key, KeptProfile) && strings.Contains(key, "@")
}

func settingPlace(key, value string) seal.Place { return place("settings", key, value) }

// PutSetting stores a plain value under a key.
func (tx *Tx) PutSetting(ctx context.Context, key, value string) error {
	var mac []byte
	var err error
	if settingGranting(key) {
		mac, err = tx.sign(settingPlace(key, value))
	}
	if err == nil {
		_, err = tx.exec(ctx, `INSERT INTO settings (key, value, updated_at, signed) VALUES ($1, $2, {now}, $3)
			ON CONFLICT (key) DO UPDATE SET value = excluded.value, sealed = NULL, key_id = 0, updated_at = excluded.updated_at,
			signed = excluded.signed`, key, value, mac)
	}
	return about(err, "setting %s", key)
}

// Setting reads a plain value, or ErrNotFound.
func (tx *Tx) Setting(ctx context.Context, key string) (string, error) {
	var v string
	var mac []byte
	err := tx.one(ctx, "SELECT value, signed FROM settings WHERE key = $1", []any{key}, &v, &mac)
	if err == nil && settingGranting(key) && !tx.counts("settings", key, settingPlace(key, v), mac) {
		err = ErrNotFound
	}
	return v, about(err, "setting %s", key)
}

// PutSealedSetting stores a secret under a key, such as the device CA's key.
func (tx *Tx) PutSealedSetting(ctx context.Context, key string, value amt.Secret) error {
	sealed, id, err := tx.seal(value, seal.At("settings", "sealed", key))
	if err == nil {
		_, err = tx.exec(ctx, `INSERT INTO settings (key, sealed, key_id, updated_at) VALUES ($1, $2, $3, {now})
			ON CONFLICT (key) DO UPDATE SET value = '', sealed = excluded.sealed, key_id = excluded.key_id, updated_at = excluded.updated_at`, key,
			sealed, id)
	}
	return about(err, "setting %s", key)
}

// CreateSealedSetting stores a secret under a new key; ErrConflict if another
// node was first.
func (tx *Tx) CreateSealedSetting(ctx context.Context, key string, value amt.Secret) error {
	sealed, id, err := tx.seal(value, seal.At("settings", "sealed", key))
	if err != nil {
		return fmt.Errorf("setting %s: %w", key, err)
	}
	n, err := tx.exec(ctx, "INSERT INTO settings (key, sealed, key_id, updated_at) VALUES ($1, $2, $3, {now}) ON CONFLICT (key) DO NOTHING",
		key, sealed, id)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	if err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("setting %s: %w", key, err)
	}
	return err
}

// SealedSetting reads a secret, or ErrNotFound.
func (tx *Tx) SealedSetting(ctx context.Context, key string) (amt.Secret, error) {
	var sealed []byte
	err := tx.one(ctx, "SELECT sealed FROM settings WHERE key = $1 AND sealed IS NOT NULL", []any{key}, &sealed)
	if err != nil {
		return amt.Secret{}, fmt.Errorf("setting %s: %w", key, err)
	}
	s, err := tx.open(ctx, sealed, seal.At("settings", "sealed", key))
	return s, about(err, "setting %s", key)
}

// MasterPasswordKey is the sealed setting of a DNS domain's digest master
// password, from which Intel SCS derived the passwords of its devices.
func MasterPasswordKey(domain string) string { return "master_password:" + domain }
