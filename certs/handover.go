package certs

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// A backup's passphrase can be handed over in other ways than in clear: wrapped
// to a public key whose private half the server never sees, or split into parts
// of which any two give it back.

// MaxShares bounds a split: the places of a part are the elements of GF(32) but 0.
const MaxShares = 31

// A Wrapper encrypts passphrases to somebody's public key.
type Wrapper struct {
	key *rsa.PublicKey
	// Fingerprint is KeyFingerprint of the key, which names its owner's half.
	Fingerprint string
}

// NewWrapper reads an RSA public key, or a certificate over one, in any form that
// an import takes. Errors are *reason.Error.
func NewWrapper(ctx context.Context, f File) (*Wrapper, error) {
	b, err := open(ctx, f)
	if err != nil {
		return nil, reason.Because(reason.CertInputInvalid,
			"a passphrase is wrapped to a public key (BEGIN PUBLIC KEY) or a certificate: %w", err)
	}
	var public any
	switch {
	case len(b.public) > 0:
		public = b.public[0]
	case len(b.certs) > 0:
		public = b.certs[0].what.PublicKey
	case len(b.keys) > 0:
		return nil, inFile(amt.Clip(f.Name), reason.Because(reason.CertInputInvalid,
			"this is a private key, which stays with its owner; name its public half: openssl pkey -in FILE -pubout -out PUBLIC"))
	default:
		return nil, inFile(amt.Clip(f.Name), reason.Because(reason.CertInputInvalid,
			"a passphrase is wrapped to a public key (BEGIN PUBLIC KEY) or a certificate, and neither is in it%s", b.because()))
	}
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		return nil, reason.Because(reason.KeyTypeUnsupported, "a passphrase is wrapped to an RSA key, not to one of kind %s",
			keyKind(public))
	}
	if key.N.BitLen() < 2048 {
		return nil, reason.Because(reason.KeyTooSmall, "an RSA key of %d bits is too small to wrap a passphrase to; 2048 is the least",
			key.N.BitLen())
	}
	print, err := KeyFingerprint(key)
	if err != nil {
		return nil, err
	}
	return &Wrapper{key, print}, nil
}

// PEM is the public key in the form that every program reads.
func (w *Wrapper) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(w.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Wrap encrypts with RSA-OAEP and SHA-256 and writes base64, which
//
//	base64 -d | openssl pkeyutl -decrypt -inkey KEY -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256
//
// opens.
func (w *Wrapper) Wrap(passphrase amt.Secret) (string, error) {
	out, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, w.key, []byte(passphrase.Reveal()), nil)
	if err != nil {
		return "", fmt.Errorf("wrap the passphrase: %w", err)
	}
	return base64.StdEncoding.EncodeToString(out), nil
}

// Each letter of a passphrase is an element of GF(32), modulo x^5+x^2+1. A split
// is Shamir's with a line through each letter: part i is letter + slope·i, with a
// random slope. One part alone fits every passphrase equally well.
const phraseLetters = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"

func gfMul(a, b byte) byte {
	var p byte
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			p ^= a
		}
		if a <<= 1; a&32 != 0 {
			a ^= 0b100101
		}
	}
	return p
}

func gfInverse(a byte) byte {
	out := a // a^30
	for range 29 {
		out = gfMul(out, a)
	}
	return out
}

// phraseOf reads letters, without the dashes; false when one is no letter of ours.
func phraseOf(s string) ([]byte, bool) {
	var out []byte
	for _, r := range strings.ToUpper(s) {
		if r == '-' || r == ' ' {
			continue
		}
		i := strings.IndexRune(phraseLetters, r)
		if i < 0 {
			return nil, false
		}
		out = append(out, byte(i))
	}
	return out, true
}

func phraseText(v []byte) string {
	var b strings.Builder
	for _, x := range v {
		b.WriteByte(phraseLetters[x])
	}
	return groupFives(b.String())
}

// SplitPassphrase makes n parts of a passphrase of NewBackup; any two of them,
// typed one after the other, are taken in its place. n is 2 to MaxShares.
func SplitPassphrase(passphrase amt.Secret, n int) ([]amt.Secret, error) {
	if n < 2 || n > MaxShares {
		return nil, reason.Because(reason.CertInputInvalid, "a passphrase is split into 2 to %d parts, not into %d", MaxShares, n)
	}
	letters, ok := phraseOf(passphrase.Reveal())
	if !ok {
		return nil, fmt.Errorf("split the passphrase: it is not one of ours")
	}
	slopes := make([]byte, len(letters))
	if _, err := rand.Read(slopes); err != nil {
		return nil, fmt.Errorf("split the passphrase: %w", err)
	}
	var out []amt.Secret
	for place := 1; place <= n; place++ {
		part := make([]byte, len(letters))
		for i, l := range letters {
			part[i] = l ^ gfMul(slopes[i]&31, byte(place))
		}
		out = append(out, amt.NewSecret(fmt.Sprintf("%d:%s", place, phraseText(part))))
	}
	return out, nil
}

// joinShares gives the passphrase that two different parts were made of; false
// when typed is not two parts.
func joinShares(typed string) (string, bool) {
	type share struct {
		place   byte
		letters []byte
	}
	var shares []share
	for _, word := range strings.FieldsFunc(typed, func(r rune) bool {
		return r == ' ' || r == ',' || r == ';' || r == '\n' || r == '\r' ||
			r == '\t'
	}) {
		at, text, ok := strings.Cut(word, ":")
		letters, fit := phraseOf(text)
		place := 0
		if _, err := fmt.Sscanf(at, "%d", &place); err != nil || !ok || !fit || place < 1 || place > MaxShares {
			return "", false
		}
		shares = append(shares, share{byte(place), letters})
	}
	if len(shares) < 2 || shares[0].place == shares[1].place || len(shares[0].letters) != len(shares[1].letters) {
		return "", false
	}
	a, b := shares[0], shares[1]
	over := gfInverse(a.place ^ b.place)
	out := make([]byte, len(a.letters))
	for i := range out {
		out[i] = gfMul(gfMul(a.letters[i], b.place)^gfMul(b.letters[i], a.place), over)
	}
	return phraseText(out), true
}
