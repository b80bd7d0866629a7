package store_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
	"github.com/provisiond/provisiond/store/seal"
)

func TestThreeNodesStartOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	o := store.Options{URL: pgtest.URL(t)}
	dbs := make([]*store.DB, 3)
	var wg sync.WaitGroup
	for i := range dbs {
		wg.Go(func() {
			db, err := store.Open(t.Context(), again(t, o))
			if err != nil {
				t.Error(err)
				return
			}
			dbs[i] = db
		})
	}
	wg.Wait()
	for _, db := range dbs {
		if db != nil {
			hello(t, db, 1)
			_ = db.Close()
		}
	}
}

// execute runs a statement behind the store's back.
func execute(t *testing.T, o store.Options, statement string) {
	t.Helper()
	if o.URL != "" {
		c, err := pgx.Connect(t.Context(), o.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		if _, err := c.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
		return
	}
	db, err := sql.Open("sqlite", filepath.Join(o.Dir, store.DatabaseFile))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func TestASchemaFromTheFutureIsRefused(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := empty(t, engine)
			_ = open(t, o).Close()
			execute(t, o, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (900, true)")
			execute(t, o, "UPDATE settings SET value = '900' WHERE key = 'schema_readable_from'")
			_, err := store.Open(t.Context(), again(t, o))
			if err == nil || !strings.Contains(err.Error(), "the database has schema 900 but this program knows only") {
				t.Fatalf("opened: %v", err)
			}
			// Unless that schema says that this program can live with it.
			execute(t, o, "UPDATE settings SET value = '1' WHERE key = 'schema_readable_from'")
			hello(t, open(t, again(t, o)), 1)
		})
	}
}

func TestNoMigrateRefusesAnOldSchema(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := empty(t, engine)
			o.NoMigrate = true
			_, err := store.Open(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), "provisiond migrate") {
				t.Fatalf("opened: %v", err)
			}
			o.NoMigrate = false
			_ = open(t, again(t, o)).Close()
			o.NoMigrate = true
			_ = open(t, again(t, o)).Close()
		})
	}
}

func TestTheWrongMasterKeyIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			o := empty(t, engine)
			_ = open(t, o).Close()
			wrong, err := seal.New([]byte(strings.Repeat("x", seal.KeySize)))
			if err != nil {
				t.Fatal(err)
			}
			o.Keys = wrong
			if _, err := store.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "the master key is not the one") {
				t.Errorf("opened: %v", err)
			}
		})
	}
}

func TestADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	_, err := store.Open(t.Context(), store.Options{URL: "postgres://u:hidden@127.0.0.1:1/x?connect_timeout=2"})
	if !errors.Is(err, store.ErrUnavailable) || strings.Contains(err.Error(), "hidden") {
		t.Error(err)
	}
	_, err = store.Open(t.Context(), store.Options{URL: "postgres://u:hidden@127.0.0.1:port/x"})
	if err == nil || strings.Contains(err.Error(), "hidden") {
		t.Error(err)
	}
}

// TestADatabaseThatTakesNoWrites may take them again in a moment, as a standby
// that is promoted does: it is waited for like one that does not answer.
func TestADatabaseThatTakesNoWrites(t *testing.T) {
	t.Parallel()
	o := empty(t, store.Postgres)
	_ = open(t, o).Close()
	execute(t, o, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	_, err := store.Open(t.Context(), o)
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(),
		"takes no writes: default_transaction_read_only is on; ALTER ROLE") {
		t.Errorf("opened: %v", err)
	}
	o.Beside = true
	if db, err := store.Open(t.Context(), o); err != nil {
		t.Errorf("to be read beside the daemon: %v", err)
	} else {
		_ = db.Close()
	}
}

// A killed process leaves its leases behind; the next one need not wait for them.
func TestLeasesOfADeadProcessEndSoon(t *testing.T) {
	t.Parallel()
	o := empty(t, store.SQLite)
	db := open(t, o)
	hello(t, db, 1)
	hello(t, db, 2)
	r := run(t, db, 1)
	if _, err := claim(t, db, r.ID, "a/1", time.Hour); err != nil {
		t.Fatal(err)
	}
	quiet, err := claim(t, db, run(t, db, 2).ID, "a/1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	write(t, db, func(ctx context.Context, tx *store.Tx) error {
		return tx.Release(ctx, uuid(2), quiet.Fence, time.Now().Add(4*time.Minute))
	})
	_ = db.Close()
	restart := time.Now()
	db = open(t, again(t, o))
	var held store.ErrHeld
	if _, err := claim(t, db, r.ID, "a/2", time.Hour); (err != nil || time.Since(restart) < 2*time.Second) &&
		(!errors.As(err, &held) || time.Until(held.Until) > 3*time.Second) {
		t.Errorf("after the restart: %v", err)
	}
	if err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.CheckFence(t.Context(), uuid(1), 1) }); !errors.Is(err,
		store.ErrFenced) {
		t.Errorf("the old fence: %v", err)
	}
	if _, err := claim(t, db, quiet.Run.ID, "a/2", time.Hour); !errors.As(err, &held) || time.Until(held.Until) < 2*time.Minute {
		t.Errorf("the quiet period: %v", err)
	}
}

// The database goes away and comes back: what was answered is there, what was
// under way has an error, and the store works on without being opened again.
func TestADatabaseThatComesBack(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	db := open(t, store.Options{URL: server.URL()})
	hello(t, db, 1)
	began := make(chan struct{})
	goOn := make(chan struct{})
	under := make(chan error)
	go func() {
		under <- db.Write(t.Context(), func(tx *store.Tx) error {
			err := tx.PutSetting(t.Context(), "half", "v")
			close(began)
			<-goOn
			return err
		})
	}()
	<-began
	server.Kill(t)
	close(goOn)
	if err := <-under; !errors.Is(err, store.ErrUnknownOutcome) {
		t.Errorf("the line broke before the commit was answered: %v", err)
	}
	if err := db.Ping(t.Context()); err == nil {
		t.Error("a dead database answers")
	}
	if err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.PutSetting(t.Context(), "lost", "v") }); err == nil {
		t.Error("a write to a dead database was answered")
	}
	server.Restart(t)
	hello(t, db, 2)
	for key, want := range map[string]error{"half": store.ErrNotFound, "lost": store.ErrNotFound} {
		if _, err := setting(t, db, key); !errors.Is(err, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
	read(t, db, func(ctx context.Context, tx *store.Tx) error {
		_, err := tx.Device(ctx, uuid(1))
		return err
	})
}

// A server that does not wait for the disk by default does so for us.
func TestCommitsWaitForTheDisk(t *testing.T) {
	t.Parallel()
	o := empty(t, store.Postgres)
	for server, want := range map[string]string{"off": "on", "on": "on", "remote_apply": "remote_apply"} {
		db := open(t, store.Options{URL: o.URL + "&synchronous_commit=" + server})
		var got string
		if err := db.Pool().QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&got); err != nil || got != want {
			t.Errorf("server %s: our sessions have %s: %v", server, got, err)
		}
	}
}

// TestAsManyConnectionsAsAsked: the pool is as large as the configuration says.
func TestAsManyConnectionsAsAsked(t *testing.T) {
	t.Parallel()
	o := empty(t, store.Postgres)
	for asked, want := range map[int]int32{0: 32, 3: 3} {
		o := again(t, o)
		o.MaxConns = asked
		db := open(t, o)
		if got := db.Pool().Config().MaxConns; got != want {
			t.Errorf("asked for %d: %d", asked, got)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
