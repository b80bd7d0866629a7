package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPasswordFilesMeanWhatIsTyped: a file and standard input are read alike.
func TestPasswordFilesMeanWhatIsTyped(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ data, want string }{
		"a mark":       {"\ufeffCase-1n-hand\r\n", "Case-1n-hand"},
		"UTF-16":       {"\xff\xfeG\x00r\x00\xfc\x00n\x00\r\x00\n\x00", "Grün"},
		"Windows-1252": {"Gr\xfcn\r\n", "Grün"},
		"plain":        {"secret", "secret"},
	} {
		file := filepath.Join(t.TempDir(), "pass")
		if err := os.WriteFile(file, []byte(c.data), 0o600); err != nil {
			t.Fatal(err)
		}
		p := &program{in: strings.NewReader(c.data)}
		got, err := p.passwordsFrom([]string{file, "-"}, "")
		if err != nil || len(got) != 2 || got[0] != c.want || got[1] != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, []byte("sec\x07ret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, "-"} {
		p := &program{in: strings.NewReader("sec\x07ret")}
		if _, err := p.passwordsFrom([]string{name}, ""); err == nil || !strings.Contains(err.Error(), "control character") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUploadsAreReadOrNamed: what is no file to import is one sentence with its
// name, before anybody is asked for a password or a server.
func TestUploadsAreReadOrNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, size int64) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for says, names := range map[string][]string{
		"empty is empty: export or copy it again":                      {file("empty", 0)},
		"is a directory: name the file in it":                          {dir},
		"none: no such file":                                           {filepath.Join(dir, "none")},
		"sparse is too large: 2147483648 bytes, at most 4 MB are":      {file("sparse", 2<<30)},
		"fifth is too large beside the others: at most 16 MB together": {file("first", 4<<20), file("second", 4<<20), file("third", 4<<20), file("fourth", 4<<20), file("fifth", 4<<20)},
	} {
		_, err := uploads(names)
		if status := new(exitError); !errors.As(err, &status) || status.status != exitConfig || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
	}
}

// TestWrapKeySendsThePublicHalf: of whatever file, the server gets a public key in
// PEM; a private one stays where it is.
func TestWrapKeySendsThePublicHalf(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"public.der": public, "private.der": private} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, der, 0o600); err != nil {
			t.Fatal(err)
		}
		h := handoverFlags{wrapTo: file}
		err := h.read(t.Context())
		if block, _ := pem.Decode([]byte(h.WrapTo)); name == "public.der" &&
			(err != nil || block == nil || !bytes.Equal(block.Bytes, public)) {
			t.Errorf("%s: %v, %q", name, err, h.WrapTo)
		}
		if name == "private.der" && (err == nil || h.WrapTo != "" ||
			!strings.Contains(err.Error(), "private.der: this is a private key, which stays with its owner")) {
			t.Errorf("%s: %v, %q", name, err, h.WrapTo)
		}
	}
}
