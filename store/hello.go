package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// SeeHello writes down that a device said hello: one row in the list of
// hellos, its hash list once per distinct list, and the device's own row. It
// decides nothing. A new device is discovered; an old one keeps its lifecycle.
// On Postgres it is one round trip once the hash list is known.
func (tx *Tx) SeeHello(ctx context.Context, h SeenHello) (Device, SeenBefore, error) {
	table, err := tx.trustTable(ctx, h.Hashes)
	if err != nil {
		return Device{}, SeenBefore{}, fmt.Errorf("hello of %s: %w", h.UUID, err)
	}
	addr := h.Address
	if !addr.IsValid() {
		addr = h.From.Addr()
	}
	addr = addr.Unmap().WithZone("")
	seen := sighting{hello: h, addr: addr, table: table}
	if tx.pg != nil {
		err = seen.postgres(ctx, tx)
	} else {
		err = seen.sqlite(ctx, tx)
	}
	if err != nil {
		return Device{}, SeenBefore{}, fmt.Errorf("hello of %s: %w", h.UUID, err)
	}
	tx.settle(&seen.old)
	old := seen.old
	if seen.fresh && seen.count > 1 {
		// Two first hellos at the same moment: the other's row is there now.
		d, err := tx.Device(ctx, h.UUID)
		return d, SeenBefore{Known: true, Previous: d}, err
	}
	d := old
	if seen.fresh {
		d = Device{UUID: h.UUID, Lifecycle: Discovered}
	}
	if d.FirstSeen.IsZero() {
		d.FirstSeen = seen.at
	}
	d.Address, d.TrustTable, d.HelloRetry, d.AdminFlag = addr, table, h.Retry, h.AdminSet
	d.LastSeen, d.HelloCount = seen.at, seen.count
	if seen.fresh {
		return d, SeenBefore{}, nil
	}
	return d, SeenBefore{Known: true, Previous: old, TrustTableChanged: old.TrustTable != table, AddressChanged: old.Address != addr}, nil
}

// A sighting is what the two engines find out each in its own way.
type sighting struct {
	hello SeenHello
	addr  netip.Addr
	table int64

	old   Device
	fresh bool
	at    time.Time
	count int
}

const insertHello = `INSERT INTO hellos (uuid, source, local, via, peer, version, retry, admin_set, pid, trust_table, extra, raw, at)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, `

func (s *sighting) record() []any {
	h := s.hello
	return []any{h.UUID, h.From, h.Local, h.Via, h.Peer, int64(h.Version), h.Retry, h.AdminSet, h.PID, s.table, h.Trailing, h.Raw}
}

// postgres sends all at once; two first hellos at the same moment meet in the
// upsert.
func (s *sighting) postgres(ctx context.Context, tx *Tx) error {
	h := s.hello
	at, atRecord := "{now}", "{now})"
	upsert := []any{h.UUID, s.addr, addressKey(s.addr), s.table, h.Retry, h.AdminSet}
	record := s.record()
	if !h.At.IsZero() {
		at, atRecord = "$7", "$13)"
		upsert, record = append(upsert, h.At), append(record, h.At)
	}
	return tx.pipeline(ctx,
		statement{q: "SELECT " + deviceColumns + " FROM devices WHERE uuid = $1 {lock}", args: []any{h.UUID}, dest: s.old.dest(), missing: &s.fresh},
		statement{q: `INSERT INTO devices (uuid, address, address_key, trust_table, hello_retry, admin_flag, first_seen, last_seen, hello_count)
			VALUES ($1, $2, $3, $4, $5, $6, ` + at + `, ` + at + `, 1)
			ON CONFLICT (uuid) DO UPDATE SET address = excluded.address, address_key = excluded.address_key, trust_table = excluded.trust_table,
				hello_retry = excluded.hello_retry, admin_flag = excluded.admin_flag, last_seen = excluded.last_seen,
				first_seen = coalesce(devices.first_seen, excluded.first_seen), hello_count = devices.hello_count + 1
			RETURNING hello_count, last_seen`, args: upsert, dest: []any{&s.count, timeOf{&s.at}}},
		statement{q: insertHello + atRecord, args: record},
	)
}

// sqlite has one writer, so what was read is still so when it is written.
func (s *sighting) sqlite(ctx context.Context, tx *Tx) error {
	h := s.hello
	s.at = tx.now
	if !h.At.IsZero() {
		s.at = millis(h.At)
	}
	var row int64
	err := tx.one(ctx, "SELECT rowid, "+deviceColumns+" FROM devices WHERE uuid = $1", []any{h.UUID}, append([]any{&row}, s.old.dest()...)...)
	args := []any{nil, s.addr, addressKey(s.addr), s.table, h.Retry, h.AdminSet, s.at}
	switch {
	case err == nil:
		s.count = s.old.HelloCount + 1
		args[0] = row
		_, err = tx.exec(ctx, `UPDATE devices SET address = $2, address_key = $3, trust_table = $4, hello_retry = $5, admin_flag = $6,
			last_seen = $7, first_seen = coalesce(first_seen, $7), hello_count = hello_count + 1 WHERE rowid = $1`, args...)
	case errors.Is(err, ErrNotFound):
		s.fresh, s.count = true, 1
		args[0] = h.UUID
		_, err = tx.exec(ctx, `INSERT INTO devices (uuid, address, address_key, trust_table, hello_retry, admin_flag, first_seen, last_seen, hello_count)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $7, 1)`, args...)
	}
	if err == nil {
		_, err = tx.exec(ctx, insertHello+"$13)", append(s.record(), s.at)...)
	}
	return err
}

// Hellos lists a device's hellos, newest first.
func (tx *Tx) Hellos(ctx context.Context, uuid amt.UUID, limit int) ([]HelloRecord, error) {
	return list(ctx, tx, func(s scanner) (HelloRecord, error) {
		var h HelloRecord
		err := s.Scan(&h.ID, &h.UUID, timeOf{&h.At}, &h.From, &h.Local, &h.Via, &h.Peer, &h.Version, &h.Retry, &h.AdminSet, &h.PID, &h.TrustTable, &h.Trailing, &h.Raw)
		return h, err
	}, `SELECT id, uuid, at, source, local, via, peer, version, retry, admin_set, pid, trust_table, extra, raw
		FROM hellos WHERE uuid = $1 ORDER BY id DESC LIMIT $2`, uuid, page(limit))
}

// TrustHashes gives a hash list in the order the device sent it. The list of a
// number never changes and is shared: it must not be written to.
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
		tx.after = append(tx.after, keep) // the number may be given again after a rollback
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

// trustTable finds or makes the row of a hash list; 0 for an empty one.
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
		all[i] = statement{q: "INSERT INTO trust_hashes (trust_table, position, algorithm, digest) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
			args: []any{id, i, int64(h.Algorithm), h.Sum}}
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return 0, fmt.Errorf("hash list: %w", err)
	}
	// Only after the commit, or a rolled-back id would be handed out.
	cache := tx.db.trust
	tx.after = append(tx.after, func() { cache.put(digest, id) })
	return id, nil
}

// A trustCache remembers the few hash lists of a fleet. An entry lasts an
// hour, so that used_at tells what may be pruned; the size is bounded since
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
