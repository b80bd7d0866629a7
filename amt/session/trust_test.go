package session

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// An impostor may append the certificate we know to its own: only the leaf's
// key takes part in the handshake.
func TestPinIsOfTheLeafAlone(t *testing.T) {
	t.Parallel()
	known := deviceCertificate(certtest.Options{Name: "known device"})
	impostor := deviceCertificate(certtest.Options{Name: "impostor"})
	sum := sha256.Sum256(known.Certificate[0])
	for _, tc := range []struct {
		name  string
		chain [][]byte
		key   tls.Certificate
		ok    bool
	}{
		{"the device", known.Certificate, known, true},
		{"the device with more behind", [][]byte{known.Certificate[0], impostor.Certificate[0]}, known, true},
		{"an impostor", impostor.Certificate, impostor, false},
		{"an impostor with the device's behind", [][]byte{impostor.Certificate[0], known.Certificate[0]}, impostor, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, &tls.Config{Certificates: []tls.Certificate{{Certificate: tc.chain, PrivateKey: tc.key.PrivateKey}}}, nil)
			d, scrape := testDialer(t, Config{})
			peer, err := roundTrip(t, d, Target{Addr: s.addr, Client: ourChain(), Pin: sum[:]})
			result := "failed"
			if tc.ok {
				result = "ok"
				if err != nil || peer.Verified != "pin" {
					t.Errorf("%v, verified %q", err, peer.Verified)
				}
			} else {
				wantReason(t, err, reason.TLSPinnedKeyChanged)
			}
			if !strings.Contains(scrape(), `provisiond_tls_peer_verifications_total{method="pin",result="`+result+`"} 1`) {
				t.Error("not counted")
			}
		})
	}
}

// odcaChain makes six certificates of the shape Intel's on-die authority issues.
func odcaChain(t *testing.T) (chain [][]byte, key *ecdsa.PrivateKey, root *x509.Certificate) {
	t.Helper()
	issue := func(cn, ou string, parent *x509.Certificate, pk *ecdsa.PrivateKey, ca bool) (*x509.Certificate, *ecdsa.PrivateKey) {
		k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn, OrganizationalUnit: []string{ou}},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(20, 0, 0), IsCA: ca, BasicConstraintsValid: true}
		if !ca {
			tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		}
		if parent == nil {
			parent, pk = tmpl, k
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &k.PublicKey, pk)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, k
	}
	root, rk := issue("www.intel.com", "OnDie CA Root Cert Signing", nil, nil, true)
	c, k := issue("Intermediate", "ODCA CA2 CSME Intermediate CA", root, rk, true)
	list := [][]byte{c.Raw}
	for _, n := range [][2]string{{"Issuing", "ODCA 2 CSME P_LNL 00000001 Issuing CA"}, {"ODCA 2 CSME LNL SOC ROM CA", ""}, {"ODCA 2 CSME Kernel CA", ""}, {"ODCA 2 CSME SVN 01 AMT   CA", ""}} {
		c, k = issue(n[0], n[1], c, k, true)
		list = append([][]byte{c.Raw}, list...)
	}
	c, k = issue("AMT RCFG", "", c, k, false)
	return append([][]byte{c.Raw}, list...), k, root
}

func TestODCA(t *testing.T) {
	t.Parallel()
	chain, key, root := odcaChain(t)
	_, _, otherRoot := odcaChain(t)
	pool := func(c *x509.Certificate) *x509.CertPool { p := x509.NewCertPool(); p.AddCert(c); return p }
	sum := func(c *x509.Certificate) []byte { s := sha256.Sum256(c.Raw); return s[:] }
	for _, tc := range []struct {
		name     string
		chain    [][]byte
		cfg      Config
		shape    bool
		verified string
		problem  bool
	}{
		{"no root configured", chain, Config{}, true, "none", false},
		{"the root", chain, Config{ODCARoots: pool(root), ODCARootSum: sum(root)}, true, "odca", false},
		{"another root", chain, Config{ODCARoots: pool(otherRoot), ODCARootSum: sum(otherRoot)}, true, "none", true},
		{"a root that is not Intel's", chain, Config{ODCARoots: pool(root)}, true, "none", true},
		{"our clock before the chain", chain, Config{ODCARoots: pool(root), ODCARootSum: sum(root), Now: func() time.Time { return time.Unix(0, 0) }}, true, "none", true},
		{"five certificates", chain[:5], Config{ODCARoots: pool(root), ODCARootSum: sum(root)}, false, "none", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, &tls.Config{Certificates: []tls.Certificate{{Certificate: tc.chain, PrivateKey: key}}}, nil)
			d, _ := testDialer(t, tc.cfg)
			peer, err := roundTrip(t, d, Target{Addr: s.addr})
			if err != nil {
				t.Fatal(err)
			}
			if peer.ODCA != tc.shape || peer.Verified != tc.verified || (peer.ODCAProblem != "") != tc.problem {
				t.Errorf("shape %v, verified %q, problem %q", peer.ODCA, peer.Verified, peer.ODCAProblem)
			}
		})
	}
}
