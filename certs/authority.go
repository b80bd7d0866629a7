package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// An Authority is the CA that issues the certificates devices show once they
// are managed. Safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// caYears is how long the authority lives: longer than the machines.
const caYears = 20

// Backdate makes a certificate valid for devices whose clock is behind.
const Backdate = 24 * time.Hour

// NewAuthority makes an RSA-2048, SHA-256 root of this common name, valid for
// 20 years. Firmware of every age takes such a one. With zones it carries a name
// constraint: what it signs is good in these alone, and in ConsoleZone, for those
// who look at that. It is not critical, since firmware need not know it.
func NewAuthority(name string, now time.Time, zones ...string) (*Authority, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the key of the device CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.AddDate(caYears, 0, 0),
		SignatureAlgorithm:    x509.SHA256WithRSA,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		SubjectKeyId:          keyID(&key.PublicKey),
	}
	for _, z := range zones {
		t.PermittedDNSDomains = append(t.PermittedDNSDomains, normalName(z))
	}
	if len(zones) > 0 {
		t.PermittedDNSDomains = append(t.PermittedDNSDomains, ConsoleZone)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the device CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the device CA: %w", err)
	}
	return &Authority{cert, key}, nil
}

// LoadAuthority reads what Marshal wrote.
func LoadAuthority(certDER, keyDER []byte) (*Authority, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, reason.Because(reason.CAUnavailable, "the device CA's certificate cannot be read: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, reason.Because(reason.CAUnavailable, "the device CA's key cannot be read: %w", err)
	}
	key, ok := k.(*rsa.PrivateKey)
	switch {
	case !ok:
		return nil, reason.Because(reason.CAUnavailable, "the device CA's key is not RSA")
	case !cert.IsCA:
		return nil, reason.Because(reason.CAUnavailable, "%s is not a CA certificate", nameOf(cert))
	case !samePublicKey(cert.PublicKey, &key.PublicKey):
		return nil, reason.Because(reason.CAUnavailable, "the device CA's key belongs to another certificate")
	}
	return &Authority{cert, key}, nil
}

// Marshal gives the certificate and the key (PKCS#8), both DER. The key is for
// sealing at once.
func (a *Authority) Marshal() (certDER, keyDER []byte, err error) {
	keyDER, err = x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("write the device CA's key: %w", err)
	}
	return a.cert.Raw, keyDER, nil
}

// Certificate is the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// IssueDevice issues a device's TLS certificate: common name fqdn, the device's
// UUID as the subject's serialNumber (X.520, 6.2.9), dNSName fqdn and host, usable
// as a server only, valid from a day ago, random 64-bit serial. It ends with the
// authority at the latest. An error is a *reason.Error with ca_unavailable, or
// domain_not_allowed under an authority that is good in some zones alone.
func (a *Authority) IssueDevice(pub crypto.PublicKey, uuid amt.UUID, fqdn, host string, now time.Time, validity time.Duration) ([]byte,
	error) {
	key, ok := pub.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, reason.Because(reason.CAUnavailable, "a device certificate needs an RSA key, not %T", pub)
	case fqdn == "":
		return nil, reason.Because(reason.CAUnavailable, "a device certificate needs a name")
	case validity <= 0:
		return nil, reason.Because(reason.CAUnavailable, "a device certificate needs a time to live")
	case !now.Before(a.cert.NotAfter):
		return nil, reason.Because(reason.CAUnavailable, "the device CA expired on %s", day(a.cert.NotAfter))
	}
	if err := a.permits(fqdn); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, &reason.Error{Code: reason.CAUnavailable, Err: err}
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName(fqdn, host), SerialNumber: uuid.String()},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(validity),
		SignatureAlgorithm:    x509.SHA256WithRSA,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(key),
		DNSNames:              []string{fqdn},
	}
	if host != "" && !strings.EqualFold(host, fqdn) && a.permits(host) == nil {
		t.DNSNames = append(t.DNSNames, host)
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key, a.key)
	if err != nil {
		return nil, reason.Because(reason.CAUnavailable, "issue a certificate for %s: %w", fqdn, err)
	}
	return der, nil
}

// IssueProvisioning issues a provisioning certificate under a root of one's own,
// for fleets that were given its hash by USB or by the maker: names[0] is the
// common name, .local and the like are allowed. Errors are *reason.Error.
func (a *Authority) IssueProvisioning(pub crypto.PublicKey, names []string, now time.Time, validity time.Duration) ([]byte, error) {
	key, ok := pub.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, reason.Because(reason.KeyTypeUnsupported, "a provisioning certificate needs an RSA key, not %T", pub)
	case key.N.BitLen() < 2048:
		return nil, reason.Because(reason.KeyTooSmall, "a provisioning certificate needs an RSA key of 2048 bits, not %d", key.N.BitLen())
	case len(names) == 0:
		return nil, reason.Because(reason.CertInputInvalid, "a provisioning certificate needs a name")
	case validity <= 0:
		return nil, reason.Because(reason.CertInputInvalid, "a provisioning certificate needs a time to live")
	case !now.Before(a.cert.NotAfter):
		return nil, reason.Because(reason.CAUnavailable, "%s expired on %s", nameOf(a.cert), day(a.cert.NotAfter))
	}
	names, err := requestNames(RequestOptions{CommonName: names[0], Names: names[1:], PrivateNames: true})
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, &reason.Error{Code: reason.CAUnavailable, Err: err}
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: names[0]},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(validity),
		SignatureAlgorithm:    x509.SHA256WithRSA,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{SetupOID()},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(key),
		DNSNames:              names,
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key, a.key)
	if err != nil {
		return nil, reason.Because(reason.CAUnavailable, "issue a provisioning certificate for %s: %w", names[0], err)
	}
	return der, nil
}

// ConsoleOID marks a certificate that may open a mutual TLS session with a
// managed device (Intel AMT, remote console).
func ConsoleOID() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 16, 840, 1, 113741, 1, 2, 1}
}

// IssueConsole issues the client certificate this server shows to devices that
// ask for one after setup: common name and dNSName name, clientAuth and
// ConsoleOID. A device takes it when it holds the authority as a trusted root
// and name ends in one of its trusted names. An error is a *reason.Error with
// ca_unavailable.
func (a *Authority) IssueConsole(pub crypto.PublicKey, name string, now time.Time, validity time.Duration) ([]byte, error) {
	key, ok := pub.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, reason.Because(reason.CAUnavailable, "a console certificate needs an RSA key, not %T", pub)
	case name == "":
		return nil, reason.Because(reason.CAUnavailable, "a console certificate needs a name")
	case !now.Before(a.cert.NotAfter):
		return nil, reason.Because(reason.CAUnavailable, "%s expired on %s", nameOf(a.cert), day(a.cert.NotAfter))
	}
	if err := a.permits(name); err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, &reason.Error{Code: reason.CAUnavailable, Err: err}
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName(name, "")},
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(validity),
		SignatureAlgorithm:    x509.SHA256WithRSA,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{ConsoleOID()},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(key),
		DNSNames:              []string{name},
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key, a.key)
	if err != nil {
		return nil, reason.Because(reason.CAUnavailable, "issue a console certificate for %s: %w", name, err)
	}
	return der, nil
}

// commonName keeps to the 64 characters X.520 allows; the whole name stays in
// the dNSName.
func commonName(fqdn, host string) string {
	switch {
	case len(fqdn) <= 64:
		return fqdn
	case host != "" && len(host) <= 64:
		return host
	}
	return fqdn[:64]
}

// newSerial is 64 random bits with the top one clear and not zero: positive,
// and eight bytes in DER, which the oldest firmware takes.
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 63)
	for {
		n, err := rand.Int(rand.Reader, limit)
		if err != nil {
			return nil, fmt.Errorf("make a serial number: %w", err)
		}
		if n.BitLen() > 32 {
			return n, nil
		}
	}
}

func keyID(pub *rsa.PublicKey) []byte {
	sum := sha1.Sum(x509.MarshalPKCS1PublicKey(pub)) // RFC 5280 4.2.1.2 (1)
	return sum[:]
}
