package certs

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// must is for values that the test itself makes.
func must(der []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return der
}

func tagged(tag int, inner []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: true, Bytes: inner}
}

// pbes2Alg is PBES2 with AES-256 and so many rounds.
func pbes2Alg(rounds int) asn1.RawValue {
	type alg struct {
		ID     asn1.ObjectIdentifier
		Params any
	}
	return asn1.RawValue{FullBytes: must(asn1.Marshal(alg{oidPBES2, struct{ KDF, Enc alg }{
		alg{oidPBKDF2, struct {
			Salt   []byte
			Rounds int
			PRF    alg
		}{[]byte("saltsalt"), rounds, alg{asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}, asn1.NullRawValue}}},
		alg{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, make([]byte, 16)},
	}}))}
}

// hiddenRounds is a PFX, of a few hundred bytes, whose encrypted part opens at
// once and holds a key that asks for so many rounds.
func hiddenRounds(t testing.TB, password string, rounds int) []byte {
	t.Helper()
	key := must(asn1.Marshal(struct {
		Alg  asn1.RawValue
		Data []byte
	}{pbes2Alg(rounds), make([]byte, 32)}))
	bags := must(asn1.Marshal([]struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}{{oidShroudedKey, tagged(0, key)}}))
	return inPFX(t, inSafe(t, password, bags))
}

// inSafe encrypts bags with ten rounds.
func inSafe(t testing.TB, password string, bags []byte) []byte {
	t.Helper()
	k, err := pbkdf2(t.Context(), newBudget(), sha256.New, []byte(password), []byte("saltsalt"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		t.Fatal(err)
	}
	pad := 16 - len(bags)%16
	plain := append(bytes.Clone(bags), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(plain, plain)
	type content struct {
		Type asn1.ObjectIdentifier
		Alg  asn1.RawValue
		Data asn1.RawValue
	}
	encrypted := must(asn1.Marshal(struct {
		Version int
		Content content
	}{0, content{oidData, pbes2Alg(10), asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: plain}}}))
	return must(asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}{oidEncryptedData, tagged(0, encrypted)}))
}

func inPFX(t testing.TB, safes ...[]byte) []byte {
	t.Helper()
	list := must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join(safes, nil)}))
	return must(asn1.Marshal(struct {
		Version int
		Safe    struct {
			Type    asn1.ObjectIdentifier
			Content asn1.RawValue
		}
	}{3, struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}{oidData, tagged(0, must(asn1.Marshal(list)))}}))
}

// TestWhatFilesAskForIsBounded: rounds that stand in the open, rounds that only
// decryption reveals, and many honest-looking files in one import all draw from
// one budget, which is asked before a round is done.
func TestWhatFilesAskForIsBounded(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Budget", "prov.corp.example.com")
	var zips []zipped
	for i := range 40 {
		zips = append(zips, zipped{fmt.Sprintf("%02d.pfx", i), f.PFX(certtest.Modern, "x")})
	}
	good := File{"good.pfx", f.PFX(certtest.Modern, "x")}
	for name, c := range map[string]struct {
		files []File
		says  string
	}{
		"within the encrypted part": {[]File{{"a.pfx", hiddenRounds(t, "x", math.MaxInt32)}}, "2147483647 rounds"},
		"with a good one before it": {[]File{good, {"a.pfx", hiddenRounds(t, "x", math.MaxInt32)}}, "a.pfx"},
		"none at all":               {[]File{{"a.pfx", hiddenRounds(t, "x", 0)}}, "0 rounds"},
		"fewer than none":           {[]File{{"a.pfx", hiddenRounds(t, "x", -5)}}, "rounds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := ParseBundle(t.Context(), c.files, secret("x"))
			if b != nil || codeOf(err) == "" || !reason.Known(codeOf(err)) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("many in a zip", func(t *testing.T) {
		t.Parallel()
		left := &budget{rounds: 50_000, bytes: MaxBundle} // eight of them, or so
		_, err := parseBundle(t.Context(), left, []File{{"many.zip", zipOf(t, zips...)}}, secret("x"))
		if codeOf(err) != reason.PFXUnsupportedAlgorithm || !strings.Contains(err.Error(), "import fewer files") || left.rounds < 0 {
			t.Errorf("%d rounds are left: %v", left.rounds, err)
		}
	})
	t.Run("the asker has gone", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		asked := &countdown{Context: ctx, left: 20, cancel: cancel}
		_, err := ParseBundle(asked, []File{{"a.pfx", hiddenRounds(t, "x", maxRounds/4)}}, secret("x"))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("want an end in the middle, got %v", err)
		}
	})
}

// A countdown ends its context after being asked so many times.
type countdown struct {
	context.Context
	left   int
	cancel func()
}

func (c *countdown) Err() error {
	if c.left--; c.left == 0 {
		c.cancel()
	}
	return c.Context.Err()
}

// TestOneBudgetForAConfiguration: files that are read one after the other draw
// from one budget, if their reader says that they belong together.
func TestOneBudgetForAConfiguration(t *testing.T) {
	t.Parallel()
	costly := File{"a.pfx", hiddenRounds(t, "", 4000)}
	together := context.WithValue(t.Context(), budgetKey{}, &budget{rounds: 18_000, bytes: MaxBundle})
	for i, want := range []bool{true, true, false} {
		_, err := Authorities(together, costly)
		_, err2 := Authorities(t.Context(), costly)
		within := func(err error) bool { return !strings.Contains(err.Error(), "one import may cost") }
		if err == nil || err2 == nil || within(err) != want || !within(err2) {
			t.Errorf("file %d: together %v, alone %v", i+1, err, err2)
		}
	}
}

// TestOpenedWithoutAWriter: what no program on this machine writes is opened as its
// standard says: AES-GCM, and the BMPStrings that NSS before 3.47 made in PBES2.
func TestOpenedWithoutAWriter(t *testing.T) {
	t.Parallel()
	f := lab().Plain("No Writer", "prov.corp.example.com")
	bags := must(asn1.Marshal([]struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}{{oidKeyBag, tagged(0, must(x509.MarshalPKCS8PrivateKey(f.Key)))}}))
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte("twelve bytes")
	u := unlocking{open: galois(16), derive: func(context.Context, *budget, []byte) ([]byte, []byte, error) {
		return bytes.Repeat([]byte{7}, 32), nonce, nil
	}}
	sealed := gcm.Seal(nil, nonce, bags, nil)
	if got, err := u.try(t.Context(), newBudget(), sealed, []amt.Secret{secret("x")}, whole); err != nil || !bytes.Equal(got, bags) {
		t.Errorf("AES-GCM: %v", err)
	}
	sealed[0] ^= 1
	if _, err := u.try(t.Context(), newBudget(), sealed, []amt.Secret{secret("x")}, whole); !errors.Is(err, errLocked) {
		t.Errorf("AES-GCM of changed data: %v", err)
	}
	old := inPFX(t, inSafe(t, "\x00x\x00\xfc\x00\x00", bags))
	if b, err := ParseBundle(t.Context(), []File{{"nss.p12", old}}, secret("xü")); err != nil || len(b.Keys) != 1 {
		t.Errorf("a BMPString in PBES2: %v", err)
	}
}
