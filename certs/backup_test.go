package certs

import (
	"regexp"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
)

func TestBackup(t *testing.T) {
	t.Parallel()
	shape := lab().GoDaddy("prov.corp.example.com")
	p := newProvisioning(shape.Leaf.Cert, shape.Leaf.Key, shape.All(), now)
	b, err := NewBackup(t.Context(), p, now)
	if err != nil {
		t.Fatal(err)
	}
	phrase := b.Passphrase.Reveal()
	print, err := KeyFingerprint(p.Key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^([A-Z2-9]{5}-){4}[A-Z2-9]{5}$`).MatchString(phrase) {
		t.Errorf("the passphrase is not five groups of five: %d characters", len(phrase))
	}
	for what, typed := range map[string]string{"as shown": phrase,
		"in small letters, without dashes": strings.ToLower(strings.ReplaceAll(phrase, "-", ""))} {
		got, err := VerifyBackup(t.Context(), b.Data, secret(typed), print, now)
		if err != nil || !got.Leaf.Equal(p.Leaf) || len(got.Paths) != 2 {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	if _, err := VerifyBackup(t.Context(), b.Data, secret("AAAAA-BBBBB-CCCCC-DDDDD-EEEEE"), print,
		now); codeOf(err) != reason.PFXPasswordWrong {
		t.Errorf("a wrong passphrase: %v", err)
	}
	if _, err := VerifyBackup(t.Context(), b.Data, b.Passphrase, strings.Repeat("0", 64), now); codeOf(err) != reason.CertKeyMismatch {
		t.Errorf("another fingerprint: %v", err)
	}

	// Somebody else's tool opens it, and says how it is protected.
	path := write(t, t.TempDir(), "backup.p12", b.Data)
	text := string(openssl(t, "pkcs12", "-in", path, "-info", "-nokeys", "-passin", "pass:"+phrase))
	for _, want := range []string{"PBES2, PBKDF2, AES-256-CBC", "hmacWithSHA256", "MAC: sha256", "prov.corp.example.com"} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not say %q:\n%s", want, text)
		}
	}
	key := string(openssl(t, "pkcs12", "-in", path, "-nocerts", "-nodes", "-passin", "pass:"+phrase))
	if !strings.Contains(key, "BEGIN PRIVATE KEY") {
		t.Error("openssl finds no key in it")
	}
}
