package api

import (
	"time"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/desk"
)

// What package desk says is said here in the same words.
type (
	CertificateRequest   = desk.Request
	CertificateRequested = desk.Requested
	CertificateChanged   = desk.Changed
	CertificateVerdict   = desk.Verdict
	CertificateGroup     = desk.Group
	CertificateReport    = certs.Report
	CertificateAdvice    = certs.Advice
	Acceptance           = certs.Acceptance
	NameAdvice           = certs.Proposal
	RootChange           = desk.RootChange
	OwnRoot              = desk.Root
	Banner               = desk.Banner
)

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
	Report    *CertificateReport `json:"report"`
	Refused   string             `json:"refused,omitempty" doc:"dry run: why it would be refused"`
	State     string             `json:"state" doc:"active, standby or removed; empty after a dry run"`
	Known     bool               `json:"known" doc:"it was here before; its chains are now those of the report"`
	Activated bool               `json:"activated" doc:"it came into use by this"`
	Backup    *BackupView        `json:"backup,omitempty"`
	Requeued  desk.Requeued      `json:"requeued" doc:"devices that failed for a certificate reason and were queued again"`
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
	desk.Renewed
	Import *ImportResult `json:"import,omitempty" doc:"own-root: how the successor was taken in"`
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
