package store_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
)

// yearSteps are the steps of a setup; of maintenance there are as many.
var yearSteps = strings.Fields(`read_identity prove_identity extend_window set_clock set_mebx_password set_admin_password set_host_name
	device_key device_certificate use_certificate enable_tls commit verify_login read_record`)

// year writes what is left of one device after a year under management, with
// the shipped retention: it said hello five times (they are gone after 30 days,
// and kept here all the same), was set up in two attempts, looked after every
// two weeks, and had its password changed every quarter. Steps are kept for 30
// days: those of three runs.
func year(ctx context.Context, tx *store.Tx, n int) error {
	u := uuid(n)
	for i := range 5 {
		h := helloOf(n)
		h.Hashes, h.Retry = hashes(20), uint32(i)
		if _, _, err := tx.SeeHello(ctx, h); err != nil {
			return err
		}
	}
	text := func(s string) *string { return &s }
	v, now := amt.Version{Major: 16, Minor: 1, Hotfix: 25, Build: 2124}, tx.Now()
	print, record := make([]byte, 32), []byte(`{"Class":"IPS_TLSProvisioningRecord","Mode":"2","ServerFQDN":"prov.corp.example.com","HashType":"2","HashData":"`+strings.Repeat("a", 64)+`","ServerIP":"10.0.0.1","TimeValid":true,"Raw":{"InstanceID":"Intel(r) AMT: TLSProvisioningRecord 1"}}`)
	raw := json.RawMessage(record)
	if err := tx.UpdateDevice(ctx, u, store.DeviceFacts{
		Version: &v, Realm: text("Digest:" + strings.Repeat("A", 32)), SKU: text("16392"), MAC: text("02:00:00:00:00:01"),
		HostName: text("pc-00001"), Domain: text("corp.example.com"),
		FQDN: text("pc-00001.corp.example.com"), Suffix: text("corp.example.com"), TLSVersion: text("TLS 1.2"),
		Certificate: text("f89c93e5f2afc2b8"), DeviceMode: text("operational"),
		Health: text("ok"), PeerFingerprint: &print, ProvisionedAt: &now, LastContact: &now, DeviceCertNotAfter: &now, Record: &raw,
	}); err != nil {
		return err
	}
	event := func(run int64, to store.Lifecycle, name string, data map[string]any) error {
		return tx.Transition(ctx, store.Transition{UUID: u, To: to, Event: name, Actor: "node:provisiond-1-0a1b2c3d", RunID: run,
			Data: data})
	}
	secret := func(run int64, mebx amt.Secret) error {
		gen, err := tx.StageCredentials(ctx, u, run, amt.NewSecret(strings.Repeat("aA1!", 8)), mebx)
		if err != nil {
			return err
		}
		for _, action := range []string{"secret.staged", "secret.sent"} {
			if err := tx.Audit(ctx, store.AuditRecord{Actor: "node:provisiond-1-0a1b2c3d", Action: action, Subject: u.String(),
				Detail: map[string]any{"generation": gen, "run": run}}); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range 2 + 26 + 4 {
		kind := "maintain"
		switch {
		case i < 2:
			kind = "provision"
		case i >= 28:
			kind = "rotate"
		}
		r, err := tx.CreateRun(ctx, store.NewRun{UUID: u, Kind: kind, Trigger: "timer", Profile: "default"})
		if err != nil {
			return err
		}
		if i == 0 {
			if err := secret(r.ID, amt.NewSecret(strings.Repeat("aA1!", 4))); err != nil {
				return err
			}
		} else if kind == "rotate" {
			if err := secret(r.ID, amt.Secret{}); err != nil {
				return err
			}
		}
		if i >= 29 {
			var steps []store.StepRecord
			for seq, name := range yearSteps {
				steps = append(steps, store.StepRecord{Seq: seq + 1, Name: name, State: "done", Attempt: 1, StartedAt: now,
					FinishedAt: now})
			}
			if err := tx.PutSteps(ctx, r.ID, steps); err != nil {
				return err
			}
		}
		for _, e := range []string{"maintenance_due", "attempt_started", "maintained"} {
			if err := event(r.ID, store.Provisioned, e, map[string]any{"attempt": 1, "kind": kind, "address": "10.20.30.40"}); err != nil {
				return err
			}
		}
		if err := tx.FinishRun(ctx, r.ID, store.RunDone, "", "", "none"); err != nil {
			return err
		}
	}
	return nil
}

// sizeOf is what the database takes on disk.
func sizeOf(t *testing.T, db *store.DB) (bytes int64) {
	t.Helper()
	read(t, db, func(ctx context.Context, tx *store.Tx) error {
		if lite, ok := tx.Handle().(*sql.Tx); ok {
			var pages, size int64
			if err := lite.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
				return err
			}
			if err := lite.QueryRowContext(ctx, "PRAGMA page_size").Scan(&size); err != nil {
				return err
			}
			bytes = pages * size
			return nil
		}
		return tx.Handle().(pgx.Tx).QueryRow(ctx, "SELECT pg_database_size(current_database())").Scan(&bytes)
	})
	return bytes
}

// yearOfADevice is the most a device and a year of its history may take on
// either engine: a million devices stay below 64 GB.
const yearOfADevice = 64 << 10

// TestAYearOfADevice measures what a device and a year of its history take.
func TestAYearOfADevice(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			yearOf(t, place(t, engine))
		})
	}
}

func yearOf(t *testing.T, o store.Options) {
	db := open(t, o)
	const devices = 80
	compact(t, o)
	before := sizeOf(t, db)
	for n := 0; n < devices; n += 5 {
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			for i := range 5 {
				if err := year(ctx, tx, n+i); err != nil {
					return fmt.Errorf("device %d: %w", n+i, err)
				}
			}
			return nil
		})
	}
	var each int64
	for range 5 { // a snapshot of the database's own upkeep keeps dead rows alive for a moment
		compact(t, o)
		if each = (sizeOf(t, db) - before) / devices; each <= yearOfADevice {
			break
		}
	}
	t.Logf("%s: %.1f KB a device and year; a million devices: %.0f GB", db.Engine(), float64(each)/1024, float64(each)*1e6/(1<<30))
	if each > yearOfADevice {
		t.Errorf("%d bytes a device and year, more than %d", each, yearOfADevice)
	}
	// Nothing of it is past its time, and what is too much for one device goes.
	p, err := db.Prune(t.Context(), store.Retention{HelloAge: 30 * 24 * time.Hour, EventAge: 400 * 24 * time.Hour,
		RunAge: 400 * 24 * time.Hour})
	if err != nil || p.Hellos != 0 || p.Events != 0 || p.Runs != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = db.Prune(t.Context(), store.Retention{HellosPerDevice: 2, EventsPerDevice: 50, RunsPerDevice: 10})
	if err != nil || p.Hellos != devices*3 || p.Events != devices*46 || p.Runs != devices*22 {
		t.Errorf("%+v, %v", p, err)
	}
}

// compact takes away what a hundred updates of a row in a minute leave behind in
// Postgres, and what a year of them leaves to autovacuum.
func compact(t *testing.T, o store.Options) {
	t.Helper()
	if o.URL == "" {
		return
	}
	c, err := pgx.Connect(t.Context(), o.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.Background()) }()
	if _, err := c.Exec(t.Context(), "VACUUM FULL"); err != nil {
		t.Fatal(err)
	}
}
