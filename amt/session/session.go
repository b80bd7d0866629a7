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

// A Target is whom to call and as whom.
type Target struct {
	Addr   netip.AddrPort
	Client *tls.Certificate // chain leaf to root, sent whatever the device lists; nil: none
	MinTLS uint16           // 0: TLS 1.0
	MaxTLS uint16           // 0: TLS 1.2
	Pin    []byte           // SHA-256 of the device's leaf certificate (DER); nil: any
	Logins []Login          // tried in this order when the device asks for digest
	// Plain goes without TLS, to the port given: how a device before AMT 16.1
	// answers, on 16992, when it was set up without TLS. Never for setup.
	Plain bool
}

// Peer is what the handshake said of the device.
type Peer struct {
	TLSVersion      uint16
	Cipher          uint16
	Fingerprint     []byte // SHA-256 of the leaf certificate (DER)
	Key             []byte // SHA-256 of the leaf's public key (SubjectPublicKeyInfo, DER), which the handshake proved
	Hardware        []byte // the same of the hardware identity that a verified on-die chain leads through; nil: none
	Chain           []*x509.Certificate
	ClientCertAsked bool
	ClientCertSent  bool   // ours was asked for and given
	ODCA            bool   // the chain has the shape of an on-die certificate chain; proves nothing by itself
	ODCAProblem     string // why such a chain could not be verified; "" also when no root is configured
	Verified        string // "odca", "pin" or "none": what really was verified
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
	MAC           string // aa:bb:cc:dd:ee:ff, "" when not said
	State         amt.ProvisioningState
	OTP           amt.Secret // zero when none is set
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
	Public *rsa.PublicKey // nil when it is not RSA or not readable
}

// TLSSetting is one AMT_TLSSettingData.
type TLSSetting struct {
	InstanceID      string
	Enabled, Mutual bool
	TrustedCN       []string
}

// TLSMaterial is what the device's certificate store and TLS settings hold.
type TLSMaterial struct {
	Certificates []CertInstance
	Keys         []KeyInstance
	Context      string // handle of the certificate in use; "" none
	Settings     []TLSSetting
}

// Record is the firmware's own account of how it was provisioned.
type Record struct {
	Class          string // IPS_TLSProvisioningRecord and the like; "" when there is none
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

// A Session is one conversation with one device, over one connection that is
// opened again only where the device closed it in good order. Every error of
// its calls is a *reason.Error; Sent means that a change may have happened.
type Session struct {
	client *wsman.Client
	now    func() time.Time

	mu   sync.Mutex // guards what a redial changes
	peer Peer
}

// Peer is what the last handshake said of the device.
func (s *Session) Peer() Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer
}

// LoginUsed is the name of the login the device last accepted; "" means that it
// never asked for one.
func (s *Session) LoginUsed() string { return s.client.LoginUsed() }

// Realm is the digest realm the device has asked for a login in, "" before it did.
func (s *Session) Realm() string { return s.client.Realm() }

// SetLogins replaces the logins to try. A password this device refused is not sent
// to it again in this session, unless SetAdminPassword has made it the right one.
func (s *Session) SetLogins(l []Login) { s.client.SetLogins(l) }

// SetDeadline is when everything must be over, a call under way included: the
// end of the lease. Zero means none.
func (s *Session) SetDeadline(t time.Time) { s.client.SetDeadline(t) }

// Close ends the conversation.
func (s *Session) Close() error { return s.client.Close() }

// recode gives a device's refusal, a Status or a SOAP fault, the name the step
// has for it. A failure of the line keeps its own, and so does one that passes
// by itself where the step's name would call for a person.
func recode(code reason.Code, err error) error {
	why := new(reason.Error)
	if !errors.As(err, &why) || why.Sent || why.Code != reason.WSMANFault {
		return err
	}
	if reason.Of(code).Retry != reason.Repeat && passes(err) {
		return err
	}
	return &reason.Error{Code: code, Err: why.Err}
}

// passes reports whether the same call may succeed later, nobody doing anything:
// a busy device, or HTTP's refusal without a fault around it.
func passes(err error) bool {
	var status amt.Status
	if errors.As(err, &status) {
		return status == amt.StatusInternalError || status.Class() == amt.ClassWait || status.Class() == amt.ClassFlash
	}
	fault := new(wsman.Fault)
	return errors.As(err, &fault) && fault.Code == ""
}

// absent reports whether err means that this firmware does not have what was
// asked for.
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
