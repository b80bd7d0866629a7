package sim

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/provisiond/provisiond/amt/cheapkey"
)

// newKey makes a key that no other device has: a server knows a device by its key.
func newKey(bits int) *rsa.PrivateKey {
	key, err := cheapkey.New(bits)
	if err != nil {
		panic(fmt.Sprintf("sim: make an RSA key of %d bits: %v", bits, err))
	}
	return key
}

// ownCert is the device's own certificate, made on first use. mu is held.
func (d *Device) ownCert() (*tls.Certificate, error) {
	if d.own == nil {
		return d.newOwnCert(0)
	}
	return d.own, nil
}

// newOwnCert makes the n-th one.
func (d *Device) newOwnCert(n int) (_ *tls.Certificate, err error) {
	id := uuidNumber(d.cfg.UUID)
	d.own, err = selfSigned(newKey(d.p.KeyBits), int64(id>>1)^int64(n), d.p.WeakSelfSign)
	return d.own, err
}

// selfSigned makes the certificate that firmware makes for itself at the start
// of setup: it proves nothing, and a full unprovision replaces it.
func selfSigned(key *rsa.PrivateKey, serial int64, weak bool) (*tls.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{CommonName: "Intel® AMT self-signed certificate", Organization: []string{"Intel"}},
		NotBefore:             time.Date(2004, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2037, 12, 31, 0, 0, 0, 0, time.UTC),
		BasicConstraintsValid: true,
		IsCA:                  true,
		SignatureAlgorithm:    x509.SHA256WithRSA,
	}
	if weak {
		t.SignatureAlgorithm = x509.SHA1WithRSA
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the device's own certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
