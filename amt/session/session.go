// Package session is one conversation with one device: dial, trust, then typed
// questions and changes over WS-Management.
package session

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

// A Login is one name and password to answer a digest challenge with.
type Login = wsman.Login

// A Target says which device to call, and as whom.
type Target struct {
	Addr   netip.AddrPort
	Client *tls.Certificate // chain leaf to root, sent whatever the device lists; nil: none
	MinTLS uint16           // 0: TLS 1.0
	MaxTLS uint16           // 0: TLS 1.2
	Pin    []byte           // SHA-256 of the device's leaf certificate (DER); nil: any
	Logins []Login          // tried in this order if the device asks for digest
	// Plain goes without TLS, to the given port: a device before AMT 16.1 that was
	// set up without TLS answers like this, on 16992. Never use it for setup.
	Plain bool
}

// Peer is what the handshake showed of the device.
type Peer struct {
	TLSVersion      uint16
	Cipher          uint16
	Fingerprint     []byte // SHA-256 of the leaf certificate (DER)
	Key             []byte // SHA-256 of the leaf's public key (SubjectPublicKeyInfo, DER), which the handshake proved
	Hardware        []byte // the same of the hardware identity in a verified on-die chain; nil: none
	Chain           []*x509.Certificate
	ClientCertAsked bool
	ClientCertSent  bool   // the device asked for our certificate and got it
	ODCA            bool   // the chain has the shape of an on-die certificate chain; proves nothing by itself
	ODCAProblem     string // why the session could not verify such a chain; "" also without a configured root
	Verified        string // "odca", "pin" or "none": what the session verified
}

// Identity is what a device says of itself.
type Identity struct {
	UUID          amt.UUID
	Version       amt.Version
	SKU           string
	Realm         string // digest realm; read it before hashing a password
	HostName      string
	DomainName    string
	DHCPSuffix    string
	TrustedSuffix string
	MAC           string // aa:bb:cc:dd:ee:ff, "" if the device does not say it
	State         amt.ProvisioningState
	OTP           amt.Secret // zero: none
}

// CertInstance is one AMT_PublicKeyCertificate.
type CertInstance struct {
	Handle  string
	DER     []byte
	Trusted bool // a trusted root
}

// KeyInstance is one AMT_PublicPrivateKeyPair.
type KeyInstance struct {
	Handle string
	Public *rsa.PublicKey // nil if it is not RSA or not readable
}

// TLSSetting is one AMT_TLSSettingData.
type TLSSetting struct {
	InstanceID      string
	Enabled, Mutual bool
	TrustedCN       []string
}

// TLSMaterial is the content of the device's certificate store and TLS
// settings.
type TLSMaterial struct {
	Certificates []CertInstance
	Keys         []KeyInstance
	Context      string // handle of the certificate in use; "": none
	Settings     []TLSSetting
}

// Record is the firmware's own account of its provisioning.
type Record struct {
	Class          string // IPS_TLSProvisioningRecord and the like; "": none
	Mode           string
	ServerFQDN     string // the common name the device saw
	SuffixFromMEBx bool   // SecureDNS
	HostInitiated  bool
	HashType       string
	HashData       string
	HashIsDefault  bool
	ServerIP       string
	TimeValid      bool
	Raw            map[string]string
}

// A Session is one conversation with one device, over one connection, which it
// opens again only if the device closed it in good order. Every error of its
// calls is a *reason.Error; Sent means that a change may have happened.
type Session struct {
	client *wsman.Client
	now    func() time.Time

	mu   sync.Mutex // guards what a redial changes
	peer Peer
}

// Peer is what the last handshake showed of the device.
func (s *Session) Peer() Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer
}

// LoginUsed is the name of the login that the device last accepted; "" means
// that it never asked for one.
func (s *Session) LoginUsed() string { return s.client.LoginUsed() }

// Realm is the digest realm in which the device asked for a login, "" before it
// did.
func (s *Session) Realm() string { return s.client.Realm() }

// SetLogins replaces the logins to try. The session does not send a password
// again that this device refused, unless SetAdminPassword has made it the right
// one.
func (s *Session) SetLogins(l []Login) { s.client.SetLogins(l) }

// SetDeadline sets the end of everything, a call under way included: the end of
// the lease. Zero means none.
func (s *Session) SetDeadline(t time.Time) { s.client.SetDeadline(t) }

// Close ends the conversation.
func (s *Session) Close() error { return s.client.Close() }

// recode gives a refusal the name that the step has for it. What may have happened
// although the call failed keeps its own, and so does a failure of the line.
func recode(code reason.Code, err error) error {
	if why, ok := errors.AsType[*reason.Error](err); ok && why.Sent {
		return err
	}
	return reason.Named(code, err, passes(err))
}

// passes reports whether the same call may succeed later by itself: a busy
// device, or HTTP's refusal without a fault around it.
func passes(err error) bool {
	if status, ok := errors.AsType[amt.Status](err); ok {
		return status.Passes()
	}
	fault := new(wsman.Fault)
	return errors.As(err, &fault) && fault.Code == ""
}

// absent reports whether err means that this firmware lacks what the call asked
// for.
func absent(err error) bool {
	fault := new(wsman.Fault)
	return errors.As(err, &fault) && fault.NoSuchClass()
}

// refused reports whether the device understood the request and said no.
func refused(err error) bool {
	var status amt.Status
	fault := new(wsman.Fault)
	return errors.As(err, &fault) || errors.As(err, &status)
}

// clipText keeps a stranger's words short and printable.
func clipText(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > 255 {
		s = strings.ToValidUTF8(s[:255], "")
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '.'
	}, s)
}
