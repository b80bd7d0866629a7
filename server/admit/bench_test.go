package admit

import (
	"database/sql"
	"sync"
	"sync/atomic"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver of bareRows

	"github.com/provisiond/provisiond/store"
)

// crowd is how many devices speak at once, as after a power cut.
const crowd = 256

// spread runs do b.N times from a crowd.
func spread(b *testing.B, do func(n int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range crowd {
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

// BenchmarkHello is what deciding about a hello costs until the answer is
// durable, without the network: devices never heard of, and devices that repeat
// themselves while they wait. The floor keeps one bare row a hello, of a third
// of the width, in transactions as large as a batch.
func BenchmarkHello(b *testing.B) {
	for _, engine := range []string{store.SQLite, store.Postgres} {
		d := newDesk(b, engine, true, openPolicy())
		list := strangers(23)
		said := 0 // numbers given to devices so far
		b.Run(engine+"/new", func(b *testing.B) {
			first := said
			said += b.N
			spread(b, func(n int) error {
				_, err := d.HandleHello(b.Context(), plain(first+n, list))
				return err
			})
		})
		b.Run(engine+"/known", func(b *testing.B) {
			spread(b, func(n int) error {
				_, err := d.HandleHello(b.Context(), plain(1+n%said, list))
				return err
			})
		})
		b.Run(engine+"/floor", func(b *testing.B) { bareRows(b, d) })
	}
}

func bareRows(b *testing.B, d *desk) {
	var err error
	db := d.DB.SQL()
	if pool := d.DB.Pool(); pool != nil {
		// The same driver interface for both: one statement a row.
		if db, err = sql.Open("pgx", pool.Config().ConnString()); err != nil {
			b.Fatal(err)
		}
		defer db.Close()
	}
	if _, err = db.Exec("CREATE TABLE IF NOT EXISTS floor (uuid text, at bigint, n bigint)"); err != nil {
		b.Fatal(err)
	}
	s, err := db.Prepare("INSERT INTO floor (uuid, at, n) VALUES ($1, $2, $3)")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ResetTimer()
	for n := 0; n < b.N; {
		tx, err := db.Begin()
		if err != nil {
			b.Fatal(err)
		}
		in := tx.Stmt(s)
		for end := min(n+mostTogether, b.N); n < end; n++ {
			if _, err := in.Exec(uuidOf(n).String(), n, n); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "hellos/s")
}
