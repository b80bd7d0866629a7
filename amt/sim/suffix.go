package sim

import "strings"

// suffixRules says which readings of the domain-suffix rule a release knows.
type suffixRules struct {
	wildcard bool // *.base
	comNet   bool // .com and .net share two labels
	extended bool // the table of common top-level domains
	san      bool // looks at subjectAltName, not only at the CN
}

// labelsShared is Intel's table of common top-level domains: how many labels at
// the end must agree. A domain outside the table gets no relief (0).
func labelsShared(tld string, r suffixRules) int {
	switch {
	case (tld == "com" || tld == "net") && r.comNet:
		return 2
	case !r.extended:
		return 0
	}
	switch tld {
	case "net", "com", "org", "gov", "edu", "de", "ch", "dk", "cz", "cl", "ua":
		return 2
	case "arpa", "fr", "cn", "nl", "br", "mx", "uk", "pl", "tw", "ca", "fi", "be", "ru", "se", "ar", "es", "no",
		"at", "in", "tr", "ro", "hu", "nz", "pt", "il", "gr", "co", "ie", "za", "th", "sg", "hk", "lt", "id",
		"hr", "ee", "bg":
		return 3
	}
	return 0
}

// serves reports whether a certificate for name may set up a device whose own
// domain is suffix. It compares whole labels, in any case.
func serves(name, suffix string, r suffixRules) bool {
	n, s := labels(name), labels(suffix)
	if len(n) == 0 || len(s) == 0 {
		return false
	}
	if n[0] == "*" {
		base := n[1:]
		if !r.wildcard || len(base) == 0 {
			return false
		}
		if len(s) >= 2 && endsWith(base, s) || endsWith(s, base) {
			return true
		}
		return shareTail(base, s, labelsShared(base[len(base)-1], r))
	}
	return endsWith(n, s) || shareTail(n, s, labelsShared(n[len(n)-1], r))
}

func labels(name string) []string {
	name = strings.ToLower(strings.Trim(strings.TrimSpace(name), "."))
	if name == "" {
		return nil
	}
	return strings.Split(name, ".")
}

// endsWith reports whether the labels of tail are the last ones of long.
func endsWith(long, tail []string) bool {
	return len(tail) <= len(long) && shareTail(long, tail, len(tail))
}

func shareTail(a, b []string, n int) bool {
	if n == 0 || len(a) < n || len(b) < n {
		return false
	}
	for i := 1; i <= n; i++ {
		if a[len(a)-i] != b[len(b)-i] {
			return false
		}
	}
	return true
}
