package session

import (
	"crypto/tls"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/provisiond/provisiond/amt/wsman"
)

// Metrics of the device side: handshakes, the old features that devices still
// need, how they were verified, connections that the guard kept back, and
// WS-Management.
type Metrics struct {
	handshakes *prometheus.CounterVec
	legacy     *prometheus.CounterVec
	verified   *prometheus.CounterVec
	denied     *prometheus.CounterVec
	wsman      *wsman.Metrics
}

var (
	handshakeResults = []string{"ok", "client_cert_refused", "version_refused", "peer_cert_invalid", "pin_mismatch", "renegotiation",
		"timeout", "failed"}
	legacyFeatures = []string{"tls10", "tls11", "rsa_kex", "sha1_signature", "rsa_1024", "rsa_small", "negative_serial", "rc4", "3des"}
	verifyMethods  = []string{"odca", "pin", "tofu", "none"}
)

// NewMetrics registers all of them with every label value present.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "provisiond_tls_handshakes_total",
			Help: "TLS handshakes with devices by negotiated version, cipher suite and result; none where it was not reached.",
		}, []string{"version", "cipher", "result"}),
		legacy: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "provisiond_tls_legacy_features_total",
			Help: "Handshakes that needed something modern TLS has left behind.",
		}, []string{"feature"}),
		verified: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "provisiond_tls_peer_verifications_total",
			Help: "How the device's certificate was checked.",
		}, []string{"method", "result"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "provisiond_egress_denied_total",
			Help: "Connections to devices that were not allowed to leave.",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.handshakes, m.legacy, m.verified, m.denied)
	}
	m.wsman = wsman.NewMetrics(reg)
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		for _, c := range cipherSuites {
			if v == tls.VersionTLS12 || !needsTLS12(c) {
				m.handshakes.WithLabelValues(versionLabel(v), tls.CipherSuiteName(c), "ok")
			}
		}
	}
	for _, c := range tls.CipherSuites() {
		if len(c.SupportedVersions) == 1 && c.SupportedVersions[0] == tls.VersionTLS13 {
			m.handshakes.WithLabelValues(versionLabel(tls.VersionTLS13), c.Name, "ok")
		}
	}
	for _, r := range handshakeResults {
		if r != "ok" {
			m.handshakes.WithLabelValues("none", "none", r)
		}
	}
	for _, f := range legacyFeatures {
		m.legacy.WithLabelValues(f)
	}
	for _, method := range verifyMethods {
		m.verified.WithLabelValues(method, "ok")
		m.verified.WithLabelValues(method, "failed")
	}
	for r := range egressWords {
		m.denied.WithLabelValues(r)
	}
	return m
}

func needsTLS12(id uint16) bool {
	for _, list := range [][]*tls.CipherSuite{tls.CipherSuites(), tls.InsecureCipherSuites()} {
		for _, c := range list {
			if c.ID == id {
				return c.SupportedVersions[0] == tls.VersionTLS12
			}
		}
	}
	return false
}

// versionLabel is 1.0 to 1.3, or none.
func versionLabel(v uint16) string {
	if v < tls.VersionTLS10 || v > tls.VersionTLS13 {
		return "none"
	}
	return fmt.Sprintf("1.%d", v-tls.VersionTLS10)
}
