// Package profile holds what an operator wants of a device: a small document,
// its validation, the name it gives a device, and the comparison with what the
// device says of itself. It is pure: no store, no network.
package profile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// TLSMode is how a device is spoken to after setup.
type TLSMode string

const (
	TLSServer TLSMode = "server" // the device shows a certificate of our device CA
	TLSMutual TLSMode = "mutual" // and asks consoles for one too
	TLSNone   TLSMode = "none"   // plain 16992; not possible from AMT 16.1
)

// Firmware's bounds of the names it lets in with mutual TLS (amt/protocol.md 6.8):
// CommonNameMaxCount and CommonNameMaxSize as AMT 3.0.5 has them.
const (
	MostTrusted   = 4
	longestServed = 63
)

// Profile is one version of what is wanted.
type Profile struct {
	Name    string `json:"name" yaml:"name"`
	Version int    `json:"version" yaml:"version"`

	TLS       TLSMode  `json:"tls" yaml:"tls"`
	TrustedCN []string `json:"trusted_cn,omitempty" yaml:"trusted_cn"` // mutual only: suffixes of consoles' names; this server's own is added
	// Unprotected is the word that none needs beside it: without TLS anybody
	// between this server and the device can pass a login on and take it over.
	Unprotected bool `json:"unprotected,omitempty" yaml:"unprotected,omitempty"`

	// AdminUser is the digest account this server manages. WebUI and most
	// tools assume admin.
	AdminUser string `json:"admin_user" yaml:"admin_user"`
	// MEBx is "set" (a password of its own per device) or "leave".
	MEBx string `json:"mebx" yaml:"mebx"`

	// HostName is a pattern: {uuid8}, {uuid}, {mac}, {serial} and {ip} are
	// replaced; used when no name is known for the device. {uuid8} is the head
	// of the UUID, or of its SHA-256 where a maker's heads are all the same, and
	// grows where another device has the name.
	HostName string `json:"host_name" yaml:"host_name"`
	// Domain is the DNS domain of the device's name; empty takes the suffix
	// the device itself reports, then the certificate's domain.
	Domain string `json:"domain" yaml:"domain"`

	// ExtendHours resets the setup window at first contact: 1 to 24, 0 leaves
	// it alone (amt/protocol.md 1.2).
	ExtendHours int `json:"extend_hours" yaml:"extend_hours"`

	// CertificateDays is the validity of the device's own TLS certificate.
	CertificateDays int `json:"certificate_days" yaml:"certificate_days"`
	// PasswordDays is the age at which the admin password is changed; 0 never.
	PasswordDays int `json:"password_days" yaml:"password_days"`
	// Passwords is "random", also when empty, or "derived": changed passwords
	// are derived from the digest master password of the device's domain, for
	// fleets that Intel SCS set up.
	Passwords string `json:"passwords,omitempty" yaml:"passwords"`

	Sections `yaml:",inline"`
}

// Default is what a device gets when nobody said otherwise.
func Default() Profile {
	return Profile{
		Name: "default", Version: 1,
		TLS: TLSServer, AdminUser: "admin", MEBx: "set",
		HostName: "amt-{uuid8}", ExtendHours: 6, CertificateDays: 825,
	}
}

// Validate names every problem at once.
func (p Profile) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Name == "" {
		bad("name: a profile needs a name")
	}
	switch p.TLS {
	case TLSServer, TLSMutual, TLSNone:
	default:
		bad("tls: %q is not one of server, mutual, none", p.TLS)
	}
	if p.TLS == TLSNone && !p.Unprotected {
		bad("tls: none needs a word of its own, unprotected: true beside it: %s", Unprotected)
	}
	if p.Unprotected && p.TLS != TLSNone {
		bad("unprotected: goes with tls: none only")
	}
	if p.TLS == TLSMutual {
		if err := CheckTrusted(p.TrustedCN); err != nil {
			bad("trusted_cn: %w", err)
		}
	}
	if err := checkUser(p.AdminUser); err != nil {
		bad("admin_user: %w", err)
	}
	if p.MEBx != "set" && p.MEBx != "leave" {
		bad("mebx: %q is not one of set, leave", p.MEBx)
	}
	if p.ExtendHours < 0 || p.ExtendHours > 24 {
		bad("extend_hours: firmware takes 1 to 24 hours a call, 0 leaves the window alone")
	}
	if p.CertificateDays < 1 || p.CertificateDays > 7300 {
		bad("certificate_days: want 1 to 7300")
	}
	if p.Passwords != "" && p.Passwords != "random" && p.Passwords != "derived" {
		bad("passwords: %q is not one of random, derived", p.Passwords)
	}
	if p.PasswordDays < 0 {
		bad("password_days: want 0 (never) or more")
	}
	if _, err := expand(p.HostName, Facts{UUID: amt.UUID{1}, MAC: "00:11:22:33:44:55", Serial: "S",
		Address: netip.AddrFrom4([4]byte{192, 0, 2, 1})}, uuidDigits[0]); err != nil {
		bad("host_name: %w", err)
	}
	var in problems
	p.Sections.validate(&in, p.AdminUser)
	return errors.Join(append(errs, in.list...)...)
}

// checkUser is the firmware's rule for a digest user name (amt/protocol.md 8).
func checkUser(u string) error {
	if u == "" || len(u) > 16 {
		return errors.New("want 1 to 16 characters")
	}
	for i := range len(u) {
		if c := u[i]; c < 33 || c > 126 || strings.IndexByte(`:,<>&"`, c) >= 0 {
			return fmt.Errorf("the character %q is not allowed", c)
		}
	}
	if strings.HasPrefix(u, "$$") || u == "Administrator" || u == "Admin" {
		return fmt.Errorf("%q is reserved by the firmware", u)
	}
	return nil
}

// Facts is what a name pattern can speak of.
type Facts struct {
	UUID    amt.UUID
	MAC     string
	Serial  string
	Address netip.Addr
	// Suffix is what the device reports: MEBx's PKI DNS suffix, else DHCP's.
	Suffix string
	// CertificateDomain is the domain of the provisioning certificate's name.
	CertificateDomain string
}

// FQDN is the name a device gets: host from the pattern, domain from the
// profile, the device's suffix or the certificate, in that order.
func (p Profile) FQDN(f Facts) (host, domain string, err error) {
	hosts, domain, err := p.Names(f)
	if err != nil {
		return "", "", err
	}
	return hosts[0], domain, nil
}

// uuidDigits are how many digits of a UUID stand for {uuid8}, one after the other,
// while another device has the shorter name.
var uuidDigits = []int{8, 12, 16, 32}

// Names are the names the pattern makes for a device, the one to take first and then
// longer ones: of devices whose UUIDs begin alike each gets one of its own.
func (p Profile) Names(f Facts) (hosts []string, domain string, err error) {
	for _, n := range uuidDigits {
		host, err := expand(p.HostName, f, n)
		switch {
		case err != nil && n == uuidDigits[0]:
			return nil, "", fmt.Errorf("profile %s: host_name: %w", p.Name, err)
		case err == nil && (len(hosts) == 0 || host != hosts[0]):
			hosts = append(hosts, host)
		}
	}
	for _, d := range []string{p.Domain, f.Suffix, f.CertificateDomain} {
		if d = strings.Trim(strings.ToLower(d), ". "); d != "" {
			return hosts, d, nil
		}
	}
	return hosts, "", nil
}

func expand(pattern string, f Facts, digits int) (string, error) {
	id := f.UUID.String()
	var missing []string
	out := pattern
	for _, v := range []struct{ key, value string }{
		{"{uuid8}", uuidHead(f.UUID, digits)}, {"{uuid}", id},
		{"{mac}", strings.NewReplacer(":", "", "-", "").Replace(strings.ToLower(f.MAC))},
		{"{serial}", strings.ToLower(f.Serial)},
		{"{ip}", strings.NewReplacer(".", "-", ":", "-").Replace(amt.Text(f.Address))},
	} {
		if strings.Contains(out, v.key) {
			if v.value == "" {
				missing = append(missing, v.key)
			}
			out = strings.ReplaceAll(out, v.key, v.value)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("%s is not known for this device", strings.Join(missing, ", "))
	}
	if err := CheckLabel(out); err != nil {
		return "", err
	}
	return out, nil
}

// uuidHead is hexadecimal digits that tell machines apart: the first ones of the
// UUID. Those of Dell's machines all spell DELL (SMBIOS, 44454c4c, with the field
// turned round 4c4c4544), so theirs are of the UUID's SHA-256.
func uuidHead(u amt.UUID, digits int) string {
	id := u.String()
	if head := id[:8]; head != "4c4c4544" && head != "44454c4c" {
		return strings.ReplaceAll(id, "-", "")[:digits]
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])[:digits]
}

// CheckLabel reports why s cannot be a host name: RFC 1123, one label.
func CheckLabel(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("host name %q: want 1 to 63 characters", s)
	}
	for i := range len(s) {
		c := s[i]
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(s)-1
		if !ok {
			return fmt.Errorf("host name %q: letters, digits and inner hyphens only", s)
		}
	}
	return nil
}

// DerivedPassword reports whether changed passwords are derived.
func (p Profile) DerivedPassword() bool { return p.Passwords == "derived" }

// CertificateValidity is CertificateDays as a duration.
func (p Profile) CertificateValidity() time.Duration {
	return time.Duration(p.CertificateDays) * 24 * time.Hour
}
