//go:build bench

package endtoend

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
)

// A filling writes a large fleet by SQL alone: one text for both engines, in
// which the methods below stand for what they write differently.
type filling struct {
	t       *testing.T
	db      *sql.DB
	engine  string
	devices int
	now     int64 // milliseconds
}

// sampled is the number of the managed device whose page is looked at.
func sampled(devices int) int { return devices/1000*280 + 7 }

func (f filling) lite() bool { return f.engine == store.SQLite }

func (f filling) choose(lite, pg string) string {
	if f.lite() {
		return lite
	}
	return pg
}

// hex is eight hexadecimal digits of a number.
func (f filling) hex(n string) string {
	return f.choose("printf('%08x', "+n+")", "lpad(to_hex(CAST("+n+" AS bigint)), 8, '0')")
}

// at is a moment, so many milliseconds from now.
func (f filling) at(ms string) string {
	return f.choose(fmt.Sprintf("(%d + (%s))", f.now, ms), fmt.Sprintf("to_timestamp((%d + CAST(%s AS bigint)) / 1000.0)", f.now, ms))
}

// pad is a number of seven digits.
func pad(n string) string { return "substr(CAST(10000000 + " + n + " AS text), 2)" }

// oneOf picks by number.
func oneOf(n string, words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CASE (%s) %% %d", n, len(words))
	for i, w := range words {
		fmt.Fprintf(&b, " WHEN %d THEN '%s'", i, w)
	}
	return b.String() + " END"
}

func (f filling) exec(q string) {
	f.t.Helper()
	if _, err := f.db.ExecContext(f.t.Context(), q); err != nil {
		f.t.Fatalf("%v\n%.600s", err, q)
	}
}

func (f filling) count(q string) (n int) {
	f.t.Helper()
	if err := f.db.QueryRowContext(f.t.Context(), q).Scan(&n); err != nil {
		f.t.Fatalf("%v\n%s", err, q)
	}
	return n
}

// beside opens the site's database for SQL of the test's own, on one connection.
func (s *site) beside(more string) (*sql.DB, string) {
	s.t.Helper()
	driver, name, engine := "pgx", s.db, store.Postgres
	if s.db == "" {
		driver, engine = "sqlite", store.SQLite
		name = "file:" + filepath.Join(s.path("data"), store.DatabaseFile) + "?_pragma=busy_timeout(60000)" + more
	}
	db, err := sql.Open(driver, name)
	if err != nil {
		s.t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	s.t.Cleanup(func() { _ = db.Close() })
	return db, engine
}

// fill makes a fleet of so many devices with some history of each, unless the
// database has one already. Addresses are loopback's, where nobody answers.
func (s *site) fill(devices int) {
	s.t.Helper()
	made := s.filled()
	db, engine := s.beside("&_pragma=synchronous(0)&_pragma=cache_size(-524288)&_pragma=temp_store(2)")
	f := filling{s.t, db, engine, devices, time.Now().UnixMilli()}
	if f.count("SELECT count(*) FROM (SELECT 1 AS x FROM devices LIMIT 1) AS one") == 0 {
		began := time.Now()
		f.audit(made, 100_000)
		if err := made.Close(); err != nil {
			s.t.Fatal(err)
		}
		f.all()
		s.sign()
		s.t.Logf("%s: %d devices with their history written in %.0f s, %.1f GB", engine, devices, time.Since(began).Seconds(),
			float64(f.size())/(1<<30))
	} else if err := made.Close(); err != nil {
		s.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// filled opens the site's store with the master key that its daemon has, or will have.
func (s *site) filled() *store.DB {
	s.t.Helper()
	ctx := s.t.Context()
	if err := os.MkdirAll(s.path("data"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	master, err := seal.Load(ctx, seal.Source{File: s.path("data/master.key"), Create: true})
	if err != nil {
		s.t.Fatal(err)
	}
	keys, err := seal.New(master)
	if err != nil {
		s.t.Fatal(err)
	}
	db, err := store.Open(ctx, store.Options{URL: s.db, Dir: s.path("data"), Keys: keys})
	if err != nil {
		s.t.Fatal(err)
	}
	return db
}

// sign gives the rows that SQL wrote the MACs without which they count for nothing.
func (s *site) sign() {
	s.t.Helper()
	db := s.filled()
	defer db.Close()
	signed, err := db.ResignRows(s.t.Context(), "test", "the fleet of a measurement")
	if err != nil || signed["runs"] == 0 || signed["devices"] == 0 {
		s.t.Fatalf("signed %v: %v", signed, err)
	}
}

func (f filling) size() int {
	return f.count(f.choose("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
		"SELECT pg_database_size(current_database())"))
}

// audit appends to the chain as the daemon does: only it can hash.
func (f filling) audit(db *store.DB, records int) {
	f.t.Helper()
	const batch = 2000
	for n := 0; n < records; n += batch {
		err := db.Write(f.t.Context(), func(tx *store.Tx) error {
			for i := range batch {
				err := tx.Audit(f.t.Context(), store.AuditRecord{Actor: "node:provisiond-1-0a1b2c3d",
					Action:  []string{"secret.staged", "secret.sent", "device.approve", "token.use"}[i%4],
					Subject: fmt.Sprintf("device %07d", n+i), Detail: map[string]any{"generation": 1, "run": n + i}})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

var filled = []string{"devices", "hellos", "runs", "run_steps", "credentials", "events", "trust_tables", "trust_hashes"}

// all writes the tables without their indexes, which are made afterwards.
func (f filling) all() {
	f.t.Helper()
	if !f.lite() {
		f.exec("SET maintenance_work_mem = '512MB'")
		f.exec("SET synchronous_commit = off")
	}
	indexes := f.dropIndexes()
	f.exec("CREATE TABLE filling (n integer PRIMARY KEY, uuid " + f.choose("text", "uuid") + ")")
	f.exec(f.choose(fmt.Sprintf(`WITH RECURSIVE c (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < %d)
		INSERT INTO filling SELECT n, substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-4' || substr(h, 14, 3) || '-a' || substr(h, 18, 3) || '-' || substr(h, 21)
		FROM (SELECT n, lower(hex(randomblob(16))) AS h FROM c)`, f.devices-1),
		fmt.Sprintf("INSERT INTO filling SELECT n, gen_random_uuid() FROM generate_series(0, %d) AS n", f.devices-1)))
	f.trust(300, 20)
	f.fleet()
	f.exec(f.choose("PRAGMA foreign_keys = off", "SET session_replication_role = replica")) // all refers to the fleet
	f.history()
	f.exec("DROP TABLE filling")
	for _, q := range indexes {
		f.exec(q)
	}
	if f.lite() {
		f.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	} else {
		f.exec("VACUUM ANALYZE") // as autovacuum would have
	}
}

func (f filling) dropIndexes() (again []string) {
	f.t.Helper()
	in := "('" + strings.Join(filled, "', '") + "')"
	rows, err := f.db.QueryContext(f.t.Context(), f.choose("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL "+
		"AND tbl_name IN "+in,
		"SELECT indexname, indexdef FROM pg_indexes i WHERE schemaname = 'public' AND tablename IN "+in+
			" AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conname = i.indexname)"))
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			f.t.Fatal(err)
		}
		names, again = append(names, name), append(again, text)
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
	for _, name := range names {
		f.exec("DROP INDEX " + name)
	}
	return again
}

// series counts from 0 to below n.
func (f filling) series(n int) string {
	return f.choose(fmt.Sprintf("(WITH RECURSIVE c (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < %d) SELECT i FROM c) AS s",
		n-1), fmt.Sprintf("generate_series(0, %d) AS s (i)", n-1))
}

func (f filling) bytes(n string) string {
	return f.choose("CAST(substr("+n+" || "+n+" || "+n+" || "+n+" || "+n+", 1, 32) AS blob)",
		"convert_to(substr(repeat("+n+", 5), 1, 32), 'UTF8')")
}

func (f filling) trust(lists, hashes int) {
	f.exec(fmt.Sprintf("INSERT INTO trust_tables (digest, hashes, first_seen, used_at) SELECT %s, %d, %s, %s FROM %s ORDER BY i",
		f.bytes(f.hex("i + 7")), hashes, f.at("-86400000"), f.at("0"), f.series(lists)))
	f.exec(fmt.Sprintf("INSERT INTO trust_hashes (trust_table, position, algorithm, digest) SELECT i / %[1]d + 1, i %% %[1]d, 2, %[2]s "+
		"FROM %[3]s",
		hashes, f.bytes(f.hex("(i * 7919) % 601")), f.series(lists*hashes)))
}

const day = 86_400_000

// fleet: 63 of 100 devices are managed, 10 wait for a worker, the others are
// where devices end up.
func (f filling) fleet() {
	managed := "k < 63"
	version := oneOf("n / 100", "16.1.25.2124", "12.0.45.1509", "14.1.53.1649", "15.0.30.1700", "11.8.50.3425", "16.1.27.2176",
		"18.0.5.2141", "9.1.42.3002", "12.0.94.2431", "11.8.92.4249", "7.1.91.3272", "19.0.0.1854")
	suffix := "CASE (n / 100) % 40 WHEN 0 THEN 'corp.example.com' ELSE 's' || CAST((n / 100) % 40 AS text) || '.corp.example.com' END"
	quiet := "-((CAST(n AS bigint) * 7919) % 15552000) * 1000" // in the last 180 days
	seen := "CASE WHEN k BETWEEN 70 AND 79 THEN (" + quiet + ") / 180 ELSE " + quiet + " END"
	code := func(c ...reason.Code) (out []string) {
		for _, w := range c {
			out = append(out, string(w))
		}
		return out
	}
	f.exec(`INSERT INTO devices (uuid, lifecycle, reason, detail, device_mode, health, amt_version, amt_major, sku, realm, host, domain, fqdn, suffix, mac, serial,
			address, address_key, profile, profile_version, trust_table, certificate, tls_version, peer_fingerprint, tags, approved, first_seen, last_seen, provisioned_at,
			last_contact, window_until, next_retry, device_cert_not_after, password_changed_at, attempts, hello_count, hello_retry, fence, generation, record)
		SELECT uuid,
			CASE WHEN k < 60 THEN 'provisioned' WHEN k < 63 THEN 'drifted' WHEN k < 70 THEN 'failed' WHEN k < 80 THEN 'queued' WHEN k < 85 THEN 'pending_certificate'
				WHEN k < 87 THEN 'pending_approval' WHEN k = 87 THEN 'pending_identity' WHEN k < 92 THEN 'dormant' WHEN k = 92 THEN 'external' WHEN k = 93 THEN 'credentials_unknown'
				WHEN k = 94 AND (n / 100) % 100 = 0 THEN 'quarantined' WHEN k < 97 THEN 'discovered' WHEN k < 99 THEN 'retired' ELSE 'unprovisioned' END,
			CASE WHEN k < 60 THEN '' WHEN k < 63 THEN 'profile_drift' WHEN k < 70 THEN ` + oneOf("n / 100", code(reason.DeviceUnreachable, reason.TLSClientCertRefused, reason.WSMANTimeout, reason.AuthFailed, reason.ConnectionLost)...) + `
				WHEN k < 80 THEN '' WHEN k < 85 THEN ` + oneOf("n / 100", code(reason.NoCertForSuffix, reason.RootNotTrusted)...) + ` WHEN k < 87 THEN 'not_authorized' WHEN k = 87 THEN 'identity_incomplete'
				WHEN k < 92 THEN 'setup_window_expired' WHEN k = 93 THEN 'credentials_unknown' WHEN k = 94 AND (n / 100) % 100 = 0 THEN 'uuid_duplicate' ELSE '' END,
			'', CASE WHEN ` + managed + ` THEN 'operational' ELSE '' END,
			CASE WHEN ` + managed + ` THEN ` + oneOf("n / 100", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "warn", "unreachable") + ` ELSE '' END,
			CASE WHEN k < 85 THEN ` + version + ` ELSE '' END, CASE WHEN k < 85 THEN CAST(CAST(substr(` + version + `, 1, 2) AS numeric) AS integer) ELSE 0 END,
			'16392', CASE WHEN ` + managed + ` THEN 'Digest:' || ` + f.hex("n") + ` || ` + f.hex("n + 77") + ` || ` + f.hex("n + 777") + ` || ` + f.hex("n + 7777") + ` ELSE '' END,
			CASE WHEN ` + managed + ` THEN 'pc-' || ` + pad("n") + ` ELSE '' END, CASE WHEN ` + managed + ` THEN ` + suffix + ` ELSE '' END,
			CASE WHEN k < 80 THEN 'pc-' || ` + pad("n") + ` || '.' || ` + suffix + ` ELSE '' END, CASE WHEN k < 92 THEN ` + suffix + ` ELSE '' END,
			CASE WHEN ` + managed + ` THEN '02:00:' || substr(` + f.hex("n") + `, 1, 2) || ':' || substr(` + f.hex("n") + `, 3, 2) || ':' || substr(` + f.hex("n") + `, 5, 2) || ':' || substr(` + f.hex("n") + `, 7, 2) ELSE '' END,
			CASE WHEN ` + managed + ` THEN 'SN' || upper(` + f.hex("n") + `) ELSE '' END,
			'127.' || CAST(16 + n / 65536 AS text) || '.' || CAST((n / 256) % 256 AS text) || '.' || CAST(n % 256 AS text),
			'00000000000000000000ffff' || ` + f.hex("CAST(2131755008 AS bigint) + n") + `,
			CASE WHEN k < 80 THEN ` + oneOf("n / 100", "default", "default", "default", "lab") + ` ELSE '' END, CASE WHEN ` + managed + ` THEN 1 ELSE 0 END,
			1 + (n / 100) % 300, CASE WHEN ` + managed + ` THEN 'f89c93e5f2afc2b8' ELSE '' END, CASE WHEN ` + managed + ` THEN 'TLS 1.2' ELSE '' END,
			CASE WHEN ` + managed + ` THEN ` + f.bytes(f.hex("n")) + ` END,
			` + f.choose("", "CAST(") + `CASE WHEN (n / 100) % 1000 = 0 THEN '["lab","floor-3"]' WHEN (n / 100) % 50 = 0 THEN '["lab"]' ELSE '[]' END` + f.choose("", " AS jsonb)") + `,
			k < 80, ` + f.at(quiet+" - 86400000") + `, CASE WHEN k = 99 THEN NULL ELSE ` + f.at(seen) + ` END, CASE WHEN ` + managed + ` THEN ` + f.at(quiet) + ` END,
			CASE WHEN ` + managed + ` THEN ` + f.at("-(n % 13) * 86400000 - 1000") + ` END, CASE WHEN k BETWEEN 63 AND 87 THEN ` + f.at("172800000 + n") + ` END,
			CASE WHEN k BETWEEN 63 AND 69 OR k = 87 THEN ` + f.at("864000000") + ` END,
			CASE WHEN ` + managed + ` THEN ` + f.at("CASE WHEN n % 50000 = 7 THEN 432000000 ELSE CAST(40 + n % 330 AS bigint) * 86400000 END") + ` END,
			CASE WHEN ` + managed + ` THEN ` + f.at(quiet) + ` END,
			CASE WHEN k < 70 THEN 1 ELSE 0 END, 2, 1, CASE WHEN k < 70 THEN 2 ELSE 0 END, CASE WHEN ` + managed + ` THEN 1 ELSE 0 END,
			CASE WHEN ` + managed + ` THEN ` + f.choose("", "CAST(") + `'{"Class":"IPS_TLSProvisioningRecord","Mode":"2","ServerFQDN":"prov.corp.example.com","HashType":"2","HashData":"` + strings.Repeat("a", 64) + `","ServerIP":"10.0.0.1","TimeValid":true}'` + f.choose("", " AS jsonb)") + ` END
		FROM (SELECT n, uuid, n % 100 AS k FROM filling) AS f ORDER BY n`)
}

func (f filling) history() {
	// What is appended is appended in the order of time.
	then := func(before string) string {
		return f.at(fmt.Sprintf("-(%d - CAST(n AS bigint)) * %d - %s", f.devices, 20*day/f.devices, before))
	}
	for i := range 2 {
		f.exec(`INSERT INTO hellos (uuid, at, source, local, version, retry, admin_set, pid, trust_table)
			SELECT uuid, ` + then(fmt.Sprint((2-i)*3_600_000)) + `, '127.' || CAST(16 + n / 65536 AS text) || '.' || CAST((n / 256) % 256 AS text) || '.' || CAST(n % 256 AS text) || ':16994',
				'10.0.0.1:9971', 1, ` + fmt.Sprint(i) + `, false, '', 1 + (n / 100) % 300 FROM filling ORDER BY n`)
	}
	run := `INSERT INTO runs (uuid, kind, triggered_by, state, attempt, node, fence, profile, created_at, not_before, started_at, finished_at, reason, blame) SELECT uuid, `
	f.exec(run + `'provision', 'hello', CASE WHEN n % 100 < 63 THEN 'done' ELSE 'failed' END, 1, 'provisiond-1-0a1b2c3d', 1, 'default', ` + then("7200000") + `, ` + then("7200000") + `, ` + then("7190000") + `, ` + then("7180000") + `,
		CASE WHEN n % 100 < 63 THEN '' ELSE 'device_unreachable' END, CASE WHEN n % 100 < 63 THEN 'none' ELSE 'device' END FROM filling WHERE n % 100 < 70 ORDER BY n`)
	f.exec(run + `'maintain', 'timer', 'done', 1, 'provisiond-1-0a1b2c3d', 2, 'default', ` + then("3600000") + `, ` + then("3600000") +
		`, ` + then("3590000") + `, ` + then("3580000") + `, '', 'none' FROM filling WHERE n % 100 < 63 ORDER BY n`)
	f.exec(run + `'provision', 'hello', 'queued', 0, '', 0, 'default', ` + then("1000") + `, ` + f.at("-3600000 + n") +
		`, NULL, NULL, '', '' FROM filling WHERE n % 100 BETWEEN 70 AND 79 ORDER BY n`)
	steps := strings.Fields("read_identity prove_identity extend_window set_clock set_mebx_password set_admin_password set_host_name " +
		"device_key device_certificate use_certificate enable_tls commit verify_login read_record")
	f.exec(fmt.Sprintf(`INSERT INTO run_steps (run_id, attempt, seq, name, state, started_at, finished_at)
		SELECT r.id, 1, s.i + 1, %s, 'done', r.started_at, r.finished_at FROM runs r, %s WHERE r.id %% 15 = 0 AND r.state = 'done' ORDER BY r.id, s.i`, oneOf("s.i", steps...), f.series(len(steps))))
	for _, e := range []struct{ name, data string }{{"hello_received", "NULL"},
		{"attempt_started", `'{"attempt":1,"lifecycle":"provisioning"}'`}, {"provisioned", `'{"attempt":1,"lifecycle":"provisioned","address":"127.0.0.1"}'`}} {
		if !f.lite() {
			e.data = "CAST(" + e.data + " AS jsonb)"
		}
		f.exec(`INSERT INTO events (at, uuid, run_id, name, actor, data) SELECT ` + then("1800000") + `, uuid, 0, '` + e.name +
			`', 'node:provisiond-1-0a1b2c3d', ` + e.data + ` FROM filling ORDER BY n`)
	}
	for _, c := range []struct{ kind, state, where string }{{"admin", "active", "n % 100 < 63"}, {"mebx", "active", "n % 100 < 63"},
		{"admin", "retired", "n % 100 < 16"}, {"admin", "candidate", "n % 100 BETWEEN 63 AND 79"}} {
		generation := "2"
		if c.state != "active" {
			generation = "1"
		}
		f.exec(`INSERT INTO credentials (uuid, generation, kind, state, sealed, key_id, realm, address, created_at, run_id)
			SELECT uuid, ` + generation + `, '` + c.kind + `', '` + c.state + `', ` + f.bytes(f.hex("n")) + ` || ` + f.bytes(f.hex("n + 7")) + ` || ` + f.bytes(f.hex("n + 77")) + `, 1, 'Digest:' || ` + f.hex("n") + ` || ` + f.hex("n") + `, '', ` + then("7200000") + `, 1
			FROM filling WHERE ` + c.where + fmt.Sprintf(" AND n <> %d", sampled(f.devices)) + ` ORDER BY n`) // whose page is shown: these passwords open for nobody
	}
}

// put runs one statement on the site's database, beside a daemon.
func (s *site) put(ctx context.Context, q string) {
	s.t.Helper()
	db, _ := s.beside("")
	if _, err := db.ExecContext(ctx, q); err != nil {
		s.t.Fatalf("%v\n%s", err, q)
	}
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
}
