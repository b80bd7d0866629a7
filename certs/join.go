package certs

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
)

// Pending is a request whose certificate has not come yet.
type Pending struct {
	ID        string
	Key       crypto.Signer
	DER       []byte // PKCS#10; nil when only the key is known
	CreatedAt time.Time
	Host      string // where it was made
}

// A Fetch reads one address of a certificate's AIA extension. It must bound
// time and size itself.
type Fetch func(ctx context.Context, url string) ([]byte, error)

// JoinOptions are what Join may use beside the bundle.
type JoinOptions struct {
	Pending []Pending
	Known   []*x509.Certificate // chain material from earlier imports
	Fetch   Fetch               // nil: nothing is fetched, what is missing is named
	Now     time.Time
}

// maxFetches bounds how far a chain is followed over the network.
const maxFetches = 5

// Join finds the one certificate of the bundle whose private key is here, in the
// bundle or in a pending request, and completes its chain. An error is a
// *reason.Error and means that nothing can be imported. Otherwise the report
// tells everything; when the result is not Usable, Report.Err says why.
func Join(ctx context.Context, b *Bundle, o JoinOptions) (*Provisioning, *Report, error) {
	chosen, err := pick(b, o.Pending, o.Now)
	if err != nil {
		return nil, nil, err
	}
	leaf, key := chosen.leaf, chosen.key
	pool := append(slices.Clone(b.Certs), o.Known...)
	p := newProvisioning(leaf, key, pool, o.Now)
	var fetched []string
	if o.Fetch != nil && len(p.Paths) == 0 {
		var notes []string
		pool, fetched, notes = fetchIssuers(ctx, b.left, leaf, pool, o.Fetch)
		p = newProvisioning(leaf, key, pool, o.Now)
		for _, n := range notes {
			p.Findings = append(p.Findings, Finding{Code: reason.ChainIncomplete, Severity: SeverityInfo, Detail: n})
		}
	}
	p.Findings = append(p.Findings, b.Findings...)
	r := newReport(p, b, chosen.request, o.Now)
	r.Fetched, r.LeftAside = fetched, chosen.aside
	return p, r, nil
}

// A choice is what pick made of a bundle.
type choice struct {
	leaf    *x509.Certificate
	key     crypto.Signer
	request *Pending
	aside   []string // certificates that have a key here too, in words
}

// pick chooses leaf and key.
func pick(b *Bundle, pending []Pending, now time.Time) (choice, error) {
	var all []choice
	add := func(key crypto.Signer, request *Pending) {
		if slices.ContainsFunc(all, func(c choice) bool { return samePublicKey(c.key.Public(), key.Public()) }) {
			return
		}
		var mine []*x509.Certificate
		for _, c := range distinct(b.Certs) {
			if samePublicKey(c.PublicKey, key.Public()) {
				mine = append(mine, c)
			}
		}
		if len(mine) == 0 {
			return
		}
		slices.SortStableFunc(mine, func(a, b *x509.Certificate) int { return preferred(a, b, now) })
		c := choice{leaf: mine[0], key: key, request: request}
		for _, other := range mine[1:] {
			if !selfIssued(other) || selfIssued(mine[0]) { // Windows keeps a self-signed stand-in beside the issued one
				c.aside = append(c.aside, until(other, now))
			}
		}
		all = append(all, c)
	}
	// Requests first: a key that is in both stays tied to its request.
	for i := range pending {
		if pending[i].Key != nil { // else it could not be unsealed; noKey still names it
			add(pending[i].Key, &pending[i])
		}
	}
	for _, k := range b.Keys {
		add(k, nil)
	}
	if len(all) == 0 {
		return choice{}, noKey(b, pending)
	}
	meant := all
	if len(all) > 1 {
		meant = slices.DeleteFunc(slices.Clone(all), func(c choice) bool { return !forSetup(c.leaf) })
	}
	if len(meant) == 1 {
		for _, c := range all {
			if c.leaf != meant[0].leaf {
				meant[0].aside = append(append(meant[0].aside, until(c.leaf, now)), c.aside...)
			}
		}
		slices.Sort(meant[0].aside)
		return meant[0], nil
	}
	var names []string
	for _, c := range all {
		names = append(names, until(c.leaf, now)+b.fromWhere(string(c.leaf.Raw)))
	}
	slices.Sort(names)
	return choice{}, reason.Because(reason.CertAmbiguous,
		"%d certificates here have a private key, and %s: %s; export one certificate a file, and import one at a time",
		len(all), map[bool]string{true: "none is made for AMT setup", false: "more than one is made for AMT setup"}[len(meant) == 0],
		strings.Join(names, ", "))
}

// preferred orders certificates of one key: what a CA issued, what is made for
// AMT setup, what is valid now, and of these the newest.
func preferred(a, b *x509.Certificate, now time.Time) int {
	for _, is := range []func(c *x509.Certificate) bool{
		func(c *x509.Certificate) bool { return !selfIssued(c) }, func(c *x509.Certificate) bool { return forSetup(c) && !c.IsCA },
		func(c *x509.Certificate) bool { return !now.Before(c.NotBefore) && !now.After(c.NotAfter) },
	} {
		switch x, y := is(a), is(b); {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
	}
	return cmp.Or(b.NotBefore.Compare(a.NotBefore), b.NotAfter.Compare(a.NotAfter), bytes.Compare(a.Raw, b.Raw))
}

// forSetup reports whether a certificate is marked for AMT setup.
func forSetup(c *x509.Certificate) bool {
	exact, _ := setupOU(c)
	return hasSetupOID(c) || exact
}

// until names a certificate and the end of its life.
func until(c *x509.Certificate, now time.Time) string {
	s := fmt.Sprintf("%s until %s", nameOf(c), day(c.NotAfter))
	switch {
	case now.After(c.NotAfter):
		s += ", expired"
	case now.Before(c.NotBefore):
		s += ", not valid before " + day(c.NotBefore)
	}
	return s
}

func noKey(b *Bundle, pending []Pending) *reason.Error {
	var leaves, selfSigned []string
	for _, c := range b.Certs {
		switch {
		case c.IsCA:
		case selfIssued(c):
			selfSigned = append(selfSigned, nameOf(c))
		default:
			leaves = append(leaves, nameOf(c))
		}
	}
	switch {
	case len(b.Keys) > 0 && len(b.Certs) == 0:
		return reason.Because(reason.CertInputInvalid,
			"there is a private key here%s and no certificate: import it together with the certificate", keysFrom(b))
	case len(b.Keys) > 0:
		return reason.Because(reason.CertKeyMismatch, "the private key%s belongs to none of the certificates here: %s", keysFrom(b),
			namesIn(b.Certs))
	case len(leaves) == 0 && len(selfSigned) > 0:
		return reason.Because(reason.CertSelfSigned, "%s signed itself; a certificate that a CA issued is needed",
			strings.Join(selfSigned, ", "))
	case len(leaves) == 0:
		return reason.Because(reason.CertInputInvalid, "only CA certificates are here (%s); the certificate itself is missing",
			namesIn(b.Certs))
	}
	if len(pending) == 0 {
		return reason.Because(reason.CertPrivateKeyMissing,
			"the private key of %s is not here, and no request is pending: import a PFX that holds it", strings.Join(leaves, ", "))
	}
	var list []string
	for _, p := range pending {
		s := p.ID
		if cr, err := x509.ParseCertificateRequest(p.DER); err == nil && cr.Subject.CommonName != "" {
			s += " for " + cr.Subject.CommonName
		}
		if !p.CreatedAt.IsZero() {
			s += " of " + day(p.CreatedAt)
		}
		if p.Host != "" {
			s += " on " + p.Host
		}
		list = append(list, s)
	}
	return reason.Because(reason.CertPrivateKeyMissing,
		"no pending request has the public key of %s; pending are: %s. It was made elsewhere: import a PFX with its key, or order again "+
			"with one of these requests",
		strings.Join(leaves, ", "), strings.Join(list, "; "))
}

// keysFrom names the file of the key, when there is one.
func keysFrom(b *Bundle) string {
	if len(b.Keys) != 1 {
		return ""
	}
	print, err := KeyFingerprint(b.Keys[0].Public())
	if err != nil {
		return ""
	}
	return b.fromWhere(print)
}

func namesIn(certs []*x509.Certificate) string {
	var names []string
	for _, c := range certs {
		if n := nameOf(c); !slices.Contains(names, n) {
			names = append(names, n)
		}
		if len(names) == 10 {
			names = append(names, "…")
			break
		}
	}
	return strings.Join(names, ", ")
}

// fetchIssuers climbs by the addresses that certificates name for their issuer.
// What it brings is trusted for nothing: a signature has to fit.
func fetchIssuers(ctx context.Context, left *budget, leaf *x509.Certificate, pool []*x509.Certificate,
	fetch Fetch) (all []*x509.Certificate, fetched, notes []string) {
	if left == nil {
		left = budgetOf(ctx)
	}
	seen := map[string]bool{}
	for range maxFetches {
		found := findPaths(leaf, pool)
		if len(found.paths) > 0 {
			break
		}
		var url string
		for _, top := range found.dead {
			for _, u := range top.IssuingCertificateURL {
				if url == "" && !seen[u] && (strings.HasPrefix(u, "http://") || strings.HasPrefix(u, "https://")) {
					url = u
				}
			}
		}
		if url == "" {
			break
		}
		seen[url] = true
		data, err := fetch(ctx, url)
		if err != nil {
			notes = append(notes, fmt.Sprintf("%s could not be fetched: %v", url, err))
			continue
		}
		got, err := parseBundle(ctx, left, []File{{Name: url, Data: data}})
		if err != nil {
			notes = append(notes, fmt.Sprintf("what was fetched is of no use: %v", err))
			continue
		}
		fetched = append(fetched, url)
		pool = append(pool, got.Certs...)
	}
	return pool, fetched, notes
}
