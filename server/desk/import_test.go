package desk_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
)

// TestRequestOutlivesRestart: a request, a restart, and what the CA sent joins,
// whatever the files are called and in whatever order they come. What the CA
// changed is said.
func TestRequestOutlivesRestart(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		made, err := l.desk.Request(ctx, "token:test", certs.RequestOptions{CommonName: "provisionserver.corp.example.com",
			Names: []string{"provisionserver.branch.example.net"}, Organization: "Example", LegacyOU: true})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(made.OrderText, "2.16.840.1.113741.1.2.3") || len(made.Serves) < 2 ||
			!slices.Contains(made.Serves[0].Suffixes, "corp.example.com") {
			t.Errorf("what to tell the CA: %+v", made)
		}
		l.restart()
		open, err := l.desk.Requests(ctx, false)
		if err != nil || len(open) != 1 || open[0].ID != made.ID {
			t.Fatalf("after a restart: %+v %v", open, err)
		}

		block, _ := pem.Decode([]byte(made.CSR))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		root := l.vendor.Root(certtest.Options{Name: "Vendor Root"})
		middle := root.Intermediate(certtest.Options{Name: "Vendor CA"})
		leaf := middle.Sign(certtest.Options{Name: csr.Subject.CommonName, Names: csr.DNSNames, OU: []string{"IVANTI"}}, csr.PublicKey)
		got := l.imports(desk.ImportOptions{Files: []certs.File{
			{Name: "root.crt", Data: certtest.PEM(root.Cert)}, {Name: "what.ever", Data: leaf.Raw}, {Name: "chain.zip", Data: zipped(map[string][]byte{"My_CA.cer": middle.Cert.Raw})},
		}})
		if got.Report.Request != made.ID || !got.Activated || got.State != desk.Active || !slices.Equal(l.inUse, []string{got.Report.ID}) {
			t.Errorf("%+v, in use %v", got, l.inUse)
		}
		var fields []string
		for _, d := range got.Report.Differences {
			fields = append(fields, d.Field+": "+d.Asked+" -> "+d.Issued)
		}
		if want := "organizational unit: Intel(R) Client Setup Certificate -> IVANTI"; !slices.Contains(fields, want) {
			t.Errorf("differences %v lack %q", fields, want)
		}
		if open, err = l.desk.Requests(ctx, false); err != nil || len(open) != 0 {
			t.Errorf("still pending: %v %v", open, err)
		}

		// Again, and then with a cross-certificate: the same certificate, one more chain, no second backup.
		older := l.vendor.Root(certtest.Options{Name: "Older Root", SHA1: true})
		if alone := l.imports(desk.ImportOptions{Files: []certs.File{{Name: "cross",
			Data: certtest.PEM(older.Cross(root, certtest.Options{}), older.Cert)}}}); alone.Report.ID != got.Report.ID || !alone.Known ||
			len(alone.Report.Chains) != 2 {
			t.Errorf("a cross-certificate alone: %+v", alone)
		}
		old := l.vendor.Root(certtest.Options{Name: "Old Root", SHA1: true})
		again := l.imports(desk.ImportOptions{Files: []certs.File{{Name: "more",
			Data: certtest.PEM(leaf, old.Cross(root, certtest.Options{}), old.Cert)}}})
		if !again.Known || len(again.Report.Chains) != 3 || !again.Passphrase.IsZero() || len(l.backups()) != 1 ||
			again.Report.Request != made.ID {
			t.Errorf("again: %+v, backups %v", again, l.backups())
		}
		l.restart()
		if all, err := l.desk.List(ctx); err != nil || len(all) != 1 || len(all[0].Paths) != 3 || all[0].Note.Request != made.ID {
			t.Errorf("after another restart: %v %v", all, err)
		}
	})
}

// TestRequestRefused: names no public CA issues are refused, with the reason,
// unless they are for a CA of one's own.
func TestRequestRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	for name, says := range map[string]string{"prov.corp.local": "no public CA issues", "my_server.example.com": "underscore",
		"prov": "single label", "": "common name"} {
		if _, err := l.desk.Request(t.Context(), "x", certs.RequestOptions{CommonName: name}); err == nil ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := l.desk.Request(t.Context(), "x", certs.RequestOptions{CommonName: "prov.corp.local", PrivateNames: true}); err != nil {
		t.Error(err)
	}
	if all, err := l.desk.Requests(t.Context(), true); err != nil || len(all) != 1 {
		t.Errorf("%d requests were kept, %v", len(all), err)
	}
}

func openssl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPFXOfOthers: OpenSSL 3, OpenSSL with -legacy and go-pkcs12's legacy
// encoders write what the desk imports, and openssl opens what the desk writes.
func TestPFXOfOthers(t *testing.T) {
	t.Parallel()
	forEachEngine(t, pfxOfOthers)
}

func pfxOfOthers(t *testing.T, l *lab) {
	dir := t.TempDir()
	password := write(t, dir, "password", []byte("sécret"))
	for i, kind := range []string{"openssl 3", "openssl -legacy", "go-pkcs12 LegacyDES", "go-pkcs12 LegacyRC2", "go-pkcs12 Modern2026"} {
		name := "prov" + string(rune('a'+i)) + ".corp.example.com"
		f := l.vendor.Plain("Vendor "+kind, name)
		var data []byte
		switch i {
		case 0, 1:
			args := []string{"pkcs12", "-export", "-inkey", write(t, dir, "key", certtest.KeyPEM(f.Key)), "-in",
				write(t, dir, "leaf", certtest.PEM(f.Cert)),
				"-certfile", write(t, dir, "above", certtest.PEM(f.Issuers...)), "-out", filepath.Join(dir, "out"), "-passout",
				"file:" + password}
			if i == 1 {
				args = append(args, "-legacy")
			}
			openssl(t, args...)
			var err error
			if data, err = os.ReadFile(filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
		default:
			data = f.PFX([]certtest.PFXStyle{certtest.LegacyDES, certtest.LegacyRC2, certtest.Newest}[i-2], "sécret")
		}
		got := l.imports(pfx(data, "sécret"))
		if got.Report.Name != name || len(got.Report.Chains) != 1 {
			t.Errorf("%s: %s with %d chains", kind, got.Report.Name, len(got.Report.Chains))
		}
		// Ours opens there.
		path := filepath.Join(l.dir, "n1", got.Backup.File)
		phrase := write(t, dir, "phrase", []byte(got.Passphrase.Clear.Reveal()))
		if text := openssl(t, "pkcs12", "-in", path, "-nodes", "-passin", "file:"+phrase); !strings.Contains(text, "PRIVATE KEY") ||
			strings.Count(text, "BEGIN CERTIFICATE") != 3 {
			t.Errorf("%s: openssl finds no key and chain in the backup", kind)
		}
		if text := openssl(t, "pkcs12", "-in", path, "-noout", "-info", "-passin", "file:"+phrase); !strings.Contains(text,
			"PBKDF2, AES-256-CBC") {
			t.Errorf("%s: the backup is not AES-256 with PBKDF2:\n%s", kind, text)
		}
	}
}

// TestBackup: written at import and readable by the daemon alone, opened again,
// asked for until somebody confirms, restored into an empty server.
func TestBackup(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		_, o := l.leaf("Vendor", "prov.corp.example.com")
		got := l.imports(o)
		id, phrase := got.Report.ID, got.Passphrase.Clear
		path := filepath.Join(l.dir, "n1", got.Backup.File)
		for name, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", name, info.Mode(), err)
			}
		}
		if has := l.banner("cert_backup_unconfirmed"); !has {
			t.Error("nobody is reminded of the backup")
		}
		if _, _, err := l.desk.VerifyBackup(ctx, id, nil, phrase); err != nil {
			t.Errorf("verify: %v", err)
		}
		typed := strings.ToLower(strings.ReplaceAll(phrase.Reveal(), "-", " "))
		if _, _, err := l.desk.VerifyBackup(ctx, id, nil, amt.NewSecret(typed)); err != nil {
			t.Errorf("verify as a person types it: %v", err)
		}
		if _, _, err := l.desk.VerifyBackup(ctx, id, nil, amt.NewSecret("wrong")); err == nil {
			t.Error("a wrong passphrase opens the backup")
		}
		if _, err := l.desk.ConfirmBackup(ctx, "token:test", id); err != nil {
			t.Fatal(err)
		}
		if l.banner("cert_backup_unconfirmed") {
			t.Error("the reminder stays after confirmation")
		}
		_, data, err := l.desk.ReadBackup(ctx, "token:test", id)
		if err != nil {
			t.Fatal(err)
		}

		fresh := newLab(t, store.SQLite)
		back, err := fresh.desk.RestoreBackup(ctx, "token:test", "backup.p12", data, amt.NewSecret(typed))
		if err != nil || back.Report.ID != id || !back.Activated || len(back.Report.Chains) != 1 {
			t.Errorf("restored elsewhere: %+v %v", back, err)
		}

		// A damaged file is said to be, and another can be written.
		if err := os.WriteFile(path, flip(data, len(data)/2), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.desk.VerifyBackup(ctx, id, nil, phrase); err == nil || !strings.Contains(err.Error(), "differs") {
			t.Errorf("a damaged backup: %v", err)
		}
		if _, _, err := l.desk.VerifyBackup(ctx, id, data, phrase); err != nil {
			t.Errorf("the copy kept elsewhere: %v", err)
		}
		if _, again, err := l.desk.ReadBackup(ctx, "token:test", id); err != nil || !bytes.Equal(again, data) {
			t.Errorf("the database's copy takes the place of a damaged file: %v", err)
		}
		if _, second, err := l.desk.NewBackup(ctx, "token:test", id, desk.Handover{}); err != nil || second.Clear.Equal(phrase) {
			t.Errorf("another backup: %v", err)
		}
		if !l.banner("cert_backup_unconfirmed") {
			t.Error("the new backup is not confirmed yet, and nobody says so")
		}
	})
}

func (l *lab) banner(code string) bool {
	return slices.ContainsFunc(l.desk.Banners(), func(b desk.Banner) bool { return b.Code == code })
}
