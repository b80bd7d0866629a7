package certs

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// MaxFile bounds one file of certificates. The largest seen, a vendor's whole
// bundle, is under 300 KB.
const MaxFile = 4 << 20

// maxIterations bounds the work a PFX may ask for; Windows writes 2,000 to
// 600,000.
const maxIterations = 10_000_000

// LoadPFX opens a PFX (PKCS#12) file and joins key, leaf and chain. Order does
// not matter, extra certificates are ignored, extra adds certificates from
// elsewhere (a vendor's bundle). An error is a *reason.Error and means that
// there is nothing to speak about; everything else is a finding of the result,
// which then may not be Usable.
func LoadPFX(data []byte, password amt.Secret, now time.Time, extra ...*x509.Certificate) (*Provisioning, error) {
	key, certs, err := openPFX(data, password)
	if err != nil {
		return nil, err
	}
	leaf, err := leafFor(key, certs)
	if err != nil {
		return nil, err
	}
	return newProvisioning(leaf, key, append(certs, extra...), now), nil
}

// LoadFile reads a PFX file and the file that holds its password; passwordFile
// may be empty for a PFX without one. Line ends after the password are not part
// of it. Errors name the file.
func LoadFile(path, passwordFile string, now time.Time, extra ...*x509.Certificate) (*Provisioning, error) {
	data, err := readFile(path, MaxFile)
	if err != nil {
		return nil, err
	}
	password := amt.NewSecret("")
	if passwordFile != "" {
		line, err := readFile(passwordFile, 4096)
		if err != nil {
			return nil, err
		}
		password = amt.NewSecret(strings.TrimRight(string(line), "\r\n"))
	}
	p, err := LoadPFX(data, password, now, extra...)
	if err != nil {
		return nil, inFile(path, err)
	}
	return p, nil
}

func inFile(path string, err error) error {
	var r *reason.Error
	if !errors.As(err, &r) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return &reason.Error{Code: r.Code, Err: fmt.Errorf("%s: %w", path, err)}
}

func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, &reason.Error{Code: reason.CertInputInvalid, Err: err} // names the file itself
	case info.IsDir():
		return nil, reason.Because(reason.CertInputInvalid, "%s is a directory: name the file in it", path)
	case !info.Mode().IsRegular() && info.Mode()&os.ModeNamedPipe == 0:
		return nil, reason.Because(reason.CertInputInvalid, "%s is not a file", path)
	case info.Size() > limit:
		return nil, reason.Because(reason.CertInputInvalid, "%s is too large: %d bytes, at most %d are read", path, info.Size(), limit)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, &reason.Error{Code: reason.CertInputInvalid, Err: err}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, &reason.Error{Code: reason.CertInputInvalid, Err: err}
	case len(data) == 0:
		return nil, reason.Because(reason.CertInputInvalid, "%s is empty", path)
	case int64(len(data)) > limit:
		return nil, reason.Because(reason.CertInputInvalid, "%s is too large: at most %d bytes are read", path, limit)
	}
	return data, nil
}

// openPFX gives the one key and all certificates of a PFX, in no order.
func openPFX(data []byte, password amt.Secret) (crypto.Signer, []*x509.Certificate, error) {
	switch {
	case len(data) == 0:
		return nil, nil, reason.Because(reason.CertInputInvalid, "the file is empty")
	case len(data) > MaxFile:
		return nil, nil, reason.Because(reason.CertInputInvalid, "the file is too large: %d bytes, at most %d are read", len(data), MaxFile)
	case bytes.Contains(data[:min(len(data), 4096)], []byte("-----BEGIN ")):
		return nil, nil, reason.Because(reason.CertInputInvalid, "this is PEM text, not a PFX file")
	}
	if strings.ContainsFunc(password.Reveal(), func(r rune) bool { return r > 0xffff }) {
		return nil, nil, reason.Because(reason.PFXPasswordWrong, "the password holds a character that no PFX password can hold")
	}
	sketch, err := outlinePFX(data)
	if err != nil {
		return nil, nil, reason.Because(reason.PFXCorrupt, "not a PFX file, or a damaged one: %w", err)
	}
	if sketch.iterations > maxIterations {
		return nil, nil, reason.Because(reason.PFXUnsupportedAlgorithm, "the PFX asks for %d rounds of key derivation; at most %d are done", sketch.iterations, maxIterations)
	}
	if !sketch.mac && !password.IsZero() {
		return nil, nil, reason.Because(reason.PFXUnsupportedAlgorithm, "the PFX has a password but no integrity check: export it again with one")
	}
	key, first, rest, err := pkcs12.DecodeChain(data, password.Reveal())
	if err != nil {
		return nil, nil, explainPFX(err, sketch, password)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, reason.Because(reason.KeyTypeUnsupported, "the private key is of a kind that cannot sign (%T)", key)
	}
	return signer, append([]*x509.Certificate{first}, rest...), nil
}

func explainPFX(err error, sketch outline, password amt.Secret) *reason.Error {
	var not pkcs12.NotImplementedError
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && password.IsZero():
		return reason.Because(reason.PFXPasswordWrong, "the PFX needs a password")
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		return reason.Because(reason.PFXPasswordWrong, "the password does not open the PFX (or the file was damaged on its way: the check cannot tell)")
	case errors.Is(err, pkcs12.ErrDecryption):
		return reason.Because(reason.PFXCorrupt, "the PFX cannot be decrypted although its password is right")
	case errors.As(err, &not):
		return reason.Because(reason.PFXUnsupportedAlgorithm, "the PFX cannot be opened here: %w", err)
	case sketch.keys > 1:
		return reason.Because(reason.CertAmbiguous, "the PFX holds %d private keys: export one certificate a file", sketch.keys)
	case sketch.keys == 0 && !sketch.hidden:
		return reason.Because(reason.CertPrivateKeyMissing, "the PFX holds no private key: export it again with the key")
	case sketch.keys > 0 && sketch.certs == 0 && !sketch.hidden:
		return reason.Because(reason.CertInputInvalid, "the PFX holds a private key and no certificate")
	case sketch.keys == 0 && sketch.hiddenSafes == 1 && sketch.safes == 1:
		// One encrypted part and nothing beside it: a certificate store without keys.
		return reason.Because(reason.CertPrivateKeyMissing, "the PFX holds no private key: export it again with the key (%w)", err)
	}
	return reason.Because(reason.PFXCorrupt, "the PFX cannot be read: %w", err)
}

// leafFor finds the certificate of the key.
func leafFor(key crypto.Signer, certs []*x509.Certificate) (*x509.Certificate, error) {
	var mine []*x509.Certificate
	for _, c := range distinct(certs) {
		if samePublicKey(c.PublicKey, key.Public()) {
			mine = append(mine, c)
		}
	}
	if len(mine) > 1 {
		// Windows keeps a self-signed stand-in beside the issued certificate.
		issued := mine[:0:0]
		for _, c := range mine {
			if !selfIssued(c) {
				issued = append(issued, c)
			}
		}
		if len(issued) > 0 {
			mine = issued
		}
	}
	switch len(mine) {
	case 1:
		return mine[0], nil
	case 0:
		var names []string
		for _, c := range distinct(certs) {
			names = append(names, nameOf(c))
		}
		return nil, reason.Because(reason.CertKeyMismatch, "the private key belongs to none of the certificates here: %s", strings.Join(names, ", "))
	}
	var names []string
	for _, c := range mine {
		names = append(names, fmt.Sprintf("%s until %s", nameOf(c), day(c.NotAfter)))
	}
	return nil, reason.Because(reason.CertAmbiguous, "%d certificates share the private key: %s; give one", len(mine), strings.Join(names, ", "))
}

// outline is what can be seen of a PFX without its password. It lets a failure
// be told apart by fact instead of by the text of a library's error.
type outline struct {
	mac         bool
	iterations  int
	keys        int  // key bags in parts that are not encrypted
	certs       int  // certificate bags in such parts
	hidden      bool // some part is encrypted
	safes       int
	hiddenSafes int
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

type algorithm struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type safeBag struct {
	ID         asn1.ObjectIdentifier
	Value      asn1.RawValue `asn1:"tag:0,explicit"`
	Attributes asn1.RawValue `asn1:"optional"`
}

var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEncryptedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 6}
	oidKeyBag        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 1}
	oidShroudedKey   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 2}
	oidCertBag       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, 3}
)

func outlinePFX(data []byte) (outline, error) {
	var o outline
	var pfx struct {
		Version  int
		AuthSafe contentInfo
		MAC      struct {
			Digest     asn1.RawValue
			Salt       []byte
			Iterations int `asn1:"optional,default:1"`
		} `asn1:"optional"`
	}
	rest, err := asn1.Unmarshal(data, &pfx)
	switch {
	case err != nil:
		return o, err
	case len(rest) > 0:
		return o, fmt.Errorf("%d bytes follow its end", len(rest))
	case !pfx.AuthSafe.Type.Equal(oidData):
		return o, nil // signed instead of password-protected: the decoder says so
	}
	o.mac = len(pfx.MAC.Salt) > 0 || len(pfx.MAC.Digest.FullBytes) > 0
	o.iterations = max(pfx.MAC.Iterations, deepestCount(pfx.MAC.Digest.FullBytes, 0))
	var inner []byte
	if _, err := asn1.Unmarshal(pfx.AuthSafe.Content.Bytes, &inner); err != nil {
		return o, err
	}
	var safes []contentInfo
	if _, err := asn1.Unmarshal(inner, &safes); err != nil {
		return o, err
	}
	o.safes = len(safes)
	for _, s := range safes {
		if !s.Type.Equal(oidData) {
			o.hidden = true
			if s.Type.Equal(oidEncryptedData) {
				o.hiddenSafes++
				o.noteEncryption(s.Content.Bytes)
			}
			continue
		}
		var plain []byte
		if _, err := asn1.Unmarshal(s.Content.Bytes, &plain); err != nil {
			return o, err
		}
		var bags []safeBag
		if _, err := asn1.Unmarshal(plain, &bags); err != nil {
			return o, err
		}
		for _, b := range bags {
			switch {
			case b.ID.Equal(oidKeyBag):
				o.keys++
			case b.ID.Equal(oidShroudedKey):
				o.keys++
				var k struct {
					Algorithm algorithm
					Data      []byte
				}
				if _, err := asn1.Unmarshal(b.Value.Bytes, &k); err == nil {
					o.iterations = max(o.iterations, deepestCount(k.Algorithm.Parameters.FullBytes, 0))
				}
			case b.ID.Equal(oidCertBag):
				o.certs++
			}
		}
	}
	return o, nil
}

func (o *outline) noteEncryption(der []byte) {
	var e struct {
		Version int
		Content struct {
			Type      asn1.ObjectIdentifier
			Algorithm algorithm
			Data      asn1.RawValue `asn1:"optional"`
		}
	}
	if _, err := asn1.Unmarshal(der, &e); err == nil {
		o.iterations = max(o.iterations, deepestCount(e.Content.Algorithm.Parameters.FullBytes, 0))
	}
}

// deepestCount finds the largest INTEGER among algorithm parameters: an
// iteration count, whatever the scheme.
func deepestCount(der []byte, depth int) int {
	most := 0
	for len(der) > 0 && depth < 8 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return most
		}
		switch {
		case v.IsCompound:
			most = max(most, deepestCount(v.Bytes, depth+1))
		case v.Class == asn1.ClassUniversal && v.Tag == asn1.TagInteger:
			var n int
			if _, err := asn1.Unmarshal(v.FullBytes, &n); err != nil {
				return maxIterations + 1 // does not fit
			}
			most = max(most, n)
		}
		der = rest
	}
	return most
}
