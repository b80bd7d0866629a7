package provision

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/store"
)

// A managed device gets another lease and says no hello about it. Before a
// contact it is looked for, in this order:
//
//  1. where a person said that it is, until it has answered somewhere;
//  2. where its authenticated agent said that it is;
//  3. where its name leads in DNS, unless the address has another name;
//  4. where it is believed to be, and where it answered last.
//
// What the machine there shows in the handshake decides whether it is the device
// (whom.go), so a wrong lead costs a dial and no secret. The address that worked
// becomes the believed one. One that is to be set up, and may hold a password of ours
// already, is looked for in the same places before it is called where it says hello
// from. A device without a key that is known is not looked for,
// nor is one that may speak without TLS: nothing would keep a login from a stranger.

// Resolver is the part of *net.Resolver that is used.
type Resolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// A Lead is where a device may be, and who says so.
type Lead struct {
	Addr netip.Addr
	By   store.AddressBy
}

// A Look is one place where a device was looked for, and what answered there.
type Look struct {
	By      string `json:"by"`
	Address string `json:"address,omitempty"`
	Answer  string `json:"answer"`
}

func (l Look) String() string {
	if l.Address == "" {
		return l.By + ": " + l.Answer
	}
	return l.Address + " (" + l.By + "): " + l.Answer
}

// words say whose word an address is.
var leadWords = map[store.AddressBy]string{
	store.ByHello: "its last hello", store.ByImport: "an import", store.ByOperator: "a person's word", store.ByAgent: "its agent's word",
	store.ByDNS: "its name in DNS", store.ByContact: "its last good address",
}

const (
	lookupFor = 5 * time.Second // for one name
	mostLeads = 6
)

// find opens the conversation with a managed device, where it is. Who answers at
// the last lead is left to the caller to judge, as the only one always was.
func (r *Run) find(ctx context.Context) (Device, error) {
	leads := r.leads(ctx)
	if !r.believed.IsValid() {
		r.believed = r.Job.Device.Address
	}
	for i, lead := range leads {
		d, known, err := r.callAt(ctx, lead)
		last := i == len(leads)-1
		switch {
		case err != nil && last:
			return nil, r.soughtFor(err)
		case err != nil && ctx.Err() != nil:
			return nil, err
		case err == nil && (known || last):
			return d, nil
		case err == nil:
			_ = d.Close()
		}
	}
	return nil, errors.New("no address of the device is known")
}

// callAt calls the device where it may be. What it does not find there is noted; who
// answers with another key is not hung up on.
func (r *Run) callAt(ctx context.Context, at Lead) (d Device, known bool, err error) {
	r.Job.Device.Address = at.Addr
	if d, err = r.meet(ctx); err != nil {
		err = r.notManaged(err)
		r.looked = append(r.looked, Look{leadWords[at.By], at.Addr.String(), clip(err.Error())})
		r.log.Info("lead.silent", zap.Stringer("address", at.Addr), zap.String("by", string(at.By)), zap.Error(err))
		return nil, false, err
	}
	r.found = at
	if known = r.knows(d.Peer()); !known && r.hasKey() {
		r.looked = append(r.looked, Look{leadWords[at.By], at.Addr.String(), "another machine: it shows a key that is not this device's"})
	}
	return d, known, nil
}

// seek asks a device that may have been set up before, or whose set-up may have come
// through, before anybody is set up in its name: where it answered last, and where
// its name and its agent lead. Who said hello elsewhere waits for that at each attempt.
func (r *Run) seek(ctx context.Context) (Device, error) {
	if !r.hasKey() {
		return nil, nil
	}
	here := r.Job.Device.Address
	for _, lead := range r.leads(ctx) {
		if lead.Addr == here {
			continue // its turn comes
		}
		d, known, err := r.callAt(ctx, lead)
		switch {
		case known:
			r.believed = here
			return d, nil
		case err == nil:
			_ = d.Close()
		case ctx.Err() != nil:
			return nil, err
		}
	}
	r.Job.Device.Address, r.found = here, Lead{}
	return nil, nil
}

// hasKey reports whether something tells the device from any other machine.
func (r *Run) hasKey() bool {
	return !r.plain() && (len(r.Job.Device.PeerFingerprint) > 0 ||
		slices.ContainsFunc(r.Job.Admin, func(c store.Credential) bool { return len(c.Proofs) > 0 }))
}

// soughtFor has the error name all places where the device was looked for.
func (r *Run) soughtFor(err error) error {
	if len(r.looked) < 2 {
		return err
	}
	all := make([]string, 0, len(r.looked))
	for _, l := range r.looked[:len(r.looked)-1] {
		all = append(all, l.String())
	}
	return fmt.Errorf("%w; before that it was looked for at %s", err, strings.Join(all, "; "))
}

// leads are the places to look, each once. The believed address is the last,
// before the one where it answered when that is another.
func (r *Run) leads(ctx context.Context) []Lead {
	d := r.Job.Device
	if r.believed.IsValid() {
		d.Address = r.believed // a second look
	}
	var list []Lead
	add := func(a netip.Addr, by store.AddressBy) {
		if a.IsValid() && !slices.ContainsFunc(list, func(l Lead) bool { return l.Addr == a }) {
			list = append(list, Lead{a, by})
		}
	}
	believed := d.AddressBy
	if d.Address == d.GoodAddress {
		believed = store.ByContact
	}
	if !r.hasKey() {
		add(d.Address, believed) // nothing would tell it from another
		return list
	}
	if d.AddressBy == store.ByOperator && d.Address != d.GoodAddress {
		add(d.Address, store.ByOperator)
	}
	if r.allowed(d.AgentAddress) {
		add(d.AgentAddress, store.ByAgent)
	}
	for _, a := range r.byName(ctx) {
		add(a, store.ByDNS)
	}
	list = list[:min(len(list), mostLeads)]
	add(d.GoodAddress, store.ByContact)
	add(d.Address, believed)
	return list
}

// byName asks DNS where the device's names lead.
func (r *Run) byName(ctx context.Context) (found []netip.Addr) {
	d := r.Job.Device
	if r.e.Names == nil {
		return nil
	}
	note := func(name, format string, args ...any) {
		r.looked = append(r.looked, Look{By: "the name " + name + " in DNS", Answer: fmt.Sprintf(format, args...)})
	}
	var names []string
	for _, n := range []string{strings.TrimSuffix(d.HostName+"."+d.Domain, "."), r.FQDN, d.FQDN} {
		n = strings.ToLower(n)
		if strings.Contains(strings.Trim(n, "."), ".") && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for _, name := range names {
		one, cancel := context.WithTimeout(ctx, lookupFor)
		addrs, err := r.e.Names.LookupNetIP(one, "ip", name+".") // no search list
		var dns *net.DNSError
		switch {
		case errors.As(err, &dns) && dns.IsNotFound:
			note(name, "no such name")
		case err != nil:
			note(name, "%v", err)
		}
		for _, a := range addrs {
			a = a.Unmap().WithZone("")
			switch other := r.calledOtherwise(one, a, names); {
			case !r.allowed(a):
				note(name, "%s, which provisioning.networks does not name", a)
			case other != "":
				note(name, "%s, whose own name is %s", a, other)
			default:
				found = append(found, a)
			}
		}
		cancel()
	}
	return found
}

// calledOtherwise is the name of an address that has one and none of these. That
// it has none, or that nobody can say, contradicts nothing.
func (r *Run) calledOtherwise(ctx context.Context, a netip.Addr, names []string) string {
	back, err := r.e.Names.LookupAddr(ctx, a.String())
	if err != nil || len(back) == 0 {
		return ""
	}
	for _, b := range back {
		if slices.Contains(names, strings.ToLower(strings.TrimSuffix(b, "."))) {
			return ""
		}
	}
	return strings.TrimSuffix(back[0], ".")
}

func (r *Run) allowed(a netip.Addr) bool {
	return a.IsValid() && (r.e.Allowed == nil || r.e.Allowed(a))
}

// located notes where the device was: it answered there with its key.
func (r *Run) located() {
	d, at := r.Job.Device, r.Job.Device.Address
	if r.plain() {
		return
	}
	by, was := store.ByContact, at
	if r.found.Addr.IsValid() {
		was = r.believed
		if r.found.By == store.ByDNS || r.found.By == store.ByAgent {
			by = r.found.By
		}
	}
	if was == at && d.GoodAddress == at && d.AddressBy != store.ByHello && !d.AgentAddress.IsValid() {
		return // as it is known
	}
	r.facts.Found, r.facts.FoundBy, r.facts.FoundFrom, r.facts.WordUsed = at, by, was, d.AgentAddress.IsValid()
}
