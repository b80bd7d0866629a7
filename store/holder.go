package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store/seal"
)

// A name belongs to the device that was set up under it until the device gives
// it back: a device that went back to its factory state, was retired or is
// unknown has no name. Neither has a device whose set-up ended before its
// commit, unless a run works on it, so that a stranger that begins under a name
// and fails keeps nobody from it.

// unnamed is the condition that d lost its claim to a name.
const unnamed = `(d.lifecycle IN ('retired', 'unprovisioned') OR d.provisioned_at IS NULL AND d.reason <> '` +
	string(reason.CommitUnverified) + `'
	AND d.lifecycle NOT IN ('provisioning', 'verifying', 'provisioned', 'drifted', 'maintaining', 'unprovisioning'))`

// ClaimName gives a device a name that no other device has. Of two devices that
// want one name at once, the second waits for the first's transaction. The
// answer is the holder: the device itself, or another device, which stays as it
// was. The device gives back all its other names except keep, which it still
// bears.
func (tx *Tx) ClaimName(ctx context.Context, uuid amt.UUID, name, keep string) (amt.UUID, error) {
	name, keep = strings.ToLower(name), strings.ToLower(keep)
	var holder amt.UUID
	// From here on this transaction holds the row, whoever made it.
	err := tx.one(ctx, `INSERT INTO name_holders (name, uuid, claimed_at) VALUES ($1, $2, {now})
		ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING uuid`, []any{name, uuid}, &holder)
	if err == nil && holder != uuid {
		err = tx.one(ctx, `UPDATE name_holders SET uuid = $2, claimed_at = {now} WHERE name = $1
			AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.uuid = name_holders.uuid AND NOT `+unnamed+`) RETURNING uuid`, []any{name, uuid},
			&holder)
		if errors.Is(err, ErrNotFound) {
			return holder, nil
		}
	}
	if err != nil {
		return holder, fmt.Errorf("name %s: %w", name, err)
	}
	// An earlier release gave the name out without a row.
	others, err := list(ctx, tx, scanUUID,
		"SELECT d.uuid FROM devices d WHERE d.fqdn = $1 AND d.uuid <> $2 AND d.host <> '' AND d.provisioned_at IS NOT NULL AND NOT "+
			unnamed+
			" ORDER BY d.provisioned_at, d.uuid LIMIT 1", name, uuid)
	if err != nil {
		return holder, fmt.Errorf("name %s: %w", name, err)
	}
	if len(others) > 0 {
		_, err := tx.exec(ctx, "UPDATE name_holders SET uuid = $2 WHERE name = $1", name, others[0])
		if err != nil {
			err = fmt.Errorf("name %s: %w", name, err)
		}
		return others[0], err
	}
	if _, err := tx.exec(ctx, "DELETE FROM name_holders WHERE uuid = $1 AND name <> $2 AND name <> $3", uuid, name, keep); err != nil {
		return holder, fmt.Errorf("names of %s: %w", uuid, err)
	}
	return holder, nil
}

// A SharedName is a name that several managed devices bear.
type SharedName struct {
	Name    string
	Devices []amt.UUID // in the order of their set-ups
}

// SharedNames lists names that several managed devices bear, since earlier
// releases gave them out twice. of limits it to one name; "" is all.
func (tx *Tx) SharedNames(ctx context.Context, of string, limit int) ([]SharedName, error) {
	type row struct {
		name string
		uuid amt.UUID
	}
	const bearers = "FROM devices d WHERE d.fqdn <> '' AND d.host <> '' AND d.provisioned_at IS NOT NULL AND NOT " + unnamed
	rows, err := list(ctx, tx, func(s scanner) (r row, err error) { return r, s.Scan(&r.name, &r.uuid) },
		`SELECT fqdn, uuid `+bearers+` AND fqdn IN (SELECT fqdn `+bearers+
			` AND (d.fqdn = $1 OR CAST($1 AS text) = '') GROUP BY fqdn HAVING count(*) > 1 ORDER BY fqdn LIMIT $2)
		ORDER BY fqdn, provisioned_at, uuid`, of, limit)
	var out []SharedName
	for _, r := range rows {
		if n := len(out); n == 0 || out[n-1].Name != r.name {
			out = append(out, SharedName{Name: r.name})
		}
		last := &out[len(out)-1]
		last.Devices = append(last.Devices, r.uuid)
	}
	return out, about(err, "names that several devices bear")
}

// A ConsoleCertificate is a client certificate of the device CA that another
// console has.
type ConsoleCertificate struct {
	ID                             int64
	Serial                         string // hexadecimal
	Name                           string
	Fingerprint                    []byte
	IssuedTo                       string // a person's words for who has it
	CreatedBy                      string
	CreatedAt, NotAfter, RevokedAt time.Time
	RevokedBy, Why                 string
	signed                         []byte
}

const consoleColumns = "id, serial, name, fingerprint, issued_to, created_by, created_at, not_after, revoked_at, revoked_by, why, signed"

func scanConsole(s scanner) (ConsoleCertificate, error) {
	var c ConsoleCertificate
	err := s.Scan(&c.ID, &c.Serial, &c.Name, &c.Fingerprint, &c.IssuedTo, &c.CreatedBy, timeOf{&c.CreatedAt}, timeOf{&c.NotAfter},
		timeOf{&c.RevokedAt}, &c.RevokedBy, &c.Why, &c.signed)
	return c, err
}

// place names the row by the serial number, since the row has no id yet when it
// is signed.
func (c *ConsoleCertificate) place() seal.Place {
	return place("console_certificates", c.Serial, c.Name, c.Fingerprint, c.IssuedTo, c.CreatedBy, c.NotAfter)
}

// consoles reads certificates. A certificate that is not revoked counts only
// with a right MAC: its Why says if somebody else wrote the row or took a
// revocation back.
func (tx *Tx) consoles(ctx context.Context, q string, args ...any) ([]ConsoleCertificate, error) {
	return list(ctx, tx, func(s scanner) (ConsoleCertificate, error) {
		c, err := scanConsole(s)
		if err == nil && c.RevokedAt.IsZero() && !tx.counts("console_certificates", c.ID, c.place(), c.signed) {
			c.Why = "this server did not write the row like that: treat the certificate as revoked"
		}
		return c, err
	}, q, args...)
}

// AddConsoleCertificate records who got a client certificate, and returns it
// with its id.
func (tx *Tx) AddConsoleCertificate(ctx context.Context, c ConsoleCertificate) (ConsoleCertificate, error) {
	c.NotAfter = millis(c.NotAfter)
	mac, err := tx.sign(c.place())
	if err != nil {
		return c, fmt.Errorf("console certificate of %s: %w", c.Name, err)
	}
	c, err = first(tx.consoles(ctx, `INSERT INTO console_certificates (serial, name, fingerprint, issued_to, created_by, created_at,
		not_after, signed)
		VALUES ($1, $2, $3, $4, $5, {now}, $6, $7) RETURNING `+consoleColumns, c.Serial, c.Name, c.Fingerprint, c.IssuedTo, c.CreatedBy,
		c.NotAfter, mac))
	return c, about(err, "keep a console certificate")
}

// ConsoleCertificates lists the issued certificates, newest first; expired ones
// only if all is set.
func (tx *Tx) ConsoleCertificates(ctx context.Context, all bool) ([]ConsoleCertificate, error) {
	return tx.consoles(ctx, "SELECT "+consoleColumns+" FROM console_certificates WHERE not_after > {now} OR $1 ORDER BY id DESC", all)
}

// RevokeConsoleCertificate notes that a certificate must not be used any more.
// The first revocation's words stay.
func (tx *Tx) RevokeConsoleCertificate(ctx context.Context, id int64, by, why string) (ConsoleCertificate, error) {
	c, err := first(tx.consoles(ctx, `UPDATE console_certificates SET revoked_at = coalesce(revoked_at, {now}), signed = NULL,
		revoked_by = CASE WHEN revoked_at IS NULL THEN $2 ELSE revoked_by END, why = CASE WHEN revoked_at IS NULL THEN $3 ELSE why END
		WHERE id = $1 RETURNING `+consoleColumns, id, by, why))
	return c, about(err, "console certificate %d", id)
}
