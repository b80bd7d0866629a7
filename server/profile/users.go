package profile

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// Users are accounts of a device beside its administrator. Firmware's own accounts,
// whose names begin with $$, are always left alone.
type Users struct {
	// Exclusive takes users away that the profile does not name.
	Exclusive bool           `json:"exclusive,omitempty" yaml:"exclusive,omitempty"`
	Digest    []DigestUser   `json:"digest,omitempty" yaml:"digest,omitempty"`
	Kerberos  []KerberosUser `json:"kerberos,omitempty" yaml:"kerberos,omitempty"`
}

// DigestUser logs in with a password, which is random and of one device only.
type DigestUser struct {
	Name string `json:"name" yaml:"name"`
	// Access is "network", also when empty, "local" (through the machine's own
	// operating system) or "both".
	Access  string   `json:"access,omitempty" yaml:"access,omitempty"`
	Realms  []string `json:"realms" yaml:"realms"`
	Enabled *bool    `json:"enabled,omitempty" yaml:"enabled,omitempty"`
}

// KerberosUser is a user or group of Active Directory.
type KerberosUser struct {
	Account string   `json:"account,omitempty" yaml:"account,omitempty"` // for people; firmware knows the SID alone
	SID     string   `json:"sid" yaml:"sid"`
	Access  string   `json:"access,omitempty" yaml:"access,omitempty"`
	Realms  []string `json:"realms" yaml:"realms"`
}

// Realms are what a user may do, by the words of a document and the numbers of
// firmware (MOF of AMT_AuthorizationService).
var Realms = map[string]int{
	"redirection": 2, "pt-administration": 3, "hardware-asset": 4, "remote-control": 5, "storage": 6, "event-manager": 7,
	"storage-admin":        8,
	"agent-presence-local": 9, "agent-presence-remote": 10, "circuit-breaker": 11, "network-time": 12, "general-info": 13,
	"firmware-update": 14,
	"eit":             15, "local-user-notification": 16, "event-log-reader": 19, "audit-log": 20, "access-control": 21, "dt": 23,
}

// Accesses are the words for firmware's AccessPermission.
var Accesses = map[string]int{"local": 0, "network": 1, "": 1, "both": 2}

// SIDBytes is a security identifier as firmware wants it: one byte of revision, one of
// length, six of authority with the greatest first, then each part with the least
// first (MS-DTYP 2.4.2.2). ok is false for what is none, or too long for firmware.
func SIDBytes(sid string) (b []byte, ok bool) {
	parts := strings.Split(sid, "-")
	if len(parts) < 4 || len(parts) > 8 || parts[0] != "S" || parts[1] != "1" {
		return nil, false
	}
	authority, err := strconv.ParseUint(parts[2], 10, 48)
	if err != nil {
		return nil, false
	}
	b = binary.BigEndian.AppendUint64(nil, authority)
	b[0], b[1] = 1, byte(len(parts)-3)
	for _, p := range parts[3:] {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return nil, false
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b, true
}

// Firmware holds more users than tools offer; these are what Intel SCS allowed.
const (
	mostDigest   = 7
	mostKerberos = 32
)

func (u *Users) validate(p *problems, admin string) {
	if u == nil {
		return
	}
	if len(u.Digest) > mostDigest {
		p.add("users.digest", "%d users; firmware takes %d", len(u.Digest), mostDigest)
	}
	if len(u.Kerberos) > mostKerberos {
		p.add("users.kerberos", "%d users; firmware takes %d", len(u.Kerberos), mostKerberos)
	}
	seen := map[string]bool{strings.ToLower(admin): true, "admin": true}
	common := func(key, access string, realms []string) {
		p.word(key+".access", access, "local", "network", "both")
		if len(realms) == 0 {
			p.add(key+".realms", "a user without a realm can do nothing; firmware's are %s", strings.Join(realmWords(), ", "))
		}
		for _, r := range realms {
			if Realms[r] == 0 {
				p.add(key+".realms", "%q is not a realm; firmware's are %s", r, strings.Join(realmWords(), ", "))
			}
			if r == "audit-log" {
				p.add(key+".realms", "audit-log makes an auditor, without whose password a device may never be unprovisioned again: it "+
					"is not a realm of users")
			}
		}
	}
	for _, d := range u.Digest {
		key := "users.digest." + d.Name
		if err := checkUser(d.Name); err != nil {
			p.add("users.digest.name", "%w", err)
		}
		if seen[strings.ToLower(d.Name)] {
			p.add(key, "the name is taken: by the administrator, or by another user of this profile")
		}
		seen[strings.ToLower(d.Name)] = true
		common(key, d.Access, d.Realms)
	}
	for _, k := range u.Kerberos {
		key := "users.kerberos." + k.SID
		if _, ok := SIDBytes(k.SID); !ok {
			p.add(key, "%q is not a security identifier such as S-1-5-21-1004336348-1177238915-682003330-512", k.SID)
		}
		if seen[k.SID] {
			p.add(key, "it is named twice")
		}
		seen[k.SID] = true
		common(key, k.Access, k.Realms)
	}
}

func realmWords() []string {
	words := make([]string, 0, len(Realms))
	for w := range Realms {
		if w != "audit-log" {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return words
}
