package certs

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rc4"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/scrypt"
	"golang.org/x/text/encoding/charmap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// What passwords lock in the files people bring, as it was written since 1993:
// PKCS#5 (RFC 8018), PKCS#12 (RFC 7292) and OpenSSL's encrypted PEM. Much of it
// protects nothing any more. It is opened here, never written.

// errLocked means that no password given opens it.
var errLocked = errors.New("no password opens it")

type algorithm struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

// unsupported names an algorithm that cannot be opened here.
func unsupported(what string, id asn1.ObjectIdentifier) error {
	name := id.String()
	if known, ok := algorithmNames[name]; ok {
		name = known + " (" + name + ")"
	}
	return reason.Because(reason.PFXUnsupportedAlgorithm,
		"%s is %s, which cannot be opened here: export it again with AES-256 or 3DES and a check sum of SHA-256", what, name)
}

var algorithmNames = map[string]string{
	"1.2.840.113549.1.5.1": "MD2 with DES", "1.2.840.113549.1.5.4": "MD2 with RC2", "1.2.840.113549.1.7.2": "signed data",
	"1.2.840.113549.1.7.3":   "data enveloped for a certificate",
	"2.16.840.1.101.3.4.1.3": "AES-128-OFB", "2.16.840.1.101.3.4.1.23": "AES-192-OFB", "2.16.840.1.101.3.4.1.43": "AES-256-OFB",
	"2.16.840.1.101.3.4.1.4": "AES-128-CFB", "2.16.840.1.101.3.4.1.24": "AES-192-CFB", "2.16.840.1.101.3.4.1.44": "AES-256-CFB",
	"2.16.840.1.101.3.4.1.7": "AES-128-CCM", "2.16.840.1.101.3.4.1.27": "AES-192-CCM", "2.16.840.1.101.3.4.1.47": "AES-256-CCM",
	"1.2.840.113549.1.9.16.3.18": "ChaCha20-Poly1305",
	"1.2.392.200011.61.1.1.1.2":  "Camellia-128", "1.2.392.200011.61.1.1.1.3": "Camellia-192", "1.2.392.200011.61.1.1.1.4": "Camellia-256",
	"1.2.410.200046.1.1.2": "ARIA-128", "1.2.410.200046.1.1.7": "ARIA-192", "1.2.410.200046.1.1.12": "ARIA-256",
	"1.2.410.200004.1.4": "SEED", "1.2.156.10197.1.104.2": "SM4",
	"1.3.6.1.4.1.3029.1.2": "Blowfish", "1.2.840.113533.7.66.10": "CAST5", "1.3.6.1.4.1.188.7.1.1.2": "IDEA", "1.2.840.113549.3.4": "RC4",
	"1.2.840.113549.3.9": "RC5", "1.2.643.2.2.21": "GOST 28147-89",
	"1.2.643.7.1.1.2.2": "Streebog-256", "1.2.643.7.1.1.2.3": "Streebog-512", "1.2.156.10197.1.401": "SM3", "1.3.36.3.2.1": "RIPEMD-160",
	"1.0.10118.3.0.55": "Whirlpool", "1.3.6.1.4.1.1722.12.2.1.16": "BLAKE2b",
}

// digests are the hashes of check sums and key derivations, by the object
// identifier of the hash and of HMAC over it.
var digests = map[string]func() hash.Hash{
	"1.2.840.113549.2.5": md5.New, "1.3.14.3.2.26": sha1.New, "2.16.840.1.101.3.4.2.4": sha256.New224, "2.16.840.1.101.3.4.2.1": sha256.New,
	"2.16.840.1.101.3.4.2.2": sha512.New384, "2.16.840.1.101.3.4.2.3": sha512.New, "2.16.840.1.101.3.4.2.5": sha512.New512_224,
	"2.16.840.1.101.3.4.2.6": sha512.New512_256,
	"1.2.840.113549.2.6":     md5.New, "1.2.840.113549.2.7": sha1.New, "1.2.840.113549.2.8": sha256.New224,
	"1.2.840.113549.2.9":     sha256.New,
	"2.16.840.1.101.3.4.2.7": sha3Of(sha3.New224), "2.16.840.1.101.3.4.2.8": sha3Of(sha3.New256),
	"2.16.840.1.101.3.4.2.9": sha3Of(sha3.New384), "2.16.840.1.101.3.4.2.10": sha3Of(sha3.New512),
	"2.16.840.1.101.3.4.2.13": sha3Of(sha3.New224), "2.16.840.1.101.3.4.2.14": sha3Of(sha3.New256),
	"2.16.840.1.101.3.4.2.15": sha3Of(sha3.New384), "2.16.840.1.101.3.4.2.16": sha3Of(sha3.New512),
	"1.2.840.113549.2.10": sha512.New384, "1.2.840.113549.2.11": sha512.New, "1.2.840.113549.2.12": sha512.New512_224,
	"1.2.840.113549.2.13": sha512.New512_256,
}

func sha3Of(h func() *sha3.SHA3) func() hash.Hash { return func() hash.Hash { return h() } }

// An unlocking is how the octets of a password become key and initial value.
type unlocking struct {
	bmp    bool // the password goes in as UTF-16 with a zero behind it (RFC 7292 B.1)
	derive func(ctx context.Context, left *budget, password []byte) (key, iv []byte, err error)
	open   func(key, iv, data []byte) ([]byte, error)
}

// decrypt tries the passwords, each in the octets that writers make of it, until
// fits believes the answer: padding alone fits by chance once in 256.
func decrypt(ctx context.Context, left *budget, alg algorithm, data []byte, passwords []amt.Secret, fits func(plain []byte) bool) ([]byte,
	error) {
	u, err := unlockingOf(alg)
	if err != nil {
		return nil, err
	}
	return u.try(ctx, left, data, passwords, fits)
}

func (u unlocking) try(ctx context.Context, left *budget, data []byte, passwords []amt.Secret, fits func(plain []byte) bool) ([]byte,
	error) {
	for _, p := range passwords {
		for _, octets := range spellings(p, u.bmp) {
			key, iv, err := u.derive(ctx, left, octets)
			if err == nil {
				err = left.spend(ctx, int64(len(data)/16)+1, 1)
			}
			if err != nil {
				return nil, err
			}
			if plain, err := u.open(key, iv, data); err == nil && fits(plain) {
				return plain, nil
			}
		}
	}
	return nil, errLocked
}

var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidScrypt = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11591, 4, 11}
	oidPBMAC1 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 14}
)

func unlockingOf(alg algorithm) (unlocking, error) {
	if alg.Algorithm.Equal(oidPBES2) {
		return pbes2(alg)
	}
	old, ok := map[string]struct {
		hash    func() hash.Hash
		bmp     bool
		key, iv int
		cipher  func(key []byte) (cipher.Block, error) // nil: RC4
	}{
		"1.2.840.113549.1.12.1.1": {sha1.New, true, 16, 0, nil},
		"1.2.840.113549.1.12.1.2": {sha1.New, true, 5, 0, nil},
		"1.2.840.113549.1.12.1.3": {sha1.New, true, 24, 8, tripleDES},
		"1.2.840.113549.1.12.1.4": {sha1.New, true, 16, 8, tripleDES},
		"1.2.840.113549.1.12.1.5": {sha1.New, true, 16, 8, rc2Of(0)},
		"1.2.840.113549.1.12.1.6": {sha1.New, true, 5, 8, rc2Of(0)},
		"1.2.840.113549.1.5.3":    {md5.New, false, 8, 8, des.NewCipher},
		"1.2.840.113549.1.5.6":    {md5.New, false, 8, 8, rc2Of(64)},
		"1.2.840.113549.1.5.10":   {sha1.New, false, 8, 8, des.NewCipher},
		"1.2.840.113549.1.5.11":   {sha1.New, false, 8, 8, rc2Of(64)},
	}[alg.Algorithm.String()]
	if !ok {
		return unlocking{}, unsupported("its encryption", alg.Algorithm)
	}
	var params struct {
		Salt       []byte
		Iterations int
	}
	if _, err := asn1.Unmarshal(alg.Parameters.FullBytes, &params); err != nil {
		return unlocking{}, damaged("the parameters of the encryption cannot be read: %w", err)
	}
	u := unlocking{bmp: old.bmp, open: func(key, _, data []byte) ([]byte, error) {
		c, err := rc4.NewCipher(key)
		if err != nil {
			return nil, err
		}
		plain := make([]byte, len(data))
		c.XORKeyStream(plain, data)
		return plain, nil
	}}
	if old.cipher != nil {
		u.open = cbc(old.cipher)
	}
	u.derive = func(ctx context.Context, left *budget, password []byte) (key, iv []byte, err error) {
		if !old.bmp {
			both, err := pbkdf1(ctx, left, old.hash, password, params.Salt, params.Iterations)
			if err != nil {
				return nil, nil, err
			}
			return both[:8], both[8:16], nil
		}
		if key, err = pkcs12Key(ctx, left, old.hash, 1, password, params.Salt, params.Iterations, old.key); err == nil && old.iv > 0 {
			iv, err = pkcs12Key(ctx, left, old.hash, 2, password, params.Salt, params.Iterations, old.iv)
		}
		return key, iv, err
	}
	return u, nil
}

// pbkdf2Params are RFC 8018 A.2.
type pbkdf2Params struct {
	Salt       asn1.RawValue
	Iterations int
	KeyLength  int       `asn1:"optional"`
	PRF        algorithm `asn1:"optional"`
}

func pbkdf2Of(kdf algorithm) (p pbkdf2Params, prf func() hash.Hash, err error) {
	if !kdf.Algorithm.Equal(oidPBKDF2) {
		return p, nil, unsupported("its key derivation", kdf.Algorithm)
	}
	if _, err := asn1.Unmarshal(kdf.Parameters.FullBytes, &p); err != nil || p.Salt.Tag != asn1.TagOctetString {
		return p, nil, damaged("the parameters of the key derivation cannot be read")
	}
	if len(p.PRF.Algorithm) == 0 {
		return p, sha1.New, nil
	}
	prf, ok := digests[p.PRF.Algorithm.String()]
	if !ok {
		return p, nil, unsupported("the hash of its key derivation", p.PRF.Algorithm)
	}
	return p, prf, nil
}

// aesModes are AES in the modes that are opened here: length of the key, and
// whether it carries a check sum of its own (GCM).
var aesModes = map[string]struct {
	size int
	gcm  bool
}{
	"2.16.840.1.101.3.4.1.2": {16, false}, "2.16.840.1.101.3.4.1.22": {24, false}, "2.16.840.1.101.3.4.1.42": {32, false},
	"2.16.840.1.101.3.4.1.6": {16, true}, "2.16.840.1.101.3.4.1.26": {24, true}, "2.16.840.1.101.3.4.1.46": {32, true},
}

func pbes2(alg algorithm) (unlocking, error) {
	var params struct{ KDF, Encryption algorithm }
	if _, err := asn1.Unmarshal(alg.Parameters.FullBytes, &params); err != nil {
		return unlocking{}, damaged("the parameters of the encryption cannot be read: %w", err)
	}
	stretch, size, err := stretching(params.KDF)
	if err != nil {
		return unlocking{}, err
	}
	iv, natural := params.Encryption.Parameters.Bytes, 0
	var open func(key, iv, data []byte) ([]byte, error)
	id := params.Encryption.Algorithm.String()
	switch mode, ok := aesModes[id]; {
	case ok && !mode.gcm:
		natural, open = mode.size, cbc(aes.NewCipher)
	case ok:
		var gcm struct { // RFC 5084 3.2
			Nonce []byte
			Tag   int `asn1:"optional,default:12"`
		}
		if _, err := asn1.Unmarshal(params.Encryption.Parameters.FullBytes, &gcm); err != nil {
			return unlocking{}, damaged("the parameters of AES-GCM cannot be read: %w", err)
		}
		natural, iv, open = mode.size, gcm.Nonce, galois(gcm.Tag)
	case id == "1.2.840.113549.3.7":
		natural, open = 24, cbc(tripleDES)
	case id == "1.3.14.3.2.7":
		natural, open = 8, cbc(des.NewCipher)
	case id == "1.2.840.113549.3.2":
		var rc2 struct {
			Version int `asn1:"optional"`
			IV      []byte
		}
		if _, err := asn1.Unmarshal(params.Encryption.Parameters.FullBytes, &rc2); err != nil {
			return unlocking{}, damaged("the parameters of RC2 cannot be read: %w", err)
		}
		bits, ok := map[int]int{160: 40, 120: 64, 58: 128, 0: 32}[rc2.Version] // RFC 8018 B.2.3
		if !ok && rc2.Version >= 256 && rc2.Version <= 1024 {
			bits, ok = rc2.Version, true
		}
		if !ok {
			return unlocking{}, damaged("RC2 of version %d is unknown", rc2.Version)
		}
		natural, open, iv = (bits+7)/8, cbc(rc2Of(bits)), rc2.IV
	default:
		return unlocking{}, unsupported("its encryption", params.Encryption.Algorithm)
	}
	if size <= 0 || size > 128 {
		size = natural
	}
	return unlocking{open: open, derive: func(ctx context.Context, left *budget, password []byte) ([]byte, []byte, error) {
		key, err := stretch(ctx, left, password, size)
		return key, iv, err
	}}, nil
}

// maxScrypt bounds the memory that scrypt may ask for: OpenSSL writes 16 MB.
const maxScrypt = 64 << 20

// stretching is the key derivation of PBES2, and the length of the key where the
// file names it.
func stretching(kdf algorithm) (stretch func(ctx context.Context, left *budget, password []byte, size int) ([]byte, error), size int,
	err error) {
	if !kdf.Algorithm.Equal(oidScrypt) {
		p, prf, err := pbkdf2Of(kdf)
		return func(ctx context.Context, left *budget, password []byte, size int) ([]byte, error) {
			return pbkdf2(ctx, left, prf, password, p.Salt.Bytes, p.Iterations, size)
		}, p.KeyLength, err
	}
	var p struct { // RFC 7914 7.1
		Salt      []byte
		N, R, P   int
		KeyLength int `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(kdf.Parameters.FullBytes, &p); err != nil || p.N < 2 || p.R < 1 || p.P < 1 {
		return nil, 0, damaged("the parameters of scrypt cannot be read")
	}
	if p.N > maxScrypt/128 || p.R > maxScrypt/128/p.N || p.P > maxScrypt/128/p.N/p.R {
		return nil, 0, reason.Because(reason.PFXUnsupportedAlgorithm,
			"its key derivation, scrypt with N %d, r %d and p %d, asks for more than %d MB: write it again with openssl pkcs8 -topk8 -v2 "+
				"aes256", p.N, p.R, p.P, maxScrypt>>20)
	}
	return func(ctx context.Context, left *budget, password []byte, size int) ([]byte, error) {
		if err := left.spend(ctx, int64(p.N)*int64(p.R), int64(p.P)); err != nil {
			return nil, err
		}
		key, err := scrypt.Key(password, p.Salt, p.N, p.R, p.P, size)
		if err != nil {
			return nil, damaged("its key derivation: %w", err)
		}
		return key, nil
	}, p.KeyLength, nil
}

func galois(tag int) func(key, nonce, data []byte) ([]byte, error) {
	return func(key, nonce, data []byte) ([]byte, error) {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		mode, err := cipher.NewGCMWithTagSize(block, tag)
		if err != nil || len(nonce) != mode.NonceSize() {
			return nil, errors.New("AES-GCM of another form")
		}
		return mode.Open(nil, nonce, data, nil)
	}
}

// macKey derives the key of a PFX's check sum, and gives the hash it is made with.
func macKey(alg algorithm, salt []byte, rounds int) (u unlocking, sum func() hash.Hash, err error) {
	if !alg.Algorithm.Equal(oidPBMAC1) {
		sum, ok := digests[alg.Algorithm.String()]
		if !ok {
			return u, nil, unsupported("its check sum", alg.Algorithm)
		}
		return unlocking{bmp: true, derive: func(ctx context.Context, left *budget, password []byte) ([]byte, []byte, error) {
			key, err := pkcs12Key(ctx, left, sum, 3, password, salt, rounds, sum().Size())
			return key, nil, err
		}}, sum, nil
	}
	var params struct{ KDF, MAC algorithm } // RFC 9579
	if _, err := asn1.Unmarshal(alg.Parameters.FullBytes, &params); err != nil {
		return u, nil, damaged("the parameters of the check sum cannot be read: %w", err)
	}
	kdf, prf, err := pbkdf2Of(params.KDF)
	if err != nil {
		return u, nil, err
	}
	sum, ok := digests[params.MAC.Algorithm.String()]
	switch {
	case !ok:
		return u, nil, unsupported("its check sum", params.MAC.Algorithm)
	case kdf.KeyLength < 20 || kdf.KeyLength > 64: // RFC 9579 4: shorter ones can be guessed
		return u, nil, damaged("the key of the check sum has %d octets; 20 to 64 are possible", kdf.KeyLength)
	}
	return unlocking{derive: func(ctx context.Context, left *budget, password []byte) ([]byte, []byte, error) {
		key, err := pbkdf2(ctx, left, prf, password, kdf.Salt.Bytes, kdf.Iterations, kdf.KeyLength)
		return key, nil, err
	}}, sum, nil
}

// pemUnlocking is OpenSSL's encryption of PEM: "AES-256-CBC,0011…" of DEK-Info.
// One round of MD5 stretches the password.
func pemUnlocking(info string) (unlocking, error) {
	name, digits, _ := strings.Cut(info, ",")
	iv, err := hex.DecodeString(strings.TrimSpace(digits))
	kind, ok := map[string]struct {
		size  int
		block func([]byte) (cipher.Block, error)
	}{
		"DES-CBC": {8, des.NewCipher}, "DES-EDE3-CBC": {24, tripleDES}, "DES-EDE-CBC": {16, tripleDES},
		"AES-128-CBC": {16, aes.NewCipher}, "AES-192-CBC": {24, aes.NewCipher}, "AES-256-CBC": {32, aes.NewCipher},
		"RC2-CBC": {16, rc2Of(128)}, "RC2-64-CBC": {8, rc2Of(64)}, "RC2-40-CBC": {5, rc2Of(40)},
	}[strings.ToUpper(strings.TrimSpace(name))]
	switch {
	case !ok:
		return unlocking{}, reason.Because(reason.PFXUnsupportedAlgorithm,
			"its encryption is %s, which cannot be opened here: write it again with openssl pkcs8 -topk8", amt.Clip(name))
	case err != nil || len(iv) < 8:
		return unlocking{}, damaged("its DEK-Info line is damaged")
	}
	return unlocking{open: cbc(kind.block), derive: func(ctx context.Context, left *budget, password []byte) ([]byte, []byte, error) {
		if err := left.spend(ctx, 1, 1); err != nil {
			return nil, nil, err
		}
		var key, last []byte
		for len(key) < kind.size {
			h := md5.New()
			h.Write(last)
			h.Write(password)
			h.Write(iv[:8])
			last = h.Sum(nil)
			key = append(key, last...)
		}
		return key[:kind.size], iv, nil
	}}, nil
}

func cbc(newBlock func(key []byte) (cipher.Block, error)) func(key, iv, data []byte) ([]byte, error) {
	return func(key, iv, data []byte) ([]byte, error) {
		block, err := newBlock(key)
		if err != nil {
			return nil, err
		}
		n := block.BlockSize()
		if len(iv) != n || len(data) == 0 || len(data)%n != 0 {
			return nil, errors.New("not a whole number of blocks")
		}
		plain := make([]byte, len(data))
		cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, data)
		pad := int(plain[len(plain)-1])
		if pad == 0 || pad > n || !bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
			return nil, errors.New("no padding")
		}
		return plain[:len(plain)-pad], nil
	}
}

func tripleDES(key []byte) (cipher.Block, error) {
	if len(key) == 16 {
		key = append(key[:16:16], key[:8]...)
	}
	return des.NewTripleDESCipher(key)
}

// pkcs12Key is RFC 7292 B.2. id says what the key is for.
func pkcs12Key(ctx context.Context, left *budget, newHash func() hash.Hash, id byte, password, salt []byte, rounds, size int) ([]byte,
	error) {
	h := newHash()
	u, v := h.Size(), h.BlockSize()
	if err := left.spend(ctx, int64(rounds)+int64(len(salt)/v), int64((size+u-1)/u)); err != nil {
		return nil, err
	}
	fill := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		n := (len(b) + v - 1) / v * v
		return bytes.Repeat(b, n/len(b)+1)[:n]
	}
	in := append(fill(salt), fill(password)...)
	var out []byte
	for {
		h.Reset()
		h.Write(bytes.Repeat([]byte{id}, v))
		h.Write(in)
		sum := h.Sum(nil)
		for i := 1; i < rounds; i++ {
			if i%interval == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			h.Reset()
			h.Write(sum)
			sum = h.Sum(sum[:0])
		}
		if out = append(out, sum...); len(out) >= size {
			return out[:size], nil
		}
		b := bytes.Repeat(sum, v/u+1)[:v]
		for j := 0; j < len(in); j += v {
			carry := 1
			for k := v - 1; k >= 0; k-- {
				carry += int(in[j+k]) + int(b[k])
				in[j+k] = byte(carry)
				carry >>= 8
			}
		}
	}
}

// pbkdf2 is RFC 8018 5.2, as crypto/pbkdf2 does it, but ended with ctx.
func pbkdf2(ctx context.Context, left *budget, newHash func() hash.Hash, password, salt []byte, rounds, size int) ([]byte, error) {
	mac := hmac.New(newHash, password)
	blocks := (size + mac.Size() - 1) / mac.Size()
	if err := left.spend(ctx, int64(rounds)+int64(len(salt)/mac.BlockSize()), int64(blocks)); err != nil {
		return nil, err
	}
	var out []byte
	for n := 1; n <= blocks; n++ {
		mac.Reset()
		mac.Write(salt)
		mac.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		u := mac.Sum(nil)
		t := bytes.Clone(u)
		for i := 1; i < rounds; i++ {
			if i%interval == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			mac.Reset()
			mac.Write(u)
			u = mac.Sum(u[:0])
			for k := range t {
				t[k] ^= u[k]
			}
		}
		out = append(out, t...)
	}
	return out[:size], nil
}

// pbkdf1 is RFC 8018 5.1: at least 16 octets of one hash.
func pbkdf1(ctx context.Context, left *budget, newHash func() hash.Hash, password, salt []byte, rounds int) ([]byte, error) {
	if err := left.spend(ctx, int64(rounds), 1); err != nil {
		return nil, err
	}
	h := newHash()
	sum := append(bytes.Clone(password), salt...)
	for i := range rounds {
		if i%interval == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		h.Reset()
		h.Write(sum)
		sum = h.Sum(nil)
	}
	return sum, nil
}

// pages are the code pages of the systems that people typed a password at:
// Windows and its console in the West, in Central Europe and in Cyrillic letters.
var pages = []*charmap.Charmap{charmap.ISO8859_1, charmap.Windows1252, charmap.CodePage850, charmap.CodePage437,
	charmap.Windows1250, charmap.CodePage852, charmap.Windows1251, charmap.CodePage866}

// spellings are the octets that writers make of one password. Standards know one
// form each: a BMPString in PKCS#12, UTF-8 elsewhere. What stands in files also
// depends on where the password was typed; NSS before 3.47 wrote BMPStrings
// everywhere.
func spellings(p amt.Secret, bmp bool) [][]byte {
	s := p.Reveal()
	narrow := [][]byte{[]byte(s)}
	if !ascii(p) {
		for _, page := range pages {
			if f, err := page.NewEncoder().Bytes([]byte(s)); err == nil {
				narrow = append(narrow, f)
			}
		}
	}
	standard := wide(utf16.Encode([]rune(s)))
	all := append(slices.Clone(narrow), standard)
	if bmp {
		all = [][]byte{standard}
		if s == "" {
			all = append(all, nil) // no password, where others write an empty one
		}
		for _, f := range narrow { // OpenSSL takes what is no UTF-8, and before 1.1 everything, byte by byte
			units := make([]uint16, len(f))
			for i := range f {
				units[i] = uint16(f[i])
			}
			all = append(all, wide(units))
		}
	}
	var out [][]byte
	for _, octets := range all {
		if !slices.ContainsFunc(out, func(have []byte) bool { return bytes.Equal(have, octets) }) || octets == nil {
			out = append(out, octets)
		}
	}
	return out
}

// wide is a BMPString with its zero.
func wide(units []uint16) []byte {
	out := make([]byte, 0, 2*len(units)+2)
	for _, u := range units {
		out = append(out, byte(u>>8), byte(u))
	}
	return append(out, 0, 0)
}

func damaged(format string, args ...any) *reason.Error {
	return reason.Because(reason.PFXCorrupt, "%w: export or copy it again", fmt.Errorf(format, args...))
}
