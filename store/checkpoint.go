package store

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/chain"
	"github.com/provisiond/provisiond/store/seal"
)

// The chain of the audit keeps anybody from changing one record unseen, but
// whoever owns the database can compute the whole chain anew. So the daemon
// signs the chain now and then, with a key that is sealed like every secret. A
// copy of a checkpoint outside the database vouches for all records before it.
//
// Copies outside the database come about by themselves: in the log, in two
// metrics, and in each node's data folder, which also keeps where the audit
// ended a minute ago (memory.go). A node signs nothing that contradicts what it
// has seen.

// auditSigningKey is the sealed setting of the key that signs checkpoints.
const auditSigningKey = "audit_signing_key"

// How many records, and how much time, may pass without a checkpoint.
const (
	CheckpointRecords = 1000
	CheckpointEvery   = time.Hour

	// checkpointLate is how late a checkpoint may come before the doctor misses it.
	checkpointLate = 10 * time.Minute
)

// AuditCheckpoint says what the chain was when it ended with a record.
type AuditCheckpoint = chain.Checkpoint

// AuditKey is the public key of the checkpoints; ErrNotFound before the first
// one.
func (tx *Tx) AuditKey(ctx context.Context) (ed25519.PublicKey, error) {
	key, err := tx.SealedSetting(ctx, auditSigningKey)
	if err != nil {
		return nil, err
	}
	_, public, err := seal.Sign(key, nil)
	return public, err
}

// SignAudit signs the chain as it stands. It makes no second checkpoint of an
// unchanged chain, and none of an empty one: ErrNotFound.
func (tx *Tx) SignAudit(ctx context.Context) (AuditCheckpoint, error) {
	var c AuditCheckpoint
	if err := tx.one(ctx, "SELECT seq, hash FROM audit_head WHERE id = 1 {lock}", nil, &c.Seq, &c.Hash); err != nil {
		return c, fmt.Errorf("sign the audit: %w", err)
	}
	if c.Seq == 0 {
		return c, fmt.Errorf("sign the audit: it has no record yet: %w", ErrNotFound)
	}
	if err := tx.asRemembered(ctx, tx.db.memory.of(tx.db.lineage()), c.Seq); err != nil {
		return c, err
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
	if c.Signature, _, err = seal.Sign(key, c.Message()); err != nil {
		return c, fmt.Errorf("sign the audit: %w", err)
	}
	if _, err := tx.exec(ctx, "INSERT INTO audit_checkpoints (seq, at, hash, signature) VALUES ($1, $2, $3, $4)", c.Seq, c.At, c.Hash,
		c.Signature); err != nil {
		return c, fmt.Errorf("keep the audit's checkpoint %d: %w", c.Seq, err)
	}
	return c, nil
}

// signingKey makes the key if there is none. The transaction holds the lock on
// the audit's head, so no other node does the same.
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

// LastCheckpoint is the newest checkpoint, or ErrNotFound.
func (tx *Tx) LastCheckpoint(ctx context.Context) (AuditCheckpoint, error) {
	var c AuditCheckpoint
	if err := tx.one(ctx, "SELECT seq, at, hash, signature FROM audit_checkpoints ORDER BY seq DESC LIMIT 1", nil, &c.Seq, timeOf{&c.At},
		&c.Hash, &c.Signature); err != nil {
		return c, fmt.Errorf("the audit's last checkpoint: %w", err)
	}
	return c, nil
}

// AuditCheckpoints lists the checkpoints of the records after after, up to
// through.
func (tx *Tx) AuditCheckpoints(ctx context.Context, after, through int64) ([]AuditCheckpoint, error) {
	return list(ctx, tx, func(s scanner) (AuditCheckpoint, error) {
		var c AuditCheckpoint
		err := s.Scan(&c.Seq, timeOf{&c.At}, &c.Hash, &c.Signature)
		return c, err
	}, "SELECT seq, at, hash, signature FROM audit_checkpoints WHERE seq > $1 AND seq <= $2 ORDER BY seq", after, through)
}

// TendAudit is a node's work on the audit each minute: it compares the audit
// with what the node has seen, signs it when that is due, and remembers where
// it ends now.
func (db *DB) TendAudit(ctx context.Context) error {
	if db.keys == nil {
		return nil
	}
	seen := db.memory.of(db.lineage())
	err := db.Read(ctx, func(tx *Tx) error {
		var head int64
		if err := tx.one(ctx, "SELECT seq FROM audit_head WHERE id = 1", nil, &head); err != nil {
			return err
		}
		return tx.asRemembered(ctx, seen, head)
	})
	if err == nil {
		err = db.SignAuditWhenDue(ctx)
	}
	if err == nil {
		err = db.rememberAudit(ctx)
	}
	var broken *AuditError
	if errors.As(err, &broken) {
		db.metrics.broken.Inc()
		db.log.Error("audit.broken", zap.Int64("record", broken.Seq), zap.String("problem", broken.Problem))
		return nil
	}
	return err
}

// asRemembered compares the audit, which ends with record head, with what this
// node saw before.
func (tx *Tx) asRemembered(ctx context.Context, r remembered, head int64) error {
	if r.Head == nil {
		return nil
	}
	seen := "this node saw record " + strconv.FormatInt(r.Head.Seq, 10) + " at " + r.Head.Seen.UTC().Format(time.RFC3339)
	if r.Head.Seq > head {
		return &AuditError{head + 1, "is missing: " + seen +
			", so the end of the chain was cut off, or an older copy of the database was put " +
			"back"}
	}
	var hash []byte
	err := tx.one(ctx, "SELECT hash FROM audit WHERE seq = $1", []any{r.Head.Seq}, &hash)
	switch {
	case errors.Is(err, ErrNotFound):
		return &AuditError{r.Head.Seq, "is missing: " + seen}
	case err != nil:
		return err
	case hex.EncodeToString(hash) != r.Head.Hash:
		return &AuditError{r.Head.Seq, "or one before it was changed: " + seen + " with another hash"}
	}
	if r.Checkpoint == 0 {
		return nil
	}
	last, err := tx.LastCheckpoint(ctx)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if last.Seq < r.Checkpoint {
		return &AuditError{r.Checkpoint, "had a checkpoint, which is missing"}
	}
	return nil
}

// rememberAudit notes, outside the database, where the audit ends.
func (db *DB) rememberAudit(ctx context.Context) error {
	var head rememberedHead
	var hash []byte
	var last AuditCheckpoint
	err := db.Read(ctx, func(tx *Tx) (err error) {
		head.Seen = tx.Now()
		if err = tx.one(ctx, "SELECT seq, hash FROM audit_head WHERE id = 1", nil, &head.Seq, &hash); err != nil {
			return err
		}
		if last, err = tx.LastCheckpoint(ctx); errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil || head.Seq == 0 {
		return err
	}
	head.Hash = hex.EncodeToString(hash)
	fresh := false
	db.memory.keep(db.lineage(), func(r *remembered) {
		if r.Head == nil || r.Head.Seq != head.Seq {
			r.Head = &head
		}
		fresh, r.Checkpoint, r.CheckpointHash = r.Checkpoint != last.Seq, last.Seq, hex.EncodeToString(last.Hash)
	})
	if last.Seq == 0 {
		return nil
	}
	db.metrics.checkpoint(last)
	if fresh {
		db.log.Info("audit.checkpoint", zap.Int64("record", last.Seq), zap.String("hash", hex.EncodeToString(last.Hash)),
			zap.Time("signed", last.At))
	}
	return nil
}

// SignAuditWhenDue makes a checkpoint after a number of new records, or after a
// time if there is any new record.
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

// checkpointDue finds a record that has waited for its checkpoint longer than
// this process lets one wait.
func (tx *Tx) checkpointDue(ctx context.Context, all []AuditCheckpoint) error {
	const longest = CheckpointEvery + checkpointLate
	now := tx.Now()
	if tx.db.up.IsZero() || tx.db.beside || now.Sub(tx.db.up) < longest { // a process that only looks makes no checkpoint
		return nil
	}
	var last AuditCheckpoint
	if len(all) > 0 {
		last = all[len(all)-1]
	}
	var at time.Time
	err := tx.one(ctx, "SELECT at FROM audit WHERE seq = $1", []any{last.Seq + 1}, timeOf{&at})
	if last.At.After(at) {
		at = last.At // the next one is due an hour after it
	}
	if errors.Is(err, ErrNotFound) || err == nil && now.Sub(at) < longest {
		return nil
	}
	if err == nil {
		err = &AuditError{last.Seq + 1, "has no checkpoint, which was due at " + at.Add(CheckpointEvery).UTC().Format(time.RFC3339)}
	}
	return err
}

// verifyCheckpoints compares the signatures with the chain. hashes are those of
// the records that have a checkpoint.
func (tx *Tx) verifyCheckpoints(ctx context.Context, all []AuditCheckpoint, hashes map[int64][]byte, records int64) error {
	if tx.db.keys == nil {
		return nil
	}
	if err := tx.checkpointDue(ctx, all); err != nil || len(all) == 0 {
		return err
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
