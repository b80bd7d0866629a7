package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// TestServesDomain: a device's domain is one of ours when the certificate's domain
// holds it or firmware takes the certificate for it, and never a public suffix.
func TestServesDomain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, domain string
		want         bool
	}{
		{"provisionserver.corp.example.com", "corp.example.com", true},
		{"provisionserver.corp.example.com", "berlin.corp.example.com", true},
		{"provisionserver.corp.example.com", "Example.com.", true},
		{"provisionserver.corp.example.com", "other.example.com", true}, // firmware compares two labels under com
		{"provisionserver.corp.example.com", "accounts.bank.example", false},
		{"provisionserver.corp.example.com", "com", false},
		{"provisionserver.corp.example.com", "evilexample.com", false},
		{"*.corp.example.com", "corp.example.com", true},
		{"*.corp.example.com", "a.b.corp.example.com", true},
		{"prov.firm.co.uk", "firm.co.uk", true},
		{"prov.firm.co.uk", "co.uk", false},
		{"prov.firm.co.uk", "other.co.uk", false},
		{"prov.corp.local", "corp.local", true},
		{"prov.corp.local", "berlin.corp.local", true},
		{"prov.corp.local", "other.local", false},
		{"prov.local", "local", true},
		{"prov.local", "a.local", false},
		{"prov", "anything.example.com", false},
		{"", "corp.example.com", false},
		{"prov.corp.example.com", "", false},
		{"prov.corp.example.com", "*.example.com", false},
		{"prov.corp.example.com", "corp..example.com", false},
	} {
		if got := ServesDomain([]string{c.name}, c.domain); got != c.want {
			t.Errorf("%q for %q: %t", c.name, c.domain, got)
		}
	}
	if !ServesDomain([]string{"prov.a.example", "prov.b.example"}, "b.example") {
		t.Error("a second name is not looked at")
	}
}

// TestConsoleNameIsTheAuthoritys: two servers of one device CA have one name, two
// device CAs two.
func TestConsoleNameIsTheAuthoritys(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := NewAuthority("provisiond device CA", now)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := a.Secret()
	if err != nil {
		t.Fatal(err)
	}
	again, err := AuthorityFromStore(sealed)
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewAuthority("provisiond device CA", now)
	if err != nil {
		t.Fatal(err)
	}
	if a.ConsoleName() != again.ConsoleName() || a.ConsoleName() == b.ConsoleName() || len(a.ConsoleName()) > 63 {
		t.Errorf("%s, %s, %s", a.ConsoleName(), again.ConsoleName(), b.ConsoleName())
	}
}

// TestConstrainedAuthority: it says so in its certificate, signs for nothing else,
// and what it signs satisfies those who look at the constraint.
func TestConstrainedAuthority(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a, err := NewAuthority("provisiond device CA", now, "Corp.example.com.", "branch.example.net")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate())
	for _, c := range []struct {
		name string
		good bool
	}{{a.ConsoleName(), true}, {"console.corp.example.com", true}, {"console.branch.example.net", true}, {"console.lab.example", false},
		{"xcorp.example.com", false}} {
		cert, err := a.Console(c.name, now, time.Hour)
		var why *reason.Error
		switch {
		case !c.good && (!errors.As(err, &why) || why.Code != reason.DomainNotAllowed):
			t.Errorf("%s: %v", c.name, err)
		case c.good && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.good:
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	for name, good := range map[string]bool{"pc-7.corp.example.com": true, "pc-7.accounts.bank.example": false} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		der, err := a.IssueDevice(&key.PublicKey, amt.UUID{1}, name, "pc-7", now, time.Hour)
		var why *reason.Error
		if !good {
			if !errors.As(err, &why) || why.Code != reason.DomainNotAllowed {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
			t.Error("a device's certificate is good for a client")
		}
	}
	for _, e := range a.Certificate().Extensions {
		if e.Id.String() == "2.5.29.30" && e.Critical {
			t.Error("the constraint is critical: firmware that does not know it would refuse the root")
		}
	}
}

func TestConsoleRequest(t *testing.T) {
	t.Parallel()
	request := func(key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	good, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	broken, _ := pem.Decode(request(good))
	broken.Bytes[len(broken.Bytes)-1] ^= 1
	for _, c := range []struct {
		name string
		text []byte
		want reason.Code
	}{
		{"good", request(good), ""},
		{"DER", must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, good)), ""},
		{"UTF-16", inUTF16(string(request(good))), ""},
		{"another label", bytes.ReplaceAll(request(good), []byte("CERTIFICATE REQUEST"), []byte("NEW CERTIFICATE REQUEST")), ""},
		{"a curve", request(curve), reason.KeyTypeUnsupported},
		{"signed with another key", pem.EncodeToMemory(broken), reason.CertInputInvalid},
		{"no PEM", []byte("hello"), reason.CertInputInvalid},
		{"a certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), reason.CertInputInvalid},
		{"no DER", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1}}), reason.CertInputInvalid},
	} {
		csr, err := ConsoleRequest(t.Context(), File{"csr", c.text})
		var why *reason.Error
		if c.want == "" && (err != nil || !good.PublicKey.Equal(csr.PublicKey)) || c.want != "" &&
			(!errors.As(err, &why) || why.Code != c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
