package certs

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/provisiond/provisiond/amt"
)

// FleetGroup is a number of devices that are alike in what decides about a
// certificate.
type FleetGroup struct {
	Table   int64 // which list of hashes they announced
	Devices int
	Version amt.Version // zero: not known yet
	Suffix  string      // "": not known yet
}

// Fleet is what devices have announced so far: the distinct lists of hashes and
// how many devices announced each.
type Fleet struct {
	Tables map[int64][]amt.TrustHash
	Groups []FleetGroup
}

// RootAdvice is one root and whom a certificate under it would serve.
type RootAdvice struct {
	Name      string         `json:"name"`
	Known     bool           `json:"known"` // false: a root no name is known for, most likely one's own
	Hashes    []string       `json:"hashes"`
	Devices   int            `json:"devices"` // devices that announced it and whose age takes it
	Refused   int            `json:"refused"` // announced it, but are of an age that refuses its signature or key
	Adds      int            `json:"adds"`    // devices that no root above in this list serves
	ByVersion map[string]int `json:"by_version"`
	BySuffix  map[string]int `json:"by_suffix"`
	Held      bool           `json:"held"` // a usable certificate here ends in it
}

// Advice ranks roots by the devices they serve.
type Advice struct {
	Devices int          `json:"devices"`
	Served  int          `json:"served"` // by the certificates held
	Roots   []RootAdvice `json:"roots"`
}

// maxAdvised bounds the list; beyond the first dozens nobody reads.
const maxAdvised = 100

// Advise ranks every root that the fleet announced, the one serving most
// devices first. It needs nothing but what was recorded.
func Advise(f Fleet, held []*Provisioning) Advice {
	a := newAtlas(f)
	out := Advice{}
	mine := make([]bool, len(a.roots))
	for _, p := range held {
		if p == nil || !p.Usable() {
			continue
		}
		for _, path := range p.Paths {
			for _, h := range path.RootHashes {
				if i, ok := a.byHash[h.String()]; ok {
					mine[i] = true
				}
			}
		}
	}
	versions, suffixes := newNumbering(), newNumbering()
	type tally struct {
		devices, refused    int
		byVersion, bySuffix []int
	}
	tallies := make([]tally, len(a.roots))
	for _, g := range f.Groups {
		out.Devices += g.Devices
		v, s := versions.of(majorWord(g.Version)), suffixes.of(suffixWord(g.Suffix))
		served := false
		for _, i := range a.tables[g.Table] {
			t := &tallies[i]
			if a.refuses(i, g.Version) {
				t.refused += g.Devices
				continue
			}
			t.devices += g.Devices
			t.byVersion = bump(t.byVersion, v, g.Devices)
			t.bySuffix = bump(t.bySuffix, s, g.Devices)
			served = served || mine[i]
		}
		if served {
			out.Served += g.Devices
		}
	}
	order := make([]int, len(a.roots))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int {
		return cmp.Or(cmp.Compare(tallies[y].devices, tallies[x].devices), compareBool(!a.roots[x].Known, !a.roots[y].Known),
			cmp.Compare(a.roots[x].Name, a.roots[y].Name))
	})
	order = order[:min(len(order), maxAdvised)]
	adds := a.adds(f.Groups, order)
	for n, i := range order {
		r := a.roots[i]
		r.Devices, r.Refused, r.Adds, r.Held = tallies[i].devices, tallies[i].refused, adds[n], mine[i]
		r.ByVersion, r.BySuffix = versions.words(tallies[i].byVersion), suffixes.words(tallies[i].bySuffix)
		out.Roots = append(out.Roots, r)
	}
	return out
}

// Change says which groups of the fleet gain and lose when the certificates
// before are replaced by those after. DNS suffixes count where they are known.
func Change(f Fleet, before, after []*Provisioning) (gain, lose []FleetGroup) {
	type answer struct{ before, after bool }
	type question struct {
		table   int64
		version amt.Version
		suffix  string
	}
	trusted := make(map[int64]map[string]bool, len(f.Tables))
	for id, hashes := range f.Tables {
		set := make(map[string]bool, len(hashes))
		for _, h := range hashes {
			set[h.String()] = true
		}
		trusted[id] = set
	}
	asked := map[question]answer{}
	for _, g := range f.Groups {
		q := question{g.Table, g.Version, g.Suffix}
		a, ok := asked[q]
		if !ok {
			a = answer{serves(before, trusted[g.Table], g), serves(after, trusted[g.Table], g)}
			asked[q] = a
		}
		switch {
		case a.before && !a.after:
			lose = append(lose, g)
		case a.after && !a.before:
			gain = append(gain, g)
		}
	}
	return gain, lose
}

func serves(all []*Provisioning, trusted map[string]bool, g FleetGroup) bool {
	for _, p := range all {
		if p == nil || !p.Usable() || g.Suffix != "" && !p.Covers(g.Suffix, g.Version).OK {
			continue
		}
		for _, path := range p.Paths {
			if _, ok := strongest(path.RootHashes, trusted); !ok {
				continue
			}
			if fit, _, _ := path.FitFor(g.Version); fit != Refused {
				return true
			}
		}
	}
	return false
}

// atlas numbers the roots, so that counting 100,000 devices is adding to slices.
type atlas struct {
	roots  []RootAdvice
	facts  []Root
	byHash map[string]int
	tables map[int64][]int // roots of a list, no repeats
}

func newAtlas(f Fleet) *atlas {
	a := &atlas{byHash: map[string]int{}, tables: make(map[int64][]int, len(f.Tables))}
	ids := make([]int64, 0, len(f.Tables))
	for id := range f.Tables {
		ids = append(ids, id)
	}
	slices.Sort(ids) // so that unnamed roots keep their place from call to call
	for _, id := range ids {
		var list []int
		for _, h := range f.Tables[id] {
			if h.Algorithm.Size() == 0 {
				continue
			}
			if i := a.root(h); !slices.Contains(list, i) {
				list = append(list, i)
			}
		}
		a.tables[id] = list
	}
	return a
}

func (a *atlas) root(h amt.TrustHash) int {
	word := h.String()
	if i, ok := a.byHash[word]; ok {
		return i
	}
	known, ok := LookupRoot(h)
	i := len(a.roots)
	advice := RootAdvice{Name: known.Name, Known: ok}
	if ok {
		for _, k := range known.Hashes() {
			a.byHash[k.String()] = i
			advice.Hashes = append(advice.Hashes, k.String())
		}
	} else {
		advice.Name = fmt.Sprintf("not known by name (%s:%x…)", h.Algorithm, h.Sum[:min(4, len(h.Sum))])
		advice.Hashes = []string{word}
		a.byHash[word] = i
	}
	a.roots, a.facts = append(a.roots, advice), append(a.facts, known)
	return i
}

// refuses reports that firmware of this age takes no chain under the root,
// whatever certificate stands below.
func (a *atlas) refuses(i int, v amt.Version) bool {
	r := a.facts[i]
	return r.Weak && v.AtLeast(16, 0) || r.Curve && !v.IsZero() && !v.AtLeast(15, 0)
}

// adds walks the ranking and counts for each root the devices that none above
// it serves.
func (a *atlas) adds(groups []FleetGroup, order []int) []int {
	place := make([]int, len(a.roots))
	for i := range place {
		place[i] = len(order)
	}
	for n, i := range order {
		place[i] = n
	}
	out := make([]int, len(order)+1)
	for _, g := range groups {
		first := len(order)
		for _, i := range a.tables[g.Table] {
			if place[i] < first && !a.refuses(i, g.Version) {
				first = place[i]
			}
		}
		out[first] += g.Devices
	}
	return out[:len(order)]
}

// numbering gives words small numbers.
type numbering struct {
	number map[string]int
	list   []string
}

func newNumbering() *numbering { return &numbering{number: map[string]int{}} }

func (n *numbering) of(word string) int {
	i, ok := n.number[word]
	if !ok {
		i = len(n.list)
		n.number[word], n.list = i, append(n.list, word)
	}
	return i
}

func (n *numbering) words(counts []int) map[string]int {
	out := map[string]int{}
	for i, c := range counts {
		if c > 0 {
			out[n.list[i]] = c
		}
	}
	return out
}

func bump(counts []int, i, by int) []int {
	for len(counts) <= i {
		counts = append(counts, 0)
	}
	counts[i] += by
	return counts
}

func majorWord(v amt.Version) string {
	if v.IsZero() {
		return "unknown"
	}
	return fmt.Sprint(v.Major)
}

func suffixWord(s string) string {
	if s == "" {
		return "unknown"
	}
	return normalName(s)
}
