package main

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/pgtest"
)

// timeFilter is what Grafana writes for its macro.
var timeFilter = regexp.MustCompile(`\$__timeFilter\(([^)]*)\)`)

// TestPanelsAnswerToTheReader runs every SQL text on a database that the server
// made, as the role that reader.sql made: a column that is gone and a right that
// is missing both show here. It also tries what that role must not see.
func TestPanelsAnswerToTheReader(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := pgtest.URL(t)
	admin, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(ctx)
	reader, err := os.ReadFile("../../compose/reader.sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Exec(ctx, string(reader)); err != nil {
		t.Fatalf("reader.sql: %v", err)
	}
	db, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := admin.Exec(ctx, "SET ROLE grafana"); err != nil {
		t.Fatal(err)
	}

	asked := 0
	for _, d := range dashboards() {
		for _, r := range d.Rows {
			for _, p := range r.Panels {
				for _, q := range p.Queries {
					if q.SQL == "" {
						continue
					}
					asked++
					text := timeFilter.ReplaceAllString(q.SQL, "$1 BETWEEN now() - interval '1 day' AND now()")
					text = strings.ReplaceAll(text, "${device:sqlstring}", "'f00d'")
					rows, err := admin.Query(ctx, text)
					if err == nil {
						for rows.Next() {
						}
						rows.Close()
						err = rows.Err()
					}
					if err != nil {
						t.Errorf("%s, %s: %v\n%s", d.Name, p.Title, err, text)
					}
				}
			}
		}
	}
	if asked == 0 {
		t.Fatal("no panel asks the database")
	}

	for _, secret := range []string{"SELECT * FROM credentials", "SELECT * FROM devices", "SELECT * FROM tokens", "SELECT * FROM settings", "DELETE FROM events"} {
		_, err := admin.Exec(ctx, secret)
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "42501" { // insufficient_privilege
			t.Errorf("%s: %v, want it refused to the role that Grafana reads with", secret, err)
		}
	}
}
