package server

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// Trust holds the provisioning certificates in use and our device CA. Replace
// replaces the list as a whole: a session under way finishes with its chain.
type Trust struct {
	now  func() time.Time
	list atomic.Pointer[[]*certs.Provisioning]
	ca   *certs.Authority
	mine *x509.CertPool

	identity identity
}

// NewTrust starts without provisioning certificates; key is our own identity's.
func NewTrust(ca *certs.Authority, key *rsa.PrivateKey, now func() time.Time) *Trust {
	t := &Trust{now: now, ca: ca, mine: x509.NewCertPool(), identity: identity{ca: ca, key: key, now: now,
		named: map[string]*tls.Certificate{}}}
	t.mine.AddCert(ca.Certificate())
	t.list.Store(&[]*certs.Provisioning{})
	return t
}

// All lists the certificates in use.
func (t *Trust) All() []*certs.Provisioning { return *t.list.Load() }

// Replace puts another list into use.
func (t *Trust) Replace(list []*certs.Provisioning) { t.list.Store(&list) }

// Candidates is certs.Match over the list in use. A device for which only an
// agent spoke announced no roots: then it tries each chain.
func (t *Trust) Candidates(announced []amt.TrustHash, hints certs.Hints) ([]certs.Candidate, error) {
	if announced == nil {
		return t.everything()
	}
	return certs.Match(t.All(), announced, hints, t.now())
}

func (t *Trust) everything() ([]certs.Candidate, error) {
	var out []certs.Candidate
	for _, p := range t.All() {
		if !p.Serving(t.now()) {
			continue
		}
		for _, path := range p.Paths {
			out = append(out, certs.Candidate{Cert: p, Path: path, Why: "the device announced no hashes"})
		}
	}
	if len(out) == 0 {
		return nil, reason.Because(reason.NoProvisioningCertificate, "no usable provisioning certificate is loaded")
	}
	return out, nil
}

// IssueDevice signs a device's TLS certificate.
func (t *Trust) IssueDevice(pub *rsa.PublicKey, uuid amt.UUID, fqdn, host string, validity time.Duration) ([]byte, error) {
	return t.ca.IssueDevice(pub, uuid, fqdn, host, t.now(), validity)
}

// IssuedByUs reports whether our device CA signed a certificate.
func (t *Trust) IssuedByUs(der []byte) bool {
	c, err := x509.ParseCertificate(der)
	return err == nil && c.CheckSignatureFrom(t.ca.Certificate()) == nil
}

// helloCertificate is our certificate for relays and agents: a provisioning
// certificate, leaf first and root last.
func (t *Trust) helloCertificate() (*tls.Certificate, error) {
	for _, p := range t.All() {
		if p.Usable() && len(p.Paths) > 0 {
			return p.TLS(p.Paths[0]), nil
		}
	}
	return nil, errors.New("no provisioning certificate is loaded to show to TLS clients of the hello port")
}

const deviceCAKey = "device_ca"

// deviceCA loads the device CA, or makes it at the very first start, for these
// zones alone if there are any.
func deviceCA(ctx context.Context, db *store.DB, now time.Time, zones []string) (*certs.Authority, error) {
	found, err := madeOnce(ctx, db, deviceCAKey, func() (amt.Secret, error) {
		ca, err := certs.NewAuthority("provisiond device CA", now, zones...)
		if err != nil {
			return amt.Secret{}, err
		}
		return ca.Secret()
	})
	if err != nil {
		return nil, fmt.Errorf("load the device CA: %w", err)
	}
	return certs.AuthorityFromStore(found)
}
