package server

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// An identity is the certificate that this server shows to devices that ask for
// one after set-up (mutual TLS). Its name comes from the device CA and its key
// from the store, so that every node has the same, whatever provisioning
// certificates come and go. The server issues its certificates as it needs them
// and renews them before their end.
type identity struct {
	ca  *certs.Authority
	key *rsa.PrivateKey
	now func() time.Time

	mu    sync.Mutex
	named map[string]*tls.Certificate
}

const (
	consoleValidity = 365 * 24 * time.Hour
	consoleRenew    = 30 * 24 * time.Hour // before its end
	// consoleNames bounds the cached names: profiles name a handful.
	consoleNames = 64
)

// under is our certificate for a name; nil if the device CA does not sign it.
func (i *identity) under(name string) *tls.Certificate {
	i.mu.Lock()
	defer i.mu.Unlock()
	name = strings.ToLower(name)
	kept := i.named[name]
	if kept != nil && i.now().Before(kept.Leaf.NotAfter.Add(-consoleRenew)) {
		return kept
	}
	c, err := i.ca.ConsoleFor(i.key, name, i.now(), consoleValidity)
	if err != nil {
		return kept // a certificate near its end is better than none
	}
	if len(i.named) >= consoleNames {
		clear(i.named)
	}
	i.named[name] = c
	return c
}

// Console is the certificate that this server shows to devices after setup, and
// the root under which they accept it.
func (t *Trust) Console() (*tls.Certificate, []byte) {
	return t.identity.under(t.ca.ConsoleName()), t.ca.Certificate().Raw
}

// ConsoleAs is our certificate for another name, for devices that got names
// without ours from an earlier release: the device lets that name in, and
// believes our device CA.
func (t *Trust) ConsoleAs(name string) *tls.Certificate { return t.identity.under(name) }

const consoleKeySetting = "console_key"

// consoleKey loads the key of our identity, or makes it once for all nodes.
func consoleKey(ctx context.Context, db *store.DB) (*rsa.PrivateKey, error) {
	sealed, err := madeOnce(ctx, db, consoleKeySetting, func() (amt.Secret, error) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return amt.Secret{}, err
		}
		return certs.KeySecret(key)
	})
	if err != nil {
		return nil, fmt.Errorf("the key with which this server logs in at devices: %w", err)
	}
	return certs.ConsoleKey(sealed)
}

// madeOnce reads a sealed setting, or makes it at the very first start. If
// several nodes make it at once, the first to store it wins.
func madeOnce(ctx context.Context, db *store.DB, key string, make func() (amt.Secret, error)) (found amt.Secret, err error) {
	read := func(tx *store.Tx) (err error) {
		found, err = tx.SealedSetting(ctx, key)
		return err
	}
	if err = db.Read(ctx, read); !errors.Is(err, store.ErrNotFound) {
		return found, err
	}
	made, err := make()
	if err != nil {
		return found, err
	}
	err = db.Write(ctx, func(tx *store.Tx) error { return tx.CreateSealedSetting(ctx, key, made) })
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return found, err
	}
	return found, db.Read(ctx, read)
}

// mostFormer bounds the provisioning certificates whose names earlier releases
// may have used for us.
const mostFormer = 4

// toldNames are the console names that a version of the device's profile may
// have told it, and those of provisioning certificates, since an earlier
// release logged in under one of these and told its devices to let it in.
func (s *Server) toldNames(ctx context.Context, d store.Device, run string) (names []string, err error) {
	var former []string
	for _, p := range s.Trust.All() {
		former = append(former, p.Name)
	}
	err = s.DB.Read(ctx, func(tx *store.Tx) error {
		kept, err := tx.Certificates(ctx) // also those out of use
		if err != nil {
			return err
		}
		for _, c := range kept {
			if !slices.Contains(former, c.Name) {
				former = append(former, c.Name)
			}
		}
		former = former[:min(mostFormer, len(former))]
		for _, name := range []string{d.Profile, run, "default"} {
			if name == "" {
				continue
			}
			versions, err := tx.ProfileVersions(ctx, name)
			if err != nil {
				return err
			}
			for _, v := range versions {
				var p profile.Profile
				if json.Unmarshal(v.Document, &p) == nil && p.TLS == profile.TLSMutual {
					names = append(names, p.TrustedCN...)
				}
			}
			own, err := readOwnProfile(ctx, tx, name)
			if err != nil {
				return err
			}
			names = append(names, own.Trusted...)
		}
		return nil
	})
	for _, n := range former {
		names = append(names, strings.Replace(strings.ToLower(n), "*.", "provisiond.", 1))
	}
	return names, err
}

// servesDomain reports whether a device's name may be in a domain, and whether
// our device CA signs for it: one of the configured zones, of the domains
// beside them, or of those of the provisioning certificates in use.
func (s *Server) servesDomain(domain string) bool {
	domain = strings.ToLower(strings.Trim(domain, "."))
	for _, list := range [][]string{s.o.Zones, s.o.OtherDomains} {
		for _, z := range list {
			if z = strings.ToLower(strings.Trim(z, ".")); domain == z || strings.HasSuffix(domain, "."+z) {
				return true
			}
		}
	}
	for _, p := range s.Trust.All() {
		if certs.ServesDomain(p.Names, domain) {
			return true
		}
	}
	return false
}
