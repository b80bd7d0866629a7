package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/typed"
)

// Source says where the master key comes from: exactly one of the fields.
type Source struct {
	File   string // a path; Load makes the file with mode 0600 if Create is set and it is absent
	Create bool

	Env        string   // the name of an environment variable
	Credential string   // the name of a systemd credential (LoadCredential=)
	Command    []string // a program, such as a KMS's client, and its arguments; its output is the key
}

// Load reads the master key: 32 raw bytes, 64 hexadecimal digits or base64.
func Load(ctx context.Context, s Source) ([]byte, error) {
	raw, from, err := s.read(ctx)
	if err != nil {
		return nil, reason.Because(reason.SecretStoreUnavailable, "read the master key from %s: %w", from, err)
	}
	key, err := ParseKey(raw)
	if err != nil {
		return nil, reason.Because(reason.SecretStoreUnavailable, "the master key from %s: %w", from, err)
	}
	return key, nil
}

func (s Source) read(ctx context.Context) (raw []byte, from string, err error) {
	n := 0
	for _, given := range []bool{s.File != "", s.Env != "", s.Credential != "", len(s.Command) > 0} {
		if given {
			n++
		}
	}
	if n != 1 {
		return nil, "its source", errors.New("name exactly one of file, environment variable, systemd credential and command")
	}
	switch {
	case s.Env != "":
		v, ok := os.LookupEnv(s.Env)
		if !ok {
			return nil, "the environment", fmt.Errorf("%s is not set", s.Env)
		}
		return []byte(v), "the environment variable " + s.Env, nil
	case s.Credential != "":
		from = "the systemd credential " + s.Credential
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, from, errors.New("CREDENTIALS_DIRECTORY is not set: the unit needs LoadCredential=" + s.Credential)
		}
		if s.Credential != filepath.Base(s.Credential) {
			return nil, from, errors.New("a credential's name holds no path")
		}
		raw, err = os.ReadFile(filepath.Join(dir, s.Credential))
		return raw, from, err
	case len(s.Command) > 0:
		from = "the command " + s.Command[0]
		cmd := exec.CommandContext(ctx, s.Command[0], s.Command[1:]...)
		var out bytes.Buffer
		cmd.Stdout = &out // drop stderr: it might show the key
		err = cmd.Run()
		return out.Bytes(), from, err
	}
	from = "the file " + s.File
	raw, err = os.ReadFile(s.File)
	if errors.Is(err, fs.ErrNotExist) && s.Create {
		raw, err = create(s.File)
	}
	if err != nil {
		return nil, from, err
	}
	if fi, err := os.Stat(s.File); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return nil, from, fmt.Errorf("others may read it (mode %04o): chmod 600 %s", fi.Mode().Perm(), s.File)
	}
	return raw, from, nil
}

// create writes a new key so that the file is whole and durable or absent:
// whatever the key seals would be lost with it.
func create(file string) ([]byte, error) {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	line := []byte(base64.StdEncoding.EncodeToString(key) + "\n")
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, ".master-key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(line)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	// Link instead of rename, so that two processes that start together get one
	// key.
	if err := os.Link(f.Name(), file); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return os.ReadFile(file)
		}
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return line, errors.Join(d.Sync(), d.Close())
}

// ParseKey reads a master key in any of its forms. Its error quotes nothing of
// it.
func ParseKey(raw []byte) ([]byte, error) {
	if len(raw) == KeySize {
		return raw, nil
	}
	text, _ := typed.Text(raw) // PowerShell's > writes UTF-16
	s := strings.TrimSpace(string(text))
	if len(s) == KeySize {
		return []byte(s), nil
	}
	if len(s) == 2*KeySize {
		if b, err := hex.DecodeString(s); err == nil {
			return b, nil
		}
	}
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if b, err := e.DecodeString(s); err == nil && len(b) == KeySize {
			return b, nil
		}
	}
	return nil, errors.New("want 32 bytes, as they are, as 64 hexadecimal digits or in base64 (openssl rand -base64 32)")
}
