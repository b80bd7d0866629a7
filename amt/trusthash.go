package amt

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"strings"
)

// HashAlgorithm is the one-byte code in front of each hash of a hello
// (amt/protocol.md 2.2).
type HashAlgorithm uint8

const (
	MD5    HashAlgorithm = 0 // only in an audit enumeration
	SHA1   HashAlgorithm = 1
	SHA256 HashAlgorithm = 2 // AMT 6.0 and later
	SHA384 HashAlgorithm = 3 // AMT 6.0 and later
)

// Size is the digest's length in bytes, 0 for an unknown algorithm.
func (a HashAlgorithm) Size() int {
	switch a {
	case MD5:
		return 16
	case SHA1:
		return 20
	case SHA256:
		return 32
	case SHA384:
		return 48
	}
	return 0
}

func (a HashAlgorithm) String() string {
	switch a {
	case MD5:
		return "md5"
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	}
	return fmt.Sprintf("alg%d", uint8(a))
}

func (a HashAlgorithm) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a *HashAlgorithm) UnmarshalText(b []byte) error {
	for _, k := range []HashAlgorithm{MD5, SHA1, SHA256, SHA384} {
		if k.String() == string(b) {
			*a = k
			return nil
		}
	}
	var n uint8
	if _, err := fmt.Sscanf(string(b), "alg%d", &n); err != nil {
		return fmt.Errorf("hash algorithm %q: want sha1, sha256 or sha384", Clip(string(b)))
	}
	*a = HashAlgorithm(n)
	return nil
}

// A TrustHash is the digest of a root certificate's DER that a device trusts.
type TrustHash struct {
	Algorithm HashAlgorithm
	Sum       []byte
}

// HashesOf digests a root certificate's DER the three ways a device may list it.
func HashesOf(der []byte) []TrustHash {
	s1, s256, s384 := sha1.Sum(der), sha256.Sum256(der), sha512.Sum384(der)
	return []TrustHash{{SHA384, s384[:]}, {SHA256, s256[:]}, {SHA1, s1[:]}}
}

// Equal compares algorithm and digest.
func (h TrustHash) Equal(o TrustHash) bool {
	return h.Algorithm == o.Algorithm && bytes.Equal(h.Sum, o.Sum)
}

// String is "sha256:c3846b…", the whole digest in lower-case hex.
func (h TrustHash) String() string { return h.Algorithm.String() + ":" + hex.EncodeToString(h.Sum) }

func (h TrustHash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

func (h *TrustHash) UnmarshalText(b []byte) error {
	name, digest, ok := strings.Cut(string(b), ":")
	if !ok {
		return fmt.Errorf("trust hash %q: want algorithm:hex such as sha256:c3846b…", Clip(string(b)))
	}
	if err := h.Algorithm.UnmarshalText([]byte(name)); err != nil {
		return err
	}
	sum, err := hex.DecodeString(digest)
	if err != nil {
		return fmt.Errorf("trust hash %q: %w", Clip(string(b)), err)
	}
	h.Sum = sum
	return nil
}
