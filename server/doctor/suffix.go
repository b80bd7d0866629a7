package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
)

// suffixes puts side by side what has to agree: the zones we are looked for in,
// the suffix DHCP tells, the suffixes devices reported, and the names of the
// certificates, with the rule of the firmware that decides (certs.Covers).
func (v *visit) suffixes(context.Context) []Check {
	const name = "suffixes"
	type row struct {
		from, suffix string
		version      amt.Version
		devices      int
	}
	var rows []row
	add := func(from, suffix string, version amt.Version, n int) {
		suffix = strings.ToLower(strings.TrimSuffix(suffix, "."))
		if !slices.ContainsFunc(rows, func(r row) bool { return r.from == from && r.suffix == suffix && r.version == version }) {
			rows = append(rows, row{from, suffix, version, n})
		}
	}
	for _, z := range v.c.Zones {
		add("zone", z, amt.Version{}, 0)
	}
	for _, o := range v.lease().offers {
		if r := readDomain(o.Domains); r.Suffix != "" && r.Unusable == "" {
			add("DHCP", r.Suffix, amt.Version{}, 0)
		}
	}
	s, _ := v.survey()
	for _, c := range s.Suffixes {
		version, _ := amt.ParseVersion(c.Version)
		from := plural(c.Devices, "device")
		if !version.IsZero() {
			from += fmt.Sprintf(", AMT %d.%d", version.Major, version.Minor)
		}
		add(from, c.Suffix, version, c.Devices)
	}
	if len(rows) == 0 {
		return one(name, Skip, "", "no zone is configured and no device has reported a suffix yet, so there is nothing to compare")
	}
	if len(v.loaded()) == 0 {
		return one(name, Warn, "provctl cert import FILE, or provisioning.certificates in the configuration",
			"no certificate is loaded that could be compared with %s", suffixWords(len(rows)))
	}

	status, bad, unserved := Pass, 0, ""
	table := [][]string{{"SUFFIX", "FROM", "CERTIFICATE", "RULE", "WHY"}}
	for _, r := range rows {
		d, of := certs.Decision{}, "none"
		for _, p := range v.loaded() {
			if have := p.Covers(r.suffix, r.version); have.OK && (!d.OK || d.Unsure && !have.Unsure) {
				d, of = have, certificateNames(p)
			} else if !d.OK {
				d = have
			}
		}
		switch {
		case !d.OK:
			bad, unserved = bad+1, orElse(unserved, r.suffix)
			status = worse(status, Warn)
			if r.devices == 0 {
				status = Fail // a zone or a scope: everybody in it
			}
		case d.Unsure:
			status = worse(status, Warn)
		}
		table = append(table, []string{r.suffix, r.from, of, string(d.Rule), d.Why})
	}
	head := "every suffix is served by a certificate"
	hint := ""
	if bad > 0 {
		head = fmt.Sprintf("%d of %s %s served by no certificate: devices there refuse the server", bad, suffixWords(len(rows)), is(bad))
		hint = "correct option 15 where it is wrong, or get a certificate that names the suffix: provctl cert request --cn " +
			"provisionserver." + unserved
	} else if status != Pass {
		head = "every suffix is served, but for some firmware no source is certain"
	}
	return one(name, status, hint, "%s\n%s", head, lined(table))
}

func suffixWords(n int) string {
	if n == 1 {
		return "1 suffix"
	}
	return fmt.Sprintf("%d suffixes", n)
}

func is(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// lined puts columns under each other.
func lined(rows [][]string) string {
	var widths []int
	for _, r := range rows {
		for i, c := range r {
			if i >= len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var lines []string
	for _, r := range rows {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(c)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c)+2))
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return strings.Join(lines, "\n")
}
