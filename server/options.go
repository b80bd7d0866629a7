package server

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/hello/receive"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/server/doctor"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store/seal"
)

// Options is the configuration in the server's form: parsed, loaded, checked.
type Options struct {
	Version  string
	Revision string
	Node     string // its name among several nodes on one database

	DataDir     string
	DatabaseURL string // "": SQLite in DataDir
	MaxConns    int
	NoMigrate   bool
	SlowQuery   time.Duration // the log shows slower statements; 0: none
	Keys        *seal.Keyring

	HelloListen   string
	HelloListener net.Listener          // from socket activation; nil: listen on HelloListen
	ClientCAs     func() *x509.CertPool // called at each handshake; nil: no TLS on the hello port
	Relays        []string              // names of relays that speak for every device
	PlainOff      bool
	ProxyFrom     []netip.Prefix
	ReadTimeout   time.Duration
	Limits        receive.Limits

	APIListen   string
	APIListener net.Listener
	// How many connections the API takes, and how many from one source until it has
	// logged in.
	APIConnections, APIPerSource int
	APITLS                       func() *tls.Certificate // called at each handshake; nil: plain HTTP
	Console                      bool
	RevealsHour                  int
	Sessions                     time.Duration

	Certificates []*certs.Provisioning
	Force        map[string]bool // ids of certificates in use although they have expired
	// CheckCertificate plays a device of a generation; nil: this server cannot
	// check certificates.
	CheckCertificate desk.CheckCertificate

	IssuerNetworks []netip.Prefix // networks from which the server may fetch missing intermediates; none: no network

	Networks    []netip.Prefix
	Admission   admit.Mode
	Reprovision admit.Reprovision
	Profile     profile.Profile  // the profile named default, unless the store holds one
	Names       []profile.Source // sources of the name of a device that no rule names
	Lookup      admit.Lookup
	OTP         admit.OTPMode

	SetupWindow time.Duration // how long firmware listens after its first hello
	Strangers   int           // how many rows of unapproved devices stay
	TwinWithin  time.Duration

	PerNetwork, AtOnce int           // most attempts at a time in one /24 or /64, and in all networks; 0: any number
	BreakAfter         int           // failures in a row because of the network that pause it; 0: never
	BreakFor           time.Duration // the first pause; it doubles

	Workers        int
	AttemptTimeout time.Duration
	CallTimeout    time.Duration
	MinTLS         uint16
	ODCARoots      *x509.CertPool // Intel's on-die authority; nil: sessions do not look at hardware certificates
	ODCA           string         // off, prefer or require; "": off
	Retry          []time.Duration
	Attempts       int // attempts before a person has to decide; 0: no end
	Lease          time.Duration
	Quiet          time.Duration
	Drain          time.Duration
	Port           uint16 // the devices' port; 16993 except in tests

	// ClaimPause is how long a device rests after a call that a hello elsewhere in
	// its name caused; it doubles within an hour.
	ClaimPause time.Duration

	Zones        []string
	OtherDomains []string // names of devices may be in these, beside Zones and the certificates' domains
	ConstrainCA  bool     // a new device CA is good in Zones and OtherDomains alone

	Doctor         doctor.Config // what the checks look at; New adds what only the daemon knows
	DoctorInterval time.Duration // 0: only when asked

	KeepHellos, KeepEvents, KeepRuns time.Duration

	// What happens to managed devices by itself: how many runs begin a minute, how
	// many are under way at once, and how long after its last contact a device gets
	// a run although it needs nothing. Less than 0: none, never.
	MaintainPerMinute, MaintainAtOnce int
	MaintainCanary                    int // devices of a job's second wave; below 0: none
	MaintainContact                   time.Duration

	// Kinds of job that another user has to approve, and the number of devices
	// above which any job needs it; 0 is any number.
	SecondApprover      []string
	SecondApproverAbove int

	Registry         *prometheus.Registry
	NativeHistograms bool   // show native histograms beside the classic ones
	OTLPEndpoint     string // receiver of spans; "": none
	Log              *zap.Logger
	Now              func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Workers == 0 {
		o.Workers = 256
	}
	if o.APIConnections == 0 {
		o.APIConnections = 512
	}
	if o.APIPerSource == 0 {
		o.APIPerSource = 64
	}
	if o.Profile.Name == "" {
		o.Profile = profile.Default()
	}
	if o.Reprovision == "" {
		o.Reprovision = admit.ReprovisionApprove
	}
	if o.Admission == "" {
		o.Admission = admit.Approve
	}
	if o.OTP == "" {
		o.OTP = admit.OTPAgent
	}
	if o.MaintainPerMinute == 0 {
		o.MaintainPerMinute = 60
	}
	if o.MaintainCanary == 0 {
		o.MaintainCanary = 10
	}
	if o.MaintainAtOnce == 0 {
		o.MaintainAtOnce = 200
	}
	if o.MaintainContact == 0 {
		o.MaintainContact = 14 * 24 * time.Hour
	}
	if o.SetupWindow == 0 {
		o.SetupWindow = 6 * time.Hour
	}
	if o.Strangers == 0 {
		o.Strangers = 50000
	}
	if o.TwinWithin == 0 {
		o.TwinWithin = 10 * time.Minute
	}
	if o.ClaimPause == 0 {
		o.ClaimPause = 30 * time.Second
	}
	if o.BreakFor == 0 {
		o.BreakFor = time.Minute
	}
	if o.Drain == 0 {
		o.Drain = time.Minute
	}
	if o.AttemptTimeout == 0 {
		o.AttemptTimeout = 10 * time.Minute
	}
	if o.Node == "" {
		o.Node = "provisiond"
	}
	return o
}

// constrained are the zones to which a new device CA is limited; none: no
// limit.
func (o Options) constrained() []string {
	if !o.ConstrainCA {
		return nil
	}
	return append(o.Zones[:len(o.Zones):len(o.Zones)], o.OtherDomains...)
}
