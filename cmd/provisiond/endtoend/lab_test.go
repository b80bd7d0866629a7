// Package endtoend runs the programs as an operator has them: built once, started
// as processes on free ports, asked from outside. It imports what an operator sees of the
// daemon, and the store to fill and to look into databases.
package endtoend

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/cmd/built"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store/pgtest"
)

// box holds the programs; each is built when it is first asked for.
var box = struct {
	daemon, watched, crashing, provctl, amtsim func() (string, error)
}{
	daemon:   func() (string, error) { return built.Program("provisiond") },
	watched:  func() (string, error) { return built.Watched("provisiond") },
	crashing: func() (string, error) { return built.Program("provisiond", "-tags=failpoints") },
	provctl:  func() (string, error) { return built.Program("provctl") },
	amtsim:   func() (string, error) { return built.Program("amtsim") },
}

func TestMain(m *testing.M) {
	if err := lookAtSources(filepath.Join("..", "..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, "look at the sources of the programs:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// lookAtSources lists every directory of the repository. This test binary does
// not contain the programs it runs, so the go command would call its result
// cached after they change; it takes a directory that a test has read for an input.
func lookAtSources(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || path == filepath.Join(root, "bin")) {
			return fs.SkipDir
		}
		return err
	})
}

// slots bounds how many sites are at work at once: each has processes of its
// own, and what is measured in seconds must not wait for a crowd.
var slots = make(chan struct{}, 3)

var seated sync.Map // tests that have their slot

func seat(t *testing.T) {
	if _, has := seated.LoadOrStore(t, true); has {
		return
	}
	slots <- struct{}{}
	t.Cleanup(func() { <-slots; seated.Delete(t) })
}

// patience stretches every time limit where a machine is slow on purpose. A
// limit only says when a test stops to hope.
const patience = 3

// hope is for how long a test hopes for what should take so long at most: never
// less than a machine takes that stands still for half a minute, twice.
func hope(most time.Duration) time.Duration { return max(patience*most, 90*time.Second) }

func program(t *testing.T, which func() (string, error)) string {
	t.Helper()
	name, err := which()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// proc is a running program. It ends with the test, by its own handle.
type proc struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait, once done is closed
	out  logbook
	errs logbook
}

// logbook collects what a program writes and lets others wait for a line.
type logbook struct {
	mu    sync.Mutex
	text  bytes.Buffer
	grown chan struct{}
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.grown != nil {
		close(b.grown)
		b.grown = nil
	}
	return b.text.Write(p)
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// more is closed when something was written after text had this length.
func (b *logbook) more(length int) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.text.Len() != length {
		c := make(chan struct{})
		close(c)
		return c
	}
	if b.grown == nil {
		b.grown = make(chan struct{})
	}
	return b.grown
}

func start(t *testing.T, bin string, env []string, args ...string) *proc {
	t.Helper()
	p := &proc{t: t, name: filepath.Base(bin) + " " + args[0], done: make(chan struct{})}
	p.cmd = exec.Command(bin, args...)
	p.cmd.Env = append(cleanEnv(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	p.cmd.Dir = t.TempDir()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if strings.Contains(p.errs.String(), "WARNING: DATA RACE") {
			t.Errorf("%s: data race:\n%s", p.name, p.errs.String())
		}
		if t.Failed() {
			t.Logf("%s, the end of its log:\n%s", p.name, tail(withoutRiver(p.errs.String()), 6000))
		}
	})
	return p
}

// cleanEnv is the environment without what would configure a daemon.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PROVISIOND_") && !strings.HasPrefix(kv, "STATE_DIRECTORY") && !strings.HasPrefix(kv, "NOTIFY_SOCKET") {
			env = append(env, kv)
		}
	}
	return env
}

// withoutRiver leaves out what the queue's library says of itself.
func withoutRiver(log string) string {
	var b strings.Builder
	for l := range strings.Lines(log) {
		if !strings.Contains(l, `"logger":"river"`) {
			b.WriteString(l)
		}
	}
	return b.String()
}

func tail(s string, most int) string {
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// kill is kill -9, and returns when the process is gone.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM; the process must end by itself with status 0.
func (p *proc) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if status := p.wait(90 * time.Second); status != 0 {
		p.t.Errorf("%s ended with status %d after SIGTERM", p.name, status)
	}
}

// wait gives the exit status, -1 for a signal.
func (p *proc) wait(most time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(hope(most)):
		p.t.Fatalf("%s still runs after %s", p.name, hope(most))
	}
	return p.cmd.ProcessState.ExitCode()
}

// line waits for a JSON line of the log with this msg.
func (p *proc) line(msg string, most time.Duration) map[string]any {
	p.t.Helper()
	late := time.After(hope(most))
	for {
		text := p.errs.String()
		for l := range strings.Lines(text) {
			var m map[string]any
			if strings.Contains(l, msg) && json.Unmarshal([]byte(l), &m) == nil && m["msg"] == msg {
				return m
			}
		}
		select {
		case <-p.errs.more(len(text)):
		case <-p.done:
			if text == p.errs.String() {
				p.t.Fatalf("%s ended (%v) before it said %q:\n%s", p.name, p.err, msg, tail(text, 4000))
			}
		case <-late:
			p.t.Fatalf("%s did not say %q within %s:\n%s", p.name, msg, hope(most), tail(text, 4000))
		}
	}
}

// site is one place where daemons run: files, ports, a range of addresses for
// devices that nobody else has.
type site struct {
	t     *testing.T
	dir   string
	base  string // the first device's address
	leaf  certtest.Leaf
	db    string // "" is SQLite
	hello string // address of the daemon's hello port, once it has run
	api   string
	cfg   string
	bin   func() (string, error) // the daemon it runs
}

var ranges atomic.Int64

// rangeOf gives a test a range of 1000 addresses that no other test of this
// binary has; the second byte keeps it apart from other packages', and by chance
// from another run's.
var rangeOf = func() func() string {
	second := 192 + rand.IntN(48)
	return func() string { return fmt.Sprintf("127.%d.%d.1", second, 4*(ranges.Add(1)%63)) }
}()

const sitePassword = "pfx pass word"

// newSite makes the files. url is the database, "" for SQLite.
func newSite(t *testing.T, url string) *site {
	t.Helper()
	seat(t)
	s := &site{t: t, dir: t.TempDir(), base: rangeOf(), db: url, bin: box.daemon}
	lab := certtest.NewLab(time.Now())
	s.leaf = lab.Plain("Box", "provisionserver.corp.example.com")
	root := s.leaf.Issuers[len(s.leaf.Issuers)-1]
	s.file("prov.pfx", s.leaf.PFX(certtest.Modern, sitePassword))
	s.file("prov.pass", []byte(sitePassword+"\n"))
	s.file("root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
	s.configure("")
	return s
}

// forEachDatabase runs a claim on both engines.
func forEachDatabase(t *testing.T, f func(t *testing.T, s *site)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, newSite(t, ""))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		seat(t)
		f(t, newSite(t, pgtest.URL(t)))
	})
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) file(name string, data []byte) string {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.path(name)
}

// configure writes the file with exactly the keys that others script against,
// and more lines behind it.
func (s *site) configure(more string) {
	s.t.Helper()
	s.cfg = s.file("provisiond.yaml", fmt.Appendf(nil, `data_dir: %[1]s/data
database: {url: %[2]q}
hello:
  listen: "127.0.0.1:0"
  limits: {per_source_per_minute: 0, per_network_per_minute: 0, connections: 4096}
api: {listen: "127.0.0.1:0", reveals_per_hour: 10000}
provisioning:
  certificates: [{pfx: %[1]s/prov.pfx, password_file: %[1]s/prov.pass}]
  networks: [127.0.0.0/8]
  admission: open
  retry: {first: 1s, max: 5s}
%[3]s`, s.dir, s.db, more))
}

// daemon is a running provisiond serve.
type daemon struct {
	*proc
	s          *site
	hello, api string
	token      string
}

// launch starts a daemon and does not wait for it.
func (s *site) launch(bin string, env []string, args ...string) *daemon {
	s.t.Helper()
	all := []string{"serve", "--config", s.cfg}
	if s.hello != "" { // a restart takes the ports it had
		all = append(all, "--hello-listen", s.hello, "--api-listen", s.api)
	}
	return &daemon{proc: start(s.t, bin, env, append(all, args...)...), s: s, token: s.path("data/admin.token")}
}

// serve starts a daemon and waits until it is ready.
func (s *site) serve(env []string, args ...string) *daemon {
	s.t.Helper()
	d := s.launch(program(s.t, s.bin), env, args...)
	d.ready()
	if s.hello == "" {
		s.hello, s.api = d.hello, d.api
	}
	return d
}

func (d *daemon) ready() {
	d.t.Helper()
	m := d.line("server.ready", time.Minute)
	d.hello, _ = m["hello"].(string)
	d.api, _ = m["api"].(string)
}

// client is the API's, with the first admin token.
func (d *daemon) client() *api.Client {
	d.t.Helper()
	token, err := os.ReadFile(d.token)
	if err != nil {
		d.t.Fatal(err)
	}
	return &api.Client{Base: "http://" + d.api, HTTP: &http.Client{Timeout: 2 * time.Minute}, Token: strings.TrimSpace(string(token))}
}

// get answers one GET without a token.
func (d *daemon) get(path string) (int, string) {
	d.t.Helper()
	status, text, err := fetch(d.t.Context(), "http://"+d.api+path)
	if err != nil {
		d.t.Fatal(err)
	}
	return status, text
}

func fetch(ctx context.Context, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := (&http.Client{Timeout: 2 * time.Minute}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// metric reads one series off /metrics, -1 when it is not there.
func (d *daemon) metric(series string) float64 {
	d.t.Helper()
	_, text := d.get("/metrics")
	return metricIn(text, series)
}

func metricIn(text, series string) float64 {
	for l := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(l, series+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err == nil {
				return v
			}
		}
	}
	return -1
}

// provctl runs the operator's program against this daemon.
func (d *daemon) provctl(args ...string) (stdout, stderr string, status int) {
	d.t.Helper()
	return command(d.t, program(d.t, box.provctl), nil, append([]string{"--address", "http://" + d.api, "--token-file", d.token},
		args...)...)
}

// must is provctl that has to succeed and print JSON.
func (d *daemon) must(into any, args ...string) {
	d.t.Helper()
	out, errs, status := d.provctl(append(args, "--json")...)
	if status != 0 {
		d.t.Fatalf("provctl %s: status %d: %s", strings.Join(args, " "), status, errs)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		d.t.Fatalf("provctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// command runs a program to its end.
func command(t *testing.T, bin string, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &errs, append(cleanEnv(), env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v", bin, strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// poll asks again and again until f says yes.
func poll(t *testing.T, what string, most time.Duration, f func() bool) {
	t.Helper()
	late := time.NewTimer(hope(most))
	defer late.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-late.C:
			t.Fatalf("not within %s: %s", hope(most), what)
		}
	}
}
