package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// DatabaseFile is the name of the database file in a data directory.
const DatabaseFile = "provisiond.db"

// openSQLite opens the database file in the data directory.
//
// synchronous=FULL, since a power loss must not undo a commit: a device
// receives only what is durable. There is one write connection, since a second
// would wait for the first one's lock, up to seconds.
func (db *DB) openSQLite(ctx context.Context, o Options) error {
	db.engine, db.dir = SQLite, o.Dir
	if o.Dir == "" {
		return errors.New("open the store: no data directory is given and no database URL")
	}
	file := filepath.Join(o.Dir, DatabaseFile)
	var err error
	if o.Beside {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("open the store: there is no database: %w", err)
		}
	} else if err := db.takeDir(o.Dir, file); err != nil {
		return err
	}

	common := url.Values{"_pragma": {"busy_timeout(10000)", "foreign_keys(1)", "temp_store(2)", "mmap_size(268435456)"}}
	rw := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{"journal_mode(WAL)", "synchronous(FULL)", "cache_size(-65536)",
		"wal_autocheckpoint(8000)", "journal_size_limit(67108864)"}, common["_pragma"]...)}
	ro := url.Values{"_pragma": append([]string{"query_only(1)", "cache_size(-8192)"}, common["_pragma"]...)}
	if db.write, err = openPool(dsn(file, rw)); err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	db.write.SetMaxOpenConns(1)
	db.write.SetMaxIdleConns(1)
	var mode string
	if err := db.write.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	if !strings.EqualFold(mode, "wal") {
		return fmt.Errorf("open %s: this file system cannot hold a write-ahead log (journal mode is %s); use a local disk", file, mode)
	}
	if err := db.migrateSQLite(ctx, o); err != nil {
		return err
	}
	if !o.Beside {
		if err := db.endOldLeases(ctx); err != nil {
			return err
		}
	}
	if db.read, err = openPool(dsn(file, ro)); err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	readers := max(4, 2*runtime.GOMAXPROCS(0))
	db.read.SetMaxOpenConns(readers)
	db.read.SetMaxIdleConns(readers)
	db.writer = newWriter(db)
	go db.writer.loop()
	return nil
}

// takeDir makes the directory and the file and locks them for this process.
func (db *DB) takeDir(dir, file string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	db.lock = lock
	// Make the file here so that no other account can read it, whatever the umask.
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	return f.Close()
}

func dsn(file string, v url.Values) string {
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: file}).EscapedPath(), RawQuery: v.Encode()}).String()
}

// endOldLeases shortens the leases that a dead process left. Only one process
// may have this directory, so whoever held a lease is gone with its sockets,
// and nothing can still be sending. Two seconds cover bytes that were in
// flight; asking before acting covers the device's own work on them. A quiet
// period stays, but not for years, which a wrong clock may have written.
func (db *DB) endOldLeases(ctx context.Context) error {
	_, lease := db.clocks()
	_, err := db.write.ExecContext(ctx, `UPDATE devices SET lease_until = CASE
			WHEN owner <> '' THEN min(lease_until, $1) ELSE min(lease_until, $2) END, owner = ''
		WHERE lease_until IS NOT NULL AND (owner <> '' OR lease_until > $2)`,
		lease.Add(2*time.Second).UnixMilli(), lease.Add(5*time.Minute).UnixMilli())
	return about(err, "end the leases of the process before")
}

func (db *DB) readSQLite(ctx context.Context, fn func(tx *Tx) error) error {
	t, err := db.read.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	defer func() { _ = t.Rollback() }()
	wall, lease := db.clocks()
	return fn(&Tx{db: db, lite: t, now: wall, lease: lease})
}

// A dirLock keeps a second daemon out of a data directory. The kernel drops it
// with the process, however that ends.
type dirLock struct{ f *os.File }

func lockDir(dir string) (*dirLock, error) {
	name := filepath.Join(dir, "provisiond.lock")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
		}
		b := make([]byte, 32)
		n, _ := f.Read(b)
		if pid := strings.TrimSpace(string(b[:n])); pid != "" {
			return nil, fmt.Errorf("the data directory %s is in use by process %s; stop it, or give this one a directory of its own", dir,
				pid)
		}
		return nil, fmt.Errorf("the data directory %s is in use by another process", dir)
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("lock the data directory %s: %w", dir, err)
		}
	}
	return &dirLock{f}, nil
}

// release unlocks at once, since a child process that is about to start may
// hold a copy of the descriptor for a moment longer.
func (l *dirLock) release() error {
	return errors.Join(syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN), l.f.Close())
}
