package certs

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	r, err := NewRequest(RequestOptions{
		CommonName: "ProvisionServer.corp.example.com.", Names: []string{"prov.other.io", "provisionserver.corp.example.com"},
		Organization: "Example GmbH", Country: "DE", LegacyOU: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	text := string(openssl(t, "req", "-in", write(t, t.TempDir(), "r.csr", r.PEM()), "-noout", "-text", "-verify"))
	for _, want := range []string{
		"CN = provisionserver.corp.example.com", "OU = Intel(R) Client Setup Certificate", "O = Example GmbH", "Public-Key: (2048 bit)",
		"TLS Web Server Authentication, 2.16.840.1.113741.1.2.3", "DNS:provisionserver.corp.example.com, DNS:prov.other.io",
		"sha256WithRSAEncryption",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
	if !slices.Equal(r.Names, []string{"provisionserver.corp.example.com", "prov.other.io"}) {
		t.Errorf("names %v", r.Names)
	}
	for _, want := range []string{"provisionserver.corp.example.com", "prov.other.io", "2.16.840.1.113741.1.2.3", "RSA 2048", "OV"} {
		if !strings.Contains(r.OrderText(), want) {
			t.Errorf("the order text lacks %q:\n%s", want, r.OrderText())
		}
	}
	print, err := KeyFingerprint(r.Key.Public())
	if err != nil || !strings.HasPrefix(print, r.ID) || len(r.ID) != 16 {
		t.Errorf("id %q, fingerprint %q, %v", r.ID, print, err)
	}
	der, err := r.KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	if k, err := x509.ParsePKCS8PrivateKey(der); err != nil || !r.Key.Equal(k) {
		t.Errorf("the key comes back: %v", err)
	}
}

func TestRequestRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		o    RequestOptions
		code reason.Code
		says string
	}{
		"no name":              {RequestOptions{}, reason.CertInputInvalid, "common name"},
		".local":               {RequestOptions{CommonName: "MyNSServer.My1Domain.local"}, reason.CertInputInvalid, "no public CA"},
		".corp":                {RequestOptions{CommonName: "prov.example.corp"}, reason.CertInputInvalid, ".corp"},
		".lan as further name": {RequestOptions{CommonName: "prov.example.com", Names: []string{"prov.lan"}}, reason.CertInputInvalid, ".lan"},
		"underscore":           {RequestOptions{CommonName: "prov_server.example.com"}, reason.CertInputInvalid, "underscore"},
		"single label":         {RequestOptions{CommonName: "provisionserver"}, reason.CertInputInvalid, "single label"},
		"blank":                {RequestOptions{CommonName: "prov server.example.com"}, reason.CertInputInvalid, "not a host name"},
		"empty label":          {RequestOptions{CommonName: "prov..example.com"}, reason.CertInputInvalid, "empty label"},
		"1024 bits":            {RequestOptions{CommonName: "prov.example.com", Bits: 1024}, reason.KeySizeUnsupported, "1024"},
		"country":              {RequestOptions{CommonName: "prov.example.com", Country: "Germany"}, reason.CertInputInvalid, "two-letter"},
		"long":                 {RequestOptions{CommonName: strings.Repeat("a", 60) + ".example.com"}, reason.CertInputInvalid, "64"},
		"underscore privately": {RequestOptions{CommonName: "prov_server.corp.local", PrivateNames: true}, reason.CertInputInvalid, "underscore"},
	} {
		if _, err := NewRequest(c.o); codeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: want %s with %q, got %v", name, c.code, c.says, err)
		}
	}
	if r, err := NewRequest(RequestOptions{CommonName: "prov.corp.local", PrivateNames: true}); err != nil ||
		r.Names[0] != "prov.corp.local" {
		t.Errorf("for a CA of one's own .local is fine: %v", err)
	}
}

func TestServes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		names   []string
		version string
		want    string
	}{
		{[]string{"prov.corp.example.com"}, "", "prov.corp.example.com; corp.example.com; example.com; any ending in example.com"},
		{[]string{"prov.corp.example.com"}, "3.0", "prov.corp.example.com; corp.example.com; example.com"},
		{[]string{"prov.example.co.uk"}, "11.8", "prov.example.co.uk; example.co.uk; any ending in example.co.uk"},
		{[]string{"prov.example.com.au"}, "11.8", "prov.example.com.au; example.com.au"},
		{[]string{"prov.example.de"}, "5.0", "prov.example.de; example.de"},
		{[]string{"*.corp.example.io"}, "", "corp.example.io; example.io; any ending in corp.example.io"},
		{[]string{"prov.example.io", "prov.other.io"}, "", "prov.example.io; example.io; prov.other.io; other.io"},
		{nil, "", ""},
	} {
		var got []string
		for _, s := range Serves(c.names, version(c.version)) {
			got = append(got, s.String())
			probe := s.Suffix
			if s.Any {
				probe = "x." + probe
			}
			if d := Covers(s.Name, probe, version(c.version)); !d.OK {
				t.Errorf("%v says it serves %s, and the rule says no: %s", c.names, probe, d.Why)
			}
		}
		if s := strings.Join(got, "; "); s != c.want {
			t.Errorf("%v, AMT %q: want %q, got %q", c.names, c.version, c.want, s)
		}
	}
}
