package seal

import (
	"crypto/hmac"
	"crypto/sha256"
)

// rowKey is the data key from which the key of the MACs is derived: the first
// one. It is never removed, every node holds it from the start, and it goes
// with the database into a backup and under another master key.
const rowKey = 1

// Mac signs what stays readable in the database; at names the row and
// everything in it that matters. ErrNoKey before the first data key.
func (k *Keyring) Mac(at Place) ([]byte, error) {
	k.mu.RLock()
	key := k.rows
	k.mu.RUnlock()
	if key == nil {
		return nil, ErrNoKey
	}
	h := hmac.New(sha256.New, key)
	h.Write(at)
	return h.Sum(nil), nil
}

// Signed reports whether mac is right for a place.
func (k *Keyring) Signed(mac []byte, at Place) bool {
	want, err := k.Mac(at)
	return err == nil && hmac.Equal(mac, want)
}
