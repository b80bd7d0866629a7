package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
)

var update = flag.Bool("update", false, "write what is printed now into the transcripts; read the difference before committing it")

// TestTranscripts plays testdata/*.txt: what an operator types and sees. A line
// that begins with $ is typed, what follows up to the next is expected; "? n" is
// the exit status when it is not 0, "! " comes from standard error, and "< " is
// typed into standard input. Times, ids that differ and ports are replaced.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b := bench(t)
			got := play(t, b, string(want))
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
				t.Errorf("(-transcript +now)\n%s", d)
			}
		})
	}
}

// bench is a fleet of four.
func bench(t *testing.T) *apitest.Bench {
	t.Helper()
	b := apitest.New(t)
	id := func(n byte) amt.UUID {
		return amt.UUID{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, n}
	}
	text := func(s string) *string { return &s }
	v11, v16 := amt.Version{Major: 11, Minor: 8, Hotfix: 50}, amt.Version{Major: 16, Minor: 1, Hotfix: 25}
	d := apitest.Device{UUID: id(1), Address: "10.20.0.11"}
	d.Facts.FQDN, d.Facts.Version, d.Facts.DeviceMode = text("pc11.corp.example"), &v16, text("operational")
	b.Provisioned(d, "Canary-Admin-9!", "Canary-Mebx-9!")
	d = apitest.Device{UUID: id(2), Address: "10.20.0.12", Lifecycle: "failed", Reason: reason.TLSSuffixRejected,
		Detail: "the device hung up after our certificate"}
	d.Facts.FQDN, d.Facts.Version = text("pc12.corp.example"), &v11
	b.Seen(d)
	b.Seen(apitest.Device{UUID: id(3), Address: "10.20.0.13", Lifecycle: "pending_approval", Reason: reason.NotAuthorized})
	b.Seen(apitest.Device{UUID: id(4), Address: "10.20.0.14", Lifecycle: "pending_approval", Reason: reason.NotAuthorized})
	return b
}

var (
	stamps  = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?`)
	tokens  = regexp.MustCompile(`pvd_[A-Za-z0-9_-]{43}`)
	seconds = regexp.MustCompile(`a second ago|\d+ seconds ago`)
	hashes  = regexp.MustCompile(`"hash": "[0-9a-f]{64}"`)
	signed  = regexp.MustCompile(`(signed by |another key: |"signature": "|"key": ")[0-9a-f]+`)
)

func play(t *testing.T, b *apitest.Bench, script string) string {
	t.Helper()
	dir := t.TempDir()
	var out strings.Builder
	lines := strings.Split(script, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		command, typed := strings.CutPrefix(line, "$ ")
		if !typed {
			if strings.HasPrefix(line, "#") || line == "" && i+1 < len(lines) &&
				(strings.HasPrefix(lines[i+1], "$ ") || strings.HasPrefix(lines[i+1], "#")) {
				out.WriteString(line + "\n")
			}
			continue
		}
		out.WriteString(line + "\n")
		input := ""
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "< ") {
			i++
			input += lines[i][2:] + "\n"
			out.WriteString(lines[i] + "\n")
		}
		args := words(strings.NewReplacer("DIR", dir).Replace(command))
		if args[0] != "provctl" {
			t.Fatalf("%q is not provctl", command)
		}
		args = args[1:]
		if !strings.Contains(command, "--address") {
			args = append([]string{"--address", b.HTTP.URL}, args...)
		}
		if !strings.Contains(command, "--token-file") {
			args = append([]string{"--token-file", b.TokenFile()}, args...)
		}
		var stdout, stderr bytes.Buffer
		status := run(t.Context(), args, strings.NewReader(input), &stdout, &stderr)
		out.WriteString(settle(stdout.String(), dir, b))
		for l := range strings.Lines(settle(stderr.String(), dir, b)) {
			out.WriteString("! " + strings.TrimSuffix(l, "\n") + "\n")
		}
		if status != 0 {
			fmt.Fprintf(&out, "? %d\n", status)
		}
	}
	return out.String()
}

// settle replaces what differs from run to run.
func settle(s, dir string, b *apitest.Bench) string {
	s = strings.NewReplacer(dir, "DIR", b.HTTP.URL, "http://DAEMON", b.TokenFile(), "TOKENFILE").Replace(s)
	s = stamps.ReplaceAllString(s, "YYYY-MM-DD hh:mm:ss")
	s = tokens.ReplaceAllString(s, "pvd_TEXT")
	s = seconds.ReplaceAllString(s, "a moment ago")
	s = hashes.ReplaceAllString(s, `"hash": "HASH"`)
	return signed.ReplaceAllString(s, "${1}HEX")
}

// words divides a command line as a shell would, with single quotes.
func words(s string) []string {
	var out []string
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// TestNoSecretInArguments: no flag of any command takes a password or a token.
func TestNoSecretInArguments(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &program{out: &out, err: &out}
	for _, name := range []string{"token", "password", "secret"} {
		if p.root().PersistentFlags().Lookup(name) != nil {
			t.Errorf("--%s would be visible to every user of the machine", name)
		}
	}
}

// TestEveryRole: provctl knows each role that the API knows.
func TestEveryRole(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	for _, r := range api.Roles() {
		var stdout, stderr bytes.Buffer
		if s := run(t.Context(), []string{"--address", b.HTTP.URL, "--token-file", b.TokenFile(), "token", "create", "--name",
			"x-" + string(r), "--role", string(r)}, nil, &stdout, &stderr); s != 0 {
			t.Errorf("%s: %d %s", r, s, stderr.String())
		}
	}
}

// TestTail: events appear as they happen, and an interruption is no failure.
func TestTail(t *testing.T) {
	t.Parallel()
	b := bench(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out := &watched{until: "later_event", then: cancel}
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"--address", b.HTTP.URL, "--token-file", b.TokenFile(), "event", "tail", "--after", "0", "--json"}, nil,
			out, out)
	}()
	b.Say("later_event")
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
	if n := strings.Count(out.text.String(), `"name":"hello_received"`); n != 4 || !strings.Contains(out.text.String(), "later_event") {
		t.Errorf("%d hellos in %s", n, out.text.String())
	}
}

// watched calls then once its text holds until.
type watched struct {
	text  strings.Builder
	until string
	then  func()
}

func (w *watched) Write(b []byte) (int, error) {
	w.text.Write(b)
	if strings.Contains(w.text.String(), w.until) {
		w.then()
	}
	return len(b), nil
}
