package admit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Names of where a stored name came from.
const (
	FromImport = "import"
	FromAPI    = "api"
	FromAgent  = "agent"
)

// Assign finds what the lists and rules say about a device, by what is known of
// it now. An entry of the list of authorised devices that names a profile goes
// before the rules: it speaks of this very device. What a person gave the device
// goes before both.
func Assign(ctx context.Context, tx *store.Tx, d store.Device) (a profile.Assignment, rule string, entry store.AuthorisedDevice,
	err error) {
	return factsOf(tx).assign(ctx, d)
}

func (f *facts) assign(ctx context.Context, d store.Device) (a profile.Assignment, rule string, entry store.AuthorisedDevice, err error) {
	entry, err = f.authorisedFor(ctx, d)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return a, "", entry, err
	}
	rules, err := f.allRules(ctx)
	if err != nil {
		return a, "", entry, err
	}
	if len(rules) > 0 {
		s := profile.Subject{Address: d.Address, Suffix: d.Suffix, Version: d.Version, Tags: d.Tags}
		if d.TrustTable != 0 {
			if s.Roots, s.RootNames, err = f.hashes(ctx, d.TrustTable); err != nil {
				return a, "", entry, err
			}
		}
		if r, _ := profile.Choose(rules, s); r != nil {
			a, rule = r.Assign, r.Name
		}
	}
	if entry.Profile != "" {
		a.Profile = entry.Profile
	}
	if d.AssignedProfile != "" {
		a.Profile = d.AssignedProfile
	}
	return a, rule, entry, nil
}

// Rules reads the stored rules in the order they are tried.
func Rules(ctx context.Context, tx *store.Tx) ([]profile.Rule, error) {
	stored, err := tx.AssignmentRules(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the assignment rules: %w", err)
	}
	rules := make([]profile.Rule, len(stored))
	for i, s := range stored {
		if rules[i], err = profile.ReadRule(s.Name, s.Enabled, s.Match, s.Assign); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

func rootNames(hashes []amt.TrustHash) []string {
	var out []string
	for _, h := range hashes {
		if n, ok := certs.RootName(h); ok {
			out = append(out, n)
		}
	}
	return out
}

// identify says what a device shall be and be called. answers are what the slow
// sources said just now; a source without an answer there has not been asked,
// and the device waits for it.
func (a *Admitter) identify(ctx context.Context, f *facts, d store.Device, h hello.Hello, answers map[profile.Source]answer) (Identity,
	error) {
	as, rule, entry, err := f.assign(ctx, d)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{Profile: as.Profile, Rule: rule, Entry: entry.ID}
	if id.Profile != "" && id.Profile != "default" {
		if err := f.profile(ctx, id.Profile); errors.Is(err, store.ErrNotFound) {
			by := "the list of authorised devices"
			switch {
			case d.AssignedProfile != "":
				by = "somebody"
			case rule != "" && entry.Profile == "":
				by = "the rule " + rule
			}
			id.Reason, id.Missing = reason.NoProfileRule, fmt.Sprintf("%s assigns the profile %s, which does not exist", by, id.Profile)
			return id, nil
		} else if err != nil {
			return id, err
		}
	}
	named, err := f.nameOf(ctx, d.UUID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return id, err
	}
	sources := as.Names
	if len(sources) == 0 {
		sources = a.Policy().Names
	}
	if len(sources) == 0 {
		sources = profile.DefaultSources()
	}
	var silent []string
	failed := false
	for _, s := range sources {
		name, why := "", ""
		switch s {
		case profile.Pattern:
			if failed && f.tx.Now().Before(d.FirstSeen.Add(failedFor)) {
				id.Reason, id.Missing = reason.IdentityIncomplete, strings.Join(silent, "; ")
				return id, nil
			}
			id.Source = string(s)
			return id, nil
		case profile.Assigned:
			name, why = assigned(named, entry, h, d), "nobody assigned a name: provctl device name "+d.UUID.String()+" FQDN"
		case profile.ReverseDNS, profile.Webhook:
			if named.Source == string(s) {
				name = named.FQDN
				break
			}
			got, asked := answers[s]
			if !asked {
				return a.lookingUp(id, d, s), nil
			}
			name, why = got.name, got.why
			failed = failed || got.failed
		}
		if name == "" {
			silent = append(silent, why)
			continue
		}
		if name = qualified(name, as.Domain); profile.CheckFQDN(name) != nil {
			silent = append(silent, fmt.Sprintf("%s said %q, which is not a host name", s, amt.Clip(name)))
			continue
		}
		id.FQDN, id.Source = strings.ToLower(name), string(s)
		return id, nil
	}
	id.Reason, id.Missing = reason.IdentityIncomplete, strings.Join(silent, "; ")
	return id, nil
}

// lookingUp keeps what an earlier look-up found in the sentence, so that a hello
// in between changes nothing.
func (a *Admitter) lookingUp(id Identity, d store.Device, s profile.Source) Identity {
	id.Reason, id.Missing = reason.IdentityIncomplete, "its name is being looked up: "+string(s)
	if d.Lifecycle == store.PendingIdentity && d.Reason == reason.IdentityIncomplete && d.Detail != "" {
		id.Missing = d.Detail
	}
	return id
}

// assigned is the name that somebody gave: an operator or an import first, then
// the list of authorised devices, then the device's own authenticated agent,
// then the name it has had.
func assigned(named store.Name, entry store.AuthorisedDevice, h hello.Hello, d store.Device) string {
	switch {
	case named.Source == FromImport || named.Source == FromAPI:
		return named.FQDN
	case entry.FQDN != "":
		return entry.FQDN
	case h.FQDN != "" && h.Via != hello.ViaPlain:
		return h.FQDN
	case named.Source == FromAgent:
		return named.FQDN
	}
	return d.FQDN
}

func qualified(name, domain string) string {
	name = strings.TrimSuffix(strings.TrimSpace(name), ".")
	if domain != "" && name != "" && !strings.Contains(name, ".") {
		return name + "." + strings.Trim(domain, ". ")
	}
	return name
}
