package store

import (
	"context"
	"fmt"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// sealedColumns are all columns with envelopes, and how a row names its
// envelope's place.
var sealedColumns = []struct {
	table, column, key, id string
	place                  func(s scanner, sealed *[]byte) (id any, at seal.Place, err error)
}{
	{"credentials", "sealed", "id, uuid, generation, kind", "id", func(s scanner, b *[]byte) (any, seal.Place, error) {
		var id int64
		var kind string
		var uuid amt.UUID
		var gen int
		err := s.Scan(b, &id, &uuid, &gen, &kind)
		return id, credentialPlace(uuid, gen, kind), err
	}},
	{"user_passwords", "sealed", "id, uuid, name, generation", "id", func(s scanner, b *[]byte) (any, seal.Place, error) {
		var id int64
		var name string
		var uuid amt.UUID
		var gen int
		err := s.Scan(b, &id, &uuid, &name, &gen)
		return id, userPasswordPlace(uuid, name, gen), err
	}},
	{"settings", "sealed", "key", "key", keyed("settings", "sealed")},
	{"certificates", "sealed_key", "id", "id", keyed("certificates", "sealed_key")},
	{"certificate_requests", "sealed_key", "seal_row", "seal_row", keyed("certificate_requests", "sealed_key")},
	{"otps", "sealed", "seal_row", "seal_row", keyed("otps", "sealed")},
}

func keyed(table, column string) func(s scanner, b *[]byte) (any, seal.Place, error) {
	return func(s scanner, b *[]byte) (any, seal.Place, error) {
		var id string
		err := s.Scan(b, &id)
		return id, seal.At(table, column, id), err
	}
}

// Reseal moves at most limit envelopes to the newest data key and returns how
// many it moved; call it until that is 0. Nothing else ever changes a
// ciphertext, and the secret inside stays the same.
func (tx *Tx) Reseal(ctx context.Context, limit int) (int, error) {
	keys, err := tx.keyring()
	if err != nil {
		return 0, err
	}
	if err := tx.loadKeys(ctx); err != nil { // another node may have made the newest
		return 0, err
	}
	type envelope struct {
		sealed []byte
		id     any
		at     seal.Place
	}
	moved := 0
	for _, c := range sealedColumns {
		old, err := list(ctx, tx, func(s scanner) (envelope, error) {
			var e envelope
			var err error
			e.id, e.at, err = c.place(s, &e.sealed)
			return e, err
		}, "SELECT "+c.column+", "+c.key+" FROM "+c.table+" WHERE "+c.column+" IS NOT NULL AND key_id <> $1 ORDER BY 2 LIMIT $2 {lock}",
			int64(keys.Current()), int64(limit-moved))
		if err != nil {
			return moved, fmt.Errorf("reseal %s: %w", c.table, err)
		}
		for _, e := range old {
			fresh, _, err := keys.Reseal(e.sealed, e.at)
			if err == nil {
				id, _ := seal.KeyOf(fresh)
				_, err = tx.exec(ctx, "UPDATE "+c.table+" SET "+c.column+" = $2, key_id = $3 WHERE "+c.id+" = $1", e.id, fresh, int64(id))
			}
			if err != nil {
				return moved, fmt.Errorf("reseal %s %v: %w", c.table, e.id, err)
			}
			moved++
		}
		if moved >= limit {
			break
		}
	}
	return moved, nil
}

// SealedUnder counts envelopes by data key: a key that the map lacks seals
// nothing any more.
func (tx *Tx) SealedUnder(ctx context.Context) (map[uint32]int, error) {
	out := map[uint32]int{}
	for _, c := range sealedColumns {
		err := tx.each(ctx, func(s scanner) error {
			var key int64
			var n int
			err := s.Scan(&key, &n)
			out[uint32(key)] += n
			return err
		}, "SELECT key_id, count(*) FROM "+c.table+" WHERE "+c.column+" IS NOT NULL GROUP BY key_id")
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// DataKeys lists the ids of all data keys, the newest last.
func (tx *Tx) DataKeys(ctx context.Context) ([]uint32, error) {
	return list(ctx, tx, func(s scanner) (uint32, error) {
		var id int64
		err := s.Scan(&id)
		return uint32(id), err
	}, "SELECT id FROM data_keys ORDER BY id")
}
