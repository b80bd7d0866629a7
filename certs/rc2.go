package certs

import (
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/bits"
)

// rc2 is RFC 2268, decryption only: what Windows encrypted certificates with
// until 2019. It protects nothing and is written nowhere here.
type rc2 struct{ k [64]uint16 }

// rc2Of makes ciphers whose key counts for so many bits; 0: for all it has.
func rc2Of(effective int) func(key []byte) (cipher.Block, error) {
	return func(key []byte) (cipher.Block, error) {
		n := effective
		if n == 0 {
			n = len(key) * 8
		}
		if len(key) == 0 || len(key) > 128 || n < 1 || n > 1024 {
			return nil, errors.New("no key for RC2")
		}
		var l [128]byte
		copy(l[:], key)
		for i := len(key); i < 128; i++ {
			l[i] = rc2Pi[l[i-1]+l[i-len(key)]]
		}
		t8 := (n + 7) / 8
		l[128-t8] = rc2Pi[l[128-t8]&(0xff>>(8*t8-n))]
		for i := 127 - t8; i >= 0; i-- {
			l[i] = rc2Pi[l[i+1]^l[i+t8]]
		}
		c := &rc2{}
		for i := range c.k {
			c.k[i] = binary.LittleEndian.Uint16(l[2*i:])
		}
		return c, nil
	}
}

func (c *rc2) BlockSize() int { return 8 }

func (c *rc2) Encrypt([]byte, []byte) { panic("certs: RC2 is not written") }

func (c *rc2) Decrypt(dst, src []byte) {
	var r [4]uint16
	for i := range r {
		r[i] = binary.LittleEndian.Uint16(src[2*i:])
	}
	j := 63
	mix := func() {
		for i := 3; i >= 0; i-- {
			r[i] = bits.RotateLeft16(r[i], -[4]int{1, 2, 3, 5}[i])
			r[i] -= c.k[j] + (r[(i+3)%4] & r[(i+2)%4]) + (^r[(i+3)%4] & r[(i+1)%4])
			j--
		}
	}
	mash := func() {
		for i := 3; i >= 0; i-- {
			r[i] -= c.k[r[(i+3)%4]&63]
		}
	}
	for round := range 16 {
		if round == 5 || round == 11 {
			mash()
		}
		mix()
	}
	for i := range r {
		binary.LittleEndian.PutUint16(dst[2*i:], r[i])
	}
}

// rc2Pi is the table of RFC 2268 2.
var rc2Pi = func() (t [256]byte) {
	b, err := hex.DecodeString(
		"d978f9c419ddb5ed28e9fd794aa0d89dc67e37832b76538e624c6488448bfba2" +
			"179a59f587b34f1361456d8d09817d32bd8f40eb86b77b0bf09521225c6b4e82" +
			"54d66593ce60b21c7356c014a78cf1dc1275ca1f3bbee4d1423dd430a33cb626" +
			"6fbf0eda4669075727f21d9bbc944303f811c7f690ef3ee706c3d52fc8661ed7" +
			"08e8eade8052eef784aa72ac354d6a2a961ad2715a1549744b9fd05e0418a4ec" +
			"c2e0416e0f51cbcc2491af50a1f47039997c3a8523b8b47afc02365b25559731" +
			"2d5dfa98e38a92ae05df2910676cbac9d300e6cfe19ea82c6316013f58e289a9" +
			"0d38341bab33ffb0bb480c5fb9b1cd2ec5f3db47e5a59c770aa62068fe7fc1ad")
	if err != nil || len(b) != 256 {
		panic("certs: the table of RC2 is damaged")
	}
	copy(t[:], b)
	return t
}()
