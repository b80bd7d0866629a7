package store

import (
	"context"

	"github.com/provisiond/provisiond/amt"
)

// FleetGroup counts devices that agree in everything that decides which
// provisioning certificate fits.
type FleetGroup struct {
	Table   int64       // id of the hash list they announced last
	Version amt.Version // zero: unknown
	Suffix  string
	Devices int
	Waiting int // how many of them are not under management yet
}

// waitingFor are the lifecycles of devices that still need a provisioning
// certificate.
const waitingFor = `('discovered', 'pending_approval', 'pending_identity', 'pending_certificate', 'queued', 'provisioning', 'verifying',
	'failed', 'dormant')`

// FleetGroups counts all devices that announced a list of hashes, except
// retired ones.
func (tx *Tx) FleetGroups(ctx context.Context) ([]FleetGroup, error) {
	out, err := list(ctx, tx, func(s scanner) (g FleetGroup, err error) {
		err = s.Scan(&g.Table, versionOf{&g.Version}, &g.Suffix, &g.Devices, &g.Waiting)
		return g, err
	}, `SELECT trust_table, amt_version, suffix, count(*), sum(CASE WHEN lifecycle IN `+waitingFor+` THEN 1 ELSE 0 END)
		FROM devices WHERE trust_table <> 0 AND lifecycle <> 'retired' GROUP BY trust_table, amt_version, suffix`)
	return out, about(err, "count the fleet by trust table")
}

// SuffixGroup counts devices by DNS suffix and release.
type SuffixGroup struct {
	Suffix  string      // the suffix the device reported, else the domain of its name
	Version amt.Version // zero: unknown
	Devices int
}

// SuffixGroups counts all devices whose DNS suffix or domain is known, except
// retired ones.
func (tx *Tx) SuffixGroups(ctx context.Context) ([]SuffixGroup, error) {
	out, err := list(ctx, tx, func(s scanner) (g SuffixGroup, err error) {
		err = s.Scan(&g.Suffix, versionOf{&g.Version}, &g.Devices)
		return g, err
	}, `SELECT s, amt_version, count(*) FROM (SELECT CASE WHEN suffix <> '' THEN suffix ELSE domain END AS s, amt_version FROM devices
		WHERE lifecycle <> 'retired') AS known
		WHERE s <> '' GROUP BY s, amt_version ORDER BY s, amt_version`)
	return out, about(err, "count the fleet by DNS suffix")
}

// TrustTables reads every distinct list of hashes that a device announced.
func (tx *Tx) TrustTables(ctx context.Context) (map[int64][]amt.TrustHash, error) {
	out := map[int64][]amt.TrustHash{}
	err := tx.each(ctx, func(s scanner) error {
		var id int64
		var h amt.TrustHash
		var alg int
		if err := s.Scan(&id, &alg, &h.Sum); err != nil {
			return err
		}
		h.Algorithm = amt.HashAlgorithm(alg)
		out[id] = append(out[id], h)
		return nil
	}, "SELECT trust_table, algorithm, digest FROM trust_hashes ORDER BY trust_table, position LIMIT 1000000")
	return out, about(err, "read the trust tables")
}

// DevicesOfGroup lists some devices of a group: the waiting ones, or the
// others.
func (tx *Tx) DevicesOfGroup(ctx context.Context, g FleetGroup, waiting bool, limit int) ([]amt.UUID, error) {
	which := "NOT IN "
	if waiting {
		which = "IN "
	}
	version := ""
	if !g.Version.IsZero() {
		version = g.Version.String()
	}
	out, err := list(ctx, tx, scanUUID, "SELECT uuid FROM devices WHERE trust_table = $1 AND amt_version = $2 AND suffix = $3 AND "+
		"lifecycle <> 'retired' AND lifecycle "+
		which+waitingFor+" LIMIT $4",
		g.Table, version, g.Suffix, limit)
	return out, about(err, "name devices")
}
