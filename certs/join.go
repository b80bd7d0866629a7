package certs

import (
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
	leaf, key, request, err := pick(b, o.Pending)
	if err != nil {
		return nil, nil, err
	}
	pool := append(slices.Clone(b.Certs), o.Known...)
	p := newProvisioning(leaf, key, pool, o.Now)
	var fetched []string
	if o.Fetch != nil && len(p.Paths) == 0 {
		var notes []string
		pool, fetched, notes = fetchIssuers(ctx, leaf, pool, o.Fetch)
		p = newProvisioning(leaf, key, pool, o.Now)
		for _, n := range notes {
			p.Findings = append(p.Findings, Finding{Code: reason.ChainIncomplete, Severity: SeverityInfo, Detail: n})
		}
	}
	r := newReport(p, b, request, o.Now)
	r.Fetched = fetched
	return p, r, nil
}

// pick chooses leaf and key.
func pick(b *Bundle, pending []Pending) (*x509.Certificate, crypto.Signer, *Pending, error) {
	type match struct {
		leaf    *x509.Certificate
		key     crypto.Signer
		request *Pending
	}
	var matches []match
	var taken []crypto.PublicKey
	add := func(key crypto.Signer, request *Pending) error {
		if slices.ContainsFunc(taken, func(have crypto.PublicKey) bool { return samePublicKey(have, key.Public()) }) {
			return nil
		}
		if !slices.ContainsFunc(b.Certs, func(c *x509.Certificate) bool { return samePublicKey(c.PublicKey, key.Public()) }) {
			return nil
		}
		taken = append(taken, key.Public())
		leaf, err := leafFor(key, b.Certs)
		if err != nil {
			return err
		}
		matches = append(matches, match{leaf, key, request})
		return nil
	}
	// Requests first: a key that is in both stays tied to its request.
	for i := range pending {
		if pending[i].Key == nil {
			continue // its key could not be unsealed; noKey still names it
		}
		if err := add(pending[i].Key, &pending[i]); err != nil {
			return nil, nil, nil, err
		}
	}
	for _, k := range b.Keys {
		if err := add(k, nil); err != nil {
			return nil, nil, nil, err
		}
	}
	switch len(matches) {
	case 1:
		return matches[0].leaf, matches[0].key, matches[0].request, nil
	case 0:
		return nil, nil, nil, noKey(b, pending)
	}
	var names []string
	for _, m := range matches {
		names = append(names, fmt.Sprintf("%s until %s", nameOf(m.leaf), day(m.leaf.NotAfter)))
	}
	return nil, nil, nil, reason.Because(reason.CertAmbiguous, "%d certificates here have a private key: %s; import one at a time", len(matches), strings.Join(names, ", "))
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
		return reason.Because(reason.CertInputInvalid, "there is a private key here and no certificate")
	case len(b.Keys) > 0:
		return reason.Because(reason.CertKeyMismatch, "the private key belongs to none of the certificates here: %s", namesIn(b.Certs))
	case len(leaves) == 0 && len(selfSigned) > 0:
		return reason.Because(reason.CertSelfSigned, "%s signed itself; a certificate that a CA issued is needed", strings.Join(selfSigned, ", "))
	case len(leaves) == 0:
		return reason.Because(reason.CertInputInvalid, "only CA certificates are here (%s); the certificate itself is missing", namesIn(b.Certs))
	}
	if len(pending) == 0 {
		return reason.Because(reason.CertPrivateKeyMissing, "the private key of %s is not here, and no request is pending: import a PFX that holds it", strings.Join(leaves, ", "))
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
	return reason.Because(reason.CertPrivateKeyMissing, "no pending request has the public key of %s; pending are: %s. It was made elsewhere: import a PFX with its key, or order again with one of these requests",
		strings.Join(leaves, ", "), strings.Join(list, "; "))
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
func fetchIssuers(ctx context.Context, leaf *x509.Certificate, pool []*x509.Certificate, fetch Fetch) (all []*x509.Certificate, fetched, notes []string) {
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
		got, err := ParseBundle([]File{{Name: url, Data: data}})
		if err != nil {
			notes = append(notes, fmt.Sprintf("what was fetched is of no use: %v", err))
			continue
		}
		fetched = append(fetched, url)
		pool = append(pool, got.Certs...)
	}
	return pool, fetched, notes
}
