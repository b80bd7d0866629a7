package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/store/seal"
)

// Options say where the database is and how to open it.
type Options struct {
	URL       string        // postgres://…; "" is SQLite in Dir
	Dir       string        // data directory: SQLite's database, and on both engines what this node remembers of it
	Keys      *seal.Keyring // nil: the store can seal and open nothing
	Log       *zap.Logger
	Metrics   *Metrics
	MaxConns  int           // Postgres: most connections, unless the URL says pool_max_conns; 0: 32
	Slow      time.Duration // the store logs slower statements, without their values; 0: none
	NoMigrate bool          // refuse a schema older than this program instead of migrating it

	// Beside opens a database on which a daemon may be running: the store migrates
	// nothing, ends no lease and on SQLite does not lock the directory.
	Beside bool

	upTo     int64 // the last migration to apply; 0: all
	work     int   // that guessing a backup's passphrase takes, as seal.NewWriter counts it; 0: seal.FileWork
	restored bool  // the node's memory is of another database than the restored one

	// Clock replaces the process clock on SQLite, where it is the database's clock
	// as well; for simulations. Postgres always uses its own.
	Clock func() time.Time
}

// Engines.
const (
	SQLite   = "sqlite"
	Postgres = "postgres"
)

// DB is the open store. Any goroutine may call its methods.
type DB struct {
	engine  string
	log     *zap.Logger
	metrics *Metrics
	keys    *seal.Keyring
	texts   textCache
	trust   *trustCache
	schema  int64
	slow    *slowLog

	backupWork int

	pool      *pgxpool.Pool // Postgres
	commitFor time.Duration // Postgres: how long a commit may take

	write, read *sql.DB // SQLite: one write connection, shared with River; many readers
	writer      *writer
	lock        *dirLock
	dir         string // SQLite: the data directory
	clock       func() time.Time
	opened      time.Time // with its monotonic part, from which SQLite's lease clock counts
	fakeClock   bool

	up     time.Time // the time of opening, by the wall clock
	beside bool      // a daemon may be running on it

	strict  atomic.Bool // rows without a right MAC count for nothing
	refused refusedRows
	memory  *memory

	closeOnce sync.Once
	closeErr  error
}

// Open connects and brings the schema up to date, or says in one sentence what
// is wrong. ErrUnavailable: the database does not answer.
func Open(ctx context.Context, o Options) (*DB, error) {
	db := &DB{
		log: o.Log, metrics: o.Metrics, keys: o.Keys, trust: newTrustCache(), clock: o.Clock, fakeClock: o.Clock != nil,
		opened: time.Now(), commitFor: commitTimeout, backupWork: cmp.Or(o.work, seal.FileWork),
	}
	if db.log == nil {
		db.log = zap.NewNop()
	}
	db.slow = newSlowLog(db.log, o.Slow)
	db.beside = o.Beside
	db.memory = newMemory(o, db.log)
	if db.metrics == nil {
		db.metrics = NewMetrics(nil)
	}
	if db.clock == nil {
		db.clock = time.Now
	}
	db.up = db.clock()
	open := db.openSQLite
	if o.URL != "" {
		open = db.openPostgres
	}
	if err := open(ctx, o); err != nil {
		_ = db.Close()
		return nil, err
	}
	if err := db.openKeys(ctx); err != nil {
		_ = db.Close()
		return nil, err
	}
	if err := db.openRows(ctx, o); err != nil {
		_ = db.Close()
		return nil, err
	}
	db.metrics.up.Set(1)
	return db, nil
}

// Engine is "sqlite" or "postgres".
func (db *DB) Engine() string { return db.engine }

// SchemaVersion is the number of the newest migration applied.
func (db *DB) SchemaVersion() int64 { return db.schema }

// Pool is the Postgres pool, nil on SQLite; for the queue.
func (db *DB) Pool() *pgxpool.Pool { return db.pool }

// SQL is SQLite's one write connection, nil on Postgres; for the queue. Never
// ask it for a connection inside Write, which holds the only one.
func (db *DB) SQL() *sql.DB { return db.write }

// Close waits for writes under way; later ones get ErrClosed.
func (db *DB) Close() error {
	db.closeOnce.Do(func() {
		var errs []error
		if db.writer != nil {
			db.writer.close()
		}
		if db.read != nil {
			errs = append(errs, db.read.Close())
		}
		if db.write != nil {
			errs = append(errs, db.write.Close())
		}
		if db.pool != nil {
			db.pool.Close()
		}
		if db.lock != nil {
			errs = append(errs, db.lock.release())
		}
		db.metrics.up.Set(0)
		db.closeErr = errors.Join(errs...)
	})
	return db.closeErr
}

// Ping checks that the database answers.
func (db *DB) Ping(ctx context.Context) error {
	var err error
	if db.pool != nil {
		err = db.pool.Ping(ctx)
	} else {
		var one int
		err = db.read.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	}
	if err != nil {
		db.metrics.up.Set(0)
		return fmt.Errorf("ask the database: %w", err)
	}
	db.metrics.up.Set(1)
	return nil
}

// Write runs fn in a transaction and returns when the commit is durable. fn may
// run more than once. When fn fails, Write keeps nothing of it and returns its
// error. On SQLite fn holds up every other writer: it must not use the network,
// wait, or call Write or Read, which would wait for itself.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	start := time.Now()
	var err error
	if db.pool != nil {
		err = db.writePostgres(ctx, fn)
	} else {
		err = db.writer.do(ctx, fn)
	}
	db.metrics.done("write", start, err)
	return err
}

// Read runs fn on one unchanging picture of the database.
func (db *DB) Read(ctx context.Context, fn func(tx *Tx) error) error {
	start := time.Now()
	var err error
	if db.pool != nil {
		err = db.readPostgres(ctx, fn)
	} else {
		err = db.readSQLite(ctx, fn)
	}
	db.metrics.done("read", start, err)
	return err
}

// resultWord is the metric's result. A refusal by the store's own rules is an
// answer, not a failure.
func resultWord(err error) string {
	var held ErrHeld
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrConflict), errors.Is(err, ErrFenced), errors.Is(err, ErrGone),
		errors.As(err, &held):
		return "ok"
	case errors.Is(err, ErrUnknownOutcome):
		return "unknown"
	}
	return "error"
}

// A Tx is one transaction, used by one goroutine until its closure returns.
type Tx struct {
	db    *DB
	ctx   context.Context // the transaction's own context, for Now; Postgres only
	pg    pgx.Tx
	lite  *sql.Tx
	write bool
	now   time.Time // SQLite: the start of the closure; Postgres: the first answer
	lease time.Time // SQLite: the same moment on the clock of the leases
	after []func()  // runs after the commit

	audits []auditRow // Postgres: appended together with the commit

	newKey uint32 // a data key that this transaction made, unusable before the commit
}

// Handle is the transaction itself, pgx.Tx or *sql.Tx, for River's InsertTx. On
// SQLite give it a context that cannot end: an interrupted statement takes the
// whole batch with it.
func (tx *Tx) Handle() any {
	if tx.pg != nil {
		return tx.pg
	}
	return tx.lite
}

// Now is the database's clock in milliseconds, UTC: on Postgres the server's
// clock, read once a transaction; on SQLite this process's clock.
func (tx *Tx) Now() time.Time {
	if tx.now.IsZero() && tx.pg != nil {
		var t time.Time
		// The next statement reports the failure.
		if err := tx.pg.QueryRow(tx.ctx, "SELECT clock_timestamp()").Scan(&t); err != nil {
			t = tx.db.clock()
		}
		tx.now = millis(t)
	}
	return tx.now
}

func millis(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// clocks returns SQLite's two clocks: the wall clock, for what people read, and
// one for leases that no clock step can move.
func (db *DB) clocks() (wall, lease time.Time) {
	wall = millis(db.clock())
	if db.fakeClock {
		return wall, wall
	}
	return wall, millis(db.opened.Add(time.Since(db.opened)))
}
