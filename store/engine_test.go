package store_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// master is a key for tests.
var master = []byte("0123456789abcdef0123456789abcdef")

// forEachEngine makes one claim about both engines.
func forEachEngine(t *testing.T, claim func(t *testing.T, db *store.DB)) {
	t.Helper()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			claim(t, open(t, place(t, engine)))
		})
	}
}

// place is a database with the schema and no row.
func place(tb testing.TB, engine string) store.Options {
	tb.Helper()
	return again(tb, storetest.Options(tb, engine))
}

// empty is a database without a schema, for tests of opening one.
func empty(tb testing.TB, engine string) store.Options {
	tb.Helper()
	if engine == store.Postgres {
		return again(tb, store.Options{URL: pgtest.URL(tb)})
	}
	return again(tb, store.Options{Dir: tb.TempDir()})
}

func open(tb testing.TB, o store.Options) *store.DB {
	tb.Helper()
	db, err := store.Open(tb.Context(), o)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	db.CommitFor(5 * time.Minute) // a machine may stand still in a commit
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

// again opens the same place with a keyring of its own, as another process would.
func again(tb testing.TB, o store.Options) store.Options {
	tb.Helper()
	keys, err := seal.New(master)
	if err != nil {
		tb.Fatal(err)
	}
	o.Keys = keys
	o.Hasty()
	return o
}

func write(tb testing.TB, db *store.DB, fn func(ctx context.Context, tx *store.Tx) error) {
	tb.Helper()
	if err := db.Write(tb.Context(), func(tx *store.Tx) error { return fn(tb.Context(), tx) }); err != nil {
		tb.Fatalf("write: %v", err)
	}
}

func read(tb testing.TB, db *store.DB, fn func(ctx context.Context, tx *store.Tx) error) {
	tb.Helper()
	if err := db.Read(tb.Context(), func(tx *store.Tx) error { return fn(tb.Context(), tx) }); err != nil {
		tb.Fatalf("read: %v", err)
	}
}

// uuid is the n-th test device.
func uuid(n int) amt.UUID {
	return amt.UUID{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

func hashes(n int) []amt.TrustHash {
	out := make([]amt.TrustHash, n)
	for i := range out {
		out[i] = amt.HashesOf(fmt.Appendf(nil, "root %d", i))[1]
	}
	return out
}

func helloOf(n int) store.SeenHello {
	return store.SeenHello{
		UUID: uuid(n), From: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 16994),
		Via: "plain", Version: 3, Hashes: hashes(3),
	}
}

// hello makes device n known.
func hello(tb testing.TB, db *store.DB, n int) (d store.Device) {
	tb.Helper()
	write(tb, db, func(ctx context.Context, tx *store.Tx) (err error) {
		d, _, err = tx.SeeHello(ctx, helloOf(n))
		return err
	})
	return d
}

// run starts a run for device n.
func run(tb testing.TB, db *store.DB, n int) (r store.Run) {
	tb.Helper()
	write(tb, db, func(ctx context.Context, tx *store.Tx) (err error) {
		r, err = tx.CreateRun(ctx, store.NewRun{UUID: uuid(n), Kind: "provision", Trigger: "hello"})
		return err
	})
	return r
}

func near(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute }
