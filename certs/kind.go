package certs

import (
	"bytes"
	"encoding/asn1"
)

// kind is what a DER value is, by its structure: labels and file names are
// often wrong.
type kind int

const (
	kindUnknown kind = iota
	kindCertificate
	kindCertificates // SEQUENCE OF Certificate
	kindRequest
	kindCRL
	kindPKCS7
	kindMessage
	kindPFX
	kindKey
	kindLockedKey
	kindPublicKey
)

// children are the values inside a constructed one, nil when it is none.
func children(der []byte) (out []asn1.RawValue) {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(der, &outer); err != nil || !outer.IsCompound {
		return nil
	}
	for rest := outer.Bytes; len(rest) > 0; {
		var v asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &v); err != nil {
			return nil
		}
		out = append(out, v)
	}
	return out
}

func is(v asn1.RawValue, tag int) bool { return v.Class == asn1.ClassUniversal && v.Tag == tag }

func isContext(v asn1.RawValue, tag int) bool {
	return v.Class == asn1.ClassContextSpecific && v.Tag == tag
}

// kindOf names a value and gives what is directly inside it.
func kindOf(der []byte) (kind, []asn1.RawValue) {
	c := children(der)
	if len(c) < 2 {
		if len(c) == 1 && signed(children(c[0].FullBytes)) == kindCertificate {
			return kindCertificates, c
		}
		return kindUnknown, c
	}
	switch first, second := c[0], c[1]; {
	case is(first, asn1.TagOID) && isContext(second, 0):
		var id asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(first.FullBytes, &id); err == nil && id.Equal(oidSignedData) {
			return kindPKCS7, c
		}
		return kindMessage, c
	case is(first, asn1.TagInteger) && is(second, asn1.TagSequence):
		switch {
		case len(c) > 2 && is(c[2], asn1.TagOctetString):
			return kindKey, c // PKCS#8
		case bytes.Equal(first.Bytes, []byte{3}):
			return kindPFX, c
		}
	case is(first, asn1.TagInteger) && is(second, asn1.TagInteger) && len(c) >= 6,
		is(first, asn1.TagInteger) && is(second, asn1.TagOctetString):
		return kindKey, c // PKCS#1, DSA, SEC 1
	case is(first, asn1.TagSequence) && is(second, asn1.TagOctetString) && len(c) == 2:
		return kindLockedKey, c
	// PKIX, PKCS#1
	case len(c) == 2 && is(second, asn1.TagBitString) && is(first, asn1.TagSequence), len(c) == 2 && is(second, asn1.TagInteger) &&
		is(first, asn1.TagInteger):
		return kindPublicKey, c
	case signed(c) != kindUnknown:
		return signed(c), c
	case is(first, asn1.TagSequence) && signed(children(first.FullBytes)) == kindCertificate:
		return kindCertificates, c
	}
	return kindUnknown, c
}

// signed tells certificate, request and revocation list apart, which are all
// signed in the same form.
func signed(c []asn1.RawValue) kind {
	if len(c) != 3 || !is(c[0], asn1.TagSequence) || !is(c[1], asn1.TagSequence) || !is(c[2], asn1.TagBitString) {
		return kindUnknown
	}
	body := children(c[0].FullBytes)
	for _, v := range body {
		if is(v, asn1.TagUTCTime) || is(v, asn1.TagGeneralizedTime) {
			return kindCRL
		}
	}
	if len(body) >= 3 && len(body) <= 4 && is(body[0], asn1.TagInteger) && is(body[2], asn1.TagSequence) {
		return kindRequest
	}
	return kindCertificate
}

// isTrustNote recognises what OpenSSL puts behind a TRUSTED CERTIFICATE: trusted
// and rejected uses, an alias, a key id (X509_CERT_AUX).
func isTrustNote(c []asn1.RawValue) bool {
	for _, v := range c {
		switch {
		case is(v, asn1.TagSequence), isContext(v, 0), isContext(v, 1), is(v, asn1.TagUTF8String), is(v, asn1.TagOctetString):
		default:
			return false
		}
	}
	return true
}
