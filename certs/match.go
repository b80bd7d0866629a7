package certs

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// Hints are what is known of a device before it is connected to. All optional.
type Hints struct {
	Suffix       string      // the DNS suffix expected of it: orders, never excludes
	Version      amt.Version // as recorded at an earlier visit
	AllowExpired bool        // take certificates outside their validity period; Provisioning.Forced does it for one
}

// A Candidate is one chain worth showing to a device.
type Candidate struct {
	Cert *Provisioning
	Path Path
	Hash amt.TrustHash // the strongest announced hash of the path's root
	Why  string        // in words: what speaks for it
}

// Offers says what candidates offer a device, whatever their order: each certificate
// and the root that it is shown under. A device that refused all of them is not won
// over by the same again.
func Offers(list []Candidate) []string {
	words := make([]string, len(list))
	for i, c := range list {
		words[i] = fmt.Sprintf("%s/%.4x", c.Cert.ID, c.Hash.Sum)
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// Match lists every chain that ends in a root the device announced, best first:
// names that serve the expected suffix before others (a wrong suffix is a sure
// refusal), what this firmware is sure to take before what is doubtful, then
// stronger hash, shorter chain, longer life.
// Certificates outside their validity period come last, and only when they are
// Forced or h.AllowExpired is set.
//
// The error, when there is no candidate, is a *reason.Error whose sentence
// names what the device trusts and what is held here.
func Match(all []*Provisioning, announced []amt.TrustHash, h Hints, now time.Time) ([]Candidate, error) {
	usable := slices.DeleteFunc(slices.Clone(all), func(p *Provisioning) bool { return p == nil || !p.Usable() })
	if len(usable) == 0 {
		if len(all) > 0 {
			return nil, reason.Because(reason.NoProvisioningCertificate, "none of the %d provisioning certificates is usable: %s", len(all),
				firstErrors(all))
		}
		return nil, reason.Because(reason.NoProvisioningCertificate, "no provisioning certificate is active")
	}
	trusted := make(map[string]bool, len(announced))
	for _, a := range announced {
		if a.Algorithm.Size() > 0 {
			trusted[a.String()] = true
		}
	}
	if len(trusted) == 0 {
		return nil, reason.Because(reason.RootNotTrusted,
			"the device announced no active root hash, so that no certificate can set it up: enable the hashes in MEBx")
	}

	var ranked []rankedCandidate
	var refusals []*reason.Error
	for _, p := range usable {
		for _, path := range p.Paths {
			hash, ok := strongest(path.RootHashes, trusted)
			if !ok {
				continue
			}
			fit, code, why := path.FitFor(h.Version)
			if fit == Refused {
				refusals = append(refusals, reason.Because(code, "certificate %s under %s: %s", p.Name, nameOf(path.Root()), why))
				continue
			}
			outside := p.outside(now)
			if outside != nil && !h.AllowExpired && !p.Forced {
				refusals = append(refusals, outside)
				continue
			}
			ranked = append(ranked, rankCandidate(p, path, hash, h, fit, why, outside))
		}
	}
	if len(ranked) == 0 {
		if len(refusals) > 0 {
			return nil, refuse(refusals)
		}
		return nil, reason.Because(reason.RootNotTrusted, "the device trusts %s; the certificates here end in %s%s",
			DescribeHashes(announced, 0), held(usable), bridge(usable, announced))
	}
	slices.SortStableFunc(ranked, compareCandidates)
	out := make([]Candidate, len(ranked))
	for i, r := range ranked {
		out[i] = r.Candidate
	}
	return out, nil
}

type rankedCandidate struct {
	Candidate
	outside  bool
	doubtful bool
	suffix   int // 0 serves, 1 not known or not certain, 2 does not serve
}

func rankCandidate(p *Provisioning, path Path, hash amt.TrustHash, h Hints, fit Fit, doubt string, outside *reason.Error) rankedCandidate {
	r := rankedCandidate{Candidate: Candidate{Cert: p, Path: path, Hash: hash}, outside: outside != nil, doubtful: fit == Doubtful,
		suffix: 1}
	why := []string{fmt.Sprintf("%s ends in %s, which the device announced by %s", p.Name, displayRoot(path),
		strings.ToUpper(hash.Algorithm.String()))}
	if h.Suffix != "" {
		d := p.Covers(h.Suffix, h.Version)
		switch {
		case d.OK && !d.Unsure:
			r.suffix = 0
			why = append(why, d.Why)
		case d.OK:
			why = append(why, d.Why)
		default:
			r.suffix = 2
			why = append(why, "but for the suffix expected here "+d.Why)
		}
	}
	if doubt != "" {
		why = append(why, "doubtful: "+doubt)
	}
	if outside != nil {
		why = append(why, "forced although "+outside.Error())
	}
	r.Why = strings.Join(why, "; ")
	return r
}

func compareCandidates(a, b rankedCandidate) int {
	return cmp.Or(
		compareBool(a.outside, b.outside),
		cmp.Compare(a.suffix, b.suffix),
		compareBool(a.doubtful, b.doubtful),
		cmp.Compare(b.Hash.Algorithm, a.Hash.Algorithm),
		cmp.Compare(len(a.Path.Certs), len(b.Path.Certs)),
		b.Cert.Leaf.NotAfter.Compare(a.Cert.Leaf.NotAfter),
		shortestLife(b.Path).Compare(shortestLife(a.Path)),
		bytes.Compare(a.Cert.Leaf.Raw, b.Cert.Leaf.Raw),
	)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// strongest picks the announced digest of the longest algorithm.
func strongest(hashes []amt.TrustHash, trusted map[string]bool) (amt.TrustHash, bool) {
	var best amt.TrustHash
	found := false
	for _, h := range hashes {
		if trusted[h.String()] && (!found || h.Algorithm > best.Algorithm) {
			best, found = h, true
		}
	}
	return best, found
}

// refuse picks the reason an operator should hear first: one that this device's
// age decides before one that time decides.
func refuse(refusals []*reason.Error) *reason.Error {
	first := refusals[0]
	for _, r := range refusals {
		if (first.Code == reason.CertExpired || first.Code == reason.CertNotYetValid) && r.Code != reason.CertExpired &&
			r.Code != reason.CertNotYetValid {
			first = r
		}
	}
	var others []string
	for _, r := range refusals {
		if s := r.Error(); s != first.Error() && !slices.Contains(others, s) {
			others = append(others, s)
		}
	}
	if len(others) == 0 {
		return first
	}
	return reason.Because(first.Code, "%w; and %s", first.Err, strings.Join(others, "; "))
}

// held names the roots of our own certificates with the start of their hash.
func held(all []*Provisioning) string {
	var names []string
	for _, p := range all {
		for _, path := range p.Paths {
			if n := displayRoot(path); !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return strings.Join(names, ", ")
}

func displayRoot(path Path) string {
	name := nameOf(path.Root())
	if r, ok := rootOf(path); ok {
		name = r.Name
	}
	for _, h := range path.RootHashes {
		if h.Algorithm == amt.SHA256 {
			return fmt.Sprintf("%s (sha256:%x…)", name, h.Sum[:4])
		}
	}
	return name
}

func firstErrors(all []*Provisioning) string {
	var out []string
	for _, p := range all {
		if p == nil {
			continue
		}
		for _, f := range p.Findings {
			if f.Severity == SeverityError {
				out = append(out, p.Name+": "+f.Detail)
				break
			}
		}
	}
	return strings.Join(out, "; ")
}
