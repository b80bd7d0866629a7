package desk

import (
	"context"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Question is what a check asks.
type Question struct {
	Version amt.Version // of the firmware to play
	Suffix  string      // its DNS suffix
	// RootAdded plays a device that was given the root's hash by USB, in MEBx
	// or by its maker.
	RootAdded bool
}

// Verdict is a simulated device's answer to a real handshake.
type Verdict = api.CertificateVerdict

// checkTime bounds a check; a handshake that firmware refuses by silence ends so.
const checkTime = 30 * time.Second

// CheckCertificate plays a device of a generation: a real mutual-TLS handshake
// on this machine. seen: recorded devices of this age announced the root.
type CheckCertificate func(ctx context.Context, p *certs.Provisioning, q Question, seen bool) (Verdict, error)

// Prove asks a simulated device for its answer to a certificate.
func (d *Desk) Prove(ctx context.Context, id string, q Question) (Verdict, error) {
	if d.Check == nil {
		return Verdict{}, refused("this server has no simulated devices to check with")
	}
	all, err := d.List(ctx)
	if err != nil {
		return Verdict{}, err
	}
	e, err := find(all, id)
	if err != nil {
		return Verdict{}, err
	}
	devices, trusting, err := d.trusting(ctx, e.Provisioning, q.Version.Major)
	if err != nil {
		return Verdict{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	v, err := d.Check(ctx, e.Provisioning, q, trusting > 0)
	if err != nil {
		return v, fmt.Errorf("check certificate %s: %w", e.ID, err)
	}
	v.Devices, v.Trusting, v.Certificate = devices, trusting, e.ID
	return v, nil
}

// trusting counts recorded devices of an AMT major release, and those of them
// that announced a root of the certificate.
func (d *Desk) trusting(ctx context.Context, p *certs.Provisioning, major int) (devices, trusting int, err error) {
	roots := map[string]bool{}
	for _, path := range p.Paths {
		for _, h := range path.RootHashes {
			roots[h.String()] = true
		}
	}
	err = d.DB.Read(ctx, func(tx *store.Tx) error {
		groups, err := tx.FleetGroups(ctx)
		if err != nil {
			return err
		}
		tables, err := tx.TrustTables(ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.Version.Major != major {
				continue
			}
			devices += g.Devices
			for _, h := range tables[g.Table] {
				if roots[h.String()] {
					trusting += g.Devices
					break
				}
			}
		}
		return nil
	})
	return devices, trusting, err
}
