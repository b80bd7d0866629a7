package seal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"

	"github.com/provisiond/provisiond/amt"
)

// A file under a passphrase is an age file, so that `age -d` opens it without
// this program in a disaster.

// ErrPassphrase means that the file has another passphrase.
var ErrPassphrase = errors.New("the passphrase is not the one this file was made with")

// ErrCut means that the file ends before its last chunk.
var ErrCut = errors.New("the file is cut: its end is missing")

// FileIntro is the begin of every file of NewWriter.
const FileIntro = "age-encryption.org/v1\n"

// MinPassphrase is the least number of characters in a passphrase.
const MinPassphrase = 12

// Making a key from a passphrase costs 2^n units of scrypt's work; each step
// also doubles the memory.
const (
	FileWork    = 17 // 128 MiB
	maxFileWork = 20 // a stranger's file must not take the machine's memory
)

// NewWriter seals what the caller writes; Close writes the last chunk.
func NewWriter(w io.Writer, passphrase amt.Secret, work int) (io.WriteCloser, error) {
	if len(passphrase.Reveal()) < MinPassphrase {
		return nil, fmt.Errorf("the passphrase needs at least %d characters: it is all that protects every password in the file",
			MinPassphrase)
	}
	r, err := age.NewScryptRecipient(passphrase.Reveal())
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(work)
	return age.Encrypt(w, r)
}

// NewReader opens what NewWriter sealed. ErrPassphrase, ErrCut and sentences
// say what is wrong; the reader returns nothing of a bad chunk.
func NewReader(r io.Reader, passphrase amt.Secret) (io.Reader, error) {
	id, err := age.NewScryptIdentity(passphrase.Reveal())
	if err != nil {
		return nil, ErrPassphrase // age cannot take an empty one
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

// A sourceReader remembers its own failure, which age reports in other words.
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

// Carry is the master key in the form that a sealed backup holds. Put it
// nowhere else.
func (k *Keyring) Carry() amt.Secret {
	return amt.NewSecret(base64.StdEncoding.EncodeToString(k.master[:]))
}

// Carried makes a keyring, without data keys, from what Carry returned.
func Carried(s amt.Secret) (*Keyring, error) {
	raw, err := ParseKey([]byte(s.Reveal()))
	if err != nil {
		return nil, err
	}
	return New(raw)
}
