package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// RequestOptions say what certificate to ask a CA for.
type RequestOptions struct {
	CommonName   string   // the most important name: old firmware reads no other
	Names        []string // further dNSName entries
	Organization string
	Country      string // two letters
	Province     string
	Locality     string
	LegacyOU     bool // ask for the exact OU too: private CAs only, public ones drop it since 2022
	Bits         int  // 2048 (default) or 3072; AMT before 6.0 is only known to take 1024 and 2048
	PrivateNames bool // allow .local and the like: for a CA of one's own
}

// A Request is a key pair and the PKCS#10 that goes to the CA.
type Request struct {
	ID    string // first 16 digits of KeyFingerprint
	Key   *rsa.PrivateKey
	DER   []byte   // PKCS#10
	Names []string // common name first, no repeats
}

var (
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidServerAuth  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
)

// NewRequest makes a key and a request that asks for serverAuth and the AMT
// usage. A name that no public CA issues is refused, with the reason, as
// cert_input_invalid.
func NewRequest(o RequestOptions) (*Request, error) {
	names, err := requestNames(o)
	if err != nil {
		return nil, err
	}
	bits := o.Bits
	switch bits {
	case 0:
		bits = 2048
	case 2048, 3072:
	default:
		return nil, reason.Because(reason.KeySizeUnsupported,
			"a key of %d bits is not offered: 2048 serves every AMT, 3072 is only for fleets from 6.0 on", bits)
	}
	if o.Country != "" && len(o.Country) != 2 {
		return nil, reason.Because(reason.CertInputInvalid, "the country %q is not a two-letter code such as DE", amt.Clip(o.Country))
	}
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, fmt.Errorf("make the key of a certificate request: %w", err)
	}
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{oidServerAuth, SetupOID()})
	if err != nil {
		return nil, fmt.Errorf("write the certificate request: %w", err)
	}
	// digitalSignature and keyEncipherment: bits 0 and 2, five unused.
	bitsDER, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0xa0}, BitLength: 3})
	if err != nil {
		return nil, fmt.Errorf("write the certificate request: %w", err)
	}
	t := &x509.CertificateRequest{
		Subject:            pkix.Name{CommonName: names[0]},
		DNSNames:           names,
		SignatureAlgorithm: x509.SHA256WithRSA,
		ExtraExtensions: []pkix.Extension{
			{Id: oidKeyUsage, Critical: true, Value: bitsDER},
			{Id: oidExtKeyUsage, Value: usage},
		},
	}
	set := func(field *[]string, v string) {
		if v != "" {
			*field = []string{v}
		}
	}
	set(&t.Subject.Organization, o.Organization)
	set(&t.Subject.Country, o.Country)
	set(&t.Subject.Province, o.Province)
	set(&t.Subject.Locality, o.Locality)
	if o.LegacyOU {
		t.Subject.OrganizationalUnit = []string{SetupOU}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("write the certificate request: %w", err)
	}
	print, err := KeyFingerprint(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("write the certificate request: %w", err)
	}
	return &Request{ID: print[:16], Key: key, DER: der, Names: names}, nil
}

func requestNames(o RequestOptions) ([]string, error) {
	if strings.TrimSpace(o.CommonName) == "" {
		return nil, reason.Because(reason.CertInputInvalid, "a common name is needed, such as provisionserver.corp.example.com")
	}
	var names []string
	for _, n := range append([]string{o.CommonName}, o.Names...) {
		n = normalName(n)
		if why := unfitName(n); why != "" && (!o.PrivateNames || !privateOnly(n)) {
			return nil, reason.Because(reason.CertInputInvalid, "%q %s", amt.Clip(n), why)
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names[0]) > 64 {
		return nil, reason.Because(reason.CertInputInvalid, "the common name %q has more than 64 characters", amt.Clip(names[0]))
	}
	if len(names) > 100 {
		return nil, reason.Because(reason.CertInputInvalid, "%d names; at most 100 fit one certificate", len(names))
	}
	return names, nil
}

// PEM is what is pasted into a CA's form.
func (r *Request) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.DER})
}

// KeyDER is the key as PKCS#8, for sealing at once.
func (r *Request) KeyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(r.Key) }

// OrderText is what to tell the CA, in the words its order form uses.
func (r *Request) OrderText() string { return OrderText(r.Names, &r.Key.PublicKey) }

// OrderText is the same for a request whose key is not at hand.
func OrderText(names []string, key crypto.PublicKey) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Certificate for Intel AMT remote configuration (Intel vPro setup)\n\n")
	fmt.Fprintf(&b, "Common name:          %s\n", names[0])
	if len(names) > 1 {
		fmt.Fprintf(&b, "Further DNS names:    %s\n", strings.Join(names[1:], ", "))
	}
	fmt.Fprintf(&b, "Key:                  %s, signed with SHA-256 throughout the chain\n", keyKind(key))
	fmt.Fprintf(&b, "Extended key usage:   serverAuth (1.3.6.1.5.5.7.3.1) and %s (Intel AMT setup)\n", SetupOID())
	fmt.Fprintf(&b, "Validation:           organisation (OV); a domain-validated certificate seldom gets the second usage\n")
	fmt.Fprintf(&b, "Please deliver:       the certificate, every intermediate and the root it ends in\n")
	fmt.Fprintf(&b, "Please do not:        change the subject or drop an extended key usage\n")
	return b.String()
}

// Served is one kind of device suffix that a certificate's names serve.
type Served struct {
	Suffix string `json:"suffix"` // the suffix itself; with Any: every suffix that ends so
	Any    bool   `json:"any,omitempty"`
	Name   string `json:"name"` // the certificate's name that serves it
	Rule   Rule   `json:"rule"`
	Unsure bool   `json:"unsure,omitempty"`
}

func (s Served) String() string {
	if s.Any {
		return "any ending in " + s.Suffix
	}
	return s.Suffix
}

// Serves lists the DNS suffixes that devices may have for these names to be
// accepted by firmware of release v. names[0] is the common name.
func Serves(names []string, v amt.Version) []Served {
	g := generationOf(v)
	var out []Served
	add := func(s Served) {
		if !slices.ContainsFunc(out, func(have Served) bool { return have.Suffix == s.Suffix && have.Any == s.Any }) {
			out = append(out, s)
		}
	}
	for i, name := range names {
		n := normalName(name)
		base, wild := strings.CutPrefix(n, "*.")
		if !wellFormed(base) || strings.Contains(base, "*") {
			continue
		}
		san := i > 0 && g.san == perhaps
		sure, rule := g.suffix, RuleSuffix
		if wild {
			sure, rule = g.wildcard, RuleWildcard
		}
		for end := base; labels(end) >= 2 && !registry(end); end = end[strings.IndexByte(end, '.')+1:] {
			add(Served{Suffix: end, Name: n, Rule: rule, Unsure: san || sure == perhaps})
		}
		if wild && labels(base) >= 2 {
			add(Served{Suffix: base, Any: true, Name: n, Rule: RuleWildcard, Unsure: san || sure == perhaps})
		}
		tld := lastLabel(base)
		relief := g.extended
		if tld == "com" || tld == "net" {
			relief = g.comNet
		}
		if count, listed := domainLabels[tld]; listed && relief != no {
			if end := tail(base, count); end != "" {
				add(Served{Suffix: end, Any: true, Name: n, Rule: RuleDomain, Unsure: san || relief == perhaps})
			}
		}
	}
	return out
}

// registry reports names such as co.uk and com.au: under them domains are
// registered, so no device has one as its suffix.
func registry(name string) bool {
	first, tld, ok := strings.Cut(name, ".")
	return ok && len(tld) == 2 && slices.Contains([]string{"ac", "co", "com", "edu", "gov", "net", "or", "org"}, first)
}
