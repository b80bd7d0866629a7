package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// Whoever can write into the database must not become somebody by it.
//
//  1. A row that grants something carries a MAC (seal.Keyring.Mac) over its
//     table, its own key and every column that grants. The key is not in the
//     database, so nobody who only writes there can make a row, change one or
//     give one to somebody else.
//  2. Readers leave a row out whose MAC is not right, as if it were not there;
//     tokens and users are listed with Forged. It is never repaired by itself.
//  3. A row that ends something for good (a revoked token) loses its MAC, so
//     that taking the end away brings nothing back.
//  4. So is an order: a run, a job and its devices. One that has ended has lost
//     its MAC, and nothing begins it again. A run that does not count gives way to
//     the next one; a job that does not count waits for a person.
//  5. Rows from before are signed once (SignRows). Until then every row counts.
//
// What a MAC cannot tell is the row as it once was from the row as it is: see
// the manual about who puts an old row back.

// A signedRow is a row as the MAC sees it.
type signedRow struct {
	key    any        // as the table's key has it
	at     seal.Place // what the MAC covers
	signed []byte
}

// signedTables says of each table which rows grant something, how a row is named
// and how it is read. first comes before every key.
var signedTables = []struct {
	table, key, columns, grants string
	first                       any
	scan                        func(s scanner) (signedRow, error)
}{
	{"tokens AS t", "t.id", tokenColumns, notASession + " AND t.revoked_at IS NULL", int64(0), func(s scanner) (signedRow, error) {
		t, err := scanToken(s)
		return signedRow{t.ID, t.place(), t.signed}, err
	}},
	{"sessions", "id", "id, hash, token_id, expires_at, signed", "ended_at IS NULL AND expires_at > {now}", int64(0), func(s scanner) (signedRow, error) {
		var id int64
		var own Session
		err := s.Scan(append([]any{&id}, own.dest()...)...)
		return signedRow{id, own.place(), own.signed}, err
	}},
	{"users", "name", "name, roles, disabled_at, signed", "true", "", func(s scanner) (signedRow, error) {
		var u User
		var roles string
		err := s.Scan(&u.Name, &roles, timeOf{&u.DisabledAt}, &u.signed)
		return signedRow{u.Name, u.place(roles), u.signed}, err
	}},
	{"authorised_devices", "id", authorisedColumns, "true", int64(0), func(s scanner) (signedRow, error) {
		a, err := scanAuthorised(s)
		return signedRow{a.ID, a.place(), a.signed}, err
	}},
	{"assignment_rules", "id", ruleColumns, "true", int64(0), func(s scanner) (signedRow, error) {
		r, err := scanRule(s)
		return signedRow{r.ID, r.place(), r.signed}, err
	}},
	{"profiles", profileKey, profileColumns, "true", "", func(s scanner) (signedRow, error) {
		var p Profile
		err := s.Scan(p.dest()...)
		return signedRow{fmt.Sprintf("%s:%d", p.Name, p.Version), p.place(), p.signed}, err
	}},
	{"names", "uuid", nameColumns, "true", amt.UUID{}, func(s scanner) (signedRow, error) {
		var n Name
		err := s.Scan(n.dest()...)
		return signedRow{n.UUID, n.place(), n.signed}, err
	}},
	{"otps", "id", otpColumns, "used_at IS NULL AND expires_at > {now}", int64(0), func(s scanner) (signedRow, error) {
		o, err := scanOTP(s)
		return signedRow{o.ID, o.at(), o.signed}, err
	}},
	{"agents", "uuid", agentColumns, "expires > {now}", amt.UUID{}, func(s scanner) (signedRow, error) {
		var a Agent
		err := s.Scan(a.dest()...)
		return signedRow{a.UUID, a.place(), a.signed}, err
	}},
	{"credentials", "id", trustColumns, "true", int64(0), func(s scanner) (signedRow, error) {
		var c Credential
		err := s.Scan(c.trust()...)
		return signedRow{c.ID, c.place(), c.signed}, err
	}},
	{"devices", "uuid", "uuid, " + grantColumns, grants, amt.UUID{}, func(s scanner) (signedRow, error) {
		var d Device
		err := s.Scan(append([]any{&d.UUID}, d.grant()...)...)
		return signedRow{d.UUID, d.place(), d.Signed}, err
	}},
	{"settings", "key", "key, value, signed", settingGrants, "", func(s scanner) (signedRow, error) {
		var key, value string
		var mac []byte
		err := s.Scan(&key, &value, &mac)
		return signedRow{key, settingPlace(key, value), mac}, err
	}},
	{"runs", "uuid", runColumns, liveRuns, amt.UUID{}, func(s scanner) (signedRow, error) {
		r, err := scanRun(s)
		return signedRow{r.UUID, r.place(), r.signed}, err
	}},
	{"jobs", "id", jobColumns, "state NOT IN ('done', 'aborted')", int64(0), func(s scanner) (signedRow, error) {
		j, err := scanJob(s)
		return signedRow{j.ID, j.place(), j.signed}, err
	}},
	{"console_certificates", "id", consoleColumns, "revoked_at IS NULL AND not_after > {now}", int64(0), func(s scanner) (signedRow, error) {
		c, err := scanConsole(s)
		return signedRow{c.ID, c.place(), c.signed}, err
	}},
	{"job_items AS i", "i.job_id, i.uuid", itemColumns, itemGrants, rowKey{int64(0), amt.UUID{}}, func(s scanner) (signedRow, error) {
		i, err := scanItem(s)
		return signedRow{rowKey{i.JobID, i.UUID}, i.place(), i.signed}, err
	}},
}

// A rowKey is a key of several columns.
type rowKey []any

func (k rowKey) String() string {
	parts := make([]string, len(k))
	for i, v := range k {
		parts[i] = fmt.Sprint(v)
	}
	return strings.Join(parts, ":")
}

// byKey compares a table's key with one that is appended to the parameters.
func byKey(columns, op string, key any, args []any) (string, []any) {
	k, several := key.(rowKey)
	if !several {
		k = rowKey{key}
	}
	marks := make([]string, len(k))
	for i, v := range k {
		args = append(args, v)
		marks[i] = fmt.Sprintf("$%d", len(args))
	}
	return "(" + columns + ") " + op + " (" + strings.Join(marks, ", ") + ")", args
}

// place names a row of a table and what its MAC covers, alike on both engines.
func place(table string, values ...any) seal.Place {
	for i, v := range values {
		switch x := v.(type) {
		case time.Time:
			values[i] = unixMilli(x)
		case []byte:
			values[i] = hex.EncodeToString(x)
		case json.RawMessage:
			values[i] = plainJSON(x)
		}
	}
	return seal.At(table, "mac", values...)
}

// plainJSON is a document in one form: Postgres keeps what it says, not how.
func plainJSON(doc json.RawMessage) string {
	var v any
	if json.Unmarshal(doc, &v) != nil {
		return "not JSON: " + string(doc)
	}
	text, _ := json.Marshal(v) // what was just read can be written
	return string(text)
}

// sign is the MAC of a row, nil where there is no key.
func (tx *Tx) sign(at seal.Place) ([]byte, error) {
	if tx.db.keys == nil {
		return nil, nil
	}
	return tx.db.keys.Mac(at)
}

// counts reports whether a row is one of ours; one that is not is remembered.
func (tx *Tx) counts(table string, key any, at seal.Place, mac []byte) bool {
	return tx.db.counts(table, key, at, mac)
}

func (db *DB) counts(table string, key any, at seal.Place, mac []byte) bool {
	if !db.strict.Load() || db.keys.Signed(mac, at) {
		return true
	}
	db.refused.add(table, fmt.Sprint(key))
	return false
}

// ours collects the rows that count. scan copies one and says whether it does.
func ours[T any](ctx context.Context, tx *Tx, scan func(scanner) (T, bool, error), q string, args ...any) ([]T, error) {
	var out []T
	err := tx.each(ctx, func(s scanner) error {
		v, ok, err := scan(s)
		if ok {
			out = append(out, v)
		}
		return err
	}, q, args...)
	return out, err
}

// mostRefused bounds what is remembered of rows that do not count.
const mostRefused = 1000

// refusedRows are those met since they were last asked for.
type refusedRows struct {
	mu     sync.Mutex
	rows   map[string]bool // table and key
	looked time.Time
	told   int // of rows, at that look
}

// lookForRows is how often all rows are looked at without a cause.
const lookForRows = time.Hour

// due reports whether it is time to look at all rows, and takes the time.
func (r *refusedRows) due(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == r.told && now.Sub(r.looked).Abs() < lookForRows {
		return false
	}
	r.looked, r.told = now, len(r.rows)
	return true
}

func (r *refusedRows) add(table, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows == nil {
		r.rows = map[string]bool{}
	}
	if len(r.rows) < mostRefused {
		r.rows[table+" "+key] = true
	}
}

// rowsSigned is the sealed setting that says that every row that counts is
// signed. It is made once.
const rowsSigned = "rows_signed"

// ActionRowsSigned and ActionRowsRefused are the audit's words.
const (
	ActionRowsSigned  = "rows.signed"
	ActionRowsRefused = "rows.refused"
)

// oldNodesFor is how long a node that signs nothing, seen that lately, keeps the
// rows of an upgraded database from being signed; waitForOld is how long at most.
const (
	oldNodesFor = 5 * time.Minute
	waitForOld  = 7 * 24 * time.Hour
)

// RowsStrict reports whether rows without a right MAC are refused.
func (db *DB) RowsStrict() bool { return db.strict.Load() }

// openRows finds out whether the rows were signed. An empty database is, as it
// begins. Where the mark is gone although this node or the audit remembers it,
// somebody took it away: the rows are not signed again for that.
func (db *DB) openRows(ctx context.Context, o Options) error {
	if db.keys == nil || db.schema < signedSince {
		return nil
	}
	if o.restored {
		db.memory.forget()
	}
	known := false
	err := db.Read(ctx, func(tx *Tx) error {
		_, err := tx.SealedSetting(ctx, rowsSigned)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		known = true // also one that does not open: nobody but a stranger wrote it
		return nil
	})
	if err != nil {
		return err
	}
	if known {
		db.nowStrict()
		return nil
	}
	once, empty := db.memory.of(db.lineage()).RowsSigned, false
	err = db.Read(ctx, func(tx *Tx) error {
		if !once {
			if once, err = tx.exists(ctx, "audit WHERE action = '"+ActionRowsSigned+"'"); err != nil || once {
				return err
			}
		}
		empty = true
		for _, t := range signedTables {
			there, err := tx.exists(ctx, t.table+" WHERE "+t.grants)
			if err != nil || there {
				empty = false
				return err
			}
		}
		return nil
	})
	if err != nil || !once && (!empty || o.Beside) {
		return err
	}
	if once {
		db.log.Error("rows.mark_gone", zap.String("hint", "somebody deleted from the database the mark that its rows are signed; they are not signed again"))
	}
	if !o.Beside {
		err = db.Write(ctx, func(tx *Tx) error {
			err := tx.CreateSealedSetting(ctx, rowsSigned, amt.NewSecret(tx.Now().Format(time.RFC3339)))
			if errors.Is(err, ErrConflict) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	db.nowStrict()
	return nil
}

func (tx *Tx) exists(ctx context.Context, from string) (bool, error) {
	var n int
	err := tx.one(ctx, "SELECT count(*) FROM (SELECT 1 AS x FROM "+from+" LIMIT 1) AS t", nil, &n)
	return n > 0, err
}

func (db *DB) nowStrict() {
	db.strict.Store(true)
	db.memory.keep(db.lineage(), func(r *remembered) { r.RowsSigned = true })
}

// lineage names the database by its keys, in a backup and on another engine too.
func (db *DB) lineage() string {
	mac, err := db.keys.Mac(seal.At("", "lineage"))
	if err != nil {
		return ""
	}
	return hex.EncodeToString(mac[:16])
}

// signedSince is the schema that has a place for MACs.
const signedSince = 20

// ErrOldNodes means that a node of a release that signs nothing is still about.
var ErrOldNodes = errors.New("a node of an earlier release still writes rows that it does not sign")

// SignRows signs the rows of a database from before, once, in short
// transactions, and says how many; from then on an unsigned row counts for
// nothing. While nodes that sign nothing are about it waits (ErrOldNodes), for a
// week at most: what they write must not be lost. Any node may call it at any time.
func (db *DB) SignRows(ctx context.Context) (map[string]int, error) {
	if db.keys == nil || db.strict.Load() {
		return nil, nil
	}
	if err := db.openRows(ctx, Options{}); err != nil || db.strict.Load() {
		return nil, err
	}
	if err := db.oldNodesGone(ctx); err != nil {
		return nil, err
	}
	signed, err := db.signAll(ctx)
	if err != nil {
		return nil, err
	}
	err = db.Write(ctx, func(tx *Tx) error {
		err := tx.CreateSealedSetting(ctx, rowsSigned, amt.NewSecret(tx.Now().Format(time.RFC3339)))
		if errors.Is(err, ErrConflict) {
			signed = nil // another node was first, and its record says how many
			return nil
		}
		if err != nil {
			return err
		}
		return tx.Audit(ctx, AuditRecord{Actor: "system", Action: ActionRowsSigned, Subject: "database", Detail: counted(signed)})
	})
	if err != nil {
		return nil, fmt.Errorf("sign the rows: %w", err)
	}
	db.nowStrict()
	return signed, nil
}

func counted(n map[string]int) map[string]any {
	out, all := map[string]any{}, 0
	for table, k := range n {
		out[table] = k
		all += k
	}
	out["rows"] = all
	return out
}

// waitSince is the sealed setting of when a node first waited for old ones.
const waitSince = "rows_wait_since"

func (db *DB) oldNodesGone(ctx context.Context) error {
	if db.engine == SQLite { // one process has the directory, and that is this one
		return nil
	}
	old := false
	var now, since time.Time
	err := db.Read(ctx, func(tx *Tx) error {
		now = tx.Now()
		var n int
		if err := tx.one(ctx, "SELECT count(*) FROM nodes WHERE NOT signs AND seen_at > {now+$1}", []any{-oldNodesFor.Milliseconds()}, &n); err != nil || n == 0 {
			return err
		}
		old = true
		s, err := tx.SealedSetting(ctx, waitSince)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err == nil {
			since, err = time.Parse(time.RFC3339, s.Reveal())
		}
		return err
	})
	switch {
	case err != nil || !old:
		return err
	case since.IsZero():
		err = db.Write(ctx, func(tx *Tx) error {
			return tx.CreateSealedSetting(ctx, waitSince, amt.NewSecret(now.Format(time.RFC3339)))
		})
		if err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
	case now.Sub(since) >= waitForOld:
		return nil
	}
	return ErrOldNodes
}

// rowPage is how many rows are looked at in one transaction.
const rowPage = 500

// signAll signs every row that has no right MAC.
func (db *DB) signAll(ctx context.Context) (map[string]int, error) {
	signed := map[string]int{}
	if err := db.Write(ctx, func(tx *Tx) error { return tx.adoptUsers(ctx) }); err != nil {
		return nil, err
	}
	if err := db.adoptPins(ctx); err != nil {
		return nil, err
	}
	for _, t := range signedTables {
		name, _, _ := strings.Cut(t.table, " ")
		signed[name] = 0
		for after := t.first; after != nil; {
			var next any
			n := 0
			err := db.Write(ctx, func(tx *Tx) error {
				next, n = nil, 0
				beyond, args := byKey(t.key, ">", after, []any{rowPage})
				rows, err := list(ctx, tx, t.scan, "SELECT "+t.columns+" FROM "+t.table+" WHERE "+t.grants+" AND "+beyond+" ORDER BY "+t.key+" LIMIT $1 {lock}", args...)
				if err != nil {
					return err
				}
				var all []statement
				for _, r := range rows {
					if db.keys.Signed(r.signed, r.at) {
						continue
					}
					mac, err := db.keys.Mac(r.at)
					if err != nil {
						return err
					}
					that, args := byKey(t.key, "=", r.key, []any{mac})
					all = append(all, statement{q: "UPDATE " + t.table + " SET signed = $1 WHERE " + t.grants + " AND " + that, args: args})
				}
				if len(rows) == rowPage {
					next = rows[len(rows)-1].key
				}
				n = len(all)
				return tx.pipeline(ctx, all...)
			})
			if err != nil {
				return nil, fmt.Errorf("sign the rows of %s: %w", name, err)
			}
			signed[name] += n
			after = next
		}
	}
	return signed, nil
}

// TendRows is what a node does about its rows now and then: sign those of an
// upgraded database, once, and look for rows that do not count, often when one
// was met and else once in an hour.
func (db *DB) TendRows(ctx context.Context) error {
	if !db.strict.Load() {
		signed, err := db.SignRows(ctx)
		switch {
		case errors.Is(err, ErrOldNodes):
			db.log.Warn("rows.not_signed_yet", zap.String("hint", "a node of an earlier release is running beside this one; rows of the database are signed when it has gone"))
			return nil
		case signed != nil:
			db.log.Info("rows.signed", zap.Any("rows", counted(signed)))
		}
		return err
	}
	if !db.refused.due(db.clock()) {
		return nil
	}
	found, err := db.AuditRefused(ctx)
	if err == nil && found.Count > 0 {
		db.log.Error("rows.refused", zap.Int("rows", found.Count), zap.Strings("some", found.Some),
			zap.String("hint", "somebody wrote them into the database itself, or a node of an earlier release did; they count for nothing"))
	}
	return err
}

// RefusedRows are rows that grant something and carry no right MAC.
type RefusedRows struct {
	Count  int
	Tables map[string]int
	Some   []string // table and key, the first of them
}

const someRefused = 20

// CheckRows looks at every row that grants something.
func (db *DB) CheckRows(ctx context.Context) (RefusedRows, error) {
	out := RefusedRows{Tables: map[string]int{}}
	if db.keys == nil || db.schema < signedSince {
		return out, nil
	}
	for _, t := range signedTables {
		name, _, _ := strings.Cut(t.table, " ")
		for after := t.first; after != nil; {
			var rows []signedRow
			err := db.Read(ctx, func(tx *Tx) (err error) {
				beyond, args := byKey(t.key, ">", after, []any{rowPage})
				rows, err = list(ctx, tx, t.scan, "SELECT "+t.columns+" FROM "+t.table+" WHERE "+t.grants+" AND "+beyond+" ORDER BY "+t.key+" LIMIT $1", args...)
				return err
			})
			if err != nil {
				return out, fmt.Errorf("check the rows of %s: %w", name, err)
			}
			for _, r := range rows {
				if db.keys.Signed(r.signed, r.at) {
					continue
				}
				out.Count++
				out.Tables[name]++
				if len(out.Some) < someRefused {
					out.Some = append(out.Some, fmt.Sprint(name, " ", r.key))
				}
			}
			if after = nil; len(rows) == rowPage {
				after = rows[len(rows)-1].key
			}
		}
	}
	return out, nil
}

// refusedSetting holds what the audit was last told of.
const refusedSetting = "rows_refused"

// AuditRefused looks for rows that do not count, sets the metric and tells the
// audit when they are others than it was told last: once, however often they
// are met and by however many nodes.
func (db *DB) AuditRefused(ctx context.Context) (RefusedRows, error) {
	if !db.strict.Load() {
		return RefusedRows{}, nil
	}
	found, err := db.CheckRows(ctx)
	if err != nil {
		return found, err
	}
	db.metrics.refused.Set(float64(found.Count))
	text := ""
	if found.Count > 0 {
		text = fmt.Sprint(found.Count, found.Tables, found.Some)
	}
	last := func(tx *Tx) (string, error) {
		s, err := tx.SealedSetting(ctx, refusedSetting)
		if errors.Is(err, ErrNotFound) {
			return "", nil
		}
		return s.Reveal(), err
	}
	told := ""
	if err := db.Read(ctx, func(tx *Tx) (err error) { told, err = last(tx); return err }); err != nil || told == text {
		return found, err
	}
	return found, db.Write(ctx, func(tx *Tx) error {
		if told, err := last(tx); err != nil || told == text {
			return err
		}
		if err := tx.PutSealedSetting(ctx, refusedSetting, amt.NewSecret(text)); err != nil || found.Count == 0 {
			return err
		}
		detail := map[string]any{"rows": found.Count, "some": found.Some}
		for _, t := range slices.Sorted(maps.Keys(found.Tables)) {
			detail[t] = found.Tables[t]
		}
		return tx.Audit(ctx, AuditRecord{Actor: "system", Action: ActionRowsRefused, Subject: "database", Detail: detail})
	})
}

// ResignRows signs what CheckRows found, on the word of somebody who may read
// the master key: a node of an earlier release wrote it, or a dump from before
// was put back. The audit keeps who and how many.
func (db *DB) ResignRows(ctx context.Context, actor, why string) (map[string]int, error) {
	if db.keys == nil {
		return nil, errors.New("without the master key no row can be signed")
	}
	signed, err := db.signAll(ctx)
	if err != nil {
		return nil, err
	}
	detail := counted(signed)
	detail["reason"] = why
	err = db.Write(ctx, func(tx *Tx) error {
		if err := tx.CreateSealedSetting(ctx, rowsSigned, amt.NewSecret(tx.Now().Format(time.RFC3339))); err != nil && !errors.Is(err, ErrConflict) {
			return err
		}
		return tx.Audit(ctx, AuditRecord{Actor: actor, Action: ActionRowsSigned, Subject: "database", Detail: detail})
	})
	if err != nil {
		return nil, err
	}
	db.nowStrict()
	return signed, nil
}

// settle tidies a device as it was read, and takes from it what its row has no
// right to.
func (tx *Tx) settle(d *Device) {
	if len(d.Tags) == 0 {
		d.Tags = nil
	}
	if d.granted() && !tx.counts("devices", d.UUID, d.place(), d.Signed) {
		d.disown()
	}
	d.Signed = nil
}

func (d *Device) granted() bool {
	return d.Approved || d.AssignedProfile != "" || len(d.Vouched) > 0
}

// grantColumns are those of a device that grant something, with its MAC; grants
// says when they do.
const (
	grantColumns = "approved, assigned_profile, vouched, address, signed"
	grants       = "(approved OR assigned_profile <> '' OR length(vouched) > 0)"
)

func (d *Device) grant() []any {
	return []any{&d.Approved, &d.AssignedProfile, &d.Vouched, addrOf{&d.Address}, &d.Signed}
}

// place covers the address of an approval and of a person's word for whoever
// answers next, since both are for the machine at that address.
func (d *Device) place() seal.Place {
	covered := []any{d.UUID, d.Approved, d.AssignedProfile, d.Vouched}
	if d.Approved || len(d.Vouched) > 0 {
		covered = append(covered, addrString(d.Address))
	}
	return place("devices", covered...)
}

func (d *Device) disown() { d.Approved, d.AssignedProfile, d.Vouched = false, "", nil }

// regrant reads what a device is granted, to be changed and signed anew: what
// is there without a right MAC is dropped and not signed with the rest. A new
// address alone signs only what counts already.
func (tx *Tx) regrant(ctx context.Context, uuid amt.UUID, f DeviceFacts, c *clause) error {
	changed := f.Approved != nil || f.AssignedProfile != nil || f.Vouched != nil
	if !changed && f.Address == nil {
		return nil
	}
	d := Device{UUID: uuid}
	if err := tx.one(ctx, "SELECT "+grantColumns+" FROM devices WHERE uuid = $1 {lock}", []any{uuid}, d.grant()...); err != nil {
		return err
	}
	if tx.settle(&d); !changed && !d.granted() {
		return nil
	}
	if f.Address != nil {
		d.Address = *f.Address
	}
	if f.Approved != nil {
		d.Approved = *f.Approved
	}
	if f.AssignedProfile != nil {
		d.AssignedProfile = *f.AssignedProfile
	}
	if f.Vouched != nil {
		d.Vouched = *f.Vouched
	}
	var mac []byte
	if d.granted() {
		var err error
		if mac, err = tx.sign(d.place()); err != nil {
			return err
		}
	}
	c.add("approved = ?", d.Approved)
	c.add("assigned_profile = ?", d.AssignedProfile)
	c.add("vouched = ?", d.Vouched)
	c.add("signed = ?", mac)
	return nil
}
