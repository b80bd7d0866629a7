package main

import (
	"net/netip"
	"net/url"
	"os"
	"time"

	"github.com/provisiond/provisiond/server/api"
)

// Config is what the daemon can be told, and the manual of it: each key with
// its meaning, its default and why that is the default. `provisiond config keys`
// prints these comments.
//
// Values come from, later wins: the defaults, the YAML file, the environment
// (PROVISIOND_ and the key in capitals, dots as underscores: PROVISIOND_HELLO_LISTEN;
// for what is secret also with _FILE behind it, naming a file that holds the
// value), and the flags that were given. Names of files that do not begin with a
// slash start at the working directory. Durations are written 90s, 5m, 24h or 30d.
type Config struct {
	// The folder for everything that must survive: the SQLite database, the master key
	// and the first admin token. The daemon makes it with mode 0700. Default: systemd's
	// STATE_DIRECTORY; else /var/lib/provisiond for root or where that folder exists;
	// else ./data, so that a fresh machine needs no configuration.
	DataDir string `yaml:"data_dir"`

	Database     Database     `yaml:"database"`
	MasterKey    MasterKey    `yaml:"master_key"`
	Hello        Hello        `yaml:"hello"`
	API          API          `yaml:"api"`
	Log          Log          `yaml:"log"`
	Metrics      Metrics      `yaml:"metrics"`
	Provisioning Provisioning `yaml:"provisioning"`
	Maintenance  Maintenance  `yaml:"maintenance"`
	Jobs         Jobs         `yaml:"jobs"`
	Retention    Retention    `yaml:"retention"`
	Doctor       Doctor       `yaml:"doctor"`
	Tracing      Tracing      `yaml:"tracing"`
	Node         Node         `yaml:"node"`

	// The DNS zones whose devices should find this server, such as corp.example.com. The
	// doctor looks for provisionserver.<zone> in each. The server gives devices names
	// only in these zones and in the domains of the provisioning certificates. Default:
	// none, because only the operator knows them.
	Zones []string `yaml:"zones"`
}

// Database is where the truth is kept.
type Database struct {
	// postgres://user:password@host/name, or empty for SQLite in data_dir. Empty
	// is the default so that nothing has to be installed; several daemons need
	// Postgres. Keep a password out of this file with PROVISIOND_DATABASE_URL_FILE.
	URL DSN `yaml:"url" secret:"yes"`
	// The most connections to Postgres at a time. Default 32: workers wait for devices,
	// not for the database. SQLite does not use it.
	MaxConnections int `yaml:"max_connections" min:"2" max:"1000"`
	// The daemon logs a statement that takes longer than this as store.slow: its text,
	// never its values. Default 1s; most take about a millisecond. 0 logs none.
	SlowQuery time.Duration `yaml:"slow_query" min:"0s"`
}

// MasterKey is where the 32-byte key comes from that wraps every other key. Name
// at most one. Default: data_dir/master.key, made at the first start; move it
// elsewhere so that a copy of data_dir alone opens nothing.
type MasterKey struct {
	// A file with 32 raw bytes, or 64 hexadecimal digits, readable by us alone.
	File File `yaml:"file"`
	// The name of an environment variable that holds 64 hexadecimal digits.
	Env string `yaml:"env"`
	// The name of a systemd credential (LoadCredentialEncrypted=).
	Credential string `yaml:"credential"`
	// A command and its arguments that print the key, so that any key service
	// with a command line serves. It runs once, at the start.
	Exec []string `yaml:"exec"`
}

// Hello is the port that firmware calls.
type Hello struct {
	// Address and port for hellos. Firmware knows no other port than 9971.
	// Default 127.0.0.1:9971, since whoever may reach it can ask for setup; a real
	// server says 0.0.0.0:9971 or [::]:9971.
	Listen Listen `yaml:"listen"`
	// A PEM file with the authorities of client certificates. It switches mutual TLS on,
	// on the same port: relays send raw hellos in it, host agents POST. The daemon takes
	// up a replaced file within seconds, without a restart. Default: none, plain hellos
	// only.
	ClientCA File `yaml:"client_ca"`
	// The names (common name or DNS name) of relays in their client certificates. A
	// relay speaks for every device. Any other certificate of client_ca belongs to an
	// agent, which speaks for the one device that the certificate names. Default: none.
	Relays []string `yaml:"relays"`
	// Whether the port takes plain hellos. Default true: firmware cannot send others.
	// Set false where every hello comes through a relay.
	Plain bool `yaml:"plain"`
	// Networks of load balancers whose PROXY protocol v2 header the server believes. The
	// header decides which address the server connects back to, so name balancers only.
	// Default: none.
	ProxyFrom []netip.Prefix `yaml:"proxy_from"`
	// How long a whole connection may take. Default 5s: a hello is one packet.
	ReadTimeout time.Duration `yaml:"read_timeout" min:"100ms" max:"5m"`

	Limits Limits `yaml:"limits"`
}

// Limits keep a flood of hellos out. 0 switches one off. A connection counts once it
// has said something. Devices that are set up, approved or on the list have a reserve
// beyond the limits, and no address can use another's part of it; relays and agents
// have limits of their own.
type Limits struct {
	// Hellos a minute from one address, or one /64. Default 20: firmware sends one or two; a
	// NAT in front of many devices needs more.
	PerSourcePerMinute int `yaml:"per_source_per_minute" min:"0"`
	// Hellos a minute from one /24 or /64. Default 2000, a subnet that wakes up at once.
	PerNetworkPerMinute int `yaml:"per_network_per_minute" min:"0"`
	// Hellos a second from everywhere. Default 0, off: the database is the limit.
	TotalPerSecond int `yaml:"total_per_second" min:"0"`
	// Open connections. Default 4096, about 22 MiB. At the limit, the server closes the
	// connection that has been silent longest.
	Connections int `yaml:"connections" min:"0"`
}

// API is the REST interface, the console, /metrics, /healthz and /readyz.
type API struct {
	// Address and port. Default 127.0.0.1:8080. Any address that is not loopback
	// needs api.tls, since tokens and passwords would travel in clear.
	Listen Listen `yaml:"listen"`

	TLS APITLS `yaml:"tls"`

	// Open connections. Default 512. At the limit, the server closes the connection that
	// has waited longest. These and hello.limits.connections share the descriptors of
	// one process: where LimitNOFILE is too small for both, the server takes fewer.
	Connections int `yaml:"connections" min:"16" max:"100000"`
	// Open connections from one address or /64 that have not shown a valid token yet.
	// Default 64; a proxy in front counts as one address. A connection without a token
	// may wait 10 seconds for its next request.
	ConnectionsPerSource int `yaml:"connections_per_source" min:"4" max:"100000"`

	// Whether the server serves the web console. Default true.
	Console bool `yaml:"console"`
	// How many passwords one token may read in an hour, over all nodes. Default 30,
	// so that a stolen token cannot carry a fleet away. 0 forbids reading at all.
	RevealsPerHour int `yaml:"reveals_per_hour" min:"0" max:"10000"`
	// How long a console login lasts. Default 12h, one working day.
	SessionLifetime time.Duration `yaml:"session_lifetime" min:"1m" max:"30d"`
}

// APITLS is the certificate of the API. Default: none, plain HTTP on loopback. The
// daemon takes up replaced files within seconds, without a restart.
type APITLS struct {
	// A PEM file with the certificate and its intermediates, leaf first.
	Cert File `yaml:"cert"`
	// A PEM file with the private key of cert.
	Key File `yaml:"key"`
}

// Log goes to standard error.
type Log struct {
	// debug, info, warn or error. Default info: one line per fact.
	Level string `yaml:"level" oneof:"debug info warn error"`
	// json or console. Default json, which machines read; console is for people.
	Format string `yaml:"format" oneof:"json console"`
}

// Metrics are at /metrics of the API's address.
type Metrics struct {
	// Native histograms beside the classic ones. Default false: with them on, a
	// Prometheus older than 2.50 drops the classic buckets and panels go blank.
	NativeHistograms bool `yaml:"native_histograms"`
}

// Provisioning says which devices the server sets up, with what, and how hard it tries.
type Provisioning struct {
	// The provisioning certificates. Default: none; the daemon then keeps every
	// hello and devices wait in pending_certificate.
	Certificates []Certificate `yaml:"certificates"`
	// The networks that the server may connect back to. Default: none, because a hello
	// can name any address as its own; 0.0.0.0/0 has to be typed. The server never calls
	// loopback, link-local and its own addresses, unless a network here lies inside
	// them.
	Networks []netip.Prefix `yaml:"networks"`
	// DNS servers, as address or address:port, that the server asks for the address of a
	// managed device and for the names of devices. Default: this machine's.
	Resolvers []string `yaml:"resolvers"`
	// The networks from which an import may fetch missing intermediates over plain HTTP,
	// when it is asked to (provctl cert import --aia). Default: none; the import then
	// names what is missing, and you give it the file. 0.0.0.0/0 and ::/0 have to be
	// typed; loopback, link-local and our own addresses stay refused as for networks.
	IssuerNetworks []netip.Prefix `yaml:"issuer_networks"`
	// Who is let in. open: every device in networks. approve: a person allows each
	// device once. allow-list: only devices imported before. Default approve, because
	// setting up a device hands it secrets.
	Admission string `yaml:"admission" oneof:"open approve allow-list"`
	// What the server does when a managed device says hello again, which means that it
	// lost its setup. auto: set it up again. approve: ask a person. deny: record it
	// only. Default approve: a replayed hello must not make new secrets.
	Reprovision string `yaml:"reprovision" oneof:"auto approve deny"`
	// How many devices this node works on at once. Default 256; a device takes seconds,
	// nearly all of it waiting. The node keeps a sixteenth, at most 16, free for first
	// attempts, as many for devices that somebody let in, and as many for first attempts
	// of strangers.
	Workers int `yaml:"workers" min:"1" max:"4096"`
	// The longest one attempt may take. Default 5m: old firmware needs up to 200
	// seconds for a key pair.
	AttemptTimeout time.Duration `yaml:"attempt_timeout" min:"10s" max:"2h"`
	// The longest one request to a device may take. Default 30s.
	CallTimeout time.Duration `yaml:"call_timeout" min:"1s" max:"10m"`
	// The oldest TLS that the server speaks to a device: 1.0, 1.1 or 1.2. Default 1.0:
	// AMT before 6 knows nothing newer, and each connection uses the newest that the
	// device has.
	MinTLS string `yaml:"min_tls" oneof:"1.0 1.1 1.2"`

	// One-time passwords that a host agent leaves in the device and announces here. off:
	// the server ignores them. agent: it compares one that an agent announced. required:
	// it sets up no device without one. Default agent: bare metal has no agent.
	OTP string `yaml:"otp" oneof:"off agent required"`
	// How long firmware listens for setup after its first hello. The server works on the
	// device with the least time left first. Default 6h, as makers set it.
	SetupWindow time.Duration `yaml:"setup_window" min:"10m" max:"255h"`
	// How many unapproved devices the server remembers. Default 50000. Anybody who
	// reaches the hello port can add one, so the newest replace the oldest.
	PendingDevices int `yaml:"pending_devices" min:"100" max:"10000000"`

	// Further domains in which a device may have a name and for which our device
	// authority signs. A device waits if its suffix or given name lies neither here, nor
	// in zones, nor in the domain of a provisioning certificate. Default: none.
	OtherDomains []string `yaml:"other_domains"`
	// Whether the device authority carries a name constraint to zones and other_domains.
	// The server decides this once, when it makes the authority at its very first start:
	// for twenty years the authority can then sign for nothing else, also for other
	// consoles. Default false: zones grow.
	ConstrainCA bool `yaml:"constrain_device_ca"`

	ODCA    ODCA    `yaml:"odca"`
	Names   Names   `yaml:"names"`
	Limits  Attempt `yaml:"limits"`
	Profile Profile `yaml:"profile"`
	Retry   Retry   `yaml:"retry"`
}

// Names says where a device gets its name from when no assignment rule gives it one.
type Names struct {
	// The sources of names, in the order in which the server asks them. assigned: an
	// import, an operator or an authenticated agent said it. reverse_dns: the address's
	// name, if that name leads back to the address. webhook: the address below. pattern:
	// profile.host_name, which always answers; while an earlier source fails, the device
	// waits for at most a quarter of an hour after its first hello. Without pattern at
	// the end, a device waits in pending_identity until a source knows it. Default:
	// assigned, pattern.
	Sources []string `yaml:"sources" oneof:"assigned reverse_dns webhook pattern"`
	// The URL that the server asks for a name. It POSTs uuid, address and what else it
	// knows, and expects {"fqdn": "pc7.corp.example.com"}, 204 or 404. https, or http on
	// loopback; the server follows no redirect. Default: none.
	Webhook string `yaml:"webhook"`
	// A PEM file with the authorities of the webhook's certificate. Default: the
	// system's.
	WebhookCA File `yaml:"webhook_ca"`
	// The longest that one question may take. Default 5s; the server asks again each
	// minute.
	Timeout time.Duration `yaml:"timeout" min:"100ms" max:"1m"`
}

// ODCA is what a device can show of its hardware: from AMT 15 on, its certificate
// during setup leads to a root of Intel's, the on-die certificate authority's.
type ODCA struct {
	// A PEM file with Intel's on-die root, whose SHA-256 begins with beb40bb7 (the file
	// OnDie_CA_RootCA_Certificate.cer of tsci.intel.com, converted). The server believes
	// every root in it. Default: none, and the server verifies nothing.
	Roots File `yaml:"roots"`
	// off: the server does not look. prefer: it verifies what a device shows and
	// remembers it; a device that showed its hardware once must do so again. require: it
	// sets up no device of AMT 15 or later without, and tells it nothing. Default:
	// prefer with roots, else off; some makers ship AMT 15 without hardware
	// certificates.
	Policy string `yaml:"policy" oneof:"off prefer require"`
}

// Attempt bounds how many devices all nodes together talk to at once.
type Attempt struct {
	// In one network, a /24 or a /64. Default 0, a fair share of each node's workers:
	// among devices of its kind (known or stranger, first attempt or later) a network
	// gets at most twice what it leaves to all others, and two thirds when it is alone.
	// A number is a further limit, for the network's own sake.
	PerNetwork int `yaml:"per_network" min:"0"`
	// In all networks together. Default 0: the workers of all nodes.
	Total int `yaml:"total" min:"0"`
	// The server leaves a network alone for a while after this many failures in a row
	// that the network is to blame for. Default 30; 0 never.
	BreakAfter int `yaml:"break_after" min:"0"`
	// How long the server leaves it alone at first; the time doubles up to 15m while the
	// next try fails too. Default 1m.
	BreakFor time.Duration `yaml:"break_for" min:"1s" max:"15m"`
}

// Certificate is one provisioning certificate with its key and chain.
type Certificate struct {
	// The PFX (PKCS#12) file.
	PFX File `yaml:"pfx"`
	// A file that holds the PFX password; the server ignores one line end behind it.
	// Default: the empty password. The password itself has no key on purpose.
	PasswordFile File `yaml:"password_file"`
	// Use the certificate although it has expired. Default false; old firmware with a
	// reset clock may still accept it.
	Force bool `yaml:"force"`
}

// Profile is what a device becomes when no assignment rule says otherwise.
type Profile struct {
	// TLS after setup. server: the device shows a certificate of our own authority.
	// mutual: it asks for ours too. none. Default server: without TLS, passwords travel
	// as digests over plain HTTP, and AMT 16.1 has nothing else.
	TLS string `yaml:"tls" oneof:"server mutual none"`
	// With mutual TLS, the suffixes of client names that a device lets in, three at
	// most; the server always adds its own name. Default: none, any client of our own
	// authority.
	TrustedCN []string `yaml:"trusted_cn"`
	// The word that tls: none needs beside it. Without TLS a device proves nothing, and
	// whoever is in between can pass our answers on to it and take it over. Default
	// false.
	Unprotected bool `yaml:"unprotected"`
	// The user name of the administrator. Default admin, which the firmware's own
	// pages and most tools assume.
	AdminUser string `yaml:"admin_user"`
	// set: each device gets a MEBx password of its own. leave: the server does not touch
	// it. Default set: the factory's password is admin.
	MEBx string `yaml:"mebx" oneof:"set leave"`
	// The host name of a device for which no source knows one. The server replaces
	// {uuid8}, {uuid}, {mac}, {serial} and {ip}. Default amt-{uuid8}: eight digits of
	// the UUID, or of its hash for Dell, whose UUIDs all begin alike.
	HostName string `yaml:"host_name"`
	// The domain of a device's name. Empty, the default: the suffix that the device
	// reports, else the certificate's domain.
	Domain string `yaml:"domain"`
	// The server sets the setup window to this many hours at the first contact: 1 to 24;
	// 0 leaves it alone. Default 6, as firmware gives an agent.
	ExtendHours int `yaml:"extend_hours" min:"0" max:"24"`
	// How many days the device's own TLS certificate is valid. Default 825.
	CertificateDays int `yaml:"certificate_days" min:"1" max:"7300"`
	// The server changes an admin password at this age in days. Default 0, never: each
	// is random, 32 characters, and belongs to one device only.
	PasswordDays int `yaml:"password_days" min:"0"`
}

// Retry is the pace after a failure that time may mend.
type Retry struct {
	// The wait before the second attempt; it doubles each time, with jitter. Default 30s.
	First time.Duration `yaml:"first" min:"1s" max:"1d"`
	// The longest wait. Default 1h, so that the server reaches a device again inside its
	// setup window.
	Max time.Duration `yaml:"max" min:"1s" max:"30d"`
	// After this many failed attempts in a row the server stops and waits for a person.
	// Then provctl device retry makes another attempt at once, and hellos make one an
	// hour. The server always repeats what it is itself to blame for. Default 0, no end:
	// the setup window ends by itself.
	Attempts int `yaml:"attempts" min:"0" max:"1000"`
}

// Maintenance is what the server does to managed devices by itself: only what is due,
// such as a clock that is off, a certificate that ends soon, a name, a profile or
// a rule that changed, a password that is old. The server notices another
// provisioning.profile at its next start.
type Maintenance struct {
	// How many devices maintenance begins in a minute, also in the last wave of a
	// rollout. Default 60: it goes through 100,000 devices in little more than a day. 0:
	// only commands begin maintenance.
	PerMinute int `yaml:"per_minute" min:"0" max:"100000"`
	// How many devices maintenance works on at once, over all nodes. Default 200, which
	// leaves workers to devices that wait for their setup.
	AtOnce int `yaml:"at_once" min:"1" max:"100000"`
	// A change of many devices begins with one; then this many have to prove it, each by
	// a login after the change, before the rest follow. This holds for new versions of
	// profiles, for changed rules, and for jobs that do not say otherwise. Default 10;
	// 0: the rest follow the first one.
	Canary int `yaml:"canary" min:"0" max:"100000"`
	// Maintenance looks at a device after this time even if it knows of nothing due:
	// clocks drift, and somebody may have changed the device. Default 14d; 0 never.
	Contact time.Duration `yaml:"contact" min:"0s"`
}

// Jobs says which jobs wait for a second pair of eyes, whatever their maker says.
// The second approver is another user, not another token of the same user.
type Jobs struct {
	// Kinds of jobs that another user has to approve, such as unprovision and retire.
	// Nobody can then give such a command to a single device without a job either.
	// Default: none.
	SecondApprover []string `yaml:"second_approver" oneof:"maintain rotate unprovision retire approve reject retry clear-failures quarantine release restore tag untag assign-profile"`
	// Another user also has to approve a job of any kind over more devices than this.
	// The devices of its maker's other unapproved jobs of the same kind count too, for
	// 24 hours and until those jobs end. Default 0: the number does not matter.
	SecondApproverAbove int `yaml:"second_approver_above" min:"0" max:"1000000"`
}

// Retention bounds what grows. 0 keeps for ever.
type Retention struct {
	// How long raw hellos are kept. Default 30d.
	Hellos time.Duration `yaml:"hellos" min:"0s"`
	// How long events are kept. Default 400d, a year and its audit.
	Events time.Duration `yaml:"events" min:"0s"`
	// How long finished runs and their steps are kept; the newest run of each device
	// always stays. Default 400d.
	Runs time.Duration `yaml:"runs" min:"0s"`
}

// Doctor looks at the world around the daemon.
type Doctor struct {
	// How often the checks run by themselves; 0 never. Default 15m.
	Interval time.Duration `yaml:"interval" min:"0s"`
	// The network interface on which the doctor asks DHCP what it tells devices.
	// Default: none, because asking needs the right to use port 68.
	DHCPInterface string `yaml:"dhcp_interface"`
	// An NTP server, as host or host:port, with which the doctor compares the clock.
	// Default: none.
	NTP string `yaml:"ntp"`
	// Addresses besides the machine's own under which devices reach this server: virtual
	// ones, NAT, balancers, other nodes. Default: none.
	Addresses []netip.Prefix `yaml:"addresses"`
	// The DNS servers that the doctor asks, as addresses, such as those that devices
	// use. Default: those of /etc/resolv.conf.
	Resolvers []netip.Prefix `yaml:"resolvers"`
	// The address of a device to which the doctor tries the road, as far as it goes.
	// Default: none.
	SampleDevice string `yaml:"sample_device"`
	// A file whose first line is the passphrase of the nightly backups, such as the one
	// that backup create reads. With it the doctor opens each new backup once, to its
	// end. Default: none; only backup verify then finds a wrong passphrase.
	BackupPassphraseFile File `yaml:"backup_passphrase_file"`
}

// Tracing sends OpenTelemetry spans of runs.
type Tracing struct {
	// The OTLP/HTTP endpoint, such as http://127.0.0.1:4318. With it, durations on
	// /metrics carry their trace as exemplars, for a Prometheus that keeps them
	// (--enable-feature=exemplar-storage). Default: none, tracing is off.
	OTLPEndpoint string `yaml:"otlp_endpoint"`
}

// Node is this daemon among several on one database.
type Node struct {
	// This node's name, different on each node. Default: the host's name.
	Name string `yaml:"name"`
	// How long a stopping node waits for the devices it works on. Default 60s; another
	// node or the next start takes up what is not finished then.
	Drain time.Duration `yaml:"drain" min:"0s" max:"1h"`
}

// File is the name of a file that must be there, readable and not empty.
type File string

// Listen is address:port to accept connections on; the address may be empty.
type Listen string

// DSN is a database URL. It prints without its password.
type DSN string

// String leaves the password out.
func (d DSN) String() string {
	if d == "" {
		return ""
	}
	u, err := url.Parse(string(d))
	if err != nil || u.Scheme == "" {
		return "***" // not understood, so perhaps a password stands in it
	}
	q := u.Query()
	for k := range q {
		if k == "password" || k == "sslpassword" {
			q.Set(k, "xxxxx")
		}
	}
	u.RawQuery = q.Encode()
	return u.Redacted()
}

// GoString keeps %#v from printing the password.
func (d DSN) GoString() string { return d.String() }

// MarshalText keeps every encoder from printing the password.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Defaults is the configuration of an empty file.
func Defaults() Config {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "provisiond"
	}
	const day = 24 * time.Hour
	return Config{
		DataDir:  api.DefaultDataDir(),
		Database: Database{MaxConnections: 32, SlowQuery: time.Second},
		Hello: Hello{
			Listen: "127.0.0.1:9971", Plain: true, ReadTimeout: 5 * time.Second,
			Limits: Limits{PerSourcePerMinute: 20, PerNetworkPerMinute: 2000, Connections: 4096},
		},
		API: API{Listen: "127.0.0.1:8080", Connections: 512, ConnectionsPerSource: 64, Console: true, RevealsPerHour: 30,
			SessionLifetime: 12 * time.Hour},
		Log:     Log{Level: "info", Format: "json"},
		Metrics: Metrics{},
		Provisioning: Provisioning{
			Admission: "approve", Reprovision: "approve", Workers: 256, AttemptTimeout: 5 * time.Minute, CallTimeout: 30 * time.Second,
			MinTLS: "1.0",
			OTP:    "agent", SetupWindow: 6 * time.Hour, PendingDevices: 50000,
			Names:   Names{Sources: []string{"assigned", "pattern"}, Timeout: 5 * time.Second},
			Limits:  Attempt{BreakAfter: 30, BreakFor: time.Minute},
			Profile: Profile{TLS: "server", AdminUser: "admin", MEBx: "set", HostName: "amt-{uuid8}", ExtendHours: 6, CertificateDays: 825},
			Retry:   Retry{First: 30 * time.Second, Max: time.Hour},
		},
		Maintenance: Maintenance{PerMinute: 60, AtOnce: 200, Canary: 10, Contact: 14 * day},
		Retention:   Retention{Hellos: 30 * day, Events: 400 * day, Runs: 400 * day},
		Doctor:      Doctor{Interval: 15 * time.Minute},
		Node:        Node{Name: host, Drain: 60 * time.Second},
	}
}
