package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// A transaction records hellos in two halves. ReadArrivals reads what the store
// knows of their devices; the caller decides; WriteOutcomes writes all hellos down
// with what was decided. On Postgres the number of statements does not grow with
// the number of hellos, and on SQLite each row is written once.

// An Arrival is the device as its hello leaves it if the hello is believed, and
// what the store knew before.
type Arrival struct {
	Device Device
	Before SeenBefore

	hello SeenHello
	table int64 // id of the hash list that the hello brought
	row   int64 // SQLite's rowid; 0: the device has no row yet
}

// An Outcome is an arrival and what follows from it.
type Outcome struct {
	Arrival
	// Stray: somebody else may have sent the hello. The store keeps that and from
	// where it was heard, and nothing that it says of the device.
	Stray bool
	// Claim: a node calls the device, to see whether it is still where it was.
	Claim         bool
	WindowUntil   time.Time // zero: as it was
	FQDN, Profile string    // what the device gets
	Move          *Transition
}

// ReadArrivals reads the devices of hellos that this transaction is about to
// record, and on Postgres locks them. No two hellos may be of one device.
func (tx *Tx) ReadArrivals(ctx context.Context, hellos []SeenHello) ([]Arrival, error) {
	out := make([]Arrival, len(hellos))
	at := map[string]int{}
	uuids := make([]string, len(hellos))
	for i, h := range hellos {
		uuids[i] = h.UUID.String()
		at[uuids[i]] = i
		out[i].hello = h
	}
	if err := tx.tables(ctx, out); err != nil {
		return nil, err
	}
	// All nodes lock in one order, or two batches could lock each other out.
	q := "SELECT 0, " + deviceColumns + " FROM devices WHERE " + tx.among("uuid", 1) + " ORDER BY uuid {lock}"
	if tx.pg == nil {
		q = "SELECT rowid, " + deviceColumns + " FROM devices WHERE " + tx.among("uuid", 1)
	}
	err := tx.each(ctx, func(s scanner) error {
		var d Device
		var row int64
		if err := s.Scan(append([]any{&row}, d.dest()...)...); err != nil {
			return err
		}
		tx.settle(&d)
		i := at[d.UUID.String()]
		out[i].row, out[i].Before = row, SeenBefore{Known: true, Previous: d}
		return nil
	}, q, tx.set(uuids))
	if err != nil {
		return nil, fmt.Errorf("the devices of %d hellos: %w", len(hellos), err)
	}
	for i := range out {
		out[i].arrive(tx)
	}
	return out, nil
}

// tables finds or makes the hash lists, in one order for all nodes.
func (tx *Tx) tables(ctx context.Context, all []Arrival) error {
	type fresh struct {
		digest [32]byte
		i      int
	}
	var missing []fresh
	for i := range all {
		h := all[i].hello.Hashes
		if len(h) == 0 {
			continue
		}
		digest := trustDigest(h)
		if id, ok := tx.db.trust.get(digest); ok {
			all[i].table = id
		} else {
			missing = append(missing, fresh{digest, i})
		}
	}
	slices.SortFunc(missing, func(a, b fresh) int { return slices.Compare(a.digest[:], b.digest[:]) })
	for n, m := range missing {
		if n > 0 && m.digest == missing[n-1].digest {
			all[m.i].table = all[missing[n-1].i].table
			continue
		}
		id, err := tx.trustTable(ctx, all[m.i].hello.Hashes)
		if err != nil {
			return fmt.Errorf("hello of %s: %w", all[m.i].hello.UUID, err)
		}
		all[m.i].table = id
	}
	return nil
}

// arrive sets the device to what it is if the hello is believed.
func (s *Arrival) arrive(tx *Tx) {
	h, old := s.hello, s.Before.Previous
	addr := h.Address
	if !addr.IsValid() {
		addr = h.From.Addr()
	}
	addr = addr.Unmap().WithZone("")
	d := old
	if !s.Before.Known {
		d = Device{UUID: h.UUID, Lifecycle: Discovered}
	}
	d.LastSeen = millis(h.At)
	if h.At.IsZero() {
		d.LastSeen = tx.Now()
	}
	if d.FirstSeen.IsZero() {
		d.FirstSeen = d.LastSeen
	}
	d.HelloCount++
	d.HeardFrom = addr
	if d.Address != addr {
		d.Address, d.AddressBy = addr, ByHello
	}
	if h.Via == "agent" && h.Named {
		d.AddressBy = ByAgent
	}
	d.TrustTable, d.HelloRetry, d.AdminFlag = s.table, h.Retry, h.AdminSet
	if h.Version == 0 && h.Via == "agent" {
		d.TrustTable, d.HelloRetry, d.AdminFlag = old.TrustTable, old.HelloRetry,
			old.AdminFlag // an agent's announcement says nothing of the firmware
	}
	s.Device = d
	if s.Before.Known {
		s.Before.AddressChanged = old.Address != addr
	}
}

// kept is the device's row after the hello.
func (h Outcome) kept(tx *Tx) Device {
	d := h.Device
	if h.Stray {
		d = h.Before.Previous
		d.UUID, d.FirstSeen, d.LastSeen, d.HelloCount, d.HeardFrom = h.Device.UUID, h.Device.FirstSeen, h.Device.LastSeen,
			h.Device.HelloCount,
			h.Device.HeardFrom
	}
	if h.Claim && d.ClaimDue.IsZero() {
		d.ClaimDue = millis(tx.Now())
	}
	return d
}

// WriteOutcomes writes down the hellos that ReadArrivals read in this transaction,
// and what follows from each. ErrConflict: another node wrote one of the new
// devices first, and the caller must keep nothing of this transaction.
func (tx *Tx) WriteOutcomes(ctx context.Context, outcomes []Outcome) error {
	// Write neighbours in the index one after the other.
	slices.SortFunc(outcomes, func(a, b Outcome) int { return bytes.Compare(a.Device.UUID[:], b.Device.UUID[:]) })
	for _, h := range outcomes { // before the row gets the new address, which its MAC does not cover yet
		if was := h.Before.Previous; h.Before.Known && !h.Stray && was.granted() && was.Address != h.Device.Address {
			if err := tx.UpdateDevice(ctx, h.Device.UUID, DeviceFacts{Address: &h.Device.Address}); err != nil {
				return err
			}
		}
	}
	write := tx.recordSQLite
	if tx.pg != nil {
		write = tx.recordPostgres
	}
	if err := write(ctx, outcomes); err != nil {
		return fmt.Errorf("record %d hellos: %w", len(outcomes), err)
	}
	for _, h := range outcomes {
		if !h.Before.Known {
			continue // its row is complete
		}
		var f DeviceFacts
		if h.FQDN != h.Device.FQDN {
			f.FQDN = &h.FQDN
		}
		if h.Profile != h.Device.Profile {
			f.Profile = &h.Profile
		}
		if err := tx.UpdateDevice(ctx, h.Device.UUID, f); err != nil {
			return err
		}
		if h.Move != nil {
			if err := tx.Transition(ctx, *h.Move); err != nil {
				return err
			}
		}
	}
	return nil
}

// born returns a new device's lifecycle, reason, detail and next retry.
func (h Outcome) born() (Lifecycle, string, string, time.Time) {
	if h.Move == nil {
		return Discovered, "", "", time.Time{}
	}
	to := h.Move.To
	if to == "" {
		to = Discovered
	}
	return to, string(h.Move.Reason), h.Move.Detail, h.Move.NextRetry
}

const (
	insertDevice = `INSERT INTO devices (uuid, address, address_key, address_by, heard_from, trust_table, hello_retry, admin_flag,
		first_seen, last_seen,
		hello_count, window_until, fqdn, profile, lifecycle, reason, detail, next_retry`
	insertEvent = "INSERT INTO events (at, uuid, run_id, name, reason, detail, actor, data) "
	insertHello = "INSERT INTO hellos (uuid, source, local, via, peer, version, retry, admin_set, pid, trust_table, extra, raw, at) "
)

func (tx *Tx) recordSQLite(ctx context.Context, outcomes []Outcome) error {
	for _, h := range outcomes {
		d, old := h.kept(tx), h.Before.Previous
		var err error
		switch {
		case !h.Before.Known:
			to, code, detail, retry := h.born()
			_, err = tx.exec(ctx, insertDevice+", seen_hour) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, 1, $10, $11, $12, $13, $14, "+
				"$15, "+
				"$16, $17)",
				d.UUID, d.Address, addressKey(d.Address), d.AddressBy, d.HeardFrom, d.TrustTable, d.HelloRetry, d.AdminFlag, d.LastSeen,
				h.WindowUntil, h.FQDN, h.Profile, to, code, detail, retry, hourOf(d.LastSeen))
		case old.TrustTable != d.TrustTable, old.Address != d.Address, hourOf(old.LastSeen) != hourOf(d.LastSeen),
			!old.ClaimDue.Equal(d.ClaimDue):
			_, err = tx.exec(ctx, `UPDATE devices SET address = $2, address_key = $3, hello_retry = $4, admin_flag = $5, last_seen = $6,
				first_seen = $7, hello_count = hello_count + 1, window_until = coalesce($8, window_until), trust_table = $9, seen_hour = $10,
				address_by = $11, heard_from = $12, claim_due = $13 WHERE rowid = $1`,
				h.row, d.Address, addressKey(d.Address), d.HelloRetry, d.AdminFlag, d.LastSeen, d.FirstSeen, h.WindowUntil, d.TrustTable,
				hourOf(d.LastSeen), d.AddressBy, d.HeardFrom, d.ClaimDue)
		default: // no index covers what changes
			_, err = tx.exec(ctx, `UPDATE devices SET hello_retry = $2, admin_flag = $3, last_seen = $4,
				first_seen = $5, hello_count = hello_count + 1, window_until = coalesce($6, window_until), address_by = $7, heard_from = $8
				WHERE rowid = $1`,
				h.row, d.HelloRetry, d.AdminFlag, d.LastSeen, d.FirstSeen, h.WindowUntil, d.AddressBy, d.HeardFrom)
		}
		if err != nil {
			return err
		}
	}
	for _, h := range outcomes {
		s := h.hello
		if _, err := tx.exec(ctx, insertHello+"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
			s.UUID, s.From, s.Local, s.Via, s.Peer, int64(s.Version), s.Retry, s.AdminSet, s.PID, h.table, s.Trailing, s.Raw,
			h.Device.LastSeen); err != nil {
			return err
		}
	}
	for _, h := range outcomes {
		if h.Move == nil || h.Before.Known {
			continue
		}
		data, err := h.Move.data()
		if err != nil {
			return err
		}
		m := h.Move
		if _, err := tx.exec(ctx, insertEvent+"VALUES ({now}, $1, $2, $3, $4, $5, $6, $7)", m.UUID, m.RunID, m.Event, m.Reason, m.Detail,
			m.Actor, data); err != nil {
			return err
		}
	}
	return nil
}

// recordPostgres sends four statements in one round trip, each with an array
// per column.
func (tx *Tx) recordPostgres(ctx context.Context, outcomes []Outcome) error {
	var born, known, said, events columns
	for _, h := range outcomes {
		d, s := h.kept(tx), h.hello
		if h.Before.Known {
			known.row(d.UUID.String(), amt.Text(d.Address), addressKey(d.Address), string(d.AddressBy), amt.Text(d.HeardFrom), d.TrustTable,
				int64(d.HelloRetry), d.AdminFlag, tx.stamp(d.LastSeen), tx.stamp(d.FirstSeen), tx.stamp(h.WindowUntil),
				tx.stamp(d.ClaimDue))
		} else {
			to, code, detail, retry := h.born()
			born.row(d.UUID.String(), amt.Text(d.Address), addressKey(d.Address), string(d.AddressBy), amt.Text(d.HeardFrom), d.TrustTable,
				int64(d.HelloRetry), d.AdminFlag, tx.stamp(d.LastSeen), tx.stamp(h.WindowUntil), h.FQDN, h.Profile, string(to), code,
				detail,
				tx.stamp(retry))
			if m := h.Move; m != nil {
				data, err := m.data()
				if err != nil {
					return err
				}
				events.row(m.UUID.String(), m.RunID, m.Event, string(m.Reason), m.Detail, m.Actor, data)
			}
		}
		said.row(s.UUID.String(), amt.Text(s.From), amt.Text(s.Local), s.Via, s.Peer, int64(s.Version), int64(s.Retry), s.AdminSet, s.PID,
			h.table, bytesOrNull(s.Trailing), bytesOrNull(s.Raw), tx.stamp(d.LastSeen))
	}
	var all []statement
	var fresh int64
	if born.n > 0 {
		all = append(all, statement{q: `WITH born AS (` + insertDevice + `) SELECT u, a, k, b, h, t, r, f, s, s, 1, w, n, p, l, c, d, x
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::boolean[], $9::timestamptz[],
			$10::timestamptz[],
				$11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::timestamptz[]) AS v (u, a, k, b, h, t, r, f, s, w, n, p, l, c,
				d, x)
			ON CONFLICT DO NOTHING RETURNING 1) SELECT count(*) FROM born`, args: born.args, dest: []any{&fresh}})
	}
	if known.n > 0 {
		all = append(all, statement{q: `UPDATE devices SET address = v.a, address_key = v.k, address_by = v.y, heard_from = v.h,
			trust_table = v.t, hello_retry = v.r,
				admin_flag = v.f, last_seen = v.s, first_seen = v.b, hello_count = hello_count + 1, window_until = coalesce(v.w, window_until),
				claim_due = v.c
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::boolean[], $9::timestamptz[],
			$10::timestamptz[],
				$11::timestamptz[], $12::timestamptz[]) AS v (u, a, k, y, h, t, r, f, s, b, w, c) WHERE uuid = v.u`, args: known.args})
	}
	all = append(all, statement{q: insertHello + `SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[],
		$6::integer[], $7::bigint[], $8::boolean[], $9::text[],
			$10::bigint[], $11::bytea[], $12::bytea[], $13::timestamptz[])`, args: said.args})
	if events.n > 0 {
		all = append(all, statement{q: insertEvent + `SELECT {now}, * FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[],
			$5::text[], $6::text[], $7::jsonb[])`, args: events.args})
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return err
	}
	if fresh != int64(born.n) {
		return fmt.Errorf("another node met a new device first: %w", ErrConflict)
	}
	return nil
}

// columns turns rows into one array per column.
type columns struct {
	n    int
	args []any
}

func (c *columns) row(values ...any) {
	if c.args == nil {
		c.args = make([]any, len(values))
	}
	for i, v := range values {
		col, _ := c.args[i].([]any)
		c.args[i] = append(col, v)
	}
	c.n++
}

func bytesOrNull(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// among is the condition that a column is one of the values of a set, the
// parameter of that number.
func (tx *Tx) among(column string, param int) string {
	if tx.pg != nil {
		return fmt.Sprintf("%s = ANY($%d)", column, param)
	}
	return fmt.Sprintf("%s IN (SELECT value FROM json_each($%d))", column, param)
}

// set is the argument for among.
func (tx *Tx) set(values []string) any {
	if tx.pg != nil {
		return values
	}
	b, _ := json.Marshal(values) // strings always encode
	return string(b)
}

// LiveRuns reads the queued and running runs of devices.
func (tx *Tx) LiveRuns(ctx context.Context, uuids []amt.UUID) (map[amt.UUID]Run, error) {
	out := map[amt.UUID]Run{}
	if len(uuids) == 0 {
		return out, nil
	}
	all, err := tx.runs(ctx, "SELECT "+runColumns+" FROM runs WHERE "+tx.among("uuid", 1)+" AND state IN ('queued', 'running')",
		tx.set(texts(uuids)))
	for _, r := range all {
		out[r.UUID] = r
	}
	return out, about(err, "live runs of %d devices", len(uuids))
}

// NamesOf reads the names assigned to UUIDs; the map leaves out those without a
// name.
func (tx *Tx) NamesOf(ctx context.Context, uuids []amt.UUID) (map[amt.UUID]Name, error) {
	out := map[amt.UUID]Name{}
	all, err := tx.names(ctx, "SELECT "+nameColumns+" FROM names WHERE "+tx.among("uuid", 1), tx.set(texts(uuids)))
	for _, n := range all {
		out[n.UUID] = n
	}
	return out, about(err, "names of %d devices", len(uuids))
}

// CalledOf returns what people call devices: the wanted name, or else the name
// they have.
func (tx *Tx) CalledOf(ctx context.Context, uuids []amt.UUID) (map[amt.UUID]string, error) {
	out := map[amt.UUID]string{}
	err := tx.each(ctx, func(s scanner) error {
		var u amt.UUID
		var wanted, has string
		err := s.Scan(&u, &wanted, &has)
		if out[u] = wanted; wanted == "" {
			out[u] = has
		}
		return err
	}, "SELECT uuid, fqdn, host FROM devices WHERE "+tx.among("uuid", 1), tx.set(texts(uuids)))
	return out, about(err, "what %d devices are called", len(uuids))
}

func texts(uuids []amt.UUID) []string {
	out := make([]string, len(uuids))
	for i, u := range uuids {
		out[i] = u.String()
	}
	return out
}

// Authorisations are the entries of the list of authorised devices that may
// apply to some devices.
type Authorisations struct {
	exact    map[[2]string]AuthorisedDevice // by kind and value
	networks []AuthorisedDevice
}

// Authorisations reads the entries, not expired, that may apply to the devices.
func (tx *Tx) Authorisations(ctx context.Context, devices ...Device) (Authorisations, error) {
	var uuids, serials, macs []string
	for _, d := range devices {
		uuids = append(uuids, d.UUID.String())
		if d.Serial != "" {
			serials = append(serials, strings.ToLower(d.Serial))
		}
		if d.MAC != "" {
			macs = append(macs, strings.ToLower(d.MAC))
		}
	}
	const entries = "SELECT " + authorisedColumns + " FROM authorised_devices WHERE (expires_at IS NULL OR expires_at > {now}) AND kind = "
	q, args := entries+"'network'", []any(nil)
	for _, arm := range []struct {
		kind   string
		values []string
	}{{"uuid", uuids}, {"serial", serials}, {"mac", macs}} {
		if len(arm.values) > 0 {
			args = append(args, tx.set(arm.values))
			q += " UNION ALL " + entries + "'" + arm.kind + "' AND " + tx.among("value", len(args))
		}
	}
	a := Authorisations{exact: map[[2]string]AuthorisedDevice{}}
	err := tx.each(ctx, func(s scanner) error {
		e, ok, err := tx.ourEntry(s)
		switch {
		case !ok:
		case e.Kind == "network":
			a.networks = append(a.networks, e)
		default:
			a.exact[[2]string{e.Kind, e.Value}] = e
		}
		return err
	}, q, args...)
	if err != nil {
		return a, fmt.Errorf("who authorised %d devices: %w", len(devices), err)
	}
	slices.SortFunc(a.networks, func(x, y AuthorisedDevice) int { return cmp.Compare(x.ID, y.ID) })
	return a, nil
}

// For finds the entry that lets a device in: by UUID, serial, MAC or network,
// the narrowest first; ErrNotFound if nobody authorised the device.
func (a Authorisations) For(d Device) (AuthorisedDevice, error) {
	for _, key := range [][2]string{{"uuid", d.UUID.String()}, {"serial", strings.ToLower(d.Serial)}, {"mac", strings.ToLower(d.MAC)}} {
		if e, ok := a.exact[key]; ok && key[1] != "" {
			return e, nil
		}
	}
	best, bits := AuthorisedDevice{}, -1
	for _, e := range a.networks {
		if p, err := netip.ParsePrefix(e.Value); err == nil && p.Contains(d.Address) && p.Bits() > bits {
			best, bits = e, p.Bits()
		}
	}
	if bits < 0 {
		return best, fmt.Errorf("who authorised %s: %w", d.UUID, ErrNotFound)
	}
	return best, nil
}

// Networks returns the ids of entries whose network holds an address.
func (a Authorisations) Networks(at netip.Addr) (ids []int64) {
	for _, e := range a.networks {
		if p, err := netip.ParsePrefix(e.Value); err == nil && p.Contains(at) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}
