package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store/seal"
)

// openKeys loads the wrapped data keys and makes the first one in an empty
// database. A wrong master key fails here, before the store seals anything with
// it.
func (db *DB) openKeys(ctx context.Context) error {
	if db.keys == nil {
		return nil
	}
	return db.Write(ctx, func(tx *Tx) error {
		if err := tx.loadKeys(ctx); err != nil {
			return err
		}
		if db.keys.Current() != 0 {
			return nil
		}
		_, err := tx.NewDataKey(ctx)
		return err
	})
}

// loadKeys takes up durable data keys only: an envelope under a key that is
// rolled back could never be opened.
func (tx *Tx) loadKeys(ctx context.Context) error {
	if tx.lite != nil && tx.write {
		// The other closures of this batch have not committed yet.
		return tx.db.readSQLite(ctx, func(r *Tx) error { return r.loadKeys(ctx) })
	}
	return tx.each(ctx, func(s scanner) error {
		var id int64
		var wrapped []byte
		if err := s.Scan(&id, &wrapped); err != nil {
			return err
		}
		if tx.db.keys.Holds(uint32(id)) || uint32(id) == tx.newKey {
			return nil
		}
		err := tx.db.keys.Use(uint32(id), wrapped)
		tx.db.metrics.key(keyUnwrap, err)
		return err
	}, "SELECT id, wrapped FROM data_keys ORDER BY id")
}

// NewDataKey makes the key that seals from this transaction's commit on. Reseal
// moves the older envelopes to it.
func (tx *Tx) NewDataKey(ctx context.Context) (uint32, error) {
	keys, err := tx.keyring()
	if err != nil {
		return 0, err
	}
	// If two nodes do this at once, the first insert wins; the other node's insert
	// does nothing, and it uses the winner's key.
	var top int64
	if err := tx.one(ctx, "SELECT coalesce(max(id), 0) FROM data_keys", nil, &top); err != nil {
		return 0, err
	}
	id := uint32(top + 1)
	wrapped, err := keys.MakeAs(id)
	tx.db.metrics.key(keyWrap, err)
	if err != nil {
		return 0, err
	}
	n, err := tx.exec(ctx, "INSERT INTO data_keys (id, wrapped, created_at) VALUES ($1, $2, {now}) ON CONFLICT DO NOTHING", int64(id),
		wrapped)
	if err != nil {
		return 0, fmt.Errorf("keep a data key: %w", err)
	}
	if n == 0 {
		if err := tx.one(ctx, "SELECT wrapped FROM data_keys WHERE id = $1", []any{int64(id)}, &wrapped); err != nil {
			return 0, err
		}
	}
	tx.newKey = id
	// Only after the commit, since envelopes under a key that is rolled back are
	// lost.
	db := tx.db
	tx.after = append(tx.after, func() {
		if err := keys.Use(id, wrapped); err != nil {
			db.log.Error("use a new data key: " + err.Error())
		}
	})
	return id, nil
}

func (tx *Tx) keyring() (*seal.Keyring, error) {
	if tx.db.keys == nil {
		return nil, reason.Because(reason.SecretStoreUnavailable, "no master key is configured, so no secret can be kept or read")
	}
	return tx.db.keys, nil
}

// seal puts a secret into an envelope for its place; keyID goes beside it, so
// that rotation finds the envelopes under an old key.
func (tx *Tx) seal(s amt.Secret, at seal.Place) (sealed []byte, keyID int64, err error) {
	keys, err := tx.keyring()
	if err != nil {
		return nil, 0, err
	}
	sealed, err = keys.Seal(s, at)
	tx.db.metrics.key(keySeal, err)
	if err != nil {
		return nil, 0, reason.Because(reason.SecretStoreUnavailable, "seal a secret: %w", err)
	}
	id, err := seal.KeyOf(sealed)
	return sealed, int64(id), err
}

func (tx *Tx) open(ctx context.Context, sealed []byte, at seal.Place) (amt.Secret, error) {
	keys, err := tx.keyring()
	if err != nil {
		return amt.Secret{}, err
	}
	s, err := keys.Open(sealed, at)
	if errors.Is(err, seal.ErrUnknownKey) { // another node made the key since
		if err := tx.loadKeys(ctx); err != nil {
			return amt.Secret{}, err
		}
		s, err = keys.Open(sealed, at)
	}
	tx.db.metrics.key(keyOpen, err)
	if err != nil {
		return amt.Secret{}, reason.Because(reason.SecretStoreUnavailable, "open a secret: %w", err)
	}
	return s, nil
}
