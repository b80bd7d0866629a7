package provision

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"io"
	"net/netip"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// The seams: everything outside that a run touches. The daemon fills them with
// the store, amt/session, the wall clock and crypto/rand; the simulation with
// models of these whose every boundary can fail.

// Device is what the plan says to a device: *session.Session is one.
type Device interface {
	Peer() session.Peer
	LoginUsed() string
	SetLogins([]session.Login)
	SetDeadline(time.Time)
	Close() error

	Identify(context.Context) (session.Identity, error)
	State(context.Context) (amt.ProvisioningState, error)
	ExtendSetup(ctx context.Context, hours int) error
	Clock(context.Context) (time.Time, error)
	SetClock(context.Context) (before time.Time, err error)
	SetMEBxPassword(context.Context, amt.Secret) error
	SetAdminPassword(ctx context.Context, user, realm string, pw amt.Secret) error
	SetHostName(ctx context.Context, host, domain string) error
	TLSMaterial(context.Context) (session.TLSMaterial, error)
	GenerateKey(ctx context.Context, bits int) (handle string, err error)
	AddKey(context.Context, *rsa.PrivateKey) (handle string, err error)
	AddCertificate(ctx context.Context, der []byte) (handle string, err error)
	AddTrustedRoot(ctx context.Context, der []byte) (handle string, err error)
	Delete(ctx context.Context, handle string) error
	UseCertificate(ctx context.Context, handle string) error
	EnableTLS(ctx context.Context, mutual bool, trustedCN []string) error
	Commit(context.Context) error
	ProvisioningRecord(context.Context) (session.Record, error)
	Unprovision(ctx context.Context, full bool) error
	Settable
}

// Settable is how the list of settings reads and changes a device.
type Settable interface {
	Instance(ctx context.Context, class, id string) (*session.Instance, error)
	Instances(ctx context.Context, class string) ([]*session.Instance, error)
	Put(context.Context, *session.Instance) error
	Invoke(ctx context.Context, class, method string, args ...session.Arg) error
	InvokeOn(ctx context.Context, in *session.Instance, method string, args ...session.Arg) error

	Users(context.Context) ([]session.User, error)
	PutUser(ctx context.Context, u session.User, realm string, pw amt.Secret) error
	RemoveUser(ctx context.Context, handle string) error
	EnableUser(ctx context.Context, handle string, on bool) error
}

// Dial opens one conversation with one device.
type Dial func(context.Context, session.Target) (Device, error)

// Clock is the time as a run sees it; Now must be monotonic.
type Clock interface {
	Now() time.Time
	// Sleep returns early with the context's error.
	Sleep(context.Context, time.Duration) error
}

// Trust answers questions about certificates.
type Trust interface {
	// Candidates lists the chains to try on a device that announced these
	// hashes, best first. The error is a *reason.Error.
	Candidates(announced []amt.TrustHash, hints certs.Hints) ([]certs.Candidate, error)
	// IssueDevice signs a device's own TLS certificate with our device CA.
	IssueDevice(pub *rsa.PublicKey, uuid amt.UUID, fqdn, host string, validity time.Duration) (der []byte, err error)
	// IssuedByUs reports whether a device's certificate is from our device CA.
	IssuedByUs(der []byte) bool
	// Console is the client certificate for mutual TLS after setup, and the
	// root a device must hold to accept it; nil when the profile has no use
	// for it.
	Console() (client *tls.Certificate, rootDER []byte)
	// ConsoleAs is the same in another name; nil where it cannot be had.
	ConsoleAs(name string) *tls.Certificate
}

// A Job is a claimed run with all it needs.
type Job struct {
	Run     store.Run
	Device  store.Device
	Fence   int64
	Hashes  []amt.TrustHash
	Profile profile.Profile
	// Blind reports that Profile is not what the device was told: that version is
	// not known any more, so that its TLS settings are not judged by it.
	Blind bool
	// Unprotected reports that this profile, or the one that the device has, wants no
	// TLS: a person's word for logins without it.
	Unprotected bool
	Admin       []store.Credential // newest first
	MEBx        []store.Credential // newest first
	// OTP is the one-time password an agent announced for this device.
	OTP         amt.Secret
	OTPRequired bool
	// FQDN is the name an operator or a name source gave, "" for none.
	FQDN string
	// Master is the digest master password of the device's domain, when its
	// profile derives passwords or it was imported and has said no hello; zero
	// otherwise.
	Master amt.Secret
	// Told reports that an earlier attempt may have told the device to go back
	// to its factory state.
	Told bool
	// Settings are what became of the settings of its profile, by name.
	Settings map[string]store.DeviceSetting
	// Users are the passwords of its users, newest first.
	Users []store.UserPassword
}

// Facts is what a run learnt about a device; zero fields are left alone.
type Facts struct {
	Identity    *session.Identity
	Peer        *session.Peer // of a session in which the device let us in
	SetupPeer   *session.Peer // of the session in which it was set up
	Certificate string        // of ours that the device accepted
	HostName    string
	Domain      string
	WindowUntil time.Time
	CertUntil   time.Time
	Record      *session.Record
	DeviceMode  amt.ProvisioningState
	ModeKnown   bool
	Found       netip.Addr      // where a machine with its key answered
	FoundBy     store.AddressBy // what led there
	FoundFrom   netip.Addr      // where it was believed to be
	WordUsed    bool            // what its agent said has been tried

	Known   *Known   // by which the device is known from now on
	LoginAs *LoginAs // the user of a password whose own is not known
	Vouched *[]byte  // what is left of a person's word for a certificate
	Seen    *[]byte  // the certificate of a peer that was told no password

	Settings *[]store.DeviceSetting // what became of settings in this run
	UsersIn  *[]int64               // passwords with which the device let its users in
}

func (f Facts) none() bool { return f == Facts{} }

// Known is what a device is known by that goes through the set-up which began with
// this generation of its admin password.
type Known struct {
	Setup   int
	Proofs  []store.Proof
	Commits bool // a device outside setup mode may hold that password from now on
}

// LoginAs is the user under whose name a device took a password.
type LoginAs struct {
	Credential int64
	User       string
}

// A Handout is a password on its way to a device.
type Handout struct {
	Credential int64
	User       string
	Realm      string
	Peer       []byte // SHA-256 of the certificate the device shows
	Address    netip.Addr
	Commits    bool // the device is not in setup mode: it holds the password as soon as it hears it
}

// Lease says who may touch the device. Every write of a run carries it and is
// refused with store.ErrFenced when another worker took over.
type Lease struct {
	UUID  amt.UUID
	RunID int64
	Fence int64
	// For is how long the write renews the lease, by the database's clock.
	For time.Duration
}

// Verdict is how an attempt ended.
type Verdict struct {
	Kind    string // of the run; "" is provision
	OK      bool
	Again   time.Duration // wait before the next attempt; 0 with !OK: nobody retries by itself
	Reason  reason.Code
	Detail  string
	Steps   []store.StepRecord
	Facts   Facts
	Active  []int64 // credentials the device now answers with
	Refused []int64 // credentials it was offered and did not take
	Quiet   time.Duration
	Ended   store.Lifecycle
	Blame   reason.Blame
	Later   time.Duration // with neither OK nor Again: when maintenance may look again
	Health  string        // ok, warn or unreachable; "" leaves it
	Did     []string      // what maintenance changed
	Offered []string      // the certificates that a device was offered, when that is what it failed for
	Chosen  string        // why the device was shown the certificate that it took
	Changed bool          // a failed run may have told the device something that changes it
	Looked  []Look        // where it was looked for in vain
	// OddCertificate is what the device showed and TLS could not take.
	OddCertificate []byte
	There          bool // of a probe: the device is where it is believed to be
	Kept           bool // it let us in with a password of an earlier set-up: it never was without that
	// Profile is what the device was found, or made, to be; "" when not all of
	// it was looked at.
	Profile        string
	ProfileVersion int
	// Then is the task of the maintenance that follows at once.
	Then string
}

// Store is the part of the truth a run reads and writes. Each method is one
// transaction; an unknown outcome counts as not committed.
type Store interface {
	// Claim takes the device of a run: *Held when another worker has it, nil
	// Job when the run is over.
	Claim(ctx context.Context, runID int64, lease time.Duration) (*Job, error)
	// Journal writes steps and facts and renews the lease.
	Journal(ctx context.Context, l Lease, steps []store.StepRecord, facts *Facts) error
	// Stage makes new candidate passwords durable and returns them. setup is the
	// generation that began the set-up they belong to; 0 begins another.
	Stage(ctx context.Context, l Lease, setup int, admin, mebx amt.Secret) (a, m store.Credential, err error)
	// StageUser makes a user's password durable, which is then on its way, and renews
	// the lease.
	StageUser(ctx context.Context, l Lease, name string, pw amt.Secret) (store.UserPassword, error)
	// Sending records that a password is about to leave, with what the device
	// showed of itself, and renews the lease.
	Sending(ctx context.Context, l Lease, steps []store.StepRecord, out Handout) error
	// Renew renews leases; the answer lists the fences that are lost.
	Renew(ctx context.Context, leases []Lease) (lost []Lease, err error)
	// Settle ends the attempt: state, event, credentials, next attempt and
	// lease in one transaction.
	Settle(ctx context.Context, l Lease, v Verdict) error
}

// Held is Claim's answer when another worker has the device.
type Held struct{ Until time.Time }

func (h *Held) Error() string {
	return "another worker has this device until " + h.Until.Format(time.RFC3339)
}

// Config is what an Engine is made of.
type Config struct {
	Store Store
	Dial  Dial
	Trust Trust
	// Assign finds the profile again once the device has said what it is; nil
	// keeps the one the run was claimed with.
	Assign func(ctx context.Context, d store.Device, name string) (profile.Profile, error)
	// Realm finds another device that has this digest realm, zero for none, and
	// writes it down; nil does not look.
	Realm func(ctx context.Context, d store.Device, runID int64, realm string) (amt.UUID, error)
	// Name gives a device a name that no other has and says who has it then; keep is
	// the one it bears until it is told. nil gives every name.
	Name func(ctx context.Context, l Lease, name, keep string) (holder amt.UUID, err error)
	// ServesDomain reports whether devices may be called by names in a domain; nil
	// takes any.
	ServesDomain func(domain string) bool
	// Trusted lists names of consoles that a device may have been told by a version
	// of its profile; nil knows none but the profile's own.
	Trusted func(ctx context.Context, d store.Device, profile string) ([]string, error)
	// Names finds a managed device by its name; nil does not ask. Allowed says
	// whether we may connect to an address; nil: to any.
	Names   Resolver
	Allowed func(netip.Addr) bool
	Clock   Clock
	Rand    io.Reader

	ungated bool // tests take the gate away

	Lease       time.Duration // how long a claim holds without renewal
	Margin      time.Duration // the socket's deadline ends this long before the lease
	Quiet       time.Duration // pause after a change whose answer was lost
	Retry       []time.Duration
	VerifyFor   time.Duration // patience for a device that restarts after commit
	VerifyPause time.Duration // first pause between tries; grows by half up to 5 s
	KeyPause    time.Duration // first pause while a device is busy making keys
	AttemptFor  time.Duration // one attempt's bound
	Attempts    int           // of a setup that time may mend, in a row, before a person is asked; 0: no end
	Tries       int           // attempts in a row at a managed device before it is left alone for a while
	Later       time.Duration // that while
	Port        uint16
	MinTLS      uint16
	ODCA        ODCA // "": off

	Tracer Tracer // nil: nobody watches
}

// A Tracer is told how an attempt went. It must not block.
type Tracer interface {
	// TraceID is the trace of an attempt, in hexadecimal, known before it begins.
	TraceID(r store.Run) string
	Step(runID int64, s store.StepRecord)
	Call(runID int64, c session.Call)
	Done(j Job, began time.Time, v Verdict)
}

// Defaults fills what was left zero.
func (c Config) withDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.Lease, 30*time.Second)
	set(&c.Margin, 5*time.Second)
	set(&c.Quiet, 15*time.Second)
	set(&c.VerifyFor, 3*time.Minute)
	set(&c.VerifyPause, 40*time.Millisecond)
	set(&c.KeyPause, time.Second)
	set(&c.AttemptFor, 14*time.Minute)
	set(&c.Later, 12*time.Hour)
	if c.Tries == 0 {
		c.Tries = 5
	}
	if len(c.Retry) == 0 {
		c.Retry = []time.Duration{5 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute,
			time.Hour}
	}
	if c.Port == 0 {
		c.Port = 16993
	}
	return withFailpoints(c)
}
