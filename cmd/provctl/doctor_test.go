package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/server/api"
)

// TestDoctor: what an operator sees of the daemon's checks, and the status a
// script gets.
func TestDoctor(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	well := []api.DoctorCheck{{Name: "listener", Status: "pass", Detail: "hellos can be left at 192.0.2.10:9971"}}
	odd := append(well[:1:1], api.DoctorCheck{Name: "backup", Status: "warn", Detail: "there is no backup", Hint: "make one\nevery night"})
	bad := append(odd[:2:2], api.DoctorCheck{Name: "dns:corp.example.com", Status: "fail",
		Detail: "there is no provisionserver.corp.example.com\nns1: no such name", Hint: "add it"})
	for _, c := range []struct {
		name   string
		args   []string
		answer api.DoctorReport
		method string
		status int
		out    string
		err    string
	}{
		{"never run", nil, api.DoctorReport{Checks: []api.DoctorCheck{}, Worst: "pass"}, "GET", 0, "", "the checks have not run yet; provctl doctor --run makes them now\n"},
		{"well", nil, api.DoctorReport{Checks: well, Worst: "pass", At: &at, Node: "n1"}, "GET", 0,
			"pass  listener  hellos can be left at 192.0.2.10:9971\n\npass on n1, at 2026-03-01 08:00:00Z\n", ""},
		{"odd", []string{"--run"}, api.DoctorReport{Checks: odd, Worst: "warn", At: &at, Node: "n1"}, "POST", 1,
			"pass  listener  hellos can be left at 192.0.2.10:9971\nwarn  backup    there is no backup\n                -> make one\n    " +
				"               every night\n\nwarn on n1, at 2026-03-01 08:00:00Z\n", ""},
		{"bad", nil, api.DoctorReport{Checks: bad, Worst: "fail", At: &at, Node: "n1"}, "GET", 2, `pass  listener              hellos can be left at 192.0.2.10:9971
warn  backup                there is no backup
                            -> make one
                               every night
fail  dns:corp.example.com  there is no provisionserver.corp.example.com
                            ns1: no such name
                            -> add it

fail on n1, at 2026-03-01 08:00:00Z
`, ""},
		{"for scripts", []string{"--json"}, api.DoctorReport{Checks: well, Worst: "pass", At: &at}, "GET", 0, `{
  "checks": [
    {
      "name": "listener",
      "status": "pass",
      "detail": "hellos can be left at 192.0.2.10:9971",
      "hint": ""
    }
  ]
}
`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != c.method {
					t.Errorf("asked by %s", r.Method)
				}
				_ = json.NewEncoder(w).Encode(c.answer)
			}))
			t.Cleanup(srv.Close)
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte("pvd_x"), 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			status := run(t.Context(), append([]string{"--address", srv.URL, "--token-file", token, "doctor"}, c.args...), nil, &stdout,
				&stderr)
			if status != c.status || stdout.String() != c.out || stderr.String() != c.err {
				t.Errorf("status %d\n%s%s", status, cmp.Diff(c.out, stdout.String()), cmp.Diff(c.err, stderr.String()))
			}
		})
	}
}
