package session

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
)

// IntelODCARoot is the SHA-256 of Intel's OnDie CA root certificate, which
// signs what AMT 15 and later can show of themselves (tsci.intel.com,
// OnDie_CA_RootCA_Certificate.cer). The session never trusts a root that the
// device sends. The configuration names the root; compare it with this.
const IntelODCARoot = "beb40bb7507b33967226aa80e084749fbb6593893c642e818d682e9a8d07fc24"

// A trustPolicy decides what a device's certificate is worth, on every
// handshake. It replaces crypto/tls's own verification, because before AMT 15
// the firmware itself makes the certificate, which proves nothing but that the
// same key answers again.
type trustPolicy struct {
	pin   []byte         // SHA-256 of the leaf; nil: any
	roots *x509.CertPool // Intel's on-die root, if the configuration names one
	now   func() time.Time

	found Peer // filled by verify
}

func newTrustPolicy(pin []byte, cfg Config) *trustPolicy {
	return &trustPolicy{pin: pin, roots: cfg.ODCARoots, now: cfg.Now}
}

// verify is tls.Config.VerifyConnection. It fails only for a pin that does not
// match: the caller decides whether an unverified device may be set up.
func (p *trustPolicy) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return reason.Because(reason.TLSPeerCertInvalid, "the device sent no certificate")
	}
	leaf := cs.PeerCertificates[0]
	sum, key := sha256.Sum256(leaf.Raw), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	p.found = Peer{
		TLSVersion: cs.Version, Cipher: cs.CipherSuite,
		Fingerprint: sum[:], Key: key[:], Chain: cs.PeerCertificates,
		ODCA: odcaShape(cs.PeerCertificates), Verified: "none",
	}
	// Only the leaf's key takes part in the handshake. Anybody can copy and append
	// any other certificate of the list.
	if p.pin != nil {
		if !bytes.Equal(p.pin, sum[:]) {
			return reason.Because(reason.TLSPinnedKeyChanged, "the device's certificate is %x…, not %x… as before", sum[:8], head(p.pin, 8))
		}
		p.found.Verified = "pin"
	}
	if p.found.ODCA && p.roots != nil {
		if hardware, err := p.verifyODCA(cs.PeerCertificates); err != nil {
			p.found.ODCAProblem = clipText(err.Error())
		} else {
			p.found.Verified, p.found.Hardware = "odca", hardware
		}
	}
	return nil
}

// odcaShape reports whether a chain looks like one of Intel's on-die authority
// (amt/protocol.md 4.2): four or six certificates, the leaf's name, and a ROM
// certificate in the fourth place. Looks prove nothing.
func odcaShape(chain []*x509.Certificate) bool {
	if len(chain) != 4 && len(chain) != 6 {
		return false
	}
	if n := chain[0].Subject.CommonName; n != "iAMT CSME IDevID RCFG" && n != "AMT RCFG" {
		return false
	}
	rom := chain[3]
	if n := rom.Subject.CommonName; !strings.Contains(n, "ROM CA") && !strings.Contains(n, "ROM DE") {
		return false
	}
	for _, ou := range rom.Issuer.OrganizationalUnit {
		for _, prefix := range []string{"ODCA 2 CSME", "On Die CSME"} {
			if strings.HasPrefix(ou, prefix) {
				return true
			}
		}
	}
	return false
}

// verifyODCA builds the chain up to a configured root. The certificates carry
// usages of their own, so it accepts any; our clock checks the dates. The
// answer is the SHA-256 of the public key in the fourth place of the chain that
// was built, not of the one that was sent: the ROM's certificate, which stays
// the same for as long as the platform lives ("Intel AMT ODCA", Certificate
// Chain).
func (p *trustPolicy) verifyODCA(chain []*x509.Certificate) (hardware []byte, err error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	built, err := chain[0].Verify(x509.VerifyOptions{
		Roots: p.roots, Intermediates: between, CurrentTime: p.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, err
	}
	for _, c := range built {
		if len(c) > 4 && c[3].Equal(chain[3]) {
			sum := sha256.Sum256(c[3].RawSubjectPublicKeyInfo)
			return sum[:], nil
		}
	}
	return nil, nil
}

// legacyFeaturesOf lists what a finished handshake needed that modern TLS has
// dropped, in the words of the metric.
func legacyFeaturesOf(p Peer) []string {
	var out []string
	switch p.TLSVersion {
	case tls.VersionTLS10:
		out = append(out, "tls10")
	case tls.VersionTLS11:
		out = append(out, "tls11")
	}
	switch p.Cipher {
	case tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
		tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384:
		out = append(out, "rsa_kex")
	case tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA:
		out = append(out, "rsa_kex", "3des")
	case tls.TLS_RSA_WITH_RC4_128_SHA:
		out = append(out, "rsa_kex", "rc4")
	}
	if len(p.Chain) == 0 {
		return out
	}
	leaf := p.Chain[0]
	switch leaf.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA:
		out = append(out, "sha1_signature")
	}
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok {
		switch bits := key.N.BitLen(); {
		case bits < 1024:
			out = append(out, "rsa_small")
		case bits < 2040: // a modulus of 2047 bits is a 2048-bit key
			out = append(out, "rsa_1024")
		}
	}
	if leaf.SerialNumber != nil && leaf.SerialNumber.Sign() < 0 {
		out = append(out, "negative_serial")
	}
	return out
}

func head(b []byte, n int) []byte { return b[:min(n, len(b))] }
