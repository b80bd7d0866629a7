package store_test

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/provisiond/provisiond/store"
)

// TestSlowStatements: what takes long is in the log by its text, without a value
// of it, and once only; what does not, or where no threshold is set, is not.
func TestSlowStatements(t *testing.T) {
	t.Parallel()
	const number, word = 7919, "s3cr3t-canary"
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			for name, over := range map[string]time.Duration{"slow": time.Microsecond, "quick": time.Hour, "off": 0} {
				core, seen := observer.New(zapcore.DebugLevel)
				o := place(t, engine)
				o.Log, o.Slow = zap.New(core), over
				db := open(t, o)
				for range 3 {
					if err := db.CountTo(t.Context(), number, word); err != nil {
						t.Fatal(err)
					}
				}
				said := 0
				for _, e := range seen.FilterMessage("store.slow").All() {
					f := e.ContextMap()
					text, _ := f["sql"].(string)
					if strings.HasPrefix(text, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < $1) SELECT "+
						"count(*)") {
						said++
						if e.Level != zapcore.WarnLevel || f["took"].(time.Duration) < over {
							t.Errorf("%s: %v", name, f)
						}
					}
				}
				for _, e := range seen.All() {
					for _, v := range e.ContextMap() {
						if s, ok := v.(string); ok && (strings.Contains(s, word) || strings.Contains(s, "7919")) {
							t.Errorf("%s: the log shows a value: %s", name, s)
						}
					}
				}
				if want := map[string]int{"slow": 1}[name]; said != want {
					t.Errorf("%s: %d lines, want %d", name, said, want)
				}
			}
		})
	}
}

// TestASlowStatementThatFails shows its code, and not Postgres's text, which
// quotes the value.
func TestASlowStatementThatFails(t *testing.T) {
	t.Parallel()
	core, seen := observer.New(zapcore.DebugLevel)
	o := place(t, store.Postgres)
	o.Log, o.Slow = zap.New(core), time.Nanosecond
	db := open(t, o)
	if err := db.CountTo(t.Context(), -1, "s3cr3t-\x00canary"); err == nil {
		t.Fatal("a text with a NUL is taken")
	}
	found := false
	for _, e := range seen.FilterMessage("store.slow").All() {
		f := e.ContextMap()
		found = found || f["sqlstate"] == "22021"
		for _, v := range f {
			if s, ok := v.(string); ok && strings.Contains(s, "s3cr3t") {
				t.Errorf("the log shows a value: %s", s)
			}
		}
	}
	if !found {
		t.Errorf("no line has the code: %v", seen.FilterMessage("store.slow").All())
	}
}
