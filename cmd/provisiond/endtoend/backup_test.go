package endtoend

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

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
		out, errs, status := command(t, bin, nil, "backup", "create", "--config", from.cfg, "--out", from.path(name), "--passphrase-file",
			phrase)
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
	if said, status := restore(pg, file, wrong); status != 1 || !strings.Contains(said, "passphrase is not the one") ||
		strings.Count(said, "\n") != 1 {
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
	_, errs, status := command(t, bin, nil, "backup", "create", "--config", back.cfg, "--out", back.path("three.backup"),
		"--passphrase-file", phrase)
	if _, err := os.Stat(back.path("three.backup")); status != 1 || !strings.Contains(errs, "master key is not the one") || err == nil {
		t.Errorf("with another master key: %d %q", status, errs)
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
