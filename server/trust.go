package server

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// Trust holds the provisioning certificates in use and our device CA. The list
// is replaced as a whole: a session under way finishes on the chain it has.
type Trust struct {
	now  func() time.Time
	list atomic.Pointer[[]*certs.Provisioning]
	ca   *certs.Authority
	mine *x509.CertPool

	consoleMu sync.Mutex
	console   *tls.Certificate // made when first asked for
}

// NewTrust starts with no certificate at all.
func NewTrust(ca *certs.Authority, now func() time.Time) *Trust {
	t := &Trust{now: now, ca: ca, mine: x509.NewCertPool()}
	t.mine.AddCert(ca.Certificate())
	t.list.Store(&[]*certs.Provisioning{})
	return t
}

// All lists the certificates in use.
func (t *Trust) All() []*certs.Provisioning { return *t.list.Load() }

// Replace puts another list into use.
func (t *Trust) Replace(list []*certs.Provisioning) { t.list.Store(&list) }

// Candidates is certs.Match over the list in use. A device that never sent a
// hello, only an agent for it, announced nothing: then each chain is tried.
func (t *Trust) Candidates(announced []amt.TrustHash, hints certs.Hints) ([]certs.Candidate, error) {
	if announced == nil {
		return t.everything()
	}
	return certs.Match(t.All(), announced, hints, t.now())
}

func (t *Trust) everything() ([]certs.Candidate, error) {
	var out []certs.Candidate
	for _, p := range t.All() {
		if !p.Usable() || !p.Forced && p.Validity(t.now()) != nil {
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

// IssuedByUs reports whether a certificate carries our device CA's signature.
func (t *Trust) IssuedByUs(der []byte) bool {
	c, err := x509.ParseCertificate(der)
	return err == nil && c.CheckSignatureFrom(t.ca.Certificate()) == nil
}

const (
	consoleValidity = 365 * 24 * time.Hour
	consoleRenew    = 30 * 24 * time.Hour // before its end
)

// Console is what this server shows to devices that ask for a certificate after
// setup, and the root they must hold for it. The key lives in this process
// only: each node, and each start, issues itself another under the device CA.
func (t *Trust) Console() (*tls.Certificate, []byte) {
	root := t.ca.Certificate().Raw
	t.consoleMu.Lock()
	defer t.consoleMu.Unlock()
	if c := t.console; c != nil && c.Leaf.Subject.CommonName == t.consoleName() && t.now().Before(c.Leaf.NotAfter.Add(-consoleRenew)) {
		return c, root
	}
	c, err := t.ca.Console(t.consoleName(), t.now(), consoleValidity)
	if err != nil {
		return t.console, root
	}
	t.console = c
	return c, root
}

// consoleName is the name of the provisioning certificate, the one this server
// is known under: a device's trusted names are suffixes of it.
func (t *Trust) consoleName() string {
	for _, p := range t.All() {
		if p.Name != "" {
			return strings.Replace(strings.ToLower(p.Name), "*.", "provisiond.", 1)
		}
	}
	return "provisiond"
}

// helloCertificate is what our side shows to relays and agents: a provisioning
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

// deviceCA loads the device CA, or makes it at the very first start. Of several
// nodes that make one at once, the first to store it wins.
func deviceCA(ctx context.Context, db *store.DB, now time.Time) (*certs.Authority, error) {
	var found amt.Secret
	read := func(tx *store.Tx) (err error) {
		found, err = tx.SealedSetting(ctx, deviceCAKey)
		return err
	}
	err := db.Read(ctx, read)
	if errors.Is(err, store.ErrNotFound) {
		var sealed amt.Secret
		if sealed, err = newDeviceCA(now); err != nil {
			return nil, err
		}
		if err = db.Write(ctx, func(tx *store.Tx) error {
			return tx.CreateSealedSetting(ctx, deviceCAKey, sealed)
		}); err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, fmt.Errorf("store the device CA: %w", err)
		}
		err = db.Read(ctx, read)
	}
	if err != nil {
		return nil, fmt.Errorf("load the device CA: %w", err)
	}
	return certs.AuthorityFromStore(found)
}

func newDeviceCA(now time.Time) (amt.Secret, error) {
	ca, err := certs.NewAuthority("provisiond device CA", now)
	if err != nil {
		return amt.Secret{}, fmt.Errorf("make the device CA: %w", err)
	}
	return ca.Secret()
}
