package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/typed"
)

// MaxFile bounds one file of certificates. The largest seen, a vendor's whole
// bundle, is under 300 KB.
const MaxFile = 4 << 20

// LoadPFX opens the file of one provisioning certificate, most often a PFX
// (PKCS#12), and joins key, leaf and chain. Order does not matter, extra
// certificates are ignored, extra adds certificates from elsewhere (a vendor's
// bundle). An error is a *reason.Error and means that there is nothing to speak
// about; everything else is a finding of the result, which then may not be Usable.
func LoadPFX(ctx context.Context, data []byte, password amt.Secret, now time.Time, extra ...*x509.Certificate) (*Provisioning, error) {
	return loadPFX(ctx, data, []amt.Secret{password}, now, extra...)
}

func loadPFX(ctx context.Context, data []byte, passwords []amt.Secret, now time.Time, extra ...*x509.Certificate) (*Provisioning, error) {
	b, err := ParseBundle(ctx, []File{{"", data}}, passwords...)
	if err != nil {
		return nil, err
	}
	p, _, err := Join(ctx, b, JoinOptions{Known: extra, Now: now})
	return p, err
}

// LoadFile reads the file of one provisioning certificate and the one that holds
// its password; passwordFile may be empty for a file without one. Errors name
// the file.
func LoadFile(ctx context.Context, path, passwordFile string, now time.Time, extra ...*x509.Certificate) (*Provisioning, error) {
	f, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	password := ""
	if passwordFile != "" {
		if password, err = typed.PasswordFile(passwordFile); err != nil {
			return nil, reason.Because(reason.CertInputInvalid, "the password file: %w", err)
		}
	}
	p, err := LoadPFX(ctx, f.Data, amt.NewSecret(password), now, extra...)
	if r := (*reason.Error)(nil); errors.As(err, &r) && r.Code == reason.PFXPasswordWrong && passwordFile != "" {
		err = reason.Because(r.Code, "%w; the password file %s %s", r, passwordFile,
			map[bool]string{true: "is empty", false: "was read"}[password == ""])
	}
	if err != nil {
		return nil, inFile(path, err)
	}
	return p, nil
}

func inFile(path string, err error) error {
	if path == "" {
		return err
	}
	return reasoned(err, "%s", path)
}

// ReadFile reads a file that somebody names to this program. It is no larger than
// MaxFile; a larger one is refused and not read in part. Errors are *reason.Error
// and name the file.
func ReadFile(path string) (File, error) {
	invalid := func(format string, args ...any) (File, error) {
		return File{}, reason.Because(reason.CertInputInvalid, format, args...)
	}
	f, err := os.Open(path)
	if err != nil {
		return invalid("%w", err) // names the file itself
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return invalid("%w", err)
	case info.IsDir():
		return invalid("%s is a directory: name the file in it", path)
	case info.Size() > MaxFile:
		return invalid("%s is too large: %d bytes, at most %d MB are read", path, info.Size(), MaxFile>>20)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	switch {
	case err != nil:
		return invalid("%w", err)
	case len(data) == 0:
		return invalid("%s is empty: export or copy it again", path)
	case len(data) > MaxFile:
		return invalid("%s is too large: at most %d MB are read", path, MaxFile>>20)
	}
	return File{Name: path, Data: data}, nil
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

type safeBag struct {
	ID         asn1.ObjectIdentifier
	Value      asn1.RawValue `asn1:"tag:0,explicit"`
	Attributes asn1.RawValue `asn1:"optional"`
}

type lockedKey struct {
	Algorithm algorithm
	Data      []byte
}

var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEncryptedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 6}
	oidKeyBag        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 1}
	oidShroudedKey   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidCertBag       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
	oidCRLBag        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 4}
	oidSafeBag       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 6}
	oidX509Bag       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}
)

// A pfxReader takes a PFX apart: RFC 7292, in the order of the file.
type pfxReader struct {
	b         *bundler
	passwords []amt.Secret // that of the check sum first
	checked   bool         // the check sum fits, so that password and file are right
}

// pfx reads a PFX, of which the outermost value is DER already. What is in it, be
// it certificates, keys or both, joins what the other files hold.
func (b *bundler) pfx(ctx context.Context, der []byte) error {
	var outer struct {
		Version  int
		AuthSafe contentInfo
		MAC      struct {
			Digest struct {
				Algorithm algorithm
				Sum       []byte
			}
			Salt   []byte
			Rounds int `asn1:"optional,default:1"`
		} `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return damaged("the PFX cannot be read: %w", err)
	}
	if !outer.AuthSafe.Type.Equal(oidData) {
		return unsupported("the PFX is not protected by a password: its content", outer.AuthSafe.Type)
	}
	var content []byte
	if _, err := asn1.Unmarshal(outer.AuthSafe.Content.Bytes, &content); err != nil {
		return damaged("the PFX cannot be read: %w", err)
	}
	r := &pfxReader{b: b, passwords: b.passwords}
	if len(outer.MAC.Digest.Algorithm.Algorithm) > 0 {
		u, sum, err := macKey(outer.MAC.Digest.Algorithm, outer.MAC.Salt, outer.MAC.Rounds)
		if err != nil {
			return err
		}
		u.open = func(key, _, data []byte) ([]byte, error) {
			mac := hmac.New(sum, key)
			mac.Write(data)
			return mac.Sum(nil), nil
		}
		fits := func(have []byte) bool { return hmac.Equal(have, outer.MAC.Digest.Sum) }
		for i, p := range b.passwords {
			_, err := u.try(ctx, b.left, content, b.passwords[i:i+1], fits)
			if err == nil {
				r.checked, r.passwords = true, append([]amt.Secret{p}, b.passwords...)
				break
			}
			if !errors.Is(err, errLocked) {
				return err
			}
		}
		if !r.checked {
			return b.wrongPassword("the PFX", " (or the file was damaged on its way: the check cannot tell)")
		}
	} else {
		b.find("%sthe PFX has no check sum, so that nobody can tell whether it was changed on its way; what it holds fits together",
			b.where())
	}
	var safes []contentInfo
	if err := r.unpack(content, &safes); err != nil {
		return r.content("its list of parts", err)
	}
	for i, s := range safes {
		if err := r.safe(ctx, s, fmt.Sprintf("part %d", i+1)); err != nil {
			return err
		}
	}
	return nil
}

func (r *pfxReader) unpack(octets []byte, into any) error {
	der, err := toDER(octets)
	if err != nil {
		return err
	}
	_, err = asn1.Unmarshal(der, into)
	return err
}

// content says that the PFX was opened and does not hold what it should.
func (r *pfxReader) content(where string, err error) error {
	if r.checked {
		return damaged("the password of the PFX is right, but %s is not what a PFX holds (%w)", where, err)
	}
	return damaged("%s of the PFX cannot be read (%w)", where, err)
}

// locked says that a part stays closed.
func (r *pfxReader) locked(where string, err error) error {
	switch {
	case !errors.Is(err, errLocked):
		return reasoned(err, "the PFX: %s", where)
	case !r.checked:
		return r.b.wrongPassword("the PFX", "")
	case !ascii(r.passwords[0]):
		return damaged("the password of the PFX is right, but %s cannot be decrypted with it in any encoding known; a password of plain "+
			"letters and digits opens everywhere", where)
	}
	return damaged("the PFX cannot be decrypted although its password is right (%s)", where)
}

func (r *pfxReader) safe(ctx context.Context, s contentInfo, where string) error {
	var plain []byte
	switch {
	case s.Type.Equal(oidData):
		if _, err := asn1.Unmarshal(s.Content.Bytes, &plain); err != nil {
			return r.content(where, err)
		}
	case s.Type.Equal(oidEncryptedData):
		var e struct {
			Version int
			Content struct {
				Type      asn1.ObjectIdentifier
				Algorithm algorithm
				Data      asn1.RawValue `asn1:"optional,tag:0"`
			}
		}
		if _, err := asn1.Unmarshal(s.Content.Bytes, &e); err != nil {
			return r.content(where, err)
		}
		data := e.Content.Data.Bytes
		if e.Content.Data.IsCompound { // BER: in pieces
			var err error
			if data, err = joinOctets(data); err != nil {
				return r.content(where, err)
			}
		}
		var err error
		if plain, err = decrypt(ctx, r.b.left, e.Content.Algorithm, data, r.passwords, whole); err != nil {
			return r.locked(where, err)
		}
	default:
		return unsupported("the PFX is protected for a Windows account or a certificate instead of by a password: "+where, s.Type)
	}
	return r.bags(ctx, plain, where, 0)
}

// whole reports whether octets are one value from beginning to end.
func whole(plain []byte) bool {
	if len(plain) == 0 || plain[0] != 0x30 {
		return false
	}
	_, err := toDER(plain)
	return err == nil
}

func (r *pfxReader) bags(ctx context.Context, octets []byte, where string, depth int) error {
	var bags []safeBag
	if err := r.unpack(octets, &bags); err != nil {
		return r.content(where, err)
	}
	for i, bag := range bags {
		here := fmt.Sprintf("%s, bag %d", where, i+1)
		switch {
		case bag.ID.Equal(oidKeyBag):
			if err := r.b.key(bag.Value.Bytes, "the private key in the PFX"); err != nil {
				return err
			}
		case bag.ID.Equal(oidShroudedKey):
			var k lockedKey
			if err := r.unpack(bag.Value.Bytes, &k); err != nil {
				return r.content(here, err)
			}
			plain, err := decrypt(ctx, r.b.left, k.Algorithm, k.Data, r.passwords, whole)
			if err != nil {
				return r.locked(here, err)
			}
			if err := r.b.key(plain, "the private key in the PFX"); err != nil {
				return err
			}
		case bag.ID.Equal(oidCertBag):
			var c struct {
				ID   asn1.ObjectIdentifier
				Data []byte `asn1:"tag:0,explicit"`
			}
			if err := r.unpack(bag.Value.Bytes, &c); err != nil {
				return r.content(here, err)
			}
			if !c.ID.Equal(oidX509Bag) {
				r.b.ignore("a certificate in the PFX that is not X.509")
				continue
			}
			if err := r.b.certificate(c.Data, "the certificate in "+here+" of the PFX"); err != nil {
				return err
			}
		case bag.ID.Equal(oidSafeBag) && depth < 4:
			if err := r.bags(ctx, bag.Value.Bytes, here, depth+1); err != nil {
				return err
			}
		case bag.ID.Equal(oidCRLBag):
			r.b.ignore("a revocation list in the PFX")
		default:
			r.b.ignore("something in the PFX that is neither certificate nor key (%s)", bag.ID)
		}
	}
	return nil
}

// wrongPassword says that none of the passwords opens what.
func (b *bundler) wrongPassword(what, doubt string) error {
	given := slices.DeleteFunc(slices.Clone(b.passwords), amt.Secret.IsZero)
	if len(given) == 0 {
		return reason.Because(reason.PFXPasswordWrong, "%s needs a password", what)
	}
	hint := ""
	for _, p := range given {
		s := []byte(p.Reveal())
		switch {
		case len(bytes.TrimSpace(s)) < len(s):
			hint = "; the password has a blank at its beginning or end, which counts"
		case !ascii(p) && hint == "":
			hint = "; it was tried as UTF-8, UTF-16, Windows-1252 and in the code pages 850 and 437: export with a password of plain " +
				"letters and digits"
		}
	}
	if len(given) > 1 {
		return reason.Because(reason.PFXPasswordWrong, "none of the %d passwords opens %s%s%s", len(given), what, doubt, hint)
	}
	return reason.Because(reason.PFXPasswordWrong, "the password does not open %s%s%s", what, doubt, hint)
}

func ascii(p amt.Secret) bool {
	for _, r := range p.Reveal() {
		if r > 0x7f {
			return false
		}
	}
	return true
}

// Keys of one import, and the octets of one: an RSA key of 16,384 bits has 9,300.
const (
	maxKeys   = 100
	maxKeyLen = 16 << 10
)

// key takes a private key in DER: PKCS#8, PKCS#1 or SEC 1.
func (b *bundler) key(der []byte, what string) error {
	if len(der) > maxKeyLen {
		return reason.Because(reason.KeySizeUnsupported, "%s has %d octets, more than any that a device takes", what, len(der))
	}
	if len(b.keys) >= maxKeys {
		return reason.Because(reason.CertInputInvalid, "more than %d private keys: import fewer files at a time", maxKeys)
	}
	if fixed, err := toDER(der); err == nil {
		der = fixed
	}
	k, err := keyOf(der)
	if err != nil {
		return reasoned(err, "%s", what)
	}
	b.keys = append(b.keys, found[crypto.Signer]{k, b.at})
	return nil
}

func parseKey(der []byte) (crypto.Signer, bool) {
	k, err := keyOf(der)
	return k, err == nil
}

// keyOf says of a key that cannot be used of what kind it is.
func keyOf(der []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if s, ok := k.(crypto.Signer); ok {
		return s, nil
	}
	if err == nil {
		return nil, reason.Because(reason.KeyTypeUnsupported, "it is of a kind that cannot sign (%T), which no device takes: AMT wants RSA",
			k)
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	var p8 struct {
		Version   int
		Algorithm algorithm
		Key       []byte
	}
	if _, err2 := asn1.Unmarshal(der, &p8); err2 == nil {
		name, known := map[string]string{"1.2.840.10040.4.1": "DSA", "1.2.840.113549.1.1.10": "RSA for PSS only", "1.3.101.110": "X25519",
			"1.3.101.113": "Ed448", "1.3.101.111": "X448"}[p8.Algorithm.Algorithm.String()]
		if known {
			return nil, reason.Because(reason.KeyTypeUnsupported, "it is a key for %s, which no device takes: AMT wants RSA", name)
		}
	}
	return nil, reason.Because(reason.CertInputInvalid, "the private key cannot be read: %w", err)
}
