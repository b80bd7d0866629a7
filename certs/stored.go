package certs

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// What a store keeps: chains as PEM, keys as PKCS#8 PEM inside an amt.Secret.
// Keys go in and out here, so that nobody else has to look at one.

// KeySecret is a key for sealing: PKCS#8 as PEM.
func KeySecret(key crypto.Signer) (amt.Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return amt.Secret{}, fmt.Errorf("write a private key: %w", err)
	}
	return amt.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), nil
}

func keyFromStore(key amt.Secret) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(key.Reveal()))
	if block == nil {
		return nil, reason.Because(reason.CertPrivateKeyMissing, "the stored private key is no PEM")
	}
	k, ok := parseKey(block.Bytes)
	if !ok {
		return nil, reason.Because(reason.CertPrivateKeyMissing, "the stored private key cannot be read")
	}
	return k, nil
}

// FromStore joins a stored chain, leaf first, and its key.
func FromStore(chain []byte, key amt.Secret, now time.Time) (*Provisioning, error) {
	var all []*x509.Certificate
	for rest := chain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, reason.Because(reason.CertInputInvalid, "the stored chain cannot be read: %w", err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, reason.Because(reason.CertInputInvalid, "the stored chain is empty")
	}
	k, err := keyFromStore(key)
	if err != nil {
		return nil, err
	}
	return New(all[0], k, all[1:], now)
}

// PendingFromStore is a stored request: its PKCS#10 as PEM and its key. A key
// that cannot be read leaves the request without one, so that it is still named.
func PendingFromStore(csr []byte, key amt.Secret, at time.Time) (Pending, error) {
	block, _ := pem.Decode(csr)
	if block == nil {
		return Pending{}, errors.New("the stored PKCS#10 is no PEM")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return Pending{}, fmt.Errorf("the stored PKCS#10 cannot be read: %w", err)
	}
	print, err := KeyFingerprint(req.PublicKey)
	if err != nil {
		return Pending{}, err
	}
	p := Pending{ID: print[:16], DER: block.Bytes, CreatedAt: at}
	if k, err := keyFromStore(key); err == nil {
		p.Key = k
	}
	return p, nil
}

type authorityDocument struct {
	Certificate string `json:"certificate"` // base64 DER
	Key         string `json:"key"`         // base64 PKCS#8
}

// Secret is the authority for sealing; AuthorityFromStore reads it.
func (a *Authority) Secret() (amt.Secret, error) {
	cert, key, err := a.Marshal()
	if err != nil {
		return amt.Secret{}, err
	}
	doc, err := json.Marshal(authorityDocument{base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key)})
	if err != nil {
		return amt.Secret{}, err
	}
	return amt.NewSecret(string(doc)), nil
}

// AuthorityFromStore reads what Secret wrote; an error is a *reason.Error with
// ca_unavailable.
func AuthorityFromStore(sealed amt.Secret) (*Authority, error) {
	var doc authorityDocument
	if json.Unmarshal([]byte(sealed.Reveal()), &doc) != nil {
		return nil, reason.Because(reason.CAUnavailable, "the stored authority cannot be read")
	}
	cert, err1 := base64.StdEncoding.DecodeString(doc.Certificate)
	key, err2 := base64.StdEncoding.DecodeString(doc.Key)
	if errors.Join(err1, err2) != nil {
		return nil, reason.Because(reason.CAUnavailable, "the stored authority cannot be read")
	}
	return LoadAuthority(cert, key)
}

// PassphraseForms are the ways a backup's passphrase may have been typed: as it
// is, in groups of five capitals, and two parts of a split put together.
func PassphraseForms(typed amt.Secret) []amt.Secret {
	out := []amt.Secret{typed}
	if again := groupFives(typed.Reveal()); again != typed.Reveal() {
		out = append(out, amt.NewSecret(again))
	}
	if whole, ok := joinShares(typed.Reveal()); ok {
		out = append(out, amt.NewSecret(whole))
	}
	return out
}

// KeyKind is a public key in words, such as RSA 2048.
func KeyKind(pub crypto.PublicKey) string { return keyKind(pub) }

// ConsoleKey reads what KeySecret wrote of the key with which a server logs in at
// devices; an error is a *reason.Error.
func ConsoleKey(sealed amt.Secret) (*rsa.PrivateKey, error) {
	k, err := keyFromStore(sealed)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*rsa.PrivateKey)
	if !ok {
		return nil, reason.Because(reason.KeyTypeUnsupported, "the stored console key is not RSA")
	}
	return key, nil
}
