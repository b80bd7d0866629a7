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

// Making an RSA key costs more than a whole setup, and a server knows a device
// by its key. So each device gets a key that no other has, of two out of a few
// primes: n primes make n(n-1)/2 keys. Whoever compares two moduli finds a
// common prime; never make a real device like this.
var keys1024, keys2048 = keyPool{bits: 1024}, keyPool{bits: 2048}

// mostPrimes bounds the time for making primes; they give 4,560 keys before the
// first comes again.
const mostPrimes = 96

type keyPool struct {
	bits int

	mu     sync.Mutex
	primes []*big.Int
	i, j   int // the last pair, i < j
}

// newKey makes a key of 1024 or 2048 bits.
func newKey(bits int) *rsa.PrivateKey {
	if bits == 1024 {
		return keys1024.next()
	}
	return keys2048.next()
}

func (k *keyPool) next() *rsa.PrivateKey {
	p, q := k.pair()
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537}, Primes: []*big.Int{p, q}}
	key.D = new(big.Int).ModInverse(big.NewInt(65537), phi)
	key.Precompute()
	return key
}

func (k *keyPool) pair() (p, q *big.Int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.i++; k.i >= k.j {
		k.i, k.j = 0, k.j+1
	}
	if k.j == mostPrimes {
		k.j = 1
	}
	for len(k.primes) <= k.j {
		made, err := rsa.GenerateKey(rand.Reader, k.bits)
		if err != nil {
			panic(fmt.Sprintf("sim: make an RSA key of %d bits: %v", k.bits, err)) // fails only without entropy
		}
		k.primes = append(k.primes, made.Primes...)
	}
	return k.primes[k.i], k.primes[k.j]
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
