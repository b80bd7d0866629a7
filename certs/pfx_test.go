package certs

import (
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

func TestLoadPFXOfEveryWriter(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Writers", "prov.corp.example.com")
	for name, style := range map[string]certtest.PFXStyle{
		"modern": certtest.Modern, "3des": certtest.LegacyDES, "rc2": certtest.LegacyRC2, "pbmac1": certtest.Newest,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := LoadPFX(t.Context(), f.PFX(style, "pässword"), secret("pässword"), now)
			if err != nil {
				t.Fatal(err)
			}
			if !p.Usable() || len(p.Paths) != 1 || len(p.Paths[0].Certs) != 3 || !p.Paths[0].Root().Equal(f.Issuers[1]) {
				t.Errorf("want one chain of three, got %d paths, findings %v", len(p.Paths), p.Findings)
			}
			if got := p.TLS(p.Paths[0]); len(got.Certificate) != 3 || string(got.Certificate[0]) != string(f.Cert.Raw) ||
				string(got.Certificate[2]) != string(f.Issuers[1].Raw) {
				t.Error("a handshake sends leaf first and root last")
			}
		})
	}
}

func TestLoadPFXOfOpenSSL(t *testing.T) {
	t.Parallel()
	f := lab().Plain("OpenSSL", "prov.corp.example.com")
	dir := t.TempDir()
	write(t, dir, "key.pem", certtest.KeyPEM(f.Key))
	write(t, dir, "leaf.pem", certtest.PEM(f.Cert))
	write(t, dir, "rest.pem", certtest.PEM(f.Issuers[1], f.Issuers[0]))
	for name, more := range map[string][]string{"version 3": nil, "legacy": {"-legacy"}, "no key": {"-nokeys"},
		"no certificate": {"-nocerts"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(dir, strings.ReplaceAll(name, " ", "")+".pfx")
			args := append([]string{"pkcs12", "-export", "-inkey", filepath.Join(dir, "key.pem"), "-in", filepath.Join(dir, "leaf.pem"),
				"-certfile", filepath.Join(dir, "rest.pem"), "-out", out, "-passout", "pass:secret"}, more...)
			openssl(t, args...)
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			p, err := LoadPFX(t.Context(), data, secret("secret"), now)
			if want, ok := map[string]reason.Code{"no key": reason.CertPrivateKeyMissing,
				"no certificate": reason.CertKeyMismatch}[name]; ok {
				if codeOf(err) != want {
					t.Errorf("want %s, got %v", want, err)
				}
				return
			}
			if err != nil || !p.Usable() || len(p.Paths) != 1 {
				t.Errorf("want a usable certificate, got %v, %v", p, err)
			}
			if _, err := LoadPFX(t.Context(), data, secret("Secret"), now); codeOf(err) != reason.PFXPasswordWrong {
				t.Errorf("a wrong password: got %v", err)
			}
		})
	}
}

func TestLoadPFXRefuses(t *testing.T) {
	t.Parallel()
	l := lab()
	f := l.Plain("Refused", "prov.corp.example.com")
	other := l.Plain("Refused", "other.corp.example.com")
	good := f.PFX(certtest.Modern, "secret")
	damaged := append([]byte(nil), good...)
	damaged[len(damaged)/2] ^= 0x40

	for name, c := range map[string]struct {
		data     []byte
		password string
		want     reason.Code
		says     string
	}{
		"wrong password":             {good, "Secret", reason.PFXPasswordWrong, "does not open"},
		"password with newline":      {good, "secret\n", reason.PFXPasswordWrong, ""},
		"no password given":          {good, "", reason.PFXPasswordWrong, "needs a password"},
		"empty":                      {nil, "secret", reason.CertInputInvalid, "empty"},
		"huge":                       {make([]byte, MaxFile+1), "secret", reason.CertInputInvalid, "too large"},
		"cut short":                  {good[:len(good)-20], "secret", reason.PFXCorrupt, ""},
		"a flipped bit":              {damaged, "secret", reason.PFXPasswordWrong, ""}, // the integrity check cannot tell
		"a password in no code page": {good, "🔑", reason.PFXPasswordWrong, "plain letters"},
		"PEM without its key":        {certtest.PEM(f.Cert), "secret", reason.CertPrivateKeyMissing, "not here"},
		"noise":                      {[]byte("GIF89a, certainly not a PFX"), "secret", reason.CertInputInvalid, "not PEM"},
		"bytes behind it":            {append(bytes.Clone(good), "Subject: your certificate"...), "secret", reason.CertInputInvalid, "follow the end"},
		"two leaves with keys":       {certtest.TwoKeys(f, other), "", reason.CertAmbiguous, "one at a time"},
		"somebody else's leaf":       {certtest.PFX(certtest.Modern, "secret", f.Key, other.Chain()...), "secret", reason.CertKeyMismatch, "other.corp.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := LoadPFX(t.Context(), c.data, secret(c.password), now)
			if codeOf(err) != c.want {
				t.Fatalf("want %s, got %s: %v", c.want, codeOf(err), err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("want a sentence with %q, got %q", c.says, err)
			}
			if strings.Contains(strings.ReplaceAll(err.Error(), "password", ""), "secret") {
				t.Errorf("the sentence gives the password away: %q", err)
			}
		})
	}
}

func TestLoadPFXPrefersTheIssuedTwin(t *testing.T) {
	t.Parallel()
	l := lab()
	f := l.Plain("Twin", "prov.corp.example.com")
	standIn := l.Root(certtest.Options{Name: "prov.corp.example.com"}) // same key by name
	p, err := LoadPFX(t.Context(), certtest.PFX(certtest.Modern, "x", f.Key, append([]*x509.Certificate{standIn.Cert}, f.Chain()...)...),
		secret("x"), now)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Leaf.Equal(f.Cert) {
		t.Error("Windows keeps a self-signed stand-in beside the issued certificate; the issued one counts")
	}
}

func TestLoadPFXTakesTheChainFromElsewhere(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Elsewhere", "prov.corp.example.com")
	bare := certtest.PFX(certtest.Modern, "x", f.Key, f.Cert)
	p, err := LoadPFX(t.Context(), bare, secret("x"), now)
	if err != nil || p.Usable() || !has(p, SeverityError, reason.ChainIncomplete) {
		t.Fatalf("without its issuers a leaf is not usable: %v %v", p, err)
	}
	p, err = LoadPFX(t.Context(), bare, secret("x"), now, f.Issuers[1], f.Issuers[0])
	if err != nil || !p.Usable() {
		t.Errorf("with them it is: %v %v", p, err)
	}
}

func TestLoadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := lab().Plain("File", "prov.corp.example.com")
	pfx := write(t, dir, "good.pfx", f.PFX(certtest.Modern, "secret"))
	pass := write(t, dir, "password", []byte("secret\r\n"))
	wrong := write(t, dir, "wrong", []byte("nonsense"))
	empty := write(t, dir, "empty.pfx", nil)
	if p, err := LoadFile(t.Context(), pfx, pass, now); err != nil || !p.Usable() {
		t.Fatalf("a line end after the password does not belong to it: %v", err)
	}
	for name, c := range map[string]struct {
		pfx, pass string
		want      reason.Code
		says      string
	}{
		"directory":           {dir, pass, reason.CertInputInvalid, dir + " is a directory"},
		"empty file":          {empty, pass, reason.CertInputInvalid, empty + " is empty"},
		"no such file":        {filepath.Join(dir, "none.pfx"), pass, reason.CertInputInvalid, "none.pfx"},
		"no such password":    {pfx, filepath.Join(dir, "none"), reason.CertInputInvalid, "none"},
		"wrong password":      {pfx, wrong, reason.PFXPasswordWrong, pfx},
		"another's password":  {pfx, wrong, reason.PFXPasswordWrong, wrong + " was read"},
		"empty password file": {pfx, empty, reason.PFXPasswordWrong, empty + " is empty"},
		"larger than memory":  {sparse(t, dir), pass, reason.CertInputInvalid, "sparse is too large: 2147483648 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := LoadFile(t.Context(), c.pfx, c.pass, now)
			if codeOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want %s and %q, got %s: %v", c.want, c.says, codeOf(err), err)
			}
		})
	}
}

// sparse is a file of 2 GB that takes no room.
func sparse(t *testing.T, dir string) string {
	t.Helper()
	name := write(t, dir, "sparse", nil)
	if err := os.Truncate(name, 2<<30); err != nil {
		t.Fatal(err)
	}
	return name
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openssl(t *testing.T, args ...string) []byte {
	t.Helper()
	bin, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("these tests need the openssl command (apt-get install openssl)")
	}
	out, err := exec.Command(bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}
