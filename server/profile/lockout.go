package profile

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Unprotected is what a profile without TLS cannot have.
const Unprotected = "without TLS a device proves nothing, so whoever is between can pass our answers on to it and take it over"

var dnsName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)

// CheckTrusted refuses names of consoles that would leave no room for this server's own, or
// that firmware does not take.
func CheckTrusted(names []string) error {
	if len(names) >= MostTrusted {
		return fmt.Errorf("firmware holds %d names and this server's own is one of them, or it could not log in any more: want %d at most",
			MostTrusted, MostTrusted-1)
	}
	for _, n := range names {
		_, err := netip.ParseAddr(n)
		if len(n) > longestServed || !dnsName.MatchString(n) || err == nil {
			return fmt.Errorf("%q is not a name, or the end of one, that firmware can hold: a DNS name of up to %d characters without "+
				"wildcard", n, longestServed)
		}
	}
	return nil
}

// TrustedNames is what a device with mutual TLS is told to let in: the profile's
// names and this server's own. None lets in every client of our authority. The
// error says that there is no room for our own: then nothing may be told.
func (p Profile) TrustedNames(own string) ([]string, error) {
	if p.TLS != TLSMutual || len(p.TrustedCN) == 0 || Admits(p.TrustedCN, own) {
		return p.TrustedCN, nil
	}
	if len(p.TrustedCN) >= MostTrusted {
		return nil, fmt.Errorf("profile %s: trusted_cn holds %d names, none of which lets this server in as %s, and firmware holds no "+
			"more: take one out", p.Name, len(p.TrustedCN), own)
	}
	return append(p.TrustedCN[:len(p.TrustedCN):len(p.TrustedCN)], own), nil
}

// Admits reports whether a device with these trusted names lets a client of this
// name in: it compares the ends by whole labels, and none lets everybody in.
func Admits(trusted []string, name string) bool {
	name = strings.ToLower(name)
	for _, t := range trusted {
		if t = strings.ToLower(t); t == name || strings.HasSuffix(name, "."+t) {
			return true
		}
	}
	return len(trusted) == 0
}

// A Risk is something that a change of a profile could lose.
type Risk struct {
	Field string `json:"field" doc:"the key of the document"`
	Could string `json:"could" doc:"what could be lost, and what keeps it from that"`
}

// Risks says what could be lost on managed devices by going from one document to
// another; empty when nothing in it decides who is let in.
func Risks(from, to Profile) []Risk {
	var out []Risk
	risk := func(field, format string, args ...any) { out = append(out, Risk{field, fmt.Sprintf(format, args...)}) }
	const proved = "this server proves each device by a new login before the change counts, and puts it back where that fails"
	if from.TLS != to.TLS || to.TLS == TLSNone {
		switch to.TLS {
		case TLSMutual:
			risk("tls", "other consoles without a certificate of this server's authority are shut out (provctl console-certificate "+
				"issue); %s", proved)
		case TLSNone:
			risk("tls", "%s; devices under management keep their TLS, those set up from now on have none", Unprotected)
		default:
			risk("tls", "a device could not answer any more; %s", proved)
		}
	}
	if to.TLS == TLSMutual && len(to.TrustedCN) > 0 {
		var shut []string
		for _, n := range from.TrustedCN {
			if !Admits(to.TrustedCN, n) {
				shut = append(shut, n)
			}
		}
		switch {
		case len(shut) > 0:
			risk("trusted_cn", "consoles named %s are shut out; %s", strings.Join(shut, ", "), proved)
		case from.TLS == TLSMutual && len(from.TrustedCN) == 0:
			risk("trusted_cn", "consoles not named %s are shut out; %s", strings.Join(to.TrustedCN, ", "), proved)
		}
	}
	if from.AdminUser != to.AdminUser {
		risk("admin_user", "consoles that log in as %s; devices under management keep that user, new ones get the other", from.AdminUser)
	}
	return out
}
