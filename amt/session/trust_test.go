package session

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
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

func TestODCA(t *testing.T) {
	t.Parallel()
	chip, root := certtest.ODCA(time.Now())
	chain, key := chip.Certificate, chip.PrivateKey
	_, otherRoot := certtest.ODCA(time.Now())
	pool := func(c *x509.Certificate) *x509.CertPool { p := x509.NewCertPool(); p.AddCert(c); return p }
	for _, tc := range []struct {
		name     string
		chain    [][]byte
		cfg      Config
		shape    bool
		verified string
		problem  bool
	}{
		{"no root configured", chain, Config{}, true, "none", false},
		{"the root", chain, Config{ODCARoots: pool(root)}, true, "odca", false},
		{"another root", chain, Config{ODCARoots: pool(otherRoot)}, true, "none", true},
		{"our clock before the chain", chain, Config{ODCARoots: pool(root), Now: func() time.Time { return time.Unix(0, 0) }}, true, "none", true},
		{"five certificates", chain[:5], Config{ODCARoots: pool(root)}, false, "none", false},
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
