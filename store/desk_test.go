package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

func TestTheAuditChain(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		var wg sync.WaitGroup
		for n := range 20 {
			wg.Go(func() {
				write(t, db, func(ctx context.Context, tx *store.Tx) error {
					return tx.Audit(ctx, store.AuditRecord{Actor: fmt.Sprint("token:", n), Action: "reveal", Subject: uuid(n).String(),
						Detail: map[string]any{"b": "<x>", "a": 1}})
				})
			})
		}
		wg.Wait()
		verify := func() (n int64, err error) {
			err = db.Read(t.Context(), func(tx *store.Tx) (err error) { n, err = tx.VerifyAudit(t.Context()); return err })
			return n, err
		}
		if n, err := verify(); n != 20 || err != nil {
			t.Fatalf("%d records: %v", n, err)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			rows, err := tx.AuditRecords(ctx, 18, 0)
			if len(rows) != 2 || rows[0].Seq != 19 || rows[0].Action != "reveal" || rows[0].Detail["b"] != "<x>" ||
				len(rows[0].Hash) != 32 {
				t.Errorf("%+v", rows)
			}
			return err
		})
		off := []string{"ALTER TABLE audit DISABLE TRIGGER ALL"}
		if db.Engine() == store.SQLite {
			off = []string{"DROP TRIGGER audit_kept_update", "DROP TRIGGER audit_kept_delete"}
		}
		for _, q := range off { // somebody who owns the database
			if err := db.Exec(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		var broken *store.AuditError
		for _, c := range []struct {
			tamper, undo string
			seq          int64
		}{
			{"UPDATE audit SET actor = 'nobody:' || actor WHERE seq = 5", "UPDATE audit SET actor = substr(actor, 8) WHERE seq = 5", 5},
			{"UPDATE audit SET seq = 99 WHERE seq = 20", "UPDATE audit SET seq = 20 WHERE seq = 99", 20},
			{"UPDATE audit SET seq = 99 WHERE seq = 7", "UPDATE audit SET seq = 7 WHERE seq = 99", 7},
		} {
			if err := db.Exec(t.Context(), c.tamper); err != nil {
				t.Fatal(err)
			}
			_, err := verify()
			if !errors.As(err, &broken) || broken.Seq != c.seq {
				t.Errorf("%s: %v", c.tamper, err)
			}
			if err := db.Exec(t.Context(), c.undo); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestNodes(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		a, b := store.Node{ID: "a", Boot: "1", Version: "v"}, store.Node{ID: "a", Boot: "2", Address: "x:1"}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(tx.Heartbeat(ctx, a), tx.Heartbeat(ctx, b), tx.Heartbeat(ctx, a))
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			all, err := tx.Nodes(ctx)
			silent, err2 := tx.SilentNodes(ctx, time.Hour)
			every, err3 := tx.SilentNodes(ctx, 0)
			if len(all) != 2 || len(silent) != 0 || len(every) != 2 || !near(all[0].SeenAt, time.Now()) || all[0].Name() == all[1].Name() {
				t.Errorf("all %v silent %v every %v", all, silent, every)
			}
			return errors.Join(err, err2, err3)
		})
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.ForgetNode(ctx, a) })
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			all, err := tx.Nodes(ctx)
			if len(all) != 1 || all[0].Boot != "2" {
				t.Errorf("%v", all)
			}
			return err
		})
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		h := func(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] }
		create := func(name string, expires time.Time) (id int64, err error) {
			err = db.Write(t.Context(), func(tx *store.Tx) (err error) {
				id, err = tx.CreateToken(t.Context(), store.Token{Name: name, Role: "admin", Hash: h(name), ExpiresAt: expires})
				return err
			})
			return id, err
		}
		id, err := create("a", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := create("a", time.Time{}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("the same name: %v", err)
		}
		if _, err := create("old", time.Now().Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
		find := func(name string) (tok store.Token, err error) {
			err = db.Read(t.Context(), func(tx *store.Tx) (err error) { tok, err = tx.TokenByHash(t.Context(), h(name)); return err })
			return tok, err
		}
		if tok, err := find("a"); err != nil || tok.ID != id || tok.Role != "admin" {
			t.Errorf("%+v %v", tok, err)
		}
		for _, name := range []string{"old", "unknown"} {
			if _, err := find(name); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(tx.UsedToken(ctx, id), tx.RevokeToken(ctx, id))
		})
		if _, err := find("a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("revoked: %v", err)
		}
		if _, err := create("a2", time.Time{}); err != nil {
			t.Error(err)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			all, err := tx.Tokens(ctx)
			if len(all) != 3 || all[0].LastUsed.IsZero() || all[0].RevokedAt.IsZero() {
				t.Errorf("%+v", all)
			}
			return err
		})
	})
}

func TestCertificatesAndRequests(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		until := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			c := store.Certificate{ID: "c1", Name: "prov.example", Names: []string{"prov.example"}, State: "standby", Source: "desk",
				Chain: []byte("chain"), Key: amt.NewSecret("key"), NotAfter: until}
			if err := tx.PutCertificate(ctx, c); err != nil {
				return err
			}
			c.Key, c.Chain = amt.Secret{}, []byte("chain 2")
			id, err := tx.PutCertificateRequest(ctx,
				store.CertificateRequest{Subject: "CN=x", CSR: []byte("csr"), Key: amt.NewSecret("waiting"), State: "open"})
			if err != nil {
				return err
			}
			_, err = tx.PutCertificateRequest(ctx, store.CertificateRequest{ID: id, State: "issued", Certificate: "c1"})
			return errors.Join(err, tx.PutCertificate(ctx, c), tx.SetCertificateState(ctx, "c1", "active"),
				tx.NoteBackup(ctx, store.CertificateBackup{Certificate: "c1", Digest: []byte{1}, Actor: "a"}))
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			all, err := tx.Certificates(ctx)
			reqs, err2 := tx.CertificateRequests(ctx)
			backups, err3 := tx.Backups(ctx, "c1")
			if len(all) != 1 || all[0].Key.Reveal() != "key" || !bytes.Equal(all[0].Chain, []byte("chain 2")) || all[0].State != "active" ||
				!all[0].NotAfter.Equal(until) {
				t.Errorf("%+v", all)
			}
			if len(reqs) != 1 || reqs[0].State != "issued" || reqs[0].Key.Reveal() != "waiting" || len(backups) != 1 {
				t.Errorf("%+v %+v", reqs, backups)
			}
			if _, err := tx.Certificate(ctx, "none"); !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
			return errors.Join(err, err2, err3)
		})
	})
}

func TestPolicyRows(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			v1, err := tx.PutProfile(ctx, store.Profile{Name: "desk", Document: json.RawMessage(`{"v": 1}`)})
			v2, err2 := tx.PutProfile(ctx, store.Profile{Name: "desk", Document: json.RawMessage(`{"v": 2}`)})
			if v1 != 1 || v2 != 2 {
				t.Errorf("versions %d %d", v1, v2)
			}
			_, err3 := tx.PutAssignmentRule(ctx, store.AssignmentRule{Name: "late", Position: 9, Enabled: true})
			_, err4 := tx.PutAssignmentRule(ctx, store.AssignmentRule{Name: "early", Position: 5,
				Match: json.RawMessage(`{"suffix": "x"}`)})
			_, err5 := tx.PutAssignmentRule(ctx, store.AssignmentRule{Name: "late", Position: 1, Enabled: true})
			_, err6 := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "uuid", Value: uuid(1).String(), Profile: "desk"})
			_, err7 := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "mac", Value: "AA:BB:CC:00:00:01"})
			_, err8 := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "serial", Value: "S1", ExpiresAt: tx.Now().Add(-time.Hour)})
			_, err9 := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "network", Value: "10.1.0.0/16"})
			return errors.Join(err, err2, err3, err4, err5, err6, err7, err8, err9,
				tx.PutName(ctx, store.Name{UUID: uuid(1), FQDN: "a", Source: "csv"}),
				tx.PutName(ctx, store.Name{UUID: uuid(1), FQDN: "b", Source: "api"}))
		})
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.PutProfile(t.Context(), store.Profile{Name: "desk", Version: 2, Document: json.RawMessage(`{}`)})
			return err
		})
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("a version written twice: %v", err)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			newest, err := tx.Profile(ctx, "desk", 0)
			first, err2 := tx.Profile(ctx, "desk", 1)
			all, err3 := tx.Profiles(ctx)
			versions, err4 := tx.ProfileVersions(ctx, "desk")
			if newest.Version != 2 || string(first.Document) != `{"v": 1}` || len(all) != 1 || all[0].Version != 2 || len(versions) != 2 {
				t.Errorf("%+v %+v %+v %+v", newest, first, all, versions)
			}
			rules, err5 := tx.AssignmentRules(ctx)
			if len(rules) != 2 || rules[0].Name != "late" || !rules[0].Enabled || rules[1].Enabled {
				t.Errorf("%+v", rules)
			}
			for _, c := range []struct {
				device store.Device
				want   string // the kind of entry that lets it in
			}{
				{store.Device{UUID: uuid(1)}, "uuid"},
				{store.Device{UUID: uuid(1), MAC: "AA:BB:CC:00:00:01"}, "uuid"},
				{store.Device{UUID: uuid(2), MAC: "aa:bb:cc:00:00:01"}, "mac"},
				{store.Device{UUID: uuid(3), Serial: "S1"}, ""}, // has expired
				{store.Device{UUID: uuid(3), Address: netip.MustParseAddr("10.1.2.3")}, "network"},
				{store.Device{UUID: uuid(3), Address: netip.MustParseAddr("10.2.2.3")}, ""},
			} {
				got, err := tx.AuthorisedFor(ctx, c.device)
				if got.Kind != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("%+v: %+v %v", c.device, got, err)
				}
			}
			name, err6 := tx.NameOf(ctx, uuid(1))
			if name.FQDN != "b" {
				t.Errorf("%+v", name)
			}
			return errors.Join(err, err2, err3, err4, err5, err6)
		})
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			list, err := tx.AuthorisedDevices(ctx, 0, 0)
			if len(list) != 4 {
				t.Errorf("%+v", list)
			}
			return errors.Join(err, tx.Unauthorise(ctx, list[0].ID), tx.UsedAuthorisation(ctx, list[1].ID),
				tx.DeleteAssignmentRule(ctx, "late"))
		})
	})
}

func TestSettings(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		create := func(v string) error {
			return db.Write(t.Context(), func(tx *store.Tx) error { return tx.CreateSealedSetting(t.Context(), "ca", amt.NewSecret(v)) })
		}
		if err := create("first"); err != nil {
			t.Fatal(err)
		}
		if err := create("second"); !errors.Is(err, store.ErrConflict) {
			t.Errorf("created twice: %v", err)
		}
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(tx.PutSetting(ctx, "a", "1"), tx.PutSetting(ctx, "a", "2"),
				tx.PutSealedSetting(ctx, "b", amt.NewSecret("3")))
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			ca, err := tx.SealedSetting(ctx, "ca")
			a, err2 := tx.Setting(ctx, "a")
			b, err3 := tx.SealedSetting(ctx, "b")
			if ca.Reveal() != "first" || a != "2" || b.Reveal() != "3" {
				t.Errorf("%s %s %s", ca.Reveal(), a, b.Reveal())
			}
			if _, err := tx.SealedSetting(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a plain setting as a secret: %v", err)
			}
			return errors.Join(err, err2, err3)
		})
	})
}

func TestJobs(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		var id int64
		write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
			id, err = tx.CreateJob(ctx, store.BulkJob{Kind: "unprovision", State: store.JobDraft, PerMinute: 10, CreatedBy: "a"})
			if err != nil {
				return err
			}
			return errors.Join(tx.AddJobItems(ctx, id, []amt.UUID{uuid(1), uuid(2), uuid(3)}), tx.AddJobItems(ctx, id, []amt.UUID{uuid(3)}),
				tx.SetJobState(ctx, id, store.JobRunning, "b"),
				tx.PutJobItem(ctx, store.JobItem{JobID: id, UUID: uuid(2), State: store.ItemDone, RunID: 5, Detail: "ok"}))
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			j, err := tx.Job(ctx, id)
			waiting, err2 := tx.JobItems(ctx, id, store.ItemWaiting, uuid(1), 0)
			counts, err3 := tx.CountJobItems(ctx, id)
			running, err4 := tx.Jobs(ctx, store.JobRunning, 0)
			if j.ApprovedBy != "b" || j.State != store.JobRunning || len(waiting) != 1 || waiting[0].UUID != uuid(3) ||
				counts[store.ItemWaiting] != 2 || len(running) != 1 {
				t.Errorf("%+v %+v %v %v", j, waiting, counts, running)
			}
			return errors.Join(err, err2, err3, err4)
		})
		write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.SetJobState(ctx, id, store.JobAborted, "") })
		if err := db.Write(t.Context(), func(tx *store.Tx) error {
			return tx.SetJobState(t.Context(), id, store.JobRunning,
				"")
		}); !errors.Is(err, store.ErrGone) {
			t.Errorf("an aborted job was started again: %v", err)
		}
	})
}

func TestAnOTPIsSpentOnce(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		var id int64
		write(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
			id, err = tx.CreateOTP(ctx, store.OTP{UUID: uuid(1), Password: amt.NewSecret("p"), ExpiresAt: tx.Now().Add(time.Hour)})
			_, err2 := tx.CreateOTP(ctx, store.OTP{UUID: uuid(1), Password: amt.NewSecret("q"), ExpiresAt: tx.Now().Add(-time.Hour)})
			return errors.Join(err, err2)
		})
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			live, err := tx.LiveOTPs(ctx, uuid(1))
			newest, err2 := tx.OTPFor(ctx, uuid(1))
			if len(live) != 1 || live[0].Password.Reveal() != "p" || newest.ID != id || newest.Password.Reveal() != "p" {
				t.Errorf("%+v %+v", live, newest)
			}
			return errors.Join(err, err2)
		})
		use := func() error {
			return db.Write(t.Context(), func(tx *store.Tx) error { return tx.UseOTP(t.Context(), id) })
		}
		if err := use(); err != nil {
			t.Error(err)
		}
		if err := use(); !errors.Is(err, store.ErrGone) {
			t.Errorf("spent twice: %v", err)
		}
	})
}

func TestPruneKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		old := time.Now().Add(-48 * time.Hour)
		for n := range 3 {
			for i := range 10 {
				write(t, db, func(ctx context.Context, tx *store.Tx) error {
					h := helloOf(n)
					if i < 4 {
						h.At = old
					}
					_, _, err := tx.SeeHello(ctx, h)
					_, err2 := tx.AddEvent(ctx, store.Event{UUID: uuid(n), Name: "hello_received", At: h.At})
					return errors.Join(err, err2)
				})
			}
		}
		older := run(t, db, 0) // the newest of a device stays
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return tx.FinishRun(ctx, older.ID, store.RunDone, "", "", "")
		})
		ended := run(t, db, 0)
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(tx.PutSteps(ctx, ended.ID, []store.StepRecord{{Seq: 1, Name: "a", State: "done"}}),
				tx.FinishRun(ctx, ended.ID, store.RunDone, "", "", ""))
		})
		stage(t, db, 0, "Admin!1a", "Mebx!1aa")
		live := run(t, db, 1)
		longAgo := map[string]string{store.SQLite: "0", store.Postgres: "timestamptz 'epoch'"}[db.Engine()]
		for _, q := range []string{"UPDATE runs SET finished_at = " + longAgo + " WHERE finished_at IS NOT NULL",
			"UPDATE trust_tables SET used_at = " + longAgo,
			"INSERT INTO trust_tables (digest, hashes, first_seen, used_at) VALUES ('x', 0, " + longAgo + ", " + longAgo + ")"} {
			if err := db.Exec(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		day := 24 * time.Hour
		p, err := db.Prune(t.Context(), store.Retention{HelloAge: day, EventAge: day, RunAge: day, StepAge: day, HellosPerDevice: 5,
			EventsPerDevice: 6, Batch: 2})
		if err != nil {
			t.Fatal(err)
		}
		want := store.Pruned{Hellos: 15, Events: 12, Runs: 1, Steps: 1, TrustTables: 1}
		if p != want {
			t.Errorf("%+v, want %+v", p, want)
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			for n := range 3 {
				h, err := tx.Hellos(ctx, uuid(n), 0)
				if len(h) != 5 || err != nil || h[0].At.Before(old.Add(time.Hour)) {
					t.Errorf("device %d: %d hellos %v", n, len(h), err)
				}
			}
			got, err := tx.LiveRun(ctx, uuid(1))
			if got.ID != live.ID {
				t.Errorf("the live run is %+v", got)
			}
			return err
		})
		if c := credentials(t, db, 0, ""); len(c) != 2 {
			t.Errorf("credentials %+v", c)
		}
	})
}

func TestViewsAnswer(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		hello(t, db, 1)
		r := run(t, db, 1)
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			return errors.Join(tx.FinishRun(ctx, r.ID, store.RunFailed, reason.AuthFailed, "d", "device"),
				tx.PutCertificate(ctx, store.Certificate{ID: "c1", Chain: []byte("x"), State: "active"}))
		})
		for _, view := range []string{"v_device", "v_run", "v_failure_daily", "v_certificate", "v_coverage"} {
			if n, err := db.Count(t.Context(), "SELECT count(*) FROM (SELECT * FROM "+view+") AS v"); n != 1 || err != nil {
				t.Errorf("%s has %d rows: %v", view, n, err)
			}
		}
	})
}
