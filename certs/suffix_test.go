package certs

import (
	"strings"
	"testing"
)

func TestCovers(t *testing.T) {
	t.Parallel()
	const newest = ""
	for _, c := range []struct {
		id, suffix, version string
		want                Rule
		unsure              bool
	}{
		// R1: by whole labels, from the end.
		{"server.east.company.local", "east.company.local", newest, RuleSuffix, false},
		{"server.east.company.local", "company.local", newest, RuleSuffix, false},
		{"server.east.company.local", "server.east.company.local", newest, RuleSuffix, false},
		{"server.east.company.local", "mkgt.east.company.local", newest, RuleNone, false},
		{"server.east.company.local", "west.company.local", newest, RuleNone, false},
		{"prov.mycompany.io", "company.io", newest, RuleNone, false},
		{"Prov.Corp.Example.COM.", "CORP.example.com.", newest, RuleSuffix, false},
		{" prov.corp.example.com ", "corp.example.com", newest, RuleSuffix, false},
		// R2.
		{"*.corp.example.io", "corp.example.io", newest, RuleWildcard, false},
		{"*.corp.example.io", "example.io", newest, RuleWildcard, false},
		{"*.corp.example.io", "io", newest, RuleNone, false},
		{"*.corp.example.io", "east.corp.example.io", newest, RuleWildcard, false},
		{"*.corp.example.io", "other.example.io", newest, RuleNone, false},
		{"*.com", "example.com", newest, RuleNone, false},
		{"a.*.example.io", "example.io", newest, RuleNone, false},
		{"*.corp.example.com", "corp.example.com", "4.0", RuleWildcard, true},
		{"*.corp.example.com", "corp.example.com", "5.1", RuleWildcard, false},
		{"*.corp.example.com", "corp.example.com", "2.2", RuleWildcard, true},
		// R3, the newest firmware.
		{"prov.corp.example.com", "sales.example.com", newest, RuleDomain, false},
		{"prov.corp.example.com", "corp.example.net", newest, RuleNone, false},
		{"*.corp.example.com", "sales.example.com", newest, RuleDomain, false},
		{"prov.corp.example.de", "sales.example.de", newest, RuleDomain, false},
		{"prov.example.co.uk", "sales.example.co.uk", newest, RuleDomain, false},
		{"prov.example.co.uk", "other.co.uk", newest, RuleNone, false},
		{"prov.firma.com.pl", "biuro.firma.com.pl", newest, RuleDomain, false},
		{"a.example.pl", "b.example.pl", newest, RuleNone, false}, // label 3 is compared
		{"a.example.fr", "b.example.fr", newest, RuleNone, false},
		{"a.example.fr", "example.fr", newest, RuleSuffix, false},
		// Not in the table: no relief.
		{"prov.example.com.au", "sales.example.com.au", newest, RuleNone, false},
		{"prov.example.com.au", "example.com.au", newest, RuleSuffix, false},
		{"prov.example.dev", "sales.example.dev", newest, RuleNone, false},
		{"prov.example.local", "sales.example.local", newest, RuleNone, false},
		{"prov.example.eu", "sales.example.eu", newest, RuleNone, false},
		// R3 by generation: every row of the table.
		{"prov.corp.example.com", "sales.example.com", "2.2", RuleNone, false},
		{"prov.corp.example.com", "corp.example.com", "2.2", RuleSuffix, true},
		{"prov.corp.example.com", "sales.example.com", "2.6", RuleDomain, false},
		{"prov.corp.example.com", "corp.example.com", "2.6", RuleSuffix, false},
		{"prov.corp.example.de", "sales.example.de", "2.6", RuleNone, false},
		{"prov.corp.example.net", "sales.example.net", "3.0", RuleNone, false},
		{"prov.corp.example.net", "example.net", "3.0", RuleSuffix, false},
		{"prov.corp.example.net", "sales.example.net", "3.2", RuleDomain, true},
		{"prov.corp.example.de", "sales.example.de", "3.2", RuleNone, false},
		{"prov.corp.example.net", "sales.example.net", "4.0", RuleDomain, false},
		{"prov.corp.example.de", "sales.example.de", "4.0", RuleNone, false},
		{"prov.corp.example.de", "sales.example.de", "4.1", RuleDomain, false},
		{"prov.corp.example.de", "sales.example.de", "5.0", RuleNone, false},
		{"prov.corp.example.net", "sales.example.net", "5.0", RuleDomain, false},
		{"prov.corp.example.de", "sales.example.de", "5.1", RuleDomain, false},
		{"prov.corp.example.de", "sales.example.de", "11.8", RuleDomain, false},
		{"prov.corp.example.co.uk", "sales.example.co.uk", "18.0", RuleDomain, false},
		// Not names at all.
		{"prov.corp.example.com", "", newest, RuleNone, false},
		{"", "corp.example.com", newest, RuleNone, false},
		{"prov..example.com", "example.com", newest, RuleNone, false},
		{"prov.example.com", "*.example.com", newest, RuleNone, false},
		{"prov.example.com", ".example.com", newest, RuleNone, false},
		{"com", "com", newest, RuleSuffix, false},
		{"com", "example.com", newest, RuleNone, false},
	} {
		d := Covers(c.id, c.suffix, version(c.version))
		if d.Rule != c.want || d.OK != (c.want != RuleNone) || d.Unsure != c.unsure {
			t.Errorf("certificate %q, device %q, AMT %q: want %s (unsure %v), got %+v", c.id, c.suffix, c.version, c.want, c.unsure, d)
		}
		if d.Why == "" {
			t.Errorf("certificate %q, device %q: no reason given", c.id, c.suffix)
		}
	}
}

func TestEveryListedDomainNeedsItsLabels(t *testing.T) {
	t.Parallel()
	if len(domainLabels) != 48 {
		t.Errorf("the table has 48 domains, got %d", len(domainLabels))
	}
	for tld, n := range domainLabels {
		shared := strings.Repeat("x.", n-1) + tld
		if d := Covers("a."+shared, "b."+shared, version("11.8")); d.Rule != RuleDomain {
			t.Errorf(".%s with %d labels shared: %+v", tld, n, d)
		}
		fewer := strings.Repeat("x.", n-2) + tld
		if d := Covers("a."+fewer, "b."+fewer, version("11.8")); d.OK {
			t.Errorf(".%s with %d labels shared: %+v", tld, n-1, d)
		}
	}
}

func TestCoversAny(t *testing.T) {
	t.Parallel()
	sans := []string{"prov.corp.example.com", "prov.other.io"}
	if d := CoversAny("prov.corp.example.com", sans, "corp.example.com", version("3.2")); !d.OK || d.Unsure {
		t.Errorf("the common name is certain: %+v", d)
	}
	if d := CoversAny("prov.corp.example.com", sans, "other.io", version("3.2")); !d.OK || !d.Unsure ||
		!strings.Contains(d.Why, "subjectAltName") {
		t.Errorf("an alternative name on old firmware is not: %+v", d)
	}
	if d := CoversAny("prov.corp.example.com", sans, "other.io", version("")); !d.OK || d.Unsure {
		t.Errorf("on the newest it is: %+v", d)
	}
	if d := CoversAny("prov.corp.example.com", sans, "third.io", version("")); d.OK || !strings.Contains(d.Why, "prov.corp.example.com") {
		t.Errorf("nothing fits, and the common name is what is spoken of: %+v", d)
	}
	if d := CoversAny("", nil, "third.io", version("")); d.OK || d.Why == "" {
		t.Errorf("no names: %+v", d)
	}
}

func FuzzCovers(f *testing.F) {
	f.Add("prov.corp.example.com", "example.com", 11)
	f.Add("*.a.b", "b", 3)
	f.Add("..", "*", 0)
	f.Fuzz(func(t *testing.T, id, suffix string, major int) {
		v := version("")
		v.Major = major
		d := Covers(id, suffix, v)
		if d.OK && d.Rule == RuleNone || !d.OK && d.Rule != RuleNone {
			t.Errorf("%q %q: %+v", id, suffix, d)
		}
	})
}
