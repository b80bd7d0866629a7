package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
	"github.com/provisiond/provisiond/store/seal"
)

func frozen(t *testing.T, release, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", release, name))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return b
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	b, err = io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEveryReleaseComesForward opens the database of each earlier release with
// this program: its passwords open, its audit chain holds, and it goes on.
func TestEveryReleaseComesForward(t *testing.T) {
	t.Parallel()
	releases, err := filepath.Glob("testdata/release-*")
	if err != nil || len(releases) == 0 {
		t.Fatal("no release is frozen", err)
	}
	for _, r := range releases {
		release := filepath.Base(r)
		for _, engine := range []string{store.SQLite, store.Postgres} {
			t.Run(release+" "+engine, func(t *testing.T) {
				t.Parallel()
				master, err := seal.ParseKey(frozen(t, release, "master.key"))
				if err != nil {
					t.Fatal(err)
				}
				keys, err := seal.New(master)
				if err != nil {
					t.Fatal(err)
				}
				o := store.Options{Keys: keys}
				if engine == store.SQLite {
					o.Dir = t.TempDir()
					if err := os.WriteFile(filepath.Join(o.Dir, store.DatabaseFile), frozen(t, release, "provisiond.db.gz"),
						0o600); err != nil {
						t.Fatal(err)
					}
				} else {
					o.URL = pgtest.URL(t)
					c, err := pgx.Connect(t.Context(), o.URL)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := c.PgConn().Exec(t.Context(), string(frozen(t, release, "postgres.sql.gz"))).ReadAll(); err != nil {
						t.Fatalf("load the dump: %v", err)
					}
					if err := c.Close(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				forward(t, open(t, o))
			})
		}
	}
}

func forward(t *testing.T, db *store.DB) {
	if db.SchemaVersion() != store.NewestSchema(db.Engine()) {
		t.Errorf("schema %d, want %d", db.SchemaVersion(), store.NewestSchema(db.Engine()))
	}
	f, err := db.Facts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.Lifecycle[store.Provisioned] != 3 || f.Lifecycle[store.PendingCertificate] != 1 {
		t.Errorf("lifecycles %v", f.Lifecycle)
	}
	if n, err := db.CheckAudit(t.Context()); err != nil || n == 0 {
		t.Errorf("audit chain: %d records, %v", n, err)
	}
	var devices []store.Device
	opened := map[string]int{}
	read(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
		if devices, err = tx.Devices(ctx, store.DeviceFilter{}); err != nil {
			return err
		}
		for _, d := range devices {
			for _, kind := range []string{store.KindAdmin, store.KindMEBx} {
				list, err := tx.Credentials(ctx, d.UUID, kind)
				if err != nil {
					return err
				}
				for _, c := range list {
					if c.State == store.CredentialActive && len(c.Password.Reveal()) >= 8 {
						opened[kind]++
					}
				}
			}
			if _, err := tx.Runs(ctx, d.UUID, 10); err != nil {
				return err
			}
		}
		if u, err := tx.User(ctx, "first-admin"); err != nil || u.Tokens != 1 || len(u.Roles) != 1 || u.Roles[0] != "admin" {
			t.Errorf("the first token became the user %+v, %v", u, err)
		}
		_, err = tx.Events(ctx, store.EventFilter{})
		return err
	})
	if opened[store.KindAdmin] != 3 || opened[store.KindMEBx] != 3 {
		t.Errorf("active passwords that open: %v", opened)
	}
	// And on: a hello, a run, new passwords, a backup.
	hello(t, db, 900)
	run(t, db, 900)
	stage(t, db, 900, "Admin!later", "Mebx!later")
	var file bytes.Buffer
	if _, err := db.Backup(t.Context(), &file, passphrase, "test"); err != nil {
		t.Fatal(err)
	}
	if r, err := store.VerifyBackup(t.Context(), &file, passphrase); err != nil || r.Rows["devices"] != 5 {
		t.Errorf("a backup of it: %+v, %v", r.Rows, err)
	}
}
