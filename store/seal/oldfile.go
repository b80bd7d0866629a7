package seal

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"io"

	"golang.org/x/crypto/argon2"

	"github.com/provisiond/provisiond/amt"
)

// The first format of a file under a passphrase, which this release only reads:
// chunks of AES-256-GCM, with a number in each nonce and a mark in the last
// one. So the reader notices a file that is cut at any byte, a missing chunk
// and two files put together (the STREAM construction, Hoang, Reyhanitabar,
// Rogaway and Vizár, 2015).

// Stretch says how to make the key from a passphrase; it is no secret.
type Stretch struct {
	Salt    []byte `json:"salt"`
	Time    uint32 `json:"time"`
	Memory  uint32 `json:"memory_kib"`
	Threads uint8  `json:"threads"`
	Check   []byte `json:"check"` // opens only with the right passphrase
}

const (
	chunkSize  = 64 << 10
	checkText  = "provisiond passphrase"
	maxMemory  = 1 << 20 // KiB; a stranger's header must not take the machine's memory
	maxTime    = 64
	maxThreads = 64
)

// Open makes the key again, or returns ErrPassphrase.
func (s Stretch) Open(passphrase amt.Secret) (cipher.AEAD, error) {
	if len(s.Salt) < 8 || s.Time == 0 || s.Time > maxTime || s.Memory < 8 || s.Memory > maxMemory || s.Threads == 0 ||
		s.Threads > maxThreads {
		return nil, errors.New("the file's header asks for a cost that no backup has: it was changed")
	}
	a, err := s.aead(passphrase)
	if err != nil {
		return nil, err
	}
	if _, err := a.Open(nil, checkNonce(), s.Check, nil); err != nil {
		return nil, ErrPassphrase
	}
	return a, nil
}

func (s Stretch) aead(passphrase amt.Secret) (cipher.AEAD, error) {
	return aead(argon2.IDKey([]byte(passphrase.Reveal()), s.Salt, s.Time, s.Memory, s.Threads, KeySize))
}

// checkNonce is a nonce that no chunk has.
func checkNonce() []byte {
	return []byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}
}

func chunkNonce(n uint64, last bool) []byte {
	nonce := make([]byte, nonceLen)
	binary.BigEndian.PutUint64(nonce[3:], n)
	if last {
		nonce[nonceLen-1] = 1
	}
	return nonce
}

// OldReader opens the chunks of a file. ErrCut and ErrDamaged say what is
// wrong; the reader returns nothing of a bad chunk.
func OldReader(r io.Reader, a cipher.AEAD, header []byte) io.Reader {
	return &chunkReader{r: r, a: a, header: header}
}

type chunkReader struct {
	r      io.Reader
	a      cipher.AEAD
	header []byte
	ahead  []byte // a chunk read ahead, to know whether another follows
	rest   []byte
	n      uint64
	err    error
}

func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		c.rest, c.err = c.next()
	}
	k := copy(p, c.rest)
	c.rest = c.rest[k:]
	return k, nil
}

func (c *chunkReader) next() ([]byte, error) {
	buf := make([]byte, chunkSize+tagLen+1)
	k := copy(buf, c.ahead)
	more, err := io.ReadFull(c.r, buf[k:])
	k += more
	last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	if err != nil && !last {
		return nil, err
	}
	chunk := buf[:k]
	if !last {
		chunk, c.ahead = buf[:k-1], []byte{buf[k-1]}
	}
	plain, err := c.a.Open(nil, chunkNonce(c.n, last), chunk, c.header)
	if err != nil {
		if last {
			return nil, ErrCut // or somebody changed its last chunk, which is the same to the reader
		}
		return nil, ErrDamaged
	}
	c.n++
	if last {
		return plain, io.EOF
	}
	return plain, nil
}
