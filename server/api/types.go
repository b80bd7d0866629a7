package api

import "time"

// The wire types: what the API answers, provctl prints and the console shows.
// A time that is not known is null, a text that is not known is "".

// DeviceSummary is one device in nine fields, which scripts rely on.
type DeviceSummary struct {
	UUID          string     `json:"uuid" doc:"the platform's UUID, in the order people read it"`
	Lifecycle     string     `json:"lifecycle" doc:"our word for where it stands"`
	Reason        string     `json:"reason" doc:"why it is not as wanted; empty when it is"`
	DeviceMode    string     `json:"device_mode" doc:"what the firmware says: factory, setup, operational"`
	AMTVersion    string     `json:"amt_version"`
	Address       string     `json:"address" doc:"where it is called: where it is believed to be"`
	FQDN          string     `json:"fqdn"`
	FirstSeen     *time.Time `json:"first_seen"`
	ProvisionedAt *time.Time `json:"provisioned_at"`
}

// Device is one line of the list of devices.
type Device struct {
	DeviceSummary

	Detail      string     `json:"detail" doc:"the reason in a sentence"`
	Health      string     `json:"health" doc:"ok, warn or unreachable"`
	HostName    string     `json:"host_name"`
	Suffix      string     `json:"suffix" doc:"the DNS suffix the device believes"`
	MAC         string     `json:"mac"`
	Serial      string     `json:"serial"`
	SKU         string     `json:"sku"`
	Profile     string     `json:"profile"`
	Certificate string     `json:"certificate" doc:"id of the provisioning certificate that worked"`
	TLSVersion  string     `json:"tls_version"`
	Tags        []string   `json:"tags"`
	Approved    bool       `json:"approved"`
	LastSeen    *time.Time `json:"last_seen"`
	LastContact *time.Time `json:"last_contact"`
	WindowUntil *time.Time `json:"window_until" doc:"when the firmware stops listening for setup"`
	NextRetry   *time.Time `json:"next_retry"`
	Attempts    int        `json:"attempts"`
	HelloCount  int        `json:"hello_count"`
	PeerSeen    string     `json:"peer_seen" doc:"SHA-256 of the certificate of the one that answered last and was told no password; empty: none"`
	Vouched     string     `json:"vouched" doc:"the certificate that a person vouched for and that has not answered yet: its SHA-256, or first for whoever answers first"`

	AddressBy    string `json:"address_by" doc:"whose word the address is: hello, import, operator, agent, dns, contact (it answered there with its key)"`
	HeardFrom    string `json:"heard_from" doc:"where the last hello under its UUID came from, whoever sent it"`
	AgentAddress string `json:"agent_address" doc:"where its agent says it is; it is looked for there first"`
}

// DevicePage is one page of devices.
type DevicePage struct {
	Devices []Device `json:"devices"`
	Next    string   `json:"next" doc:"give it as after to get the next page; empty on the last"`
}

// DeviceDetail is everything known of one device but its passwords.
type DeviceDetail struct {
	Device

	Realm              string        `json:"realm"`
	Domain             string        `json:"domain"`
	SecureDNS          bool          `json:"secure_dns" doc:"the suffix is fixed in MEBx rather than from DHCP"`
	ProfileVersion     int           `json:"profile_version" doc:"which version made it; 0 unknown"`
	AssignedProfile    string        `json:"assigned_profile" doc:"what a person gave it; goes before lists and rules"`
	PeerFingerprint    string        `json:"peer_fingerprint" doc:"SHA-256 of the device's certificate"`
	PeerVerified       string        `json:"peer_verified" doc:"how that certificate was verified at the last setup: odca (its hardware, up to Intel's root), none, or empty for not known"`
	DeviceCertNotAfter *time.Time    `json:"device_cert_not_after"`
	PasswordChangedAt  *time.Time    `json:"password_changed_at"`
	Generation         int           `json:"generation" doc:"of the admin password in use, 0 none"`
	Record             any           `json:"record" doc:"the device's own record of its setup"`
	TrustedRoots       []TrustedRoot `json:"trusted_roots" doc:"the hashes of its last hello"`
	Credentials        []Credential  `json:"credentials" doc:"without the passwords"`
	Settings           []Setting     `json:"settings" doc:"what its profile wants beyond ownership, as it was found last"`
	Runs               []Run         `json:"runs" doc:"newest first"`
	Events             []Event       `json:"events" doc:"newest first"`
}

// Setting is one setting of a profile on one device.
type Setting struct {
	Name   string    `json:"name"`
	State  string    `json:"state" doc:"ok, differs, refused (the device says no), unsupported (its firmware has none of it) or elsewhere (another console writes it again and again)"`
	Detail string    `json:"detail"`
	At     time.Time `json:"at"`
}

// TrustedRoot is one hash out of a hello.
type TrustedRoot struct {
	Algorithm string `json:"algorithm" doc:"sha1, sha256 or sha384"`
	Hash      string `json:"hash" doc:"in hexadecimal"`
	Name      string `json:"name" doc:"the root's name; empty when it is not a known one"`
}

// HelloDecoded is a hello in words.
type HelloDecoded struct {
	Form                string        `json:"form,omitempty" doc:"what the file was taken for"`
	Version             int           `json:"version" doc:"3 is PKI, 2 is PSK"`
	UUID                string        `json:"uuid"`
	Retry               int64         `json:"retry"`
	AdminCredentialsSet bool          `json:"admin_credentials_set"`
	Hashes              []TrustedRoot `json:"hashes"`
}

// Credential is what may be said of a password without saying it.
type Credential struct {
	Generation  int        `json:"generation"`
	Kind        string     `json:"kind" doc:"admin, mebx or user:NAME"`
	State       string     `json:"state" doc:"candidate, active or retired"`
	CreatedAt   *time.Time `json:"created_at"`
	SentAt      *time.Time `json:"sent_at"`
	ActivatedAt *time.Time `json:"activated_at"`
	RetiredAt   *time.Time `json:"retired_at"`
	RunID       int64      `json:"run_id"`
}

// Run is one undertaking with a device.
type Run struct {
	ID          int64      `json:"id"`
	Kind        string     `json:"kind" doc:"provision, maintain, unprovision or rotate"`
	Trigger     string     `json:"trigger" doc:"hello, timer or api"`
	State       string     `json:"state" doc:"queued, running, done, failed or cancelled"`
	Attempt     int        `json:"attempt"`
	Node        string     `json:"node"`
	Profile     string     `json:"profile"`
	Task        string     `json:"task"`
	Certificate string     `json:"certificate"`
	CreatedAt   *time.Time `json:"created_at"`
	NotBefore   *time.Time `json:"not_before"`
	StartedAt   *time.Time `json:"started_at"`
	FinishedAt  *time.Time `json:"finished_at"`
	Reason      string     `json:"reason"`
	Detail      string     `json:"detail"`
	Blame       string     `json:"blame" doc:"none, server, device, network or policy"`
	Steps       []Step     `json:"steps"`
}

// Step is one line of a run's journal.
type Step struct {
	Seq        int        `json:"seq"`
	Name       string     `json:"name"`
	State      string     `json:"state" doc:"started, done, skipped or failed"`
	Attempt    int        `json:"attempt"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
	Detail     string     `json:"detail"`
	Reason     string     `json:"reason"`
}

// Event is one line of the append-only timeline.
type Event struct {
	ID     int64          `json:"id"`
	At     *time.Time     `json:"at"`
	UUID   string         `json:"uuid" doc:"empty when it concerns no device"`
	FQDN   string         `json:"fqdn" doc:"what that device is called now"`
	RunID  int64          `json:"run_id"`
	Name   string         `json:"name"`
	Reason string         `json:"reason"`
	Detail string         `json:"detail"`
	Actor  string         `json:"actor"`
	Data   map[string]any `json:"data"`
}

// EventPage is one page of events.
type EventPage struct {
	Events []Event `json:"events"`
	Next   int64   `json:"next" doc:"give it as after, or as before when the newest come first; 0 on the last page"`
}

// Why answers why a device is, or is not, under management.
type Why struct {
	Query   string          `json:"query"`
	Found   bool            `json:"found" doc:"false when the server never heard of it"`
	Device  *Device         `json:"device"`
	Others  []DeviceSummary `json:"others" doc:"further devices the query fits"`
	Says    string          `json:"says" doc:"the answer in a sentence"`
	Since   *time.Time      `json:"since" doc:"when it came to stand there for this reason"`
	Tried   []string        `json:"tried" doc:"what was tried, newest first"`
	Reason  *Reason         `json:"reason"`
	Next    string          `json:"next" doc:"what happens by itself, and when"`
	Checks  []string        `json:"checks" doc:"what a person can look at or do, first things first"`
	LastRun *Run            `json:"last_run"`
}

// Reason is one entry of the closed list of reasons.
type Reason struct {
	Code   string   `json:"code"`
	Phase  string   `json:"phase"`
	Blame  string   `json:"blame"`
	Retry  string   `json:"retry" doc:"what another attempt waits for: repeat, operator, certificate, hello or never"`
	Title  string   `json:"title"`
	Causes []string `json:"causes"`
	Fix    []string `json:"fix"`
}

// ActionResult is what became of an operator's command.
type ActionResult struct {
	Device Device `json:"device"`
	RunID  int64  `json:"run_id" doc:"the run that was queued or hastened, 0 none"`
	Said   string `json:"said" doc:"what was done, in a sentence"`
}

// Revealed is one password.
type Revealed struct {
	Password string `json:"password"`
}

// Certificate is one provisioning certificate as it is loaded.
type Certificate struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Names     []string  `json:"names"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	DaysLeft  int       `json:"days_left"`
	Usable    bool      `json:"usable" doc:"devices are set up with it: no finding is an error, and it is valid now or forced"`
	Roots     []string  `json:"roots" doc:"names of the roots its chains end in"`
	Findings  []Finding `json:"findings"`
	Devices   int       `json:"devices" doc:"devices that were set up with it"`

	Waiting    int         `json:"waiting" doc:"devices not under management yet that it would serve"`
	Adds       int         `json:"adds" doc:"of these, how many no certificate in use serves"`
	Renews     string      `json:"renews,omitempty" doc:"id of the certificate in use that this one, on standby, can follow: same names, longer life"`
	Follows    string      `json:"follows,omitempty" doc:"id of the certificate that this one was made to follow"`
	State      string      `json:"state" doc:"active, standby or removed"`
	Source     string      `json:"source" doc:"file: the configuration names it; desk: it was imported here"`
	Request    string      `json:"request,omitempty" doc:"id of the request it answered"`
	ImportedBy string      `json:"imported_by,omitempty"`
	ImportedAt *time.Time  `json:"imported_at,omitempty"`
	Backup     *BackupView `json:"backup,omitempty"`
	RemovedAt  *time.Time  `json:"removed_at,omitempty"`
	UndoUntil  *time.Time  `json:"undo_until,omitempty" doc:"until when a removed one can be taken back"`

	Renewal *CertificateRenewal `json:"renewal,omitempty" doc:"left out until a renewal was begun"`
}

// Finding is one thing to say about a certificate.
type Finding struct {
	Code     string `json:"code"`
	Severity string `json:"severity" doc:"error, warn or info"`
	Detail   string `json:"detail"`
}

// Summary is the fleet at a glance.
type Summary struct {
	Devices      map[string]int `json:"devices" doc:"count by lifecycle, each lifecycle present"`
	Total        int            `json:"total"`
	CountedAt    *time.Time     `json:"counted_at,omitempty" doc:"when the devices were counted, where that was not for this answer: a large fleet is counted seldom"`
	Reasons      []ReasonCount  `json:"reasons" doc:"of devices that are not as wanted, most first"`
	LastHello    *time.Time     `json:"last_hello"`
	Certificates int            `json:"certificates" doc:"loaded and usable"`
	Banners      []Banner       `json:"banners" doc:"what an operator should see wherever they look"`
	Version      string         `json:"version"`
	Node         string         `json:"node"`
	Engine       string         `json:"engine" doc:"sqlite or postgres"`
	Time         time.Time      `json:"time"`
}

// ReasonCount counts the devices with one reason.
type ReasonCount struct {
	Reason string `json:"reason"`
	Title  string `json:"title"`
	Count  int    `json:"count"`
}

// AuditRecord is one link of the audit chain.
type AuditRecord struct {
	Seq     int64          `json:"seq"`
	At      *time.Time     `json:"at"`
	Actor   string         `json:"actor"`
	Action  string         `json:"action"`
	Subject string         `json:"subject"`
	FQDN    string         `json:"fqdn" doc:"what the device that is the subject is called now; no part of the record"`
	Detail  map[string]any `json:"detail"`
	Hash    string         `json:"hash"`
}

// AuditPage is one page of the audit, oldest first.
type AuditPage struct {
	Records []AuditRecord `json:"records"`
	Next    int64         `json:"next" doc:"give it as after, or as before with newest; 0 on the last page"`

	Checkpoint *AuditCheckpoint `json:"checkpoint,omitempty" doc:"with newest: how far the audit is signed"`
}

// AuditVerified says whether the chain holds.
type AuditVerified struct {
	Intact  bool   `json:"intact"`
	Records int64  `json:"records" doc:"how many were checked"`
	Problem string `json:"problem"`

	Checkpoint *AuditCheckpoint `json:"checkpoint" doc:"the last one; null before the first"`
}

// Token is an API token without its text.
type Token struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	User      string     `json:"user" doc:"whose it is"`
	Role      string     `json:"role"`
	CreatedBy string     `json:"created_by"`
	CreatedAt *time.Time `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	LastUsed  *time.Time `json:"last_used"`
	RevokedAt *time.Time `json:"revoked_at"`
}

// TokenCreated holds the token's text, which is shown this once.
type TokenCreated struct {
	Token
	Secret string `json:"secret"`
}

// Health is the answer of /healthz and /readyz.
type Health struct {
	Status string       `json:"status" doc:"ok, starting or failing"`
	Parts  []HealthPart `json:"parts"`
}

// HealthPart is one thing the server needs.
type HealthPart struct {
	Name   string `json:"name"`
	Status string `json:"status" doc:"ok or failing"`
	Detail string `json:"detail"`
}

// Problem is an error as RFC 9457 has it.
type Problem struct {
	Type   string         `json:"type" doc:"about:blank"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Code   string         `json:"code" doc:"a stable word for programs"`
	Detail string         `json:"detail" doc:"a sentence for people"`
	Errors []ProblemField `json:"errors,omitempty"`
}

// ProblemField names one thing wrong in a request; never its value.
type ProblemField struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// DoctorCheck is one thing the doctor looked at.
type DoctorCheck struct {
	Name   string `json:"name"`
	Status string `json:"status" enum:"pass,skip,warn,fail" doc:"skip: it did not look, since there was nothing to look at or nothing names it"`
	Detail string `json:"detail"`
	Hint   string `json:"hint" doc:"what to do, with the text to paste; empty when nothing"`
}

// DoctorReport is the doctor's last round on this node.
type DoctorReport struct {
	Checks  []DoctorCheck `json:"checks"`
	Worst   string        `json:"worst" enum:"pass,skip,warn,fail" doc:"skip: it did not look, since there was nothing to look at or nothing names it"`
	At      *time.Time    `json:"at" doc:"null: not yet"`
	Node    string        `json:"node"`
	Started *time.Time    `json:"started" doc:"when this daemon started"`
	Scraped *time.Time    `json:"scraped" doc:"when somebody last asked for metrics; null: never"`
}

// Whoami is the caller as the server sees it.
type Whoami struct {
	Name       string   `json:"name" doc:"of the token"`
	User       string   `json:"user" doc:"whose token it is"`
	Role       string   `json:"role"`
	Operations []string `json:"operations" doc:"what this role may call"`
	Server     string   `json:"server" doc:"the server's version"`
}

// ReasonList is the whole catalogue.
type ReasonList struct {
	Reasons []Reason `json:"reasons"`
}

// CertificateList is every provisioning certificate that is loaded.
type CertificateList struct {
	Certificates []Certificate `json:"certificates"`
}

// HelloBytes is a hello in one of two forms.
type HelloBytes struct {
	Hex    string `json:"hex,omitempty" maxLength:"65536" doc:"hexadecimal digits, or what a tool made of them: a dump of xxd, hexdump, od or Wireshark, a list of 0x01, base64"`
	Base64 string `json:"base64,omitempty" maxLength:"65536" doc:"the bytes, or a file of any form that the command provctl hello decode takes"`
}

// KeptHello is a hello of a device as it was recorded.
type KeptHello struct {
	ID     int64     `json:"id"`
	At     time.Time `json:"at"`
	From   string    `json:"from"`
	Via    string    `json:"via" doc:"plain, relay or agent"`
	Peer   string    `json:"peer,omitempty" doc:"subject of the relay's or agent's certificate"`
	Retry  int64     `json:"retry"`
	Hashes int       `json:"hashes"`
	Hex    string    `json:"hex" doc:"its bytes"`
}

// KeptHellos are the recorded hellos of a device, newest first.
type KeptHellos struct {
	UUID   string      `json:"uuid"`
	Name   string      `json:"name,omitempty"`
	Hellos []KeptHello `json:"hellos"`
}
