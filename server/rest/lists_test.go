package rest

import (
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzReadImport: whatever a list is, its rows are text that both engines keep.
func FuzzReadImport(f *testing.F) {
	names, err := filepath.Glob(filepath.Join("testdata", "lists", "*"))
	if err != nil || len(names) == 0 {
		f.Fatal("no lists", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, _, bad := readImport(data, now)
		if len(rows) == 0 && len(bad) == 0 {
			t.Error("neither a row nor a problem")
		}
		for _, r := range rows {
			if len(bad) == 0 && (!utf8.ValidString(r.Note+r.Serial+r.FQDN) || legible("note", r.Note) != "") {
				t.Errorf("%+v cannot be kept", r)
			}
		}
	})
}
