package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

const mostInput = 32 << 20

// file reads a file, or standard input for "-".
func (p *program) file(name string) ([]byte, error) { return p.fileUpTo(name, mostInput, "divide it") }

// fileUpTo refuses a file of more than most bytes; instead says what helps.
func (p *program) fileUpTo(name string, most int64, instead string) ([]byte, error) {
	from := p.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, unusable("%w", err)
		}
		defer f.Close()
		from = f
	}
	text, err := io.ReadAll(io.LimitReader(from, most+1))
	if err != nil {
		return nil, unusable("%w", err)
	}
	if int64(len(text)) > most {
		return nil, unusable("%s is longer than %d MiB: %s", name, most>>20, instead)
	}
	return text, nil
}

// uploads reads files that are no larger than what the server takes.
func uploads(names []string) ([]api.FileBytes, error) {
	var out []api.FileBytes
	total := 0
	for _, name := range names {
		f, err := certs.ReadFile(name)
		if err != nil {
			return nil, unusable("%w", err)
		}
		if total += len(f.Data); total > certs.MaxBundle {
			return nil, unusable("%s is too large beside the others: at most %d MB together are read, so import fewer at a time",
				name, certs.MaxBundle>>20)
		}
		out = append(out, api.FileBytes{Name: filepath.Base(name), Data: f.Data})
	}
	return out, nil
}

// outFile is a file that was not there before; nil writes nowhere.
type outFile struct {
	f    *os.File
	flag string
}

// newFile makes the file before anything is asked for, so that nothing is lost
// to a wrong name or a full disk.
func newFile(flag, name string) (*outFile, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, unusable("%s: %w", flag, err)
	}
	return &outFile{f, flag}, nil
}

// clientAndFile makes the new file of --out, if one is named, and then finds the
// server: without one no file is left behind.
func (p *program) clientAndFile(name string) (*api.Client, *outFile, error) {
	out, err := newFile("--out", name)
	if err != nil {
		return nil, nil, err
	}
	c, err := p.client()
	if err != nil {
		return nil, nil, out.drop(err)
	}
	return c, out, nil
}

// drop takes the file away again and passes err on.
func (o *outFile) drop(err error) error {
	if o != nil {
		_ = o.f.Close()
		_ = os.Remove(o.f.Name())
	}
	return err
}

func (o *outFile) write(data []byte) error {
	if o == nil {
		return nil
	}
	_, err := o.f.Write(data)
	if err2 := o.f.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.flag, err)
	}
	return nil
}
