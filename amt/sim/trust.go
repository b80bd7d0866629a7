package sim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
)

var (
	oidSetup   = asn1.ObjectIdentifier{2, 16, 840, 1, 113741, 1, 2, 3} // remote configuration
	oidConsole = asn1.ObjectIdentifier{2, 16, 840, 1, 113741, 1, 2, 1} // remote console, mutual TLS after setup
)

const setupOU = "Intel(R) Client Setup Certificate" // to the letter

// setupPeer is what the device keeps of the chain that opened a setup session;
// it ends up in the provisioning record.
type setupPeer struct {
	name      string // subject CN
	hash      amt.TrustHash
	isDefault bool     // an OEM hash, not a custom one
	serials   [][]byte // of the CA certificates
	timeValid bool
	secureDNS bool // a person typed the suffix in MEBx
}

// judge decides about a chain in setup mode, in firmware's order. Firmware
// reads the dates and never refuses because of them.
func (d *Device) judge(raw [][]byte, now time.Time) (*setupPeer, error) {
	if len(raw) < 2 {
		return nil, errors.New("the chain does not hold the root")
	}
	chain := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		chain[i] = c
	}
	leaf, root := chain[0], chain[len(chain)-1]

	if !hasServerAuth(leaf) {
		return nil, errors.New("the leaf is not a TLS server certificate")
	}
	if !hasMarker(leaf) {
		return nil, errors.New("the leaf has neither the setup OID nor the setup OU")
	}
	hash, isDefault, ok := d.trusts(root.Raw)
	if !ok {
		return nil, errors.New("the last certificate is no root this device knows")
	}
	for i, c := range chain {
		if err := d.p.acceptsKey(c); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		if d.p.ModernChain && sha1Signed(c) {
			return nil, fmt.Errorf("certificate %d is signed with SHA-1", i)
		}
		issuer := root
		if i+1 < len(chain) {
			issuer = chain[i+1]
		}
		if !bytes.Equal(c.RawIssuer, issuer.RawSubject) {
			return nil, fmt.Errorf("certificate %d was not issued by the one after it", i)
		}
		if err := checkSignature(c, issuer); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
	}
	suffix, secure := d.suffix()
	if suffix == "" {
		return nil, errors.New("the device has no domain suffix")
	}
	if !d.certificateServes(leaf, suffix) {
		return nil, fmt.Errorf("the certificate's names do not fit the suffix %s", suffix)
	}

	p := &setupPeer{name: leaf.Subject.CommonName, hash: hash, isDefault: isDefault, secureDNS: secure, timeValid: true}
	for i, c := range chain {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			p.timeValid = false
		}
		if i > 0 {
			p.serials = append(p.serials, c.SerialNumber.Bytes())
		}
	}
	return p, nil
}

func hasServerAuth(c *x509.Certificate) bool {
	for _, u := range c.ExtKeyUsage {
		if u == x509.ExtKeyUsageServerAuth {
			return true
		}
	}
	return false
}

func hasMarker(c *x509.Certificate) bool {
	for _, ou := range c.Subject.OrganizationalUnit {
		if ou == setupOU {
			return true
		}
	}
	return hasUsage(c, oidSetup)
}

func hasUsage(c *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	for _, o := range c.UnknownExtKeyUsage {
		if o.Equal(oid) {
			return true
		}
	}
	return false
}

// suffix is the name that a certificate must fit: typed in MEBx, else from
// DHCP.
func (d *Device) suffix() (name string, secure bool) {
	if d.cfg.MEBxSuffix != "" {
		return d.cfg.MEBxSuffix, true
	}
	return d.cfg.Suffix, false
}

func (d *Device) certificateServes(leaf *x509.Certificate, suffix string) bool {
	if serves(leaf.Subject.CommonName, suffix, d.p.Suffix) {
		return true
	}
	if d.p.Suffix.san {
		for _, n := range leaf.DNSNames {
			if serves(n, suffix, d.p.Suffix) {
				return true
			}
		}
	}
	return false
}

// acceptsKey is the generation's rule on key sizes.
func (p *Personality) acceptsKey(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		switch {
		case bits > 2048 && !p.LongKeys:
			return fmt.Errorf("an RSA key of %d bits is too long for AMT %s", bits, p.Version)
		case bits < 2048 && p.ModernChain:
			return fmt.Errorf("an RSA key of %d bits is too short for AMT %s", bits, p.Version)
		}
		return nil
	case *ecdsa.PublicKey:
		if p.ECC {
			return nil
		}
	}
	return fmt.Errorf("AMT %s does not know this kind of key", p.Version)
}

func sha1Signed(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA, x509.DSAWithSHA1:
		return true
	}
	return false
}

// checkSignature verifies without crypto/x509's policy, which refuses SHA-1 and
// MD5 altogether.
func checkSignature(c, issuer *x509.Certificate) error {
	h := signatureHash(c.SignatureAlgorithm)
	if h == 0 {
		return c.CheckSignatureFrom(issuer)
	}
	w := h.New()
	w.Write(c.RawTBSCertificate)
	sum := w.Sum(nil)
	switch k := issuer.PublicKey.(type) {
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(k, h, sum, c.Signature) == nil {
			return nil
		}
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(k, sum, c.Signature) {
			return nil
		}
	}
	return errors.New("the signature does not verify")
}

func signatureHash(a x509.SignatureAlgorithm) crypto.Hash {
	switch a {
	case x509.MD5WithRSA:
		return crypto.MD5
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		return crypto.SHA1
	case x509.SHA256WithRSA, x509.ECDSAWithSHA256:
		return crypto.SHA256
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384:
		return crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512:
		return crypto.SHA512
	}
	return 0
}

// trusts looks a root up in the active part of the hash table.
func (d *Device) trusts(der []byte) (h amt.TrustHash, isDefault, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, sum := range amt.HashesOf(der) {
		for _, e := range d.now.hashes {
			if e.enabled && e.hash.Equal(sum) {
				return e.hash, e.isDefault, true
			}
		}
	}
	return amt.TrustHash{}, false, false
}

// judgeConsole decides about the client of a mutual TLS session after setup: it
// needs a console certificate under a root that the server gave this device.
func judgeConsole(raw [][]byte, roots [][]byte, trustedCN []string) error {
	if len(raw) == 0 {
		return errors.New("no console certificate")
	}
	pool, inter := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range roots {
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	leaf, err := x509.ParseCertificate(raw[0])
	if err != nil {
		return err
	}
	for _, der := range raw[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			inter.AddCert(c)
		}
	}
	if !hasUsage(leaf, oidConsole) {
		return errors.New("the certificate is not a console's")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: inter,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return err
	}
	if len(trustedCN) == 0 {
		return nil
	}
	for _, cn := range trustedCN {
		if endsWith(labels(leaf.Subject.CommonName), labels(cn)) {
			return nil
		}
	}
	return errors.New("the console's name is not among the trusted ones")
}
