package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// The chain of the audit keeps anybody from changing one record unseen, but
// whoever owns the database can compute the whole of it anew. So the chain is
// signed now and then, with a key that is sealed like every secret: a copy of a
// checkpoint that is kept elsewhere holds for all records before it.

// auditSigningKey is the sealed setting of the key that signs checkpoints.
const auditSigningKey = "audit_signing_key"

// How much of the audit may be without a checkpoint (reliability: 1,000 records
// or an hour).
const (
	CheckpointRecords = 1000
	CheckpointEvery   = time.Hour
)

// An AuditCheckpoint says what the chain was when it ended with record Seq.
type AuditCheckpoint struct {
	Seq       int64
	At        time.Time
	Hash      []byte // of record Seq
	Signature []byte // Ed25519
}

// message is what is signed.
func (c AuditCheckpoint) message() []byte {
	b := []byte("provisiond audit checkpoint 1\n")
	b = binary.BigEndian.AppendUint64(b, uint64(c.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(c.At.UnixMilli()))
	return append(b, c.Hash...)
}

// Verify reports whether the checkpoint was signed with key's other half.
func (c AuditCheckpoint) Verify(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, c.message(), c.Signature)
}

// AuditKey is the public key of checkpoints; ErrNotFound before the first one.
func (tx *Tx) AuditKey(ctx context.Context) (ed25519.PublicKey, error) {
	key, err := tx.SealedSetting(ctx, auditSigningKey)
	if err != nil {
		return nil, err
	}
	_, public, err := seal.Sign(key, nil)
	return public, err
}

// SignAudit signs the chain as it stands. A chain that has not grown since the
// last checkpoint gets no second one, and an empty chain none: ErrNotFound.
func (tx *Tx) SignAudit(ctx context.Context) (AuditCheckpoint, error) {
	var c AuditCheckpoint
	if err := tx.one(ctx, "SELECT seq, hash FROM audit_head WHERE id = 1 {lock}", nil, &c.Seq, &c.Hash); err != nil {
		return c, fmt.Errorf("sign the audit: %w", err)
	}
	if c.Seq == 0 {
		return c, fmt.Errorf("sign the audit: it has no record yet: %w", ErrNotFound)
	}
	last, err := tx.LastCheckpoint(ctx)
	if err == nil && last.Seq == c.Seq || err != nil && !errors.Is(err, ErrNotFound) {
		return last, err
	}
	key, err := tx.signingKey(ctx)
	if err != nil {
		return c, err
	}
	c.At = millis(tx.Now())
	if c.Signature, _, err = seal.Sign(key, c.message()); err != nil {
		return c, fmt.Errorf("sign the audit: %w", err)
	}
	if _, err := tx.exec(ctx, "INSERT INTO audit_checkpoints (seq, at, hash, signature) VALUES ($1, $2, $3, $4)", c.Seq, c.At, c.Hash, c.Signature); err != nil {
		return c, fmt.Errorf("keep the audit's checkpoint %d: %w", c.Seq, err)
	}
	return c, nil
}

// signingKey makes the key when there is none. The audit's head is locked, so
// no other node does the same.
func (tx *Tx) signingKey(ctx context.Context) (amt.Secret, error) {
	key, err := tx.SealedSetting(ctx, auditSigningKey)
	if !errors.Is(err, ErrNotFound) {
		return key, err
	}
	if key, err = seal.NewSigningKey(); err != nil {
		return key, err
	}
	return key, tx.CreateSealedSetting(ctx, auditSigningKey, key)
}

// LastCheckpoint is the newest one, or ErrNotFound.
func (tx *Tx) LastCheckpoint(ctx context.Context) (AuditCheckpoint, error) {
	var c AuditCheckpoint
	if err := tx.one(ctx, "SELECT seq, at, hash, signature FROM audit_checkpoints ORDER BY seq DESC LIMIT 1", nil, &c.Seq, timeOf{&c.At}, &c.Hash, &c.Signature); err != nil {
		return c, fmt.Errorf("the audit's last checkpoint: %w", err)
	}
	return c, nil
}

// AuditCheckpoints lists those of the records behind after up to through.
func (tx *Tx) AuditCheckpoints(ctx context.Context, after, through int64) ([]AuditCheckpoint, error) {
	return list(ctx, tx, func(s scanner) (AuditCheckpoint, error) {
		var c AuditCheckpoint
		err := s.Scan(&c.Seq, timeOf{&c.At}, &c.Hash, &c.Signature)
		return c, err
	}, "SELECT seq, at, hash, signature FROM audit_checkpoints WHERE seq > $1 AND seq <= $2 ORDER BY seq", after, through)
}

// SignAuditWhenDue makes a checkpoint when enough was recorded since the last
// one, or anything and enough time went by.
func (db *DB) SignAuditWhenDue(ctx context.Context) error {
	if db.keys == nil {
		return nil
	}
	due := false
	err := db.Read(ctx, func(tx *Tx) error {
		var head int64
		if err := tx.one(ctx, "SELECT seq FROM audit_head WHERE id = 1", nil, &head); err != nil {
			return err
		}
		last, err := tx.LastCheckpoint(ctx)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		due = head-last.Seq >= CheckpointRecords || head > last.Seq && tx.Now().Sub(last.At) >= CheckpointEvery
		return nil
	})
	if err != nil || !due {
		return err
	}
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.SignAudit(ctx)
		return err
	})
}

// verifyCheckpoints holds the signatures against the chain. hashes are those of
// the records that have a checkpoint.
func (tx *Tx) verifyCheckpoints(ctx context.Context, all []AuditCheckpoint, hashes map[int64][]byte, records int64) error {
	if len(all) == 0 || tx.db.keys == nil {
		return nil
	}
	key, err := tx.AuditKey(ctx)
	if errors.Is(err, ErrNotFound) {
		return &AuditError{all[0].Seq, "has a checkpoint, but the key that signed it is gone"}
	}
	if err != nil {
		return err
	}
	for _, c := range all {
		switch {
		case !c.Verify(key):
			return &AuditError{c.Seq, "has a checkpoint that this server did not sign"}
		case c.Seq > records:
			return &AuditError{c.Seq, "is missing: a checkpoint was signed for it"}
		case !bytes.Equal(c.Hash, hashes[c.Seq]):
			return &AuditError{c.Seq, "or one before it was changed, and the chain computed anew: the signed checkpoint differs"}
		}
	}
	return nil
}
