package api

import "time"

// MostConsoleDays bounds a console certificate. Firmware hears of no revocation
// from here, so that its end is what ends it.
const MostConsoleDays = 397

// DeviceCA is the authority that devices hold as a root for mutual TLS, and that
// signs what they show.
type DeviceCA struct {
	Name     string    `json:"name"`
	SHA256   string    `json:"sha256" doc:"fingerprint of the certificate, hexadecimal"`
	NotAfter time.Time `json:"not_after"`
	PEM      string    `json:"pem"`
	Zones    []string  `json:"zones,omitempty" doc:"the name constraint it carries; none: it may sign for any name"`
	Server   string    `json:"server" doc:"the name under which this server itself logs in at devices"`
}

// ConsoleCertificate is a client certificate that another console got.
type ConsoleCertificate struct {
	ID        int64      `json:"id"`
	Name      string     `json:"name"`
	Serial    string     `json:"serial" doc:"hexadecimal"`
	SHA256    string     `json:"sha256"`
	IssuedTo  string     `json:"issued_to" doc:"who has it, in the words of who asked for it"`
	CreatedBy string     `json:"created_by"`
	CreatedAt *time.Time `json:"created_at"`
	NotAfter  *time.Time `json:"not_after"`
	RevokedAt *time.Time `json:"revoked_at"`
	RevokedBy string     `json:"revoked_by"`
	Why       string     `json:"why" doc:"of the revocation"`
}

// ConsoleCertificateList is those issued, newest first.
type ConsoleCertificateList struct {
	Certificates []ConsoleCertificate `json:"certificates"`
}

// NewConsoleCertificate asks for one.
type NewConsoleCertificate struct {
	Name     string `json:"name" maxLength:"63" doc:"the DNS name of the console, which a device compares with its trusted names"`
	CSR      string `json:"csr" maxLength:"20000" doc:"a PKCS#10 request, PEM, of whoever has the key; its key is taken and nothing else"`
	Days     int    `json:"days,omitempty" minimum:"0" maximum:"397" doc:"how long it is good for; 0 means 90"`
	IssuedTo string `json:"issued_to,omitempty" maxLength:"200" doc:"who has it"`
}

// ConsoleCertificateIssued is the certificate and what it opens.
type ConsoleCertificateIssued struct {
	ConsoleCertificate
	PEM   string       `json:"pem" doc:"the certificate and the device CA behind it: a device wants both"`
	Opens ConsoleReach `json:"opens"`
	Said  string       `json:"said"`
}

// ConsoleCertificateRevoked is the certificate and what it still opens.
type ConsoleCertificateRevoked struct {
	ConsoleCertificate
	Opens ConsoleReach `json:"opens"`
	Said  string       `json:"said"`
}

// ConsoleReach is where a name comes through.
type ConsoleReach struct {
	Profiles []string `json:"profiles" doc:"profiles with mutual TLS that let the name in"`
	Devices  int      `json:"devices" doc:"devices under management with these"`
}

type ConsoleQuery struct {
	All bool `query:"all" doc:"those that have ended too"`
}

// RevokeConsole says why.
type RevokeConsole struct {
	Why string `json:"why,omitempty" maxLength:"200"`
}
