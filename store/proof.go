package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// ProofKind says what a Proof is the digest of.
type ProofKind byte

// Kinds of proofs.
const (
	ProofKey      ProofKind = 'k' // the public key of the certificate a device shows (SubjectPublicKeyInfo, DER)
	ProofLeaf     ProofKind = 'l' // that certificate itself (DER)
	ProofHardware ProofKind = 'h' // the public key of its hardware identity, below Intel's on-die root
)

// A Proof is one thing by which a device that went through a set-up is known
// again: the SHA-256 of something that only this device can show in a TLS
// handshake.
type Proof struct {
	Kind ProofKind
	Hash [32]byte
}

// maxProofs bounds a set-up's list. A device has one or two keys at a time; a
// renewal adds one.
const maxProofs = 8

// AddProofs puts more proofs behind the list, each once, and keeps the newest
// eight. It reports whether the list changed.
func AddProofs(list []Proof, more ...Proof) ([]Proof, bool) {
	changed := false
	list = slices.Clone(list)
	for _, p := range more {
		if !slices.Contains(list, p) {
			list, changed = append(list, p), true
		}
	}
	return list[max(0, len(list)-maxProofs):], changed
}

type proofsOf struct{ to *[]Proof }

func (p proofsOf) Scan(src any) error {
	*p.to = nil
	raw, ok := src.([]byte)
	if !ok && src != nil {
		return fmt.Errorf("proofs: %T is no blob", src)
	}
	if len(raw)%33 != 0 {
		return errors.New("proofs: the list is cut")
	}
	for ; len(raw) > 0; raw = raw[33:] {
		*p.to = append(*p.to, Proof{Kind: ProofKind(raw[0]), Hash: [32]byte(raw[1:33])})
	}
	return nil
}

func proofBytes(list []Proof) []byte {
	var b bytes.Buffer
	for _, p := range list {
		b.WriteByte(byte(p.Kind))
		b.Write(p.Hash[:])
	}
	return b.Bytes()
}

// PutProofs writes what a device is known by that went through the set-up which
// began with this generation of its admin password. A row of an earlier release
// becomes the beginning of a set-up of its own.
func (tx *Tx) PutProofs(ctx context.Context, uuid amt.UUID, setup int, list []Proof) error {
	mac, err := tx.sign(proofPlace(uuid, setup, list))
	if err != nil {
		return fmt.Errorf("proofs of %s, generation %d: %w", uuid, setup, err)
	}
	n, err := tx.exec(ctx, "UPDATE credentials SET setup = $2, proofs = $3, signed = $4 WHERE uuid = $1 AND generation = $2 AND kind = 'admin'", uuid, setup, proofBytes(list), mac)
	if err := touched(n, err, ErrNotFound); err != nil {
		return fmt.Errorf("proofs of %s, generation %d: %w", uuid, setup, err)
	}
	return nil
}

// proofPlace is what the MAC of a list of proofs covers.
func proofPlace(uuid amt.UUID, setup int, list []Proof) seal.Place {
	return place("credentials", uuid, setup, proofBytes(list))
}

// Commits notes, before the commit leaves, that a device outside setup mode may
// hold this password from now on.
func (tx *Tx) Commits(ctx context.Context, id int64) error {
	n, err := tx.exec(ctx, "UPDATE credentials SET committed_at = coalesce(committed_at, {now}) WHERE id = $1", id)
	if err := touched(n, err, ErrNotFound); err != nil {
		return fmt.Errorf("credential %d: %w", id, err)
	}
	return nil
}

// VouchFirst is Device.Vouched when a person said: whoever answers first.
var VouchFirst = []byte{'f'}

// Vouch keeps a person's word for the certificate with which a device answers
// next: its SHA-256, or nil for the first one that answers. Passwords which the
// device may hold are answered to it; when it takes one, its key is the device's
// and the word is spent.
func (tx *Tx) Vouch(ctx context.Context, uuid amt.UUID, fingerprint []byte) error {
	if fingerprint == nil {
		fingerprint = VouchFirst
	} else if len(fingerprint) != 32 {
		return fmt.Errorf("vouch for %s: a fingerprint has 32 bytes, not %d", uuid, len(fingerprint))
	}
	return tx.UpdateDevice(ctx, uuid, DeviceFacts{Vouched: &fingerprint})
}
