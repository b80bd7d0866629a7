package seal_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store/seal"
)

var master = bytes.Repeat([]byte{7}, seal.KeySize)

// fataler is *testing.T and *rapid.T.
type fataler interface{ Fatal(...any) }

func ring(t fataler, keys int) *seal.Keyring {
	k, err := seal.New(master)
	if err != nil {
		t.Fatal(err)
	}
	for range keys {
		id, wrapped, err := k.Make()
		if err == nil {
			err = k.Use(id, wrapped)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func TestASecretOpensInItsOwnPlaceOnly(t *testing.T) {
	t.Parallel()
	k := ring(t, 2)
	part := rapid.StringN(0, 12, -1)
	rapid.Check(t, func(r *rapid.T) {
		plain := rapid.String().Draw(r, "secret")
		mine := rapid.SliceOfN(part, 3, 5).Draw(r, "place")
		other := rapid.SliceOfN(part, 3, 5).Draw(r, "other")
		at := func(p []string) seal.Place {
			rest := make([]any, len(p)-2)
			for i, s := range p[2:] {
				rest[i] = s
			}
			return seal.At(p[0], p[1], rest...)
		}
		env, err := k.Seal(amt.NewSecret(plain), at(mine))
		if err != nil {
			r.Fatal(err)
		}
		got, err := k.Open(env, at(mine))
		if err != nil || got.Reveal() != plain {
			r.Fatalf("opened %q: %v", got.Reveal(), err)
		}
		if fmt.Sprint(mine) != fmt.Sprint(other) || len(mine) != len(other) {
			if _, err := k.Open(env, at(other)); !errors.Is(err, seal.ErrDamaged) {
				r.Fatalf("opened at %q as well: %v", other, err)
			}
		}
		bad := bytes.Clone(env)
		bit := rapid.IntRange(0, 8*len(bad)-1).Draw(r, "bit")
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := k.Open(bad, at(mine)); err == nil {
			r.Fatalf("opened with bit %d flipped", bit)
		}
		cut := rapid.IntRange(0, len(env)-1).Draw(r, "cut")
		if _, err := k.Open(env[:cut], at(mine)); err == nil {
			r.Fatalf("opened with %d of %d bytes", cut, len(env))
		}
		if len(plain) > 8 && bytes.Contains(env, []byte(plain)) {
			r.Fatal("the envelope shows the secret")
		}
	})
}

func TestPlacesAreNotAmbiguous(t *testing.T) {
	t.Parallel()
	if bytes.Equal(seal.At("ab", "c", "d"), seal.At("a", "bc", "d")) || bytes.Equal(seal.At("a", "b", "c", ""), seal.At("a", "b", "c")) {
		t.Error("two places read the same")
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	k := ring(t, 1)
	at := seal.At("t", "c", 1)
	old, err := k.Seal(amt.NewSecret("s"), at)
	if err != nil {
		t.Fatal(err)
	}
	if _, changed, err := k.Reseal(old, at); changed || err != nil {
		t.Errorf("moved without a new key: %v", err)
	}
	id, wrapped, err := k.Make()
	if err != nil {
		t.Fatal(err)
	}
	if k.Current() != 1 {
		t.Error("a key that is not stored yet seals already")
	}
	if err := k.Use(id, wrapped); err != nil {
		t.Fatal(err)
	}
	fresh, changed, err := k.Reseal(old, at)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	for _, env := range [][]byte{old, fresh} {
		if s, err := k.Open(env, at); err != nil || s.Reveal() != "s" {
			t.Error(err)
		}
	}
	if n, _ := seal.KeyOf(fresh); n != 2 {
		t.Errorf("sealed under key %d", n)
	}
	one := ring(t, 0)
	if _, err := one.Open(fresh, at); !errors.Is(err, seal.ErrUnknownKey) {
		t.Error(err)
	}
	if _, err := one.Seal(amt.NewSecret("s"), at); !errors.Is(err, seal.ErrNoKey) {
		t.Error(err)
	}
	if _, err := k.MakeAs(9); err != nil {
		t.Error(err)
	}
	if err := one.Use(3, wrapped); err == nil {
		t.Error("a data key was taken for another's number")
	}
}

func TestAnotherMasterKey(t *testing.T) {
	t.Parallel()
	k := ring(t, 0)
	id, wrapped, err := k.Make()
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.New(bytes.Repeat([]byte{8}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	var why *reason.Error
	if err := other.Use(id, wrapped); !errors.As(err, &why) || why.Code != reason.SecretStoreUnavailable {
		t.Errorf("used: %v", err)
	}
	moved, err := k.Rewrap(id, wrapped, other)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Use(id, moved); err != nil {
		t.Error(err)
	}
	a, _ := k.Subkey("a")
	b, _ := k.Subkey("b")
	c, _ := other.Subkey("a")
	if bytes.Equal(a, b) || bytes.Equal(a, c) || len(a) != seal.KeySize {
		t.Error("subkeys are not independent")
	}
}

func TestNothingPrints(t *testing.T) {
	t.Parallel()
	k := ring(t, 1)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, k); got != "keyring ***" {
			t.Errorf("%s prints %q", verb, got)
		}
	}
}

func TestTheMasterKeyInAllItsForms(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"raw": string(master), "hex": hex.EncodeToString(master), "HEX with newline": strings.ToUpper(hex.EncodeToString(master)) + "\n",
		"base64": base64.StdEncoding.EncodeToString(master) + "\n", "url, no padding": base64.RawURLEncoding.EncodeToString(master),
		"as PowerShell writes it": "\xff\xfe" + strings.Join(strings.Split(base64.StdEncoding.EncodeToString(master)+"\r\n", ""), "\x00") +
			"\x00",
	} {
		if got, err := seal.ParseKey([]byte(raw)); err != nil || !bytes.Equal(got, master) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"", "short", strings.Repeat("g", 64), base64.StdEncoding.EncodeToString(master[:31])} {
		if _, err := seal.ParseKey([]byte(bad)); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWhereTheMasterKeyComesFrom(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "master.key")
	ctx := context.Background()
	if _, err := seal.Load(ctx, seal.Source{File: file}); err == nil {
		t.Error("a missing file was made without being asked")
	}
	made, err := seal.Load(ctx, seal.Source{File: file, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := seal.Load(ctx, seal.Source{File: file, Create: true}); err != nil || !bytes.Equal(again, made) {
		t.Error("the key changed", err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi.Mode(), err)
	}
	line, _ := os.ReadFile(file)
	t.Setenv("TEST_MASTER", string(line))
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for name, s := range map[string]seal.Source{
		"environment": {Env: "TEST_MASTER"}, "credential": {Credential: "master.key"}, "command": {Command: []string{"cat", file}},
	} {
		if got, err := seal.Load(ctx, s); err != nil || !bytes.Equal(got, made) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var why *reason.Error
	for name, s := range map[string]seal.Source{
		"nothing": {}, "two": {Env: "TEST_MASTER", File: file}, "unset": {Env: "TEST_NONE"}, "path as credential": {Credential: "../x"},
		"failing command": {Command: []string{"false"}}, "command that says nothing": {Command: []string{"true"}},
	} {
		if _, err := seal.Load(ctx, s); !errors.As(err, &why) || why.Code != reason.SecretStoreUnavailable ||
			strings.Contains(err.Error(), strings.TrimSpace(string(line))) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Load(ctx, seal.Source{File: file}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
}
