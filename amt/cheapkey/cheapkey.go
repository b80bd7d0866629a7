// Package cheapkey makes RSA keys for tests, for the demonstration and for
// simulated devices. To make an RSA key costs more than a whole set-up, so each
// key is made of two out of a few primes: n primes make n(n-1)/2 keys. Whoever
// compares two moduli finds a common prime; never use one for anything real.
package cheapkey

import (
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"sync"
)

// mostPrimes bounds the time for making primes; they give 4,560 keys before the
// first comes again.
const mostPrimes = 96

// New gives a key of that length which nobody else in this process has.
func New(bits int) (*rsa.PrivateKey, error) {
	p, q, err := poolOf(bits).pair()
	if err != nil {
		return nil, err
	}
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537}, Primes: []*big.Int{p, q}}
	key.D = new(big.Int).ModInverse(big.NewInt(65537), phi)
	key.Precompute()
	return key, nil
}

var pools sync.Map // *pool, by length of the key

func poolOf(bits int) *pool {
	p, _ := pools.LoadOrStore(bits, &pool{bits: bits})
	return p.(*pool)
}

type pool struct {
	bits int

	mu     sync.Mutex
	primes []*big.Int
	i, j   int // the last pair, i < j
}

func (k *pool) pair() (p, q *big.Int, err error) {
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
			return nil, nil, err
		}
		k.primes = append(k.primes, made.Primes...)
	}
	return k.primes[k.i], k.primes[k.j], nil
}
