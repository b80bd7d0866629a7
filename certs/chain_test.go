package certs

import (
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

func TestFindings(t *testing.T) {
	t.Parallel()
	l := lab()
	root := l.Root(certtest.Options{Name: "Findings Root"})
	middle := root.Intermediate(certtest.Options{Name: "Findings CA"})
	leaf := func(o certtest.Options) certtest.Leaf {
		if o.Name == "" && !o.NoCN {
			o.Name = "prov.corp.example.com"
		}
		return middle.Leaf(o, root.Cert)
	}
	sha1Root := l.Root(certtest.Options{Name: "SHA-1 Root", SHA1: true})
	impostor := l.Root(certtest.Options{Name: "Findings Root", Key: "another key"})

	for name, c := range map[string]struct {
		f        certtest.Leaf
		severity Severity
		code     reason.Code
		says     string
		usable   bool
	}{
		"exact OU instead of the OID":    {leaf(certtest.Options{NoOID: true, OU: []string{SetupOU}}), SeverityInfo, reason.RootNotTrusted, "Findings Root", true},
		"neither OID nor OU":             {leaf(certtest.Options{NoOID: true}), SeverityError, reason.CertMissingAMTUsage, "neither", false},
		"OU in another case":             {leaf(certtest.Options{NoOID: true, OU: []string{"intel(r) client setup certificate"}}), SeverityError, reason.CertMissingAMTUsage, "case or spacing", false},
		"OU with a stray space, and OID": {leaf(certtest.Options{OU: []string{"Intel(R) Client Setup  Certificate"}}), SeverityWarn, reason.CertMissingAMTUsage, "is enough", true},
		"no serverAuth":                  {leaf(certtest.Options{NoServerAuth: true}), SeverityError, reason.CertMissingServerAuth, "serverAuth", false},
		"expired":                        {leaf(certtest.Options{NotBefore: now.AddDate(-2, 0, 0), NotAfter: now.AddDate(-1, 0, 0)}), SeverityWarn, reason.CertExpired, "2025-11-22", true},
		"not valid yet":                  {leaf(certtest.Options{NotBefore: now.AddDate(0, 1, 0), NotAfter: now.AddDate(1, 0, 0)}), SeverityWarn, reason.CertNotYetValid, "2026-12-22", true},
		"expiring":                       {leaf(certtest.Options{NotAfter: now.AddDate(0, 0, 10)}), SeverityWarn, reason.CertExpiring, "10 days", true},
		"1024 bits":                      {leaf(certtest.Options{Bits: 1024}), SeverityWarn, reason.KeyTooSmall, "prov.corp.example.com", true},
		"4096 bits":                      {leaf(certtest.Options{Bits: 4096}), SeverityInfo, reason.KeySizeUnsupported, "6.0", true},
		"elliptic curve":                 {leaf(certtest.Options{ECC: true}), SeverityWarn, reason.KeyTypeUnsupported, "not RSA", true},
		"SHA-1 leaf":                     {leaf(certtest.Options{SHA1: true}), SeverityWarn, reason.ChainSHA1Rejected, "prov.corp.example.com", true},
		"SHA-1 root only":                {sha1Root.Leaf(certtest.Options{Name: "prov.corp.example.com"}), SeverityWarn, reason.ChainSHA1Rejected, "SHA-1 Root", true},
		"missing intermediate":           {certtest.Leaf{Cert: leaf(certtest.Options{Issuers: []string{"http://ca.example.com/ca.crt"}}).Cert, Key: l.RSAKey("prov.corp.example.com", 2048), Issuers: []*x509.Certificate{root.Cert}}, SeverityError, reason.ChainIncomplete, `"Findings CA" that issued prov.corp.example.com is missing; its issuer publishes it at http://ca.example.com/ca.crt`, false},
		"missing root":                   {middle.Leaf(certtest.Options{Name: "prov.corp.example.com"}), SeverityError, reason.ChainIncomplete, `"Findings Root"`, false},
		"wrong root of the same name":    {middle.Leaf(certtest.Options{Name: "prov.corp.example.com"}, impostor.Cert), SeverityError, reason.ChainBrokenSignature, "another key", false},
		"self-signed":                    {selfSigned(l), SeverityError, reason.CertSelfSigned, "signed itself", false},
		"single label":                   {leaf(certtest.Options{Name: "provisionserver"}), SeverityWarn, reason.NoCertForSuffix, "single label", true},
		"wildcard":                       {leaf(certtest.Options{Name: "*.corp.example.com"}), SeverityWarn, reason.NoCertForSuffix, "wildcard", true},
		".local":                         {leaf(certtest.Options{Name: "prov.corp.local"}), SeverityWarn, reason.NoCertForSuffix, "no public CA", true},
		"underscore":                     {leaf(certtest.Options{Name: "prov_server.example.com"}), SeverityWarn, reason.NoCertForSuffix, "underscore", true},
		"negative serial":                {leaf(certtest.Options{NegativeSerial: true}), SeverityWarn, reason.CertInputInvalid, "negative serial number", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := load(t, c.f)
			if p.Usable() != c.usable {
				t.Errorf("usable is %v: %v", p.Usable(), p.Findings)
			}
			for _, f := range p.Findings {
				if f.Code == c.code && f.Severity == c.severity && strings.Contains(f.Detail, c.says) {
					return
				}
			}
			t.Errorf("want %s %s with %q, got %v", c.severity, c.code, c.says, p.Findings)
		})
	}
}

func selfSigned(l *certtest.Lab) certtest.Leaf {
	ca := l.Root(certtest.Options{Name: "prov.corp.example.com"})
	return certtest.Leaf{Cert: ca.Cert, Key: ca.Key}
}

func TestACleanCertificateHasNothingToSay(t *testing.T) {
	t.Parallel()
	p := load(t, lab().Plain("Clean", "prov.corp.example.com"))
	if len(p.Findings) != 1 || p.Findings[0].Code != reason.RootNotTrusted || p.Findings[0].Severity != SeverityInfo {
		t.Errorf("only that the test root is in no firmware; got %v", p.Findings)
	}
}

func TestCrossSignedShapes(t *testing.T) {
	t.Parallel()
	for name, shape := range map[string]certtest.CrossSigned{
		"Go Daddy": lab().GoDaddy("prov.corp.example.com"), "Sectigo": lab().Sectigo("prov.corp.example.com"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := LoadPFX(t.Context(), certtest.PFX(certtest.NoPassword, "", shape.Leaf.Key, shape.All()...), secret(""), now)
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Paths) != 2 {
				t.Fatalf("want the short chain and the one under the old root, got %d", len(p.Paths))
			}
			if short, long := p.Paths[0], p.Paths[1]; len(short.Certs) != 3 || !short.Root().Equal(shape.NewRoot) || len(long.Certs) != 4 ||
				!long.Root().Equal(shape.OldRoot) {
				t.Error("the short chain comes first, the long one ends in the old root")
			}
			if has(p, SeverityWarn, reason.ChainSHA1Rejected) || !has(p, SeverityInfo, reason.ChainSHA1Rejected) {
				t.Errorf("SHA-1 on one of two chains is information: %v", p.Findings)
			}
		})
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	f := lab().Plain("New", "prov.corp.example.com")
	if p, err := New(f.Cert, f.Key, f.Issuers, now); err != nil || !p.Usable() || p.ID != IDOf(f.Cert) {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := New(f.Cert, lab().RSAKey("another", 2048), f.Issuers, now); codeOf(err) != reason.CertKeyMismatch {
		t.Errorf("another key: %v", err)
	}
}

func TestCyclesEnd(t *testing.T) {
	t.Parallel()
	l := lab()
	// Twelve CAs that all certify each other: factorially many walks.
	cas := make([]*certtest.CA, 12)
	for i := range cas {
		cas[i] = l.Root(certtest.Options{Name: fmt.Sprintf("Ring %d", i), ECC: true})
	}
	var pool []*x509.Certificate
	for _, a := range cas {
		for _, b := range cas {
			if a != b {
				pool = append(pool, a.Cross(b, certtest.Options{}))
			}
		}
	}
	leaf := cas[0].Leaf(certtest.Options{Name: "prov.corp.example.com", ECC: true})
	// That this ends at all is the claim: 12! walks would not within the test's time.
	p := newProvisioning(leaf.Cert, leaf.Key, pool, now)
	if len(p.Paths) != 0 || p.Usable() {
		t.Error("a ring without a root leads nowhere")
	}
	if r := NewReport(p, now); codeOf(r.Err()) != reason.ChainIncomplete || !strings.Contains(r.Err().Error(), "in a circle") {
		t.Errorf("of a ring it is said: %v", r.Err())
	}
	pool = append(pool, cas[5].Cert)
	if p = newProvisioning(leaf.Cert, leaf.Key, pool, now); len(p.Paths) == 0 || len(p.Paths) > maxPaths {
		t.Errorf("want some chains, got %d", len(p.Paths))
	}
}

func TestOrderRepeatsAndStrangersDoNotMatter(t *testing.T) {
	t.Parallel()
	l := lab()
	shape := l.GoDaddy("prov.corp.example.com")
	strangers := append(l.Sectigo("x.example.com").All(), l.Plain("Stranger", "y.example.com").Chain()...)
	whole := shape.All()[1:]
	rapid.Check(t, func(t *rapid.T) {
		// Any part of the right certificates: the same answer whatever else is in the file.
		kept := rapid.SliceOfDistinct(rapid.SampledFrom(whole), func(c *x509.Certificate) string { return string(c.Raw) }).Draw(t, "kept")
		want := newProvisioning(shape.Leaf.Cert, shape.Leaf.Key, kept, now)

		noisy := append(append([]*x509.Certificate{}, kept...), rapid.SliceOf(rapid.SampledFrom(strangers)).Draw(t, "strangers")...)
		if len(kept) > 0 {
			noisy = append(noisy, rapid.SliceOfN(rapid.SampledFrom(kept), 0, 5).Draw(t, "repeats")...)
		}
		noisy = rapid.Permutation(noisy).Draw(t, "order")
		got := newProvisioning(shape.Leaf.Cert, shape.Leaf.Key, noisy, now)

		if d := cmp.Diff(describe(want), describe(got)); d != "" {
			t.Fatalf("another answer (-want +got):\n%s", d)
		}
	})
}

func describe(p *Provisioning) []string {
	var out []string
	for _, path := range p.Paths {
		var names []string
		for _, c := range path.Certs {
			names = append(names, IDOf(c))
		}
		out = append(out, strings.Join(names, " < "))
	}
	for _, f := range p.Findings {
		out = append(out, fmt.Sprint(f))
	}
	return out
}

func TestAHeapOfStrangersDoesNotHideTheChain(t *testing.T) {
	t.Parallel()
	l := lab()
	f := l.Plain("Heap", "prov.corp.example.com")
	var pool []*x509.Certificate
	for i := range maxPool + 50 {
		pool = append(pool, l.Root(certtest.Options{Name: fmt.Sprintf("Stranger %d", i), Key: "stranger", ECC: true}).Cert)
	}
	p := newProvisioning(f.Cert, f.Key, append(pool, f.Issuers...), now)
	if len(p.Paths) != 1 || !p.Usable() {
		t.Errorf("want the one chain, got %d, %v", len(p.Paths), p.Findings)
	}
}
