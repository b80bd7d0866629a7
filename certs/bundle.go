package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

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
	Certs    []*x509.Certificate // no repeats
	Keys     []crypto.Signer     // no repeats
	Ignored  []string            // parts that are neither, in words
	Findings []Finding           // of the files, not of a certificate

	from map[string]string // where a certificate (its DER) or key (its fingerprint) came from
	left *budget
}

// ParseBundle reads PEM, DER, PKCS#7, PFX and zip files of these, and private
// keys, in any order. Passwords are tried on everything that is locked, in turn.
// The error is a *reason.Error that names the file, or that of ctx; then nothing
// of the bundle is to be used. What all files cost together is bounded (see
// WithBudget), and ends with ctx.
func ParseBundle(ctx context.Context, files []File, passwords ...amt.Secret) (*Bundle, error) {
	return parseBundle(ctx, budgetOf(ctx), files, passwords...)
}

func parseBundle(ctx context.Context, left *budget, files []File, passwords ...amt.Secret) (*Bundle, error) {
	total := 0
	for _, f := range files {
		if err := sized(f); err != nil {
			return nil, err
		}
		if total += len(f.Data); total > MaxBundle {
			return nil, tooLarge(f)
		}
	}
	if len(files) == 0 {
		return nil, reason.Because(reason.CertInputInvalid, "no file was given")
	}
	b := &bundler{left: left}
	for _, p := range append(slices.Clone(passwords), noPassword()...) { // many a file has none
		if !slices.ContainsFunc(b.passwords, p.Equal) {
			b.passwords = append(b.passwords, p)
		}
	}
	for _, f := range files {
		b.at = place{file: amt.Clip(f.Name)}
		if err := b.file(ctx, f.Data); err != nil {
			return nil, inFile(amt.Clip(f.Name), err)
		}
	}
	if len(b.certs)+len(b.keys) == 0 {
		name := ""
		if len(files) == 1 {
			name = amt.Clip(files[0].Name)
		}
		return nil, inFile(name, reason.Because(reason.CertInputInvalid,
			"there is no certificate and no key in it%s; name the file that holds them", b.because()))
	}
	return b.bundle()
}

func noPassword() []amt.Secret { return []amt.Secret{amt.NewSecret("")} }

func sized(f File) error {
	if len(f.Data) > MaxFile {
		return tooLarge(f)
	}
	return nil
}

func tooLarge(f File) error {
	return inFile(amt.Clip(f.Name), reason.Because(reason.CertInputInvalid,
		"the file is too large: at most %d MB a file and %d MB together are read", MaxFile>>20, MaxBundle>>20))
}

func (b *bundler) bundle() (*Bundle, error) {
	out := &Bundle{Findings: b.findings, from: map[string]string{}, left: b.left}
	for _, c := range b.certs {
		out.Certs = append(out.Certs, c.what)
		if out.from[string(c.what.Raw)] == "" {
			out.from[string(c.what.Raw)] = c.from.String()
		}
	}
	out.Certs = distinct(out.Certs)
	if n := len(b.certs) - len(out.Certs); n > 0 {
		b.ignore("certificates that were given before (%d)", n)
	}
	out.Ignored = b.ignored
	for _, k := range b.keys {
		print, err := KeyFingerprint(k.what.Public())
		if err != nil {
			return nil, reason.Because(reason.KeyTypeUnsupported, "%s: the private key is of a kind that no certificate has: %w", k.from,
				err)
		}
		if out.from[print] == "" {
			out.Keys, out.from[print] = append(out.Keys, k.what), k.from.String()
		}
	}
	return out, nil
}

// fromWhere names the file of a key or certificate, with a bracket, or nothing.
func (b *Bundle) fromWhere(id string) string {
	if b.from[id] == "" {
		return ""
	}
	return " (" + b.from[id] + ")"
}

// found is something with the place it was found at.
type found[T any] struct {
	what T
	from place
}

type place struct {
	file string
	line int // in text; 0: the whole file
}

func (p place) String() string {
	if p.line > 0 && p.file != "" {
		return fmt.Sprintf("%s, line %d", p.file, p.line)
	}
	return p.file
}

type bundler struct {
	passwords []amt.Secret
	left      *budget
	at        place // what is being read
	certs     []found[*x509.Certificate]
	keys      []found[crypto.Signer]
	requests  []*x509.CertificateRequest
	public    []crypto.PublicKey // without certificate
	ignored   []string
	findings  []Finding
	depth     int // of base64 within base64
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

func (b *bundler) find(format string, args ...any) {
	if len(b.findings) < 100 {
		b.findings = append(b.findings, Finding{Code: reason.CertInputInvalid, Severity: SeverityInfo,
			Detail: fmt.Sprintf(format, args...)})
	}
}

func (b *bundler) where() string {
	if b.at.file == "" {
		return ""
	}
	return b.at.file + ": "
}

// A strangerError says that a file is nothing of ours at all.
type strangerError string

func (e strangerError) Error() string { return string(e) }

func stranger(says string) error {
	return &reason.Error{Code: reason.CertInputInvalid, Err: strangerError(says)}
}

// strangers are files that people mistake for what they want, by how they begin.
var strangers = []struct{ magic, says string }{
	{"\xfe\xed\xfe\xed", "this is a Java keystore (JKS). Turn it into a PFX and import that: keytool -importkeystore -srckeystore FILE -destkeystore amt.p12 -deststoretype PKCS12"},
	{"\xce\xce\xce\xce", "this is a Java keystore (JCEKS). Turn it into a PFX and import that: keytool -importkeystore -srckeystore FILE -srcstoretype JCEKS -destkeystore amt.p12 -deststoretype PKCS12"},
	{"\x00\x00\x00\x01\x00\x00\x00\x14", "this is a keystore of Bouncy Castle (BKS). Turn it into a PFX and import that: keytool -importkeystore -srckeystore FILE -srcstoretype BKS -destkeystore amt.p12 -deststoretype PKCS12, with Bouncy Castle's provider"},
	{"\x00\x00\x00\x02\x00\x00\x00\x14", "this is a keystore of Bouncy Castle (BKS). Turn it into a PFX and import that: keytool -importkeystore -srckeystore FILE -srcstoretype BKS -destkeystore amt.p12 -deststoretype PKCS12, with Bouncy Castle's provider"},
	{"\x1e\xf1\xb5\xb0", "this is a private key of Microsoft's old tools (PVK). Turn it into PEM and import that: openssl rsa -inform PVK -in FILE -out key.pem"},
	{"\x00\x00\x00\x00CERT", "this is a certificate store of Windows (SST). Open it there and export the certificate with its key as PFX"},
	{"SQLite format 3", "this is a database of NSS, perhaps (cert9.db, key4.db). Export from it and import that: pk12util -o amt.p12 -n NAME -d FOLDER"},
	{"PuTTY-User-Key-File", "this is a key of PuTTY. Turn it into PEM and import that: puttygen FILE -O private-openssh -o key, ssh-keygen -p -m PKCS8 -f key"},
	{"ssh-", "this is a public key of SSH, not a certificate: ask for the certificate's file"},
	{"\x89PNG", "this is a picture, not a certificate: ask for the certificate's file"},
	{"\xff\xd8\xff", "this is a picture, not a certificate: ask for the certificate's file"},
	{"7z\xbc\xaf", "this is a 7z archive: unpack it and import what is in it"},
	{"Rar!", "this is a rar archive: unpack it and import what is in it"},
	{"\x1f\x8b", "this is a gzip archive: unpack it and import what is in it"},
	{"BZh", "this is a bzip2 archive: unpack it and import what is in it"},
	{"\xfd7zXZ", "this is an xz archive: unpack it and import what is in it"},
	{"%PDF", "this is a PDF document, not a certificate: ask for the certificate's file"},
	{"\xd0\xcf\x11\xe0", "this is an Office document or an Outlook message (.msg): save what is attached to it and import that"},
}

// file reads one file, or what a zip file holds as one.
func (b *bundler) file(ctx context.Context, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return reason.Because(reason.CertInputInvalid, "the file is empty")
	}
	if bytes.HasPrefix(data, []byte("PK\x03\x04")) || bytes.HasPrefix(data, []byte("PK\x05\x06")) {
		return b.zip(ctx, data)
	}
	for _, s := range strangers {
		if bytes.HasPrefix(data, []byte(s.magic)) {
			return stranger(s.says)
		}
	}
	if der := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\ufeff")), blanks); isBinary(der) {
		return b.values(ctx, der, "")
	}
	if len(data) > 262 && bytes.Equal(data[257:262], []byte("ustar")) {
		return stranger("this is a tar archive: unpack it and import what is in it")
	}
	return b.text(ctx, data)
}

// blanks before and behind a value mean nothing: white space, Ctrl-Z and zeros.
const blanks = " \t\r\n\f\v\x00\x1a"

// isBinary tells DER from text that begins with a "0": its length, and what
// follows it, is no printable text for long.
func isBinary(data []byte) bool {
	return len(data) > 1 && data[0] == 0x30 && bytes.ContainsFunc(data[1:min(len(data), 16)], func(r rune) bool {
		return r < ' ' && !unicode.IsSpace(r) || r == utf8.RuneError
	})
}

// values reads one DER or BER value and those that follow it. White space,
// Ctrl-Z and zeros behind a value mean nothing. label is that of the PEM block.
func (b *bundler) values(ctx context.Context, data []byte, label string) error {
	last := kindUnknown
	for n := 0; ; n++ {
		if n > 0 {
			data = bytes.TrimLeft(data, blanks)
		}
		switch {
		case len(data) == 0:
			return nil
		case n > maxCerts:
			return reason.Because(reason.CertInputInvalid, "more than %d values one after the other", maxCerts)
		case n > 0 && data[0] != 0x30 && marker.Match(data):
			return b.text(ctx, data) // PEM that somebody joined to DER
		case n > 0 && data[0] != 0x30:
			return reason.Because(reason.CertInputInvalid,
				"%d bytes that are no certificate follow the end of what was read: export or copy the file again", len(data))
		}
		der, rest, err := berValue(nil, data, 0)
		if err != nil {
			return unreadable(data, err)
		}
		raw := data[:len(data)-len(rest)]
		kind, parts := kindOf(der)
		if kind == kindUnknown && last == kindCertificate && isTrustNote(parts) {
			data = rest // OpenSSL's notes behind a TRUSTED CERTIFICATE
			continue
		}
		if err := b.value(ctx, kind, raw, der); err != nil {
			return err
		}
		data, last = rest, kind
	}
}

// unreadable says why bytes are no DER value: most often they are too few.
func unreadable(data []byte, err error) error {
	code, what := reason.CertInputInvalid, "it"
	if beginsAsPFX(data) {
		code, what = reason.PFXCorrupt, "the PFX"
	}
	if tookForText(data) {
		return reason.Because(code, "%s went through a program that took it for text%s", what, asBinary)
	}
	if _, _, rest, err := berTag(data); err == nil {
		if length, indefinite, body, err := berLength(rest); err == nil && !indefinite && length > len(body) {
			return reason.Because(code, "%s was cut short: %d of %d bytes are here. Export or copy it again", what, len(data),
				len(data)-len(body)+length)
		}
	}
	return reason.Because(code, "%s is damaged or was cut short: export or copy it again (%w)", what, err)
}

const asBinary = ", such as an editor or FTP in ASCII mode, which changed its bytes: copy it again in binary form"

// tookForText recognises what becomes of binary data that is copied as text: line
// ends of one kind alone, no byte above 127, or nothing but UTF-8.
func tookForText(data []byte) bool {
	above := bytes.ContainsFunc(data, func(r rune) bool { return r > 0x7f })
	ends, pairs := bytes.Count(data, []byte("\n")), bytes.Count(data, []byte("\r\n"))
	switch {
	case len(data) < 200:
		return false
	case !above, utf8.Valid(data):
		return true
	}
	return ends == pairs && pairs > 3 || len(data) > 3000 && bytes.Count(data, []byte("\r")) == 0
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

// value reads one value: raw as it stands in the file, der with definite lengths.
func (b *bundler) value(ctx context.Context, kind kind, raw, der []byte) error {
	switch kind {
	case kindCertificate:
		return b.certificate(raw, "the certificate")
	case kindCertificates:
		for _, one := range children(der) {
			if err := b.certificate(one.FullBytes, "a certificate of the list"); err != nil {
				return err
			}
		}
		return nil
	case kindPKCS7:
		certs, err := parsePKCS7(der)
		if err != nil {
			return reason.Because(reason.CertInputInvalid, "%w", err)
		}
		if len(certs) == 0 {
			return reason.Because(reason.CertInputInvalid, "the PKCS#7 file holds no certificates")
		}
		for _, c := range certs {
			if err := b.take(c); err != nil {
				return err
			}
		}
		return nil
	case kindPFX:
		return b.pfx(ctx, der)
	case kindKey:
		return b.key(der, "the private key")
	case kindLockedKey:
		var k lockedKey
		if _, err := asn1.Unmarshal(der, &k); err != nil {
			return reason.Because(reason.CertInputInvalid, "the encrypted private key cannot be read: %w", err)
		}
		plain, err := decrypt(ctx, b.left, k.Algorithm, k.Data, b.passwords, whole)
		switch {
		case errors.Is(err, errLocked):
			return b.wrongPassword("the encrypted private key", "")
		case err != nil:
			return reasoned(err, "the encrypted private key")
		}
		return b.key(plain, "the private key")
	case kindRequest:
		if r, err := x509.ParseCertificateRequest(der); err == nil {
			b.requests = append(b.requests, r)
		}
		b.ignore("a certificate request, which is not yet a certificate")
		return nil
	case kindCRL:
		b.ignore("a revocation list")
		return nil
	case kindPublicKey:
		if k, err := x509.ParsePKIXPublicKey(der); err == nil {
			b.public = append(b.public, k)
		} else if k, err := x509.ParsePKCS1PublicKey(der); err == nil {
			b.public = append(b.public, k)
		}
		b.ignore("a public key without certificate")
		return nil
	case kindMessage:
		return reason.Because(reason.CertInputInvalid,
			"this is an encrypted or signed message (CMS) of another kind, not a bag of certificates")
	}
	// What is nearly a certificate deserves the parser's own words.
	_, err := x509.ParseCertificate(der)
	return reason.Because(reason.CertInputInvalid, "this is no certificate, PKCS#7, key or PFX that can be read: %w", err)
}

// maxRSABits is what Go's TLS sends at most; a signature of more costs seconds
// to check.
const maxRSABits = 8192

func (b *bundler) certificate(raw []byte, what string) error {
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		if der, err2 := toDER(raw); err2 == nil && !bytes.Equal(der, raw) {
			if c, err2 = x509.ParseCertificate(der); err2 == nil {
				return b.take(c)
			}
		}
		return reason.Because(reason.CertInputInvalid, "%s cannot be read: %w", what, err)
	}
	return b.take(c)
}

func (b *bundler) take(c *x509.Certificate) error {
	if n := rsaBits(c); n > maxRSABits {
		return reason.Because(reason.KeySizeUnsupported, "%s has a key of %d bits; at most %d are read", nameOf(c), n, maxRSABits)
	}
	if len(b.certs) >= maxCerts {
		return reason.Because(reason.CertInputInvalid, "more than %d certificates: import fewer files at a time", maxCerts)
	}
	b.certs = append(b.certs, found[*x509.Certificate]{c, b.at})
	return nil
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
