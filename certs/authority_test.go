package certs

import (
	"github.com/provisiond/provisiond/amt"

	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
)

func TestAuthority(t *testing.T) {
	t.Parallel()
	made, err := NewAuthority("provisiond device CA", now)
	if err != nil {
		t.Fatal(err)
	}
	certDER, keyDER, err := made.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(certDER, keyDER)
	if err != nil {
		t.Fatal(err)
	}
	ca := a.Certificate()
	if ca.Subject.CommonName != "provisiond device CA" || !ca.IsCA || ca.SignatureAlgorithm != x509.SHA256WithRSA || rsaBits(ca) != 2048 ||
		ca.NotAfter.Before(now.AddDate(20, 0, -1)) {
		t.Errorf("the authority is not as promised: %+v", ca.Subject)
	}
	device := lab().RSAKey("device", 2048)
	const year = 365 * 24 * time.Hour
	serials := map[string]bool{}
	for range 50 {
		der, err := a.IssueDevice(&device.PublicKey, deviceID, "pc1.corp.example.com", "pc1", now, year)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 64 || serials[c.SerialNumber.String()] {
			t.Fatalf("serial %v", c.SerialNumber)
		}
		serials[c.SerialNumber.String()] = true
		if c.Subject.CommonName != "pc1.corp.example.com" || !slices.Equal(c.DNSNames, []string{"pc1.corp.example.com", "pc1"}) {
			t.Errorf("names: %v %v", c.Subject, c.DNSNames)
		}
		if c.Subject.SerialNumber != deviceID.String() {
			t.Errorf("it names device %q, not %s", c.Subject.SerialNumber, deviceID)
		}
		if c.NotBefore.After(now.Add(-24*time.Hour)) || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
			t.Errorf("valid from %v, usage %v", c.NotBefore, c.ExtKeyUsage)
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		for _, at := range []time.Time{now.Add(-23 * time.Hour), now.Add(year - time.Hour)} {
			if _, err := c.Verify(x509.VerifyOptions{Roots: roots, DNSName: "pc1", CurrentTime: at}); err != nil {
				t.Errorf("at %v: %v", at, err)
			}
		}
	}
	der, err := a.IssueDevice(&device.PublicKey, deviceID, strings.Repeat("a", 60)+".corp.example.com", "pc1", now, 100*year)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil || len(c.Subject.CommonName) > 64 || c.NotAfter.After(ca.NotAfter) {
		t.Errorf("a long name and a long life are cut: %v, %v", c, err)
	}
}

func TestAuthorityRefuses(t *testing.T) {
	t.Parallel()
	a, err := NewAuthority("device CA", now)
	if err != nil {
		t.Fatal(err)
	}
	certDER, keyDER, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	strange, err := x509.MarshalPKCS8PrivateKey(lab().RSAKey("device", 2048))
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{
		"another key": {certDER, strange}, "no key": {certDER, nil}, "no certificate": {nil, keyDER},
	} {
		if _, err := LoadAuthority(pair[0], pair[1]); codeOf(err) != reason.CAUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	key := &lab().RSAKey("device", 2048).PublicKey
	curve := &lab().ECKey("device").PublicKey
	for name, try := range map[string]func() ([]byte, error){
		"curve":   func() ([]byte, error) { return a.IssueDevice(curve, deviceID, "pc1.example.com", "", now, time.Hour) },
		"no name": func() ([]byte, error) { return a.IssueDevice(key, deviceID, "", "", now, time.Hour) },
		"no life": func() ([]byte, error) { return a.IssueDevice(key, deviceID, "pc1.example.com", "", now, 0) },
		"ended": func() ([]byte, error) {
			return a.IssueDevice(key, deviceID, "pc1.example.com", "", now.AddDate(21, 0, 0), time.Hour)
		},
	} {
		if _, err := try(); codeOf(err) != reason.CAUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuthorityIssuesAProvisioningCertificate(t *testing.T) {
	t.Parallel()
	a, err := NewAuthority("Example setup root", now)
	if err != nil {
		t.Fatal(err)
	}
	key := lab().RSAKey("own root leaf", 2048)
	der, err := a.IssueProvisioning(&key.PublicKey, []string{"prov.corp.local", "prov.example.com"}, now, 365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	p := newProvisioning(leaf, key, []*x509.Certificate{a.Certificate()}, now)
	if !p.Usable() || len(p.Paths) != 1 || !slices.Equal(p.Names, []string{"prov.corp.local", "prov.example.com"}) {
		t.Errorf("not usable: %v", p.Findings)
	}
	for name, try := range map[reason.Code]func() ([]byte, error){
		reason.KeyTypeUnsupported: func() ([]byte, error) {
			return a.IssueProvisioning(&lab().ECKey("device").PublicKey, []string{"prov.corp.local"}, now, time.Hour)
		},
		reason.KeyTooSmall: func() ([]byte, error) {
			return a.IssueProvisioning(&lab().RSAKey("small", 1024).PublicKey, []string{"prov.corp.local"}, now, time.Hour)
		},
		reason.CertInputInvalid: func() ([]byte, error) {
			return a.IssueProvisioning(&key.PublicKey, []string{"prov_1.corp.local"}, now, time.Hour)
		},
	} {
		if _, err := try(); codeOf(err) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReminder(t *testing.T) {
	t.Parallel()
	for days, want := range map[int]int{100: -1, 46: -1, 45: 45, 31: 45, 30: 30, 14: 14, 8: 14, 7: 7, 2: 7, 1: 1, 0: 0, -3: 0} {
		if got := Reminder(now.AddDate(0, 0, days), now); got != want {
			t.Errorf("%d days left: want %d, got %d", days, want, got)
		}
	}
}

var deviceID = amt.UUID{0x4c, 0x4c, 0x45, 0x44, 1}

// TestConsole: what is shown to managed devices with mutual TLS carries the
// usage they ask for and verifies under the root they were given.
func TestConsole(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ca, err := NewAuthority("device CA", now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Console("prov.corp.example.com", now, 365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	marked := false
	for _, o := range c.Leaf.UnknownExtKeyUsage {
		marked = marked || o.Equal(ConsoleOID())
	}
	if !marked || len(c.Certificate) != 2 || c.Leaf.Subject.CommonName != "prov.corp.example.com" {
		t.Errorf("marked: %t; %d certificates; %s", marked, len(c.Certificate), c.Leaf.Subject)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := ca.Console("", now, time.Hour); err == nil {
		t.Error("a console without a name")
	}
}
