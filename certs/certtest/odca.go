package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"
)

// ODCA makes what a device of AMT 15 shows of its hardware: six certificates of
// the shape that Intel's on-die authority issues, leaf first, with the leaf's key,
// and the root above them, which the device does not send.
func ODCA(now time.Time) (chip tls.Certificate, root *x509.Certificate) {
	issue := func(cn, ou string, parent *x509.Certificate, pk *ecdsa.PrivateKey, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			panic(err)
		}
		serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
		if err != nil {
			panic(err)
		}
		tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: cn, OrganizationalUnit: []string{ou}},
			NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(20, 0, 0), IsCA: ca, BasicConstraintsValid: true}
		if !ca {
			tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		}
		if parent == nil {
			parent, pk = tmpl, k
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &k.PublicKey, pk)
		if err != nil {
			panic(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return c, k
	}
	root, rk := issue("www.intel.com", "OnDie CA Root Cert Signing", nil, nil, true)
	c, k := issue("Intermediate", "ODCA CA2 CSME Intermediate CA", root, rk, true)
	list := [][]byte{c.Raw}
	for _, n := range [][2]string{{"Issuing", "ODCA 2 CSME P_LNL 00000001 Issuing CA"}, {"ODCA 2 CSME LNL SOC ROM CA", ""},
		{"ODCA 2 CSME Kernel CA", ""}, {"ODCA 2 CSME SVN 01 AMT   CA", ""}} {
		c, k = issue(n[0], n[1], c, k, true)
		list = append([][]byte{c.Raw}, list...)
	}
	c, k = issue("AMT RCFG", "", c, k, false)
	return tls.Certificate{Certificate: append([][]byte{c.Raw}, list...), PrivateKey: k}, root
}
