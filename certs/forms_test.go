package certs

import (
	"bytes"
	"crypto/hmac"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// TestFormsThatAreRead: one certificate with its key and chain, as programs and
// people left it.
func TestFormsThatAreRead(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Forms", "prov.corp.example.com")
	key, leaf, above := string(certtest.KeyPEM(f.Key)), string(certtest.PEM(f.Cert)), string(certtest.PEM(f.Issuers...))
	all := key + leaf + above
	der := string(f.Cert.Raw)
	pfx := f.PFX(certtest.Modern, "x")
	in64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	lines := func(s, before, after string) string {
		var b strings.Builder
		for l := range strings.Lines(s) {
			b.WriteString(before + strings.TrimSuffix(l, "\n") + after + "\n")
		}
		return b.String()
	}
	wrapped := func(s string) string {
		var b strings.Builder
		for s = in64(s); len(s) > 76; s = s[76:] {
			b.WriteString(s[:76] + "\n")
		}
		return b.String() + s + "\n"
	}
	mail := "From: a@example.com\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"xx\"\n\n--xx\n\nHere it " +
		"is.\n--xx\nContent-Transfer-Encoding: base64\n" +
		"Content-Disposition: attachment; filename=\"a.pfx\"\n\n" + wrapped(string(pfx)) + "--xx--\n"
	vault, err := json.MarshalIndent(map[string]string{"contentType": "application/x-pkcs12", "value": in64(string(pfx))}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	escaped, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"YAML":                    "tls:\n  bundle: |\n" + lines(all, "    ", ""),
		"JSON":                    string(escaped),
		"variables":               "KEY='" + key + "'\nexport CERT=\"" + strings.ReplaceAll(leaf+above, "\n", `\n`) + "\"\n",
		"a secret of Kubernetes":  "data:\n  tls.crt: " + in64(leaf+above) + "\n  tls.key: " + in64(key) + "\n",
		"base64 of PEM":           in64(all),
		"base64 of base64":        in64(in64(string(pfx))),
		"base64 for addresses":    base64.RawURLEncoding.EncodeToString(pfx),
		"a vault's answer":        string(vault),
		"a vault's value":         `"` + in64(string(pfx)) + `"`,
		"a data: address":         "data:application/x-pkcs12;base64," + in64(string(pfx)),
		"a mail":                  mail,
		"a web page":              "<html><body><pre>" + strings.ReplaceAll(all, "\n", "<br>\n") + "</pre></body></html>",
		"a web page's characters": "<p>" + strings.ReplaceAll(strings.ReplaceAll(all, "\n", "&#10;"), "+", "&#43;") + "</p>",
		"rich text":               `{\rtf1\ansi ` + strings.ReplaceAll(all, "\n", "\\par\n") + "}",
		"a program":               lines(all, `"`, `\n" +`),
		"Markdown":                "```pem\n" + all + "```\n",
		"one line":                strings.ReplaceAll(all, "\n", " "),
		"blank lines":             strings.ReplaceAll(all, "\n", "\n\n"),
		"CR CR LF":                strings.ReplaceAll(all, "\n", "\r\r\n"),
		"six dashes":              strings.ReplaceAll(all, "-----", "------"),
		"small letters": strings.NewReplacer("BEGIN CERTIFICATE", "Begin Certificate", "END CERTIFICATE",
			"End Certificate").Replace(all),
		"blanks that do not break": strings.NewReplacer("BEGIN ", "BEGIN\u00a0", "END ", "END\u00a0").Replace(all),
		"UTF-16 after UTF-8":       key + string(inUTF16(leaf)) + above,
		"UTF-8 after UTF-16":       string(inUTF16(leaf)) + above + key,
		"UTF-16 several times":     string(inUTF16(key)) + string(inUTF16(leaf)) + string(inUTF16(above)),
		"a letter of Latin-1":      "Gr\xfc\xdfe\n" + all,
		"DER after PEM":            key + above + der,
		"DER between PEM":          key + der + "\r\n" + above,
		"PEM after DER":            der + "\n" + key + above,
		"a mark before DER":        "\ufeff" + string(pfx),
		"a line end before DER":    "\r\n" + string(pfx),
		"a megabyte of zeros":      string(pfx) + strings.Repeat("\x00", 1<<20),
		"the same twice":           string(pfx) + string(pfx),
		"labels that are wrong": strings.NewReplacer("BEGIN CERTIFICATE", "BEGIN PRIVATE KEY", "END CERTIFICATE",
			"END PRIVATE KEY").Replace(all),
		"no END line at all": strings.NewReplacer("-----END CERTIFICATE-----\n", "", "-----END PRIVATE KEY-----\n",
			"").Replace(all),
		"openssl's words between it": "Bag Attributes\n    localKeyID: 01\nsubject=CN = x\nModulus=" + strings.Repeat("AB", 60) + "\n" +
			all,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := ParseBundle(t.Context(), []File{{"a.txt", []byte(text)}}, secret("x"))
			if err != nil {
				t.Fatal(err)
			}
			p, _, err := Join(t.Context(), b, JoinOptions{Now: now})
			if err != nil || !p.Usable() || !p.Leaf.Equal(f.Cert) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestFormsThatAreNamed: what is none of it is refused in one sentence with the
// file, the place and what to do, and nothing of the import is kept.
func TestFormsThatAreNamed(t *testing.T) {
	t.Parallel()
	l := lab()
	f := l.Plain("Named", "prov.corp.example.com")
	good := File{"good.pem", append(certtest.PEM(f.Chain()...), certtest.KeyPEM(f.Key)...)}
	pfx := f.PFX(certtest.Modern, "x")
	other := l.Plain("Named Too", "other.corp.example.com")
	renewed := func(of certtest.Leaf, key string) File {
		return File{key + ".pem", append(certtest.PEM(of.Cert), certtest.KeyPEM(of.Key)...)}
	}
	bag := func(id asn1.ObjectIdentifier, value []byte) []byte {
		return must(asn1.Marshal([]struct {
			ID    asn1.ObjectIdentifier
			Value asn1.RawValue
		}{{id, tagged(0, value)}}))
	}
	text := func(data []byte) []byte { return []byte(strings.ToValidUTF8(string(data), "\ufffd")) }
	for name, c := range map[string]struct {
		data []byte
		says []string
	}{
		"nothing":                        {nil, []string{"the file is empty"}},
		"white space":                    {[]byte(" \r\n\t"), []string{"the file is empty"}},
		"zeros":                          {make([]byte, 4096), []string{"not PEM, DER"}},
		"a page that asks for a login":   {[]byte("\ufeff\r\n<!-- x --><!DOCTYPE html><html><body>Sign in</body></html>"), []string{"web page", "sign in there"}},
		"the same in UTF-16":             {inUTF16("<html>login</html>"), []string{"web page", "sign in there"}},
		"a mail without attachment":      {[]byte("Received: by x\nFrom: a@example.com\n\nsee below\n"), []string{"e-mail", "attached"}},
		"an error of a web service":      {[]byte(`{"error":"unauthorized"}`), []string{"not PEM"}},
		"a key of PuTTY":                 {[]byte("PuTTY-User-Key-File-3: ssh-rsa\n"), []string{"puttygen"}},
		"a key of Microsoft":             {[]byte("\x1e\xf1\xb5\xb0\x00\x00"), []string{"openssl rsa -inform PVK"}},
		"a store of Windows":             {[]byte("\x00\x00\x00\x00CERT\x20"), []string{"export the certificate with its key as PFX"}},
		"a keystore of Bouncy Castle":    {[]byte("\x00\x00\x00\x02\x00\x00\x00\x14salt"), []string{"-srcstoretype BKS"}},
		"a database of NSS":              {[]byte("SQLite format 3\x00"), []string{"pk12util -o"}},
		"a tar archive":                  {append(bytes.Repeat([]byte("a"), 257), "ustar\x00"...), []string{"unpack it"}},
		"a PFX saved by an editor":       {text(pfx), []string{"took it for text", "binary form"}},
		"a PFX sent by FTP as text":      {bytes.ReplaceAll(bytes.ReplaceAll(pfx, []byte("\r"), nil), []byte("\n"), []byte("\r\n")), []string{"took it for text"}},
		"a PFX in UTF-16":                {inUTF16(string(latin1Text(pfx))), []string{"took this for text"}},
		"a PFX without its end":          {pfx[:len(pfx)-7], []string{fmt.Sprintf("%d of %d bytes", len(pfx)-7, len(pfx)), "copy it again"}},
		"a PFX of something else":        {withSum(t, "x", inPFX(t, inSafe(t, "x", []byte("\x30\x03\x02\x01\x05")))), []string{"the password of the PFX is right", "part 1", "export or copy it again"}},
		"a PFX that holds a damaged key": {inPFX(t, inSafe(t, "x", bag(oidKeyBag, []byte("\x30\x03\x02\x01\x00")))), []string{"the private key in the PFX", "cannot be read"}},
		"a PFX that holds a bad bag":     {withSum(t, "x", inPFX(t, inSafe(t, "x", bag(oidCertBag, []byte("\x04\x00"))))), []string{"the password of the PFX is right", "part 1, bag 1"}},
		"a zip in a zip":                 {zipOf(t, zipped{"inner.zip", zipOf(t, zipped{"a.pem", good.Data})}), []string{"inner.zip in the zip file", "unpack it"}},
		"a zip that was cut":             {zipOf(t, zipped{"a.pem", good.Data})[:300], []string{"the zip file is damaged", "download it again"}},
		"bytes behind a certificate":     {append(bytes.Clone(f.Cert.Raw), "hello"...), []string{"5 bytes that are no certificate"}},
		"a block of another's base64":    {bytes.Replace(certtest.PEM(f.Chain()...), []byte("\nMII"), []byte("\n?II"), 1), []string{"PEM block 1 (CERTIFICATE, line 1)", "'?' is no base64"}},
		"scrypt that wants a gigabyte":   {lockedWith(t, 1<<20, 8), []string{"scrypt with N 1048576", "64 MB", "openssl pkcs8"}},
		"a key of a kind that signs not": {[]byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIHBgcmlPZ4jZFkz5yzUFQFbo5sS9dVhaO2V0gjyFUaRb\n-----END PRIVATE KEY-----\n"), []string{"line 1", "AMT wants RSA"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := ParseBundle(t.Context(), []File{good, {"bad.bin", c.data}}, secret("x"))
			if b != nil || codeOf(err) == "" || !strings.HasPrefix(err.Error(), "bad.bin: ") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v", err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("want %q in %q", s, err)
				}
			}
		})
	}
	t.Run("two keys with two certificates each", func(t *testing.T) {
		t.Parallel()
		b, err := ParseBundle(t.Context(), []File{renewed(f, "first"), renewed(other, "second"),
			{"chain.pem", certtest.PEM(append(f.Issuers, other.Issuers...)...)}})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = Join(t.Context(), b, JoinOptions{Now: now})
		if codeOf(err) != reason.CertAmbiguous || !strings.Contains(err.Error(), "prov.corp.example.com") ||
			!strings.Contains(err.Error(), "first.pem, line 1") || !strings.Contains(err.Error(), "second.pem, line 1") ||
			!strings.Contains(err.Error(), "import one at a time") {
			t.Errorf("%v", err)
		}
	})
}

// withSum puts the check sum of a password to a PFX that has none.
func withSum(t *testing.T, password string, pfx []byte) []byte {
	t.Helper()
	var outer struct {
		Version  int
		AuthSafe contentInfo
	}
	if _, err := asn1.Unmarshal(pfx, &outer); err != nil {
		t.Fatal(err)
	}
	var content []byte
	if _, err := asn1.Unmarshal(outer.AuthSafe.Content.Bytes, &content); err != nil {
		t.Fatal(err)
	}
	alg := algorithm{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}}
	u, newHash, err := macKey(alg, []byte("salt"), 10)
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := u.derive(t.Context(), newBudget(), spellings(secret(password), true)[0])
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(newHash, key)
	mac.Write(content)
	type digest struct {
		Algorithm struct{ ID asn1.ObjectIdentifier }
		Sum       []byte
	}
	type macData struct {
		Digest digest
		Salt   []byte
		Rounds int
	}
	return must(asn1.Marshal(struct {
		Version  int
		AuthSafe contentInfo
		MAC      macData
	}{3, outer.AuthSafe, macData{digest{struct{ ID asn1.ObjectIdentifier }{alg.Algorithm}, mac.Sum(nil)}, []byte("salt"), 10}}))
}

func latin1Text(data []byte) string {
	out := make([]rune, len(data))
	for i, c := range data {
		out[i] = rune(c)
	}
	return string(out)
}

// lockedWith is a key that scrypt locks with these parameters.
func lockedWith(t *testing.T, n, r int) []byte {
	t.Helper()
	type alg struct {
		ID     asn1.ObjectIdentifier
		Params any
	}
	return must(asn1.Marshal(struct {
		Alg  any
		Data []byte
	}{alg{oidPBES2, struct{ KDF, Enc alg }{
		alg{oidScrypt, struct {
			Salt    []byte
			N, R, P int
		}{[]byte("saltsalt"), n, r, 1}},
		alg{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, make([]byte, 16)},
	}}, make([]byte, 32)}))
}
