//go:build bench

package endtoend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/store/storetest"
)

// rounds is how often a figure and its floor are taken, in turns; the best of
// each counts, so that a neighbour's burst on a shared machine spoils neither.
const rounds = 2

// TestBench measures the real daemon as a process of its own against simulated
// devices in another, each figure beside its floor in the same run. It asserts
// only that the work was done; the figures are for deploy/FIGURES.md.
func TestBench(t *testing.T) {
	b := newBench(t)
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run("hellos/"+engine, func(t *testing.T) { b.hellos(t, engine) })
		t.Run("devices/"+engine, func(t *testing.T) {
			b.provision(t, engine, 20, "20 at once")
			b.provision(t, engine, 100, "100 in flight")
			b.provision(t, engine, 300, "300 at once")
		})
	}
	t.Run("memory", b.memory)
}

type bench struct {
	dir            string
	daemon, amtsim string
}

func newBench(t *testing.T) *bench {
	b := &bench{dir: t.TempDir()}
	for _, name := range []string{"provisiond", "amtsim"} {
		out := filepath.Join(b.dir, name)
		cmd := exec.Command("go", "build", "-o", out, "../../"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, text)
		}
	}
	b.daemon, b.amtsim = filepath.Join(b.dir, "provisiond"), filepath.Join(b.dir, "amtsim")
	leaf := certtest.NewLab(time.Now()).Plain("Bench Root", "provisionserver.corp.example.com")
	for name, content := range map[string][]byte{
		"prov.pfx": leaf.PFX(certtest.Modern, "secret"), "prov.pass": []byte("secret\n"),
		"root.pem": certtest.PEM(leaf.Issuers[len(leaf.Issuers)-1]),
	} {
		if err := os.WriteFile(filepath.Join(b.dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// serve starts a fresh daemon on an empty database; stop ends it.
func (b *bench) serve(t *testing.T, engine string) (hello, api string, proc *os.Process, stop func()) {
	t.Helper()
	url := ""
	if engine == "postgres" {
		url = storetest.DurableURL(t)
	}
	hello, api = freePort(t), freePort(t)
	cfg := filepath.Join(b.dir, "bench.yaml")
	data := t.TempDir()
	text := fmt.Sprintf(`data_dir: %s
database: {url: %q}
hello: {listen: %q, limits: {per_source_per_minute: 0, per_network_per_minute: 0}}
api: {listen: %q}
log: {level: error}
provisioning:
  certificates: [{pfx: %s/prov.pfx, password_file: %s/prov.pass}]
  networks: [127.0.0.0/8]
  admission: open
  workers: 2048
`, data, url, hello, api, b.dir, b.dir)
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(b.daemon, "serve", "--config", cfg)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if res, err := http.Get("http://" + api + "/readyz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the daemon did not become ready:\n%s", log.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	return hello, api, cmd.Process, func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
}

func (b *bench) sim(t *testing.T, into any, args ...string) {
	t.Helper()
	cmd := exec.Command(b.amtsim, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("amtsim %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	if err := json.Unmarshal(out, into); err != nil {
		t.Fatalf("amtsim %s: %v\n%.400s", strings.Join(args, " "), err, out)
	}
}

// hellos measures hellos that are durable before their connection is closed.
// New devices: each says hello for the first time, and ends as a row that waits
// for a certificate, since nobody knows its roots. Known devices: the same ones
// again, as firmware repeats itself while it waits. The floor accepts, reads and
// closes, for the same clients.
func (b *bench) hellos(t *testing.T, engine string) {
	type row struct {
		What      string  `json:"what"`
		PerSecond float64 `json:"per_second"`
		Failed    int     `json:"failed"`
		P99       float64 `json:"p99_us"`
	}
	best := map[string]row{}
	keep := func(what string, r row) {
		if r.Failed > 0 {
			t.Errorf("%s: %d hellos failed", what, r.Failed)
		}
		if r.PerSecond > best[what].PerSecond {
			best[what] = r
		}
	}
	cpu := map[string]time.Duration{}
	const count = 10000
	hello, _, proc, stop := b.serve(t, engine)
	defer stop()
	for seed := range rounds {
		for _, what := range []string{"new", "known"} {
			var rows []row
			before := cpuOf(proc)
			b.sim(t, &rows, "bench", "hello", "--server", hello, "--hellos", fmt.Sprint(count), "--connections", "256", "--seed",
				fmt.Sprint(seed+1), "--json")
			used := cpuOf(proc) - before
			if cpu[what] == 0 || used < cpu[what] {
				cpu[what] = used
			}
			keep("floor", rows[0])
			keep(what, rows[1])
		}
	}
	for _, what := range []string{"new", "known"} {
		t.Logf("hellos durable, %s, %s devices: %.0f/s (p99 %.0f ms, server CPU %.0f µs each), floor %.0f/s: %.0f %%", engine, what,
			best[what].PerSecond, best[what].P99/1000, float64(cpu[what].Microseconds())/count, best["floor"].PerSecond,
			100*best[what].PerSecond/best["floor"].PerSecond)
	}
}

const modern = "12,15,16,18"

// provision measures devices set up a second, beside a bare Go client that
// makes as many handshakes and round trips with the same simulated devices.
func (b *bench) provision(t *testing.T, engine string, n int, what string) {
	type result struct {
		Devices, Managed int
		PerSecond        float64 `json:"managed_per_second"`
		P50              float64 `json:"managed_after_p50_ms"`
		P99              float64 `json:"managed_after_p99_ms"`
		List             []struct{ Requests, Handshakes int }
	}
	var best result
	var cpu time.Duration
	fastest, trips, shakes := 0.0, 0, 0
	for range rounds {
		hello, _, proc, stop := b.serve(t, engine)
		idle := cpuOf(proc)
		var got result
		common := []string{"--devices", fmt.Sprint(n), "--personality", modern, "--trust", filepath.Join(b.dir, "root.pem"), "--suffix",
			"corp.example.com", "--restart", "1ms", "--json"}
		b.sim(t, &got, append([]string{"bench", "provision", "--server", hello, "--scale", "1"}, common...)...)
		used := cpuOf(proc) - idle
		stop()
		if got.Managed != n {
			t.Errorf("%d of %d managed", got.Managed, n)
		}
		if got.PerSecond > best.PerSecond {
			best = got
		}
		if cpu == 0 || used < cpu {
			cpu = used
		}
		trips, shakes = 0, 0
		for _, d := range got.List {
			trips, shakes = trips+d.Requests, shakes+d.Handshakes
		}
		var floor struct {
			PerSecond float64 `json:"per_second"`
		}
		b.sim(t, &floor, append([]string{"bench", "floor", "--round-trips", fmt.Sprint(trips / n), "--handshakes", fmt.Sprint(shakes / n)},
			common...)...)
		fastest = max(fastest, floor.PerSecond)
	}
	t.Logf("%s, %s: %d of %d managed, %.1f devices/s, floor %.1f/s: %.0f %%; hello to managed p50 %.0f ms, p99 %.0f ms; server CPU %.1f "+
		"ms a device; %d handshakes and %d requests a device",
		what, engine, best.Managed, n, best.PerSecond, fastest, 100*best.PerSecond/fastest, best.P50, best.P99,
		cpu.Seconds()*1000/float64(n), shakes/n, trips/n)
}

// memory is what a session costs while its device is slow: 2,000 at once. The
// peak is taken from before the first hello until ten seconds after all of them
// were under way.
func (b *bench) memory(t *testing.T) {
	const n = 2000
	hello, api, proc, stop := b.serve(t, "sqlite")
	defer stop()
	before := rssOf(t, proc)
	cmd := exec.Command(b.amtsim, "fleet", "--server", hello, "--devices", fmt.Sprint(n), "--personality", modern, "--trust",
		filepath.Join(b.dir, "root.pem"),
		"--suffix", "corp.example.com", "--latency", "8s", "--duration", "200s", "--scale", "1", "--quiet", "--json")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	peak, most, full := before, 0, time.Time{}
	for deadline := time.Now().Add(150 * time.Second); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		peak = max(peak, rssOf(t, proc))
		most = max(most, underWay(t, api))
		if full.IsZero() && most >= n {
			full = time.Now()
		}
		if !full.IsZero() && time.Since(full) > 10*time.Second {
			break
		}
	}
	t.Logf("memory, %d slow devices, %d in flight at once: %.0f MiB of its own when idle, %.0f MiB at most: %.0f KiB a session", n, most,
		float64(before)/1024, float64(peak)/1024, float64(peak-before)/float64(most))
}

// underWay is how many attempts the daemon makes at the moment.
func underWay(t *testing.T, api string) int {
	res, err := http.Get("http://" + api + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "provisiond_queue_attempts_active "); ok {
			n := 0.0
			fmt.Sscan(rest, &n)
			return int(n)
		}
	}
	t.Fatalf("the daemon's metrics say nothing of attempts:\n%.400s", text)
	return 0
}

func cpuOf(p *os.Process) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var user, system int64
	fmt.Sscan(f[11], &user)
	fmt.Sscan(f[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// rssOf is the resident memory in KiB without pages of files that are mapped,
// which the kernel takes back when somebody else needs them.
func rssOf(t *testing.T, p *os.Process) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n := 0
			fmt.Sscan(rest, &n)
			return n
		}
	}
	t.Fatalf("no RssAnon in /proc/%d/status", p.Pid)
	return 0
}
