package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// open reads one file that has no password. The error names it.
func open(ctx context.Context, f File) (*bundler, error) {
	if err := sized(f); err != nil {
		return nil, err
	}
	b := &bundler{left: budgetOf(ctx), passwords: noPassword(), at: place{file: amt.Clip(f.Name)}}
	if err := b.file(ctx, f.Data); err != nil {
		return nil, inFile(amt.Clip(f.Name), err)
	}
	return b, nil
}

// Authorities reads the certificates of a file, in its order, to be trusted as
// issuers or shown in a handshake. The file may be of any form that an import
// takes and that has no password. Errors are *reason.Error and name the file.
func Authorities(ctx context.Context, f File) ([]*x509.Certificate, error) {
	b, err := open(ctx, f)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for _, c := range b.certs {
		if !slices.ContainsFunc(out, c.what.Equal) {
			out = append(out, c.what)
		}
	}
	if len(out) == 0 {
		return nil, inFile(amt.Clip(f.Name), reason.Because(reason.CertInputInvalid,
			"there is no certificate in it%s; name the file that holds it", b.because()))
	}
	return out, nil
}

// Pair reads what a TLS server shows: its certificate with the chain above it,
// and its key, from two files of any form that an import takes and that has no
// password. Each may hold both. Errors are *reason.Error.
func Pair(ctx context.Context, certificate, key File) (*tls.Certificate, error) {
	above, err := Authorities(ctx, certificate)
	if err != nil {
		return nil, err
	}
	b, err := ParseBundle(ctx, []File{certificate, key})
	var r *reason.Error
	switch {
	case errors.As(err, &r) && r.Code == reason.PFXPasswordWrong:
		return nil, reason.Because(r.Code, "%w: no password can be given here, so take it off: openssl pkey -in FILE -out FILE.open", err)
	case err != nil:
		return nil, err
	case len(b.Keys) == 0:
		return nil, inFile(amt.Clip(key.Name), reason.Because(reason.CertPrivateKeyMissing, "there is no private key in it"))
	}
	for _, leaf := range above {
		for _, k := range b.Keys {
			if samePublicKey(leaf.PublicKey, k.Public()) {
				return &tls.Certificate{Certificate: climbing(leaf, above), PrivateKey: k, Leaf: leaf}, nil
			}
		}
	}
	return nil, inFile(amt.Clip(key.Name), reason.Because(reason.CertKeyMismatch,
		"the private key belongs to none of the certificates of %s: %s", amt.Clip(certificate.Name), namesIn(above)))
}

// climbing is the chain from leaf up, as far as it is here.
func climbing(leaf *x509.Certificate, all []*x509.Certificate) (out [][]byte) {
	for c := leaf; c != nil && len(out) < maxDepth; {
		out = append(out, c.Raw)
		i := slices.IndexFunc(all, func(up *x509.Certificate) bool {
			return bytes.Equal(up.RawSubject, c.RawIssuer) &&
				!slices.ContainsFunc(out, func(have []byte) bool { return bytes.Equal(have, up.Raw) }) &&
				checkSignature(c, up) == signatureGood
		})
		if i < 0 {
			break
		}
		c = all[i]
	}
	return out
}
