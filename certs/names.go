package certs

import (
	"crypto/x509/pkix"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// privateTLDs are ends of names that no public CA has issued since 2015 (CA/B
// baseline requirements, "internal names"; RFC 2606, 6762 and 8375).
var privateTLDs = []string{
	"local", "localdomain", "lan", "corp", "home", "internal", "intranet", "private", "priv", "domain",
	"test", "example", "invalid", "localhost", "workgroup",
}

// unfitName says why a public CA would not issue a name, or why firmware could
// not use it; "" when nothing is wrong.
func unfitName(name string) string {
	n := normalName(name)
	base := strings.TrimPrefix(n, "*.")
	switch {
	case n == "":
		return "is empty"
	case strings.Contains(n, "_"):
		return "holds an underscore, which is not allowed in a host name"
	case strings.Contains(base, "*"):
		return "has a wildcard that is not its first label"
	case !wellFormed(base):
		return "has an empty label"
	case !strings.Contains(base, "."):
		return "has a single label; a DNS suffix needs at least two"
	case slices.Contains(privateTLDs, lastLabel(base)):
		return "ends in ." + lastLabel(base) + ", which no public CA issues: use a public domain, or a root of your own"
	}
	for l := range strings.SplitSeq(base, ".") {
		if len(l) > 63 || strings.HasPrefix(l, "-") || strings.HasSuffix(l, "-") || strings.ContainsFunc(l, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
		}) {
			return "holds the label \"" + amt.Clip(l) + "\", which is not a host name"
		}
	}
	if len(base) > 253 {
		return "is longer than 253 characters"
	}
	return ""
}

func displayName(n pkix.Name) string {
	switch {
	case n.CommonName != "":
		return n.CommonName
	case len(n.OrganizationalUnit) > 0:
		return n.OrganizationalUnit[0]
	}
	return n.String()
}

func rootNames(paths []Path) string {
	var names []string
	for _, p := range paths {
		n := nameOf(p.Root())
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return strings.Join(names, " or ")
}

// privateOnly reports that the one thing against a name is that no public CA
// would issue it.
func privateOnly(name string) bool {
	base, tld := strings.TrimPrefix(name, "*."), lastLabel(name)
	return slices.Contains(privateTLDs, tld) && unfitName(strings.TrimSuffix(base, tld)+"com") == ""
}
