package sim

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"crypto/tls"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
)

// DefaultPort is where AMT listens with TLS; without TLS it listens one port
// below.
const DefaultPort = 16993

// Config describes one device.
type Config struct {
	UUID        amt.UUID
	Personality string     // a name of Personalities; empty: "11"
	Addr        netip.Addr // its own address, such as 127.20.0.1
	Port        uint16     // of its TLS listener; 0: DefaultPort

	Suffix     string          // from DHCP option 15
	MEBxSuffix string          // typed in MEBx; precedes DHCP's
	Roots      []amt.TrustHash // custom hashes in the hash table, as far as the generation knows the algorithm
	RootsOEM   bool            // Roots count as OEM hashes, which a full unprovision leaves
	HostName   string          // known from the start, as with a shared FQDN; usually empty
	OTP        string          // one-time password that an agent left in the device
	Realm      string          // its digest realm; empty: a realm of its own, as firmware has. A rogue may copy another's

	Latency        time.Duration // before every answer
	Restart        time.Duration // how long the network is away after a commit; 0: 200 ms
	Factory        bool          // start in factory mode, silent, instead of setup mode
	MaxConnections int           // the device resets further ones; 0: any number
	LenientDigest  bool          // SetAdminAclEntryEx takes 32 hexadecimal digits too; real firmware does not
	SplitHello     bool          // send the hello one byte a segment
	KeepsNames     int           // keep so many trusted names and silently drop the rest; 0: all

	// Tune changes the generation's data for this device alone, such as func(p
	// *Personality) { p.AsksDigest = true }. nil: no change.
	Tune func(*Personality)
	// Rogue makes the device a rogue: it passes on the challenges of the device
	// whose UUID it claims, spends the answers there, and lets anybody in. It asks
	// as its generation does; from the call Asks on, such as CommitChanges, also in
	// setup mode.
	Rogue *Relay
	Asks  string
	// SetupCertificate is the device's certificate during setup, such as a chain of
	// the on-die authority. nil: one that it signed itself.
	SetupCertificate *tls.Certificate

	Faults Faults
	Log    *zap.Logger      // nil: silent
	Clock  func() time.Time // nil: time.Now; the device's own clock starts in 2004 whatever it says
}

// A Device is one simulated machine. Any goroutine may call its methods at any
// time; Close waits for everything that the device started.
type Device struct {
	cfg     Config
	p       Personality
	log     *zap.Logger
	realm   string
	started time.Time
	closing chan struct{}
	wg      sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	state     amt.ProvisioningState
	changed   chan struct{} // the device closes and replaces it at each change of state
	now       settings      // as reads see them
	saved     settings      // what it goes back to after a power cycle that loses settings
	setup     *setupPeer    // the peer of the last setup session
	record    *setupPeer    // the peer that committed
	recordIP  string
	listeners []net.Listener
	conns     map[*net.TCPConn]struct{}
	handling  int
	epoch     int // number of network restarts
	own       *tls.Certificate
	windowEnd time.Time
	retries   uint32
	digest    digestState
	enums     map[string]*enumeration
	enumCount uint32
	busyKeys  int
	lmsPut    bool // somebody changed the LMS instance in this setup session
	messages  uint32
	faults    faultState
	seen      seen
}

// settings are what a device keeps in flash.
type settings struct {
	adminUser    string
	adminHA1     string     // hex MD5(user:realm:password)
	adminBy      netip.Addr // who set it; zero: nobody
	adminDefault bool
	mebx         string
	mebxDefault  bool

	hostName, domainName            string
	sharedFQDN, ping, rmcpPing      bool
	ddns, ddnsByDHCP                bool
	ddnsInterval, ddnsTTL, idleWake uint32

	clockOffset time.Duration
	clockSet    bool

	tls     [2]tlsSetting // network, LMS
	context int           // handle of the TLS certificate in use, -1: none
	certs   []certEntry
	keys    []keyEntry
	nextID  [2]int // certificate, key

	users    []userEntry
	nextUser uint32

	hashes []hashEntry

	redirection                 uint32
	listener                    bool
	kvm, webUI                  uint32
	optIn                       uint32
	codeTimeout, displayTimeout uint32
	kvmTimeout                  uint32
	port5900                    bool
	rfb                         string // the password of port 5900
	timeSync                    uint32
	family                      uint32
	scheme                      int // of schemes
	detection                   []string
	algorithm                   uint32
	dhcp                        bool
	address                     [5]string // IPAddress, SubnetMask, DefaultGateway, PrimaryDNS, SecondaryDNS
}

type tlsSetting struct {
	enabled, mutual, nonSecure bool
	trustedCN                  []string
}

type hashEntry struct {
	hash      amt.TrustHash
	isDefault bool
	enabled   bool
}

func (s *settings) clone() settings {
	c := *s
	c.certs = append([]certEntry(nil), s.certs...)
	c.keys = append([]keyEntry(nil), s.keys...)
	c.users = append([]userEntry(nil), s.users...)
	c.hashes = append([]hashEntry(nil), s.hashes...)
	return c
}

// New builds a device; it runs nothing before Start.
func New(cfg Config) (*Device, error) {
	if cfg.Personality == "" {
		cfg.Personality = "11"
	}
	p, err := LookupPersonality(cfg.Personality)
	if err != nil {
		return nil, err
	}
	if cfg.Tune != nil {
		cfg.Tune(&p)
	}
	if !cfg.Addr.IsValid() {
		return nil, errors.New("a simulated device needs an address")
	}
	if cfg.Port == 0 {
		cfg.Port = DefaultPort
	}
	if cfg.Restart == 0 {
		cfg.Restart = 200 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	id := uuidNumber(cfg.UUID)
	d := &Device{
		cfg: cfg, p: p, started: cfg.Clock(),
		log:     cfg.Log.With(zap.Stringer("uuid", cfg.UUID), zap.String("personality", p.Name)),
		realm:   realmOf(cfg.UUID),
		closing: make(chan struct{}),
		changed: make(chan struct{}),
		conns:   map[*net.TCPConn]struct{}{},
		enums:   map[string]*enumeration{},
		state:   amt.StateIn,
	}
	if cfg.Factory {
		d.state = amt.StatePre
	}
	if cfg.Realm != "" {
		d.realm = cfg.Realm
	}
	d.faults = newFaultState(cfg.Faults, id)
	d.digest.rng = rand.New(rand.NewPCG(id, uint64(d.started.UnixNano())))
	d.now = d.factorySettings()
	d.saved = d.now.clone()
	d.busyKeys = p.BusyKeys
	return d, nil
}

func uuidNumber(u amt.UUID) uint64 {
	return binary.BigEndian.Uint64(u[:8]) ^ binary.BigEndian.Uint64(u[8:])
}

func realmOf(u amt.UUID) string {
	sum := md5.Sum(append([]byte("realm"), u[:]...))
	return "Digest:" + strings.ToUpper(hex.EncodeToString(sum[:]))
}

func ha1(user, realm, password string) string {
	sum := md5.Sum([]byte(user + ":" + realm + ":" + password))
	return hex.EncodeToString(sum[:])
}

func (d *Device) factorySettings() settings {
	s := settings{
		adminUser: "admin", adminHA1: ha1("admin", d.realm, "admin"), adminDefault: true,
		mebx: "admin", mebxDefault: true,
		hostName: d.cfg.HostName, sharedFQDN: true, ping: true, rmcpPing: true,
		ddnsByDHCP: true, ddnsInterval: 1440, ddnsTTL: 900, idleWake: 65535,
		context: -1, dhcp: true, optIn: 0xFFFFFFFF, nextUser: 1,
		redirection: 32768, kvm: 3, webUI: 3, codeTimeout: 120, displayTimeout: 300, kvmTimeout: 3, scheme: 1,
	}
	// The chip's clock runs from 1 January 2004 until somebody sets it.
	s.clockOffset = time.Date(2004, 1, 1, 0, 0, 0, 0, time.UTC).Sub(d.started)
	for _, h := range d.p.Hashes {
		s.hashes = append(s.hashes, hashEntry{h, true, true})
	}
	for _, h := range d.cfg.Roots {
		for _, a := range d.p.Knows {
			if a == h.Algorithm {
				s.hashes = append(s.hashes, hashEntry{h, d.cfg.RootsOEM, true})
			}
		}
	}
	if d.p.has(16, 1) { // a default certificate is in use from the start
		s.certs = append(s.certs, certEntry{id: 0, own: true})
		s.context, s.nextID[0] = 0, 1
	}
	return s
}

// Start listens, and returns once a server could connect.
func (d *Device) Start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	return d.listen()
}

// UUID identifies the device.
func (d *Device) UUID() amt.UUID { return d.cfg.UUID }

// Addr is where the device listens with TLS.
func (d *Device) Addr() netip.AddrPort { return netip.AddrPortFrom(d.cfg.Addr, d.cfg.Port) }

// Realm is the digest realm, which never changes.
func (d *Device) Realm() string { return d.realm }

// Personality is the device's generation.
func (d *Device) Personality() Personality { return d.p }

// State returns ProvisioningState, and a channel that closes at its next
// change.
func (d *Device) State() (amt.ProvisioningState, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, d.changed
}

// setState needs mu held.
func (d *Device) setState(s amt.ProvisioningState) {
	if d.state == s {
		return
	}
	d.log.Info("state", zap.Stringer("from", d.state), zap.Stringer("to", s))
	d.state = s
	close(d.changed)
	d.changed = make(chan struct{})
}

// time is the device's own clock, in whole seconds. mu is held.
func (d *Device) time() time.Time { return d.cfg.Clock().Add(d.now.clockOffset) }

// admin is the account that digest answers must match. mu is held.
func (d *Device) admin() (user, ha1 string) {
	s := d.adminOf()
	return s.adminUser, s.adminHA1
}

func (d *Device) adminOf() *settings {
	if d.state == amt.StateIn && d.p.PasswordAtCommit {
		return &d.saved
	}
	return &d.now
}

// PowerCycle cuts the power for the time of a network restart. A device in the
// middle of setup keeps its settings, or forgets all of them; a committed one
// keeps everything. A device in factory mode wakes up in setup mode, as bare
// metal does.
func (d *Device) PowerCycle(keepSettings bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.powerCycle(keepSettings)
}

func (d *Device) powerCycle(keep bool) {
	d.note("PowerCycle", fmt.Sprintf("keep=%t", keep), 0)
	d.seen.powerCycles++
	if d.state == amt.StateIn && !keep {
		d.now, d.lmsPut = d.saved.clone(), false
	}
	if d.state == amt.StatePre {
		d.setState(amt.StateIn)
	}
	d.retries = 0
	d.restart(d.cfg.Restart)
}

// commit saves pending settings and makes the device operational. mu is held.
func (d *Device) commit(from netip.Addr) {
	d.saved = d.now.clone()
	if d.seen.commits++; d.seen.operational.IsZero() {
		d.seen.operational = time.Now()
	}
	if d.state == amt.StateIn {
		d.record, d.recordIP = d.setup, from.String()
	}
	d.setState(amt.StatePost)
}

// unprovision forgets; mu is held. A partial one keeps the admin account and
// the names and goes back to setup mode; a full one goes back to the factory's
// state, from which only a power cycle makes a bare machine speak again.
func (d *Device) unprovision(full bool) {
	old := d.now
	d.now = d.factorySettings()
	d.now.clockOffset, d.now.clockSet = old.clockOffset, old.clockSet
	d.now.mebx, d.now.mebxDefault = old.mebx, old.mebxDefault // nothing restores it over the network
	d.record, d.recordIP, d.setup = nil, "", nil
	d.lmsPut, d.busyKeys, d.retries = false, d.p.BusyKeys, 0
	if full {
		d.now.hashes = nil
		for _, h := range d.factorySettings().hashes {
			if h.isDefault {
				d.now.hashes = append(d.now.hashes, h)
			}
		}
		d.saved = d.now.clone()
		d.setState(amt.StatePre)
		return
	}
	d.now.adminUser, d.now.adminHA1, d.now.adminDefault, d.now.adminBy = old.adminUser, old.adminHA1, old.adminDefault, old.adminBy
	d.now.hostName, d.now.domainName = old.hostName, old.domainName
	d.now.hashes = old.hashes
	d.saved = d.now.clone()
	d.setState(amt.StateIn)
}

// Close ends every connection and waits for everything that the device started.
func (d *Device) Close() error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.closing)
		d.cutNetwork()
	}
	d.mu.Unlock()
	if d.cfg.Rogue != nil {
		d.cfg.Rogue.close()
	}
	d.wg.Wait()
	return nil
}

// wait sleeps, unless somebody closes the device first.
func (d *Device) wait(t time.Duration) bool {
	if t <= 0 {
		return true
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.closing:
		return false
	}
}
