package store

import (
	"encoding/json"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// Certificate is a provisioning certificate in the store.
type Certificate struct {
	ID        string // hex SHA-256 of the leaf's DER, first 16 digits
	Name      string
	Names     []string
	State     string     // active, standby, removed
	Source    string     // file, desk
	Chain     []byte     // PEM, leaf first
	Key       amt.Secret // PEM; zero: the key is in a file
	NotBefore time.Time
	NotAfter  time.Time
	CreatedAt time.Time
	UpdatedAt time.Time
}

// CertificateRequest is a CSR whose key waits here, sealed.
type CertificateRequest struct {
	ID          int64
	Subject     string
	Names       []string
	CSR         []byte     // PEM
	Key         amt.Secret // PEM
	State       string     // open, issued, cancelled
	Certificate string     // id of the issued certificate
	CreatedBy   string
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// CertificateBackup records that somebody exported a certificate; it does not
// hold the key.
type CertificateBackup struct {
	ID          int64
	Certificate string
	Digest      []byte // SHA-256 of the exported file
	Actor       string
	At          time.Time
}

// Profile is one version of what an operator wants of a device.
type Profile struct {
	Name      string
	Version   int // 0 on write: the next version
	Document  json.RawMessage
	CreatedBy string
	CreatedAt time.Time
	signed    []byte
}

// AssignmentRule maps a device to a profile; the lowest position that matches
// wins.
type AssignmentRule struct {
	ID        int64
	Position  int
	Name      string
	Match     json.RawMessage
	Assign    json.RawMessage
	Enabled   bool
	UpdatedAt time.Time
	signed    []byte
}

// AuthorisedDevice lets devices in by UUID, serial, MAC or network.
type AuthorisedDevice struct {
	ID        int64
	Kind      string // uuid, serial, mac, network
	Value     string // canonical, lower case
	Profile   string
	FQDN      string
	Note      string
	CreatedBy string
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    time.Time
	signed    []byte
}

// Name is the FQDN somebody assigned to a UUID.
type Name struct {
	UUID      amt.UUID
	FQDN      string
	Source    string // csv, api, agent
	UpdatedAt time.Time
	signed    []byte
}

// BulkJob is an operation over the devices that a filter found.
type BulkJob struct {
	ID         int64
	Kind       string
	Filter     json.RawMessage
	Options    json.RawMessage
	State      string // draft, waiting, running, stopped, done, aborted, forged
	PerMinute  int    // 0: no limit
	Canary     int    // how many devices the second wave has
	Target     string // of a rollout: the profile and version that its devices get
	Cause      string // of a rollout: why the devices differ from the target
	Detail     string // why the job stopped, or ended early
	NotBefore  time.Time
	CreatedBy  string
	ApprovedBy string
	CreatedAt  time.Time
	FinishedAt time.Time
	StoppedAt  time.Time
	ResumedAt  time.Time
	signed     []byte
}

// JobItem is one device's part of a job.
type JobItem struct {
	JobID     int64
	UUID      amt.UUID
	State     string // waiting, running, handed_over, done, failed, skipped, forged
	RunID     int64
	Wave      int   // 1, 2 or 3; 0: not begun, or the job has no waves
	Proves    int64 // the run that RunID proves by a login; 0: none
	Detail    string
	UpdatedAt time.Time
	signed    []byte
}

// OTP is a one-time password for a host agent.
type OTP struct {
	ID        int64
	UUID      amt.UUID
	Password  amt.Secret
	IssuedTo  string
	CreatedAt time.Time
	ExpiresAt time.Time
	UsedAt    time.Time
}
