package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/provisiond/provisiond/store"
)

// TestUsers: tokens and console logins are a user's and end with it; what a
// node of the version before wrote is found its user.
func TestUsers(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		h := func(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] }
		var id int64
		write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
			if err := tx.CreateUser(ctx, store.User{Name: "alice", Roles: []string{"operator", "viewer"}, CreatedBy: "test"}); err != nil {
				return err
			}
			if id, err = tx.CreateToken(ctx, store.Token{Name: "laptop", User: "alice", Role: "operator", Hash: h("laptop"),
				ExpiresAt: tx.Now().Add(30 * time.Minute)}); err != nil {
				return err
			}
			if _, err := tx.CreateToken(ctx, store.Token{Name: "phone", User: "alice", Role: "viewer", Hash: h("phone")}); err != nil {
				return err
			}
			for text, life := range map[string]time.Duration{"login": time.Hour, "over": -time.Second} {
				if err := tx.CreateSession(ctx, store.Session{Hash: h(text), TokenID: id, ExpiresAt: tx.Now().Add(life)}); err != nil {
					return err
				}
			}
			return nil
		})
		err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.CreateUser(t.Context(), store.User{Name: "alice"}) })
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("the same name: %v", err)
		}
		session := func(text string) (tok store.Token, err error) {
			err = db.Read(t.Context(), func(tx *store.Tx) (err error) { tok, err = tx.SessionByHash(t.Context(), h(text)); return err })
			return tok, err
		}
		token := func(text string) (tok store.Token, err error) {
			err = db.Read(t.Context(), func(tx *store.Tx) (err error) { tok, err = tx.TokenByHash(t.Context(), h(text)); return err })
			return tok, err
		}
		user := func() (u store.User) {
			t.Helper()
			read(t, db, func(ctx context.Context, tx *store.Tx) (err error) { u, err = tx.User(ctx, "alice"); return err })
			return u
		}
		if s, err := session("login"); err != nil || s.ID != id || s.User != "alice" || s.Name != "laptop" ||
			time.Until(s.ExpiresAt) > 31*time.Minute {
			t.Errorf("the login is %+v, %v; want it to end with its token", s, err)
		}
		for _, text := range []string{"over", "laptop"} {
			if _, err := session(text); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("login %s: %v", text, err)
			}
		}
		if _, err := token("login"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a login passes for a token: %v", err)
		}
		if u := user(); u.Tokens != 2 || u.Sessions != 1 || len(u.Roles) != 2 {
			t.Errorf("%+v", u)
		}
		// A user who is disabled has nothing that works, even where a row was forgotten.
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.SetUser(ctx, "alice", []string{"viewer"}, true)
		})
		for _, err := range []error{func() error { _, err := session("login"); return err }(),
			func() error { _, err := token("phone"); return err }()} {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("of a disabled user: %v", err)
			}
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(tx.SetUser(ctx, "alice", []string{"viewer"}, false), tx.RevokeToken(ctx, id))
		})
		if _, err := session("login"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a login outlives its token: %v", err)
		}
		if u := user(); u.Tokens != 1 || u.Sessions != 0 || !u.DisabledAt.IsZero() || len(u.Roles) != 1 {
			t.Errorf("%+v", u)
		}

		// Schema 8 writes no user, and keeps logins among the tokens.
		before := func(name, which string) {
			t.Helper()
			if err := db.AsBefore(t.Context()); err != nil {
				t.Fatal(err)
			}
			q := "INSERT INTO tokens (name, role, hash, created_by, created_at) SELECT '" + name +
				"', 'viewer', hash, 'token:old', created_at FROM sessions ORDER BY expires_at " + which + " LIMIT 1"
			var err error
			if db.Pool() != nil {
				_, err = db.Pool().Exec(t.Context(), q)
			} else {
				_, err = db.SQL().ExecContext(t.Context(), q)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		before("old", "DESC")
		before("session:0011", "ASC")
		if tok, err := token("login"); err != nil || tok.User != "old" {
			t.Errorf("%+v, %v", tok, err)
		}
		if _, err := token("over"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a login of the version before passes for a token: %v", err)
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.AdoptUsers(ctx) })
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			all, err := tx.Users(ctx)
			if len(all) != 2 || all[1].Name != "old" || all[1].Tokens != 1 || all[1].Roles[0] != "viewer" {
				t.Errorf("%+v", all)
			}
			return err
		})
	})
}

// TestEndedSessionsGo: the table of logins stays small.
func TestEndedSessionsGo(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			var errs []error
			for i, age := range []time.Duration{-time.Hour, 2 * time.Hour, -40 * 24 * time.Hour, -41 * 24 * time.Hour} {
				errs = append(errs, tx.CreateSession(ctx, store.Session{Hash: []byte{byte(i)}, TokenID: 1, ExpiresAt: tx.Now().Add(age)}))
			}
			return errors.Join(errs...)
		})
		if p, err := db.Prune(t.Context(), store.Retention{SessionAge: 30 * 24 * time.Hour}); err != nil || p.Sessions != 2 {
			t.Errorf("%d sessions removed, want 2: %v", p.Sessions, err)
		}
	})
}
