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

// URL is a new, empty database. The server does not wait for the disk
// (fsync off): what is tested is what we ask of it.
func URL(tb testing.TB) string {
	tb.Helper()
	return database(tb, common(tb, &shared.fast, false), "")
}

// Copy is a new database that holds what build put into a first one. build runs
// once for all the tests of a binary.
func Copy(tb testing.TB, build func(url string) error) string {
	tb.Helper()
	return copied(tb, common(tb, &shared.fast, false), build)
}

// DurableCopy is the same on a server that does wait for the disk, for figures.
func DurableCopy(tb testing.TB, build func(url string) error) string {
	tb.Helper()
	return copied(tb, common(tb, &shared.durable, true), build)
}

// common gives the server in a slot, and starts it for the first who asks.
func common(tb testing.TB, slot **server, durable bool) *server {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if *slot == nil && shared.err == nil {
		*slot, shared.err = start(durable)
	}
	if shared.err != nil {
		tb.Fatalf("start a Postgres for the test: %v", shared.err)
	}
	return *slot
}

func copied(tb testing.TB, s *server, build func(url string) error) string {
	tb.Helper()
	s.templateOnce.Do(func() {
		s.template = newName()
		if s.templateErr = s.admin("CREATE DATABASE " + s.template); s.templateErr == nil {
			s.templateErr = build(s.url(s.template))
		}
	})
	if s.templateErr != nil {
		tb.Fatalf("make the database that tests get copies of: %v", s.templateErr)
	}
	return database(tb, s, " TEMPLATE "+s.template)
}

// newName is one that no other test binary uses on the same server.
func newName() string { return fmt.Sprintf("t%d_%d", os.Getpid(), number.Add(1)) }

// database makes one that goes with the test.
func database(tb testing.TB, s *server, after string) string {
	tb.Helper()
	name := newName()
	if err := s.admin("CREATE DATABASE " + name + after); err != nil {
		tb.Fatalf("make a database for the test: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.admin("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			tb.Logf("drop the test's database: %v", err)
		}
	})
	return s.url(name)
}

// A Server is one that a test has for itself, to take away and give back.
type Server struct{ s *server }

// Start gives the test a server of its own.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := start(true)
	if err == nil {
		err = s.admin("CREATE DATABASE t")
	}
	if err != nil {
		tb.Fatalf("start a Postgres for the test: %v", err)
	}
	tb.Cleanup(func() {
		if s.hold != nil {
			_ = s.hold.Close()
			_ = s.cmd.Wait()
		}
		_ = os.RemoveAll(s.dir)
	})
	return &Server{s}
}

// URL is the server's one database; it stays through Kill and Restart.
func (s *Server) URL() string { return s.s.url("t") }

// Kill ends the server at once, as a power cut would; what it had made durable stays.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	_, err := s.s.hold.WriteString("keep\n")
	if err = errors.Join(err, s.s.hold.Close(), s.s.cmd.Wait()); err != nil {
		tb.Fatalf("kill the test's Postgres: %v", err)
	}
	s.s.hold = nil
}

// Restart brings a killed server back.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.s.run(); err != nil {
		tb.Fatalf("restart the test's Postgres: %v", err)
	}
}

type server struct {
	bin, dir string
	as       *syscall.Credential
	durable  bool
	cmd      *exec.Cmd
	hold     *os.File // closing it, or our death, stops the server

	templateOnce sync.Once
	template     string // the database that Copy copies
	templateErr  error
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
	s := &server{bin: bin, dir: dir, as: as, durable: durable}
	init := exec.Command(filepath.Join(bin, "initdb"), "-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-D",
		s.data())
	init.SysProcAttr, init.Dir = s.attr(), dir
	if out, err := init.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := s.run(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return s, nil
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

func (s *server) attr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: s.as, Setpgid: true}
}

// holder runs the server until its input ends or a line comes. postgres gets
// /dev/null as input, or it would hold the pipe itself.
const holder = `"$0" "$@" </dev/null & pid=$!; read how; kill -QUIT $pid; wait $pid; [ "$how" = keep ] || rm -rf "$PGTEST_DIR"; exit 0`

func (s *server) run() error {
	fsync := "off"
	if s.durable {
		fsync = "on"
	}
	read, hold, err := os.Pipe()
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", holder, filepath.Join(s.bin, "postgres"), "-D", s.data(), "-k", s.dir,
		"-c", "listen_addresses=", "-c", "fsync="+fsync, "-c", "synchronous_commit=on", "-c", "full_page_writes="+fsync,
		"-c", "max_connections=400", "-c", "shared_buffers=64MB", "-c", "autovacuum_naptime=10s", "-c", "max_wal_size=1GB")
	cmd.Env = append(os.Environ(), "PGTEST_DIR="+s.dir)
	cmd.SysProcAttr, cmd.Dir = s.attr(), s.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = read, log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	_, _ = read.Close(), log.Close()
	s.cmd, s.hold = cmd, hold
	deadline := time.Now().Add(startTimeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		err := s.admin("SELECT 1")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			out, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			_ = hold.Close()
			return fmt.Errorf("the server does not answer: %w; its log: %s", err, out)
		}
	}
}
