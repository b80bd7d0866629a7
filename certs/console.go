package certs

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// ConsoleZone is where the names of servers like this one lie. No DNS knows it
// (.internal is nobody's), and none has to: a device compares the name in the
// certificate with those it was told.
const ConsoleZone = "provisiond.internal"

// ConsoleName is the name under which the servers of one device CA log in at
// devices with mutual TLS. It comes from the CA, so that all nodes have the same
// one, and it stays whatever becomes of provisioning certificates.
func (a *Authority) ConsoleName() string {
	sum := sha256.Sum256(a.cert.Raw)
	return "ca-" + hex.EncodeToString(sum[:4]) + "." + ConsoleZone
}

// Console makes a key and its console certificate, with the authority behind
// the leaf: all of the chain has to be sent.
func (a *Authority) Console(name string, now time.Time, validity time.Duration) (*tls.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, reason.Because(reason.CAUnavailable, "make a console key: %w", err)
	}
	return a.ConsoleFor(key, name, now, validity)
}

// ConsoleFor is Console with a key at hand.
func (a *Authority) ConsoleFor(key *rsa.PrivateKey, name string, now time.Time, validity time.Duration) (*tls.Certificate, error) {
	der, err := a.IssueConsole(&key.PublicKey, name, now, validity)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, reason.Because(reason.CAUnavailable, "read our own console certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// ConsoleRequest reads a certificate request for a console, in any form that an
// import takes, and vouches for its key; what else it asks for is not looked at.
// The error is a *reason.Error with cert_input_invalid or the reason that the key
// cannot be used.
func ConsoleRequest(ctx context.Context, f File) (*x509.CertificateRequest, error) {
	b, err := open(ctx, f)
	if err != nil {
		return nil, err
	}
	if len(b.requests) == 0 {
		return nil, inFile(amt.Clip(f.Name), reason.Because(reason.CertInputInvalid,
			"there is no certificate request in it: a file that begins with -----BEGIN CERTIFICATE REQUEST----- is wanted"))
	}
	csr := b.requests[0]
	if err := csr.CheckSignature(); err != nil {
		return nil, reason.Because(reason.CertInputInvalid, "the certificate request is not signed with its own key: %w", err)
	}
	key, ok := csr.PublicKey.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, reason.Because(reason.KeyTypeUnsupported,
			"the certificate request is for a key of type %s; firmware of every age takes RSA only", csr.PublicKeyAlgorithm)
	case key.N.BitLen() < 2048:
		return nil, reason.Because(reason.KeyTooSmall, "the certificate request is for an RSA key of %d bits; 2048 are the least",
			key.N.BitLen())
	case key.N.BitLen() > 4096:
		return nil, reason.Because(reason.KeySizeUnsupported, "the certificate request is for an RSA key of %d bits; 4096 are the most",
			key.N.BitLen())
	}
	return csr, nil
}

// permits refuses a name outside the constraints that the authority carries, if
// it carries any: whoever checks them would refuse the certificate.
func (a *Authority) permits(name string) error {
	zones := a.cert.PermittedDNSDomains
	for _, z := range zones {
		if endsWith(normalName(name), normalName(z)) {
			return nil
		}
	}
	if len(zones) == 0 {
		return nil
	}
	return reason.Because(reason.DomainNotAllowed, "the device CA may sign for names in %s only, and %s is in none of them",
		strings.Join(zones, ", "), name)
}

// ServesDomain reports whether a certificate with one of these names says that a
// device belongs to a domain: the domain lies in that of the name, or it is one
// that firmware takes the name for, if it is more than a public suffix.
func ServesDomain(names []string, domain string) bool {
	d := normalName(domain)
	if !wellFormed(d) || strings.Contains(d, "*") {
		return false
	}
	n, listed := domainLabels[lastLabel(d)]
	if !listed {
		n = 2
	}
	for _, name := range names {
		base, wild := strings.CutPrefix(normalName(name), "*.")
		own := base
		if !wild {
			_, own, _ = strings.Cut(base, ".")
		}
		switch {
		case own == "":
		case d == own, labels(own) >= n && endsWith(d, own), labels(d) >= n && endsWith(own, d):
			return true
		case listed && tail(base, n) != "" && tail(base, n) == tail(d, n):
			return true
		}
	}
	return false
}
