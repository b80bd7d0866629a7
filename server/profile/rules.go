package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// A Rule gives the devices it fits a profile, a way to find their names and a
// domain. Rules stand in an order; the first that fits decides.
type Rule struct {
	Name     string     `json:"name" yaml:"name"`
	Disabled bool       `json:"disabled,omitempty" yaml:"disabled"`
	Match    Conditions `json:"match" yaml:"match"`
	Assign   Assignment `json:"assign" yaml:"assign"`
}

// Conditions must all hold; an empty one always does. What a hello does not
// say (suffix and AMT version) is known from the first contact on, and the
// rules are asked again then, before anything is changed on the device.
type Conditions struct {
	Networks []netip.Prefix `json:"networks,omitempty" yaml:"networks" doc:"any of: the network the hello came from"`
	Suffixes []string       `json:"suffixes,omitempty" yaml:"suffixes" doc:"any of: the device's DNS suffix or a parent of it"`
	AMT      string         `json:"amt,omitempty" yaml:"amt" doc:"AMT versions, such as 11 or 11.8 or >=12 <16.1"`
	Roots    []string       `json:"roots,omitempty" yaml:"roots" doc:"any of: a root the device announced, as its hash or a part of its name"`
	Tags     []string       `json:"tags,omitempty" yaml:"tags" doc:"all of"`
}

// Assignment is what a rule gives; empty fields leave the default.
type Assignment struct {
	Profile string   `json:"profile,omitempty" yaml:"profile"`
	Names   []Source `json:"names,omitempty" yaml:"names" doc:"name sources in the order they are asked: assigned, reverse_dns, webhook, pattern"`
	Domain  string   `json:"domain,omitempty" yaml:"domain" doc:"the domain of names made by a pattern"`
	Pattern string   `json:"pattern,omitempty" yaml:"pattern" doc:"the host name pattern, instead of the profile's"`
}

// Source is where a device's name comes from.
type Source string

const (
	Assigned   Source = "assigned"    // an import, an operator or an authenticated agent said it
	ReverseDNS Source = "reverse_dns" // the address's PTR, when its name leads back to the address
	Webhook    Source = "webhook"     // provisioning.names.webhook answers
	Pattern    Source = "pattern"     // the profile's host_name and domain: always answers
)

// Sources lists all of them.
func Sources() []Source { return []Source{Assigned, ReverseDNS, Webhook, Pattern} }

// DefaultSources is what a device is named by when nobody said otherwise.
func DefaultSources() []Source { return []Source{Assigned, Pattern} }

// Subject is a device as rules see it; zero fields are not known yet.
type Subject struct {
	Address   netip.Addr
	Suffix    string
	Version   amt.Version
	Roots     []amt.TrustHash
	RootNames []string // of those roots that are known by name
	Tags      []string
}

// Tried says what became of one rule.
type Tried struct {
	Name string `json:"name"`
	Fits bool   `json:"fits"`
	Why  string `json:"why"`
}

// Choose finds the first rule that fits, and says for each one asked why it did
// or did not. nil: none fits.
func Choose(rules []Rule, s Subject) (*Rule, []Tried) {
	var tried []Tried
	for i, r := range rules {
		ok, why := r.Fits(s)
		tried = append(tried, Tried{r.Name, ok, why})
		if ok {
			return &rules[i], tried
		}
	}
	return nil, tried
}

// Fits reports whether a rule is for a device, and the condition that decided.
func (r Rule) Fits(s Subject) (ok bool, why string) {
	if r.Disabled {
		return false, "the rule is disabled"
	}
	m := r.Match
	var held []string
	if len(m.Networks) > 0 {
		i := slices.IndexFunc(m.Networks, func(p netip.Prefix) bool { return p.Contains(s.Address.Unmap()) })
		if i < 0 {
			return false, fmt.Sprintf("its address %s is in none of %s", addrOrUnknown(s.Address), joined(m.Networks))
		}
		held = append(held, "its address is in "+m.Networks[i].String())
	}
	if len(m.Suffixes) > 0 {
		if s.Suffix == "" {
			return false, "its DNS suffix is not known before the first contact"
		}
		i := slices.IndexFunc(m.Suffixes, func(x string) bool { return under(s.Suffix, x) })
		if i < 0 {
			return false, fmt.Sprintf("its DNS suffix %s is not %s", s.Suffix, strings.Join(m.Suffixes, " or "))
		}
		held = append(held, "its DNS suffix lies in "+m.Suffixes[i])
	}
	if m.AMT != "" {
		rng, err := parseVersions(m.AMT)
		switch {
		case err != nil:
			return false, err.Error()
		case s.Version.IsZero():
			return false, "its AMT version is not known before the first contact"
		case !rng.holds(s.Version):
			return false, fmt.Sprintf("AMT %s is not %s", s.Version, m.AMT)
		}
		held = append(held, "AMT "+s.Version.String()+" is "+m.AMT)
	}
	if len(m.Roots) > 0 {
		i := slices.IndexFunc(m.Roots, s.announces)
		if i < 0 {
			return false, "it announced no root that is " + strings.Join(m.Roots, " or ")
		}
		held = append(held, "it announced the root "+m.Roots[i])
	}
	for _, t := range m.Tags {
		if !slices.Contains(s.Tags, t) {
			return false, "it has no tag " + t
		}
		held = append(held, "it has the tag "+t)
	}
	if len(held) == 0 {
		return true, "the rule has no conditions"
	}
	return true, strings.Join(held, "; ")
}

func (s Subject) announces(root string) bool {
	if sum, ok := hashText(root); ok {
		return slices.ContainsFunc(s.Roots, func(h amt.TrustHash) bool {
			_, hex, _ := strings.Cut(h.String(), ":")
			return strings.HasPrefix(hex, sum)
		})
	}
	return slices.ContainsFunc(s.RootNames, func(n string) bool { return strings.Contains(strings.ToLower(n), strings.ToLower(root)) })
}

// hashText reads a digest, whole or its first 16 digits or more.
func hashText(s string) (string, bool) {
	_, sum, ok := strings.Cut(s, ":")
	if !ok {
		sum = s
	}
	sum = strings.ToLower(strings.ReplaceAll(sum, ":", ""))
	return sum, len(sum) >= 16 && strings.Trim(sum, "0123456789abcdef") == ""
}

func under(suffix, parent string) bool {
	suffix, parent = strings.ToLower(strings.Trim(suffix, ". ")), strings.ToLower(strings.Trim(parent, ". "))
	return suffix == parent || strings.HasSuffix(suffix, "."+parent)
}

func joined(list []netip.Prefix) string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return strings.Join(out, ", ")
}

func addrOrUnknown(a netip.Addr) string {
	if !a.IsValid() {
		return "(unknown)"
	}
	return a.String()
}

// A versions is a set of bounds that must all hold.
type versions []bound

type bound struct {
	op string
	n  []int
}

var boundText = regexp.MustCompile(`^(>=|<=|>|<|=)?(\d+(?:\.\d+){0,3})$`)

// parseVersions reads 11, 11.8, >=12 <16.1; a bound speaks of as many numbers as it names.
func parseVersions(s string) (versions, error) {
	var out versions
	for _, f := range strings.Fields(strings.ReplaceAll(s, ",", " ")) {
		m := boundText.FindStringSubmatch(f)
		if m == nil {
			return nil, fmt.Errorf("amt %q: want a version or bounds, such as 11.8 or >=12 <16.1", s)
		}
		b := bound{op: m[1]}
		for _, p := range strings.Split(m[2], ".") {
			n, err := strconv.Atoi(p)
			if err != nil {
				return nil, fmt.Errorf("amt %q: %q is not a number", s, p)
			}
			b.n = append(b.n, n)
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("amt %q: want a version or bounds, such as 11.8 or >=12 <16.1", s)
	}
	return out, nil
}

func (vs versions) holds(v amt.Version) bool {
	have := []int{v.Major, v.Minor, v.Hotfix, v.Build}
	for _, b := range vs {
		c := slices.Compare(have[:len(b.n)], b.n)
		ok := false
		switch b.op {
		case ">=":
			ok = c >= 0
		case "<=":
			ok = c <= 0
		case ">":
			ok = c > 0
		case "<":
			ok = c < 0
		default:
			ok = c == 0
		}
		if !ok {
			return false
		}
	}
	return true
}

// Validate names every problem of a rule at once.
func (r Rule) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !ruleName.MatchString(r.Name) {
		bad("name: %q: want lower-case letters, digits, dots, hyphens and underscores", r.Name)
	}
	for _, p := range r.Match.Networks {
		if !p.IsValid() || p != p.Masked() {
			bad("match.networks: %s has bits set behind its length; perhaps %s is meant", p, p.Masked())
		}
	}
	for _, s := range append(slices.Clone(r.Match.Suffixes), r.Assign.Domain) {
		if s == "" {
			continue
		}
		if err := CheckDomain(s); err != nil {
			bad("%w", err)
		}
	}
	if r.Match.AMT != "" {
		if _, err := parseVersions(r.Match.AMT); err != nil {
			bad("match.%w", err)
		}
	}
	for _, x := range r.Match.Roots {
		if strings.TrimSpace(x) == "" {
			bad("match.roots: an empty root")
		}
	}
	for _, n := range r.Assign.Names {
		if !slices.Contains(Sources(), n) {
			bad("assign.names: %q is not one of assigned, reverse_dns, webhook, pattern", n)
		}
	}
	if r.Assign.Pattern != "" {
		if _, err := expand(r.Assign.Pattern, sample, uuidDigits[0]); err != nil {
			bad("assign.pattern: %w", err)
		}
	}
	return errors.Join(errs...)
}

var ruleName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// sample is a device of which everything is known.
var sample = Facts{UUID: amt.UUID{1}, MAC: "00:11:22:33:44:55", Serial: "S", Address: netip.AddrFrom4([4]byte{192, 0, 2, 1})}

// With applies what a rule says about names to a profile.
func (p Profile) With(a Assignment) Profile {
	if a.Domain != "" {
		p.Domain = a.Domain
	}
	if a.Pattern != "" {
		p.HostName = a.Pattern
	}
	return p
}

// CheckDomain reports why s cannot be a DNS domain.
func CheckDomain(s string) error {
	t := strings.TrimSuffix(s, ".")
	if t == "" || len(t) > 253 {
		return fmt.Errorf("domain %q: want 1 to 253 characters", s)
	}
	for label := range strings.SplitSeq(t, ".") {
		if CheckLabel(label) != nil {
			return fmt.Errorf("domain %q: letters, digits, inner hyphens and dots only", s)
		}
	}
	return nil
}

// CheckFQDN reports why s cannot be a device's name: a host label, and the
// domain behind it when there is one.
func CheckFQDN(s string) error {
	host, domain, dotted := strings.Cut(strings.TrimSuffix(s, "."), ".")
	if err := CheckLabel(host); err != nil {
		return fmt.Errorf("name %q: %w", s, err)
	}
	if dotted {
		if err := CheckDomain(domain); err != nil {
			return fmt.Errorf("name %q: %w", s, err)
		}
	}
	return nil
}

// ReadRule makes a rule of its stored parts.
func ReadRule(name string, enabled bool, match, assign []byte) (Rule, error) {
	r := Rule{Name: name, Disabled: !enabled}
	for _, part := range []struct {
		text []byte
		into any
	}{{match, &r.Match}, {assign, &r.Assign}} {
		if len(part.text) == 0 {
			continue
		}
		if err := json.Unmarshal(part.text, part.into); err != nil {
			return r, fmt.Errorf("rule %s: %w", name, err)
		}
	}
	return r, nil
}
