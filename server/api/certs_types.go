package api

import (
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
)

// What package certs says is said here in the same words.
type (
	CertificateReport = certs.Report
	CertificateAdvice = certs.Advice
	Acceptance        = certs.Acceptance
	NameAdvice        = certs.Proposal
)

// CertificateRequest is a certificate that was asked for.
type CertificateRequest struct {
	ID          string    `json:"id" doc:"first 16 digits of the key's fingerprint"`
	Name        string    `json:"name"`
	Names       []string  `json:"names"`
	Key         string    `json:"key" doc:"kind and length, such as RSA 2048"`
	State       string    `json:"state" doc:"open, issued or cancelled"`
	Certificate string    `json:"certificate,omitempty" doc:"what answered it"`
	Follows     string    `json:"follows,omitempty" doc:"id of the certificate whose renewal it is, while that is under way"`
	CreatedBy   string    `json:"created_by"`
	CreatedAt   time.Time `json:"created_at"`
	CSR         string    `json:"csr" doc:"PKCS#10 as PEM: what goes to the CA"`
}

// CertificateRequested is a new request with what to tell the CA.
type CertificateRequested struct {
	CertificateRequest
	OrderText string              `json:"order_text" doc:"what to tell the CA, in the words of its order form"`
	Serves    []CertificateServes `json:"serves" doc:"which DNS suffixes such a certificate serves, by generation"`
}

// CertificateServes are the DNS suffixes that a generation accepts for a list of names.
type CertificateServes struct {
	Version  string   `json:"version"`
	Suffixes []string `json:"suffixes"`
	Unsure   []string `json:"unsure,omitempty" doc:"no source is certain of these"`
}

// CertificateVerdict is a simulated device's answer to a real handshake.
type CertificateVerdict struct {
	Accepted    bool     `json:"accepted"`
	Says        string   `json:"says" doc:"the answer in words"`
	Code        string   `json:"code,omitempty" doc:"the reason of a refusal"`
	Firmware    string   `json:"firmware" doc:"the release whose rules were applied"`
	Suffix      string   `json:"suffix"`
	Root        string   `json:"root,omitempty" doc:"where the chain that was shown ends"`
	RootFrom    string   `json:"root_from,omitempty" doc:"why the device trusts it: firmware, devices or added"`
	Chain       []string `json:"chain,omitempty" doc:"what was shown, leaf first"`
	TLS         string   `json:"tls,omitempty"`
	DeviceSaid  []string `json:"device_said,omitempty" doc:"the device's own words, which real firmware keeps to itself"`
	Devices     int      `json:"devices" doc:"recorded devices of this AMT major release"`
	Trusting    int      `json:"trusting" doc:"of these, how many announced one of the certificate's roots"`
	Certificate string   `json:"certificate"`
}

// CertificateChanged is what a change of the list in use did, or would do.
type CertificateChanged struct {
	Said     string              `json:"said"`
	DryRun   bool                `json:"dry_run"`
	InUse    []string            `json:"in_use" doc:"ids of the certificates in use afterwards"`
	Gain     []CertificateGroup  `json:"gain" doc:"devices that no certificate in use serves now, and one would"`
	Lose     []CertificateGroup  `json:"lose" doc:"devices that no certificate in use would serve any more"`
	Requeued CertificateRequeued `json:"requeued"`
	Managed  string              `json:"managed,omitempty" doc:"what becomes of devices under management when a certificate goes out of use"`
	// Shared are CA certificates of the chain that others need as well; each
	// keeps its own copy, so that nothing is taken from them.
	Shared []string `json:"shared,omitempty"`
}

// CertificateGroup is a number of devices that are alike in what decides about a
// certificate.
type CertificateGroup struct {
	Version string   `json:"amt_version"`
	Suffix  string   `json:"suffix"`
	Waiting bool     `json:"waiting" doc:"not under management yet; a managed device needs the certificate only when it is set up anew"`
	Devices int      `json:"devices"`
	Sample  []string `json:"sample" doc:"some of them: the UUID, and the name beside it"`
}

// CertificateRequeued counts the devices that were queued again.
type CertificateRequeued struct {
	Devices int  `json:"devices"`
	Running bool `json:"running" doc:"it takes longer; the events certificate_matched show the rest"`
}

// RootChange is what going from one root to another does to the fleet.
type RootChange struct {
	From    string             `json:"from"`
	To      string             `json:"to"`
	Served  int                `json:"served" doc:"devices that trust the old root and the new one"`
	Gain    int                `json:"gain" doc:"devices that trust the new root only"`
	CutOff  int                `json:"cut_off" doc:"devices that trust the old root only"`
	Devices []CertificateGroup `json:"devices" doc:"those that are cut off"`
}

// OwnRoot is one's own root without its key.
type OwnRoot struct {
	Name     string          `json:"name"`
	NotAfter time.Time       `json:"not_after"`
	PEM      string          `json:"pem"`
	Hashes   []amt.TrustHash `json:"-"`
	Words    []string        `json:"hashes" doc:"what goes into the devices, such as sha256:45140b…"`
}

// Banner is something that an operator should see wherever they look.
type Banner struct {
	Code  string `json:"code"`
	Level string `json:"level" doc:"error or warn"`
	Text  string `json:"text"`
}

// CertificateRequestList is every request that waits for its certificate.
type CertificateRequestList struct {
	Requests []CertificateRequest `json:"requests"`
}

// NewCertificateRequest says what certificate to ask a CA for.
type NewCertificateRequest struct {
	CommonName   string   `json:"common_name" maxLength:"255" doc:"the most important name: old firmware reads no other"`
	Names        []string `json:"names,omitempty" maxItems:"100" doc:"further DNS names"`
	Organization string   `json:"organization,omitempty" maxLength:"64"`
	Country      string   `json:"country,omitempty" maxLength:"2"`
	Province     string   `json:"province,omitempty" maxLength:"128"`
	Locality     string   `json:"locality,omitempty" maxLength:"128"`
	LegacyOU     bool     `json:"legacy_ou,omitempty" doc:"ask for the exact OU too: private CAs only, public ones drop it since 2022"`
	Bits         int      `json:"bits,omitempty" doc:"2048 (default) or 3072"`
	PrivateNames bool     `json:"private_names,omitempty" doc:"allow .local and the like: for a CA of one's own"`
}

// FileBytes is one file.
type FileBytes struct {
	Name string `json:"name" maxLength:"255"`
	Data []byte `json:"data"`
}

// NewImport is what a CA sent, as it came.
type NewImport struct {
	Files     []FileBytes `json:"files" minItems:"1" maxItems:"100" doc:"PEM, DER, PKCS#7, PFX or zip, in any order; at most 4 MB each and 16 MB together"`
	Passwords []string    `json:"passwords,omitempty" maxItems:"10" doc:"tried on each PFX in turn"`
	AIA       bool        `json:"aia,omitempty" doc:"fetch missing intermediates from the addresses that certificates name"`
	Activate  bool        `json:"activate,omitempty" doc:"put it into use even if others are"`
	DryRun    bool        `json:"dry_run,omitempty" doc:"report only; nothing is stored"`
	Handover
}

// Handover says how the passphrase of a new backup is handed over; by itself it
// is shown.
type Handover struct {
	WrapTo string `json:"wrap_to,omitempty" maxLength:"16384" doc:"PEM of an RSA public key, or of a certificate over one: the passphrase is encrypted to it and not shown"`
	Split  int    `json:"split,omitempty" minimum:"0" maximum:"31" doc:"make so many parts of the passphrase, any two of which open the backup"`
}

// Passphrases open a new backup, in the form that was asked for. Shown this once
// and kept nowhere.
type Passphrases struct {
	Passphrase string   `json:"passphrase,omitempty" doc:"opens the backup; shown this once and kept nowhere"`
	Wrapped    string   `json:"wrapped,omitempty" doc:"the passphrase, RSA-OAEP with SHA-256, in base64"`
	Shares     []string `json:"shares,omitempty" doc:"parts of the passphrase; any two, typed one after the other, stand for it"`
}

// ImportResult is what became of an import.
type ImportResult struct {
	Report    *CertificateReport  `json:"report"`
	Refused   string              `json:"refused,omitempty" doc:"dry run: why it would be refused"`
	State     string              `json:"state" doc:"active, standby or removed; empty after a dry run"`
	Known     bool                `json:"known" doc:"it was here before; its chains are now those of the report"`
	Activated bool                `json:"activated" doc:"it came into use by this"`
	Backup    *BackupView         `json:"backup,omitempty"`
	Requeued  CertificateRequeued `json:"requeued" doc:"devices that failed for a certificate reason and were queued again"`
	Passphrases
}

// None reports whether no new backup was written.
func (p Passphrases) None() bool {
	return p.Passphrase == "" && p.Wrapped == "" && len(p.Shares) == 0
}

// BackupView is an encrypted PKCS#12 on the server's disk.
type BackupView struct {
	Certificate string     `json:"certificate"`
	File        string     `json:"file" doc:"its name under backups in the node's data_dir"`
	Node        string     `json:"node"`
	SHA256      string     `json:"sha256"`
	At          *time.Time `json:"at"`
	By          string     `json:"by" doc:"who had it written"`
	Handed      string     `json:"handed" doc:"how its passphrase was handed over: shown, wrapped to KEY, or 2 of N parts"`
	ConfirmedAt *time.Time `json:"confirmed_at" doc:"when somebody said that a copy is kept elsewhere"`
	ConfirmedBy string     `json:"confirmed_by"`
}

// BackupList is the backup of every certificate that was imported here.
type BackupList struct {
	Backups []BackupView `json:"backups"`
}

// BackupFile is a backup with its bytes, or a new one with its passphrase.
type BackupFile struct {
	BackupView
	Data []byte `json:"data,omitempty" doc:"the encrypted PKCS#12"`
	Passphrases
}

// BackupProven is a backup that was opened.
type BackupProven struct {
	BackupView
	Opened string `json:"opened" doc:"file: the one on the node's disk; copy: the database's, since the file lies on another node; sent: the one in the request"`
}

// BackupProof opens a backup.
type BackupProof struct {
	Passphrase string `json:"passphrase" minLength:"1" maxLength:"256"`
	Name       string `json:"name,omitempty" maxLength:"255"`
	Data       []byte `json:"data,omitempty" doc:"a copy that was kept elsewhere; left out: the file on the server"`
}

// CertificateDetail is one certificate with all that is to be said of it.
type CertificateDetail struct {
	Certificate
	Report *CertificateReport `json:"report"`
}

// UseCertificate says how a change is made.
type UseCertificate struct {
	With    string `json:"with,omitempty" doc:"replace: the id of the certificate that takes over"`
	DryRun  bool   `json:"dry_run,omitempty" doc:"say what would happen"`
	Overlap bool   `json:"overlap,omitempty" doc:"replace: leave the old one in use beside the new one"`
	Force   bool   `json:"force,omitempty" doc:"although waiting devices would lose their match"`
}

// RenewCertificate says how to renew.
type RenewCertificate struct {
	Mode   string `json:"mode,omitempty" maxLength:"64" doc:"manual: a request to order with; own-root: issued by the root kept here. Left out: the mode chosen last, else own-root for what that root issued and manual for all others"`
	DryRun bool   `json:"dry_run,omitempty" doc:"say what would be done"`
}

// CertificateRenewed is what a renewal did, or would do.
type CertificateRenewed struct {
	Certificate string                `json:"certificate" doc:"the one that is renewed"`
	Mode        string                `json:"mode" enum:"manual,own-root"`
	DryRun      bool                  `json:"dry_run"`
	Said        string                `json:"said"`
	Names       []string              `json:"names" doc:"of the successor, common name first"`
	NotAfter    *time.Time            `json:"not_after,omitempty" doc:"own-root: the successor's end"`
	Roots       []string              `json:"roots" doc:"what the successor ends in; manual: what it has to end in for keep to hold"`
	Request     *CertificateRequested `json:"request,omitempty" doc:"manual: what to order with"`
	Keep        []CertificateGroup    `json:"keep" doc:"devices that only this certificate serves, and the successor too"`
	Lose        []CertificateGroup    `json:"lose" doc:"devices that the successor would not serve in its place"`
	Import      *ImportResult         `json:"import,omitempty" doc:"own-root: how the successor was taken in"`
}

// CertificateRenewal is the renewal mode of a certificate and how far its
// renewal is.
type CertificateRenewal struct {
	Mode        string     `json:"mode" doc:"manual or own-root, as was chosen last"`
	Request     string     `json:"request,omitempty" doc:"id of the request whose answer is the successor"`
	Certificate string     `json:"certificate,omitempty" doc:"id of the successor, once it is here"`
	By          string     `json:"by"`
	At          *time.Time `json:"at"`
}

// CheckQuestion asks a simulated device.
type CheckQuestion struct {
	AMT       string `json:"amt" minLength:"1" maxLength:"32" doc:"the firmware's release, such as 11.8"`
	Suffix    string `json:"suffix" minLength:"1" maxLength:"255" doc:"the device's DNS suffix"`
	RootAdded bool   `json:"root_added,omitempty" doc:"play a device that was given the root's hash by USB, in MEBx or by its maker"`
}

// NewRoot names a root of one's own.
type NewRoot struct {
	Name string `json:"name,omitempty" maxLength:"64"`
}

// NewIssued is a provisioning certificate under one's own root.
type NewIssued struct {
	Names []string `json:"names" minItems:"1" maxItems:"100" doc:"the common name, then further DNS names"`
	Days  int      `json:"days,omitempty" minimum:"0" maximum:"3650" doc:"default 1095"`
}

// requestQuery selects requests.
type RequestQuery struct {
	All bool `query:"all" doc:"those issued and cancelled too"`
}

// rootQuery names two roots.
type RootQuery struct {
	From string `query:"from" required:"true" maxLength:"200" doc:"a root's name, or a hash such as sha256:45140b…"`
	To   string `query:"to" required:"true" maxLength:"200"`
}
