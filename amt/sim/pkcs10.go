package sim

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
)

type certificationRequest struct {
	Info      asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

// signPKCS10 replaces the empty signature of a request by the key's signature.
func signPKCS10(der []byte, key *rsa.PrivateKey, alg uint32) ([]byte, error) {
	var req certificationRequest
	if rest, err := asn1.Unmarshal(der, &req); err != nil || len(rest) > 0 {
		return nil, errors.New("not a certification request")
	}
	hash := []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384}[alg]
	oid := []asn1.ObjectIdentifier{
		{1, 2, 840, 113549, 1, 1, 5}, {1, 2, 840, 113549, 1, 1, 11}, {1, 2, 840, 113549, 1, 1, 12},
	}[alg]
	w := hash.New()
	w.Write(req.Info.FullBytes)
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, hash, w.Sum(nil))
	if err != nil {
		return nil, err
	}
	req.Algorithm = pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.NullRawValue}
	req.Signature = asn1.BitString{Bytes: sig, BitLength: len(sig) * 8}
	return asn1.Marshal(req)
}
