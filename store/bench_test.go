package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/storetest"
)

const benchCallers = 64

// spread runs do b.N times from sixty-four goroutines.
func spread(b *testing.B, do func(n int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range benchCallers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := do(int(n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "hellos/s")
}

const benchDevices = 5000

// BenchmarkSeeHello is what a hello costs, durable, beside the floor: one bare
// upsert of the same row by the same number of callers.
func BenchmarkSeeHello(b *testing.B) {
	for _, engine := range []string{store.SQLite, store.Postgres} {
		o := storetest.Options(b, engine)
		if engine == store.Postgres {
			o = store.Options{URL: storetest.DurableURL(b)}
		}
		db := open(b, o)
		for _, known := range []string{"new", "known"} {
			b.Run(engine+"/"+known, func(b *testing.B) {
				spread(b, func(n int) error {
					if known == "known" {
						n %= benchDevices
					} else {
						n += int(benchSerial.Add(1)) << 8
					}
					return db.Write(b.Context(), func(tx *store.Tx) error {
						_, _, err := tx.SeeHello(b.Context(), helloOf(n))
						return err
					})
				})
			})
		}
		b.Run(engine+"/floor", func(b *testing.B) { floor(b, db) })
	}
}

var benchSerial atomic.Int64

func floor(b *testing.B, db *store.DB) {
	if db.Pool() != nil {
		floorPostgres(b, db.Pool())
		return
	}
	// One upsert a statement, sixty-four to a commit, by one goroutine: no
	// group commit could do better.
	sqldb := db.SQL()
	if _, err := sqldb.Exec("CREATE TABLE IF NOT EXISTS floor (uuid text PRIMARY KEY, at integer, n integer)"); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for done := 0; done < b.N; {
		tx, err := sqldb.Begin()
		if err != nil {
			b.Fatal(err)
		}
		s, err := tx.Prepare("INSERT INTO floor (uuid, at, n) VALUES ($1, $2, 1) ON CONFLICT (uuid) DO UPDATE SET at = excluded.at, n = " +
			"floor.n + 1")
		if err != nil {
			b.Fatal(err)
		}
		for i := 0; i < benchCallers && done < b.N; i, done = i+1, done+1 {
			if _, err := s.Exec(fmt.Sprint("device ", done%benchDevices), done); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "hellos/s")
}

func floorPostgres(b *testing.B, pool *pgxpool.Pool) {
	ctx := context.Background()
	if _, err := pool.Exec(ctx, "CREATE TABLE IF NOT EXISTS floor (uuid text PRIMARY KEY, at bigint, n bigint)"); err != nil {
		b.Fatal(err)
	}
	spread(b, func(n int) error {
		_, err := pool.Exec(ctx, "INSERT INTO floor (uuid, at, n) VALUES ($1, $2, 1) ON CONFLICT (uuid) DO UPDATE SET at = excluded.at, "+
			"n = floor.n + 1", fmt.Sprint("device ", n%benchDevices), n)
		return err
	})
}
