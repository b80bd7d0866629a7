package desk

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// fleet is what devices have announced so far. Nothing is asked of the network.
func (d *Desk) fleet(ctx context.Context) (f certs.Fleet, err error) {
	err = d.DB.Read(ctx, func(tx *store.Tx) error {
		groups, err := tx.FleetGroups(ctx)
		if err != nil {
			return err
		}
		tables, err := tx.TrustTables(ctx)
		f = fleetOf(groups, tables, func(g store.FleetGroup) int { return g.Devices })
		return err
	})
	if err != nil {
		return f, fmt.Errorf("read what devices announced: %w", err)
	}
	return f, nil
}

// Advise ranks the roots that devices announced by whom a certificate under
// them would serve.
func (d *Desk) Advise(ctx context.Context) (certs.Advice, error) {
	f, err := d.fleet(ctx)
	if err != nil {
		return certs.Advice{}, err
	}
	a := certs.Advise(f, d.held())
	if a.Roots == nil {
		a.Roots = []certs.RootAdvice{}
	}
	return a, nil
}

// Counts are the devices that have to do with a certificate.
type Counts struct {
	SetUp   int // were set up with it
	Waiting int // are not under management yet, and it would serve them were it the only one
	Adds    int // of these, those that no certificate in use serves
}

// Counts counts the devices of each certificate, by id.
func (d *Desk) Counts(ctx context.Context, all []Entry) (map[string]Counts, error) {
	now, err := d.countFleet(ctx)
	if err != nil {
		return nil, fmt.Errorf("count the devices of each certificate: %w", err)
	}
	groups, tables, setUp := now.groups, now.tables, now.setUp
	f := fleetOf(groups, tables, func(g store.FleetGroup) int { return g.Waiting })
	sum := func(groups []certs.FleetGroup) (n int) {
		for _, g := range groups {
			n += g.Devices
		}
		return n
	}
	used := inUse(all)
	out := map[string]Counts{}
	for _, e := range all {
		served, _ := certs.Change(f, nil, []*certs.Provisioning{e.Provisioning})
		more, _ := certs.Change(f, used, append(slices.Clone(used), e.Provisioning))
		out[e.ID] = Counts{SetUp: setUp[e.ID], Waiting: sum(served), Adds: sum(more)}
	}
	return out, nil
}

// Of a fleet of more than countFew the counting rests for countRest times as
// long as it took: every page that shows certificates asks for it.
const (
	countFew  = 10_000
	countRest = 20
)

// fleetCount is what is counted of the whole fleet for certificates.
type fleetCount struct {
	mu     sync.Mutex // held while one counts: the others want its answer
	done   time.Time
	took   time.Duration
	groups []store.FleetGroup
	tables map[int64][]amt.TrustHash
	setUp  map[string]int
}

// countFleet counts, or gives what was counted not long ago. What it gives is
// not to be written to.
func (d *Desk) countFleet(ctx context.Context) (*fleetCount, error) {
	c := &d.counted
	c.mu.Lock()
	defer c.mu.Unlock()
	devices := 0
	for _, g := range c.groups {
		devices += g.Devices
	}
	if devices > countFew && time.Since(c.done) < countRest*c.took {
		return &fleetCount{groups: c.groups, tables: c.tables, setUp: c.setUp}, nil
	}
	began, now := time.Now(), &fleetCount{}
	err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		if now.groups, err = tx.FleetGroups(ctx); err != nil {
			return err
		}
		if now.tables, err = tx.TrustTables(ctx); err != nil {
			return err
		}
		now.setUp, err = tx.CountBy(ctx, store.ColumnCertificate)
		return err
	})
	if err == nil {
		c.groups, c.tables, c.setUp, c.done = now.groups, now.tables, now.setUp, time.Now()
		c.took = c.done.Sub(began)
	}
	return now, err
}

// Renews names the certificate in use that e, which is on standby, was most
// likely ordered to follow: e serves all its names and lasts longer. Empty when
// there is none.
func Renews(e Entry, all []Entry, now time.Time) string {
	if e.State != Standby || !e.Usable() || e.Validity(now) != nil {
		return ""
	}
	last := ""
	for _, old := range all {
		if old.State == Active && old.Desk && old.Leaf.NotAfter.Before(e.Leaf.NotAfter) &&
			!slices.ContainsFunc(old.Names, func(n string) bool { return !slices.Contains(e.Names, n) }) {
			if old.ID == e.Note.Follows {
				return old.ID // of several, the one it was made to follow
			}
			last = cmp.Or(last, old.ID)
		}
	}
	return last
}

// Names proposes which names to order a certificate for: for the suffixes that
// devices have, those of the configuration's zones, and those given. Nothing is
// asked of the network.
func (d *Desk) Names(ctx context.Context, given []string) (certs.Proposal, error) {
	var groups []store.SuffixGroup
	err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		groups, err = tx.SuffixGroups(ctx)
		return err
	})
	if err != nil {
		return certs.Proposal{}, err
	}
	var seen []certs.SuffixSeen
	named := func(from string, list []string) {
		for _, suffix := range list {
			seen = append(seen, certs.SuffixSeen{Suffix: suffix, From: []string{from}})
		}
	}
	named("given", given)
	for _, g := range groups {
		s := certs.SuffixSeen{Suffix: g.Suffix, Devices: g.Devices, From: []string{"devices"}}
		if !g.Version.IsZero() {
			s.Versions = []amt.Version{g.Version}
		}
		seen = append(seen, s)
	}
	named("zones", d.Zones)
	return certs.Propose(seen), nil
}

func (d *Desk) held() []*certs.Provisioning {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inUse
}

// RootChange is what going from one root to another does to the fleet.
type RootChange = api.RootChange

// ChangeRoot says which devices a change of the root would cut off. A root is
// named as firmware menus name it, or by a hash such as sha256:45140b32…; the
// beginning of either is enough when only one fits.
func (d *Desk) ChangeRoot(ctx context.Context, from, to string) (RootChange, error) {
	f, err := d.fleet(ctx)
	if err != nil {
		return RootChange{}, err
	}
	old, err := rootNamed(f, from)
	if err != nil {
		return RootChange{}, err
	}
	fresh, err := rootNamed(f, to)
	if err != nil {
		return RootChange{}, err
	}
	out := RootChange{From: old.name, To: fresh.name, Devices: []Group{}}
	var cut []certs.FleetGroup
	for _, g := range f.Groups {
		had, has := old.in(f.Tables[g.Table]), fresh.in(f.Tables[g.Table])
		switch {
		case had && has:
			out.Served += g.Devices
		case has:
			out.Gain += g.Devices
		case had:
			out.CutOff += g.Devices
			cut = append(cut, g)
		}
	}
	err = d.DB.Read(ctx, func(tx *store.Tx) error {
		waiting, err := tx.FleetGroups(ctx)
		if err != nil {
			return err
		}
		for _, w := range []bool{true, false} {
			var part []certs.FleetGroup
			for _, g := range waiting {
				n := g.Waiting
				if !w {
					n = g.Devices - g.Waiting
				}
				if n > 0 && slices.ContainsFunc(cut, func(c certs.FleetGroup) bool {
					return c.Table == g.Table && c.Version == g.Version && c.Suffix == g.Suffix
				}) {
					part = append(part, certs.FleetGroup{Table: g.Table, Devices: n, Version: g.Version, Suffix: g.Suffix})
				}
			}
			if out.Devices, err = d.grouped(ctx, tx, out.Devices, part, w); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// namedRoot is a root by all the digests that are known of it.
type namedRoot struct {
	name   string
	hashes []string
}

func (r namedRoot) in(table []amt.TrustHash) bool {
	return slices.ContainsFunc(table, func(h amt.TrustHash) bool { return slices.Contains(r.hashes, h.String()) })
}

func rootNamed(f certs.Fleet, text string) (namedRoot, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	var hits []namedRoot
	add := func(r namedRoot) {
		if !slices.ContainsFunc(hits, func(h namedRoot) bool { return h.name == r.name }) {
			hits = append(hits, r)
		}
	}
	if text == "" {
		return namedRoot{}, refused("a root is named by its name or its hash")
	}
	for _, k := range certs.KnownRoots() {
		r := namedRoot{name: k.Name}
		for _, h := range k.Hashes() {
			r.hashes = append(r.hashes, h.String())
		}
		name := strings.ToLower(k.Name)
		if name == text {
			return r, nil
		}
		if strings.HasPrefix(name, text) || slices.ContainsFunc(r.hashes, func(h string) bool { return strings.HasPrefix(h, text) }) {
			add(r)
		}
	}
	for _, t := range f.Tables {
		for _, h := range t {
			if _, known := certs.LookupRoot(h); !known && strings.HasPrefix(h.String(), text) {
				add(namedRoot{name: h.String(), hashes: []string{h.String()}})
			}
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return namedRoot{}, reason.Because(reason.CertInputInvalid,
			"no root is known as %q; provctl cert advise lists those that devices announced", amt.Clip(text))
	}
	var names []string
	for _, h := range hits[:min(len(hits), 6)] {
		names = append(names, h.name)
	}
	slices.Sort(names)
	return namedRoot{}, reason.Because(reason.CertInputInvalid, "%d roots begin with %q, such as %s", len(hits), amt.Clip(text),
		strings.Join(names, ", "))
}
