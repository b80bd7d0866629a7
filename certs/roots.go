package certs

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// Root is what is known of a root certificate without holding it. Digests are
// lower-case hexadecimal over its DER, empty when not known.
type Root struct {
	Name     string
	Since    string // the firmware release that first carried it; "" not known
	Embedded bool   // some AMT firmware has been seen to carry it
	Early    bool   // listed for AMT 2.2 to 6, which know roots by SHA-1
	Weak     bool   // signed itself with SHA-1 or older: AMT 15 desktop and 16 onward refuse it
	Curve    bool   // elliptic-curve key
	SHA1     string
	SHA256   string
	SHA384   string
}

// rootsByDigest is keyed by TrustHash.String.
var rootsByDigest = func() map[string]Root {
	m := make(map[string]Root, 3*len(knownRoots))
	for _, r := range knownRoots {
		for alg, sum := range map[amt.HashAlgorithm]string{amt.SHA1: r.SHA1, amt.SHA256: r.SHA256, amt.SHA384: r.SHA384} {
			if sum != "" {
				m[alg.String()+":"+sum] = r
			}
		}
	}
	return m
}()

// LookupRoot finds a root by any of its digests.
func LookupRoot(h amt.TrustHash) (Root, bool) {
	r, ok := rootsByDigest[h.String()]
	return r, ok
}

// RootName names a root by any of its digests, as firmware menus and vendors
// name it.
func RootName(h amt.TrustHash) (string, bool) {
	r, ok := LookupRoot(h)
	return r.Name, ok
}

// KnownRoots lists every root that can be named, those of firmware first.
func KnownRoots() []Root { return append([]Root(nil), knownRoots...) }

// Hashes lists the digests that are known, strongest first.
func (r Root) Hashes() []amt.TrustHash {
	var out []amt.TrustHash
	for _, d := range []struct {
		alg amt.HashAlgorithm
		sum string
	}{{amt.SHA384, r.SHA384}, {amt.SHA256, r.SHA256}, {amt.SHA1, r.SHA1}} {
		if b, err := hex.DecodeString(d.sum); err == nil && len(b) > 0 {
			out = append(out, amt.TrustHash{Algorithm: d.alg, Sum: b})
		}
	}
	return out
}

// rootOf finds what is known of a path's root by any digest.
func rootOf(p Path) (Root, bool) {
	for _, h := range p.RootHashes {
		if r, ok := LookupRoot(h); ok {
			return r, true
		}
	}
	return Root{}, false
}

// DescribeHashes says in words which roots a device announced: names where they
// are known, a count of the rest. At most limit names; 0 means all.
func DescribeHashes(announced []amt.TrustHash, limit int) string {
	var names []string
	seen := map[string]bool{}
	strangers := 0
	for _, h := range announced {
		n, ok := RootName(h)
		switch {
		case !ok:
			strangers++
		case !seen[n]:
			seen[n] = true
			names = append(names, n)
		}
	}
	more := 0
	if limit > 0 && len(names) > limit {
		more = len(names) - limit
		names = names[:limit]
	}
	if more > 0 {
		names = append(names, fmt.Sprintf("%d more that are known", more))
	}
	if strangers > 0 {
		names = append(names, fmt.Sprintf("%d not known by name", strangers))
	}
	return strings.Join(names, ", ")
}
