package admit

import (
	"context"
	"errors"
	"net/netip"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// facts are the store's rules, lists and names, each asked once in a transaction
// however many devices it is wanted for. Nothing of them outlives the
// transaction: an approval, a rule or an entry taken from the list counts for
// the first hello that is decided after it was stored, on every node.
type facts struct {
	tx *store.Tx

	lists    *store.Authorisations // nil: asked for each device
	names    map[amt.UUID]store.Name
	rules    []profile.Rule
	haveRule bool
	profiles map[string]error // nil: it exists
	roots    map[int64][]amt.TrustHash
	called   map[int64][]string // names of the roots
	matches  map[matchKey]matched
}

// matchKey is all that a certificate's fit depends on, within a transaction.
type matchKey struct {
	table   int64
	suffix  string
	version amt.Version
}

// matched is which certificates fit, or why none does.
type matched struct {
	fit []certs.Candidate
	err error
}

func factsOf(tx *store.Tx) *facts {
	return &facts{tx: tx, profiles: map[string]error{}, roots: map[int64][]amt.TrustHash{}, called: map[int64][]string{},
		matches: map[matchKey]matched{}}
}

// about asks for many devices at once what is otherwise asked for each.
func (f *facts) about(ctx context.Context, devices []store.Device) error {
	lists, err := f.tx.Authorisations(ctx, devices...)
	if err != nil {
		return err
	}
	uuids := make([]amt.UUID, len(devices))
	for i, d := range devices {
		uuids[i] = d.UUID
	}
	if f.names, err = f.tx.NamesOf(ctx, uuids); err != nil {
		return err
	}
	f.lists = &lists
	return nil
}

func (f *facts) authorisedFor(ctx context.Context, d store.Device) (store.AuthorisedDevice, error) {
	if f.lists != nil {
		return f.lists.For(d)
	}
	return f.tx.AuthorisedFor(ctx, d)
}

// networksFor gives the entries that name a network of an address.
func (f *facts) networksFor(ctx context.Context, d store.Device, at netip.Addr) ([]int64, error) {
	if f.lists == nil {
		lists, err := f.tx.Authorisations(ctx, d)
		if err != nil {
			return nil, err
		}
		return lists.Networks(at), nil
	}
	return f.lists.Networks(at), nil
}

func (f *facts) nameOf(ctx context.Context, u amt.UUID) (store.Name, error) {
	if f.names == nil {
		return f.tx.NameOf(ctx, u)
	}
	n, ok := f.names[u]
	if !ok {
		return n, store.ErrNotFound
	}
	return n, nil
}

func (f *facts) allRules(ctx context.Context) (_ []profile.Rule, err error) {
	if !f.haveRule {
		if f.rules, err = Rules(ctx, f.tx); err != nil {
			return nil, err
		}
		f.haveRule = true
	}
	return f.rules, nil
}

// profile is nil when one of that name is stored, store.ErrNotFound when not.
func (f *facts) profile(ctx context.Context, name string) error {
	err, asked := f.profiles[name]
	if !asked {
		_, err = f.tx.Profile(ctx, name, 0)
		if err == nil || errors.Is(err, store.ErrNotFound) {
			f.profiles[name] = err
		}
	}
	return err
}

// hashes gives a trust table's roots and what they are called.
func (f *facts) hashes(ctx context.Context, table int64) (_ []amt.TrustHash, called []string, err error) {
	roots, asked := f.roots[table]
	if !asked {
		if roots, err = f.tx.TrustHashes(ctx, table); err != nil {
			return nil, nil, err
		}
		f.roots[table] = roots
	}
	called, named := f.called[table]
	if !named {
		called = rootNames(roots)
		f.called[table] = called
	}
	return roots, called, nil
}

// match asks once for devices that are alike. A table's number names its hashes.
func (f *facts) match(match func([]amt.TrustHash, certs.Hints) ([]certs.Candidate, error), hashes []amt.TrustHash, d store.Device) matched {
	key := matchKey{d.TrustTable, d.Suffix, d.Version}
	if m, asked := f.matches[key]; asked && d.TrustTable != 0 {
		return m
	}
	list, err := match(hashes, certs.Hints{Suffix: d.Suffix, Version: d.Version})
	m := matched{list, err}
	f.matches[key] = m
	return m
}
