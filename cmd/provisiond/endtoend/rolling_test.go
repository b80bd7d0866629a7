//go:build long

package endtoend

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store/pgtest"
)

// olderProgram builds the daemon as it was just before a file came into the
// repository. It needs the repository's history.
func olderProgram(t *testing.T, file string) string {
	t.Helper()
	run := func(name string, args ...string) (string, error) {
		c := exec.Command(name, args...)
		c.Dir = filepath.Join("..", "..", "..")
		out, err := c.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := run(name, args...)
		if err != nil {
			t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
		}
		return out
	}
	if shallow, err := run("git", "rev-parse", "--is-shallow-repository"); err != nil || shallow != "false" {
		t.Fatal("this test builds an older program and needs the repository's whole history: clone it without --depth, or git fetch " +
			"--unshallow")
	}
	added := strings.Fields(must("git", "log", "--diff-filter=A", "--format=%H", "--", file))
	if len(added) == 0 {
		t.Fatalf("no commit adds %s", file)
	}
	dir := t.TempDir()
	tar := filepath.Join(dir, "older.tar")
	must("git", "archive", "-o", tar, added[len(added)-1]+"^")
	must("tar", "-xf", tar, "-C", dir)
	bin := filepath.Join(dir, "provisiond-older")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin, "./cmd/provisiond")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the older daemon: %v: %s", err, out)
	}
	return bin
}

// TestLongRollingUpgrade: a node of an older version makes the database and works;
// a node of this version comes beside it and brings the schema forward; both take
// hellos and set devices up; the old one is restarted on the newer schema, works
// on, and is replaced. No device is set up twice, none is lost.
func TestLongRollingUpgrade(t *testing.T) {
	all, err := filepath.Glob("../../../migrations/postgres/*.sql")
	if err != nil || len(all) < 6 {
		t.Fatal("no migrations", all, err)
	}
	for name, file := range map[string]string{
		"one schema back":   "migrations/postgres/" + filepath.Base(all[len(all)-1]),
		"two schemas back":  "migrations/postgres/" + filepath.Base(all[len(all)-2]),
		"the first release": "migrations/postgres/00005_refused.sql",
	} {
		t.Run(name, func(t *testing.T) {
			const third = 20
			older := olderProgram(t, file)
			url := pgtest.URL(t)
			first, second := newSite(t, url), newSite(t, url)
			second.leaf, second.dir = first.leaf, first.dir
			second.cfg = second.file("second.yaml", []byte(readFile(t, first.cfg)))
			first.bin = func() (string, error) { return older, nil }

			h := first.herd()
			say := func(server func() string) {
				for i := range third {
					h.live(2*time.Second, server, h.add(generations[i%len(generations)],
						func(c *sim.Config) { c.Latency = 20 * time.Millisecond }))
				}
			}
			a := first.serve(nil, "--node-name", "node-a")
			say(one(a.hello))
			a.managed(third, 3*time.Minute)

			b := second.serve(nil, "--node-name", "node-b")
			alone := finishedBy(a)
			say(turn(a.hello, b.hello))
			b.managed(2*third, 3*time.Minute)
			together, new := finishedBy(a)-alone, finishedBy(b)

			b.line("schema migrated", time.Second)

			a.stop()
			a = first.serve(nil, "--node-name", "node-a")
			a.line("the database has a newer schema, which says that this version can use it", time.Second)
			say(turn(a.hello, b.hello))
			b.managed(3*third, 3*time.Minute)
			again := finishedBy(a)
			if together == 0 || new == 0 || again == 0 {
				t.Errorf("side by side the old node worked %v runs, the new one %v; the old one on the newer schema %v", together, new,
					again)
			}

			a.stop()
			first.bin = box.daemon
			a = first.serve(nil, "--node-name", "node-a")
			h.settled(a)
			h.settled(b)
			t.Logf("alone %v runs; side by side: old %v, new %v; the old one restarted on the newer schema: %v", alone, together, new,
				again)
		})
	}
}

// finishedBy is how many attempts this very node has brought to an end.
func finishedBy(d *daemon) (n float64) {
	d.t.Helper()
	_, text := d.get("/metrics")
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, "provisiond_sessions_finished_total{") {
			var v float64
			if _, err := fmt.Sscan(l[strings.LastIndexByte(strings.TrimSpace(l), ' '):], &v); err == nil {
				n += v
			}
		}
	}
	return n
}
