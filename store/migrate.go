package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
	"go.uber.org/zap/zapcore"

	"log/slog"

	"github.com/provisiond/provisiond/migrations"
)

// migrationLock is the key of the one advisory lock under which both migrators
// run. River's migrator has none, and three nodes that start on an empty
// database would trip over each other.
const migrationLock = 0x70726f766973696f // "provisio"

func (db *DB) migrateSQLite(ctx context.Context, o Options) error {
	// The lock on the data directory serves here.
	if err := db.goose(ctx, goose.DialectSQLite3, db.write, o); err != nil {
		return err
	}
	return migrateRiver(ctx, riversqlite.New(db.write), db.log, o.NoMigrate || o.Beside)
}

func (db *DB) migratePostgres(ctx context.Context, o Options) error {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer conn.Release()
	// Poll, since a session that waits inside the server would block a CREATE INDEX
	// CONCURRENTLY of the node that migrates.
	for got := false; !got; {
		if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(migrationLock)).Scan(&got); err != nil {
			return fmt.Errorf("lock the schema: %w", err)
		}
		if !got {
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for another node that migrates the schema: %w", ctx.Err())
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	defer func() {
		_, _ = conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(migrationLock))
	}()
	std := stdlib.OpenDBFromPool(db.pool)
	defer std.Close()
	if err := db.goose(ctx, goose.DialectPostgres, std, o); err != nil {
		return err
	}
	return migrateRiver(ctx, riverpgxv5.New(db.pool), db.log, o.NoMigrate || o.Beside)
}

func (db *DB) goose(ctx context.Context, dialect goose.Dialect, std *sql.DB, o Options) error {
	files, err := migrations.For(db.engine)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(dialect, std, files)
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	sources := p.ListSources()
	target := sources[len(sources)-1].Version
	if o.upTo > 0 {
		target = min(target, o.upTo)
	}
	current, err := db.schemaNow(ctx, std)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	db.schema = current
	switch {
	case current > target:
		return db.newer(ctx, std, current, target)
	case current == target:
		return nil
	case o.NoMigrate || o.Beside:
		return fmt.Errorf("the database has schema %d and this program needs %d: run provisiond migrate, or start without --no-migrate",
			current, target)
	}
	done, err := p.UpTo(ctx, target)
	if err != nil {
		return fmt.Errorf("migrate the schema from %d to %d: %w", current, target, err)
	}
	for _, r := range done {
		db.log.Info("schema migrated", zap.Int64("version", r.Source.Version), zap.Duration("took", r.Duration))
	}
	db.schema = target
	return nil
}

// schemaNow is the newest applied migration, 0 for an empty database. It does
// not make goose's table, so that a refusal leaves no trace.
func (db *DB) schemaNow(ctx context.Context, std *sql.DB) (int64, error) {
	there := "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version'"
	if db.engine == Postgres {
		there = "SELECT count(*) FROM pg_class WHERE oid = to_regclass('goose_db_version')"
	}
	var n, v int64
	if err := std.QueryRowContext(ctx, there).Scan(&n); err != nil || n == 0 {
		return 0, err
	}
	err := std.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&v)
	return v, err
}

// newer decides about a schema from the future. A migration that the release
// before can work with says so in the setting schema_readable_from, so that
// nodes of two versions can run side by side during an upgrade.
func (db *DB) newer(ctx context.Context, std *sql.DB, current, target int64) error {
	var from int64
	err := std.QueryRowContext(ctx, "SELECT CAST(value AS integer) FROM settings WHERE key = 'schema_readable_from'").Scan(&from)
	if err == nil && from > 0 && from <= target {
		db.log.Warn("the database has a newer schema, which says that this version can use it", zap.Int64("schema", current),
			zap.Int64("known", target))
		return nil
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		db.log.Debug("read schema_readable_from", zap.Error(err))
	}
	return fmt.Errorf("the database has schema %d but this program knows only %d: it was used by a newer provisiond, so start that one "+
		"(or "+
		"restore the backup from before the upgrade)", current, target)
}

func migrateRiver[T any](ctx context.Context, d riverdriver.Driver[T], log *zap.Logger, noMigrate bool) error {
	quiet := slog.New(zapslog.NewHandler(log.Core(), zapslog.WithName("river"), zapslog.AddStacktraceAt(slog.LevelError+1)))
	if !log.Core().Enabled(zapcore.DebugLevel) {
		quiet = slog.New(slog.DiscardHandler)
	}
	m, err := rivermigrate.New(d, &rivermigrate.Config{Logger: quiet})
	if err != nil {
		return fmt.Errorf("read the queue's migrations: %w", err)
	}
	if noMigrate {
		v, err := m.Validate(ctx, nil)
		if err != nil {
			return fmt.Errorf("check the queue's schema: %w", err)
		}
		if !v.OK {
			return fmt.Errorf("the queue's tables are not up to date (%s): run provisiond migrate, or start without --no-migrate",
				strings.Join(v.Messages, "; "))
		}
		return nil
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("migrate the queue's schema: %w", err)
	}
	return nil
}
