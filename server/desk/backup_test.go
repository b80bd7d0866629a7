package desk_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/desk"
)

// TestPassphraseHandedOver: wrapped to the operator's key or split into parts, it
// is in the answer in no other form, and opens the backup; who, when, where and
// how is noted. What cannot be done is refused before anything is stored.
func TestPassphraseHandedOver(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		operator := l.vendor.RSAKey("operator", 2048)
		public := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&operator.PublicKey)})
		_, o := l.leaf("Vendor", "prov.corp.example.com")

		before := l.state()
		for says, h := range map[string]desk.Handover{
			"this is not PEM": {WrapTo: []byte("hello")}, "not into 1": {Split: 1}, "not into 40": {Split: 40}, "either": {WrapTo: public, Split: 3},
			"stays with its owner": {WrapTo: certtest.KeyPEM(operator)},
		} {
			bad := o
			bad.Handover = h
			_, err := l.desk.Import(ctx, bad)
			var r *reason.Error
			if !errors.As(err, &r) || r.Code != reason.CertInputInvalid || !strings.Contains(r.Error(), says) {
				t.Errorf("%s: %v", says, err)
			}
		}
		if d := cmp.Diff(before, l.state()); d != "" {
			t.Fatalf("a refused wish changed what is stored:\n%s", d)
		}

		o.Handover = desk.Handover{WrapTo: public}
		got := l.imports(o)
		id := got.Report.ID
		if !got.Passphrase.Clear.IsZero() || len(got.Passphrase.Shares) != 0 {
			t.Error("a wrapped passphrase is shown as well")
		}
		sealed, err := base64.StdEncoding.DecodeString(got.Passphrase.Wrapped)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		phrase := openssl(t, "pkeyutl", "-decrypt", "-inkey", write(t, dir, "operator.key", certtest.KeyPEM(operator)), "-pkeyopt",
			"rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256", "-in", write(t, dir, "wrapped", sealed))
		if _, _, err := l.desk.VerifyBackup(ctx, id, nil, amt.NewSecret(phrase)); err != nil {
			t.Errorf("the unwrapped passphrase does not open the backup: %v", err)
		}
		openssl(t, "pkcs12", "-in", filepath.Join(l.dir, "n1", got.Backup.File), "-noout", "-passin",
			"file:"+write(t, dir, "phrase", []byte(phrase)))

		e, second, err := l.desk.NewBackup(ctx, "token:other", id, desk.Handover{Split: 3})
		if err != nil || len(second.Shares) != 3 || !second.Clear.IsZero() || second.Wrapped != "" {
			t.Fatalf("%d parts, %v", len(second.Shares), err)
		}
		b := e.Note.Backup
		if b.By != "token:other" || b.Node != "n1" || b.At.IsZero() || b.Handed != "2 of 3 parts" ||
			!strings.HasPrefix(got.Backup.Handed, "wrapped to ") {
			t.Errorf("what is noted: %+v, and of the first %q", b, got.Backup.Handed)
		}
		for _, two := range [][2]int{{0, 1}, {2, 0}, {1, 2}} {
			typed := second.Shares[two[0]].Reveal() + " " + second.Shares[two[1]].Reveal()
			if _, _, err := l.desk.VerifyBackup(ctx, id, nil, amt.NewSecret(typed)); err != nil {
				t.Errorf("parts %v: %v", two, err)
			}
		}
		var r *reason.Error
		if _, _, err := l.desk.VerifyBackup(ctx, id, nil, second.Shares[0]); !errors.As(err, &r) || r.Code != reason.PFXPasswordWrong {
			t.Errorf("one part alone: %v", err)
		}
		_, data, err := l.desk.ReadBackup(ctx, "token:test", id)
		if err != nil {
			t.Fatal(err)
		}
		fresh := newLab(t, l.engine())
		typed := amt.NewSecret(second.Shares[2].Reveal() + ", " + second.Shares[1].Reveal())
		if back, err := fresh.desk.RestoreBackup(ctx, "token:test", "backup.p12", data, typed); err != nil || back.Report.ID != id {
			t.Errorf("restored elsewhere with two parts: %v", err)
		}
	})
}

// TestPassphraseIsStrong: the server chooses it, 125 random bits; there is no way
// to give a weaker one.
func TestPassphraseIsStrong(t *testing.T) {
	t.Parallel()
	l := newLab(t, "sqlite")
	_, o := l.leaf("Vendor", "prov.corp.example.com")
	got := l.imports(o)
	seen := map[string]bool{got.Passphrase.Clear.Reveal(): true}
	for range 3 {
		_, p, err := l.desk.NewBackup(t.Context(), "token:test", got.Report.ID, desk.Handover{})
		if err != nil {
			t.Fatal(err)
		}
		seen[p.Clear.Reveal()] = true
	}
	for p := range seen {
		if letters := strings.ReplaceAll(p, "-", ""); len(letters) != 25 {
			t.Errorf("%d letters", len(letters))
		}
	}
	if len(seen) != 4 {
		t.Errorf("four backups have %d passphrases", len(seen))
	}
}
