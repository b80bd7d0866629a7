package api

import "time"

// Authorisation is one entry of the list of authorised devices.
type Authorisation struct {
	ID        int64      `json:"id"`
	Kind      string     `json:"kind" doc:"uuid, serial, mac or network"`
	Value     string     `json:"value"`
	Profile   string     `json:"profile"`
	FQDN      string     `json:"fqdn"`
	Note      string     `json:"note"`
	CreatedBy string     `json:"created_by"`
	CreatedAt *time.Time `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	UsedAt    *time.Time `json:"used_at" doc:"when a device was last let in by it"`
}

// AuthorisationPage is one page of the list.
type AuthorisationPage struct {
	Authorisations []Authorisation `json:"authorisations"`
	Next           int64           `json:"next" doc:"give it as after; 0 on the last page"`
}

// AuthorisationQuery pages through the list.
type AuthorisationQuery struct {
	After int64 `query:"after" minimum:"0"`
	Limit int   `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
}

// DeviceImport is the file, and whether to do it or only to say what would be done.
type DeviceImport struct {
	Document string `json:"document,omitempty" maxLength:"33554432" doc:"CSV with a heading, or a JSON list of objects: uuid, serial, mac, network, address, fqdn, profile, tags, note, expires, fingerprint, trust_first; the address is where a device that says no hello is found, fingerprint the SHA-256 of the certificate it shows, trust_first instead of that believes whoever answers first"`
	File     []byte `json:"file,omitempty" doc:"the list's file as it is, instead of document: UTF-8 or UTF-16, with commas, semicolons or tabs"`
	DryRun   bool   `json:"dry_run,omitempty" doc:"say what would be done and do nothing"`
}

// ImportReport says what an import does. A file with a problem in it changes nothing.
type ImportReport struct {
	DryRun   bool            `json:"dry_run"`
	Rows     int             `json:"rows"`
	New      int             `json:"new" doc:"entries that were not on the list"`
	Changed  int             `json:"changed" doc:"entries that let in with something else than before"`
	Same     int             `json:"same"`
	Names    int             `json:"names" doc:"names assigned"`
	Vouched  int             `json:"vouched" doc:"devices for whose certificate the list vouches"`
	Waiting  int             `json:"waiting" doc:"devices that wait for approval and are on the list now"`
	Started  int             `json:"started" doc:"runs that began at once"`
	Problems []ImportProblem `json:"problems"`
	Read     string          `json:"read,omitempty" doc:"what the file was taken for: encoding, separator, columns"`
	First    []ImportRow     `json:"first,omitempty" doc:"dry run: the first rows, as they were understood"`
}

// Removed says what is gone.
type Removed struct {
	Removed string `json:"removed"`
}

// ImportRow is one line of a list of authorised devices. What it names, any of
// the four, lets a device in; the rest is what it is let in with.
type ImportRow struct {
	UUID    string   `json:"uuid"`
	Serial  string   `json:"serial"`
	MAC     string   `json:"mac"`
	Network string   `json:"network"`
	Address string   `json:"address"`
	FQDN    string   `json:"fqdn"`
	Profile string   `json:"profile"`
	Tags    []string `json:"tags"`
	Note    string   `json:"note"`
	Expires string   `json:"expires"`

	Fingerprint string `json:"fingerprint"`
	TrustFirst  bool   `json:"trust_first"`
}

// ImportProblem is a line that cannot be used.
type ImportProblem struct {
	Line    int    `json:"line" doc:"of the file, or the place in the JSON list"`
	Problem string `json:"problem"`
}
