package certs

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// tool runs one of the programs that write these files for other people.
func tool(t *testing.T, dir, line string, args ...string) {
	t.Helper()
	words := append(strings.Fields(line), args...)
	bin, err := exec.LookPath(words[0])
	if err != nil {
		t.Fatalf("these tests need %s: deploy/test/needs.sh installs it", words[0])
	}
	cmd := exec.Command(bin, words[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
}

// inUTF16 is a text as PowerShell writes it with >.
func inUTF16(text string) []byte {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return out
}

// TestFilesOfRealWriters: what OpenSSL, GnuTLS, NSS and Java write on this machine
// is imported with the password it was written with.
func TestFilesOfRealWriters(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Real Writers", "prov.corp.example.com")
	dir := t.TempDir()
	write(t, dir, "key.pem", certtest.KeyPEM(f.Key))
	write(t, dir, "leaf.pem", certtest.PEM(f.Cert))
	write(t, dir, "chain.pem", certtest.PEM(f.Chain()...))
	write(t, dir, "above.pem", certtest.PEM(f.Issuers...))
	const pass = "Case-1n-hand"
	check := func(t *testing.T, password string, names ...string) {
		t.Helper()
		var files []File
		for _, n := range names {
			data, err := os.ReadFile(filepath.Join(dir, n))
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, File{n, data})
		}
		b, err := ParseBundle(t.Context(), files, secret(password))
		if err != nil {
			t.Fatal(err)
		}
		p, r, err := Join(t.Context(), b, JoinOptions{Now: now})
		if err != nil || !p.Usable() || !p.Leaf.Equal(f.Cert) || len(p.Paths) != 1 {
			t.Errorf("%v, %v", r, err)
		}
	}
	export := "openssl pkcs12 -export -inkey key.pem -in leaf.pem -certfile above.pem"
	for name, more := range map[string]string{
		"default": "", "legacy": "-legacy", "aes256": "-keypbe AES-256-CBC -certpbe AES-256-CBC -macalg sha512",
		"aes192": "-keypbe AES-192-CBC -certpbe AES-128-CBC", "sha384": "-macalg sha384", "sha3": "-macalg sha3-256",
		"sha224": "-macalg sha224", "3des in pbes2": "-keypbe DES-EDE3-CBC -certpbe DES-EDE3-CBC", "no mac": "-nomac",
		"one round": "-noiter -nomaciter", "many rounds": "-iter 60000",
		"rc4": "-legacy -keypbe PBE-SHA1-RC4-128 -certpbe PBE-SHA1-RC4-128",
		"rc2": "-legacy -keypbe PBE-SHA1-RC2-128 -certpbe PBE-SHA1-RC2-40", "des": "-legacy -keypbe PBE-MD5-DES -certpbe PBE-SHA1-DES",
		"2des": "-keypbe PBE-SHA1-2DES -certpbe PBE-SHA1-3DES", "clear": "-keypbe NONE -certpbe NONE",
	} {
		t.Run("openssl "+name, func(t *testing.T) {
			t.Parallel()
			out := "openssl-" + strings.ReplaceAll(name, " ", "-") + ".p12"
			tool(t, dir, export+" "+more, "-passout", "pass:"+pass, "-out", out)
			check(t, pass, out)
		})
	}
	t.Run("openssl, letters of many code pages", func(t *testing.T) {
		t.Parallel()
		for i, p := range [][2]string{{"Grün", "Grün"}, {"Grün", "Gr\xfcn"}, {"Grün", "Gr\x81n"}, // UTF-8, Windows, the console of Windows
			{"żółw", "\xbf\xf3\xb3w"}, {"пароль", "\xef\xe0\xf0\xee\xeb\xfc"}, {"пароль", "\xaf\xa0\xe0\xae\xab\xec"}} {
			out := fmt.Sprintf("letters-%d.p12", i)
			tool(t, dir, export, "-passout", "pass:"+p[1], "-out", out)
			check(t, p[0], out)
		}
	})
	t.Run("openssl, keys", func(t *testing.T) {
		t.Parallel()
		for name, line := range map[string]string{
			"pbes2": "openssl pkcs8 -topk8 -in key.pem -v2 aes-256-cbc -v2prf hmacWithSHA512",
			"der":   "openssl pkcs8 -topk8 -in key.pem -outform DER", "pbes1": "openssl pkcs8 -topk8 -in key.pem -v1 PBE-SHA1-3DES",
			"scrypt": "openssl pkcs8 -topk8 -in key.pem -scrypt", "dek": "openssl rsa -in key.pem -traditional -aes256",
			"dek3": "openssl rsa -in key.pem -traditional -des3",
		} {
			out := "key-" + name
			tool(t, dir, line, "-passout", "pass:"+pass, "-out", out)
			check(t, pass, out, "chain.pem")
		}
	})
	t.Run("openssl, halves", func(t *testing.T) {
		t.Parallel()
		tool(t, dir, "openssl pkcs12 -export -nokeys -in chain.pem", "-passout", "pass:"+pass, "-out", "certs.p12")
		tool(t, dir, "openssl pkcs12 -export -nocerts -inkey key.pem", "-passout", "pass:"+pass, "-out", "key.p12")
		check(t, pass, "certs.p12", "key.p12")
		check(t, pass, "certs.p12", "key.pem")
		check(t, pass, "chain.pem", "key.p12")
	})
	t.Run("GnuTLS", func(t *testing.T) {
		t.Parallel()
		for i, cipher := range []string{"aes-256", "3des-pkcs12", "arcfour"} {
			out := fmt.Sprintf("gnutls-%d.p12", i)
			tool(t, dir, "certtool --to-p12 --outder --p12-name amt --load-privkey key.pem --load-certificate chain.pem --pkcs-cipher "+
				cipher, "--password", pass, "--outfile", out)
			check(t, pass, out)
		}
		tool(t, dir, "certtool --to-p12 --p12-name amt --load-privkey key.pem --load-certificate chain.pem", "--password", pass,
			"--outfile", "gnutls.pem")
		check(t, pass, "gnutls.pem") // labelled PKCS12
	})
	t.Run("named, not opened", func(t *testing.T) {
		t.Parallel()
		for cipher, name := range map[string]string{"CAMELLIA-256-CBC": "Camellia-256", "ARIA-192-CBC": "ARIA-192",
			"AES-256-OFB": "AES-256-OFB", "BF-CBC": "Blowfish", "SEED-CBC": "SEED"} {
			out := "named-" + cipher
			tool(t, dir, export+" -provider legacy -provider default -keypbe "+cipher+" -certpbe "+cipher, "-passout", "pass:"+pass, "-out",
				out)
			data, err := os.ReadFile(filepath.Join(dir, out))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseBundle(t.Context(), []File{{out, data}}, secret(pass)); codeOf(err) != reason.PFXUnsupportedAlgorithm ||
				!strings.Contains(err.Error(), out) || !strings.Contains(err.Error(), "is "+name+" (") {
				t.Errorf("%s: %v", cipher, err)
			}
		}
	})
	t.Run("NSS", func(t *testing.T) {
		t.Parallel()
		tool(t, dir, export+" -name amt", "-passout", "pass:"+pass, "-out", "for-nss.p12")
		if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
			t.Fatal(err)
		}
		tool(t, dir, "certutil -N --empty-password -d sql:db")
		tool(t, dir, "pk12util -i for-nss.p12 -d sql:db", "-W", pass)
		tool(t, dir, "pk12util -o nss.p12 -n amt -d sql:db", "-W", pass)
		check(t, pass, "nss.p12")
	})
	t.Run("Java", func(t *testing.T) {
		t.Parallel()
		tool(t, dir, export+" -name amt", "-passout", "pass:"+pass, "-out", "for-java.p12")
		tool(t, dir, "keytool -importkeystore -noprompt -srckeystore for-java.p12 -srcstoretype PKCS12 -destkeystore java.p12 "+
			"-deststoretype PKCS12", "-srcstorepass", pass, "-deststorepass", pass)
		check(t, pass, "java.p12")
	})
}

// TestImportsDoNotDependOnWrapping: the same parts in any order, number and
// wrapping are the same certificate.
func TestImportsDoNotDependOnWrapping(t *testing.T) {
	t.Parallel()
	l := lab()
	f := l.Plain("Wrapped", "prov.corp.example.com")
	stranger := l.Plain("Wrapped Stranger", "other.corp.example.com")
	parts := []File{{"leaf", f.Cert.Raw}, {"middle", f.Issuers[0].Raw}, {"root", f.Issuers[1].Raw}, {"key", certtest.KeyPEM(f.Key)},
		{"stranger", stranger.Cert.Raw}}
	answer := func(t *rapid.T, files []File) []string {
		b, err := ParseBundle(t.Context(), files, secret("no"), secret("x"))
		if err != nil {
			t.Fatal(err)
		}
		p, r, err := Join(t.Context(), b, JoinOptions{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return append(append(describe(p), r.Unrelated...), r.LeftAside...)
	}
	text := func(f File) []byte {
		if bytes.HasPrefix(f.Data, []byte("-----")) {
			return bytes.Clone(f.Data)
		}
		return []byte("-----BEGIN CERTIFICATE-----\n" + base64.StdEncoding.EncodeToString(f.Data) + "\n-----END CERTIFICATE-----\n")
	}
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		var files []File
		var joined []byte
		var entries []zipped
		all := slices.Clone(parts)
		for range rapid.IntRange(0, 3).Draw(t, "repeats") {
			all = append(all, rapid.SampledFrom(parts).Draw(t, "repeat"))
		}
		for i, p := range rapid.Permutation(all).Draw(t, "order") {
			data := p.Data
			switch rapid.IntRange(0, 7).Draw(t, "form") {
			case 0:
				data = text(p)
			case 1:
				data = bytes.TrimRight(text(p), "\n")
			case 2:
				data = []byte("\ufeff" + strings.ReplaceAll(string(text(p)), "\n", "\r\n"))
			case 3:
				data = inUTF16(string(text(p)))
			case 4:
				data = []byte("> Dear colleague,\n> " + strings.ReplaceAll(string(text(p)), "\n", "\n> "))
			case 5:
				data = []byte(`{"text": "` + strings.ReplaceAll(string(text(p)), "\n", `\n`) + `"}`)
			case 6:
				data = []byte("    " + strings.ReplaceAll(strings.ReplaceAll(string(text(p)), "\n", "\r"), "\r", "\r    "))
			}
			switch rapid.IntRange(0, 2).Draw(t, "where") {
			case 0:
				joined = append(joined, bytes.TrimRight(text(p), "\n")...)
			case 1:
				entries = append(entries, zipped{fmt.Sprintf("%d", i), data})
			default:
				files = append(files, File{fmt.Sprintf("%d", i), data})
			}
		}
		if len(joined) > 0 {
			files = append(files, File{"joined", joined})
		}
		if len(entries) > 0 {
			files = append(files, File{"a.zip", zipOf(outer, entries...)})
		}
		if rapid.Bool().Draw(t, "and a PFX") {
			files = append(files, File{"a.pfx", f.PFX(certtest.Modern, "x")})
		}
		if d := cmp.Diff(answer(t, parts), answer(t, files)); d != "" {
			t.Fatalf("another answer (-want +got):\n%s", d)
		}
	})
}

// TestPEMThatCannotBeRead: a block that cannot be read says which, and why; it is
// never a missing intermediate.
func TestPEMThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Broken PEM", "prov.corp.example.com")
	whole := string(certtest.PEM(f.Chain()...))
	second := strings.Index(whole[10:], "-----BEGIN") + 10
	line := strings.Count(whole[:second], "\n") + 1
	for name, c := range map[string]struct {
		text string
		says string
	}{
		"cut in the middle":       {whole[:second+200], fmt.Sprintf("PEM block 2 (CERTIFICATE, line %d): it", line)},
		"a letter lost":           {whole[:second+100] + whole[second+101:], fmt.Sprintf("line %d", line)},
		"a stranger among it":     {whole[:second+100] + "ä" + whole[second+100:], "is no base64"},
		"no BEGIN":                {strings.Replace(whole, "-----BEGIN CERTIFICATE-----\n", "", 1), "without its BEGIN line"},
		"nothing behind it":       {"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" + whole, "PEM block 1 (CERTIFICATE, line 1): nothing stands"},
		"a BEGIN without dashes":  {whole + "-----BEGIN CERTIFICATE\nMIIC", "PEM block 4"},
		"a key of OpenSSH":        {"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n" + whole, "ssh-keygen"},
		"an END of another block": {whole[:second+120] + "\n-----END PRIVATE KEY-----\n", "PEM block 2"},
	} {
		_, err := ParseBundle(t.Context(), []File{{"a.pem", []byte(c.text)}})
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "a.pem") {
			t.Errorf("%s: want %q, got %v", name, c.says, err)
		}
	}
	for name, text := range map[string]string{
		"a lost END":         strings.Replace(whole, "-----END CERTIFICATE-----\n", "", 1),
		"the last END lost":  strings.TrimSuffix(strings.TrimSpace(whole), "-----END CERTIFICATE-----") + "\nKind regards\nAnna",
		"four dashes":        strings.ReplaceAll(whole, "-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE----"),
		"dashes of Word":     strings.ReplaceAll(whole, "-----", "—–-"),
		"a sentence with it": "Copy all from -----BEGIN CERTIFICATE----- on:\n" + whole,
		"quoted-printable":   strings.ReplaceAll(strings.ReplaceAll(whole, "=", "=3D"), "M", "M=\n"),
	} {
		b, err := ParseBundle(t.Context(), []File{{"a.pem", []byte(text)}})
		if err != nil || len(b.Certs) != 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
