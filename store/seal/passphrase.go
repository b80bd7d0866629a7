package seal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/provisiond/provisiond/amt"
)

// A file under a passphrase is an age file, which `age -d` opens without this
// program on the day when there is no other way.

// ErrPassphrase means that a passphrase is not the one a file was made with.
var ErrPassphrase = errors.New("the passphrase is not the one this file was made with")

// ErrCut means that a file ends before its last chunk.
var ErrCut = errors.New("the file is cut: its end is missing")

// FileIntro is how every file of NewWriter begins.
const FileIntro = "age-encryption.org/v1\n"

// MinPassphrase is the fewest characters that are taken.
const MinPassphrase = 12

// The work of making a key of a passphrase is 2^n of scrypt's; each step doubles the memory too.
const (
	FileWork    = 17 // 128 MiB
	maxFileWork = 20 // a file from a stranger must not take the machine's memory
)

// NewWriter seals what is written to it; Close writes the last chunk.
func NewWriter(w io.Writer, passphrase amt.Secret, work int) (io.WriteCloser, error) {
	if len(passphrase.Reveal()) < MinPassphrase {
		return nil, fmt.Errorf("the passphrase needs at least %d characters: it is all that protects every password in the file", MinPassphrase)
	}
	r, err := age.NewScryptRecipient(passphrase.Reveal())
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(work)
	return age.Encrypt(w, r)
}

// NewReader opens what NewWriter sealed. ErrPassphrase, ErrCut and sentences say
// what is wrong; nothing of a bad chunk is ever handed out.
func NewReader(r io.Reader, passphrase amt.Secret) (io.Reader, error) {
	id, err := age.NewScryptIdentity(passphrase.Reveal())
	if err != nil {
		return nil, ErrPassphrase // it is empty
	}
	id.SetMaxWorkFactor(maxFileWork)
	f := &fileReader{source: sourceReader{r: r}}
	f.plain, err = age.Decrypt(&f.source, id)
	switch {
	case errors.Is(err, age.ErrIncorrectIdentity):
		return nil, ErrPassphrase
	case errors.Is(err, io.EOF):
		return nil, ErrCut
	}
	return f, f.explain(err)
}

type fileReader struct {
	source sourceReader
	plain  io.Reader
}

func (f *fileReader) Read(p []byte) (int, error) {
	n, err := f.plain.Read(p)
	return n, f.explain(err)
}

func (f *fileReader) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return err
	case f.source.err != nil:
		return f.source.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return ErrCut
	}
	return fmt.Errorf("the file is cut or was changed: %w", err)
}

// A sourceReader remembers its own failure, which age tells in other words.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Carry is the master key in a form that goes into a sealed backup, nowhere else.
func (k *Keyring) Carry() amt.Secret {
	return amt.NewSecret(base64.StdEncoding.EncodeToString(k.master[:]))
}

// Carried is a keyring, without data keys, from what Carry gave.
func Carried(s amt.Secret) (*Keyring, error) {
	raw, err := ParseKey([]byte(s.Reveal()))
	if err != nil {
		return nil, err
	}
	return New(raw)
}
