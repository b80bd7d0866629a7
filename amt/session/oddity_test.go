package session

import (
	"bytes"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

var oddCases = map[string]string{
	"basic-noca":    "the basic constraints give a path length below zero",
	"bool":          "the extension basic constraints marks itself critical with 01: DER knows 00 and FF only",
	"dup-ext":       "the extension extended key usage is there twice",
	"inner-outer":   "the signature algorithm inside is SHA-1 with RSA and outside SHA-256 with RSA: both have to be the same",
	"latin1-utf8":   `in the name of the issuer and subject, the common name "Intel\xae AMT self-signed certificate" calls itself UTF-8 and is not: most likely it is Latin-1`,
	"padded-serial": "the serial number 000001 is padded: DER has no needless leading byte",
	"printable":     `holds the character "@", which a PrintableString may not`,
	"printable-reg": `holds the character "\xae", which a PrintableString may not`,
	"time-zone":     `the date notBefore is written "220101000000+0000": DER wants UTC, with seconds, and a Z at its end`,
}

func oddCertificate(t testing.TB, name string) []byte {
	t.Helper()
	der, err := os.ReadFile(filepath.Join("testdata", "odd", name+".cer"))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A device whose certificate crypto/tls does not take is refused with the field
// and its fault in words, after one connection, and the certificate is kept.
func TestOddCertificates(t *testing.T) {
	t.Parallel()
	for name, want := range oddCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			der := oddCertificate(t, name)
			s := startServer(t, &tls.Config{MaxVersion: tls.VersionTLS12,
				Certificates: []tls.Certificate{{Certificate: [][]byte{der},
					PrivateKey: deviceCertificate(certtest.Options{}).PrivateKey}}}, nil)
			d, _ := testDialer(t, Config{})
			_, err := roundTrip(t, d, Target{Addr: s.addr, Client: ourChain()})
			wantReason(t, err, reason.TLSPeerCertInvalid)
			for _, words := range []string{want, "no firmware update is known", "3.2.2"} {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%v\nlacks %q", err, words)
				}
			}
			if len(err.Error()) > 500 {
				t.Errorf("%d bytes do not fit a run's detail: %v", len(err.Error()), err)
			}
			if kept := new(CertificateError); !errors.As(err, &kept) || !bytes.Equal(kept.DER, der) {
				t.Error("the certificate is not kept")
			}
			if n := s.conns.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// Of a device that speaks TLS 1.3 alone the certificate comes encrypted: it is
// named as what ends the handshake all the same.
func TestOddCertificateOverTLS13(t *testing.T) {
	t.Parallel()
	s := startServer(t, &tls.Config{MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{oddCertificate(t, "padded-serial")},
			PrivateKey: deviceCertificate(certtest.Options{}).PrivateKey}}}, nil)
	d, _ := testDialer(t, Config{})
	_, err := roundTrip(t, d, Target{Addr: s.addr, Client: ourChain()})
	wantReason(t, err, reason.TLSPeerCertInvalid)
	for _, words := range []string{"malformed serial number", "TLS 1.3", "openssl s_client", "no firmware update is known"} {
		if !strings.Contains(err.Error(), words) {
			t.Errorf("%v\nlacks %q", err, words)
		}
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want one with TLS 1.2 and one with TLS 1.3", n)
	}
}

// Whatever a device sends, reading it ends and names no more than there is.
func FuzzOddities(f *testing.F) {
	for name := range oddCases {
		f.Add(oddCertificate(f, name))
	}
	f.Fuzz(func(t *testing.T, der []byte) { oddities(der) })
}
