package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// granted fills a database with one row of each kind that grants something.
func granted(t *testing.T, db *store.DB) (own, other amt.UUID) {
	t.Helper()
	own, other = uuid(1), uuid(2)
	write(t, db, func(ctx context.Context, tx *store.Tx) error {
		var errs []error
		note := func(err error) { errs = append(errs, err) }
		note(tx.CreateUser(ctx, store.User{Name: "alice", Roles: []string{"viewer"}, CreatedBy: "test"}))
		id, err := tx.CreateToken(ctx, store.Token{Name: "alice", Role: "viewer", Hash: hash("alice"), ExpiresAt: tx.Now().Add(time.Hour)})
		note(err)
		admin, err := tx.CreateToken(ctx, store.Token{Name: "root", Role: "admin", Hash: hash("root")})
		note(err)
		gone, err := tx.CreateToken(ctx, store.Token{Name: "gone", Role: "admin", Hash: hash("gone")})
		note(err)
		note(tx.CreateSession(ctx, store.Session{Hash: hash("login"), TokenID: id, ExpiresAt: tx.Now().Add(time.Hour)}))
		note(tx.CreateSession(ctx, store.Session{Hash: hash("root-login"), TokenID: admin, ExpiresAt: tx.Now().Add(time.Hour)}))
		note(tx.RevokeToken(ctx, gone))
		_, err = tx.Authorise(ctx, store.AuthorisedDevice{Kind: "uuid", Value: own.String(), Profile: "office", FQDN: "pc1.example.com"})
		note(err)
		_, err = tx.PutAssignmentRule(ctx, store.AssignmentRule{Name: "all", Position: 1, Match: json.RawMessage(`{"tag": "a", "n": 1.50}`),
			Assign: json.RawMessage(`{"profile": "office"}`), Enabled: true})
		note(err)
		_, err = tx.PutProfile(ctx, store.Profile{Name: "office", Document: json.RawMessage(`{"tls": "mutual",  "a": [1, 2]}`)})
		note(err)
		note(tx.PutName(ctx, store.Name{UUID: own, FQDN: "pc1.example.com", Source: "api"}))
		note(tx.ImportDevice(ctx, own, "test", store.DeviceFacts{Approved: new(true), AssignedProfile: new("office"),
			Address: new(netip.MustParseAddr("10.0.0.7"))}))
		note(tx.ImportDevice(ctx, other, "test", store.DeviceFacts{}))
		gen, err := tx.StageCredentials(ctx, own, 0, amt.NewSecret("Abcd1234!"), amt.Secret{})
		note(err)
		note(tx.Known(ctx, own, gen, []store.Proof{{Kind: store.ProofKey, Hash: [32]byte{1}}}, false))
		note(tx.Vouch(ctx, own, nil))
		note(tx.PutSetting(ctx, store.KeptProfile+"default@1", "{}"))
		_, err = tx.CreateRun(ctx, store.NewRun{UUID: own, Kind: "maintain", Trigger: "timer", Profile: "office"})
		note(err)
		ended, err := tx.CreateRun(ctx, store.NewRun{UUID: other, Kind: "unprovision", Trigger: "api"})
		note(err)
		note(tx.FinishRun(ctx, ended.ID, store.RunFailed, reason.Cancelled, "", ""))
		job, err := tx.CreateJob(ctx, store.BulkJob{Kind: "unprovision", State: store.JobDraft, CreatedBy: "alice"})
		note(err)
		note(tx.AddJobItems(ctx, job, []amt.UUID{own}))
		over, err := tx.CreateJob(ctx, store.BulkJob{Kind: "tag", State: store.JobRunning, CreatedBy: "alice"})
		note(err)
		note(tx.AddJobItems(ctx, over, []amt.UUID{own, other}))
		_, err = tx.SkipJobItems(ctx, over, "")
		note(errors.Join(err, tx.SetJobState(ctx, over, store.JobAborted, "")))
		for _, serial := range []string{"01", "02"} {
			c, err := tx.AddConsoleCertificate(ctx, store.ConsoleCertificate{Serial: serial, Name: "console.example.com",
				Fingerprint: hash(serial), CreatedBy: "alice", NotAfter: tx.Now().Add(time.Hour)})
			if note(err); serial == "02" {
				_, err = tx.RevokeConsoleCertificate(ctx, c.ID, "alice", "left")
				note(err)
			}
		}
		_, err = tx.CreateOTP(ctx, store.OTP{UUID: own, Password: amt.NewSecret("Kx7-one-time"), ExpiresAt: tx.Now().Add(time.Hour)})
		note(err)
		return errors.Join(errs...)
	})
	return own, other
}

func hash(s string) []byte { return fmt.Appendf(nil, "%-32s", s) }

// rights says what is granted, in one line each.
func rights(t *testing.T, db *store.DB, own, other amt.UUID) (out []string) {
	t.Helper()
	read(t, db, func(ctx context.Context, tx *store.Tx) error {
		out = nil
		say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
		for _, h := range []string{"alice", "root", "gone", "mallory"} {
			if tok, err := tx.TokenByHash(ctx, hash(h)); err == nil {
				say("token %s %s", tok.Name, tok.Role)
			}
		}
		for _, h := range []string{"login", "root-login", "mallory"} {
			if tok, err := tx.SessionByHash(ctx, hash(h)); err == nil {
				say("login %s %s", h, tok.Role)
			}
		}
		users, err := tx.Users(ctx)
		for _, u := range users {
			if len(u.Roles) > 0 {
				say("user %s %s", u.Name, strings.Join(u.Roles, ","))
			}
		}
		rules, err2 := tx.AssignmentRules(ctx)
		for _, r := range rules {
			say("rule %s %t", r.Name, r.Enabled)
		}
		for _, u := range []amt.UUID{own, other} {
			d, err := tx.Device(ctx, u)
			if err != nil {
				return err
			}
			if d.Approved || d.AssignedProfile != "" || len(d.Vouched) > 0 {
				say("device %s %t %s %x %s", u, d.Approved, d.AssignedProfile, d.Vouched, d.Address)
			}
			all, err := tx.Credentials(ctx, u, store.KindAdmin)
			if err != nil {
				return err
			}
			for _, c := range all {
				for _, p := range c.Proofs {
					say("proof %s %x", u, p.Hash[:2])
				}
			}
			if a, err := tx.AuthorisedFor(ctx, d); err == nil {
				say("list %s %s %s", a.Value, a.Profile, a.FQDN)
			}
			if n, err := tx.NameOf(ctx, u); err == nil {
				say("name %s %s", u, n.FQDN)
			}
			if _, err := tx.OTPFor(ctx, u); err == nil {
				say("otp %s", u)
			}
			if r, err := tx.LiveRun(ctx, u); err == nil {
				say("run %s %s %s %s %s", u, r.Kind, r.Trigger, r.Profile, r.Task)
			}
		}
		if p, err := tx.Profile(ctx, "office", 0); err == nil {
			say("profile %d %s", p.Version, inOneForm(p.Document))
		}
		for v := range 3 {
			if doc, err := tx.Setting(ctx, fmt.Sprintf("%sdefault@%d", store.KeptProfile, v)); err == nil {
				say("kept %d %s", v, doc)
			}
		}
		consoles, err4 := tx.ConsoleCertificates(ctx, true)
		for _, c := range consoles {
			if c.RevokedAt.IsZero() && c.Why == "" {
				say("console %s", c.Serial)
			}
		}
		jobs, err3 := tx.Jobs(ctx, "", 0)
		for _, j := range jobs {
			if j.State == store.JobForged || j.State == store.JobAborted {
				continue
			}
			say("job %s %s %s %s %s", j.Kind, j.State, j.CreatedBy, j.ApprovedBy, inOneForm(j.Options))
			items, err := tx.NextInWave(ctx, j.ID, false, false, 10)
			if err != nil {
				return err
			}
			for _, i := range items {
				say("part %s %s", j.Kind, i.UUID)
			}
		}
		return errors.Join(err, err2, err3, err4)
	})
	return out
}

func inOneForm(doc json.RawMessage) string {
	var v any
	_ = json.Unmarshal(doc, &v)
	b, _ := json.Marshal(v)
	return string(b)
}

// TestForgedRowsCountForNothing: whoever writes into the database becomes nobody
// by it: not by a row of their own, nor by a change, nor by a copy of a good row.
func TestForgedRowsCountForNothing(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		own, other := granted(t, db)
		honest := rights(t, db, own, other)
		if len(honest) != 17 {
			t.Fatalf("%d rights:\n%s", len(honest), strings.Join(honest, "\n"))
		}
		now, blob := "CAST(unixepoch('subsec') * 1000 AS integer)", func(s string) string { return fmt.Sprintf("x'%x'", s) }
		if db.Pool() != nil {
			now, blob = "now()", func(s string) string { return fmt.Sprintf(`'\x%x'`, s) }
		}
		hourMore := "3600000"
		if db.Pool() != nil {
			hourMore = "interval '1 hour'"
		}
		later := now + " + " + hourMore
		good := func(table, where string) string { return "(SELECT signed FROM " + table + " WHERE " + where + ")" }
		for _, c := range []struct {
			name, attack, undo string
			lost               []string // of the honest rights: the row itself was touched
		}{
			{"a token of one's own", "INSERT INTO tokens (name, user_name, role, hash, created_at) VALUES ('mallory', 'mallory', 'admin', " + blob(string(hash("mallory"))) + ", " + now + ")",
				"DELETE FROM tokens WHERE name = 'mallory'", nil},
			{"a token with a good one's MAC", "INSERT INTO tokens (name, user_name, role, hash, created_at, signed) VALUES ('mallory', 'mallory', 'admin', " + blob(string(hash("mallory"))) + ", " + now + ", " + good("tokens", "name = 'root'") + ")",
				"DELETE FROM tokens WHERE name = 'mallory'", nil},
			{"another role", "UPDATE tokens SET role = 'admin' WHERE name = 'alice'", "UPDATE tokens SET role = 'viewer' WHERE name = 'alice'", []string{"token alice", "login login"}},
			{"a revoked token brought back", "UPDATE tokens SET revoked_at = NULL WHERE name = 'gone'", "UPDATE tokens SET revoked_at = created_at WHERE name = 'gone'", nil},
			{"a login of one's own", "INSERT INTO sessions (hash, token_id, created_at, expires_at) SELECT " + blob(string(hash("mallory"))) + ", id, " + now + ", " + later + " FROM tokens WHERE name = 'root'",
				"DELETE FROM sessions WHERE hash = " + blob(string(hash("mallory"))), nil},
			{"a login under another token", "UPDATE sessions SET token_id = (SELECT id FROM tokens WHERE name = 'root') WHERE hash = " + blob(string(hash("login"))),
				"UPDATE sessions SET token_id = (SELECT id FROM tokens WHERE name = 'alice') WHERE hash = " + blob(string(hash("login"))),
				[]string{"login login"}},
			{"other roles of a user", "UPDATE users SET roles = 'admin' WHERE name = 'alice'", "UPDATE users SET roles = 'viewer' WHERE name = 'alice'", []string{"user alice"}},
			{"an approval", "UPDATE devices SET approved = true WHERE uuid = '" + other.String() + "'", "UPDATE devices SET approved = false WHERE uuid = '" + other.String() + "'", nil},
			{"an approval with a good one's MAC", "UPDATE devices SET approved = true, assigned_profile = 'office', signed = " + good("devices", "uuid = '"+own.String()+"'") + " WHERE uuid = '" + other.String() + "'",
				"UPDATE devices SET approved = false, assigned_profile = '', signed = NULL WHERE uuid = '" + other.String() + "'", nil},
			{"another profile given", "UPDATE devices SET assigned_profile = 'weak' WHERE uuid = '" + own.String() + "'", "UPDATE devices SET assigned_profile = 'office' WHERE uuid = '" + own.String() + "'", []string{"device " + own.String()}},
			{"an approval at another address", "UPDATE devices SET address = '10.6.6.6' WHERE uuid = '" + own.String() + "'", "UPDATE devices SET address = '10.0.0.7' WHERE uuid = '" + own.String() + "'", []string{"device " + own.String()}},
			{"a revocation of a console's certificate taken back", "UPDATE console_certificates SET revoked_at = NULL, revoked_by = '', why = '' WHERE serial = '02'",
				"UPDATE console_certificates SET revoked_at = created_at, revoked_by = 'alice', why = 'left' WHERE serial = '02'", nil},
			{"the same with a good one's MAC", "UPDATE console_certificates SET revoked_at = NULL, why = '', signed = " + good("console_certificates", "serial = '01'") + " WHERE serial = '02'",
				"UPDATE console_certificates SET revoked_at = created_at, revoked_by = 'alice', why = 'left', signed = NULL WHERE serial " +
					"= '02'", nil},
			{"a console's certificate for longer", "UPDATE console_certificates SET not_after = not_after + " + hourMore + " WHERE serial = '01'", "UPDATE console_certificates SET not_after = not_after - " + hourMore + " WHERE serial = '01'", []string{"console 01"}},
			{"a word for a stranger's certificate", "UPDATE devices SET vouched = " + blob("f") + " WHERE uuid = '" + other.String() + "'", "UPDATE devices SET vouched = NULL WHERE uuid = '" + other.String() + "'", nil},
			{"a stranger's key as proof", "UPDATE credentials SET proofs = " + blob("k"+strings.Repeat("z", 32)), "UPDATE credentials SET proofs = " + blob("k\x01"+strings.Repeat("\x00", 31)), []string{"proof"}},
			{"an entry of the list", "INSERT INTO authorised_devices (kind, value, created_at) VALUES ('uuid', '" + other.String() + "', " + now + ")", "DELETE FROM authorised_devices WHERE value = '" + other.String() + "'", nil},
			{"a network on the list", "INSERT INTO authorised_devices (kind, value, created_at, signed) VALUES ('network', '0.0.0.0/0', " + now + ", " + good("authorised_devices", "kind = 'uuid'") + ")", "DELETE FROM authorised_devices WHERE kind = 'network'", nil},
			{"an entry for another device", "UPDATE authorised_devices SET value = '" + other.String() + "'", "UPDATE authorised_devices SET value = '" + own.String() + "'", []string{"list"}},
			{"a rule", "INSERT INTO assignment_rules (position, name, conditions, assign, updated_at) VALUES (0, 'mine', '{}', '{\"profile\": \"weak\"}', " + now + ")", "DELETE FROM assignment_rules WHERE name = 'mine'", nil},
			{"a rule changed", "UPDATE assignment_rules SET assign = '{\"profile\": \"weak\"}'", "UPDATE assignment_rules SET assign = '{\"profile\":\"office\"}'", []string{"rule"}},
			{"a newer profile", "INSERT INTO profiles (name, version, document, created_at) VALUES ('office', 2, '{\"tls\": \"none\"}', " + now + ")", "DELETE FROM profiles WHERE version = 2", nil},
			{"a profile changed", "UPDATE profiles SET document = '{\"tls\": \"none\"}'", "UPDATE profiles SET document = '{\"a\":[1,2],\"tls\":\"mutual\"}'", []string{"profile"}},
			{"another name", "UPDATE names SET fqdn = 'dc1.example.com'", "UPDATE names SET fqdn = 'pc1.example.com'", []string{"name"}},
			{"a name moved", "UPDATE names SET uuid = '" + other.String() + "'", "UPDATE names SET uuid = '" + own.String() + "'", []string{"name"}},
			{"a one-time password given to another device", "UPDATE otps SET uuid = '" + other.String() + "'", "UPDATE otps SET uuid = '" + own.String() + "'", []string{"otp"}},
			{"a version of the configuration's profile", "UPDATE settings SET value = '{\"tls\": \"none\"}' WHERE key = 'profile_configured:default@1'", "UPDATE settings SET value = '{}' WHERE key = 'profile_configured:default@1'", []string{"kept"}},
			{"a version that nobody had", "INSERT INTO settings (key, value, updated_at, signed) SELECT 'profile_configured:default@2', value, updated_at, signed FROM settings WHERE key = 'profile_configured:default@1'", "DELETE FROM settings WHERE key = 'profile_configured:default@2'", nil},
			{"a run of one's own", "INSERT INTO runs (uuid, kind, triggered_by, state, created_at, not_before) VALUES ('" + other.String() + "', 'unprovision', 'api', 'queued', " + now + ", " + now + ")", "DELETE FROM runs WHERE uuid = '" + other.String() + "' AND state = 'queued'", nil},
			{"a run with a good one's MAC", "INSERT INTO runs (uuid, kind, triggered_by, state, profile, created_at, not_before, signed) SELECT '" + other.String() + "', kind, triggered_by, state, profile, created_at, not_before, signed FROM runs WHERE state = 'queued'",
				"DELETE FROM runs WHERE uuid = '" + other.String() + "' AND state = 'queued'", nil},
			{"a run of another kind", "UPDATE runs SET kind = 'unprovision' WHERE state = 'queued'", "UPDATE runs SET kind = 'maintain' WHERE state = 'queued'", []string{"run"}},
			{"a run with another task", "UPDATE runs SET task = 'x' WHERE state = 'queued'", "UPDATE runs SET task = '' WHERE state = 'queued'", []string{"run"}},
			{"a run in a person's name", "UPDATE runs SET triggered_by = 'api' WHERE state = 'queued'", "UPDATE runs SET triggered_by = 'timer' WHERE state = 'queued'", []string{"run"}},
			{"a run that has ended brought back", "UPDATE runs SET state = 'queued', finished_at = NULL WHERE uuid = '" + other.String() + "'", "UPDATE runs SET state = 'failed', finished_at = created_at WHERE uuid = '" + other.String() + "'", nil},
			{"a job of one's own", "INSERT INTO jobs (kind, filter, options, state, created_by, created_at) VALUES ('approve', '{}', '{}', 'running', 'alice', " + now + ")", "DELETE FROM jobs WHERE kind = 'approve'", nil},
			{"a job with a good one's MAC", "INSERT INTO jobs (kind, filter, options, state, per_minute, created_by, created_at, signed) SELECT kind, filter, options, state, per_minute, 'bob', created_at, signed FROM jobs WHERE kind = 'unprovision'", "DELETE FROM jobs WHERE created_by = 'bob'", nil},
			{"an approval of a job", "UPDATE jobs SET approved_by = 'bob', state = 'waiting' WHERE kind = 'unprovision'", "UPDATE jobs SET approved_by = '', state = 'draft' WHERE kind = 'unprovision'", []string{"job", "part"}},
			{"a job begun", "UPDATE jobs SET state = 'running' WHERE kind = 'unprovision'", "UPDATE jobs SET state = 'draft' WHERE kind = 'unprovision'", []string{"job", "part"}},
			{"a job that has ended brought back", "UPDATE jobs SET state = 'running' WHERE kind = 'tag'", "UPDATE jobs SET state = 'aborted' WHERE kind = 'tag'", nil},
			{"other options of a job", "UPDATE jobs SET options = '{\"mode\": \"full\"}' WHERE kind = 'unprovision'", "UPDATE jobs SET options = '{}' WHERE kind = 'unprovision'", []string{"job", "part"}},
			{"another maker of a job", "UPDATE jobs SET created_by = 'bob' WHERE kind = 'unprovision'", "UPDATE jobs SET created_by = 'alice' WHERE kind = 'unprovision'", []string{"job", "part"}},
			{"a device for a job", "INSERT INTO job_items (job_id, uuid, state, updated_at, signed) SELECT job_id, '" + other.String() + "', state, updated_at, signed FROM job_items WHERE state = 'waiting'",
				"DELETE FROM job_items WHERE uuid = '" + other.String() + "' AND state = 'waiting'", nil},
			{"a device that was done brought back", "UPDATE job_items SET state = 'waiting' WHERE state = 'skipped' AND uuid = '" + other.String() + "'", "UPDATE job_items SET state = 'skipped' WHERE uuid = '" + other.String() + "'", nil},
			{"a device that proves a job", "UPDATE job_items SET state = 'done', wave = 1 WHERE state = 'waiting'", "UPDATE job_items SET state = 'waiting', wave = 0 WHERE state = 'done'", []string{"part"}},
			{"a later end", "UPDATE tokens SET expires_at = NULL WHERE name = 'alice'", "", []string{"token alice", "login login"}},
		} {
			if err := db.Exec(t.Context(), c.attack); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			want := slices.DeleteFunc(slices.Clone(honest), func(s string) bool {
				return slices.ContainsFunc(c.lost, func(l string) bool { return strings.HasPrefix(s, l) })
			})
			if got := rights(t, db, own, other); !slices.Equal(got, want) {
				t.Errorf("%s: rights\n\t%s\nwant\n\t%s", c.name, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
			found, err := db.CheckRows(t.Context())
			if err != nil || found.Count != 1 {
				t.Errorf("%s: found %+v, %v", c.name, found, err)
			}
			if c.undo == "" { // the end is put back by the store itself
				write(t, db, func(ctx context.Context, tx *store.Tx) error {
					all, err := tx.Tokens(ctx)
					i := slices.IndexFunc(all, func(x store.Token) bool { return x.Name == "alice" })
					if err != nil || !all[i].Forged {
						t.Errorf("%s: %+v, %v", c.name, all, err)
					}
					return errors.Join(tx.RevokeToken(ctx, all[i].ID))
				})
				write(t, db, func(ctx context.Context, tx *store.Tx) error {
					id, err := tx.CreateToken(ctx,
						store.Token{Name: "alice", Role: "viewer", Hash: hash("alice2"), ExpiresAt: tx.Now().Add(time.Hour)})
					return errors.Join(err, tx.CreateSession(ctx,
						store.Session{Hash: hash("login2"), TokenID: id, ExpiresAt: tx.Now().Add(time.Hour)}))
				})
				honest = rights(t, db, own, other)
				continue
			}
			if err := db.Exec(t.Context(), c.undo); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if got := rights(t, db, own, other); !slices.Equal(got, honest) {
				t.Errorf("%s: put back as it was, the rights are\n\t%s", c.name, strings.Join(got, "\n\t"))
			}
		}
	})
}

// TestForgedRowsAreAuditedOnce: however often they are met and asked for.
func TestForgedRowsAreAuditedOnce(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		own, other := granted(t, db)
		said := func() (n int) {
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				all, err := tx.AuditRecords(ctx, 0, 0)
				for _, r := range all {
					if r.Action == store.ActionRowsRefused {
						n++
					}
				}
				return err
			})
			return n
		}
		for _, step := range []struct {
			change string
			rows   int
			said   int
		}{
			{"", 0, 0},
			{"UPDATE devices SET approved = true WHERE uuid = '" + other.String() + "'", 1, 1},
			{"", 1, 1},
			{"UPDATE users SET roles = 'admin'", 2, 2},
			{"", 2, 2},
			{"UPDATE users SET roles = 'viewer'", 1, 3},
		} {
			if step.change != "" {
				if err := db.Exec(t.Context(), step.change); err != nil {
					t.Fatal(err)
				}
			}
			_ = rights(t, db, own, other)
			for range 2 {
				found, err := db.AuditRefused(t.Context())
				if err != nil || found.Count != step.rows || said() != step.said {
					t.Errorf("after %q: %+v, %v; %d records, want %d", step.change, found, err, said(), step.said)
				}
			}
		}
		// An honest change of the device signs nothing that was slipped in beside it.
		if err := db.Exec(t.Context(), "UPDATE devices SET assigned_profile = 'weak' WHERE uuid = '"+own.String()+"'"); err != nil {
			t.Fatal(err)
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, own, store.DeviceFacts{Approved: new(true)})
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			d, err := tx.Device(ctx, own)
			if !d.Approved || d.AssignedProfile != "" {
				t.Errorf("%t %q", d.Approved, d.AssignedProfile)
			}
			return err
		})
	})
}

// TestRowsOfBeforeAreSignedOnce: an upgraded database loses no right, and whoever
// takes the mark away gets nothing signed.
func TestRowsOfBeforeAreSignedOnce(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := place(t, engine)
			o.Dir = t.TempDir()
			db := open(t, o)
			own, other := granted(t, db)
			honest := rights(t, db, own, other)
			if n, err := db.SignRows(t.Context()); n != nil || err != nil {
				t.Errorf("a new database is signed: %v, %v", n, err)
			}
			if err := db.AsBefore(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, table := range []string{"tokens", "sessions", "users", "authorised_devices", "assignment_rules", "profiles", "names",
				"otps", "devices", "credentials", "runs", "jobs", "job_items", "settings", "console_certificates"} {
				if err := db.Exec(t.Context(), "UPDATE "+table+" SET signed = NULL"); err != nil {
					t.Fatal(err)
				}
			}
			reopen := func(dir string) *store.DB {
				t.Helper()
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				o := again(t, o)
				if dir != "" {
					o.Dir = dir
				}
				return open(t, o)
			}
			db = reopen("")
			if got := rights(t, db, own, other); db.RowsStrict() || !slices.Equal(got, honest) {
				t.Fatalf("before they are signed, rows count: %v", got)
			}
			// A node of the release before is about: what it writes must not be lost.
			if err := db.Exec(t.Context(), "INSERT INTO nodes (id, boot, started_at, seen_at) SELECT 'old', 'b', created_at, created_at "+
				"FROM data_keys"); err != nil {
				t.Fatal(err)
			}
			if engine == store.Postgres {
				if _, err := db.SignRows(t.Context()); !errors.Is(err, store.ErrOldNodes) || db.RowsStrict() {
					t.Fatalf("beside an old node: %v", err)
				}
			}
			if err := db.Exec(t.Context(), "DELETE FROM nodes"); err != nil {
				t.Fatal(err)
			}
			n, err := db.SignRows(t.Context())
			if err != nil || n["tokens"] != 2 || n["sessions"] != 2 || n["users"] != 1 || n["devices"] != 1 ||
				n["authorised_devices"] != 1 || n["otps"] != 1 || !db.RowsStrict() {
				t.Fatalf("%v, %v", n, err)
			}
			if got := rights(t, db, own, other); !slices.Equal(got, honest) {
				t.Errorf("signed: %v", got)
			}
			records := func() (n int) {
				read(t, db, func(ctx context.Context, tx *store.Tx) error {
					all, err := tx.AuditRecords(ctx, 0, 0)
					for _, r := range all {
						if r.Action == store.ActionRowsSigned {
							n++
							if r.Detail["rows"] != 17.0 || r.Detail["console_certificates"] != 1.0 || r.Detail["tokens"] != 2.0 {
								t.Errorf("%v", r.Detail)
							}
						}
					}
					return err
				})
				return n
			}
			if n, err := db.SignRows(t.Context()); n != nil || err != nil || records() != 1 {
				t.Errorf("a second time: %v, %v, %d records", n, err, records())
			}
			// The mark is taken away and an approval slipped in: this node remembers,
			// and one that has forgotten reads the audit.
			for _, dir := range []string{"", t.TempDir()} {
				if engine == store.SQLite {
					dir = "" // the database lies there
				}
				if err := db.Exec(t.Context(), "DELETE FROM settings WHERE key LIKE 'rows%'"); err != nil {
					t.Fatal(err)
				}
				if err := db.Exec(t.Context(), "UPDATE devices SET approved = true WHERE uuid = '"+other.String()+"'"); err != nil {
					t.Fatal(err)
				}
				db = reopen(dir)
				if n, err := db.SignRows(t.Context()); n != nil || err != nil || !db.RowsStrict() || records() != 1 {
					t.Errorf("without the mark: %v, %v", n, err)
				}
				if got := rights(t, db, own, other); !slices.Equal(got, honest) {
					t.Errorf("without the mark: %v", got)
				}
			}
			// Whoever may read the master key may sign what is there.
			if n, err := db.ResignRows(t.Context(), "alice", "an old node approved it"); err != nil || n["devices"] != 1 {
				t.Errorf("%v, %v", n, err)
			}
			if got := rights(t, db, own, other); len(got) != len(honest)+1 {
				t.Errorf("signed by hand: %v", got)
			}
		})
	}
}

// TestAnApprovalMovesOnOurWordOnly: whoever may move a device here takes its
// approval along, and nobody's SQL is signed by the way.
func TestAnApprovalMovesOnOurWordOnly(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		own, other := granted(t, db)
		at := func(u amt.UUID) (approved bool, address netip.Addr) {
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				d, err := tx.Device(ctx, u)
				approved, address = d.Approved, d.Address
				return err
			})
			return approved, address
		}
		moved := netip.MustParseAddr("10.0.0.8")
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, own, store.DeviceFacts{Address: &moved})
		})
		if ok, a := at(own); !ok || a != moved {
			t.Errorf("an operator moved it: %t %s", ok, a)
		}
		for n := range 2 { // the second hello changes nothing about the address
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				_, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: own, From: netip.MustParseAddrPort("10.0.0.9:9971")})
				return err
			})
			if ok, a := at(own); !ok || a.String() != "10.0.0.9" {
				t.Errorf("hello %d that is believed: %t %s", n, ok, a)
			}
		}
		for _, u := range []amt.UUID{own, other} {
			if err := db.Exec(t.Context(), "UPDATE devices SET approved = true, address = '10.6.6.6' WHERE uuid = '"+u.String()+
				"'"); err != nil {
				t.Fatal(err)
			}
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				return tx.UpdateDevice(ctx, u, store.DeviceFacts{Address: &moved})
			})
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				_, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: u, From: netip.MustParseAddrPort("10.0.0.10:9971")})
				return err
			})
			if ok, _ := at(u); ok {
				t.Errorf("%s: what was slipped in is signed by a move", u)
			}
		}
		if found, err := db.CheckRows(t.Context()); err != nil || found.Tables["devices"] != 2 {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

// TestTheAlertNamesEveryKindOfRow: who is paged reads what somebody may have written.
func TestTheAlertNamesEveryKindOfRow(t *testing.T) {
	t.Parallel()
	words := map[string]string{
		"tokens": "tokens", "sessions": "logins", "users": "users", "authorised_devices": "list entries", "assignment_rules": "rules",
		"profiles": "profiles", "names": "names",
		"otps": "one-time passwords", "agents": "agents", "credentials": "proofs of devices", "devices": "approvals",
		"settings": "settings", "runs": "runs", "jobs": "jobs",
		"job_items": "devices of jobs", "console_certificates": "console certificates",
	}
	rules, err := os.ReadFile("../deploy/prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	_, alert, _ := strings.Cut(string(rules), "alert: ProvisiondRowsRefused")
	alert, _, _ = strings.Cut(alert, "runbook_url")
	_, named, _ := strings.Cut(alert, "itself: ")
	for _, table := range store.SignedTables() {
		if word := words[table]; word == "" || !slices.ContainsFunc(strings.FieldsFunc(strings.ReplaceAll(named, " or ", ", "),
			func(r rune) bool { return r == ',' || r == '.' }), func(s string) bool { return strings.TrimSpace(s) == word }) {
			t.Errorf("rows of %s: %q is not in %q", table, word, named)
		}
	}
}
