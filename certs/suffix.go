package certs

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// Rule is which part of the firmware's suffix rule decided.
type Rule string

const (
	RuleSuffix   Rule = "suffix"   // R1: the device suffix is the end of the name
	RuleWildcard Rule = "wildcard" // R2: the name is *.base
	RuleDomain   Rule = "domain"   // R3: the last two or three labels agree
	RuleNone     Rule = "none"
)

// Decision answers whether a name serves a device's DNS suffix.
type Decision struct {
	OK     bool   `json:"ok"`
	Rule   Rule   `json:"rule"`
	Why    string `json:"why"`
	Unsure bool   `json:"unsure,omitempty"` // sources are silent or at odds for this release; taken as yes
}

// sureness of a rule in one generation of firmware.
type sureness int

const (
	no sureness = iota
	perhaps
	yes
)

// generation is one row of amt/protocol.md 3.4: which rules firmware from this
// release on knows, up to the next row.
type generation struct {
	major, minor int
	suffix       sureness // R1
	wildcard     sureness // R2
	comNet       sureness // R3 for com and net
	extended     sureness // R3 for the whole table
	san          sureness // dNSName entries count, not the common name only
}

// generations in rising order. Releases 4.1 and 5.1 brought the extended list;
// 5.0 did not have it, so the row of 4.1 does not reach 5.0. The first release
// that reads subjectAltName is not known: "perhaps" up to 15.
var generations = []generation{
	{0, 0, perhaps, perhaps, no, no, perhaps},
	{2, 6, yes, perhaps, yes, no, perhaps},
	{3, 0, yes, perhaps, no, no, perhaps},
	{3, 1, yes, perhaps, perhaps, no, perhaps},
	{4, 0, yes, perhaps, yes, no, perhaps},
	{4, 1, yes, yes, yes, yes, perhaps},
	{5, 0, yes, perhaps, yes, no, perhaps},
	{5, 1, yes, yes, yes, yes, perhaps},
	{15, 0, yes, yes, yes, yes, yes},
}

// domainLabels is the extended table of R3: how many labels at the end of two
// names under a top-level domain must agree (amt/protocol.md 3.4). A domain not in
// it gets no relief.
var domainLabels = map[string]int{
	"net": 2, "com": 2, "org": 2, "gov": 2, "edu": 2, "de": 2, "ch": 2, "dk": 2, "cz": 2, "cl": 2, "ua": 2,
	"arpa": 3, "fr": 3, "cn": 3, "nl": 3, "br": 3, "mx": 3, "uk": 3, "pl": 3, "tw": 3, "ca": 3, "fi": 3, "be": 3,
	"ru": 3, "se": 3, "ar": 3, "es": 3, "no": 3, "at": 3, "in": 3, "tr": 3, "ro": 3, "hu": 3, "nz": 3, "pt": 3,
	"il": 3, "gr": 3, "co": 3, "ie": 3, "za": 3, "th": 3, "sg": 3, "hk": 3, "lt": 3, "id": 3, "hr": 3, "ee": 3, "bg": 3,
}

// generationOf finds the row of a release; an unknown release is the newest.
func generationOf(v amt.Version) generation {
	if v.IsZero() {
		return generations[len(generations)-1]
	}
	g := generations[0]
	for _, row := range generations {
		if v.AtLeast(row.major, row.minor) {
			g = row
		}
	}
	return g
}

// Covers applies the firmware's domain rule (amt/protocol.md 3.4): may a
// certificate with this name (common name or dNSName) set up a device whose own
// DNS suffix (MEBx, else DHCP option 15) is suffix? Case and a trailing dot do
// not matter. A zero version means the newest rules. Where sources do not know,
// the answer is yes with Unsure set: the device has the last word.
func Covers(identifier, suffix string, v amt.Version) Decision {
	id, dev := normalName(identifier), normalName(suffix)
	g := generationOf(v)
	switch {
	case dev == "":
		return Decision{Rule: RuleNone, Why: "the device has no DNS suffix: set DHCP option 15, or the PKI DNS suffix in MEBx"}
	case !wellFormed(dev) || strings.Contains(dev, "*"):
		return Decision{Rule: RuleNone, Why: fmt.Sprintf("%q is not a DNS suffix", suffix)}
	}
	base, wild := strings.CutPrefix(id, "*.")
	if !wellFormed(base) || strings.Contains(base, "*") {
		return Decision{Rule: RuleNone, Why: fmt.Sprintf("%q is not a DNS name", identifier)}
	}
	if !wild && endsWith(id, dev) && g.suffix != no {
		return decide(g.suffix, RuleSuffix, v, "%s ends in the device's suffix %s", id, dev)
	}
	if wild && g.wildcard != no {
		if endsWith(base, dev) && (base == dev || labels(dev) >= 2) {
			return decide(g.wildcard, RuleWildcard, v, "%s stands for %s", id, dev)
		}
		if endsWith(dev, base) && labels(base) >= 2 {
			return decide(g.wildcard, RuleWildcard, v, "%s lies below %s", dev, base)
		}
	}
	tld := lastLabel(dev)
	n, listed := domainLabels[tld]
	sure := g.extended
	if tld == "com" || tld == "net" {
		sure = g.comNet
	}
	if listed && sure != no {
		if a, b := tail(base, n), tail(dev, n); a != "" && a == b {
			return decide(sure, RuleDomain, v, "under .%s the last %d labels decide, and both names end in %s", tld, n, a)
		}
		return Decision{Rule: RuleNone, Why: fmt.Sprintf("under .%s the last %d labels must agree: the certificate's %s, the device's %s",
			tld, n, lastLabels(base, n), lastLabels(dev, n))}
	}
	why := fmt.Sprintf("%s does not end in the device's suffix %s", id, dev)
	if !v.IsZero() && listed {
		why += fmt.Sprintf(", and AMT %d.%d has no relief for .%s", v.Major, v.Minor, tld)
	} else {
		why += fmt.Sprintf(", and firmware has no relief for .%s", tld)
	}
	return Decision{Rule: RuleNone, Why: why}
}

func decide(s sureness, r Rule, v amt.Version, format string, args ...any) Decision {
	d := Decision{OK: true, Rule: r, Why: fmt.Sprintf(format, args...), Unsure: s == perhaps}
	if d.Unsure {
		d.Why += fmt.Sprintf(" (no source is certain of this rule for AMT %d.%d)", v.Major, v.Minor)
	}
	return d
}

// CoversAny asks for a whole certificate: the common name first, then its
// dNSName entries. Which release was the first to read those is not known, so
// that for old firmware such an answer is Unsure.
func CoversAny(commonName string, alternatives []string, suffix string, v amt.Version) Decision {
	first := Decision{Rule: RuleNone, Why: "the certificate has no name"}
	if commonName != "" {
		first = Covers(commonName, suffix, v)
		if first.OK && !first.Unsure {
			return first
		}
	}
	best := first
	for _, name := range alternatives {
		if normalName(name) == normalName(commonName) {
			continue
		}
		d := Covers(name, suffix, v)
		if d.OK && generationOf(v).san == perhaps {
			d.Unsure = true
			d.Why += fmt.Sprintf(" (as subjectAltName; no source says that AMT %d.%d reads it, the common name is safer)", v.Major, v.Minor)
		}
		if d.OK && (!best.OK || best.Unsure && !d.Unsure) {
			best = d
		}
		if commonName == "" && !best.OK {
			best = d
		}
	}
	return best
}

// Covers asks CoversAny for this certificate.
func (p *Provisioning) Covers(suffix string, v amt.Version) Decision {
	return CoversCertificate(p.Leaf, suffix, v)
}

// CoversCertificate asks CoversAny for a leaf.
func CoversCertificate(leaf *x509.Certificate, suffix string, v amt.Version) Decision {
	return CoversAny(leaf.Subject.CommonName, leaf.DNSNames, suffix, v)
}

func normalName(s string) string {
	return strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s)), ".")
}

func wellFormed(name string) bool {
	for l := range strings.SplitSeq(name, ".") {
		if l == "" {
			return false
		}
	}
	return true
}

// endsWith compares by whole labels.
func endsWith(name, end string) bool { return name == end || strings.HasSuffix(name, "."+end) }

func labels(name string) int { return strings.Count(name, ".") + 1 }

func lastLabel(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// tail is the last n labels, or nothing when there are fewer.
func tail(name string, n int) string {
	if labels(name) < n {
		return ""
	}
	return lastLabels(name, n)
}

func lastLabels(name string, n int) string {
	parts := strings.Split(name, ".")
	return strings.Join(parts[max(0, len(parts)-n):], ".")
}
