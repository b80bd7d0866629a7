package store

import (
	"context"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// A UserPassword is a password of a user that a profile wants on a device.
type UserPassword struct {
	ID          int64
	UUID        amt.UUID
	Name        string
	Generation  int // of this user on this device
	State       string
	Password    amt.Secret
	CreatedAt   time.Time // and sent at: none is made that is not on its way
	ActivatedAt time.Time
	RetiredAt   time.Time
	RunID       int64
}

// KindUser begins the kind of a user's password among a device's: user:NAME.
const KindUser = "user:"

// Credential is the password as the list of a device's passwords shows it.
func (u UserPassword) Credential() Credential {
	return Credential{ID: u.ID, UUID: u.UUID, Generation: u.Generation, Kind: KindUser + u.Name, State: u.State, Password: u.Password,
		CreatedAt: u.CreatedAt, SentAt: u.CreatedAt, ActivatedAt: u.ActivatedAt, RetiredAt: u.RetiredAt, RunID: u.RunID, User: u.Name}
}

func userPasswordPlace(uuid amt.UUID, name string, generation int) seal.Place {
	return seal.At("user_passwords", "sealed", uuid, name, generation)
}

// StageUser seals a new password of a user as a candidate. The device may hear it
// only after the transaction is known to have committed.
func (tx *Tx) StageUser(ctx context.Context, uuid amt.UUID, runID int64, name string, pw amt.Secret) (u UserPassword, err error) {
	fail := func(err error) (UserPassword, error) {
		return UserPassword{}, fmt.Errorf("stage a password of %s on %s: %w", name, uuid, err)
	}
	var id string
	if err := tx.one(ctx, "SELECT uuid FROM devices WHERE uuid = $1 {lock}", []any{uuid}, &id); err != nil {
		return fail(err)
	}
	u = UserPassword{UUID: uuid, Name: name, State: CredentialCandidate, Password: pw, RunID: runID}
	if err := tx.one(ctx, "SELECT coalesce(max(generation), 0) + 1 FROM user_passwords WHERE uuid = $1 AND name = $2", []any{uuid, name},
		&u.Generation); err != nil {
		return fail(err)
	}
	sealed, key, err := tx.seal(pw, userPasswordPlace(uuid, name, u.Generation))
	if err != nil {
		return fail(err)
	}
	err = tx.one(ctx, `INSERT INTO user_passwords (uuid, name, generation, state, sealed, key_id, created_at, run_id)
		VALUES ($1, $2, $3, 'candidate', $4, $5, {now}, $6) RETURNING id, created_at`,
		[]any{uuid, name, u.Generation, sealed, key, runID}, &u.ID, timeOf{&u.CreatedAt})
	if err != nil {
		return fail(err)
	}
	return u, nil
}

// UserPasswords reads the passwords of a device's users, newest first; name "" is all
// users.
func (tx *Tx) UserPasswords(ctx context.Context, uuid amt.UUID, name string) ([]UserPassword, error) {
	sealed := map[int64][]byte{}
	all, err := list(ctx, tx, func(s scanner) (u UserPassword, err error) {
		var b []byte
		err = s.Scan(&u.ID, &u.UUID, &u.Name, &u.Generation, &u.State, &b, timeOf{&u.CreatedAt}, timeOf{&u.ActivatedAt},
			timeOf{&u.RetiredAt}, &u.RunID)
		sealed[u.ID] = b
		return u, err
	}, `SELECT id, uuid, name, generation, state, sealed, created_at, activated_at, retired_at, run_id FROM user_passwords
		WHERE uuid = $1 AND (CAST($2 AS text) = '' OR name = CAST($2 AS text)) ORDER BY generation DESC, name`, uuid, name)
	if err != nil {
		return nil, fmt.Errorf("users of %s: %w", uuid, err)
	}
	for i := range all {
		u := &all[i]
		if u.Password, err = tx.open(ctx, sealed[u.ID], userPasswordPlace(u.UUID, u.Name, u.Generation)); err != nil {
			return nil, fmt.Errorf("password %d of %s on %s: %w", u.Generation, u.Name, uuid, err)
		}
	}
	return all, nil
}

// ActivateUser notes that the device lets a user in with this password. The one
// before becomes retired and is kept.
func (tx *Tx) ActivateUser(ctx context.Context, id int64) error {
	err := tx.pipeline(ctx,
		statement{q: `UPDATE user_passwords SET state = 'retired', retired_at = {now} WHERE state = 'active' AND id <> $1
			AND (uuid, name) = (SELECT uuid, name FROM user_passwords WHERE id = $1)`, args: []any{id}},
		statement{q: "UPDATE user_passwords SET state = 'active', activated_at = coalesce(activated_at, {now}), retired_at = NULL WHERE " +
			"id = $1", args: []any{id}})
	if err != nil {
		return fmt.Errorf("activate password %d of a user: %w", id, err)
	}
	return nil
}
