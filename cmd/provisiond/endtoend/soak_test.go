//go:build soak

package endtoend

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/store/pgtest"
)

var soakFor = flag.Duration("soak.for", 30*time.Minute, "how long hellos flow")

// TestSoak lets devices arrive for half an hour on both engines while the daemon
// is killed, its clock is set a day ahead and a day back, the disk fills up,
// Postgres is killed and restarted, and at half time Postgres fails over to a
// standby. In the end every device is managed, every password known, none
// committed twice.
func TestSoak(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, "")
		s.base = "127.241.0.1" // thousands of devices need more than a test's usual range
		disk := s.path("data")
		smallDisk(t, disk)
		soak(t, s, []disaster{
			{"kill -9", func(r *soaking) { r.restart() }},
			{"clock jump", func(r *soaking) { r.jump() }},
			{"disk full", func(r *soaking) { fillDisk(r.t, disk, 15*time.Second) }},
		}, nil)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		pg := pgtest.Start(t)
		standby := newStandby(t, pg)
		s := newSite(t, standby.both())
		s.base = "127.242.0.1"
		soak(t, s, []disaster{
			{"kill -9", func(r *soaking) { r.restart() }},
			{"clock jump", func(r *soaking) { r.jump() }},
			{"database killed", func(r *soaking) {
				if standby.promoted {
					r.restart()
					return
				}
				pg.Kill(r.t)
				wait(10 * time.Second)
				pg.Restart(r.t)
			}},
		}, func(r *soaking) {
			pg.Kill(r.t)
			standby.promote(r.t)
		})
	})
}

var steppableDaemon = sync.OnceValues(func() (string, error) {
	beside, err := box.daemon()
	if err != nil {
		return "", err
	}
	return steppable(filepath.Dir(beside))
})

type disaster struct {
	name string
	do   func(*soaking)
}

type soaking struct {
	t      *testing.T
	s      *site
	daemon *daemon
	clock  *wallClock
}

// jump sets the clock of the daemon's machine a day ahead, a day back, and right
// again. Leases, timers, certificates and what is due live through all three.
func (r *soaking) jump() {
	for _, off := range []time.Duration{25 * time.Hour, -25 * time.Hour, 0} {
		r.clock.set(off)
		wait(10 * time.Second)
	}
}

// restart kills the daemon as a power cut would and starts it again.
func (r *soaking) restart() {
	r.daemon.kill()
	wait(2 * time.Second)
	r.daemon = r.s.serve(r.clock.env())
}

func soak(t *testing.T, s *site, disasters []disaster, atHalf func(*soaking)) {
	s.configure("")
	s.bin = steppableDaemon
	clock := newWallClock(t, s.dir)
	r := &soaking{t: t, s: s, clock: clock, daemon: s.serve(clock.env())}
	h := s.herd()
	began := time.Now()
	done := make(chan struct{})
	go func() { // devices keep arriving whatever happens here
		defer close(done)
		for time.Since(began) < *soakFor {
			d := h.add(generations[len(h.devices)%len(generations)], nil)
			h.live(3*time.Second, one(s.hello), d)
			wait(500 * time.Millisecond)
		}
	}()
	memory := 0
	count := map[string]int{}
	for n := 0; time.Since(began) < *soakFor; {
		wait(*soakFor / 40)
		memory = max(memory, residentKiB(r.daemon))
		if atHalf != nil && time.Since(began) > *soakFor/2 {
			atHalf(r)
			count["fail-over"]++
			atHalf = nil
			continue
		}
		x := disasters[n%len(disasters)]
		n++
		count[x.name]++
		x.do(r)
		wait(*soakFor / 40)
		memory = max(memory, residentKiB(r.daemon))
	}
	<-done
	arrived := len(h.devices)
	late := time.Now()
	r.daemon.managed(arrived, 4*time.Minute)
	h.settled(r.daemon)
	t.Logf("soak: %d devices in %s, %v; all managed %s after the last arrived, every password known; at most %d MiB resident",
		arrived, soakFor.Round(time.Second), count, time.Since(late).Round(time.Second), memory/1024)
}

func wait(d time.Duration) { <-time.After(d) }

func residentKiB(d *daemon) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", d.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	var all, resident int
	if _, err := fmt.Sscan(string(b), &all, &resident); err != nil {
		return 0
	}
	return resident * os.Getpagesize() / 1024
}

// smallDisk mounts a file system of 192 MiB of its own at dir.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=192m,mode=0700"); err != nil {
		t.Fatalf("mount a small file system (root is needed): %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fillDisk leaves not a byte for as long as told.
func fillDisk(t *testing.T, dir string, d time.Duration) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Errorf("fill the disk: %v", err)
		return
	}
	block := make([]byte, 1<<16)
	for len(block) > 0 {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	_ = f.Close()
	wait(d)
	if err := os.Remove(path); err != nil {
		t.Errorf("empty the disk: %v", err)
	}
}

// standby follows a pgtest server synchronously, so that what was durable stays
// so when it takes over.
type standby struct {
	bin, dir, primary string
	as                *syscall.Credential
	promoted          bool
}

func newStandby(t *testing.T, pg *pgtest.Server) *standby {
	t.Helper()
	u, err := url.Parse(pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	account, err := user.Lookup("postgres")
	if err != nil || len(found) == 0 {
		t.Fatal("a Postgres and its account are needed: apt-get install postgresql")
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	dir, err := os.MkdirTemp("/tmp", "pgstandby")
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Chown(dir, uid, gid)
	s := &standby{bin: found[len(found)-1], dir: dir, primary: u.Query().Get("host"),
		as: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	s.run(t, "pg_basebackup", "-h", s.primary, "-U", "postgres", "-D", dir+"/data", "-R", "-X", "stream")
	ctx, stop := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, s.bin+"/postgres", "-D", dir+"/data", "-k", dir, "-c", "listen_addresses=", "-c",
		"max_connections=400")
	server.SysProcAttr, server.Dir = &syscall.SysProcAttr{Credential: s.as}, dir
	server.Cancel = func() error { return server.Process.Signal(syscall.SIGQUIT) }
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = server.Wait()
		_ = os.RemoveAll(dir)
	})
	s.run(t, "psql", "-h", s.primary, "-U", "postgres", "-c", "ALTER SYSTEM SET synchronous_standby_names = '*'", "-c",
		"SELECT pg_reload_conf()")
	return s
}

func (s *standby) run(t *testing.T, tool string, args ...string) {
	t.Helper()
	cmd := exec.Command(s.bin+"/"+tool, args...)
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: s.as}, s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(errors.Join(err, errors.New(string(out))))
	}
}

// both names primary and standby; the one that takes writes is used.
func (s *standby) both() string {
	return "postgres:///t?" + url.Values{"host": {s.primary + "," + s.dir}, "user": {"postgres"}, "sslmode": {"disable"},
		"target_session_attrs": {"read-write"}, "connect_timeout": {"3"}}.Encode()
}

func (s *standby) promote(t *testing.T) {
	s.promoted = true
	s.run(t, "pg_ctl", "promote", "-D", s.dir+"/data")
}
