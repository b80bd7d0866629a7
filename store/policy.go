package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

const profileColumns = "name, version, document, created_by, created_at"

func (p *Profile) dest() []any {
	return []any{&p.Name, &p.Version, jsonOf{&p.Document}, &p.CreatedBy, timeOf{&p.CreatedAt}}
}

// PutProfile keeps a new version of a profile and says its number. Versions
// are never changed: devices refer to them. ErrConflict when somebody else
// wrote the same version.
func (tx *Tx) PutProfile(ctx context.Context, p Profile) (int, error) {
	var top int
	if err := tx.one(ctx, "SELECT coalesce(max(version), 0) FROM profiles WHERE name = $1", []any{p.Name}, &top); err != nil {
		return 0, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	if p.Version == 0 {
		p.Version = top + 1
	}
	n, err := tx.exec(ctx, `INSERT INTO profiles (name, version, document, created_by, created_at) VALUES ($1, $2, $3, $4, {now})
		ON CONFLICT DO NOTHING`, p.Name, p.Version, p.Document, p.CreatedBy)
	if err := touched(n, err, ErrConflict); err != nil {
		return 0, fmt.Errorf("profile %s version %d: %w", p.Name, p.Version, err)
	}
	return p.Version, nil
}

// Profile reads one version; 0 is the newest.
func (tx *Tx) Profile(ctx context.Context, name string, version int) (Profile, error) {
	var p Profile
	err := tx.one(ctx, "SELECT "+profileColumns+` FROM profiles WHERE name = $1 AND (version = $2 OR CAST($2 AS integer) = 0)
		ORDER BY version DESC LIMIT 1`, []any{name, version}, p.dest()...)
	if err != nil {
		return p, fmt.Errorf("profile %s version %d: %w", name, version, err)
	}
	return p, nil
}

// Profiles lists the newest version of each.
func (tx *Tx) Profiles(ctx context.Context) ([]Profile, error) {
	return tx.profiles(ctx, "SELECT "+profileColumns+` FROM profiles p
		WHERE version = (SELECT max(version) FROM profiles WHERE name = p.name) ORDER BY name`)
}

// ProfileVersions lists all versions of one, newest first.
func (tx *Tx) ProfileVersions(ctx context.Context, name string) ([]Profile, error) {
	return tx.profiles(ctx, "SELECT "+profileColumns+" FROM profiles WHERE name = $1 ORDER BY version DESC", name)
}

// ProfilePage lists versions of one, newest first, older than before; 0 is from
// the newest.
func (tx *Tx) ProfilePage(ctx context.Context, name string, before, limit int) ([]Profile, error) {
	return tx.profiles(ctx, "SELECT "+profileColumns+` FROM profiles WHERE name = $1 AND (version < $2 OR CAST($2 AS integer) = 0)
		ORDER BY version DESC LIMIT $3`, name, before, page(limit))
}

func (tx *Tx) profiles(ctx context.Context, q string, args ...any) ([]Profile, error) {
	return list(ctx, tx, func(s scanner) (Profile, error) {
		var p Profile
		err := s.Scan(p.dest()...)
		return p, err
	}, q, args...)
}

// AssignmentRules lists the rules in the order they are tried.
func (tx *Tx) AssignmentRules(ctx context.Context) ([]AssignmentRule, error) {
	return list(ctx, tx, func(s scanner) (AssignmentRule, error) {
		var r AssignmentRule
		err := s.Scan(&r.ID, &r.Position, &r.Name, jsonOf{&r.Match}, jsonOf{&r.Assign}, &r.Enabled, timeOf{&r.UpdatedAt})
		return r, err
	}, "SELECT id, position, name, conditions, assign, enabled, updated_at FROM assignment_rules ORDER BY position, id")
}

// PutAssignmentRule makes a rule or changes the one of that name.
func (tx *Tx) PutAssignmentRule(ctx context.Context, r AssignmentRule) (int64, error) {
	var id int64
	err := tx.one(ctx, `INSERT INTO assignment_rules (position, name, conditions, assign, enabled, updated_at) VALUES ($1, $2, $3, $4, $5, {now})
		ON CONFLICT (name) DO UPDATE SET position = excluded.position, conditions = excluded.conditions, assign = excluded.assign,
			enabled = excluded.enabled, updated_at = excluded.updated_at RETURNING id`,
		[]any{r.Position, r.Name, object(r.Match), object(r.Assign), r.Enabled}, &id)
	if err != nil {
		return 0, fmt.Errorf("assignment rule %s: %w", r.Name, err)
	}
	return id, nil
}

// DeleteAssignmentRule removes a rule.
func (tx *Tx) DeleteAssignmentRule(ctx context.Context, name string) error {
	n, err := tx.exec(ctx, "DELETE FROM assignment_rules WHERE name = $1", name)
	return touched(n, err, ErrNotFound)
}

func object(j json.RawMessage) json.RawMessage {
	if len(j) == 0 {
		return json.RawMessage("{}")
	}
	return j
}

const authorisedColumns = "id, kind, value, profile, fqdn, note, created_by, created_at, expires_at, used_at"

func scanAuthorised(s scanner) (AuthorisedDevice, error) {
	var a AuthorisedDevice
	err := s.Scan(&a.ID, &a.Kind, &a.Value, &a.Profile, &a.FQDN, &a.Note, &a.CreatedBy, timeOf{&a.CreatedAt}, timeOf{&a.ExpiresAt}, timeOf{&a.UsedAt})
	return a, err
}

// Authorise lets a device in, or changes what it is let in with.
func (tx *Tx) Authorise(ctx context.Context, a AuthorisedDevice) (int64, error) {
	var id int64
	err := tx.one(ctx, `INSERT INTO authorised_devices (kind, value, profile, fqdn, note, created_by, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, {now}, $7)
		ON CONFLICT (kind, value) DO UPDATE SET profile = excluded.profile, fqdn = excluded.fqdn, note = excluded.note,
			expires_at = excluded.expires_at RETURNING id`,
		[]any{a.Kind, strings.ToLower(a.Value), a.Profile, a.FQDN, a.Note, a.CreatedBy, a.ExpiresAt}, &id)
	if err != nil {
		return 0, fmt.Errorf("authorise %s %s: %w", a.Kind, a.Value, err)
	}
	return id, nil
}

// AuthorisedFor finds the entry that lets a device in: by UUID, serial, MAC or
// network, the narrowest first; ErrNotFound when nobody authorised it.
func (tx *Tx) AuthorisedFor(ctx context.Context, d Device) (AuthorisedDevice, error) {
	a, err := tx.Authorisations(ctx, d)
	if err != nil {
		return AuthorisedDevice{}, err
	}
	return a.For(d)
}

// AuthorisedDevices lists a page of all entries.
func (tx *Tx) AuthorisedDevices(ctx context.Context, after int64, limit int) ([]AuthorisedDevice, error) {
	return list(ctx, tx, scanAuthorised, "SELECT "+authorisedColumns+" FROM authorised_devices WHERE id > $1 ORDER BY id LIMIT $2", after, page(limit))
}

// UsedAuthorisation notes that a device was let in by an entry.
func (tx *Tx) UsedAuthorisation(ctx context.Context, id int64) error {
	_, err := tx.exec(ctx, "UPDATE authorised_devices SET used_at = {now} WHERE id = $1", id)
	return err
}

// Unauthorise removes an entry.
func (tx *Tx) Unauthorise(ctx context.Context, id int64) error {
	n, err := tx.exec(ctx, "DELETE FROM authorised_devices WHERE id = $1", id)
	return touched(n, err, ErrNotFound)
}

// PutName assigns a name to a UUID, known or not.
func (tx *Tx) PutName(ctx context.Context, n Name) error {
	_, err := tx.exec(ctx, `INSERT INTO names (uuid, fqdn, source, updated_at) VALUES ($1, $2, $3, {now})
		ON CONFLICT (uuid) DO UPDATE SET fqdn = excluded.fqdn, source = excluded.source, updated_at = excluded.updated_at`, n.UUID, n.FQDN, n.Source)
	if err != nil {
		return fmt.Errorf("name of %s: %w", n.UUID, err)
	}
	return nil
}

// NameOf reads the name assigned to a UUID, or ErrNotFound.
func (tx *Tx) NameOf(ctx context.Context, uuid amt.UUID) (Name, error) {
	var n Name
	err := tx.one(ctx, "SELECT uuid, fqdn, source, updated_at FROM names WHERE uuid = $1", []any{uuid}, &n.UUID, &n.FQDN, &n.Source, timeOf{&n.UpdatedAt})
	return n, err
}
