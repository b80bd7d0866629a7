package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/store/pgtest"
)

// moved is the same site with another database.
func (s *site) moved(t *testing.T, dir, url string) *site {
	t.Helper()
	m := *s
	text := strings.Replace(readFile(t, s.cfg), s.path("data"), s.path(dir), 1)
	old := `database: {url: "` + s.db + `"}`
	if !strings.Contains(text, old) {
		t.Fatalf("the configuration has no %s", old)
	}
	m.db, m.hello, m.api = url, "", ""
	m.cfg = s.file(dir+".yaml", []byte(strings.Replace(text, old, `database: {url: "`+url+`"}`, 1)))
	return &m
}

// TestBoxBackupMovesAFleet takes a managed fleet from SQLite to Postgres and
// back: the passwords of the restored database are those in the devices, and it
// goes on.
func TestBoxBackupMovesAFleet(t *testing.T) {
	t.Parallel()
	lite := newSite(t, "")
	bin := program(t, box.daemon)
	phrase := lite.file("phrase", []byte("correct horse battery staple\n"))
	wrong := lite.file("wrong", []byte("correct horse battery stable\n"))
	first := lite.serve(nil, "--log-level", "info")
	h := lite.herd()
	where := first.hello
	h.live(time.Second, func() string { return where }, h.mixed(t, size(6, 3))...)
	first.managed(len(h.devices), 2*time.Minute)
	h.settled(first)

	backup := func(from *site, name string) string {
		t.Helper()
		out, errs, status := command(t, bin, nil, "backup", "create", "--config", from.cfg, "--out", from.path(name), "--passphrase-file", phrase)
		if status != 0 || !strings.Contains(out, "verified") {
			t.Fatalf("backup create: %d %s %s", status, out, errs)
		}
		return from.path(name)
	}
	restore := func(to *site, file, pass string) (string, int) {
		t.Helper()
		out, errs, status := command(t, bin, nil, "backup", "restore", file, "--config", to.cfg, "--passphrase-file", pass)
		return out + errs, status
	}
	file := backup(lite, "one.backup") // the daemon runs
	poll(t, "the daemon shows the backup", 30*time.Second, func() bool {
		return first.metric("provisiond_backup_last_success_timestamp_seconds") > float64(time.Now().Add(-time.Minute).Unix())
	})
	first.stop()

	pg := lite.moved(t, "data-pg", pgtest.URL(t))
	if said, status := restore(pg, file, wrong); status != 1 || !strings.Contains(said, "passphrase is not the one") || strings.Count(said, "\n") != 1 {
		t.Errorf("with a wrong passphrase: %d %q", status, said)
	}
	if said, status := restore(pg, file, phrase); status != 0 {
		t.Fatalf("restore on Postgres: %d %s", status, said)
	}
	if said, status := restore(pg, file, phrase); status != 1 || !strings.Contains(said, "is in use") {
		t.Errorf("restored twice: %d %q", status, said)
	}
	second := pg.serve(nil, "--log-level", "info")
	h.settled(second)
	more := h.mixed(t, 2)
	h.live(time.Second, one(second.hello), more...)
	second.managed(len(h.devices), 2*time.Minute)
	h.settled(second)
	file = backup(pg, "two.backup")
	second.stop()

	back := lite.moved(t, "data-back", "")
	if said, status := restore(back, file, phrase); status != 0 {
		t.Fatalf("restore on SQLite: %d %s", status, said)
	}
	third := back.serve(nil, "--log-level", "info")
	h.settled(third)
	h.live(time.Second, one(third.hello), h.mixed(t, 1)...)
	third.managed(len(h.devices), 2*time.Minute)
	h.settled(third)
	third.stop()

	// A master key that changed is one sentence, and nothing is written.
	if err := os.WriteFile(back.path("data-back/master.key"), []byte(strings.Repeat("0f", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, status := command(t, bin, nil, "backup", "create", "--config", back.cfg, "--out", back.path("three.backup"), "--passphrase-file", phrase)
	if _, err := os.Stat(back.path("three.backup")); status != 1 || !strings.Contains(errs, "master key is not the one") || err == nil {
		t.Errorf("with another master key: %d %q", status, errs)
	}
}

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
			t.Errorf("%s: %d warnings and %d errors of %d were kept", format, strings.Count(text, "a warning"), strings.Count(text, "an error"), n)
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
			if err := json.Unmarshal([]byte(line), &m); err != nil || m["run"] != 1.0 || m["logger"] != "queue" || m["msg"] != "often" || m["time"] == nil {
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

// TestBoxRiverSpeaksThroughOurLog: what River says of itself comes through our logger, at our level.
func TestBoxRiverSpeaksThroughOurLog(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	d := s.serve(nil, "--log-level", "info")
	d.stop()
	river := 0
	for line := range strings.Lines(d.errs.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Errorf("not JSON: %s", line)
		}
		if m["logger"] == "river" {
			river++
		}
		if m["level"] == "debug" {
			t.Errorf("debug at level info: %s", line)
		}
	}
	if river == 0 {
		t.Error("River said nothing")
	}
	if river > 20 {
		t.Errorf("River said %d lines between start and stop", river)
	}
}
