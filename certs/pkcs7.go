package certs

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
)

// maxCerts bounds the certificates of one bundle.
const maxCerts = 2000

var oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

// parsePKCS7 takes the certificates out of a PKCS#7 SignedData (.p7b, .p7c),
// in DER, which CAs use as a bag: nothing is signed, and a signature that is there is
// not looked at. RFC 5652 5.1.
func parsePKCS7(der []byte) ([]*x509.Certificate, error) {
	var outer contentInfo
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, fmt.Errorf("PKCS#7: %w", err)
	}
	var body asn1.RawValue
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &body); err != nil {
		return nil, fmt.Errorf("PKCS#7: %w", err)
	}
	var certs []*x509.Certificate
	for rest := body.Bytes; len(rest) > 0; {
		var field asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &field); err != nil {
			return nil, fmt.Errorf("PKCS#7: %w", err)
		}
		// certificates [0] IMPLICIT; whatever else there is does not concern us.
		if field.Class != asn1.ClassContextSpecific || field.Tag != 0 {
			continue
		}
		for inner := field.Bytes; len(inner) > 0; {
			var one asn1.RawValue
			if inner, err = asn1.Unmarshal(inner, &one); err != nil {
				return nil, fmt.Errorf("PKCS#7: certificate %d: %w", len(certs)+1, err)
			}
			if one.Class != asn1.ClassUniversal || one.Tag != asn1.TagSequence {
				continue // an attribute certificate
			}
			c, err := x509.ParseCertificate(one.FullBytes)
			if err != nil {
				return nil, fmt.Errorf("PKCS#7: certificate %d: %w", len(certs)+1, err)
			}
			if certs = append(certs, c); len(certs) > maxCerts {
				return nil, fmt.Errorf("PKCS#7: more than %d certificates", maxCerts)
			}
		}
	}
	return certs, nil
}
