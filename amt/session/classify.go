package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"

	"crypto/tls"

	"github.com/provisiond/provisiond/amt/reason"
)

// TLS alerts that decide something (RFC 5246 7.2, RFC 8446 6).
const (
	alertBadRecordMAC       = 20
	alertHandshakeFailure   = 40
	alertBadCertificate     = 42
	alertIllegalParameter   = 47
	alertUnknownCA          = 48
	alertAccessDenied       = 49
	alertProtocolVersion    = 70
	alertInsufficient       = 71
	alertNoRenegotiation    = 100
	alertCertificateMissing = 116
)

// A failure names what went wrong in a handshake.
type failure struct {
	code   reason.Code
	result string // metric label
	alert  int    // the device's alert; -1: none
	lower  bool   // an older TLS version may help
	err    error
}

// classify names a failed handshake. asked: the device asked for a client
// certificate; sent: it got ours.
//
// Up to TLS 1.2 a client learns that the device refuses its certificate while
// still in the handshake, as it waits for the device's Finished: by an alert
// from firmware that sends one, and by a bare end of the connection from
// firmware that does not. So a failure after the device asked is about our
// certificate, and a failure before is about versions and suites.
func classify(err error, seen observed, asked, sent, timedOut bool) failure {
	f := failure{code: reason.TLSHandshakeFailed, result: "failed", alert: -1, err: err}
	var why *reason.Error
	var record tls.RecordHeaderError
	alert, theirs := alertOf(err)
	switch {
	case errors.As(err, &why): // from trustPolicy.verify
		f.code, f.err = why.Code, why.Err
		f.result = "peer_cert_invalid"
		if why.Code == reason.TLSPinnedKeyChanged {
			f.result = "pin_mismatch"
		}
	case seen.notTLS || errors.As(err, &record):
		f.err = fmt.Errorf("what answers does not speak TLS: %w", err)
	case theirs:
		f.alert = alert
		f.byAlert(asked, sent)
	case isTimeout(err) || timedOut:
		f.result = "timeout"
	case isEnd(err):
		if asked {
			f.refusedCertificate(sent, "the device ended the connection after it saw our certificate")
			break
		}
		f.lower = true
		f.err = fmt.Errorf("the device ended the connection during the handshake: %w", err)
	default:
		f.ours(err, seen)
	}
	return f
}

// byAlert names what the device said by a fatal alert.
func (f *failure) byAlert(asked, sent bool) {
	switch a := f.alert; {
	case a == alertCertificateMissing, a == alertAccessDenied, a >= alertBadCertificate && a <= alertUnknownCA &&
		a != alertIllegalParameter:
		f.refusedCertificate(sent, "the device refused our certificate")
	case asked && (a == alertHandshakeFailure || a == alertIllegalParameter):
		f.refusedCertificate(sent, "the device refused the handshake after it saw our certificate")
	case a == alertProtocolVersion, a == alertHandshakeFailure, a == alertInsufficient:
		f.code, f.result, f.lower = reason.TLSVersionRefused, "version_refused", true
		f.err = fmt.Errorf("the device accepts none of the TLS versions and cipher suites offered: %w", f.err)
	default: // includes bad_record_mac: an old stack that met a newer version
		f.lower = true
	}
}

func (f *failure) refusedCertificate(sent bool, words string) {
	f.code, f.result = reason.TLSClientCertRefused, "client_cert_refused"
	if !sent {
		words = "the device wants a client certificate and none was given"
	}
	f.err = fmt.Errorf("%s: %w", words, f.err)
}

// unparsed is how crypto/tls says that it cannot read the device's certificate. It
// is all there is of one that came over TLS 1.3.
const unparsed = "failed to parse certificate from server: "

// ours names what our own side could not accept. crypto/tls reports that as
// text only, so what the device sent decides.
func (f *failure) ours(err error, seen observed) {
	if problem := seen.certificateProblem(); problem != nil {
		f.code, f.result = reason.TLSPeerCertInvalid, "peer_cert_invalid"
		f.err = &CertificateError{bytes.Clone(seen.certificate[:min(len(seen.certificate), MaxOddCertificate)]), problem}
		return
	}
	if _, why, ok := strings.Cut(err.Error(), unparsed); ok {
		f.code, f.result = reason.TLSPeerCertInvalid, "peer_cert_invalid"
		f.err = &CertificateError{nil, fmt.Errorf("%s; the device speaks TLS 1.3, which encrypts its certificate, so that it is not kept "+
			"here: openssl s_client -connect ADDRESS -showcerts shows it; %s", why, mended)}
		return
	}
	if seen.version != 0 && seen.certificate == nil {
		// It chose a version or suite we did not offer, or none we know.
		f.code, f.result, f.lower = reason.TLSVersionRefused, "version_refused", seen.version >= tls.VersionTLS10
		f.err = fmt.Errorf("the device chose TLS %s with suite %s: %w", versionLabel(seen.version), tls.CipherSuiteName(seen.cipher), err)
		return
	}
	f.lower = true
}

// alertOf finds the alert in an error of crypto/tls, and whether the device
// sent it. Go does not export the type behind it, but its kind is one byte.
func alertOf(err error) (alert int, theirs bool) {
	op := new(net.OpError)
	if !errors.As(err, &op) || op.Op != "remote error" && op.Op != "local error" || op.Err == nil {
		return -1, false
	}
	v := reflect.ValueOf(op.Err)
	if v.Kind() != reflect.Uint8 {
		return -1, false
	}
	return int(v.Uint()), op.Op == "remote error"
}

// explain names a connection's failure in mid-conversation if TLS says more
// than that it ended; "" otherwise. In TLS 1.3 a client's handshake ends before
// the device has looked at its certificate, so the refusal arrives here.
func explain(err error) reason.Code {
	alert, theirs := alertOf(err)
	if alert < 0 {
		return ""
	}
	if !theirs {
		if alert == alertNoRenegotiation {
			return reason.TLSRenegotiationRefused
		}
		return ""
	}
	f := failure{alert: alert, err: err}
	if f.byAlert(false, true); f.code == reason.TLSClientCertRefused {
		return f.code
	}
	return ""
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
