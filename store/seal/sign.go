package seal

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/provisiond/provisiond/amt"
)

// NewSigningKey makes an Ed25519 key, as its seed in hexadecimal digits.
func NewSigningKey() (amt.Secret, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return amt.Secret{}, fmt.Errorf("make a signing key: %w", err)
	}
	return amt.NewSecret(hex.EncodeToString(seed)), nil
}

// Sign signs with a key of NewSigningKey; without a message it only returns the
// public key.
func Sign(key amt.Secret, message []byte) (signature []byte, public ed25519.PublicKey, err error) {
	seed, err := hex.DecodeString(key.Reveal())
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, nil, fmt.Errorf("the signing key is damaged")
	}
	private := ed25519.NewKeyFromSeed(seed)
	public = private.Public().(ed25519.PublicKey)
	if message == nil {
		return nil, public, nil
	}
	return ed25519.Sign(private, message), public, nil
}
