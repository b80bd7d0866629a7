package certtest

import (
	"crypto/x509"
	"encoding/pem"
	"time"
)

// A Vendor answers certificate requests as a CA does that sells certificates:
// from the same root and intermediate each time, and each certificate lasts
// longer than the one before.
type Vendor struct {
	root, issuing *CA
	issued        int
}

// Vendor makes a CA that answers requests.
func (l *Lab) Vendor() *Vendor {
	root := l.Root(Options{Name: "Test Vendor Root"})
	return &Vendor{root: root, issuing: root.Intermediate(Options{Name: "Test Vendor Issuing CA"})}
}

// Answer gives the certificate for a PEM request and the bundle of issuers, root first.
func (v *Vendor) Answer(request []byte) (certificate, bundle []byte) {
	block, _ := pem.Decode(request)
	if block == nil {
		panic("certtest: the request is not PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		panic("certtest: read the request: " + err.Error())
	}
	life := time.Duration(365+30*v.issued) * 24 * time.Hour
	v.issued++
	leaf := v.issuing.Sign(Options{Name: csr.Subject.CommonName, Names: csr.DNSNames, NotAfter: v.root.lab.now.Add(life)}, csr.PublicKey)
	return PEM(leaf), PEM(v.root.Cert, v.issuing.Cert)
}
