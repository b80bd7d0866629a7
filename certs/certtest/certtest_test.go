package certtest

import (
	"crypto/x509"
	"testing"
	"time"
)

func TestShapes(t *testing.T) {
	t.Parallel()
	lab := NewLab(time.Now())
	plain := lab.Plain("Lab", "prov.corp.example.com")
	if got := len(plain.Chain()); got != 3 {
		t.Fatalf("a plain chain holds leaf, intermediate and root; got %d", got)
	}
	if _, err := plain.Cert.Verify(x509.VerifyOptions{
		Roots: pool(plain.Issuers[1]), Intermediates: pool(plain.Issuers[0]), DNSName: "prov.corp.example.com",
	}); err != nil {
		t.Errorf("a plain chain verifies: %v", err)
	}
	gd := lab.GoDaddy("prov.example.com")
	if gd.Cross.Subject.String() != gd.NewRoot.Subject.String() || gd.Cross.Issuer.String() != gd.OldRoot.Subject.String() {
		t.Errorf("the cross-certificate names %s under %s", gd.Cross.Subject, gd.Cross.Issuer)
	}
	if gd.OldRoot.SignatureAlgorithm != x509.SHA1WithRSA {
		t.Errorf("the old root is signed with SHA-1, got %v", gd.OldRoot.SignatureAlgorithm)
	}
	neg := lab.Root(Options{Name: "Lab Root", Org: "Lab", NegativeSerial: true})
	if neg.Cert.SerialNumber.Sign() >= 0 {
		t.Errorf("serial %v is not negative", neg.Cert.SerialNumber)
	}
	if len(plain.PFX(LegacyRC2, "x")) == 0 || len(lab.Sectigo("a.example.com").All()) != 5 {
		t.Error("PFX or Sectigo shape is empty")
	}
}

// TestSerialsCanBeMadeNegative: whichever is drawn. That is done by the first bit of
// its first byte, which must not be taken.
func TestSerialsCanBeMadeNegative(t *testing.T) {
	t.Parallel()
	lab := NewLab(time.Now())
	for range 5000 {
		if s := lab.template(Options{}, false).SerialNumber; s.Sign() <= 0 || s.Bytes()[0]&0x80 != 0 {
			t.Fatalf("serial %x", s)
		}
	}
}

func pool(c *x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c)
	return p
}
