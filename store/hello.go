package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// SeeHello records a hello that the device itself sent. A new device becomes
// discovered; a known one keeps its lifecycle.
func (tx *Tx) SeeHello(ctx context.Context, h SeenHello) (Device, SeenBefore, error) {
	a, err := first(tx.ReadArrivals(ctx, []SeenHello{h}))
	if err == nil {
		err = tx.WriteOutcomes(ctx, []Outcome{{Arrival: a, FQDN: a.Device.FQDN, Profile: a.Device.Profile}})
	}
	return a.Device, a.Before, about(err, "hello of %s", h.UUID)
}

// Hellos lists a device's hellos, newest first.
func (tx *Tx) Hellos(ctx context.Context, uuid amt.UUID, limit int) ([]HelloRecord, error) {
	return list(ctx, tx, func(s scanner) (HelloRecord, error) {
		var h HelloRecord
		err := s.Scan(&h.ID, &h.UUID, timeOf{&h.At}, &h.From, &h.Local, &h.Via, &h.Peer, &h.Version, &h.Retry, &h.AdminSet, &h.PID,
			&h.TrustTable, &h.Trailing, &h.Raw)
		return h, err
	}, `SELECT id, uuid, at, source, local, via, peer, version, retry, admin_set, pid, trust_table, extra, raw
		FROM hellos WHERE uuid = $1 ORDER BY id DESC LIMIT $2`, uuid, page(limit))
}

// WasSent reports whether a run sent the device a password that it may hold.
func (tx *Tx) WasSent(ctx context.Context, uuid amt.UUID) (bool, error) {
	return tx.exists(ctx, "credentials WHERE uuid = $1 AND sent_at IS NOT NULL", uuid)
}

// Claimed lists devices in whose name somebody said hello elsewhere and that no
// run works on, those that wait longest first.
func (tx *Tx) Claimed(ctx context.Context, limit int) ([]Device, error) {
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+` FROM devices WHERE claim_due IS NOT NULL AND claim_due <= {now}
		AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.uuid = devices.uuid AND r.state IN ('queued', 'running')) ORDER BY claim_due LIMIT $1`,
		page(limit))
}

// TrustHashes returns a hash list in the order the device sent it. The list of
// an id never changes, and callers share it: they must not write to it.
func (tx *Tx) TrustHashes(ctx context.Context, table int64) ([]amt.TrustHash, error) {
	cache := tx.db.trust
	if hashes, ok := cache.list(table); ok {
		return hashes, nil
	}
	hashes, err := tx.trustHashes(ctx, table)
	if err != nil || len(hashes) == 0 {
		return hashes, err
	}
	keep := func() { cache.keep(table, hashes) }
	if tx.write {
		tx.after = append(tx.after, keep) // after a rollback the id may get another list
	} else {
		keep()
	}
	return hashes, nil
}

func (tx *Tx) trustHashes(ctx context.Context, table int64) ([]amt.TrustHash, error) {
	return list(ctx, tx, func(s scanner) (amt.TrustHash, error) {
		var h amt.TrustHash
		var alg int
		err := s.Scan(&alg, &h.Sum)
		h.Algorithm = amt.HashAlgorithm(alg)
		return h, err
	}, "SELECT algorithm, digest FROM trust_hashes WHERE trust_table = $1 ORDER BY position", table)
}

// trustDigest names a hash list: the same hashes in the same order.
func trustDigest(hashes []amt.TrustHash) [sha256.Size]byte {
	n := 0
	for _, h := range hashes {
		n += 2 + len(h.Sum)
	}
	b := make([]byte, 0, n)
	for _, h := range hashes {
		b = append(b, byte(h.Algorithm), byte(len(h.Sum)))
		b = append(b, h.Sum...)
	}
	return sha256.Sum256(b)
}

// trustTable finds or makes the row of a hash list; 0 for an empty list.
func (tx *Tx) trustTable(ctx context.Context, hashes []amt.TrustHash) (int64, error) {
	if len(hashes) == 0 {
		return 0, nil
	}
	digest := trustDigest(hashes)
	if id, ok := tx.db.trust.get(digest); ok {
		return id, nil
	}
	var id int64
	err := tx.one(ctx, `INSERT INTO trust_tables (digest, hashes, first_seen, used_at) VALUES ($1, $2, {now}, {now})
		ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at RETURNING id`, []any{digest[:], len(hashes)}, &id)
	if err != nil {
		return 0, fmt.Errorf("hash list: %w", err)
	}
	all := make([]statement, len(hashes))
	for i, h := range hashes {
		all[i] = statement{q: "INSERT INTO trust_hashes (trust_table, position, algorithm, digest) VALUES ($1, $2, $3, $4) ON CONFLICT " +
			"DO " +
			"NOTHING",
			args: []any{id, i, int64(h.Algorithm), h.Sum}}
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return 0, fmt.Errorf("hash list: %w", err)
	}
	// Cache only after the commit, or other transactions would use an id that was
	// rolled back.
	cache := tx.db.trust
	tx.after = append(tx.after, func() { cache.put(digest, id) })
	return id, nil
}

// A trustCache remembers the few hash lists of a fleet. An entry lasts an hour,
// so that used_at tells what Prune may remove. The size is bounded, since
// anybody can send a list of their own.
type trustCache struct {
	mu    sync.RWMutex
	m     map[[sha256.Size]byte]trustEntry
	lists map[int64][]amt.TrustHash
}

type trustEntry struct {
	id    int64
	until time.Time
}

const (
	trustCacheSize = 4096
	trustCacheAge  = time.Hour
)

func newTrustCache() *trustCache {
	return &trustCache{m: map[[sha256.Size]byte]trustEntry{}, lists: map[int64][]amt.TrustHash{}}
}

func (c *trustCache) list(id int64) ([]amt.TrustHash, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l, ok := c.lists[id]
	return l, ok
}

func (c *trustCache) keep(id int64, l []amt.TrustHash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lists) >= trustCacheSize {
		clear(c.lists)
	}
	c.lists[id] = slices.Clip(l)
}

func (c *trustCache) get(d [sha256.Size]byte) (int64, bool) {
	c.mu.RLock()
	e, ok := c.m[d]
	c.mu.RUnlock()
	return e.id, ok && time.Now().Before(e.until)
}

func (c *trustCache) put(d [sha256.Size]byte, id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= trustCacheSize {
		clear(c.m)
	}
	c.m[d] = trustEntry{id, time.Now().Add(trustCacheAge)}
}
