// Package certs knows provisioning certificates: what a file holds, which
// chains can be shown to a device, whether firmware of a given age will accept
// them, and which DNS suffixes they serve. It also is the small CA that issues
// the certificates devices use once they are managed.
//
// The road of a provisioning certificate:
//
//  1. LoadPFX (or ParseBundle and Join) finds the leaf that belongs to the key
//     and every path from it to a self-signed root, cross-signed ones too.
//  2. Findings say what is wrong or odd. Only errors make it unusable.
//  3. A hello lists the roots a device trusts; Match answers with every path
//     that ends in one of them, best first.
//  4. Path.TLS order is leaf first and root last: the device holds hashes only,
//     so it needs the root's bytes (amt/protocol.md 3.5).
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// SetupOU is the exact subject OU that marks a certificate for AMT setup where
// the usage OID is missing. Case matters to the firmware.
const SetupOU = "Intel(R) Client Setup Certificate"

// SetupOID is the extended key usage that marks a certificate for AMT setup.
func SetupOID() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 113741, 1, 2, 3}
}

// Severity says what a finding means for use.
type Severity string

const (
	SeverityError Severity = "error" // no device would accept it
	SeverityWarn  Severity = "warn"  // some devices or our own policy refuse it
	SeverityInfo  Severity = "info"  // worth knowing
)

// A Finding is one thing worth saying about a certificate.
type Finding struct {
	Code     reason.Code `json:"code"`
	Severity Severity    `json:"severity"`
	Detail   string      `json:"detail"`
}

// Provisioning is one certificate with its key and every chain it can show.
type Provisioning struct {
	ID       string   // first 16 hexadecimal digits of the leaf's SHA-256
	Name     string   // subject common name, or the first dNSName without one
	Names    []string // common name, then dNSName entries; no repeats
	Leaf     *x509.Certificate
	Key      crypto.Signer
	Paths    []Path // best first; empty when no root was found
	Findings []Finding
	Forced   bool // the operator uses it outside its validity period; set it before sharing
}

// A Path is one chain, leaf first, self-signed root last.
type Path struct {
	Certs      []*x509.Certificate
	RootHashes []amt.TrustHash // SHA-384, SHA-256, SHA-1 of the root's DER
}

// Root is the last certificate of the path.
func (p Path) Root() *x509.Certificate { return p.Certs[len(p.Certs)-1] }

// TLS is what a handshake sends: the path verbatim, root included.
func (p *Provisioning) TLS(path Path) *tls.Certificate {
	t := &tls.Certificate{PrivateKey: p.Key, Leaf: p.Leaf}
	for _, c := range path.Certs {
		t.Certificate = append(t.Certificate, c.Raw)
	}
	return t
}

// Usable reports whether no finding is an error.
func (p *Provisioning) Usable() bool {
	return !slices.ContainsFunc(p.Findings, func(f Finding) bool { return f.Severity == SeverityError })
}

// Validity is nil inside the leaf's validity period, else cert_expired or
// cert_not_yet_valid. Firmware does not mind (amt/protocol.md 3.3); we do unless
// forced.
func (p *Provisioning) Validity(now time.Time) *reason.Error {
	if err := p.outside(now); err == nil || err.Code == reason.CertExpired {
		return err
	}
	return reason.Because(reason.CertNotYetValid, "certificate %s is not valid yet: it begins at %s, and %s; wait until then, or set the "+
		"clock right",
		p.Name, p.Leaf.NotBefore.UTC().Format(time.RFC3339), Clock(now))
}

// Clock is what is said of this server's clock beside a date that is not there yet.
func Clock(now time.Time) string { return "this server's clock says " + now.UTC().Format(time.RFC3339) }

// outside is Validity in words that stay the same from one moment to the next, for
// what is kept of a device and compared.
func (p *Provisioning) outside(now time.Time) *reason.Error {
	switch {
	case now.After(p.Leaf.NotAfter):
		return reason.Because(reason.CertExpired, "certificate %s expired on %s", p.Name, day(p.Leaf.NotAfter))
	case now.Before(p.Leaf.NotBefore):
		return reason.Because(reason.CertNotYetValid,
			"certificate %s is not valid yet: it begins at %s by this server's clock; wait until then, or set the clock right",
			p.Name, p.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// Serving reports whether devices are set up with it now: usable, and within its
// validity period or forced.
func (p *Provisioning) Serving(now time.Time) bool {
	return p.Usable() && (p.Forced || p.Validity(now) == nil)
}

// FindingsAt are the findings of another moment than the one it was read at.
func (p *Provisioning) FindingsAt(now time.Time) []Finding {
	out := slices.DeleteFunc(slices.Clone(p.Findings), func(f Finding) bool {
		return f.Code == reason.CertExpired || f.Code == reason.CertNotYetValid || f.Code == reason.CertExpiring
	})
	if p.Leaf != nil {
		inspectTime(p, now, addTo(&out))
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return rank(a.Severity) - rank(b.Severity) })
	return out
}

// New joins a leaf and its key, as a store keeps them, with chain material in
// any order. The error is cert_key_mismatch.
func New(leaf *x509.Certificate, key crypto.Signer, pool []*x509.Certificate, now time.Time) (*Provisioning, error) {
	if !samePublicKey(leaf.PublicKey, key.Public()) {
		return nil, reason.Because(reason.CertKeyMismatch, "the private key does not belong to certificate %s", nameOf(leaf))
	}
	return newProvisioning(leaf, key, pool, now), nil
}

// newProvisioning builds the paths and makes the findings. pool is any mixture
// of certificates; what does not belong to a path is left out.
func newProvisioning(leaf *x509.Certificate, key crypto.Signer, pool []*x509.Certificate, now time.Time) *Provisioning {
	p := &Provisioning{ID: IDOf(leaf), Name: nameOf(leaf), Names: namesOf(leaf), Leaf: leaf, Key: key}
	found := findPaths(leaf, pool)
	p.Paths = found.paths
	p.Findings = inspect(p, found, now)
	return p
}

// IDOf is the first 16 hexadecimal digits of the SHA-256 of a certificate.
func IDOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:8])
}

// KeyFingerprint is the SHA-256, in hexadecimal, of a public key's
// SubjectPublicKeyInfo: what joins a certificate to its request and a backup to
// its original.
func KeyFingerprint(pub crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

func nameOf(c *x509.Certificate) string {
	switch {
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case len(c.Subject.OrganizationalUnit) > 0:
		return c.Subject.OrganizationalUnit[0]
	case len(c.Subject.Organization) > 0:
		return c.Subject.Organization[0]
	}
	return c.Subject.String()
}

func namesOf(c *x509.Certificate) []string {
	var names []string
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	for _, n := range c.DNSNames {
		if !slices.ContainsFunc(names, func(have string) bool { return normalName(have) == normalName(n) }) {
			names = append(names, n)
		}
	}
	return names
}

func samePublicKey(a, b crypto.PublicKey) bool {
	switch k := a.(type) {
	case *rsa.PublicKey:
		return k.Equal(b)
	case *ecdsa.PublicKey:
		return k.Equal(b)
	case interface{ Equal(crypto.PublicKey) bool }:
		return k.Equal(b)
	}
	return false
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
