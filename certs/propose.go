package certs

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/provisiond/provisiond/amt"
)

// SuffixSeen is a DNS suffix that devices have or will have.
type SuffixSeen struct {
	Suffix   string        `json:"suffix"`
	Devices  int           `json:"devices"`        // how many were seen with it; 0: only named
	Versions []amt.Version `json:"-"`              // of these, the releases; none: any
	From     []string      `json:"from,omitempty"` // devices, zones, given
}

// ProposedName is one name to order, and whom it serves.
type ProposedName struct {
	Name    string   `json:"name"`
	Serves  []string `json:"serves"` // suffixes
	Devices int      `json:"devices"`
}

// ProposedSuffix is what becomes of one suffix.
type ProposedSuffix struct {
	SuffixSeen
	Name  string `json:"name,omitempty"`  // which of the names serves it; empty: none can
	Rule  Rule   `json:"rule,omitempty"`  // by which part of the firmware's rule
	Why   string `json:"why"`             // in words; of a refusal, with what to do instead
	Exact bool   `json:"exact,omitempty"` // firmware gives its top-level domain no relief
	// Unsure: old firmware among its devices may read the common name only, or not
	// know the rule.
	Unsure string `json:"unsure,omitempty"`
}

// Proposal says which names to order for a fleet.
type Proposal struct {
	Names    []ProposedName   `json:"names"` // common name first; none when no suffix can be served
	Suffixes []ProposedSuffix `json:"suffixes"`
	Notes    []string         `json:"notes,omitempty"`
}

// Host is the first label of the names that are proposed; it is what firmware
// looks up in DNS, so the name exists anyway.
const Host = "provisionserver"

// Propose works out the fewest names that serve the suffixes by the firmware's
// own rule, the common name being the one that serves most devices. What no
// public CA issues is refused with the reason.
func Propose(seen []SuffixSeen) Proposal {
	out := Proposal{Names: []ProposedName{}, Suffixes: []ProposedSuffix{}}
	var fit, unfit []ProposedSuffix
	for _, s := range merged(seen) {
		p := ProposedSuffix{SuffixSeen: s}
		if why := unfitSuffix(s.Suffix); why != "" {
			p.Why = why
			unfit = append(unfit, p)
			continue
		}
		p.Exact = !relieved(s.Suffix)
		fit = append(fit, p)
	}
	// Greedy: the name that serves most devices not served yet, then most
	// suffixes, then the longest, whose ends serve its parents as well, then the
	// one that most devices have themselves, then the one that was named first.
	left := slices.Clone(fit)
	for len(left) > 0 {
		best, gain := "", [4]int{}
		for _, s := range fit {
			name := Host + "." + s.Suffix
			g := [4]int{0, 0, labels(name), s.Devices}
			for _, o := range left {
				if surely(name, o.SuffixSeen) {
					g[0] += o.Devices
					g[1]++
				}
			}
			if g[1] > 0 && (best == "" || slices.Compare(g[:], gain[:]) > 0) {
				best, gain = name, g
			}
		}
		n := ProposedName{Name: best}
		for _, o := range left {
			if surely(best, o.SuffixSeen) {
				n.Serves = append(n.Serves, o.Suffix)
				n.Devices += o.Devices
			}
		}
		left = slices.DeleteFunc(left, func(o ProposedSuffix) bool { return surely(best, o.SuffixSeen) })
		out.Names = append(out.Names, n)
	}
	for _, s := range fit {
		for i, n := range out.Names {
			if !slices.Contains(n.Serves, s.Suffix) {
				continue
			}
			d := Covers(n.Name, s.Suffix, amt.Version{})
			s.Name, s.Rule, s.Why = n.Name, d.Rule, d.Why
			if i > 0 && slices.ContainsFunc(releases(s.SuffixSeen), func(v amt.Version) bool { return generationOf(v).san == perhaps }) {
				s.Unsure = fmt.Sprintf("no source says that AMT before 15 reads further names: for such devices in %s order a "+
					"certificate of its own, with %s as the common name", s.Suffix, n.Name)
			}
		}
		out.Suffixes = append(out.Suffixes, s)
	}
	out.Suffixes = append(out.Suffixes, unfit...)
	if slices.ContainsFunc(fit, func(s ProposedSuffix) bool { return len(s.Versions) == 0 }) {
		out.Notes = append(out.Notes, "where the release of AMT is not known, 6.0 or later is taken for granted")
	}
	for _, s := range out.Suffixes {
		if s.Exact {
			out.Notes = append(out.Notes, fmt.Sprintf("%s needs an exact match: firmware gives it no relief, so a sibling or a subdomain "+
				"that devices get later needs a further name", s.Suffix))
		}
	}
	slices.SortStableFunc(out.Suffixes, func(a, b ProposedSuffix) int {
		return cmp.Compare(b.Devices, a.Devices)
	})
	return out
}

// merged joins what is said of the same suffix.
func merged(seen []SuffixSeen) []SuffixSeen {
	var out []SuffixSeen
	for _, s := range seen {
		s.Suffix = normalName(s.Suffix)
		i := slices.IndexFunc(out, func(o SuffixSeen) bool { return o.Suffix == s.Suffix })
		if i < 0 {
			s.Versions, s.From = slices.Clone(s.Versions), slices.Clone(s.From)
			out = append(out, s)
			continue
		}
		o := &out[i]
		// Where nothing is known of some devices' age, nothing is taken for granted.
		if o.Devices > 0 && len(o.Versions) == 0 || s.Devices > 0 && len(s.Versions) == 0 {
			o.Versions = nil
		} else {
			o.Versions = append(o.Versions, s.Versions...)
		}
		o.Devices += s.Devices
		for _, f := range s.From {
			if !slices.Contains(o.From, f) {
				o.From = append(o.From, f)
			}
		}
	}
	return out
}

// unfitSuffix says why no certificate of a public CA can serve a suffix, and what
// can be done; "" when one can.
func unfitSuffix(suffix string) string {
	const instead = "give the devices a public suffix (DHCP option 15, or the PKI DNS suffix in MEBx), or use a root of your own: " +
		"provctl root create"
	why := unfitName(Host + "." + suffix)
	switch {
	case suffix == "":
		return "the device has no suffix: set DHCP option 15, or the PKI DNS suffix in MEBx"
	case why == "" && labels(suffix) < 2:
		return fmt.Sprintf("%s has a single label, under which no CA issues: %s", suffix, instead)
	case why == "" && registry(suffix):
		return fmt.Sprintf("%s is where domains are registered, not a domain of yours: the suffix needs one more label", suffix)
	case why != "" && slices.Contains(privateTLDs, lastLabel(suffix)):
		return fmt.Sprintf("%s ends in .%s, which no public CA issues: %s", suffix, lastLabel(suffix), instead)
	case why != "":
		return fmt.Sprintf("%s %s: no CA issues for it; %s", suffix, why, instead)
	}
	return ""
}

// relieved reports whether firmware compares only the last labels of such a
// suffix (rule R3), so that siblings are served too.
func relieved(suffix string) bool {
	n, listed := domainLabels[lastLabel(suffix)]
	return listed && labels(suffix) >= n
}

// releases are the firmware releases of a suffix's devices. Where they are not
// known, those of the last fifteen years: older ones read neither further names
// nor the whole rule for sure, so that no list of names would help them.
func releases(s SuffixSeen) []amt.Version {
	if len(s.Versions) == 0 {
		return slices.DeleteFunc(Generations(), func(v amt.Version) bool { return !v.AtLeast(6, 0) })
	}
	return s.Versions
}

// surely reports that a name serves a suffix on every release it was seen with.
// A rule that sources are at odds about counts only where there is no surer one:
// the name made from the suffix itself.
func surely(name string, s SuffixSeen) bool {
	if name == Host+"."+s.Suffix {
		return true
	}
	return !slices.ContainsFunc(releases(s), func(v amt.Version) bool {
		d := Covers(name, s.Suffix, v)
		return !d.OK || d.Unsure
	})
}
