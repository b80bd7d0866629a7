// Package session is one conversation with one device: dial, trust, then typed
// questions and changes over WS-Management.
package session

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
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
}

// Peer is what the handshake said of the device.
type Peer struct {
	TLSVersion      uint16
	Cipher          uint16
	Fingerprint     []byte // SHA-256 of the leaf certificate (DER)
	Chain           []*x509.Certificate
	ClientCertAsked bool
	ODCA            bool   // the chain has the shape of an on-die certificate chain
	Verified        string // "odca", "pin" or "none"
}

// Identity is what a device says of itself.
type Identity struct {
	UUID           amt.UUID
	Version        amt.Version
	SKU            string
	Realm          string // digest realm; read it before hashing a password
	HostName       string
	DomainName     string
	DHCPSuffix     string
	TrustedSuffix  string
	ServerFQDN     string
	MAC            string // aa:bb:cc:dd:ee:ff, "" when not said
	State          amt.ProvisioningState
	ControlMode    amt.ControlMode
	PrivacyExtreme bool
	OTP            amt.Secret // zero when none is set
	ZeroTouch      *bool      // remote configuration enabled; nil when not said
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
	InstanceID         string
	Enabled, Mutual    bool
	TrustedCN          []string
	NonSecureSupported *bool
	AcceptNonSecure    *bool
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

var errSoon = errors.New("not written yet")

// Config is what all conversations share.
type Config struct {
	Control          func(network, address string, c syscall.RawConn) error
	HandshakeTimeout time.Duration
	CallTimeout      time.Duration
	RefusedPatience  time.Duration
	Now              func() time.Time
}

// Metrics of this package.
type Metrics struct{}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics { return &Metrics{} }

// Dialer opens sessions.
type Dialer struct{}

// NewDialer builds one.
func NewDialer(cfg Config, log *zap.Logger, m *Metrics) *Dialer { return &Dialer{} }

// Dial calls a device.
func (d *Dialer) Dial(ctx context.Context, t Target) (*Session, error) { return nil, errSoon }

// Session is one conversation.
type Session struct{}

func (s *Session) Peer() Peer                                               { return Peer{} }
func (s *Session) LoginUsed() string                                        { return "" }
func (s *Session) SetLogins(l []Login)                                      {}
func (s *Session) SetDeadline(t time.Time)                                  {}
func (s *Session) Close() error                                             { return nil }
func (s *Session) Identify(ctx context.Context) (Identity, error)           { return Identity{}, errSoon }
func (s *Session) State(ctx context.Context) (amt.ProvisioningState, error) { return 0, errSoon }
func (s *Session) ExtendSetup(ctx context.Context, hours int) error         { return errSoon }
func (s *Session) Clock(ctx context.Context) (time.Time, error)             { return time.Time{}, errSoon }
func (s *Session) SetClock(ctx context.Context) (before time.Time, err error) {
	return time.Time{}, errSoon
}
func (s *Session) SetMEBxPassword(ctx context.Context, pw amt.Secret) error { return errSoon }
func (s *Session) SetAdminPassword(ctx context.Context, user, realm string, pw amt.Secret) error {
	return errSoon
}
func (s *Session) SetHostName(ctx context.Context, host, domain string) error { return errSoon }
func (s *Session) TLSMaterial(ctx context.Context) (TLSMaterial, error) {
	return TLSMaterial{}, errSoon
}
func (s *Session) GenerateKey(ctx context.Context, bits int) (string, error) { return "", errSoon }
func (s *Session) AddKey(ctx context.Context, key *rsa.PrivateKey) (string, error) {
	return "", errSoon
}
func (s *Session) AddCertificate(ctx context.Context, der []byte) (string, error) { return "", errSoon }
func (s *Session) AddTrustedRoot(ctx context.Context, der []byte) (string, error) { return "", errSoon }
func (s *Session) Delete(ctx context.Context, handle string) error                { return errSoon }
func (s *Session) UseCertificate(ctx context.Context, handle string) error        { return errSoon }
func (s *Session) EnableTLS(ctx context.Context, mutual bool, trustedCN []string) error {
	return errSoon
}
func (s *Session) Commit(ctx context.Context) error                       { return errSoon }
func (s *Session) ProvisioningRecord(ctx context.Context) (Record, error) { return Record{}, errSoon }
func (s *Session) Unprovision(ctx context.Context, full bool) error       { return errSoon }
