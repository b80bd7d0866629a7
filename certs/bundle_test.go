package certs

import (
	"archive/zip"
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

type zipped struct {
	name string
	data []byte
}

func zipOf(t testing.TB, entries ...zipped) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.Create(e.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pkcs7 is written by openssl, as CAs do.
func pkcs7(t *testing.T, form string, certs ...*x509.Certificate) []byte {
	t.Helper()
	dir := t.TempDir()
	in := write(t, dir, "in.pem", certtest.PEM(certs...))
	out := filepath.Join(dir, "out.p7b")
	openssl(t, "crl2pkcs7", "-nocrl", "-certfile", in, "-outform", form, "-out", out)
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseBundleOfEveryForm(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Forms", "prov.corp.example.com")
	all := f.Chain()
	keyDER, err := x509.MarshalPKCS8PrivateKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	var ders []byte
	for _, c := range all {
		ders = append(ders, c.Raw...)
	}
	pemText := certtest.PEM(all...)
	utf := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(string(pemText))) {
		utf = append(utf, byte(u), byte(u>>8))
	}
	for name, c := range map[string]struct {
		files []File
		certs int
		keys  int
	}{
		"PEM, one file":               {[]File{{"a.pem", pemText}}, 3, 0},
		"PEM with Windows line ends":  {[]File{{"a.pem", bytes.ReplaceAll(pemText, []byte("\n"), []byte("\r\n"))}}, 3, 0},
		"PEM with a byte order mark":  {[]File{{"a.pem", append([]byte{0xef, 0xbb, 0xbf}, pemText...)}}, 3, 0},
		"PEM in UTF-16":               {[]File{{"a.pem", utf}}, 3, 0},
		"PEM between prose":           {[]File{{"mail.txt", append([]byte("Dear customer,\n\n"), append(pemText, "\nKind regards"...)...)}}, 3, 0},
		"PEM with its key":            {[]File{{"a.pem", append(certtest.KeyPEM(f.Key), pemText...)}}, 3, 1},
		"DER, three files":            {[]File{{"a.cer", all[2].Raw}, {"b.crt", all[0].Raw}, {"c", all[1].Raw}}, 3, 0},
		"DER, one after the other":    {[]File{{"a.der", ders}}, 3, 0},
		"bare base64":                 {[]File{{"a.txt", []byte(base64.StdEncoding.EncodeToString(all[0].Raw))}}, 1, 0},
		"key as DER":                  {[]File{{"a.key", keyDER}, {"a.pem", pemText}}, 3, 1},
		"PKCS#7 DER":                  {[]File{{"a.p7b", pkcs7(t, "DER", all...)}}, 3, 0},
		"PKCS#7 PEM":                  {[]File{{"a.p7b", pkcs7(t, "PEM", all...)}}, 3, 0},
		"PKCS#7 named CERTIFICATE":    {[]File{{"a.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pkcs7(t, "DER", all...)})}}, 3, 0},
		"PFX":                         {[]File{{"a.pfx", f.PFX(certtest.LegacyRC2, "x")}}, 3, 1},
		"zip":                         {[]File{{"a.zip", zipOf(t, zipped{"dir/leaf.crt", all[0].Raw}, zipped{"README.txt", []byte("Thank you")}, zipped{"chain.p7b", pkcs7(t, "DER", all[1:]...)}, zipped{"__MACOSX/x", []byte{0x30}})}}, 3, 0},
		"the same thing in all forms": {[]File{{"a.pem", pemText}, {"a.pfx", f.PFX(certtest.Modern, "x")}, {"a.p7b", pkcs7(t, "PEM", all...)}, {"a.key", keyDER}}, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := ParseBundle(t.Context(), c.files, secret("not this one"), secret("x"))
			if err != nil {
				t.Fatal(err)
			}
			if len(b.Certs) != c.certs || len(b.Keys) != c.keys {
				t.Errorf("want %d certificates and %d keys, got %d and %d", c.certs, c.keys, len(b.Certs), len(b.Keys))
			}
			for _, have := range b.Certs {
				if !slices.ContainsFunc(all, have.Equal) {
					t.Errorf("%s was not put in", have.Subject)
				}
			}
		})
	}
}

func TestParseBundleReadsIndefiniteLengths(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Streamed", "prov.corp.example.com")
	dir := t.TempDir()
	out := filepath.Join(dir, "out.p7m")
	openssl(t, "cms", "-sign", "-binary", "-nodetach", "-stream", "-md", "sha256", "-outform", "DER", "-in",
		write(t, dir, "text", bytes.Repeat([]byte("text "), 5000)), "-out", out,
		"-signer", write(t, dir, "leaf.pem", certtest.PEM(f.Cert)), "-inkey", write(t, dir, "key.pem", certtest.KeyPEM(f.Key)), "-certfile",
		write(t, dir, "rest.pem", certtest.PEM(f.Issuers...)))
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if data[1] != 0x80 {
		t.Fatal("openssl did not stream, so that this test shows nothing")
	}
	b, err := ParseBundle(t.Context(), []File{{"out.p7m", data}})
	if err != nil || len(b.Certs) != 3 {
		t.Errorf("want three certificates, got %v, %v", b, err)
	}
}

func TestParseBundleRefuses(t *testing.T) {
	t.Parallel()
	l := lab()
	f := l.Plain("Bad Bundle", "prov.corp.example.com")
	dir := t.TempDir()
	empty7 := filepath.Join(dir, "empty.p7b")
	openssl(t, "crl2pkcs7", "-nocrl", "-outform", "DER", "-out", empty7)
	emptyPKCS7, err := os.ReadFile(empty7)
	if err != nil {
		t.Fatal(err)
	}
	key := write(t, dir, "key.pem", certtest.KeyPEM(f.Key))
	locked := filepath.Join(dir, "locked.pem")
	openssl(t, "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:secret")
	lockedPEM, err := os.ReadFile(locked)
	if err != nil {
		t.Fatal(err)
	}
	request, err := NewRequest(RequestOptions{CommonName: "prov.corp.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	broken := bytes.Clone(f.Cert.Raw)
	broken[4] ^= 0xff
	many := make([]zipped, maxZipEntries+1)
	for i := range many {
		many[i] = zipped{strings.Repeat("x", i+1), []byte("x")}
	}
	for name, c := range map[string]struct {
		files []File
		code  reason.Code
		says  string
	}{
		"nothing":                     {nil, reason.CertInputInvalid, "no file"},
		"empty":                       {[]File{{"a.cer", nil}}, reason.CertInputInvalid, "a.cer: the file is empty"},
		"blank":                       {[]File{{"a.cer", []byte(" \n\n ")}}, reason.CertInputInvalid, "empty"},
		"60 MB":                       {[]File{{"big.bin", make([]byte, 60<<20)}}, reason.CertInputInvalid, "big.bin: the file is too large"},
		"five of 4 MB":                {[]File{{"1", make([]byte, MaxFile)}, {"2", make([]byte, MaxFile)}, {"3", make([]byte, MaxFile)}, {"4", make([]byte, MaxFile)}, {"5", make([]byte, MaxFile)}}, reason.CertInputInvalid, "5: the file is too large"},
		"a picture":                   {[]File{{"a.gif", []byte("GIF89a....")}}, reason.CertInputInvalid, "not PEM"},
		"PKCS#7 without certificates": {[]File{{"a.p7b", emptyPKCS7}}, reason.CertInputInvalid, "holds no certificates"},
		"damaged certificate":         {[]File{{"a.cer", broken}}, reason.CertInputInvalid, "a.cer"},
		"damaged PEM":                 {[]File{{"a.pem", []byte("-----BEGIN CERTIFICATE-----\nMIIB!!!\n-----END CERTIFICATE-----\n")}}, reason.CertInputInvalid, "damaged"},
		"second block damaged":        {[]File{{"a.pem", append(certtest.PEM(f.Cert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: broken})...)}}, reason.CertInputInvalid, "PEM block 2"},
		"a good and a bad file":       {[]File{{"good.cer", f.Cert.Raw}, {"bad.cer", broken}}, reason.CertInputInvalid, "bad.cer"},
		"encrypted PEM key":           {[]File{{"a.key", lockedPEM}}, reason.PFXPasswordWrong, "a.key: PEM block 1 (ENCRYPTED PRIVATE KEY, line 1)"},
		"a request":                   {[]File{{"a.csr", request.PEM()}}, reason.CertInputInvalid, "not yet a certificate"},
		"a request as DER":            {[]File{{"a.csr", request.DER}}, reason.CertInputInvalid, "not yet a certificate"},
		"PFX, wrong password":         {[]File{{"a.pfx", f.PFX(certtest.Modern, "other")}}, reason.PFXPasswordWrong, "a.pfx"},
		"PFX, cut":                    {[]File{{"a.pfx", f.PFX(certtest.Modern, "x")[:900]}}, reason.PFXCorrupt, "a.pfx"},
		"zip bomb":                    {[]File{{"a.zip", zipOf(t, zipped{"chain.pem", make([]byte, 3<<20)})}}, reason.CertInputInvalid, "zip bomb"},
		"zip of many":                 {[]File{{"a.zip", zipOf(t, many...)}}, reason.CertInputInvalid, "201 entries"},
		"zip in zip":                  {[]File{{"a.zip", zipOf(t, zipped{"b.zip", zipOf(t, zipped{"c.crt", f.Cert.Raw})})}}, reason.CertInputInvalid, "zip file inside"},
		"zip of prose":                {[]File{{"a.zip", zipOf(t, zipped{"README", []byte("hello")})}}, reason.CertInputInvalid, "README"},
		"cut zip":                     {[]File{{"a.zip", zipOf(t, zipped{"c.crt", f.Cert.Raw})[:200]}}, reason.CertInputInvalid, "zip"},
		"nested without end":          {[]File{{"a.der", bytes.Repeat([]byte{0x30, 0x80}, 10_000)}}, reason.CertInputInvalid, "a.der"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, err := ParseBundle(t.Context(), c.files, secret("x"))
			if codeOf(err) != c.code || b != nil {
				t.Fatalf("want %s, got %v", c.code, err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("want %q in %q", c.says, err)
			}
		})
	}
}

func FuzzParseBundle(f *testing.F) {
	leaf := certtest.NewLab(now).Plain("Fuzz", "prov.corp.example.com")
	f.Add(certtest.PEM(leaf.Chain()...))
	f.Add(leaf.Cert.Raw)
	f.Add(leaf.PFX(certtest.NoPassword, ""))
	f.Add(zipOf(f, zipped{"a.crt", leaf.Cert.Raw}))
	f.Add([]byte{0x30, 0x80, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x80, 0, 0, 0, 0})
	f.Add(append(certtest.PEM(leaf.Cert), leaf.Cert.Raw...))
	f.Add(append(leaf.Cert.Raw, inUTF16(string(certtest.PEM(leaf.Cert)))...))
	f.Add([]byte(`{"value": "` + base64.StdEncoding.EncodeToString(leaf.PFX(certtest.NoPassword, "")) + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(t.Context(), []File{{"fuzz", data}})
		switch {
		case err != nil && codeOf(err) == "":
			t.Errorf("an error without a reason: %v", err)
		case err != nil && !reason.Known(codeOf(err)):
			t.Errorf("an unknown reason: %v", err)
		case err == nil && len(b.Certs)+len(b.Keys) == 0:
			t.Error("neither an error nor a certificate")
		}
	})
}

func FuzzPKCS7(f *testing.F) {
	// SEQUENCE { signedData, [0] { SEQUENCE { 1, SET {}, SEQUENCE { data }, [0] {} } } }
	f.Add([]byte{0x30, 0x1d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x10, 0x30, 0x0e, 2, 1, 1, 0x31, 0,
		0x30, 3, 6, 1, 1, 0xa0, 0, 0x31, 0})
	f.Add([]byte{0x24, 0x80, 0x04, 0x01, 0x41, 0x04, 0x01, 0x42, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parsePKCS7(data)
		der, err := toDER(data)
		if err != nil {
			return
		}
		again, err := toDER(der)
		if err != nil || !bytes.Equal(der, again) {
			t.Errorf("DER is its own DER: %x, %x, %v", der, again, err)
		}
	})
}

func FuzzLoadPFX(f *testing.F) {
	leaf := certtest.NewLab(now).Plain("Fuzz", "prov.corp.example.com")
	f.Add(leaf.PFX(certtest.NoPassword, ""), "")
	f.Add(leaf.PFX(certtest.LegacyDES, "x"), "x")
	f.Add(leaf.PFX(certtest.Modern, "x"), "x")
	f.Fuzz(func(t *testing.T, data []byte, password string) {
		p, err := LoadPFX(t.Context(), data, amt.NewSecret(password), now)
		switch {
		case err != nil && !reason.Known(codeOf(err)):
			t.Errorf("an unknown reason: %v", err)
		case err == nil && p.Usable() && len(p.Paths) == 0:
			t.Error("usable without a chain")
		}
	})
}
