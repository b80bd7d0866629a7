package store

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

func credentialPlace(uuid amt.UUID, generation int, kind string) seal.Place {
	return seal.At("credentials", "sealed", uuid, generation, kind)
}

// StageCredentials seals both passwords of a new generation as candidates and
// begins a set-up with them. The caller may send them to a device only after it
// knows that the transaction committed.
func (tx *Tx) StageCredentials(ctx context.Context, uuid amt.UUID, runID int64, admin, mebx amt.Secret) (int, error) {
	return tx.StageWithin(ctx, uuid, runID, 0, admin, mebx)
}

// StageWithin is StageCredentials for a device that is known by the proofs of
// an earlier set-up: the one that began with generation setup. 0 begins
// another.
func (tx *Tx) StageWithin(ctx context.Context, uuid amt.UUID, runID int64, setup int, admin, mebx amt.Secret) (int, error) {
	// The lock on the device's row gives two stagers two generations.
	var id string
	if err := tx.one(ctx, "SELECT uuid FROM devices WHERE uuid = $1 {lock}", []any{uuid}, &id); err != nil {
		return 0, fmt.Errorf("stage credentials of %s: %w", uuid, err)
	}
	var gen int
	if err := tx.one(ctx, "SELECT coalesce(max(generation), 0) + 1 FROM credentials WHERE uuid = $1", []any{uuid}, &gen); err != nil {
		return 0, fmt.Errorf("stage credentials of %s: %w", uuid, err)
	}
	if setup == 0 {
		setup = gen
	}
	var all []statement
	for _, c := range []struct {
		kind string
		pw   amt.Secret
	}{{KindAdmin, admin}, {KindMEBx, mebx}} {
		if c.pw.IsZero() {
			continue
		}
		sealed, key, err := tx.seal(c.pw, credentialPlace(uuid, gen, c.kind))
		if err != nil {
			return 0, fmt.Errorf("stage credentials of %s: %w", uuid, err)
		}
		mac, err := tx.sign(Credential{UUID: uuid, Generation: gen, Kind: c.kind, State: CredentialCandidate, RunID: runID,
			Setup: setup}.place())
		if err != nil {
			return 0, fmt.Errorf("stage credentials of %s: %w", uuid, err)
		}
		all = append(all, statement{q: `INSERT INTO credentials (uuid, generation, kind, state, sealed, key_id, created_at, run_id, setup, signed)
			VALUES ($1, $2, $3, 'candidate', $4, $5, {now}, $6, $7, $8)`, args: []any{uuid, gen, c.kind, sealed, key, runID, setup, mac}})
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return 0, fmt.Errorf("stage credentials of %s: %w", uuid, err)
	}
	return gen, nil
}

// Credentials reads a device's passwords, newest generation first; kind ""
// reads both kinds. It returns every password that the device may hold.
func (tx *Tx) Credentials(ctx context.Context, uuid amt.UUID, kind string) ([]Credential, error) {
	type row struct {
		Credential
		sealed []byte
	}
	rows, err := list(ctx, tx, func(s scanner) (row, error) {
		var c row
		err := s.Scan(&c.ID, &c.UUID, &c.Generation, &c.Kind, &c.State, &c.sealed, &c.Realm, &c.Peer, addrOf{&c.Address},
			timeOf{&c.CreatedAt}, timeOf{&c.SentAt}, timeOf{&c.ActivatedAt}, timeOf{&c.RetiredAt}, timeOf{&c.RefusedAt}, &c.RunID,
			&c.Setup, proofsOf{&c.Proofs}, timeOf{&c.CommittedAt}, &c.signed, &c.User)
		return c, err
	}, `SELECT id, uuid, generation, kind, state, sealed, realm, peer, address, created_at, sent_at, activated_at, retired_at, refused_at,
		run_id, setup, proofs, committed_at, signed, login
		FROM credentials WHERE uuid = $1 AND (CAST($2 AS text) = '' OR kind = CAST($2 AS text)) ORDER BY generation DESC, kind`, uuid, kind)
	if err != nil {
		return nil, fmt.Errorf("credentials of %s: %w", uuid, err)
	}
	out := make([]Credential, len(rows))
	for i, r := range rows {
		// Open after reading the rows: a key that another node made needs another
		// query.
		if r.Password, err = tx.open(ctx, r.sealed, credentialPlace(r.UUID, r.Generation, r.Kind)); err != nil {
			return nil, fmt.Errorf("credential %d of %s: %w", r.ID, uuid, err)
		}
		c := r.Credential
		if !tx.counts("credentials", c.ID, c.place(), c.signed) {
			c.Forged, c.Setup, c.Proofs, c.Peer = true, 0, nil, nil
		}
		c.OldPin = c.Setup == 0 && !tx.db.strict.Load()
		out[i] = c
	}
	return out, nil
}

// MarkSent notes, before the bytes leave, which device is about to hear a
// password and for which user. commits says that a device outside setup mode
// holds the password as soon as it hears it.
func (tx *Tx) MarkSent(ctx context.Context, id int64, user, realm string, peer []byte, address netip.Addr, commits bool) error {
	_, err := tx.amend(ctx, "id = $1", []any{id}, func(c *Credential) {
		c.Peer = peer
		if c.SentAt.IsZero() {
			c.SentAt = tx.Now()
		}
		if commits && c.CommittedAt.IsZero() {
			c.CommittedAt = tx.Now()
		}
	}, "refused_at = NULL, realm = $8, peer = $9, address = $10, login = $11", realm, peer, address, user)
	return about(err, "credential %d", id)
}

// LoginAs keeps the user name under which a device took a password that this
// release did not hand out.
func (tx *Tx) LoginAs(ctx context.Context, id int64, user string) error {
	n, err := tx.exec(ctx, "UPDATE credentials SET login = $2 WHERE id = $1", id, user)
	return about(touched(n, err, ErrNotFound), "credential %d", id)
}

// MarkRefused notes that the device refused these passwords.
func (tx *Tx) MarkRefused(ctx context.Context, ids []int64) error {
	for _, id := range ids {
		n, err := tx.exec(ctx, "UPDATE credentials SET refused_at = {now} WHERE id = $1", id)
		if err := touched(n, err, ErrNotFound); err != nil {
			return fmt.Errorf("credential %d: %w", id, err)
		}
	}
	return nil
}

// Activate notes that the device answers to this password. The password that
// was active becomes retired, and stays.
func (tx *Tx) Activate(ctx context.Context, id int64) error {
	fail := func(err error) error { return fmt.Errorf("activate credential %d: %w", id, err) }
	// Only one password may be active, so retire the other one first.
	if _, err := tx.exec(ctx, `UPDATE credentials SET state = 'retired', retired_at = {now} WHERE state = 'active' AND id <> $1
		AND (uuid, kind) = (SELECT c.uuid, c.kind FROM credentials c WHERE c.id = $1)`, id); err != nil {
		return fail(err)
	}
	c, err := tx.amend(ctx, "id = $1", []any{id}, func(c *Credential) { c.State = CredentialActive },
		"activated_at = coalesce(activated_at, {now}), retired_at = NULL, refused_at = NULL")
	if err != nil {
		return fail(err)
	}
	if c.Kind == KindAdmin {
		_, err := tx.exec(ctx, "UPDATE devices SET generation = $2, password_changed_at = {now} WHERE uuid = $1 AND generation <> $2",
			c.UUID,
			c.Generation)
		if err != nil {
			return fail(err)
		}
	}
	return nil
}
