package certs

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// Report is everything worth saying about a certificate that is imported or
// looked at. It holds no key.
type Report struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Names       []string     `json:"names"`
	Request     string       `json:"request,omitempty"` // id of the request it answers
	NotBefore   time.Time    `json:"not_before"`
	NotAfter    time.Time    `json:"not_after"`
	DaysLeft    int          `json:"days_left"` // negative once expired
	Chains      []ChainView  `json:"chains"`
	Serves      []Served     `json:"serves"` // by the newest firmware's rules
	Accepted    []Acceptance `json:"accepted"`
	Findings    []Finding    `json:"findings"`
	Differences []Difference `json:"differences,omitempty"` // from the request
	LeftAside   []string     `json:"left_aside,omitempty"`  // further certificates whose key is here
	Unrelated   []string     `json:"unrelated,omitempty"`   // certificates that belong to no chain of it
	Ignored     []string     `json:"ignored,omitempty"`     // parts of the files that are neither certificate nor key
	Fetched     []string     `json:"fetched,omitempty"`     // addresses certificates were fetched from
}

// ChainView is one chain, leaf first.
type ChainView struct {
	Root  string     `json:"root"` // the name firmware menus use, where it is known
	Certs []CertView `json:"certificates"`
}

// CertView is one certificate of a chain in words.
type CertView struct {
	Name      string    `json:"name"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	SHA256    string    `json:"sha256"`
	SHA1      string    `json:"sha1"`
	Key       string    `json:"key"`
	Signature string    `json:"signature"`
	NotAfter  time.Time `json:"not_after"`
	Firmware  string    `json:"firmware,omitempty"` // roots: what firmware is known to carry it
}

// Answer is what a generation of firmware is expected to say.
type Answer string

const (
	AnswerYes   Answer = "yes"
	AnswerMaybe Answer = "maybe"
	AnswerNo    Answer = "no"
)

// Acceptance is one generation's answer. The DNS suffix is not judged here.
type Acceptance struct {
	Version string `json:"version"`
	Answer  Answer `json:"answer"`
	Why     string `json:"why"`
}

// Difference is one thing the CA issued otherwise than it was asked.
type Difference struct {
	Field  string `json:"field"`
	Asked  string `json:"asked"`
	Issued string `json:"issued"`
}

// Generations are the releases a report answers for.
func Generations() []amt.Version {
	return []amt.Version{{Major: 3, Minor: 2}, {Major: 5, Minor: 2}, {Major: 6, Minor: 2}, {Major: 7, Minor: 1}, {Major: 9, Minor: 1},
		{Major: 11, Minor: 8, Hotfix: 93}, {Major: 12}, {Major: 15}, {Major: 16, Minor: 1}, {Major: 18}}
}

// Err is the first error among the findings as a reason, nil when the
// certificate is usable.
func (r *Report) Err() error {
	for _, f := range r.Findings {
		if f.Severity == SeverityError {
			return reason.Because(f.Code, "%s: %s", r.Name, f.Detail)
		}
	}
	return nil
}

// NewReport looks at a certificate on its own.
func NewReport(p *Provisioning, now time.Time) *Report { return newReport(p, nil, nil, now) }

func newReport(p *Provisioning, b *Bundle, request *Pending, now time.Time) *Report {
	r := &Report{
		ID: p.ID, Name: p.Name, Names: p.Names,
		NotBefore: p.Leaf.NotBefore, NotAfter: p.Leaf.NotAfter, DaysLeft: daysLeft(p.Leaf.NotAfter, now),
		Serves: Serves(p.Names, amt.Version{}), Findings: p.FindingsAt(now),
	}
	used := map[string]bool{string(p.Leaf.Raw): true}
	for _, path := range p.Paths {
		v := ChainView{Root: nameOf(path.Root())}
		if known, ok := rootOf(path); ok {
			v.Root = known.Name
		}
		for i, c := range path.Certs {
			used[string(c.Raw)] = true
			v.Certs = append(v.Certs, viewOf(c, i == len(path.Certs)-1))
		}
		r.Chains = append(r.Chains, v)
	}
	for _, v := range Generations() {
		r.Accepted = append(r.Accepted, accept(p, v))
	}
	if request != nil {
		r.Request = request.ID
		r.Differences = differences(request, p.Leaf)
	}
	if b != nil {
		r.Ignored = b.Ignored
		for _, c := range b.Certs {
			if !used[string(c.Raw)] && !samePublicKey(c.PublicKey, p.Key.Public()) {
				r.Unrelated = append(r.Unrelated, nameOf(c))
			}
		}
	}
	return r
}

func daysLeft(end, now time.Time) int {
	d := end.Sub(now)
	if d < 0 {
		return -int((-d + 24*time.Hour - 1) / (24 * time.Hour))
	}
	return int(d / (24 * time.Hour))
}

func viewOf(c *x509.Certificate, root bool) CertView {
	v := CertView{
		Name: nameOf(c), Issuer: displayName(c.Issuer), Serial: fmt.Sprintf("%x", c.SerialNumber), Key: keyKind(c.PublicKey),
		Signature: c.SignatureAlgorithm.String(), NotAfter: c.NotAfter,
	}
	hashes := amt.HashesOf(c.Raw)
	for _, h := range hashes {
		switch h.Algorithm {
		case amt.SHA256:
			v.SHA256 = hex.EncodeToString(h.Sum)
		case amt.SHA1:
			v.SHA1 = hex.EncodeToString(h.Sum)
		}
	}
	if root {
		known, ok := rootOf(Path{Certs: []*x509.Certificate{c}, RootHashes: hashes})
		switch {
		case ok && known.Since != "":
			v.Firmware = "known to firmware from AMT " + known.Since
		case ok && known.Early:
			v.Firmware = "listed for AMT 2.2 to 6, and seen later"
		case ok && known.Embedded:
			v.Firmware = "seen in firmware; since which release is not known"
		default:
			v.Firmware = "in no firmware list seen so far"
		}
	}
	return v
}

// accept weighs what the firmware of v checks, apart from the DNS suffix: usage,
// algorithms, and whether it is likely to hold the root's hash. The best chain
// counts.
func accept(p *Provisioning, v amt.Version) Acceptance {
	a := Acceptance{Version: versionWord(v), Answer: AnswerNo}
	for _, f := range p.Findings {
		if f.Severity == SeverityError {
			a.Why = f.Detail
			return a
		}
	}
	for _, path := range p.Paths {
		answer, why := acceptPath(path, v)
		if a.Why == "" || answerRank(answer) < answerRank(a.Answer) {
			a.Answer, a.Why = answer, why
		}
	}
	return a
}

// Expect says in words what a device of this release, whose DNS suffix is
// suffix, would answer. The root's hash is judged by what firmware of that age
// is known to carry; a real hello knows better.
func (p *Provisioning) Expect(v amt.Version, suffix string) Acceptance {
	a := accept(p, v)
	if a.Answer == AnswerNo {
		return a
	}
	d := p.Covers(suffix, v)
	switch {
	case !d.OK:
		a.Answer, a.Why = AnswerNo, d.Why
	case d.Unsure:
		a.Answer = AnswerMaybe
		fallthrough
	default:
		a.Why = d.Why + "; " + a.Why
	}
	return a
}

func answerRank(a Answer) int { return slices.Index([]Answer{AnswerYes, AnswerMaybe, AnswerNo}, a) }

func acceptPath(path Path, v amt.Version) (Answer, string) {
	fit, _, why := path.FitFor(v)
	if fit == Refused {
		return AnswerNo, why
	}
	known, ok := rootOf(path)
	root := nameOf(path.Root())
	if ok {
		root = known.Name
	}
	answer, doubts := AnswerYes, []string{}
	if fit == Doubtful {
		answer = AnswerMaybe
		doubts = append(doubts, why)
	}
	old := !v.AtLeast(6, 0)
	switch {
	case ok && known.SHA1 == veriSignG1 && (v.AtLeast(12, 0) || v.Major == 11 && v.AtLeast(11, 8) && v.Hotfix >= 65):
		return AnswerNo, root + " was removed from firmware 11.8.65 and 12.0.32"
	case ok && known.Early && old:
	case ok && known.Embedded && old:
		answer = AnswerMaybe
		doubts = append(doubts, fmt.Sprintf("%s is in no list of that age; a firmware update may have brought it", root))
	case ok && known.Embedded:
	case v.AtLeast(16, 0):
		answer = AnswerMaybe
		doubts = append(doubts, fmt.Sprintf("only where the hash of %s was added by USB or by the maker", root))
	default:
		answer = AnswerMaybe
		doubts = append(doubts, fmt.Sprintf("only where the hash of %s was added in MEBx, by USB or by the maker", root))
	}
	if len(doubts) == 0 {
		return answer, fmt.Sprintf("%s is a root firmware carries; what a device really holds, its hello says", root)
	}
	return answer, strings.Join(doubts, "; ")
}

// veriSignG1 left the firmware in 2019 (G:rootcertificatehashes).
const veriSignG1 = "742c3192e607e424eb4549542be1bbc53e6174e2"

func versionWord(v amt.Version) string {
	if v.Minor == 0 && v.Hotfix == 0 {
		return fmt.Sprint(v.Major)
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// differences lists what the CA changed. The key cannot differ: it joined them.
func differences(request *Pending, leaf *x509.Certificate) []Difference {
	asked, err := x509.ParseCertificateRequest(request.DER)
	if err != nil {
		return nil // only the key of this request is known
	}
	var out []Difference
	compare := func(field string, want, got []string) {
		if !slices.Equal(want, got) {
			out = append(out, Difference{Field: field, Asked: orNone(want), Issued: orNone(got)})
		}
	}
	compare("common name", []string{asked.Subject.CommonName}, []string{leaf.Subject.CommonName})
	compare("organization", asked.Subject.Organization, leaf.Subject.Organization)
	compare("organizational unit", asked.Subject.OrganizationalUnit, leaf.Subject.OrganizationalUnit)
	compare("country", asked.Subject.Country, leaf.Subject.Country)
	compare("province", asked.Subject.Province, leaf.Subject.Province)
	compare("locality", asked.Subject.Locality, leaf.Subject.Locality)
	compare("DNS names", normalNames(asked.DNSNames), normalNames(leaf.DNSNames))
	compare("AMT usage", []string{SetupOID().String()}, usageOf(leaf))
	return out
}

func usageOf(leaf *x509.Certificate) []string {
	if hasSetupOID(leaf) {
		return []string{SetupOID().String()}
	}
	return nil
}

func normalNames(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, normalName(n))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}
