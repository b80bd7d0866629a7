package store

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// Revoke takes the device away from the run that works on it: the fence grows,
// so that the run's next write fails and it stops. Revoke leaves the lease to
// run out, so that nobody else begins while the run's last request may be on
// its way. It reports whether a run had the device.
func (tx *Tx) Revoke(ctx context.Context, uuid amt.UUID) (bool, error) {
	n, err := tx.exec(ctx, "UPDATE devices SET fence = fence + 1, owner = '' WHERE uuid = $1 AND owner <> ''", uuid)
	return n > 0, about(err, "revoke the lease on %s", uuid)
}

// StopRun ends a live run for good, even while a worker is on it: the store
// refuses the worker's next write, and the worker sends nothing after that.
func (tx *Tx) StopRun(ctx context.Context, uuid amt.UUID, runID int64, why string) error {
	if _, err := tx.Revoke(ctx, uuid); err != nil {
		return err
	}
	return tx.FinishRun(ctx, runID, RunCancelled, reason.Cancelled, why, string(reason.ThePolicy))
}

// waitingStates are the lifecycles of devices that still need their setup
// window.
const waitingStates = "'discovered', 'pending_approval', 'pending_identity', 'pending_certificate', 'queued', 'failed'"

// ClosingWindows lists devices not set up yet whose setup window ends within a
// time and whose timeline does not say so yet, the next to close first.
func (tx *Tx) ClosingWindows(ctx context.Context, within time.Duration, limit int) ([]Device, error) {
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+" FROM devices WHERE lifecycle IN ("+waitingStates+`)
		AND window_until > {now} AND window_until <= {now+$1}
		AND NOT EXISTS (SELECT 1 FROM events e WHERE e.uuid = devices.uuid AND e.name = 'setup_window_closing' AND e.at >= `+
		tx.shifted("devices.window_until", "$2")+`)
		ORDER BY window_until LIMIT $3`, within.Milliseconds(), -within.Milliseconds(), page(limit))
}

// CountClosing counts devices not set up yet whose window ends within a time.
func (tx *Tx) CountClosing(ctx context.Context, within time.Duration) (int, error) {
	var n int
	err := tx.one(ctx, "SELECT count(*) FROM devices WHERE lifecycle IN ("+waitingStates+
		") AND window_until > {now} AND window_until <= {now+$1}",
		[]any{within.Milliseconds()}, &n)
	return n, err
}

// ExpiredWindows lists devices not set up yet whose window ended at least since
// ago, that no run works on and that hold no password of ours. A device that
// was sent a password may have committed it, and then its window does not
// matter.
func (tx *Tx) ExpiredWindows(ctx context.Context, since time.Duration, limit int) ([]Device, error) {
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+" FROM devices WHERE lifecycle IN ("+waitingStates+`)
		AND window_until <= {now+$1} AND owner = ''
		AND NOT EXISTS (SELECT 1 FROM credentials c WHERE c.uuid = devices.uuid AND c.state = 'candidate' AND c.sent_at IS NOT NULL)
		ORDER BY window_until LIMIT $2`, -since.Milliseconds(), page(limit))
}

// shifted is the SQL for a time column plus milliseconds.
func (tx *Tx) shifted(column, ms string) string {
	if tx.pg != nil {
		return "(" + column + " + CAST(" + ms + " AS bigint) * interval '1 millisecond')"
	}
	return "(" + column + " + " + ms + ")"
}

// DueForIdentity lists devices whose name a node should look up now.
func (tx *Tx) DueForIdentity(ctx context.Context, limit int) ([]Device, error) {
	return list(ctx, tx, tx.scanDevice, "SELECT "+deviceColumns+` FROM devices WHERE lifecycle = 'pending_identity'
		AND (next_retry IS NULL OR next_retry <= {now}) ORDER BY next_retry LIMIT $1`, page(limit))
}

// SetNextRetry sets when a node looks at the device again, without an event.
func (tx *Tx) SetNextRetry(ctx context.Context, uuid amt.UUID, at time.Time) error {
	n, err := tx.exec(ctx, "UPDATE devices SET next_retry = $2 WHERE uuid = $1", uuid, at)
	return touched(n, err, ErrNotFound)
}

// TakeTurns serialises transactions that use the same name, until commit. SQLite
// has one writer anyway.
func (tx *Tx) TakeTurns(ctx context.Context, name string) error {
	if tx.pg == nil {
		return nil
	}
	h := fnv.New64a()
	h.Write([]byte("network " + name)) // the prefix that nodes of earlier releases use
	var void any
	return tx.one(ctx, "SELECT 1 FROM (SELECT pg_advisory_xact_lock($1)) AS l", []any{int64(h.Sum64())}, &void)
}

// Leases counts the leases that last: those in a network, or all if the network
// is not valid.
func (tx *Tx) Leases(ctx context.Context, network netip.Prefix) (int, error) {
	var n int
	q, args := "SELECT count(*) FROM devices WHERE owner <> '' AND lease_until > {lease}", []any(nil)
	if network.IsValid() {
		lo, hi := networkRange(network)
		q, args = q+" AND address_key >= $1 AND address_key <= $2", []any{lo, hi}
	}
	err := tx.one(ctx, q, args, &n)
	return n, err
}

// AuthorisationOf finds the list's entry for exactly this kind and value,
// expired or not.
func (tx *Tx) AuthorisationOf(ctx context.Context, kind, value string) (AuthorisedDevice, error) {
	v, err := first(ours(ctx, tx, tx.ourEntry, "SELECT "+authorisedColumns+" FROM authorised_devices WHERE kind = $1 AND value = $2", kind,
		strings.ToLower(value)))
	return v, about(err, "authorisation of %s %s", kind, value)
}

// Names lists a page of the assigned names, by UUID.
func (tx *Tx) Names(ctx context.Context, after amt.UUID, limit int) ([]Name, error) {
	return tx.names(ctx, "SELECT "+nameColumns+" FROM names WHERE uuid > $1 ORDER BY uuid LIMIT $2", after, page(limit))
}

// DeleteName forgets the name assigned to a UUID.
func (tx *Tx) DeleteName(ctx context.Context, uuid amt.UUID) error {
	n, err := tx.exec(ctx, "DELETE FROM names WHERE uuid = $1", uuid)
	return touched(n, err, ErrNotFound)
}

// strangers are rows that anybody who reaches the hello port can make: nobody
// approved the device or ordered anything of it, nothing is under way, and no device
// can hold a password of it. That is so as long as no commit was on its way, and no
// MEBx password, which firmware keeps without one. A device that a person turned away
// or keeps out is no stranger: once forgotten, it could ask again.
const strangers = `FROM devices
	WHERE lifecycle IN ('discovered', 'pending_approval', 'pending_identity', 'pending_certificate', 'failed', 'quarantined', 'dormant')
	AND NOT approved AND hello_count > 0 AND provisioned_at IS NULL AND generation = 0 AND tags = '[]' AND serial = ''
	AND reason NOT IN ('uuid_duplicate', 'rejected', 'policy_denied', 'kept_out')
	AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.uuid = devices.uuid
		AND (r.state IN ('queued', 'running') OR r.kind <> 'provision' OR r.triggered_by NOT IN ('hello', 'timer')))
	AND NOT EXISTS (SELECT 1 FROM credentials c WHERE c.uuid = devices.uuid
		AND (c.state <> 'candidate' OR c.run_id = 0 OR c.setup NOT IN (0, c.generation) OR c.committed_at IS NOT NULL
			OR c.sent_at IS NOT NULL AND (c.kind = 'mebx' OR c.setup = 0)))`

// CountStrangers counts the rows that PruneStrangers may remove.
func (tx *Tx) CountStrangers(ctx context.Context) (int, error) {
	n, err := tx.number(ctx, "SELECT count(*) "+strangers)
	return n, err
}

// PruneStrangers keeps the newest keep rows of devices that nobody let in. It removes
// the others with all that is theirs, those silent for longest first, in short
// transactions. Those that the list of authorised devices lets in stay.
func (db *DB) PruneStrangers(ctx context.Context, keep int) (removed int, err error) {
	const pick, batch = 10000, 500
	for listed := 0; ; {
		var found []amt.UUID
		err := db.Read(ctx, func(tx *Tx) error {
			have, err := tx.CountStrangers(ctx)
			if err != nil || have-listed <= keep {
				return err
			}
			found, err = list(ctx, tx, scanUUID, "SELECT uuid "+strangers+" ORDER BY last_seen, uuid LIMIT $1 OFFSET $2",
				min(have-listed-keep, pick), listed)
			return err
		})
		if err != nil || len(found) == 0 {
			return removed, err
		}
		for some := range slices.Chunk(found, batch) {
			n, stay := 0, 0
			err := db.Write(ctx, func(tx *Tx) error {
				n, stay = 0, 0
				for _, u := range some {
					switch gone, err := tx.forget(ctx, u); {
					case err != nil:
						return err
					case gone:
						n++
					default:
						stay++
					}
				}
				return nil
			})
			if err != nil {
				return removed, fmt.Errorf("remove devices nobody knows: %w", err)
			}
			removed, listed = removed+n, listed+stay
		}
	}
}

// forget removes a stranger, unless a person approved it since it was looked for, or
// a list knows it.
func (tx *Tx) forget(ctx context.Context, uuid amt.UUID) (bool, error) {
	var id string
	switch err := tx.one(ctx, "SELECT uuid "+strangers+" AND uuid = $1 {lock}", []any{uuid}, &id); {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	d, err := tx.Device(ctx, uuid)
	if err != nil {
		return false, err
	}
	if _, err := tx.AuthorisedFor(ctx, d); err == nil || !errors.Is(err, ErrNotFound) {
		return false, err
	}
	all := []statement{{q: "UPDATE devices SET health = 'forgotten' WHERE uuid = $1", args: []any{uuid}}} // for the guard of the passwords
	for _, table := range []string{"credentials", "runs", "hellos", "events", "devices"} {
		all = append(all, statement{q: "DELETE FROM " + table + " WHERE uuid = $1", args: []any{uuid}})
	}
	return true, tx.pipeline(ctx, all...)
}
