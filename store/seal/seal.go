// Package seal keeps secrets in envelopes that open only in their own place.
//
//  1. A master key of 32 bytes comes from outside the database (Load).
//  2. A key derived from it wraps data keys; the wrapped ones may lie in the
//     database, beside what they seal.
//  3. A data key seals a secret with AES-256-GCM. The additional data names
//     the table, column and row, so an envelope copied to another row, by a
//     mistake or on purpose, does not open.
//  4. Each envelope says which data key made it, so keys can be rotated while
//     old envelopes are still about: the newest key seals, all of them open.
//
// An envelope is: version (1 byte), key id (4 bytes, big-endian), nonce (12),
// ciphertext with its tag. The package touches no database.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

const (
	version   = 1
	headerLen = 1 + 4
	nonceLen  = 12
	tagLen    = 16

	// KeySize is the size of the master key and of a data key, in bytes.
	KeySize = 32
)

var (
	// ErrUnknownKey means that the keyring lacks the envelope's data key; another
	// node may have made it a moment ago.
	ErrUnknownKey = errors.New("the envelope was sealed with a data key that is not loaded")
	// ErrDamaged means that somebody changed the envelope, or that it belongs
	// elsewhere.
	ErrDamaged = errors.New("the envelope does not open here: it was changed, or belongs to another row")
	// ErrNoKey means that there is no data key yet.
	ErrNoKey = errors.New("there is no data key to seal with")
)

// A Place names what an envelope belongs to. Build it with At.
type Place []byte

// At names a table, a column and the row's own key. Every part carries its
// length, so that no two places read the same.
func At(table, column string, row ...any) Place {
	var p Place
	add := func(s string) {
		p = binary.BigEndian.AppendUint32(p, uint32(len(s)))
		p = append(p, s...)
	}
	add(table)
	add(column)
	for _, r := range row {
		add(fmt.Sprint(r))
	}
	return p
}

// A Keyring seals with the newest data key and opens with any it holds.
type Keyring struct {
	master [KeySize]byte
	wrap   cipher.AEAD

	mu      sync.RWMutex
	keys    map[uint32]cipher.AEAD
	current uint32
	rows    []byte // see Mac
}

// New makes a keyring without data keys from a master key of 32 bytes.
func New(master []byte) (*Keyring, error) {
	if len(master) != KeySize {
		return nil, reason.Because(reason.SecretStoreUnavailable, "the master key has %d bytes, it needs %d", len(master), KeySize)
	}
	k := &Keyring{keys: map[uint32]cipher.AEAD{}}
	copy(k.master[:], master)
	sub, err := k.Subkey("wrap data keys")
	if err != nil {
		return nil, err
	}
	k.wrap, err = aead(sub)
	return k, err
}

// Subkey derives 32 bytes for one purpose; equal purposes give equal keys, and
// no subkey tells anything about another.
func (k *Keyring) Subkey(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, k.master[:], nil, "provisiond/v1/"+purpose, KeySize)
}

func (*Keyring) String() string   { return "keyring ***" }
func (*Keyring) GoString() string { return "keyring ***" }

func aead(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// Make makes a new data key under the next free id and returns it wrapped:
// store it durably, then call Use.
func (k *Keyring) Make() (id uint32, wrapped []byte, err error) {
	k.mu.RLock()
	id = k.current + 1
	k.mu.RUnlock()
	wrapped, err = k.MakeAs(id)
	return id, wrapped, err
}

// MakeAs is Make for a given id.
func (k *Keyring) MakeAs(id uint32) ([]byte, error) {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a data key: %w", err)
	}
	return box(k.wrap, id, key, wrapPlace(id))
}

func wrapPlace(id uint32) Place { return At("data_keys", "wrapped", id) }

// Use unwraps a data key and keeps it. The highest id seals from now on. A
// wrong master key fails here, before the keyring seals anything with it.
func (k *Keyring) Use(id uint32, wrapped []byte) error {
	key, err := unbox(k.wrap, wrapped, wrapPlace(id))
	if err != nil {
		return reason.Because(reason.SecretStoreUnavailable,
			"the master key is not the one this database was sealed with (data key %d does not open): give the right key, no password "+
				"can be read "+
				"without it", id)
	}
	a, err := aead(key)
	if err != nil {
		return err
	}
	var rows []byte
	if id == rowKey {
		if rows, err = hkdf.Key(sha256.New, key, nil, "provisiond/v1/sign rows", KeySize); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[id] = a
	k.current = max(k.current, id)
	if rows != nil {
		k.rows = rows
	}
	return nil
}

// Current is the id of the key that seals, 0 if there is none.
func (k *Keyring) Current() uint32 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current
}

// Holds reports whether the data key id is loaded.
func (k *Keyring) Holds(id uint32) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys[id] != nil
}

// Rewrap returns a data key wrapped under another master key.
func (k *Keyring) Rewrap(id uint32, wrapped []byte, to *Keyring) ([]byte, error) {
	key, err := unbox(k.wrap, wrapped, wrapPlace(id))
	if err != nil {
		return nil, fmt.Errorf("unwrap data key %d: %w", id, err)
	}
	return box(to.wrap, id, key, wrapPlace(id))
}

// Seal puts a secret into an envelope for a place.
func (k *Keyring) Seal(s amt.Secret, at Place) ([]byte, error) {
	k.mu.RLock()
	id, a := k.current, k.keys[k.current]
	k.mu.RUnlock()
	if a == nil {
		return nil, ErrNoKey
	}
	return box(a, id, []byte(s.Reveal()), at)
}

// Open takes the secret out again. It works only for the place for which Seal
// made the envelope.
func (k *Keyring) Open(envelope []byte, at Place) (amt.Secret, error) {
	id, err := KeyOf(envelope)
	if err != nil {
		return amt.Secret{}, err
	}
	k.mu.RLock()
	a := k.keys[id]
	k.mu.RUnlock()
	if a == nil {
		return amt.Secret{}, fmt.Errorf("%w (key %d)", ErrUnknownKey, id)
	}
	b, err := unbox(a, envelope, at)
	if err != nil {
		return amt.Secret{}, err
	}
	return amt.NewSecret(string(b)), nil
}

// Reseal moves an envelope to the current key. changed is false if it is there
// already.
func (k *Keyring) Reseal(envelope []byte, at Place) (out []byte, changed bool, err error) {
	id, err := KeyOf(envelope)
	if err != nil || id == k.Current() {
		return envelope, false, err
	}
	s, err := k.Open(envelope, at)
	if err != nil {
		return nil, false, err
	}
	out, err = k.Seal(s, at)
	return out, err == nil, err
}

// KeyOf reads the data key's id from an envelope.
func KeyOf(envelope []byte) (uint32, error) {
	if len(envelope) < headerLen+nonceLen+tagLen || envelope[0] != version {
		return 0, ErrDamaged
	}
	return binary.BigEndian.Uint32(envelope[1:headerLen]), nil
}

// box seals plain and authenticates the header with it.
func box(a cipher.AEAD, id uint32, plain []byte, at Place) ([]byte, error) {
	out := make([]byte, headerLen+nonceLen, headerLen+nonceLen+len(plain)+tagLen)
	out[0] = version
	binary.BigEndian.PutUint32(out[1:], id)
	if _, err := rand.Read(out[headerLen:]); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return a.Seal(out, out[headerLen:], plain, extra(out[:headerLen], at)), nil
}

func unbox(a cipher.AEAD, b []byte, at Place) ([]byte, error) {
	if _, err := KeyOf(b); err != nil {
		return nil, err
	}
	plain, err := a.Open(nil, b[headerLen:headerLen+nonceLen], b[headerLen+nonceLen:], extra(b[:headerLen], at))
	if err != nil {
		return nil, ErrDamaged
	}
	return plain, nil
}

func extra(header []byte, at Place) []byte {
	return append(append(make([]byte, 0, len(header)+len(at)), header...), at...)
}
