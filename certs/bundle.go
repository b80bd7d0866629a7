package certs

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// MaxBundle bounds all files of one import together.
const MaxBundle = 16 << 20

// A File is what an operator handed over. The name is for sentences only; what
// a file is, its bytes say.
type File struct {
	Name string
	Data []byte
}

// A Bundle is the certificates and keys of several files, in no order.
type Bundle struct {
	Certs   []*x509.Certificate // no repeats
	Keys    []crypto.Signer     // no repeats
	Ignored []string            // parts that are neither, in words
}

// ParseBundle reads PEM, DER, PKCS#7, PFX and zip files of these, in any order.
// Passwords are tried on each PFX in turn. The error is a *reason.Error that
// names the file; then nothing of the bundle is to be used.
func ParseBundle(files []File, passwords ...amt.Secret) (*Bundle, error) {
	total := 0
	for _, f := range files {
		if total += len(f.Data); len(f.Data) > MaxFile || total > MaxBundle {
			return nil, reason.Because(reason.CertInputInvalid, "%s is too large: at most %d MB a file and %d MB together are read", clip(f.Name), MaxFile>>20, MaxBundle>>20)
		}
	}
	if len(files) == 0 {
		return nil, reason.Because(reason.CertInputInvalid, "no file was given")
	}
	if len(passwords) == 0 {
		passwords = []amt.Secret{amt.NewSecret("")}
	}
	b := &bundler{passwords: passwords}
	for _, f := range files {
		before := len(b.certs) + len(b.keys)
		if err := b.file(f); err != nil {
			return nil, inFile(clip(f.Name), err)
		}
		if len(b.certs)+len(b.keys) == before {
			return nil, reason.Because(reason.CertInputInvalid, "%s holds no certificate and no key%s", clip(f.Name), b.because())
		}
	}
	out := &Bundle{Certs: distinct(b.certs)}
	if n := len(b.certs) - len(out.Certs); n > 0 {
		b.ignore("certificates that were given before (%d)", n)
	}
	out.Ignored = b.ignored
	for _, k := range b.keys {
		if !slices.ContainsFunc(out.Keys, func(have crypto.Signer) bool { return samePublicKey(have.Public(), k.Public()) }) {
			out.Keys = append(out.Keys, k)
		}
	}
	return out, nil
}

type bundler struct {
	passwords []amt.Secret
	certs     []*x509.Certificate
	keys      []crypto.Signer
	ignored   []string
}

func (b *bundler) because() string {
	if len(b.ignored) == 0 {
		return ""
	}
	return ": " + strings.Join(b.ignored[max(0, len(b.ignored)-3):], ", ")
}

func (b *bundler) ignore(format string, args ...any) {
	if len(b.ignored) < 100 {
		b.ignored = append(b.ignored, fmt.Sprintf(format, args...))
	}
}

func (b *bundler) file(f File) error {
	data := plainText(f.Data)
	switch {
	case len(data) == 0:
		return reason.Because(reason.CertInputInvalid, "the file is empty")
	case bytes.HasPrefix(data, []byte("PK\x03\x04")) || bytes.HasPrefix(data, []byte("PK\x05\x06")):
		return b.zip(data)
	}
	return b.plain(data)
}

// plain reads everything but zip.
func (b *bundler) plain(data []byte) error {
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		return b.pem(data)
	}
	if data[0] != 0x30 {
		if der, ok := bareBase64(data); ok {
			return b.der(der)
		}
		return reason.Because(reason.CertInputInvalid, "this is not PEM, DER, PKCS#7, PFX or zip")
	}
	return b.der(data)
}

func (b *bundler) pem(data []byte) error {
	found := 0
	for n := 1; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		found++
		if err := b.block(block); err != nil {
			return reasoned(err, "PEM block %d (%s)", n, clip(block.Type))
		}
		if found > maxCerts {
			return reason.Because(reason.CertInputInvalid, "more than %d PEM blocks", maxCerts)
		}
	}
	if found == 0 {
		return reason.Because(reason.CertInputInvalid, "the PEM text is damaged: a BEGIN line without a block that can be read")
	}
	return nil
}

func (b *bundler) block(block *pem.Block) error {
	switch block.Type {
	case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			// TRUSTED CERTIFICATE carries openssl's notes after the certificate;
			// some CAs label a PKCS#7 as CERTIFICATE.
			if certs, err7 := parsePKCS7(block.Bytes); err7 == nil {
				b.certs = append(b.certs, certs...)
				return nil
			}
			return reason.Because(reason.CertInputInvalid, "the certificate cannot be read: %w", err)
		}
		b.certs = append(b.certs, c)
	case "PKCS7", "CMS":
		return b.pkcs7(block.Bytes)
	case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
		if block.Headers["DEK-Info"] != "" {
			return reason.Because(reason.CertInputInvalid, "the private key is encrypted PEM: pack key and certificate as PFX, openssl pkcs12 -export does it")
		}
		key, ok := parseKey(block.Bytes)
		if !ok {
			return reason.Because(reason.CertInputInvalid, "the private key cannot be read")
		}
		b.keys = append(b.keys, key)
	case "ENCRYPTED PRIVATE KEY":
		return reason.Because(reason.CertInputInvalid, "the private key is encrypted PEM: pack key and certificate as PFX, openssl pkcs12 -export does it")
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
		b.ignore("a certificate request, which is not yet a certificate")
	default:
		b.ignore("a PEM block %q", clip(block.Type))
	}
	return nil
}

// beginsAsPFX tells a PFX whose end is missing or damaged by its first bytes:
// SEQUENCE, INTEGER 3 (the version, RFC 7292 4), SEQUENCE.
func beginsAsPFX(data []byte) bool {
	if len(data) < 2 || data[0] != 0x30 {
		return false
	}
	at := 2
	if data[1] > 0x80 {
		at += int(data[1] & 0x7f)
	}
	return len(data) >= at+4 && bytes.Equal(data[at:at+4], []byte{0x02, 0x01, 0x03, 0x30})
}

func (b *bundler) der(data []byte) error {
	if c, err := x509.ParseCertificate(data); err == nil {
		b.certs = append(b.certs, c)
		return nil
	}
	if certs, err := x509.ParseCertificates(data); err == nil && len(certs) > 0 {
		b.certs = append(b.certs, certs...)
		return nil
	}
	switch err := b.pkcs7(data); {
	case err == nil:
		return nil
	case !errors.Is(err, errNotPKCS7):
		return err
	}
	if key, ok := parseKey(data); ok {
		b.keys = append(b.keys, key)
		return nil
	}
	if _, err := x509.ParseCertificateRequest(data); err == nil {
		b.ignore("a certificate request, which is not yet a certificate")
		return nil
	}
	if _, err := outlinePFX(data); err != nil {
		if beginsAsPFX(data) {
			return reason.Because(reason.PFXCorrupt, "the PFX is damaged or was cut short: export or copy it again (%w)", err)
		}
		// A certificate that is nearly right deserves the parser's own words.
		_, certErr := x509.ParseCertificate(data)
		if certErr == nil {
			certErr = err
		}
		return reason.Because(reason.CertInputInvalid, "this is no certificate, PKCS#7, key or PFX that can be read: %w", certErr)
	}
	return b.pfx(data)
}

func (b *bundler) pkcs7(data []byte) error {
	certs, err := parsePKCS7(data)
	switch {
	case errors.Is(err, errNotPKCS7):
		return &reason.Error{Code: reason.CertInputInvalid, Err: err}
	case err != nil:
		return &reason.Error{Code: reason.CertInputInvalid, Err: err}
	case len(certs) == 0:
		return reason.Because(reason.CertInputInvalid, "the PKCS#7 file holds no certificates")
	}
	b.certs = append(b.certs, certs...)
	return nil
}

func (b *bundler) pfx(data []byte) error {
	var last error
	for _, p := range b.passwords {
		key, certs, err := openPFX(data, p)
		if err == nil {
			b.keys = append(b.keys, key)
			b.certs = append(b.certs, certs...)
			return nil
		}
		last = err
		var r *reason.Error
		if errors.As(err, &r) && r.Code != reason.PFXPasswordWrong {
			return err
		}
	}
	return last
}

func parseKey(der []byte) (crypto.Signer, bool) {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		s, ok := k.(crypto.Signer)
		return s, ok
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, true
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, true
	}
	return nil, false
}

// reasoned puts where it happened in front of a reason's sentence.
func reasoned(err error, format string, args ...any) error {
	where := fmt.Sprintf(format, args...)
	var r *reason.Error
	if errors.As(err, &r) {
		return &reason.Error{Code: r.Code, Err: fmt.Errorf("%s: %w", where, err)}
	}
	return fmt.Errorf("%s: %w", where, err)
}

// plainText undoes what editors do to PEM: a byte order mark, UTF-16, blanks in
// front. Binary files pass unchanged.
func plainText(data []byte) []byte {
	switch {
	case bytes.HasPrefix(data, []byte{0xef, 0xbb, 0xbf}):
		data = data[3:]
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}) && len(data)%2 == 0:
		units := make([]uint16, 0, len(data)/2)
		for i := 2; i+1 < len(data); i += 2 {
			units = append(units, uint16(data[i])|uint16(data[i+1])<<8)
		}
		data = []byte(string(utf16.Decode(units)))
	}
	if t := bytes.TrimLeft(data, " \t\r\n"); bytes.HasPrefix(t, []byte("-----BEGIN ")) || len(t) == 0 {
		return t
	}
	return data
}

// bareBase64 reads DER that lost its PEM lines.
func bareBase64(data []byte) ([]byte, bool) {
	text := bytes.Join(bytes.Fields(data), nil)
	der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(der, text)
	return der[:n], err == nil && n > 2 && der[0] == 0x30
}
