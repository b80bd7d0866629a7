package store

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/migrations"
)

// kindOf is what a column holds, whatever the engine calls it.
type kindOf string

const (
	kindText  kindOf = "text"
	kindUUID  kindOf = "uuid"
	kindJSON  kindOf = "json"
	kindInt   kindOf = "int"
	kindBool  kindOf = "bool"
	kindBytes kindOf = "bytes"
	kindTime  kindOf = "time"
)

type column struct {
	name string
	kind kindOf
}

type table struct {
	name     string
	columns  []column
	identity bool // the database chooses its id
}

func (t table) column(name string) (column, bool) {
	i := slices.IndexFunc(t.columns, func(c column) bool { return c.name == name })
	if i < 0 {
		return column{}, false
	}
	return t.columns[i], true
}

var (
	createTable = regexp.MustCompile(`(?ms)^CREATE TABLE (?:IF NOT EXISTS )?(\w+) \(\n(.*?)^\)`)
	addColumn   = regexp.MustCompile(`(?m)^ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(\w+)\s+ADD COLUMN (?:IF NOT EXISTS )?(\w+)\s+(\w+)`)
	columnLine  = regexp.MustCompile(`^\s+(\w+)\s+(text|uuid|jsonb|integer|bigint|boolean|bytea|timestamptz|xid8)\b`)
	kinds       = map[string]kindOf{"text": kindText, "uuid": kindUUID, "jsonb": kindJSON, "integer": kindInt, "bigint": kindInt,
		"boolean": kindBool, "bytea": kindBytes, "timestamptz": kindTime}
)

// ownTables lists this program's tables and columns, in an order in which each
// row finds those it refers to. It reads Postgres's migrations, whose types
// tell a time from a number. Tests compare it with the catalogues of both
// engines, so that a table of a new migration is in the next backup by itself.
func ownTables() ([]table, error) {
	files, err := migrations.For(Postgres)
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []table
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		up, _, _ := strings.Cut(string(text), "-- +goose Down")
		for _, m := range createTable.FindAllStringSubmatch(up, -1) {
			t := table{name: m[1]}
			for line := range strings.Lines(m[2]) {
				c := columnLine.FindStringSubmatch(line)
				if c == nil || c[2] == "xid8" { // a transaction's number means nothing in another database
					continue
				}
				t.columns = append(t.columns, column{c[1], kinds[c[2]]})
				t.identity = t.identity || strings.Contains(line, "AS IDENTITY")
			}
			out = append(out, t)
		}
		for _, m := range addColumn.FindAllStringSubmatch(up, -1) {
			i := slices.IndexFunc(out, func(t table) bool { return t.name == m[1] })
			if i < 0 {
				return nil, fmt.Errorf("%s: adds a column to %s, which no migration makes", name, m[1])
			}
			if m[3] == "xid8" {
				continue
			}
			k, known := kinds[m[3]]
			if !known {
				return nil, fmt.Errorf("%s: %s.%s has the type %s, which a backup cannot carry", name, m[1], m[2], m[3])
			}
			out[i].columns = append(out[i].columns, column{m[2], k})
		}
	}
	return out, nil
}
