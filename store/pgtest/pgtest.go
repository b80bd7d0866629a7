// Package pgtest gives tests a real Postgres: one server for a test binary,
// started when the first test asks, a fresh database for each.
//
// The server ends with the test binary, however that ends: a small shell holds
// it and waits for the end of a pipe whose other end is ours. Nothing has to
// be called for that and nothing of it is left behind.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const startTimeout = 60 * time.Second

// The one piece of state a test binary shares.
var shared struct {
	sync.Mutex
	fast, durable *server
	err           error
}

var number atomic.Int64

// URL is a fresh, empty database. The server does not wait for the disk
// (fsync off): what is tested is what we ask of it.
func URL(tb testing.TB) string {
	tb.Helper()
	return fresh(tb, &shared.fast, false)
}

// DurableURL is the same on a server that does wait for the disk, for figures.
func DurableURL(tb testing.TB) string {
	tb.Helper()
	return fresh(tb, &shared.durable, true)
}

func fresh(tb testing.TB, slot **server, durable bool) string {
	tb.Helper()
	shared.Lock()
	if *slot == nil && shared.err == nil {
		*slot, shared.err = start(durable)
	}
	s, err := *slot, shared.err
	shared.Unlock()
	if err != nil {
		tb.Fatalf("start a Postgres for the test: %v", err)
	}
	name := fmt.Sprintf("t%d", number.Add(1))
	if err := s.admin("CREATE DATABASE " + name); err != nil {
		tb.Fatalf("make a database for the test: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.admin("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			tb.Logf("drop the test's database: %v", err)
		}
	})
	return s.url(name)
}

type server struct {
	dir  string
	hold *os.File // closing it, or our death, stops the server
}

func (s *server) url(database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {s.dir}, "user": {"postgres"}, "sslmode": {"disable"}}.Encode()
}

func (s *server) admin(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	_, err = c.Exec(ctx, statement)
	return err
}

// bin finds the newest server Debian has installed.
func bin() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("no Postgres server is installed under /usr/lib/postgresql: apt-get install postgresql")
	}
	version := func(p string) int {
		n, _ := strconv.Atoi(strings.Split(p, "/")[4])
		return n
	}
	sort.Slice(found, func(i, j int) bool { return version(found[i]) > version(found[j]) })
	return filepath.Dir(found[0]), nil
}

// identity is who the server runs as: Postgres refuses to run as root.
func identity() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, errors.New("there is no account postgres to run the server as: apt-get install postgresql")
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

func start(durable bool) (*server, error) {
	bin, err := bin()
	if err != nil {
		return nil, err
	}
	as, err := identity()
	if err != nil {
		return nil, err
	}
	// Not TMPDIR: the path of a Unix socket is short, and postgres must be let in.
	dir, err := os.MkdirTemp("/tmp", "pgtest")
	if err != nil {
		return nil, err
	}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	attr := func() *syscall.SysProcAttr { return &syscall.SysProcAttr{Credential: as, Setpgid: true} }
	data := filepath.Join(dir, "data")
	init := exec.Command(filepath.Join(bin, "initdb"), "-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-D", data)
	init.SysProcAttr, init.Dir = attr(), dir
	if out, err := init.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	fsync := "off"
	if durable {
		fsync = "on"
	}
	read, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	// postgres gets /dev/null as input, or it would hold the pipe itself.
	const script = `"$0" "$@" </dev/null & pid=$!; read _; kill -QUIT $pid; wait $pid; rm -rf "$PGTEST_DIR"`
	cmd := exec.Command("/bin/sh", "-c", script, filepath.Join(bin, "postgres"), "-D", data, "-k", dir,
		"-c", "listen_addresses=", "-c", "fsync="+fsync, "-c", "synchronous_commit=on", "-c", "full_page_writes="+fsync,
		"-c", "max_connections=400", "-c", "shared_buffers=64MB", "-c", "autovacuum_naptime=10s", "-c", "max_wal_size=1GB")
	cmd.Env = append(os.Environ(), "PGTEST_DIR="+dir)
	cmd.SysProcAttr, cmd.Dir = attr(), dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, log, log
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	_, _ = read.Close(), log.Close()
	s := &server{dir: dir, hold: hold}
	deadline := time.Now().Add(startTimeout)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		err := s.admin("SELECT 1")
		if err == nil {
			tick.Stop()
			return s, nil
		}
		if time.Now().After(deadline) {
			_ = hold.Close()
			out, _ := os.ReadFile(filepath.Join(dir, "log"))
			return nil, fmt.Errorf("the server does not answer: %w; its log: %s", err, out)
		}
	}
}
