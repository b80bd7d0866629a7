package migrations_test

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/migrations"
)

// released is the newest migration of the first release. What comes later runs
// while nodes of the version before still work on the database.
const released = 4

// big tables are never rewritten, nor locked for as long as an index takes.
var big = []string{"devices", "hellos", "runs", "run_steps", "credentials", "events", "audit", "trust_hashes", "job_items"}

type rule struct {
	found *regexp.Regexp
	why   string
}

var rules = []rule{
	{regexp.MustCompile(`(?i)\bdrop\s+table\b`), "a node of the version before still uses the table: drop it a release after the last use"},
	{regexp.MustCompile(`(?i)\bdrop\s+column\b`), "a node of the version before still names the column: drop it a release after the last use"},
	{regexp.MustCompile(`(?i)\brename\s+(to|column|constraint)\b|\brename\s+\w+\s+to\b`), "the version before knows the old name: add the new one, fill both, drop the old one later"},
	{regexp.MustCompile(`(?i)\balter\s+(column\s+)?\w+\s+(set\s+data\s+)?type\b`), "it rewrites the table under a lock: add a column and fill it in the background"},
	{regexp.MustCompile(`(?i)\bset\s+not\s+null\b`), "the version before may still write NULL, and the check reads the table under a lock: add a CHECK … NOT VALID and validate it"},
	{regexp.MustCompile(`(?i)\block\s+table\b`), "it stops every node"},
	{regexp.MustCompile(`(?i)\b(truncate|vacuum\s+full|cluster|reindex)\b`), "it holds the table"},
}

var (
	comment    = regexp.MustCompile(`--[^\n]*`)
	addColumn  = regexp.MustCompile(`(?is)\badd\s+column\s+(?:if\s+not\s+exists\s+)?\w+\s+([^,;]*)`)
	addForeign = regexp.MustCompile(`(?is)\badd\s+constraint\s+[^;]*?\b(check|foreign\s+key)\b[^;]*`)
	makeIndex  = regexp.MustCompile(`(?i)\bcreate\s+(?:unique\s+)?index\s+(concurrently\s+)?(?:if\s+not\s+exists\s+)?\w+\s+on\s+(?:only\s+)?(\w+)`)
)

// problems says what in a migration would hurt a running service.
func problems(engine, text string) (out []string) {
	up, _, _ := strings.Cut(text, "-- +goose Down")
	sql := comment.ReplaceAllString(up, "")
	for _, r := range rules {
		if m := r.found.FindString(sql); m != "" {
			out = append(out, fmt.Sprintf("%q: %s", m, r.why))
		}
	}
	for _, m := range addColumn.FindAllStringSubmatch(sql, -1) {
		words := strings.ToLower(m[1])
		if strings.Contains(words, "not null") && !strings.Contains(words, "default") {
			out = append(out, "ADD COLUMN … NOT NULL without a default: the version before cannot insert any more")
		}
		if engine == "postgres" && regexp.MustCompile(`default\s+\(?\s*(gen_random_uuid|random|clock_timestamp|nextval)`).MatchString(words) {
			out = append(out, "a default that differs by row rewrites the table")
		}
	}
	if engine != "postgres" {
		return out // SQLite has one process, which has stopped meanwhile
	}
	for _, m := range addForeign.FindAllString(sql, -1) {
		if !strings.Contains(strings.ToLower(m), "not valid") {
			out = append(out, "ADD CONSTRAINT without NOT VALID reads the whole table under a lock")
		}
	}
	for _, m := range makeIndex.FindAllStringSubmatch(sql, -1) {
		made := regexp.MustCompile(`(?i)create\s+table\s+(if\s+not\s+exists\s+)?` + m[2] + `\b`).MatchString(sql)
		if !made && m[1] == "" && slices.Contains(big, strings.ToLower(m[2])) {
			out = append(out, "CREATE INDEX on "+m[2]+" without CONCURRENTLY stops every hello while it runs")
		}
		if m[1] != "" && !strings.Contains(up, "-- +goose NO TRANSACTION") {
			out = append(out, "CREATE INDEX CONCURRENTLY needs -- +goose NO TRANSACTION")
		}
	}
	return out
}

func files(t *testing.T, engine string) map[int]string {
	t.Helper()
	list, err := migrations.For(engine)
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(list, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	for _, name := range names {
		number, rest, _ := strings.Cut(path.Base(name), "_")
		n, err := strconv.Atoi(number)
		if err != nil || len(number) != 5 || rest == "" || out[n] != "" {
			t.Errorf("%s/%s: want five digits used once, then a name", engine, name)
		}
		text, err := fs.ReadFile(list, name)
		if err != nil {
			t.Fatal(err)
		}
		out[n] = string(text)
	}
	return out
}

func TestMigrationsLetOlderNodesWork(t *testing.T) {
	t.Parallel()
	postgres, sqlite := files(t, "postgres"), files(t, "sqlite")
	if a, b := slices.Sorted(maps.Keys(postgres)), slices.Sorted(maps.Keys(sqlite)); !slices.Equal(a, b) {
		t.Errorf("Postgres has migrations %v, SQLite %v", a, b)
	}
	for engine, list := range map[string]map[int]string{"postgres": postgres, "sqlite": sqlite} {
		for n := 1; n <= len(list); n++ {
			text, there := list[n]
			if !there {
				t.Errorf("%s: migration %d is missing", engine, n)
			}
			if !strings.HasPrefix(text, "-- +goose ") {
				t.Errorf("%s: migration %d does not begin with -- +goose", engine, n)
			}
			if n > released {
				if !strings.Contains(text, "schema_readable_from") {
					t.Errorf("%s: migration %d does not write the setting schema_readable_from, so a node of the version before refuses "+
						"to start on it", engine, n)
				}
				for _, p := range problems(engine, text) {
					t.Errorf("%s: migration %d: %s", engine, n, p)
				}
			}
		}
	}
}

func TestTheRulesSeeWhatTheyShould(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sql string
		bad bool
	}{
		{"ALTER TABLE devices DROP COLUMN sku;", true},
		{"DROP TABLE names;", true},
		{"ALTER TABLE devices RENAME COLUMN sku TO kind;", true},
		{"ALTER TABLE devices RENAME sku TO kind;", true},
		{"ALTER TABLE names RENAME TO fqdns;", true},
		{"ALTER TABLE runs ALTER COLUMN attempt TYPE bigint;", true},
		{"ALTER TABLE runs ALTER attempt SET DATA TYPE bigint;", true},
		{"ALTER TABLE runs ALTER COLUMN task SET NOT NULL;", true},
		{"ALTER TABLE devices ADD COLUMN a text NOT NULL;", true},
		{"ALTER TABLE devices ADD COLUMN a uuid DEFAULT gen_random_uuid();", true},
		{"ALTER TABLE devices ADD CONSTRAINT c CHECK (a <> '');", true},
		{"CREATE INDEX i ON devices (a);", true},
		{"CREATE UNIQUE INDEX IF NOT EXISTS i ON hellos (a);", true},
		{"CREATE INDEX CONCURRENTLY i ON devices (a);", true},
		{"LOCK TABLE devices;", true},
		{"ALTER TABLE devices ADD COLUMN a text;", false},
		{"ALTER TABLE devices ADD COLUMN a text NOT NULL DEFAULT '';", false},
		{"ALTER TABLE devices ADD CONSTRAINT c CHECK (a <> '') NOT VALID;", false},
		{"-- never DROP COLUMN here\nSELECT 1;", false},
		{"CREATE TABLE fresh (id bigint PRIMARY KEY, type text NOT NULL);\nCREATE INDEX i ON fresh (type);", false},
		{"-- +goose NO TRANSACTION\nCREATE INDEX CONCURRENTLY i ON devices (a);", false},
		{"SELECT 1;\n-- +goose Down\nDROP TABLE x;", false},
	} {
		if got := problems("postgres", c.sql); (len(got) > 0) != c.bad {
			t.Errorf("%s: problems %v, want some: %v", c.sql, got, c.bad)
		}
	}
}
