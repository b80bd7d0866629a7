// Package live_test starts what an operator runs: the real daemon on both
// engines, a fleet of which some must fail, and a real Prometheus with the
// shipped rules. It then asks every question of every dashboard.
package live_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/cmd/built"
	"github.com/provisiond/provisiond/store/pgtest"
)

// lab is the running whole.
type lab struct {
	dir        string
	base       int // second byte of the devices' addresses
	lite, pg   *daemon
	postgres   *pgtest.Server
	prometheus string // its address
	began      time.Time
}

type daemon struct {
	hello, api string
	log        *lines
}

// lines is a program's output.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// run starts a program that ends with the test.
func run(t *testing.T, bin string, args ...string) *lines {
	t.Helper()
	out := &lines{}
	cmd := exec.Command(bin, args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PROVISIOND_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out
}

// build puts the programs into a directory.
func build(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		path, err := built.Program(n)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, n))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// poll asks until f says yes.
func poll(t *testing.T, what string, most time.Duration, f func() bool) {
	t.Helper()
	most = max(most, 2*time.Minute) // machines stand still for half a minute
	if !within(most, f) {
		t.Fatalf("not within %s: %s", most, what)
	}
}

// within asks until f says yes, and reports whether it did in time.
func within(most time.Duration, f func() bool) bool {
	late := time.NewTimer(most)
	defer late.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-late.C:
			return false
		}
	}
	return true
}

func get(t *testing.T, address string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return string(b), err
}

// serve starts a daemon and waits until it is ready.
func (l *lab) serve(t *testing.T, name, database string, more ...string) *daemon {
	t.Helper()
	cfg := filepath.Join(l.dir, name+".yaml")
	write(t, cfg, fmt.Sprintf(`data_dir: %[1]s/%[2]s
database: {url: %[3]q}
hello:
  listen: "127.0.0.1:0"
  limits: {per_source_per_minute: 0, per_network_per_minute: 0}
api: {listen: "127.0.0.1:0"}
node: {name: %[2]s}
zones: [corp.example.com]
provisioning:
  certificates: [{pfx: %[1]s/prov.pfx, password_file: %[1]s/prov.pass}]
  networks: [127.0.0.0/8]
  admission: open
  reprovision: auto
  retry: {first: 2s, max: 5s}
%[4]s`, l.dir, name, database, strings.Join(more, "\n")))
	d := &daemon{log: run(t, filepath.Join(l.dir, "provisiond"), "serve", "--config", cfg)}
	poll(t, name+" is ready", 30*time.Second, func() bool {
		d.hello, d.api = ready(d.log.String())
		return d.api != ""
	})
	return d
}

// ready finds the addresses of a daemon that says it is ready.
func ready(log string) (hello, api string) {
	for line := range strings.Lines(log) {
		var m struct{ Msg, Hello, API string }
		if json.Unmarshal([]byte(line), &m) == nil && m.Msg == "server.ready" {
			return m.Hello, m.API
		}
	}
	return "", ""
}

func freePort(t *testing.T) string {
	t.Helper()
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Addr().String()
}

// newLab starts everything but the devices.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir(), base: 100 + rand.IntN(28), began: time.Now()} // no other package's
	build(t, l.dir, "provisiond", "amtsim")
	l.certificate(t)
	l.postgres = pgtest.Start(t)
	l.lite = l.serve(t, "lite", "")
	l.pg = l.serve(t, "pg", l.postgres.URL())
	l.watch(t)
	return l
}

// certificate writes one for serve, and its root.
func (l *lab) certificate(t *testing.T) {
	t.Helper()
	certificates := certtest.NewLab(time.Now())
	leaf := certificates.Plain("Live", "provisionserver.corp.example.com")
	root := leaf.Issuers[len(leaf.Issuers)-1]
	write(t, filepath.Join(l.dir, "prov.pfx"), string(leaf.PFX(certtest.Modern, "live")))
	write(t, filepath.Join(l.dir, "prov.pass"), "live\n")
	write(t, filepath.Join(l.dir, "root.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})))
}

// watch starts Prometheus as deploy/prometheus would, only faster.
func (l *lab) watch(t *testing.T) {
	t.Helper()
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("prometheus is missing: install the Debian package prometheus (apt-get install prometheus)")
	}
	rules, err := filepath.Abs("../prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	cfg := filepath.Join(l.dir, "prometheus.yml")
	write(t, cfg, fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
- job_name: provisiond
  static_configs: [{targets: [%q, %q]}]
`, rules, l.lite.api, l.pg.api))
	l.prometheus = freePort(t)
	out := run(t, bin, "--config.file="+cfg, "--storage.tsdb.path="+filepath.Join(l.dir, "tsdb"), "--web.listen-address="+l.prometheus,
		"--log.level=warn")
	poll(t, "both daemons scraped twice: "+out.String(), 30*time.Second, func() bool {
		return len(l.values(t, "count_over_time(up[1m]) > 1")) == 2
	})
}

// fleet runs devices to their end: all managed, or the time is over.
func (l *lab) fleet(t *testing.T, d *daemon, part int, args ...string) {
	t.Helper()
	all := append([]string{"fleet", "--quiet", "--server", d.hello, "--base", fmt.Sprintf("127.%d.%d.1", l.base, part), "--seed",
		fmt.Sprint(l.base*100 + part), "--scale", "1", "--fault-rate", "0"}, args...)
	if out, err := exec.Command(filepath.Join(l.dir, "amtsim"), all...).CombinedOutput(); err != nil {
		t.Logf("amtsim %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// answer is what Prometheus says to a query.
type answer struct {
	Metric map[string]string
	Value  [2]any   // of an instant
	Values [][2]any // of a range
}

// ask queries over the last window, or for this moment when it is 0.
func (l *lab) ask(t *testing.T, query string, window time.Duration) ([]answer, error) {
	t.Helper()
	path, v := "query", url.Values{"query": {query}}
	if window > 0 {
		now := time.Now()
		path, v = "query_range", url.Values{"query": {query}, "step": {"1"},
			"start": {fmt.Sprint(now.Add(-window).Unix())}, "end": {fmt.Sprint(now.Unix())}}
	}
	text, err := get(t, "http://"+l.prometheus+"/api/v1/"+path+"?"+v.Encode())
	if err != nil {
		return nil, err
	}
	var r struct {
		Data struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, err
	}
	if r.Data.ResultType == "scalar" {
		return []answer{{}}, nil
	}
	var list []answer
	err = json.Unmarshal(r.Data.Result, &list)
	return list, err
}

// ruleGroup is what Prometheus says about a group of rules.
type ruleGroup struct {
	Name           string
	LastEvaluation time.Time
	Rules          []struct{ Name, Health, LastError, State, Type string }
}

func (l *lab) rules(t *testing.T) ([]ruleGroup, error) {
	t.Helper()
	text, err := get(t, "http://"+l.prometheus+"/api/v1/rules")
	if err != nil {
		return nil, err
	}
	var r struct{ Data struct{ Groups []ruleGroup } }
	err = json.Unmarshal([]byte(text), &r)
	return r.Data.Groups, err
}

// evaluated waits until Prometheus has judged by what it knows now: each group
// of rules was evaluated after this moment, and each recorded series has a
// number from after it. The groups' intervals differ (half a minute for the
// recorded ones), and a series recorded before the first hello is NaN.
func (l *lab) evaluated(t *testing.T) {
	t.Helper()
	now := time.Now()
	var missing string
	done := func() bool {
		groups, err := l.rules(t)
		if err != nil || len(groups) == 0 {
			missing = fmt.Sprintf("the groups: %v", err)
			return false
		}
		for _, g := range groups {
			if missing = g.Name; !g.LastEvaluation.After(now) {
				return false
			}
			for _, rule := range g.Rules {
				if rule.Type != "recording" {
					continue
				}
				missing = rule.Name
				fresh := l.values(t, fmt.Sprintf("%[1]s and timestamp(%[1]s) > %.3[2]f", rule.Name, float64(now.UnixMilli())/1000))
				if !slices.ContainsFunc(fresh, answer.number) {
					return false
				}
			}
		}
		return true
	}
	if !within(5*time.Minute, done) {
		t.Fatal("not evaluated within 5m: ", missing)
	}
}

// values are the answers of this moment; none while Prometheus has none.
func (l *lab) values(t *testing.T, query string) []answer {
	t.Helper()
	list, err := l.ask(t, query, 0)
	if err != nil {
		return nil
	}
	return list
}

// number reports whether an answer has at least one value that is a number.
func (a answer) number() bool {
	for _, v := range append(a.Values, a.Value) {
		if s, ok := v[1].(string); ok && s != "NaN" {
			return true
		}
	}
	return false
}
