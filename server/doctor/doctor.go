// Package doctor looks at the world around the daemon and says, for each thing
// that has to be true before a device can be managed, whether it is: pass, warn
// or fail, with a hint and the text to paste where there is one.
//
// The road it follows is the firmware's own (amt/protocol.md 1.1):
//
//  1. DHCP tells the device its DNS suffix, option 15 (dhcp.go).
//  2. DNS tells it where provisionserver.<suffix> is (dns.go).
//  3. It leaves a hello at port 9971 of that address (listener.go).
//  4. The server connects back and shows a certificate for that suffix
//     (device.go, suffix.go, certificate.go).
//
// and then what the server itself stands on: its own TLS (tls.go), clock, database, keys, disk,
// backup, metrics. Nothing is changed by looking, but for a file that is made
// and removed again in the data directory.
package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// Status is what a check came to.
type Status string

// The statuses, the best first.
const (
	Pass Status = "pass"
	Skip Status = "skip" // it did not look: there was nothing to look at, or nothing names it
	Warn Status = "warn"
	Fail Status = "fail"
)

// Level is 0, 1 or 2: the exit status and the metric's value. What was not looked at
// is no worse than what is well.
func (s Status) Level() int {
	switch s {
	case Pass, Skip:
		return 0
	case Warn:
		return 1
	}
	return 2
}

// A Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"` // a kind of Kinds, and where there are several of it a colon and which
	Status Status `json:"status"`
	Detail string `json:"detail"` // what was found; may have several lines
	Hint   string `json:"hint"`   // what to do, "" when nothing; may have several lines
}

// Kind is the name without the part behind the colon.
func (c Check) Kind() string {
	kind, _, _ := strings.Cut(c.Name, ":")
	return kind
}

// Report is the answer of a doctor.
type Report struct {
	Checks []Check `json:"checks"`
}

// Worst is the worst status, pass without any check.
func (r Report) Worst() Status {
	worst := Pass
	for _, c := range r.Checks {
		if c.Status.Level() > worst.Level() {
			worst = c.Status
		}
	}
	return worst
}

// Config is what the doctor is to look at. Zero fields leave something out, and
// the check says so.
type Config struct {
	HelloListen string         // hello.listen
	Zones       []string       // where devices look for us
	Addresses   []netip.Prefix // ours beside this machine's: virtual ones, NAT, balancers
	Own         func() []netip.Addr
	Resolvers   []netip.AddrPort // empty: those of /etc/resolv.conf

	DHCPInterface string
	NTP           string // host or host:port

	Sample   netip.Addr // a device's address
	Port     uint16     // where devices listen; 0 is 16993
	Networks []netip.Prefix
	MinTLS   uint16

	// Certificates gives those in use and why others are not.
	Certificates func() ([]*certs.Provisioning, []error)
	Force        map[string]bool

	// TLS gives the certificates of our own listeners, those of devices apart.
	TLS func() []Shown

	// Look surveys the database, with a keyring of its own (store.Look). keys is
	// why the master key could not be had.
	Look    func(ctx context.Context) (s store.Survey, keys error)
	DataDir string
	// Passphrase is that of the backups, to open the newest one with. nil: it is
	// not known here.
	Passphrase func() (amt.Secret, error)

	// Descriptors says what the process may not open that the configuration wants,
	// "" for nothing. nil: this process is no daemon.
	Descriptors func() (few string, known bool)

	// Running tells whether a daemon answers for this configuration, and what only
	// it can know. nil: this process is no daemon and none was asked.
	Running func(ctx context.Context) Daemon

	Now func() time.Time
}

// Daemon is what the running daemon says of itself.
type Daemon struct {
	Up      bool
	Since   time.Time // its start; zero unknown
	Scraped time.Time // when its metrics were last asked for; zero never
	Unknown string    // why Scraped is not known; "" it is
}

// Kinds lists every kind of check, in the order of a report.
func Kinds() []string {
	return []string{"configuration", "listener", "dns", "reverse", "dhcp", "suffixes", "networks", "names", "certificates", "tls", "device",
		"clock",
		"database", "schema", "rights", "master_key", "audit", "queue", "backup", "disk", "descriptors", "metrics"}
}

// limit bounds a whole run; each check has less.
const limit = 18 * time.Second

// A Doctor can be asked again and again.
type Doctor struct {
	c      Config
	opened openedBackup
}

// New fills in the defaults.
func New(c Config) *Doctor {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Own == nil {
		c.Own = ownAddresses
	}
	if c.Port == 0 {
		c.Port = 16993
	}
	if c.TLS == nil {
		c.TLS = func() []Shown { return nil }
	}
	if c.Certificates == nil {
		c.Certificates = func() ([]*certs.Provisioning, []error) { return nil, nil }
	}
	if c.Running == nil {
		c.Running = func(context.Context) Daemon { return Daemon{Unknown: "no daemon was asked"} }
	}
	return &Doctor{c: c}
}

// visit is one run: what several checks need is found out once.
type visit struct {
	*Doctor
	now       time.Time
	survey    func() (store.Survey, error)
	lease     func() dhcpFinding
	daemon    func() Daemon
	resolvers func() ([]netip.AddrPort, error)
	own       []netip.Addr
	certs     func() ([]*certs.Provisioning, []error)

	mu       sync.Mutex
	measured Measures
}

// Measures are the figures of a run that are metrics of their own.
type Measures struct {
	Zones  map[string]bool // is provisionserver there and ours
	DHCP   map[string]bool // is option 15 right on this interface
	Offset time.Duration   // the clock's, against NTP; 0 when not known
}

func (v *visit) measure(fn func(m *Measures)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fn(&v.measured)
}

// Run makes every check at once and answers in the order of Kinds. It ends
// within 20 seconds whatever the world does.
func (d *Doctor) Run(ctx context.Context) (Report, Measures) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v := &visit{Doctor: d, now: d.c.Now(), own: d.c.Own(), measured: Measures{Zones: map[string]bool{}, DHCP: map[string]bool{}}}
	v.survey = sync.OnceValues(func() (store.Survey, error) {
		if d.c.Look == nil {
			return store.Survey{Empty: true}, nil
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return d.c.Look(ctx)
	})
	v.certs = sync.OnceValues(func() ([]*certs.Provisioning, []error) {
		list, errs := d.c.Certificates()
		s, _ := v.survey()
		return withStored(list, s.Certificates), errs
	})
	v.lease = sync.OnceValue(func() dhcpFinding { return v.askDHCP(ctx) })
	v.daemon = sync.OnceValue(func() Daemon {
		ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
		defer cancel()
		return d.c.Running(ctx)
	})
	v.resolvers = sync.OnceValues(func() ([]netip.AddrPort, error) { return resolversOf(d.c.Resolvers) })

	all := []struct {
		name string
		run  func(ctx context.Context) []Check
	}{
		{"listener", v.listener}, {"dns", v.zones}, {"reverse", v.reverse}, {"dhcp", v.dhcp}, {"suffixes", v.suffixes}, {"networks", v.networks}, {"names", v.names},
		{"certificates", v.certificates}, {"tls", v.tls}, {"device", v.device}, {"clock", v.clock}, {"database", v.database},
		{"schema", v.schema}, {"rights", v.rights}, {"master_key", v.masterKey}, {"audit", v.audit}, {"queue", v.queue}, {"backup", v.backup}, {"disk", v.disk}, {"descriptors", v.descriptors}, {"metrics", v.metrics},
	}
	answers := make([]chan []Check, len(all))
	for i, c := range all {
		answers[i] = make(chan []Check, 1) // so that a check that never ends holds nobody
		go func() { answers[i] <- guarded(ctx, c.name, c.run) }()
	}
	report := Report{Checks: []Check{}}
	for i, c := range all {
		select {
		case found := <-answers[i]:
			report.Checks = append(report.Checks, found...)
		case <-ctx.Done():
			select {
			case found := <-answers[i]:
				report.Checks = append(report.Checks, found...)
			case <-time.After(500 * time.Millisecond / time.Duration(len(all))):
				report.Checks = append(report.Checks, Check{Name: c.name, Status: Fail, Detail: "this check did not end in time",
					Hint: "run the doctor again; if it stays so, tell the makers"})
			}
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return report, v.measured.clone()
}

func (m Measures) clone() Measures {
	out := m
	out.Zones, out.DHCP = map[string]bool{}, map[string]bool{}
	for k, ok := range m.Zones {
		out.Zones[k] = ok
	}
	for k, ok := range m.DHCP {
		out.DHCP[k] = ok
	}
	return out
}

// guarded turns a panic of one check into its failure.
func guarded(ctx context.Context, name string, run func(ctx context.Context) []Check) (out []Check) {
	defer func() {
		if p := recover(); p != nil {
			where := strings.Join(strings.Fields(string(debug.Stack())), " ")
			out = []Check{{Name: name, Status: Fail, Detail: fmt.Sprintf("the check itself failed: %v", p),
				Hint: "this is a fault of the program: " + where[:min(len(where), 600)]}}
		}
	}()
	return run(ctx)
}

// one makes a check's answer.
func one(name string, s Status, hint, format string, args ...any) []Check {
	return []Check{{Name: name, Status: s, Detail: fmt.Sprintf(format, args...), Hint: hint}}
}

// worse keeps the worse of two statuses.
func worse(a, b Status) Status {
	if b.Level() > a.Level() {
		return b
	}
	return a
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
