package store

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// Lifecycle is this program's word for where a device stands. Device.DeviceMode
// is what the firmware says, Device.Health how the device does.
type Lifecycle string

const (
	Discovered         Lifecycle = "discovered"          // hello or import seen, nothing checked
	PendingApproval    Lifecycle = "pending_approval"    // waits for authorisation
	PendingIdentity    Lifecycle = "pending_identity"    // name or profile missing
	PendingCertificate Lifecycle = "pending_certificate" // no usable chain for it
	Queued             Lifecycle = "queued"              // ready, in the work queue
	Provisioning       Lifecycle = "provisioning"        // attempt under way
	Verifying          Lifecycle = "verifying"           // committed, reading back
	Provisioned        Lifecycle = "provisioned"         // managed, matches its profile
	Drifted            Lifecycle = "drifted"             // managed, differs from its profile or lost its setup
	Maintaining        Lifecycle = "maintaining"         // a job is running on it
	Failed             Lifecycle = "failed"              // attempt over; retry scheduled or needs a fix
	Dormant            Lifecycle = "dormant"             // window expired or silent
	Quarantined        Lifecycle = "quarantined"         // duplicate UUID, failed attestation, policy
	External           Lifecycle = "external"            // provisioned by somebody else
	CredentialsUnknown Lifecycle = "credentials_unknown" // no secret of ours works
	Unprovisioning     Lifecycle = "unprovisioning"      // going back to factory
	Unprovisioned      Lifecycle = "unprovisioned"       // factory again, record kept
	Retired            Lifecycle = "retired"             // kept for audit only
)

// Lifecycles lists all of them in the order in which a device usually meets
// them.
func Lifecycles() []Lifecycle {
	return []Lifecycle{Discovered, PendingApproval, PendingIdentity, PendingCertificate, Queued, Provisioning, Verifying,
		Provisioned, Drifted, Maintaining, Failed, Dormant, Quarantined, External, CredentialsUnknown,
		Unprovisioning, Unprovisioned, Retired}
}

// Managed reports whether devices of this lifecycle are under management.
func (l Lifecycle) Managed() bool { return l == Provisioned || l == Drifted || l == Maintaining }

// Device is one platform, named by its UUID. Zero times are unknown.
type Device struct {
	UUID       amt.UUID
	Lifecycle  Lifecycle
	Reason     reason.Code // "": all is as wanted
	Detail     string      // a sentence for an operator, without secrets
	DeviceMode string      // what the firmware says: factory, setup, operational; "" unknown
	Health     string      // ok, warn, unreachable; "" unknown

	Version    amt.Version
	SKU        string
	Realm      string // digest realm, part of the admin password's hash
	HostName   string // set in the firmware
	Domain     string
	FQDN       string // the wanted name
	Suffix     string // DNS suffix the device trusts or got by DHCP
	MAC        string
	Serial     string
	SMBIOSUUID string // only if it differs from UUID
	SecureDNS  bool   // Suffix is fixed in MEBx rather than from DHCP

	Address         netip.Addr // where runs call the device; an attribute, never an identity
	AddressBy       AddressBy  // whose word that is
	HeardFrom       netip.Addr // source of the last hello under its UUID, whoever sent it
	AgentAddress    netip.Addr // where its agent says it is, until it has answered there
	GoodAddress     netip.Addr // where a machine with its key answered last
	Profile         string     // the profile it has, or will get
	ProfileVersion  int        // 0: unknown, not looked at since the store keeps it
	AssignedProfile string     // a person's choice for this device; precedes lists and rules
	TrustTable      int64      // id of the hash list of the last hello, 0: none
	Certificate     string     // id of the provisioning certificate that worked
	TLSVersion      string
	PeerFingerprint []byte // SHA-256 of the leaf certificate under which it last let us in
	PeerSeen        []byte // SHA-256 of the certificate that answered last and heard no password; empty: none
	Vouched         []byte // SHA-256 of the certificate that a person vouched for, or VouchFirst; empty: none
	PeerVerified    string // what verified its certificate at the last setup: odca, none; "": unknown
	Tags            []string
	Approved        bool

	FirstSeen, LastSeen, ProvisionedAt, LastContact, WindowUntil time.Time
	NextRetry, DeviceCertNotAfter, PasswordChangedAt             time.Time
	ClaimDue                                                     time.Time // a node calls it then: somebody else says hello in its name

	Attempts   int
	HelloCount int
	HelloRetry uint32 // the retry counter inside the last hello
	AdminFlag  bool   // the last hello said that admin credentials are set

	Fence      int64 // grows with each claim
	Owner      string
	LeaseUntil time.Time // without an owner: end of a quiet period, in which nobody may claim it
	Generation int       // of the active admin credential, 0: none
	Record     json.RawMessage

	Signed []byte // the row's MAC, during reading; empty in a device that the store returns
}

// AddressBy says who named a device's address. A hello vouches for nothing,
// since whoever reaches the hello port can send one.
type AddressBy string

const (
	ByHello    AddressBy = ""
	ByImport   AddressBy = "import"
	ByOperator AddressBy = "operator"
	ByAgent    AddressBy = "agent"
	ByDNS      AddressBy = "dns"     // its name led there, and a machine with its key answered
	ByContact  AddressBy = "contact" // a machine with its key answered there
)

// DeviceFacts is what a run or a person learnt about a device; nil leaves a
// field as it is.
type DeviceFacts struct {
	DeviceMode, Health                             *string
	Version                                        *amt.Version
	SKU, Realm, HostName, Domain, FQDN, Suffix     *string
	MAC, Serial, SMBIOSUUID                        *string
	SecureDNS                                      *bool
	Address, AgentAddress, GoodAddress             *netip.Addr
	TrustTable                                     *int64
	AddressBy                                      *AddressBy
	Profile, AssignedProfile                       *string
	ProfileVersion                                 *int
	Certificate, TLSVersion, PeerVerified          *string
	PeerFingerprint, PeerSeen, Vouched             *[]byte
	Tags                                           *[]string
	Approved                                       *bool
	ProvisionedAt, LastContact, WindowUntil        *time.Time
	NextRetry, DeviceCertNotAfter, PasswordChanged *time.Time
	ClaimDue                                       *time.Time
	Attempts                                       *int
	Generation                                     *int
	Record                                         *json.RawMessage
}

// DeviceFilter selects devices; zero fields select all. Texts match in any
// case.
type DeviceFilter struct {
	Lifecycle []Lifecycle // any of
	Reason    reason.Code
	Health    string
	Version   string // "11" or "11.8" or a whole version
	From, To  int    // AMT generations, both included; 0: no bound
	Suffix    string // the suffix itself or a parent of it
	Network   netip.Prefix
	Profile   string
	Tag       string
	Query     string    // part of UUID, FQDN, host, address, MAC or serial; a whole one of these, except host, matches only that column
	Seen      time.Time // last seen at or after
	Silent    time.Time // last seen before
	Order     Order
	After     string // Device.Cursor of the last row of the page before
	Limit     int    // 0: 100; at most 1000
}

// Order is how a list of devices is sorted.
type Order string

const (
	ByUUID     Order = ""          // ascending
	ByLastSeen Order = "last_seen" // newest first
	ByName     Order = "name"      // FQDN ascending
)

// SeenHello is what a hello says.
type SeenHello struct {
	UUID        amt.UUID
	At          time.Time // zero: the database's clock
	From, Local netip.AddrPort
	Address     netip.Addr // where to connect back to; zero: From's address
	Named       bool       // an agent named Address
	Via         string     // plain, relay, agent
	Peer        string     // subject of the client certificate
	Version     uint16
	Retry       uint32
	AdminSet    bool
	PID         string
	Hashes      []amt.TrustHash
	Trailing    []byte
	Raw         []byte // stored if given; the rest can be rebuilt from the hash list
}

// SeenBefore says what the store knew before this hello.
type SeenBefore struct {
	Known          bool
	Previous       Device
	AddressChanged bool // also if the address was unknown
}

// HelloRecord is one row of the append-only list of hellos.
type HelloRecord struct {
	ID          int64
	UUID        amt.UUID
	At          time.Time
	From, Local string
	Via, Peer   string
	Version     int
	Retry       uint32
	AdminSet    bool
	PID         string
	TrustTable  int64
	Trailing    []byte
	Raw         []byte
}

// Transition moves a device and writes why, in one transaction.
type Transition struct {
	UUID      amt.UUID
	To        Lifecycle // "": stays where it is
	Reason    reason.Code
	Detail    string
	Event     string // the event's name, such as attempt_failed
	Actor     string // who: "system", "node:…", "token:…"
	Data      map[string]any
	NextRetry time.Time // zero clears it
	RunID     int64
}

// Event is one row of the append-only timeline.
type Event struct {
	ID     int64
	At     time.Time // zero: the database's clock
	UUID   amt.UUID  // zero: concerns no device
	RunID  int64
	Name   string
	Reason reason.Code
	Detail string
	Actor  string
	Data   map[string]any
}

// EventFilter selects events, oldest first unless Newest.
type EventFilter struct {
	After  int64 // id greater than
	Before int64 // id less than, for paging backwards with Newest
	UUID   amt.UUID
	RunID  int64
	Name   string
	Newest bool
	// Follow leaves out events that a transaction still open could slip in
	// front of, so that a reader who remembers the last id misses nothing.
	Follow bool
	Limit  int // 0: 100; at most 1000
}

// Run is one piece of work on one device: several attempts, one outcome.
type Run struct {
	ID          int64
	UUID        amt.UUID
	Kind        string // provision, maintain, unprovision, rotate, probe
	Trigger     string // hello, timer, api
	State       string // queued, running, done, failed, cancelled
	Attempt     int
	Node        string
	Fence       int64
	Profile     string
	CreatedAt   time.Time
	NotBefore   time.Time
	StartedAt   time.Time
	FinishedAt  time.Time
	Reason      reason.Code
	Detail      string
	Blame       string
	Task        string // what a maintain run does
	Certificate string

	// Forged: nobody here ordered the run (signed.go), and it counts for nothing.
	Forged bool
	signed []byte
}

// States of a run.
const (
	RunQueued    = "queued"
	RunRunning   = "running"
	RunDone      = "done"
	RunFailed    = "failed"
	RunCancelled = "cancelled"
)

// NewRun is what CreateRun needs.
type NewRun struct {
	UUID      amt.UUID
	Kind      string
	Trigger   string
	Profile   string
	NotBefore time.Time // zero: at once
	Task      string
}

// Claim is the right to act on a device until the lease ends. The caller counts
// the lease on its own monotonic clock, from before it asked.
type Claim struct {
	Run    Run
	Device Device
	Fence  int64
}

// StepRecord is one line of a run's journal.
type StepRecord struct {
	Seq        int
	Name       string
	State      string // started, done, skipped, failed
	Attempt    int    // which attempt of the run
	StartedAt  time.Time
	FinishedAt time.Time
	Detail     string
	Reason     reason.Code
}

// Credential is one generation of one password of a device.
type Credential struct {
	ID                                        int64
	UUID                                      amt.UUID
	Generation                                int
	Kind                                      string // admin, mebx
	State                                     string // candidate, active, retired
	User                                      string // the login's; "": the profile's, since no run sent or used the password
	Password                                  amt.Secret
	Realm                                     string
	Peer                                      []byte     // fingerprint of the device that heard it
	Address                                   netip.Addr // where a run sent it
	CreatedAt, SentAt, ActivatedAt, RetiredAt time.Time
	RefusedAt                                 time.Time // when the device last refused it; zero again once a run sends it anew or it works
	RunID                                     int64

	// Setup is the generation that began the set-up of this password; 0 in a row
	// that an earlier release wrote. The admin password of that generation has the
	// Proofs by which runs know the device again.
	Setup  int
	Proofs []Proof
	// CommittedAt is when a device outside setup mode may first have held it.
	CommittedAt time.Time
	// Forged: the row has no right MAC, so it does not say which device may hear
	// this password.
	Forged bool
	// OldPin: an earlier release wrote the row, and nobody has signed it yet, so
	// that Device.PeerFingerprint stands for the proofs.
	OldPin bool
	signed []byte
}

// Kinds and states of a credential.
const (
	KindAdmin = "admin"
	KindMEBx  = "mebx"

	CredentialCandidate = "candidate"
	CredentialActive    = "active"
	CredentialRetired   = "retired"
)

// AuditRecord is one link of the audit chain. Detail must hold no secret.
type AuditRecord struct {
	Seq     int64
	At      time.Time
	Actor   string
	Action  string
	Subject string
	Detail  map[string]any
	Hash    []byte
}

// Node is a running daemon. Boot is new at every start.
type Node struct {
	ID, Boot, Address, Version string
	StartedAt, SeenAt          time.Time
}

// User is a person or a service. Its tokens may have these roles.
type User struct {
	Name                  string
	Roles                 []string
	CreatedBy             string
	CreatedAt, DisabledAt time.Time
	Tokens, Sessions      int // how many of them are good; read only

	// Forged: the row has no right MAC (signed.go), and counts for nothing.
	Forged bool
	signed []byte
}

// Session is a console login; only the SHA-256 of its text is kept.
type Session struct {
	Hash      []byte
	TokenID   int64
	ExpiresAt time.Time
	signed    []byte
}

// Token is an API token; only its SHA-256 is kept.
type Token struct {
	ID                                        int64
	Name                                      string
	User                                      string // its user; "" on creation: the user of the token's own name
	Role                                      string
	Hash                                      []byte
	CreatedBy                                 string
	CreatedAt, ExpiresAt, LastUsed, RevokedAt time.Time

	// Forged: the row has no right MAC (signed.go), and counts for nothing.
	Forged bool
	signed []byte
}
