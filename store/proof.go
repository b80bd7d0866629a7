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

// A Proof identifies a device that went through a set-up: the SHA-256 of
// something that only this device can show in a TLS handshake.
type Proof struct {
	Kind ProofKind
	Hash [32]byte
}

// maxProofs bounds a set-up's list. A device has one or two keys at a time; a
// renewal adds one.
const maxProofs = 8

// AddProofs appends proofs to the list, each once, and keeps the newest eight.
// It reports whether the list changed.
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

// A Holder is the widest circle of devices that may hold a password.
type Holder string

// Holders.
const (
	HeldByNobody Holder = "nobody" // a run made it for an attempt, and sent it to no device
	HeldInSetup  Holder = "setup"  // a set-up sent it whose commit never left
	HeldByAny    Holder = "any"    // any device, or a person, may hold it
)

// Holder says who may hold this password. A row without a right MAC says
// nothing.
func (c Credential) Holder() Holder {
	switch {
	case c.Forged || c.State != CredentialCandidate || c.Typed():
		return HeldByAny
	case !c.Begins():
		return HeldByAny // a known device gets it next
	case c.SentAt.IsZero():
		return HeldByNobody
	case c.CommittedAt.IsZero() && c.Setup != 0:
		return HeldInSetup
	}
	return HeldByAny
}

// Begins reports whether a set-up begins with this password: whichever device
// goes through the set-up may get it.
func (c Credential) Begins() bool { return c.Setup == 0 || c.Setup == c.Generation }

// Typed reports whether a person, not a run, entered the password.
func (c Credential) Typed() bool { return c.RunID == 0 }

// trustColumns are what a password's MAC covers: whose it is, who may hold it,
// and the proofs of the device that may hear it.
const trustColumns = "id, uuid, generation, kind, state, setup, proofs, peer, sent_at, committed_at, run_id, signed"

func (c *Credential) trust() []any {
	return []any{&c.ID, &c.UUID, &c.Generation, &c.Kind, &c.State, &c.Setup, proofsOf{&c.Proofs}, &c.Peer, timeOf{&c.SentAt},
		timeOf{&c.CommittedAt}, &c.RunID, &c.signed}
}

func (c Credential) place() seal.Place {
	return place("credentials", c.UUID, c.Generation, c.Kind, string(c.Holder()), c.Setup, proofBytes(c.Proofs), c.Peer)
}

// amend changes what a password's MAC covers, and signs the row anew. It does
// not sign a row whose MAC was wrong before. set, if not empty, are more
// columns, and args their values from $8 on.
func (tx *Tx) amend(ctx context.Context, where string, key []any, change func(*Credential), set string, args ...any) (Credential, error) {
	var c Credential
	if err := tx.one(ctx, "SELECT "+trustColumns+" FROM credentials WHERE "+where+" {lock}", key, c.trust()...); err != nil {
		return c, err
	}
	right := tx.counts("credentials", c.ID, c.place(), c.signed)
	change(&c)
	var mac []byte
	if right {
		var err error
		if mac, err = tx.sign(c.place()); err != nil {
			return c, err
		}
	}
	if set != "" {
		set = ", " + set
	}
	n, err := tx.exec(ctx, "UPDATE credentials SET state = $2, setup = $3, proofs = $4, sent_at = $5, committed_at = $6, signed = $7"+set+
		" WHERE id = $1",
		append([]any{c.ID, c.State, c.Setup, proofBytes(c.Proofs), c.SentAt, c.CommittedAt, mac}, args...)...)
	return c, touched(n, err, ErrNotFound)
}

// Known writes the proofs of the device in the set-up that began with this
// generation of its admin password. commits says that a commit is about to
// leave, after which a device outside setup mode may hold the password. A row
// of an earlier release becomes the begin of a set-up of its own.
func (tx *Tx) Known(ctx context.Context, uuid amt.UUID, setup int, list []Proof, commits bool) error {
	_, err := tx.amend(ctx, "uuid = $1 AND generation = $2 AND kind = 'admin'", []any{uuid, setup}, func(c *Credential) {
		c.Setup, c.Proofs = setup, list
		if commits && c.CommittedAt.IsZero() {
			c.CommittedAt = tx.Now()
		}
	}, "")
	return about(err, "proofs of %s, generation %d", uuid, setup)
}

// adoptPins makes a proof of the certificate that a device showed last, for
// devices that a release without proofs set up.
func (db *DB) adoptPins(ctx context.Context) error {
	var last int64
	err := db.Read(ctx, func(tx *Tx) error {
		return tx.one(ctx, "SELECT coalesce(max(id), 0) FROM credentials", nil, &last)
	})
	for after := int64(0); err == nil && after < last; after += pinPage {
		err = db.Write(ctx, func(tx *Tx) error { return tx.adoptPins(ctx, after, after+pinPage) })
	}
	return err
}

// pinPage is how many passwords one transaction looks at.
const pinPage = 5000

func (tx *Tx) adoptPins(ctx context.Context, after, upTo int64) error {
	cat := "x'6c' || d.peer_fingerprint"
	if tx.db.engine == Postgres {
		cat = `'\x6c'::bytea || d.peer_fingerprint`
	}
	_, err := tx.exec(ctx, `UPDATE credentials SET setup = generation, proofs = (SELECT CAST(`+cat+` AS `+tx.blob()+
		`) FROM devices d WHERE d.uuid = credentials.uuid)
		WHERE id > $1 AND id <= $2 AND kind = 'admin' AND state = 'active' AND setup = 0
			AND EXISTS (SELECT 1 FROM devices d WHERE d.uuid = credentials.uuid AND length(d.peer_fingerprint) = 32)`, after, upTo)
	return about(err, "adopt the certificates of devices")
}

func (tx *Tx) blob() string {
	if tx.db.engine == Postgres {
		return "bytea"
	}
	return "blob"
}

// VouchFirst is Device.Vouched after a person said: trust whoever answers
// first.
var VouchFirst = []byte{'f'}

// Vouch keeps a person's word for the certificate with which a device answers
// next: its SHA-256, or nil for the first one that answers. A run may send
// passwords that the device may hold to whoever shows it. When that machine
// takes one, its key becomes the device's and the word is spent.
func (tx *Tx) Vouch(ctx context.Context, uuid amt.UUID, fingerprint []byte) error {
	if fingerprint == nil {
		fingerprint = VouchFirst
	} else if len(fingerprint) != 32 {
		return fmt.Errorf("vouch for %s: a fingerprint has 32 bytes, not %d", uuid, len(fingerprint))
	}
	return tx.UpdateDevice(ctx, uuid, DeviceFacts{Vouched: &fingerprint})
}
