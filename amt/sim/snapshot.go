package sim

import (
	"net/netip"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// seen is what a device remembers of its life; Device.mu guards it.
type seen struct {
	connections, handshakes, badHandshakes int
	maxConcurrent, maxInFlight, tooMany    int
	requests, challenges, commits          int
	powerCycles, hellos, mostWrong         int
	mebx, admin                            []string // every one that it ever received; admin as hex HA1
	refusals                               []string
	logins                                 []Login
	changes                                []Change
	openings                               []Opening

	firstHello, operational, managed, lastRequest time.Time
}

// Login is one answer to a digest challenge. Nobody can know the password.
type Login struct {
	At   time.Time
	User string
	OK   bool
}

// Opening is a password that opened the device for somebody.
type Opening struct {
	User, HA1 string     // hex MD5(user:realm:password)
	SetBy     netip.Addr // who had set it; zero: nobody, it is the factory's
	From      netip.Addr // who used it
	Times     int
}

// Change is one call that changed the device, or tried to.
type Change struct {
	At     time.Time
	Call   string // CommitChanges, Put:AMT_TLSSettingData
	Detail string
	Status amt.Status
}

// Snapshot is a device at one moment, with everything it remembers.
type Snapshot struct {
	UUID                 amt.UUID
	Personality          string
	Version              amt.Version
	State                amt.ProvisioningState
	Realm                string
	AdminUser            string
	AdminHA1             string // hex MD5(user:realm:password), the present one
	AdminDefault         bool   // still admin/admin
	MEBx                 amt.Secret
	MEBxDefault          bool
	HostName, Domain     string
	ClockSet             bool
	Clock                time.Time // the device's own time
	TLSEnabled           bool      // committed, on the network
	TLSMutual            bool
	TrustedCN            []string
	LMSTouched           bool
	Certificate          []byte // DER of the committed TLS certificate, nil for the device's own
	Certificates         int
	Keys                 int
	Users                int
	OptIn                uint32
	Redirection          uint32
	PeerName             string // CN of the certificate that committed
	PeerTimeValid        bool
	WindowEnd            time.Time // as ExtendProvisioningPeriod left it
	Commits              int
	Connections          int
	Handshakes           int
	BadHandshakes        int
	MaxConcurrent        int // connections open at the same moment
	MaxInFlight          int // requests at the same moment
	TooMany              int
	Requests             int
	Challenges           int // 401 answers
	PowerCycles          int
	Hellos               int
	LoginsOK             int
	LoginsFailed         int
	WrongInARow          int // most wrong passwords in a row: from 10 or so firmware speaks of an attack
	Logins               []Login
	Openings             []Opening // which passwords opened it, and for whom
	Refusals             []string  // why it refused a chain, in the device's words
	Changes              []Change
	SecretsSeen          []amt.Secret // every MEBx password it ever received
	AdminHA1Seen         []string     // every admin hash it ever received
	FaultsFired          []string
	FirstHello           time.Time
	Operational          time.Time // its first commit
	Managed              time.Time // the first login of an admin after that
	adminUser, realmUsed string
}

// Snapshot copies the device's state.
func (d *Device) Snapshot() Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	user, h := d.admin()
	s := Snapshot{
		UUID: d.cfg.UUID, Personality: d.p.Name, Version: d.p.Version, State: d.state, Realm: d.realm,
		AdminUser: user, AdminHA1: h, AdminDefault: d.now.adminDefault,
		MEBx: amt.NewSecret(d.now.mebx), MEBxDefault: d.now.mebxDefault,
		HostName: d.now.hostName, Domain: d.now.domainName,
		ClockSet: d.now.clockSet, Clock: d.time(),
		TLSEnabled: d.state == amt.StatePost && d.saved.tls[0].enabled, TLSMutual: d.saved.tls[0].mutual,
		TrustedCN: slices.Clone(d.saved.tls[0].trustedCN), LMSTouched: d.lmsPut,
		Certificates: len(d.now.certs), Keys: len(d.now.keys), Users: len(d.now.users),
		OptIn: d.now.optIn, Redirection: d.now.redirection, WindowEnd: d.windowEnd,
		Commits: d.seen.commits, Connections: d.seen.connections, Handshakes: d.seen.handshakes, BadHandshakes: d.seen.badHandshakes,
		MaxConcurrent: d.seen.maxConcurrent, MaxInFlight: d.seen.maxInFlight, TooMany: d.seen.tooMany,
		Requests: d.seen.requests, Challenges: d.seen.challenges, PowerCycles: d.seen.powerCycles, WrongInARow: d.seen.mostWrong,
		Hellos: d.seen.hellos,
		Logins: slices.Clone(d.seen.logins), Openings: slices.Clone(d.seen.openings), Refusals: slices.Clone(d.seen.refusals),
		Changes:      slices.Clone(d.seen.changes),
		AdminHA1Seen: slices.Clone(d.seen.admin), FaultsFired: slices.Clone(d.faults.fired),
		FirstHello: d.seen.firstHello, Operational: d.seen.operational, Managed: d.seen.managed,
		adminUser: user, realmUsed: d.realm,
	}
	if e, ok := d.saved.cert(d.saved.context); ok && !e.own {
		s.Certificate = e.der
	}
	if d.record != nil {
		s.PeerName, s.PeerTimeValid = d.record.name, d.record.timeValid
	}
	for _, m := range d.seen.mebx {
		s.SecretsSeen = append(s.SecretsSeen, amt.NewSecret(m))
	}
	for _, l := range s.Logins {
		if l.OK {
			s.LoginsOK++
		} else {
			s.LoginsFailed++
		}
	}
	return s
}

// HasPassword reports whether anybody ever told the device this password, as
// MEBx's or as the admin account's.
func (s Snapshot) HasPassword(password string) bool {
	want := amt.NewSecret(password)
	for _, m := range s.SecretsSeen {
		if m.Equal(want) {
			return true
		}
	}
	return slices.Contains(s.AdminHA1Seen, ha1(s.adminUser, s.realmUsed, password))
}

// Called counts the calls of this name that the device carried out.
func (s Snapshot) Called(name string) int {
	n := 0
	for _, c := range s.Changes {
		if c.Call == name && c.Status == amt.StatusSuccess {
			n++
		}
	}
	return n
}

// AcceptsAdmin reports whether the device would accept this login now.
func (d *Device) AcceptsAdmin(user, password string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	u, h := d.admin()
	return u == user && h == ha1(user, d.realm, password)
}

// AcceptsMEBx reports whether a person could get into MEBx with this password.
func (d *Device) AcceptsMEBx(password string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.mebx == password
}

// Secrets are what a device holds and ever heard, in clear, for a file that a
// test compares with a server's store.
type Secrets struct {
	UUID      amt.UUID `json:"uuid"`
	Realm     string   `json:"realm"`
	AdminUser string   `json:"admin_user"`
	AdminHA1  string   `json:"admin_ha1"` // hex MD5(user:realm:password)
	MEBx      string   `json:"mebx"`
	AdminSeen []string `json:"admin_ha1_seen"`
	MEBxSeen  []string `json:"mebx_seen"`
}

// Secrets returns the device's secrets: whoever runs the simulation may know
// them.
func (d *Device) Secrets() Secrets {
	d.mu.Lock()
	defer d.mu.Unlock()
	user, h := d.admin()
	return Secrets{d.cfg.UUID, d.realm, user, h, d.now.mebx, slices.Clone(d.seen.admin), slices.Clone(d.seen.mebx)}
}

// Brief is what a fleet's display needs, without copying a life.
type Brief struct {
	State                            amt.ProvisioningState
	Hellos, Handshakes, Requests     int
	Open                             int // connections at this moment
	FirstHello, Operational, Managed time.Time
	LastRequest                      time.Time
}

// Brief says where a device stands.
func (d *Device) Brief() Brief {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Brief{d.state, d.seen.hellos, d.seen.handshakes, d.seen.requests, len(d.conns),
		d.seen.firstHello, d.seen.operational, d.seen.managed, d.seen.lastRequest}
}

// login notes a login with its outcome; the first good one in operation means
// that somebody manages this device.
func (d *Device) login(user string, ok bool) {
	now := time.Now()
	d.seen.logins = append(d.seen.logins, Login{now, user, ok})
	if ok && d.state == amt.StatePost && d.seen.managed.IsZero() {
		d.seen.managed = now
	}
}

// opened counts a good answer to a challenge.
func (d *Device) opened(o Opening) {
	i := slices.IndexFunc(d.seen.openings, func(s Opening) bool {
		return s.User == o.User && s.HA1 == o.HA1 && s.SetBy == o.SetBy && s.From == o.From
	})
	if i < 0 {
		i = len(d.seen.openings)
		d.seen.openings = append(d.seen.openings, o)
	}
	d.seen.openings[i].Times++
}

func (d *Device) remember(list *[]string, secret string) {
	if !slices.Contains(*list, secret) {
		*list = append(*list, secret)
	}
}
