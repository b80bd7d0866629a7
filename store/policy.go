package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

const profileColumns = "name, version, document, created_by, created_at, signed"

// profileKey is the SQL that names a version of a profile in one text.
const profileKey = "(name || ':' || CAST(version AS text))"

func (p *Profile) dest() []any {
	return []any{&p.Name, &p.Version, jsonOf{&p.Document}, &p.CreatedBy, timeOf{&p.CreatedAt}, &p.signed}
}

func (p *Profile) place() seal.Place { return place("profiles", p.Name, p.Version, p.Document) }

// PutProfile stores a new version of a profile and returns its number. A
// version never changes, since devices refer to it. ErrConflict: somebody else
// wrote the same version.
func (tx *Tx) PutProfile(ctx context.Context, p Profile) (int, error) {
	var top int
	if err := tx.one(ctx, "SELECT coalesce(max(version), 0) FROM profiles WHERE name = $1", []any{p.Name}, &top); err != nil {
		return 0, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	if p.Version == 0 {
		p.Version = top + 1
	}
	mac, err := tx.sign(p.place())
	if err != nil {
		return 0, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	n, err := tx.exec(ctx, `INSERT INTO profiles (name, version, document, created_by, created_at, signed) VALUES ($1, $2, $3, $4, {now}, $5)
		ON CONFLICT DO NOTHING`, p.Name, p.Version, p.Document, p.CreatedBy, mac)
	if err := touched(n, err, ErrConflict); err != nil {
		return 0, fmt.Errorf("profile %s version %d: %w", p.Name, p.Version, err)
	}
	return p.Version, nil
}

// Profile reads one version; 0 is the newest.
func (tx *Tx) Profile(ctx context.Context, name string, version int) (Profile, error) {
	all, err := tx.profiles(ctx, "SELECT "+profileColumns+` FROM profiles WHERE name = $1 AND (version = $2 OR CAST($2 AS integer) = 0)
		ORDER BY version DESC LIMIT 1`, name, version)
	if err == nil && len(all) == 0 && version == 0 {
		all, err = tx.ProfileVersions(ctx, name) // the newest row may be forged
	}
	p, err := first(all, err)
	return p, about(err, "profile %s version %d", name, version)
}

// Profiles lists the newest version of each profile.
func (tx *Tx) Profiles(ctx context.Context) ([]Profile, error) {
	return tx.profiles(ctx, "SELECT "+profileColumns+` FROM profiles p
		WHERE version = (SELECT max(version) FROM profiles WHERE name = p.name) ORDER BY name`)
}

// ProfileVersions lists all versions of a profile, newest first.
func (tx *Tx) ProfileVersions(ctx context.Context, name string) ([]Profile, error) {
	return tx.profiles(ctx, "SELECT "+profileColumns+" FROM profiles WHERE name = $1 ORDER BY version DESC", name)
}

// ProfilePage lists the versions of a profile before before, newest first; 0
// begins with the newest.
func (tx *Tx) ProfilePage(ctx context.Context, name string, before, limit int) ([]Profile, error) {
	return tx.profiles(ctx, "SELECT "+profileColumns+` FROM profiles WHERE name = $1 AND (version < $2 OR CAST($2 AS integer) = 0)
		ORDER BY version DESC LIMIT $3`, name, before, page(limit))
}

func (tx *Tx) profiles(ctx context.Context, q string, args ...any) ([]Profile, error) {
	return ours(ctx, tx, func(s scanner) (p Profile, ok bool, err error) {
		err = s.Scan(p.dest()...)
		return p, err == nil && tx.counts("profiles", fmt.Sprintf("%s:%d", p.Name, p.Version), p.place(), p.signed), err
	}, q, args...)
}

// AssignmentRules lists the rules in the order of their positions.
func (tx *Tx) AssignmentRules(ctx context.Context) ([]AssignmentRule, error) {
	return ours(ctx, tx, func(s scanner) (AssignmentRule, bool, error) {
		r, err := scanRule(s)
		return r, err == nil && tx.counts("assignment_rules", r.ID, r.place(), r.signed), err
	}, "SELECT "+ruleColumns+" FROM assignment_rules ORDER BY position, id")
}

const ruleColumns = "id, position, name, conditions, assign, enabled, updated_at, signed"

func scanRule(s scanner) (AssignmentRule, error) {
	var r AssignmentRule
	err := s.Scan(&r.ID, &r.Position, &r.Name, jsonOf{&r.Match}, jsonOf{&r.Assign}, &r.Enabled, timeOf{&r.UpdatedAt}, &r.signed)
	return r, err
}

func (r *AssignmentRule) place() seal.Place {
	return place("assignment_rules", r.Name, r.Position, r.Match, r.Assign, r.Enabled)
}

// PutAssignmentRule makes a rule, or changes the rule of that name.
func (tx *Tx) PutAssignmentRule(ctx context.Context, r AssignmentRule) (int64, error) {
	r.Match, r.Assign = object(r.Match), object(r.Assign)
	mac, err := tx.sign(r.place())
	if err != nil {
		return 0, fmt.Errorf("assignment rule %s: %w", r.Name, err)
	}
	var id int64
	err = tx.one(ctx, `INSERT INTO assignment_rules (position, name, conditions, assign, enabled, updated_at, signed) VALUES ($1, $2, $3,
		$4, $5, {now}, $6)
		ON CONFLICT (name) DO UPDATE SET position = excluded.position, conditions = excluded.conditions, assign = excluded.assign,
			enabled = excluded.enabled, updated_at = excluded.updated_at, signed = excluded.signed RETURNING id`,
		[]any{r.Position, r.Name, r.Match, r.Assign, r.Enabled, mac}, &id)
	return id, about(err, "assignment rule %s", r.Name)
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

const authorisedColumns = "id, kind, value, profile, fqdn, note, created_by, created_at, expires_at, used_at, signed"

func scanAuthorised(s scanner) (AuthorisedDevice, error) {
	var a AuthorisedDevice
	err := s.Scan(&a.ID, &a.Kind, &a.Value, &a.Profile, &a.FQDN, &a.Note, &a.CreatedBy, timeOf{&a.CreatedAt}, timeOf{&a.ExpiresAt},
		timeOf{&a.UsedAt}, &a.signed)
	return a, err
}

func (a *AuthorisedDevice) place() seal.Place {
	return place("authorised_devices", a.Kind, a.Value, a.Profile, a.FQDN, a.ExpiresAt)
}

// ourEntry reads an entry and reports whether its MAC is right.
func (tx *Tx) ourEntry(s scanner) (AuthorisedDevice, bool, error) {
	a, err := scanAuthorised(s)
	return a, err == nil && tx.counts("authorised_devices", a.ID, a.place(), a.signed), err
}

// Authorise lets a device in, or changes the profile and name with which it
// comes in.
func (tx *Tx) Authorise(ctx context.Context, a AuthorisedDevice) (int64, error) {
	a.Value = strings.ToLower(a.Value)
	mac, err := tx.sign(a.place())
	if err != nil {
		return 0, fmt.Errorf("authorise %s %s: %w", a.Kind, a.Value, err)
	}
	var id int64
	err = tx.one(ctx, `INSERT INTO authorised_devices (kind, value, profile, fqdn, note, created_by, created_at, expires_at, signed)
		VALUES ($1, $2, $3, $4, $5, $6, {now}, $7, $8)
		ON CONFLICT (kind, value) DO UPDATE SET profile = excluded.profile, fqdn = excluded.fqdn, note = excluded.note,
			expires_at = excluded.expires_at, signed = excluded.signed RETURNING id`,
		[]any{a.Kind, a.Value, a.Profile, a.FQDN, a.Note, a.CreatedBy, a.ExpiresAt, mac}, &id)
	return id, about(err, "authorise %s %s", a.Kind, a.Value)
}

// AuthorisedFor finds the entry that lets a device in: by UUID, serial, MAC or
// network, the narrowest first; ErrNotFound if nobody authorised the device.
func (tx *Tx) AuthorisedFor(ctx context.Context, d Device) (AuthorisedDevice, error) {
	a, err := tx.Authorisations(ctx, d)
	if err != nil {
		return AuthorisedDevice{}, err
	}
	return a.For(d)
}

// AuthorisedDevices lists a page of all entries.
func (tx *Tx) AuthorisedDevices(ctx context.Context, after int64, limit int) ([]AuthorisedDevice, error) {
	return ours(ctx, tx, tx.ourEntry, "SELECT "+authorisedColumns+" FROM authorised_devices WHERE id > $1 ORDER BY id LIMIT $2", after,
		page(limit))
}

// UsedAuthorisation notes that an entry let a device in.
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
	mac, err := tx.sign(n.place())
	if err == nil {
		_, err = tx.exec(ctx, `INSERT INTO names (uuid, fqdn, source, updated_at, signed) VALUES ($1, $2, $3, {now}, $4)
			ON CONFLICT (uuid) DO UPDATE SET fqdn = excluded.fqdn, source = excluded.source, updated_at = excluded.updated_at,
			signed = excluded.signed`, n.UUID, n.FQDN, n.Source, mac)
	}
	return about(err, "name of %s", n.UUID)
}

// NameOf reads the name assigned to a UUID, or ErrNotFound.
func (tx *Tx) NameOf(ctx context.Context, uuid amt.UUID) (Name, error) {
	return first(tx.names(ctx, "SELECT "+nameColumns+" FROM names WHERE uuid = $1", uuid))
}

const nameColumns = "uuid, fqdn, source, updated_at, signed"

func (n *Name) dest() []any {
	return []any{&n.UUID, &n.FQDN, &n.Source, timeOf{&n.UpdatedAt}, &n.signed}
}

func (n *Name) place() seal.Place { return place("names", n.UUID, n.FQDN, n.Source) }

// names reads the names with a right MAC.
func (tx *Tx) names(ctx context.Context, q string, args ...any) ([]Name, error) {
	return ours(ctx, tx, func(s scanner) (n Name, ok bool, err error) {
		err = s.Scan(n.dest()...)
		return n, err == nil && tx.counts("names", n.UUID, n.place(), n.signed), err
	}, q, args...)
}
