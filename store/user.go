package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/store/seal"
)

const userColumns = `u.name, u.roles, u.created_by, u.created_at, u.disabled_at, u.signed,
	(SELECT count(*) FROM tokens t WHERE ` + tokenUser + ` = u.name AND ` + goodToken + `),
	(SELECT count(*) FROM sessions s JOIN tokens t ON t.id = s.token_id WHERE ` + tokenUser +
	` = u.name AND s.ended_at IS NULL AND s.expires_at > {now} AND ` + goodToken + `)`

// scanUser reads a user; a user without a right MAC has no roles.
func (tx *Tx) scanUser(s scanner) (User, error) {
	var u User
	var roles string
	err := s.Scan(&u.Name, &roles, &u.CreatedBy, timeOf{&u.CreatedAt}, timeOf{&u.DisabledAt}, &u.signed, &u.Tokens, &u.Sessions)
	if u.Forged = err == nil && !tx.counts("users", u.Name, u.place(roles), u.signed); !u.Forged {
		u.Roles = strings.Split(roles, ",")
	}
	return u, err
}

func (u *User) place(roles string) seal.Place {
	return place("users", u.Name, roles, !u.DisabledAt.IsZero())
}

// CreateUser adds a user; ErrConflict if the name is in use.
func (tx *Tx) CreateUser(ctx context.Context, u User) error {
	roles := strings.Join(u.Roles, ",")
	mac, err := tx.sign(u.place(roles))
	if err == nil {
		_, err = tx.exec(ctx, "INSERT INTO users (name, roles, created_by, created_at, signed) VALUES ($1, $2, $3, {now}, $4)", u.Name,
			roles,
			u.CreatedBy, mac)
	}
	return about(err, "user %s", u.Name)
}

// AdoptUsers makes a user of each token without one, which a node of the
// release before made meanwhile. Once the rows are signed there is no such
// node.
func (tx *Tx) AdoptUsers(ctx context.Context) error {
	if tx.db.strict.Load() {
		return nil
	}
	return tx.adoptUsers(ctx)
}

func (tx *Tx) adoptUsers(ctx context.Context) error {
	if _, err := tx.exec(ctx, `INSERT INTO users (name, roles, created_by, created_at)
		SELECT t.name, t.role, t.created_by, t.created_at FROM tokens t WHERE t.user_name = '' AND `+notASession+`
			AND NOT EXISTS (SELECT 1 FROM tokens newer WHERE newer.name = t.name AND newer.id > t.id)
		ON CONFLICT DO NOTHING`); err != nil {
		return fmt.Errorf("adopt users: %w", err)
	}
	_, err := tx.exec(ctx, "UPDATE tokens SET user_name = name WHERE user_name = '' AND name NOT LIKE 'session:%'")
	return err
}

// User reads one user with the number of good tokens and console logins.
func (tx *Tx) User(ctx context.Context, name string) (User, error) {
	v, err := first(list(ctx, tx, tx.scanUser, "SELECT "+userColumns+" FROM users u WHERE u.name = $1", name))
	return v, about(err, "user %s", name)
}

// Users lists all users by name, disabled ones too.
func (tx *Tx) Users(ctx context.Context) ([]User, error) {
	return list(ctx, tx, tx.scanUser, "SELECT "+userColumns+" FROM users u ORDER BY u.name")
}

// SetUser changes a user's roles, and whether it is disabled. The caller ends
// its tokens.
func (tx *Tx) SetUser(ctx context.Context, name string, roles []string, disabled bool) error {
	now := User{Name: name}
	if disabled {
		now.DisabledAt = tx.Now()
	}
	mac, err := tx.sign(now.place(strings.Join(roles, ",")))
	if err != nil {
		return fmt.Errorf("user %s: %w", name, err)
	}
	n, err := tx.exec(ctx, `UPDATE users SET roles = $2, disabled_at = CASE WHEN $3 THEN coalesce(disabled_at, {now}) END, signed = $4
		WHERE name = $1`,
		name, strings.Join(roles, ","), disabled, mac)
	return about(touched(n, err, ErrNotFound), "user %s", name)
}
