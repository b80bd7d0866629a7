package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/server/rest/apitest"
)

// TestJobsOfManyAsk: over more than five devices provctl asks with their number where
// somebody can answer, and wants a flag where nobody can.
func TestJobsOfManyAsk(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	for range 6 {
		b.Seen(apitest.Device{Lifecycle: "provisioned"})
	}
	nobody, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	for _, c := range []struct {
		name   string
		args   string
		typed  string // "-": no terminal
		status int
		says   string
	}{
		{"no query", "rotate", "y\n", exitUsage, "--all"},
		{"asked, and no", "rotate --all", "n\n", exitFailed, "Rotate 6 devices"},
		{"asked, and nothing", "rotate --all", "", exitFailed, "--confirm 6"},
		{"nobody to ask", "rotate --all", "-", exitUsage, "--yes, or --confirm 6"},
		{"another number", "rotate --all --confirm 93", "-", exitFailed, "6 devices fit by now, not 93"},
		{"yes does not do for what cannot be undone", "retire --all --yes", "y\n", exitFailed, "something else"},
		{"asked, and yes", "rotate --all", "y\n", 0, "state"},
		{"a flag", "rotate --all --yes", "-", 0, "6 waiting"},
		{"the number", "rotate --all --confirm 6", "-", 0, "first 0 of 1, then rest 0 of 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append([]string{"--address", b.HTTP.URL, "--token-file", b.TokenFile(), "job", "start"}, strings.Fields(c.args)...)
			status := 0
			if c.typed == "-" {
				status = run(t.Context(), args, nobody, &out, &errs)
			} else {
				status = run(t.Context(), args, strings.NewReader(c.typed), &out, &errs)
			}
			if status != c.status || !strings.Contains(out.String()+errs.String(), c.says) {
				t.Errorf("status %d, want %d with %q:\n%s%s", status, c.status, c.says, out.String(), errs.String())
			}
		})
	}
}
