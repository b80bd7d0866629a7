package store

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
)

func keptPool(t *testing.T) *sql.DB {
	t.Helper()
	db, err := openPool(dsn(filepath.Join(t.TempDir(), "kept.db"), nil))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, q := range []string{"CREATE TABLE n (v INTEGER)", "INSERT INTO n VALUES (1), (2), (3)"} {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func keptBy(t *testing.T, db *sql.DB) *keptConn {
	t.Helper()
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var kept *keptConn
	if err := c.Raw(func(c any) error { kept = c.(*keptConn); return nil }); err != nil {
		t.Fatal(err)
	}
	return kept
}

func numbers(ctx context.Context, t *testing.T, q interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, query string, each func(n int)) {
	t.Helper()
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		n := 0
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		each(n)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// TestAStatementInsideItself reads rows of a statement while rows of the same
// one are being read on the same connection.
func TestAStatementInsideItself(t *testing.T) {
	t.Parallel()
	db := keptPool(t)
	const q = "SELECT v FROM n ORDER BY v"
	for range 2 * prepareAfter {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		numbers(t.Context(), t, tx, q, func(n int) {
			numbers(t.Context(), t, tx, q, func(m int) { got += fmt.Sprint(n, m, ";") })
		})
		if want := "1 1;1 2;1 3;2 1;2 2;2 3;3 1;3 2;3 3;"; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if keptBy(t, db).kept[q] == nil {
		t.Error("what is asked often was not kept")
	}
}

// TestStatementsOutliveWhatTheyRead changes a table under a kept statement, and
// ends reading in the middle: the next one begins at the beginning.
func TestStatementsOutliveWhatTheyRead(t *testing.T) {
	t.Parallel()
	db := keptPool(t)
	const q = "SELECT * FROM n ORDER BY v"
	for range 2 * prepareAfter {
		n := 0
		if err := db.QueryRow(q).Scan(&n); err != nil || n != 1 {
			t.Fatalf("the first is %d, %v", n, err)
		}
	}
	if _, err := db.Exec("ALTER TABLE n ADD COLUMN w INTEGER DEFAULT 7"); err != nil {
		t.Fatal(err)
	}
	v, w := 0, 0
	if err := db.QueryRow(q).Scan(&v, &w); err != nil || v != 1 || w != 7 {
		t.Fatalf("after a column more: %d %d, %v", v, w, err)
	}
	if _, err := db.Exec("DROP TABLE n"); err != nil {
		t.Fatalf("a statement that is kept is in the way: %v", err)
	}
	if err := db.QueryRow(q).Scan(&v, &w); err == nil {
		t.Error("rows of a table that is gone")
	}
}

// TestKeptStatementsAreBounded asks more different things than are kept.
func TestKeptStatementsAreBounded(t *testing.T) {
	t.Parallel()
	db := keptPool(t)
	for i := range maxStatements + 50 {
		q := fmt.Sprintf("SELECT v + %d FROM n WHERE v = ?", i)
		for range prepareAfter + 1 {
			n := 0
			if err := db.QueryRow(q, 2).Scan(&n); err != nil || n != 2+i {
				t.Fatalf("%s is %d, %v", q, n, err)
			}
		}
	}
	for i := range 2 * maxStrangers {
		if _, err := db.Exec(fmt.Sprintf("UPDATE n SET v = v WHERE v = -%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	c := keptBy(t, db)
	if len(c.kept) != maxStatements || len(c.uses) > maxStrangers+1 {
		t.Errorf("%d are kept and %d counted", len(c.kept), len(c.uses))
	}
	if c.kept["SELECT v + 0 FROM n WHERE v = ?"] != nil {
		t.Error("the oldest is still kept")
	}
}
