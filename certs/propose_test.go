package certs

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
)

// TestPropose: the fewest names that the firmware's rule lets serve the suffixes,
// in top-level domains with relief over two labels, over three, and with none.
func TestPropose(t *testing.T) {
	t.Parallel()
	modern := []amt.Version{{Major: 16, Minor: 1}}
	old := []amt.Version{{Major: 3, Minor: 2}}
	is := func(suffix string, devices int, v ...amt.Version) SuffixSeen {
		return SuffixSeen{Suffix: suffix, Devices: devices, Versions: v}
	}
	for _, c := range []struct {
		name  string
		seen  []SuffixSeen
		want  []string // names, the common name first
		exact []string
	}{
		{"com: one name for siblings", []SuffixSeen{is("corp.example.com", 9, modern...), is("branch.example.com", 3, modern...), is("example.com", 1, modern...)}, []string{"provisionserver.corp.example.com"}, nil},
		{"com: old firmware has no sure relief", []SuffixSeen{is("corp.example.com", 9, old...), is("branch.example.com", 3, old...)}, []string{"provisionserver.corp.example.com", "provisionserver.branch.example.com"}, nil},
		{"com: a parent is served by the end of the name", []SuffixSeen{is("corp.example.com", 1, old...), is("example.com", 50, old...)}, []string{"provisionserver.corp.example.com"}, nil},
		{"de: two labels", []SuffixSeen{is("a.firma.de", 1, modern...), is("b.firma.de", 2, modern...)}, []string{"provisionserver.b.firma.de"}, nil},
		{"co.uk: three labels", []SuffixSeen{is("a.firm.co.uk", 2, modern...), is("b.firm.co.uk", 1, modern...), is("other.co.uk", 1, modern...)}, []string{"provisionserver.a.firm.co.uk", "provisionserver.other.co.uk"}, nil},
		{"pl: three labels, and two are too few", []SuffixSeen{is("x.firma.com.pl", 2, modern...), is("y.firma.com.pl", 1, modern...), is("firma.pl", 1, modern...)}, []string{"provisionserver.x.firma.com.pl", "provisionserver.firma.pl"}, []string{"firma.pl"}},
		{"com.au: no relief", []SuffixSeen{is("a.firm.com.au", 2, modern...), is("b.firm.com.au", 1, modern...)}, []string{"provisionserver.a.firm.com.au", "provisionserver.b.firm.com.au"}, []string{"a.firm.com.au", "b.firm.com.au"}},
		{"an unknown top-level domain: no relief", []SuffixSeen{is("a.example.cloud", 2, modern...), is("example.cloud", 9, modern...), is("b.example.cloud", 1, modern...)}, []string{"provisionserver.a.example.cloud", "provisionserver.b.example.cloud"}, []string{"a.example.cloud", "b.example.cloud", "example.cloud"}},
		{"the same suffix in other spellings", []SuffixSeen{is("Corp.Example.COM.", 1, modern...), is("corp.example.com", 1, modern...)}, []string{"provisionserver.corp.example.com"}, nil},
		{"com: the release is not known", []SuffixSeen{is("corp.example.com", 9), is("branch.example.com", 3)}, []string{"provisionserver.corp.example.com"}, nil},
		{"nothing", nil, nil, nil},
	} {
		got := Propose(c.seen)
		var names, exact []string
		for _, n := range got.Names {
			names = append(names, n.Name)
		}
		for _, s := range got.Suffixes {
			if s.Exact {
				exact = append(exact, s.Suffix)
			}
			if s.Name == "" || s.Why == "" {
				t.Errorf("%s: nothing is said of %s", c.name, s.Suffix)
			}
			// The promise, held against the rule itself.
			for _, v := range releases(s.SuffixSeen) {
				if d := Covers(s.Name, s.Suffix, v); !d.OK {
					t.Errorf("%s: %s does not serve %s on AMT %v: %s", c.name, s.Name, s.Suffix, v, d.Why)
				}
			}
		}
		slices.Sort(exact)
		if d := cmp.Diff(c.want, names) + cmp.Diff(c.exact, exact); d != "" {
			t.Errorf("%s:\n%s", c.name, d)
		}
		for _, s := range c.exact {
			if !slices.ContainsFunc(got.Notes, func(n string) bool { return strings.HasPrefix(n, s+" needs an exact match") }) {
				t.Errorf("%s: nobody is warned of %s: %v", c.name, s, got.Notes)
			}
		}
	}
}

// TestProposeRefuses: what no public CA issues is refused, each with its reason
// and what to do instead, and the rest is still proposed for.
func TestProposeRefuses(t *testing.T) {
	t.Parallel()
	for suffix, says := range map[string]string{
		"corp.local": ".local, which no public CA issues", "site.corp": ".corp, which no public CA issues",
		"office.lan": ".lan, which no public CA issues",
		"workgroup":  "no public CA issues", "contoso": "single label", "co.uk": "one more label", "my_site.example.com": "underscore",
		"": "option 15",
	} {
		got := Propose([]SuffixSeen{{Suffix: suffix, Devices: 3}, {Suffix: "corp.example.com", Devices: 1}})
		i := slices.IndexFunc(got.Suffixes, func(s ProposedSuffix) bool { return s.Suffix == suffix })
		if i < 0 || got.Suffixes[i].Name != "" || !strings.Contains(got.Suffixes[i].Why, says) {
			t.Errorf("%q: %+v", suffix, got.Suffixes)
		}
		if len(got.Names) != 1 || got.Names[0].Name != "provisionserver.corp.example.com" {
			t.Errorf("beside %q: %+v", suffix, got.Names)
		}
	}
	if got := Propose([]SuffixSeen{{Suffix: "corp.local"}}); !strings.Contains(got.Suffixes[0].Why, "provctl root create") ||
		!strings.Contains(got.Suffixes[0].Why, "MEBx") {
		t.Errorf("what to do instead: %s", got.Suffixes[0].Why)
	}
}

// TestProposeDoubts: what old firmware may not read is said, and what to order
// instead.
func TestProposeDoubts(t *testing.T) {
	t.Parallel()
	got := Propose([]SuffixSeen{
		{Suffix: "corp.example.com", Devices: 9, Versions: []amt.Version{{Major: 11, Minor: 8}}},
		{Suffix: "branch.example.net", Devices: 2, Versions: []amt.Version{{Major: 11, Minor: 8}}},
		{Suffix: "lab.example.org", Devices: 1, Versions: []amt.Version{{Major: 16, Minor: 1}}},
	})
	doubts := map[string]bool{}
	for _, s := range got.Suffixes {
		doubts[s.Suffix] = strings.Contains(s.Unsure, "certificate of its own")
	}
	if d := cmp.Diff(map[string]bool{"corp.example.com": false, "branch.example.net": true, "lab.example.org": false}, doubts); d != "" {
		t.Error(d)
	}
}
