package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// Whoever can write into the database must not become somebody by it.
//
//  1. A row that grants something carries a MAC (seal.Keyring.Mac) over its
//     table, its own key and every column that grants. The key is not in the
//     database, so nobody who only writes there can make a row, change one or
//     give one to somebody else.
//  2. Readers leave out a row with a wrong MAC, as if it were not there. Lists of
//     tokens, users and consoles' certificates show it and mark it. The store
//     never repairs it by itself.
//  3. A row that ends something for good (a revoked token) loses its MAC, so that
//     taking the end away brings nothing back.
//  4. Orders are signed too: a run, a job and the job's devices. One that has
//     ended loses its MAC, and nothing begins it again. A forged run gives way to
//     the next honest one; a forged job waits for a person; the worker takes a
//     forged device out of its job.
//  5. SignRows signs the rows of earlier releases, once. Until then every row
//     counts.
//
// A MAC cannot tell a row as it once was from the row as it is: the manual says
// what a person can do who puts an old row back.

// A signedRow is a row as its MAC sees it.
type signedRow struct {
	key    any        // in the form of the table's key
	at     seal.Place // everything the MAC covers
	signed []byte
}

// A signedTable says which rows of a table grant something, and how to read them.
type signedTable struct {
	table, key, columns, grants string
	first                       any // less than every key
	scan                        func(s scanner) (signedRow, error)
}

func (t signedTable) name() string {
	name, _, _ := strings.Cut(t.table, " ")
	return name
}

var signedTables = []signedTable{
	{"tokens AS t", "t.id", tokenColumns, notASession + " AND t.revoked_at IS NULL", int64(0), func(s scanner) (signedRow, error) {
		t, err := scanToken(s)
		return signedRow{t.ID, t.place(), t.signed}, err
	}},
	{"sessions", "id", "id, hash, token_id, expires_at, signed", "ended_at IS NULL AND expires_at > {now}", int64(0),
		func(s scanner) (signedRow, error) {
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

// byKey is the SQL that compares a table's key with one that it appends to the
// parameters.
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

// place names a row of a table and everything its MAC covers, in the same form
// on both engines.
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

// plainJSON brings a document into one form, since Postgres keeps its meaning
// and not its text.
func plainJSON(doc json.RawMessage) string {
	var v any
	if json.Unmarshal(doc, &v) != nil {
		return "not JSON: " + string(doc)
	}
	text, _ := json.Marshal(v) // what Unmarshal made can be encoded
	return string(text)
}

// sign returns the MAC of a row, nil without a key.
func (tx *Tx) sign(at seal.Place) ([]byte, error) {
	if tx.db.keys == nil {
		return nil, nil
	}
	return tx.db.keys.Mac(at)
}

// counts reports whether a row's MAC is right, and remembers a row with a wrong
// one.
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

// ours collects the rows that count. scan copies one and reports whether it
// counts.
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

// rowPage is how many rows one transaction looks at.
const rowPage = 500

// eachUnsigned walks the rows of a table that grant something and have no right
// MAC, a page and a transaction at a time. inTx, if not nil, acts on a page inside
// its transaction, which may run again; seen gets the page once it is over.
func (db *DB) eachUnsigned(ctx context.Context, t signedTable, inTx func(tx *Tx, rows []signedRow) error,
	seen func(rows []signedRow)) error {
	run, lock := db.Read, ""
	if inTx != nil {
		run, lock = db.Write, " {lock}"
	}
	for after := t.first; after != nil; {
		var next any
		var rows []signedRow
		err := run(ctx, func(tx *Tx) (err error) {
			beyond, args := byKey(t.key, ">", after, []any{rowPage})
			rows, err = list(ctx, tx, t.scan, "SELECT "+t.columns+" FROM "+t.table+" WHERE "+t.grants+" AND "+beyond+" ORDER BY "+t.key+
				" LIMIT $1"+lock, args...)
			if err != nil {
				return err
			}
			if next = nil; len(rows) == rowPage {
				next = rows[len(rows)-1].key
			}
			rows = slices.DeleteFunc(rows, func(r signedRow) bool { return db.keys.Signed(r.signed, r.at) })
			if inTx != nil {
				return inTx(tx, rows)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("rows of %s: %w", t.name(), err)
		}
		seen(rows)
		after = next
	}
	return nil
}
