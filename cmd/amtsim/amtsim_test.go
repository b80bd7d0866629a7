package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listener collects hellos and does nothing about them.
func listener(t *testing.T) (string, <-chan hello.Message) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan hello.Message, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if m, err := receive.Read(c, 16<<10); err == nil {
				got <- m
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-ended })
	return l.Addr().String(), got
}

func runCommand(t *testing.T, args ...string) (string, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := root()
	var out, errOut bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&errOut)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	return out.String(), errOut.String(), err
}

func TestAFleetNobodyComesFor(t *testing.T) {
	t.Parallel()
	server, got := listener(t)
	dir := t.TempDir()
	leaf := certtest.NewLab(time.Now()).Plain("Test", "provisionserver.lab.example")
	pemFile, secrets := filepath.Join(dir, "root.pem"), filepath.Join(dir, "secrets.json")
	if err := os.WriteFile(pemFile, certtest.PEM(leaf.Chain()...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := runCommand(t, "fleet", "--devices", "3", "--base", "127.84.0.254", "--server", server, "--trust", pemFile,
		"--personality", "11,16", "--duration", "1s", "--secrets-file", secrets, "--json")
	if !errors.Is(err, errFailed) {
		t.Errorf("error %v, want one that only sets the exit status", err)
	}
	var rep fleetReport
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if rep.Devices != 3 || rep.Operational != 0 || rep.List[1].Address != "127.84.1.1:16993" || rep.List[2].Personality != "11" ||
		rep.List[0].State != "setup" {
		t.Errorf("report: %s", out)
	}
	seen := map[string]int{}
	for range 3 {
		m := <-got
		seen[m.UUID.String()] = len(m.Hashes)
	}
	for _, d := range rep.List {
		// 21 roots of its own, and the lab's as SHA-256, SHA-384 and, before 16, SHA-1.
		want := map[string]int{"11": 24, "16": 23}[d.Personality]
		if seen[d.UUID.String()] != want {
			t.Errorf("%s announced %d hashes, want %d", d.Personality, seen[d.UUID.String()], want)
		}
	}
	if strings.Contains(out, `"mebx"`) {
		t.Error("a secret in the report")
	}
	info, err := os.Stat(secrets)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("secrets file: %v %v", info, err)
	}
	var list []sim.Secrets
	if b, err := os.ReadFile(secrets); err != nil || json.Unmarshal(b, &list) != nil || len(list) != 3 || list[0].MEBx != "admin" {
		t.Errorf("secrets: %v, %d devices", err, len(list))
	}
}

func TestReplayTakesHexAndRaw(t *testing.T) {
	t.Parallel()
	server, got := listener(t)
	o := deviceOptions{seed: 1, base: "127.84.2.1"}
	raw := hello.Message{Version: hello.VersionPKI, UUID: o.uuid(0)}.Encode()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"raw": raw,
		"hex": []byte(strings.ToUpper(hexOf(raw)[:20]) + "\n" + hexOf(raw)[20:] + "\n")} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := runCommand(t, "replay", file, "--server", server, "--from", "127.84.2.1", "--split"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m := <-got; m.UUID != o.uuid(0) {
			t.Errorf("%s: UUID %s", name, m.UUID)
		}
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

func TestBenchPrintsAFloor(t *testing.T) {
	t.Parallel()
	server, _ := listener(t)
	out, _, err := runCommand(t, "bench", "hello", "--server", server, "--hellos", "50", "--connections", "4", "--base", "127.84.3.1")
	if err != nil || !strings.Contains(out, "floor   50 hellos, 0 failed") || !strings.Contains(out, "server  50 hellos, 0 failed") {
		t.Errorf("%v\n%s", err, out)
	}
	out, _, err = runCommand(t, "bench", "floor", "--devices", "4", "--base", "127.84.4.1", "--round-trips", "3", "--personality", "12")
	if err != nil || !strings.Contains(out, "floor: 4 devices") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ args, want string }{
		{"fleet --personality 99", `personality "99"`},
		{"fleet --base banana", `--base "banana"`},
		{"fleet --faults explode", `fault "explode"`},
		{"fleet --root-hash sha256:00", "--root-hash sha256:00: want 64"},
		{"fleet --trust /does/not/exist", "--trust: open"},
		{"replay /does/not/exist", "no such file"},
	} {
		_, _, err := runCommand(t, strings.Fields(row.args)...)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q in it", row.args, err, row.want)
		}
	}
}

// TestFleetIsANuisanceByDefault: 5 % of the time, by a seed that is printed.
func TestFleetIsANuisanceByDefault(t *testing.T) {
	t.Parallel()
	server, _ := listener(t)
	for want, more := range map[float64][]string{0.05: nil, 0: {"--fault-rate", "0"}, 0.5: {"--fault-rate", "0.5", "--seed", "7"}} {
		out, _, err := runCommand(t, append([]string{"fleet", "--devices", "1", "--base", "127.63.9.1", "--server", server, "--personality",
			"11", "--duration", "300ms", "--json"}, more...)...)
		var rep fleetReport
		if !errors.Is(err, errFailed) || json.Unmarshal([]byte(out), &rep) != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if seed := rep.Seed; rep.FaultRate != want || seed != 1 && seed != 7 {
			t.Errorf("%v: rate %v, seed %d", more, rep.FaultRate, seed)
		}
	}
	_, progress, _ := runCommand(t, "fleet", "--devices", "1", "--base", "127.63.9.9", "--server", server, "--duration", "200ms")
	if !strings.Contains(progress, "5 % of the requests, seed 1: --fault-rate 0 makes them behave") {
		t.Errorf("it says %q", progress)
	}
	if _, _, err := runCommand(t, "fleet", "--fault-rate", "5"); err == nil || !strings.Contains(err.Error(), "between 0 and 1") {
		t.Errorf("--fault-rate 5: %v", err)
	}
}

// TestWhoStaysIsNotTimedOut: --timeout sends home no fleet that was told to stay,
// managed or not.
func TestWhoStaysIsNotTimedOut(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	o := fleetOptions{timeout: time.Nanosecond, stay: true}
	d, err := sim.New(sim.Config{UUID: amt.UUID{1}, Personality: "11", Addr: netip.MustParseAddr("127.98.7.1"), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	o.await(ctx, &fleet{devices: []*sim.Device{d}}, io.Discard)
	if ctx.Err() == nil {
		t.Error("the fleet went home before it was interrupted")
	}
}
