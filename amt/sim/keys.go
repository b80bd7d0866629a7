package sim

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"time"
)

// Making an RSA key costs more than a whole setup, so the devices of one
// process share a few, each made when it is first wanted. Certificates differ
// from device to device all the same.
var (
	premade1024 = keySlots(1024, 2)
	premade2048 = keySlots(2048, 6)
)

func keySlots(bits, n int) []func() *rsa.PrivateKey {
	slots := make([]func() *rsa.PrivateKey, n)
	for i := range slots {
		slots[i] = sync.OnceValue(func() *rsa.PrivateKey {
			k, err := rsa.GenerateKey(rand.Reader, bits)
			if err != nil {
				panic(fmt.Sprintf("sim: make an RSA key of %d bits: %v", bits, err)) // only without entropy
			}
			return k
		})
	}
	return slots
}

// premade returns one of the process's shared keys; n picks which.
func premade(bits int, n uint32) *rsa.PrivateKey {
	slots := premade2048
	if bits == 1024 {
		slots = premade1024
	}
	return slots[int(n)%len(slots)]()
}

// ownCert is the device's own certificate, made when it is first wanted. mu is held.
func (d *Device) ownCert() (*tls.Certificate, error) {
	if d.own == nil {
		return d.newOwnCert(0)
	}
	return d.own, nil
}

// newOwnCert makes the n-th one.
func (d *Device) newOwnCert(n int) (_ *tls.Certificate, err error) {
	id := uuidNumber(d.cfg.UUID)
	d.own, err = selfSigned(premade(d.p.KeyBits, uint32(id)+uint32(n)), int64(id>>1)^int64(n), d.p.WeakSelfSign)
	return d.own, err
}

// selfSigned makes the certificate firmware makes for itself as setup starts:
// it proves nothing, and a full unprovision replaces it.
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
