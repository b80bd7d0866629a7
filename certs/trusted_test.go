package certs

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// TestTrustedFilesOfEveryForm: what is trusted, and what is shown in a
// handshake, is read as an import reads it.
func TestTrustedFilesOfEveryForm(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Trusted", "api.corp.example.com")
	chain := f.Chain()
	text := string(certtest.PEM(chain...))
	one := strings.ReplaceAll(text, "-----\n-----", "----------")
	for name, data := range map[string][]byte{
		"PEM": []byte(text), "joined": []byte(one), "DER": bytes.Join([][]byte{chain[0].Raw, chain[1].Raw, chain[2].Raw}, []byte("\r\n")),
		"PKCS#7": pkcs7(t, "PEM", chain...),
		"base64": []byte(base64.StdEncoding.EncodeToString(pkcs7(t, "DER", chain...))), "a mark": []byte("\ufeff" + text),
		"with the key":         append(certtest.KeyPEM(f.Key), text...),
		"another label":        []byte(strings.ReplaceAll(text, "CERTIFICATE", "X509 CERTIFICATE")),
		"PFX without password": f.PFX(certtest.NoPassword, ""),
	} {
		list, err := Authorities(t.Context(), File{name, data})
		if err != nil || len(list) != 3 || !slices.ContainsFunc(list, chain[2].Equal) {
			t.Errorf("%s: %d certificates, %v", name, len(list), err)
		}
		pair, err := Pair(t.Context(), File{name, data}, File{"key", certtest.KeyPEM(f.Key)})
		if err != nil || len(pair.Certificate) != 3 || !pair.Leaf.Equal(f.Cert) || !bytes.Equal(pair.Certificate[0], f.Cert.Raw) ||
			!bytes.Equal(pair.Certificate[2], f.Issuers[1].Raw) {
			t.Errorf("a pair of %s: %v", name, err)
		}
	}
	if list, err := Authorities(t.Context(), File{"a", []byte(text)}); err != nil || !list[0].Equal(f.Cert) {
		t.Errorf("the order of the file: %v", err)
	}
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: append(bytes.Clone(f.Cert.Raw[:300]), make([]byte, len(f.Cert.Raw)-300)...)})
	for name, c := range map[string]struct {
		cert, key []byte
		code      reason.Code
		says      string
	}{
		"one block is damaged": {append([]byte(text), broken...), certtest.KeyPEM(f.Key), reason.CertInputInvalid, "PEM block 4 (CERTIFICATE, line "},
		"another's key":        {[]byte(text), certtest.KeyPEM(lab().RSAKey("another", 2048)), reason.CertKeyMismatch, "b: the private key belongs to none"},
		"no key":               {[]byte(text), []byte(text), reason.CertPrivateKeyMissing, "b: there is no private key"},
		"a locked key":         {[]byte(text), fieldCase(t, "04-encrypted-key/key-encrypted.pem")[0].Data, reason.PFXPasswordWrong, "openssl pkey"},
		"a web page":           {[]byte("<!DOCTYPE html><html>Sign in"), certtest.KeyPEM(f.Key), reason.CertInputInvalid, "a: this is a web page"},
	} {
		if _, err := Pair(t.Context(), File{"a", c.cert}, File{"b", c.key}); codeOf(err) != c.code ||
			!strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
