package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	defaultConns  = 32
	commitTimeout = 30 * time.Second
	writeTries    = 6
)

func (db *DB) openPostgres(ctx context.Context, o Options) error {
	db.engine = Postgres
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		// pgx's error quotes the URL without the password.
		return fmt.Errorf("database url: %w", err)
	}
	if !strings.Contains(o.URL, "pool_max_conns") { // pgx's own default is 4
		cfg.MaxConns = defaultConns
		if o.MaxConns > 0 {
			cfg.MaxConns = int32(min(o.MaxConns, 1000)) //nolint:gosec // bounded
		}
	}
	p := cfg.ConnConfig.RuntimeParams
	if p["application_name"] == "" {
		p["application_name"] = "provisiond"
	}
	p["timezone"] = "UTC"
	// A node that loses its network in mid-transaction must not keep its locks on
	// devices for the hours that TCP would wait.
	for name, value := range map[string]string{
		"idle_in_transaction_session_timeout": "60s", "tcp_user_timeout": "30s",
		"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3",
	} {
		if p[name] == "" {
			p[name] = value
		}
	}
	cfg.AfterConnect = durable
	if db.slow != nil {
		cfg.ConnConfig.Tracer = db.slow
	}
	if db.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return fmt.Errorf("database url: %w", err)
	}
	if err := db.pool.Ping(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !o.Beside {
		if err := db.takesWrites(ctx); err != nil {
			return err
		}
	}
	return db.migratePostgres(ctx, o)
}

// notWritable is a database that answers and takes no writes. It may become the
// primary in a moment, so it counts as ErrUnavailable.
type notWritable string

func (e notWritable) Error() string      { return "the database takes no writes: " + string(e) }
func (notWritable) Is(target error) bool { return target == ErrUnavailable }

func (db *DB) takesWrites(ctx context.Context) error {
	var standby, readOnly bool
	err := db.pool.QueryRow(ctx, "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on'").Scan(&standby,
		&readOnly)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case standby:
		return notWritable("it is a standby; point database.url at the primary, or name all hosts in it with target_session_attrs=primary")
	case readOnly:
		return notWritable("default_transaction_read_only is on; ALTER ROLE ... SET default_transaction_read_only = off, or the same for " +
			"the " +
			"database")
	}
	return nil
}

// durable makes commits wait for the disk if the server's default does not: a
// device must never hear a password that a crash can take back. Stronger
// settings (remote_apply) stay as they are.
func durable(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
	return err
}

// writePostgres runs fn in one transaction, and runs the whole closure again
// after a deadlock or a serialization failure.
func (db *DB) writePostgres(ctx context.Context, fn func(tx *Tx) error) error {
	for try := 1; ; try++ {
		err := db.writeOnce(ctx, fn)
		if err == nil || try == writeTries || !again(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(rand.N(time.Duration(try) * 10 * time.Millisecond)):
		}
	}
}

func again(err error) bool {
	var p *pgconn.PgError
	return errors.As(err, &p) && (p.Code == "40001" || p.Code == "40P01")
}

func (db *DB) writeOnce(ctx context.Context, fn func(tx *Tx) error) error {
	c, err := db.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("begin a write: %w", err)
	}
	defer c.Release() // closes the connection if a transaction is still open
	p, err := c.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin a write: %w", err)
	}
	tx := &Tx{db: db, ctx: ctx, pg: p, write: true}
	err = contain(tx, fn)
	// The commit has a context of its own: the caller's end must not leave the
	// outcome open. Its time begins here, so that the closure does not use it up.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.commitFor)
	defer cancel()
	if err != nil {
		_ = p.Rollback(end)
		return err
	}
	start := time.Now()
	if len(tx.audits) > 0 {
		err = tx.commitAudited(end)
	} else {
		err = commitOutcome(p.Commit(end))
	}
	db.metrics.done("commit", start, err)
	if err != nil {
		_ = p.Rollback(end) // has no effect after a commit or on a broken connection
		return err
	}
	for _, f := range tx.after {
		f()
	}
	return nil
}

// commitOutcome sorts a failed commit: the server refused it, or nobody knows.
func commitOutcome(err error) error {
	if err == nil {
		return nil
	}
	var p *pgconn.PgError
	if errors.Is(err, pgx.ErrTxCommitRollback) || errors.As(err, &p) && (p.Code[:2] == "40" || p.Code[:2] == "23") {
		return fmt.Errorf("commit: %w", kind(err))
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

func (db *DB) readPostgres(ctx context.Context, fn func(tx *Tx) error) error {
	p, err := db.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.commitFor)
		defer cancel()
		_ = p.Rollback(end)
	}()
	return fn(&Tx{db: db, ctx: ctx, pg: p})
}
