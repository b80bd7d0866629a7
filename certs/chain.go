package certs

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"slices"

	"github.com/provisiond/provisiond/amt"
)

// Bounds of the search. Cross-signed hierarchies seen in the field have two or
// three paths of at most five certificates; a hostile bundle could have any
// number.
const (
	maxDepth = 10
	maxPaths = 16
	maxSteps = 4096
	maxPool  = 512
	maxTests = 1024 // signatures: under half a second of one core
)

// search is what walking up from a leaf found.
type search struct {
	paths   []Path
	dead    []*x509.Certificate // tops of the walks that ended without a root
	broken  []*x509.Certificate // issuers by name whose key did not make the signature
	unknown []*x509.Certificate // roots whose own signature cannot be checked (MD2, MD5)
	circle  bool                // issuers certify each other, back to where a walk came from
	bounded bool                // a limit was hit
}

// findPaths walks from leaf to every self-signed root that pool reaches. The
// answer depends on the set of certificates only, not on order or repeats.
func findPaths(leaf *x509.Certificate, pool []*x509.Certificate) search {
	w := walker{checks: map[[2]*x509.Certificate]signature{}, bySubject: map[string][]*x509.Certificate{}}
	certs := distinct(pool)
	if len(certs) > maxPool {
		certs, w.found.bounded = related(leaf, certs), true
	}
	for _, c := range certs {
		if mayIssue(c) {
			w.bySubject[string(c.RawSubject)] = append(w.bySubject[string(c.RawSubject)], c)
		}
	}
	w.walk([]*x509.Certificate{leaf})
	slices.SortStableFunc(w.found.paths, comparePaths)
	w.found.dead = distinct(w.found.dead)
	w.found.broken = distinct(w.found.broken)
	w.found.unknown = distinct(w.found.unknown)
	return w.found
}

type walker struct {
	bySubject map[string][]*x509.Certificate
	checks    map[[2]*x509.Certificate]signature
	found     search
	steps     int
}

func (w *walker) walk(path []*x509.Certificate) {
	if w.steps++; w.steps > maxSteps || len(w.found.paths) >= maxPaths {
		w.found.bounded = true
		return
	}
	top := path[len(path)-1]
	if selfIssued(top) {
		switch w.check(top, top) {
		case signatureUnknown:
			w.found.unknown = append(w.found.unknown, top)
			fallthrough
		case signatureGood:
			w.found.paths = append(w.found.paths, Path{Certs: slices.Clone(path), RootHashes: amt.HashesOf(top.Raw)})
			return
		}
		// A self-issued certificate of a renewed key: its issuer may be here.
	}
	if len(path) >= maxDepth {
		w.found.bounded = true
		return
	}
	climbed, turned := false, false
	for _, issuer := range w.bySubject[string(top.RawIssuer)] {
		if slices.ContainsFunc(path, func(c *x509.Certificate) bool { return sameEntity(c, issuer) }) {
			w.found.circle, turned = true, true
			continue // the same name and key twice is a cycle of cross-signatures
		}
		switch w.check(top, issuer) {
		case signatureGood, signatureUnknown:
			climbed = true
			w.walk(append(slices.Clone(path), issuer))
		case signatureBad:
			w.found.broken = append(w.found.broken, issuer)
		}
	}
	if !climbed && !turned {
		w.found.dead = append(w.found.dead, top)
	}
}

func (w *walker) check(c, issuer *x509.Certificate) signature {
	k := [2]*x509.Certificate{c, issuer}
	s, ok := w.checks[k]
	if !ok && len(w.checks) >= maxTests {
		w.found.bounded = true
		return signatureUnasked
	}
	if !ok {
		s = checkSignature(c, issuer)
		w.checks[k] = s
	}
	return s
}

type signature int

const (
	signatureGood signature = iota
	signatureBad
	signatureUnknown // an algorithm nobody can check any more
	signatureUnasked // too many were checked before it
)

// checkSignature verifies that issuer's key signed c. crypto/x509 refuses
// SHA-1 since Go 1.24, but old firmware knows nothing else, so that one is done
// by hand. This checks our own files; it decides nothing about a peer.
func checkSignature(c, issuer *x509.Certificate) signature {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.UnknownSignatureAlgorithm:
		return signatureUnknown
	case x509.SHA1WithRSA:
		key, ok := issuer.PublicKey.(*rsa.PublicKey)
		if !ok {
			return signatureBad
		}
		sum := sha1.Sum(c.RawTBSCertificate)
		if rsa.VerifyPKCS1v15(key, crypto.SHA1, sum[:], c.Signature) != nil {
			return signatureBad
		}
		return signatureGood
	}
	// The issuer's own flags were looked at in mayIssue; here only the key counts.
	bare := &x509.Certificate{PublicKey: issuer.PublicKey, PublicKeyAlgorithm: issuer.PublicKeyAlgorithm}
	if bare.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
		return signatureBad
	}
	return signatureGood
}

func selfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// mayIssue leaves out what says of itself that it is no CA. Roots of the
// nineties say nothing at all.
func mayIssue(c *x509.Certificate) bool { return !c.BasicConstraintsValid || c.IsCA }

func sameEntity(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubject, b.RawSubject) && bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// comparePaths puts the shortest first (a four-certificate chain has failed
// where three worked, amt/protocol.md 3.2), then the one that is valid longest.
func comparePaths(a, b Path) int {
	if c := cmp.Compare(len(a.Certs), len(b.Certs)); c != 0 {
		return c
	}
	if c := shortestLife(b).Compare(shortestLife(a)); c != 0 {
		return c
	}
	for i := range a.Certs {
		if c := bytes.Compare(a.Certs[i].Raw, b.Certs[i].Raw); c != 0 {
			return c
		}
	}
	return 0
}

// distinct drops repeats and sorts, so that order of input cannot matter.
func distinct(certs []*x509.Certificate) []*x509.Certificate {
	out := slices.DeleteFunc(slices.Clone(certs), func(c *x509.Certificate) bool { return c == nil })
	slices.SortFunc(out, func(a, b *x509.Certificate) int { return bytes.Compare(a.Raw, b.Raw) })
	return slices.CompactFunc(out, func(a, b *x509.Certificate) bool { return bytes.Equal(a.Raw, b.Raw) })
}

// related keeps what names alone connect to leaf, so that a bundle with
// thousands of strangers still gives the right chain.
func related(leaf *x509.Certificate, certs []*x509.Certificate) []*x509.Certificate {
	bySubject := map[string][]*x509.Certificate{}
	for _, c := range certs {
		bySubject[string(c.RawSubject)] = append(bySubject[string(c.RawSubject)], c)
	}
	var out []*x509.Certificate
	seen := map[string]bool{}
	todo := []string{string(leaf.RawIssuer)}
	for len(todo) > 0 && len(out) < maxPool {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		for _, c := range bySubject[name] {
			out = append(out, c)
			todo = append(todo, string(c.RawIssuer))
		}
	}
	return distinct(out)
}
