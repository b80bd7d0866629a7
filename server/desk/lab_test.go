package desk_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

// lab is a desk on a real store, with a vendor.
type lab struct {
	tb     testing.TB
	o      store.Options
	db     *store.DB
	desk   *desk.Desk
	dir    string
	vendor *certtest.Lab
	now    time.Time
	inUse  []string // ids, as the daemon was told last
}

func newLab(tb testing.TB, engine string) *lab {
	tb.Helper()
	keys, err := seal.New([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		tb.Fatal(err)
	}
	l := &lab{tb: tb, o: storetest.Options(tb, engine), dir: tb.TempDir(), now: time.Now()}
	l.o.Keys = keys
	l.vendor = certtest.NewLab(l.now)
	l.open()
	return l
}

// open opens the store and makes a desk on it.
func (l *lab) open() {
	l.tb.Helper()
	db, err := store.Open(l.tb.Context(), l.o)
	if err != nil {
		l.tb.Fatal(err)
	}
	l.db = db
	l.tb.Cleanup(func() { _ = db.Close() })
	l.desk = l.another("n1", func(list []*certs.Provisioning) {
		l.inUse = l.inUse[:0]
		for _, p := range list {
			l.inUse = append(l.inUse, p.ID)
		}
	})
}

// another is the desk of a further node on the same store.
func (l *lab) another(node string, inUse func([]*certs.Provisioning)) *desk.Desk {
	l.tb.Helper()
	d := desk.New(desk.Config{DB: l.db, Backups: filepath.Join(l.dir, node), Node: node, InUse: inUse,
		Now: func() time.Time { return l.now }})
	l.tb.Cleanup(d.Close)
	if err := d.Reload(l.tb.Context()); err != nil {
		l.tb.Fatal(err)
	}
	return d
}

func (l *lab) engine() string { return l.db.Engine() }

// restart is what a power loss leaves.
func (l *lab) restart() {
	l.tb.Helper()
	l.desk.Close()
	if err := l.db.Close(); err != nil {
		l.tb.Fatal(err)
	}
	l.open()
}

// forEachEngine runs a claim on both.
func forEachEngine(t *testing.T, claim func(t *testing.T, l *lab)) {
	t.Helper()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			claim(t, newLab(t, engine))
		})
	}
}

// imports files that have to be good.
func (l *lab) imports(o desk.ImportOptions) desk.Imported {
	l.tb.Helper()
	o.Actor = "token:test"
	got, err := l.desk.Import(l.tb.Context(), o)
	if err != nil {
		l.tb.Fatalf("import: %v", err)
	}
	return got
}

// leaf is a certificate with its key and chain as a PFX without a password.
func (l *lab) leaf(vendor string, names ...string) (certtest.Leaf, desk.ImportOptions) {
	f := l.vendor.Plain(vendor, names...)
	return f, pfx(f.PFX(certtest.Modern, "secret"), "secret")
}

func pfx(data []byte, password string) desk.ImportOptions {
	return desk.ImportOptions{Files: []certs.File{{Name: "order.pfx", Data: data}}, Passwords: []amt.Secret{amt.NewSecret(password)}}
}

// backups lists the files of the first node's backups.
func (l *lab) backups() []string {
	l.tb.Helper()
	list, err := os.ReadDir(filepath.Join(l.dir, "n1"))
	if err != nil && !os.IsNotExist(err) {
		l.tb.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}
