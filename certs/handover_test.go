package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

func publicPEM(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// TestPassphraseSplit: any two of the parts give the passphrase back, typed as
// people type; one alone or one twice does not, and one part fits every
// passphrase.
func TestPassphraseSplit(t *testing.T) {
	t.Parallel()
	phrase, err := newPassphrase()
	if err != nil {
		t.Fatal(err)
	}
	shares, err := SplitPassphrase(phrase, MaxShares)
	if err != nil || len(shares) != MaxShares {
		t.Fatalf("%d parts, %v", len(shares), err)
	}
	for i := range shares {
		for j := range shares {
			got, ok := joinShares(shares[i].Reveal() + " " + strings.ToLower(shares[j].Reveal()) + "\n")
			if i == j && ok || i != j && got != phrase.Reveal() {
				t.Fatalf("parts %d and %d: %v", i+1, j+1, ok)
			}
		}
		if shares[i].Equal(phrase) || strings.Contains(shares[i].Reveal(), phrase.Reveal()) {
			t.Errorf("part %d is the passphrase", i+1)
		}
	}
	for _, typed := range []string{"", phrase.Reveal(), shares[0].Reveal(), "1:AAAAA 2:AAA", "0:AAAAA 2:AAAAA", "x:AAAAA 2:AAAAA",
		"1:AAAA! 2:AAAAA"} {
		if _, ok := joinShares(typed); ok {
			t.Errorf("%d characters were taken for two parts", len(typed))
		}
	}
	for _, n := range []int{-1, 0, 1, MaxShares + 1} {
		if _, err := SplitPassphrase(phrase, n); codeOf(err) != reason.CertInputInvalid {
			t.Errorf("%d parts: %v", n, err)
		}
	}
	// Every letter of the second part is possible beside a given first part.
	seen := map[byte]bool{}
	for range 2000 {
		s, err := SplitPassphrase(phrase, 2)
		if err != nil {
			t.Fatal(err)
		}
		seen[s[0].Reveal()[2]] = true
	}
	if len(seen) != 32 {
		t.Errorf("a part's first letter takes %d of 32 values", len(seen))
	}
	for a := byte(1); a < 32; a++ {
		if gfMul(a, gfInverse(a)) != 1 {
			t.Errorf("%d has no inverse", a)
		}
	}
}

// TestPassphraseWrapped: openssl opens what was wrapped to its key, and what is
// no fit key is refused.
func TestPassphraseWrapped(t *testing.T) {
	t.Parallel()
	key := lab().RSAKey("operator", 2048)
	w, err := NewWrapper(t.Context(), File{"key", publicPEM(t, &key.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	text, err := w.Wrap(secret("ABCDE-FGHJK"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if got := string(openssl(t, "pkeyutl", "-decrypt", "-inkey", write(t, dir, "key", certtest.KeyPEM(key)), "-pkeyopt",
		"rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-in", write(t, dir, "wrapped", sealed))); got != "ABCDE-FGHJK" {
		t.Errorf("openssl reads %q", got)
	}
	if again, err := NewWrapper(t.Context(), File{"key",
		certtest.PEM(lab().SelfSigned(certtest.Options{Name: "operator", Key: "operator"}).Cert)}); err != nil ||
		again.Fingerprint != w.Fingerprint {
		t.Errorf("a certificate over the same key: %v", err)
	}
	for name, text := range map[string][]byte{"a byte order mark": append([]byte("\xef\xbb\xbf"), publicPEM(t, &key.PublicKey)...),
		"DER":                  must(x509.MarshalPKIXPublicKey(&key.PublicKey)),
		"PKCS#1":               pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.PublicKey)}),
		"UTF-16":               inUTF16(string(publicPEM(t, &key.PublicKey))),
		"in a mail":            []byte("> Dear colleague,\n> " + strings.ReplaceAll(string(publicPEM(t, &key.PublicKey)), "\n", "\n> ")),
		"as it is sent":        must(w.PEM()),
		"a certificate as DER": lab().SelfSigned(certtest.Options{Name: "operator", Key: "operator"}).Cert.Raw} {
		if again, err := NewWrapper(t.Context(), File{"key", text}); err != nil || again.Fingerprint != w.Fingerprint {
			t.Errorf("%s: %v", name, err)
		}
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text []byte
		code reason.Code
	}{
		"nothing": {nil, reason.CertInputInvalid}, "a private key": {certtest.KeyPEM(key), reason.CertInputInvalid}, "damaged": {[]byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"), reason.CertInputInvalid},
		"1024 bits": {publicPEM(t, &small.PublicKey), reason.KeyTooSmall}, "another kind": {publicPEM(t, &curve.PublicKey), reason.KeyTypeUnsupported},
	} {
		if _, err := NewWrapper(t.Context(), File{"key", c.text}); codeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}
