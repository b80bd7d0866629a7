package certs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// crossSigned names, for a root of KnownRoots, older roots that have certified
// its key as well. The cross-certificate is published by the CA; with it in the
// bundle, the same leaf can be shown to devices that know the older root only.
// The first two are amt/protocol.md 3.5; the rest is what the CAs' repositories list.
var crossSigned = map[string][]string{
	"Go Daddy Root CA - G2":                         {"Go Daddy Class 2 CA"},
	"USERTrust RSA CA":                              {"Comodo AAA Certificate Services"},
	"Starfield Root CA - G2":                        {"Starfield Class 2 CA"},
	"COMODO RSA CA":                                 {"Comodo AAA Certificate Services"},
	"Entrust Root CA - G2":                          {"Entrust Root CA"},
	"GlobalSign Root CA - R6":                       {"GlobalSign Root CA - R3"},
	"Sectigo Public Server Authentication Root R46": {"USERTrust RSA CA"},
}

// bridge says which cross-certificate would let one of our certificates be
// trusted by a device, or nothing. The sentence starts with a semicolon.
func bridge(all []*Provisioning, announced []amt.TrustHash) string {
	trusted := map[string]bool{}
	for _, h := range announced {
		if name, ok := RootName(h); ok {
			trusted[name] = true
		}
	}
	var out []string
	for _, p := range all {
		for _, path := range p.Paths {
			root, ok := rootOf(path)
			if !ok {
				continue
			}
			if older := climb(root.Name, trusted); older != "" {
				s := fmt.Sprintf("%s has also certified %s, and the device trusts it: import that cross-certificate from the CA's "+
					"repository beside %s", older, root.Name, p.Name)
				if !slices.Contains(out, s) {
					out = append(out, s)
				}
			}
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "; " + strings.Join(out, "; ")
}

// climb follows crossSigned up to a root the device trusts.
func climb(name string, trusted map[string]bool) string {
	for _, older := range crossSigned[name] {
		if trusted[older] {
			return older
		}
		if found := climb(older, trusted); found != "" {
			return found
		}
	}
	return ""
}
