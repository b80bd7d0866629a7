package desk_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

const (
	atlasDevices = 100_000
	atlasTables  = 300
	atlasLimit   = 200 * time.Millisecond
)

// BenchmarkAtlas is provctl cert advise over 100,000 recorded devices with 300
// distinct lists of hashes, on both engines. It fails above 200 ms.
func BenchmarkAtlas(b *testing.B) {
	for _, engine := range []string{store.SQLite, store.Postgres} {
		b.Run(engine, func(b *testing.B) {
			l := newLab(b, engine)
			fillAtlas(b, l.db)
			var took time.Duration
			for b.Loop() {
				start := time.Now()
				a, err := l.desk.Advise(b.Context())
				took += time.Since(start)
				if err != nil || a.Devices != atlasDevices || len(a.Roots) == 0 {
					b.Fatalf("%d devices, %d roots, %v", a.Devices, len(a.Roots), err)
				}
			}
			mean := took / time.Duration(b.N)
			b.ReportMetric(float64(mean.Microseconds())/1000, "ms/answer")
			if mean > atlasLimit {
				b.Errorf("an answer takes %v, which is above %v", mean, atlasLimit)
			}
		})
	}
}

// fillAtlas records 300 hellos with lists of their own, and copies the devices.
func fillAtlas(tb testing.TB, db *store.DB) {
	tb.Helper()
	ctx := context.Background()
	known := certs.KnownRoots()
	from := netip.MustParseAddr("10.0.0.1")
	for i := range atlasTables {
		var list []amt.TrustHash
		for j := range 20 {
			if h := known[(i*7+j)%len(known)].Hashes(); len(h) > 0 {
				list = append(list, h[0])
			}
		}
		own := amt.TrustHash{Algorithm: amt.SHA256, Sum: make([]byte, 32)}
		own.Sum[0], own.Sum[1] = byte(i), byte(i>>8)
		list = append(list, own)
		u := amt.UUID{0xaa, byte(i >> 8), byte(i), 1}
		err := db.Write(ctx, func(tx *store.Tx) error {
			_, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: u, From: netip.AddrPortFrom(from, 1), Address: from, Via: "plain",
				Version: 3, Hashes: list})
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	// As a fleet is after a year: versions, suffixes, states and a record each.
	const pick = `SELECT %[1]s, CASE i %% 10 WHEN 0 THEN 'failed' WHEN 1 THEN 'pending_certificate' ELSE 'provisioned' END,
		(CASE i %% 7 WHEN 0 THEN '9.1.45' WHEN 1 THEN '11.8.93' WHEN 2 THEN '11.8.50' WHEN 3 THEN '12.0.93' WHEN 4 THEN '15.0.45' WHEN 5 THEN '16.1.25' ELSE '18.0.5' END),
		(CASE i %% 5 WHEN 0 THEN 'corp.example.com' WHEN 1 THEN 'branch.example.net' WHEN 2 THEN 'lab.example.org' WHEN 3 THEN 'emea.corp.example.com' ELSE '' END),
		(SELECT min(id) FROM trust_tables) + i %% %[2]d, 'pc-' || i || '.corp.example.com', '{"note":"` + recordText + `"}' FROM %[3]s`
	const into = "INSERT INTO devices (uuid, lifecycle, amt_version, suffix, trust_table, fqdn, record) "
	var err error
	if db.Pool() != nil {
		q := into + fmt.Sprintf(pick, "md5(i::text)::uuid", atlasTables, fmt.Sprintf("generate_series(1, %d) i", atlasDevices-atlasTables))
		if _, err = db.Pool().Exec(ctx, q); err == nil {
			_, err = db.Pool().Exec(ctx, "VACUUM ANALYZE devices")
		}
	} else {
		q := into + fmt.Sprintf(pick, "printf('%08x-0000-4000-8000-000000000000', i)", atlasTables,
			fmt.Sprintf("(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT i FROM n)",
				atlasDevices-atlasTables))
		_, err = db.SQL().Exec(q)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

const recordText = "a provisioning record of some length, as firmware keeps one: mode, server, serials of the chain, hash of the root, " +
	"time of the setup, and whether it was valid then"
