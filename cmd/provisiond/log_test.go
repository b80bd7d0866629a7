package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// TestSamplingKeepsWarnings writes the same line ten thousand times.
func TestSamplingKeepsWarnings(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "console"} {
		var out bytes.Buffer
		log, err := newLogger(Log{Level: "info", Format: format}, &out)
		if err != nil {
			t.Fatal(err)
		}
		child := log.Named("queue").With(zap.Int("run", 1))
		const n = 10_000
		for range n {
			child.Debug("below the level")
			child.Info("often")
			child.Warn("a warning")
			child.Error("an error")
		}
		text := out.String()
		if strings.Count(text, "a warning") != n || strings.Count(text, "an error") != n {
			t.Errorf("%s: %d warnings and %d errors of %d were kept", format, strings.Count(text, "a warning"),
				strings.Count(text, "an error"), n)
		}
		if k := strings.Count(text, "often"); k < 100 || k > n/10 {
			t.Errorf("%s: %d of %d equal lines were kept", format, k, n)
		}
		if strings.Contains(text, "below") {
			t.Errorf("%s: debug lines at level info", format)
		}
		if strings.Count(text, "\n") != strings.Count(text, "a warning")+strings.Count(text, "an error")+strings.Count(text, "often") {
			t.Errorf("%s: not one line a fact", format)
		}
		if format == "json" {
			var m map[string]any
			line, _, _ := strings.Cut(text, "\n")
			if err := json.Unmarshal([]byte(line), &m); err != nil || m["run"] != 1.0 || m["logger"] != "queue" || m["msg"] != "often" ||
				m["time"] == nil {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}

// TestTimesInTheLogHaveADay: a certificate that ends at 06:06:48 says nothing.
func TestTimesInTheLogHaveADay(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "console"} {
		var out bytes.Buffer
		log, err := newLogger(Log{Level: "info", Format: format}, &out)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("cert.loaded", zap.Time("not_after", time.Date(2031, 2, 3, 6, 6, 48, 0, time.UTC)))
		if today := time.Now().Format("2006-01"); !strings.Contains(out.String(), "2031-02-03") || !strings.Contains(out.String(), today) {
			t.Errorf("%s: %s", format, out.String())
		}
	}
}
