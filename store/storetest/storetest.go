// Package storetest gives tests databases that have the schema already. A test
// binary migrates one database of each engine; every test gets a copy, which costs
// a twentieth. Tests of opening and migrating begin with nothing instead.
package storetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
)

// Options name a new database of an engine that has the schema and no row.
func Options(tb testing.TB, engine string) store.Options {
	tb.Helper()
	if engine == store.Postgres {
		return store.Options{URL: URL(tb)}
	}
	dir := tb.TempDir()
	File(tb, dir)
	return store.Options{Dir: dir}
}

// URL is a new database on Postgres that has the schema and no row.
func URL(tb testing.TB) string {
	tb.Helper()
	return pgtest.Copy(tb, func(url string) error { return migrate(store.Options{URL: url}) })
}

// DurableURL is the same on a server that waits for the disk.
func DurableURL(tb testing.TB) string {
	tb.Helper()
	return pgtest.DurableCopy(tb, func(url string) error { return migrate(store.Options{URL: url}) })
}

// File puts SQLite's database into a data directory.
func File(tb testing.TB, dir string) {
	tb.Helper()
	file, err := migrated()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, store.DatabaseFile), file, 0o600)
	}
	if err != nil {
		tb.Fatalf("make a database with the schema: %v", err)
	}
}

// migrated is the file of a SQLite database with the schema.
var migrated = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "storetest")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := migrate(store.Options{Dir: dir}); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, store.DatabaseFile))
})

// migrate opens a database without a keyring, so that no key of one test gets
// into the others' copies.
func migrate(o store.Options) error {
	db, err := store.Open(context.Background(), o)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return db.Close()
}
