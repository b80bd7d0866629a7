package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/doctor"
)

// TestWhatOnlyTheServiceMayRead: systemd's credentials are no fault of the
// configuration, and the running daemon knows what is in them.
func TestWhatOnlyTheServiceMayRead(t *testing.T) {
	t.Parallel()
	seen := func() []doctor.Check {
		return []doctor.Check{
			{Name: "configuration", Status: doctor.Fail, Detail: `c.yaml:3: provisioning.certificates[0].pfx: there is no file "/run/credentials/provisiond.service/provisiond_amt.pfx"`},
			{Name: "certificates", Status: doctor.Fail, Detail: "0 certificates can be used"},
			{Name: "master_key", Status: doctor.Fail, Detail: "CREDENTIALS_DIRECTORY is not set"},
			{Name: "disk", Status: doctor.Fail, Detail: "full"},
		}
	}
	statuses := func(list []doctor.Check) (out []string) {
		for _, c := range list {
			out = append(out, c.Name+" "+string(c.Status))
		}
		return out
	}
	stopped := seen()
	borrow(stopped, api.DoctorReport{})
	if d := cmp.Diff([]string{"configuration fail", "certificates warn", "master_key warn", "disk fail"}, statuses(stopped)); d != "" {
		t.Error(d)
	}
	runs := seen()
	borrow(runs, api.DoctorReport{Checks: []api.DoctorCheck{{Name: "certificates", Status: "pass", Detail: "1 certificate can be used"},
		{Name: "master_key", Status: "pass"}, {Name: "disk", Status: "pass"}}})
	if d := cmp.Diff([]string{"configuration pass", "certificates pass", "master_key pass", "disk fail"}, statuses(runs)); d != "" {
		t.Error(d)
	}
	if !strings.Contains(runs[1].Detail, "as the running daemon sees it: 1 certificate") {
		t.Error(runs[1].Detail)
	}
}

// TestDoctorJSON: the outside that scripts rely on, field by field, and a doctor
// that leaves nothing behind where no daemon ever ran.
func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	file := write(t, "c.yaml", "data_dir: "+dir+"\nhello: {listen: \"127.0.0.1:0\"}\napi: {listen: \"127.0.0.1:1\"}\n")
	var stdout, stderr bytes.Buffer
	status := run([]string{"doctor", "--config", file, "--json"}, &stdout, &stderr)
	var out map[string][]map[string]string
	if err := json.Unmarshal(stdout.Bytes(), &out); err != nil || len(out) != 1 || len(out["checks"]) < 10 {
		t.Fatalf("%v: %s%s", err, stdout.String(), stderr.String())
	}
	worst := 0
	for _, c := range out["checks"] {
		if len(c) != 4 || c["name"] == "" || c["detail"] == "" {
			t.Errorf("%v", c)
		}
		level, known := map[string]int{"pass": 0, "skip": 0, "warn": 1, "fail": 2}[c["status"]]
		if !known {
			t.Errorf("%v", c)
		}
		worst = max(worst, level)
	}
	if status != worst || status == 2 {
		t.Errorf("exit status %d, the worst is %d: %s", status, worst, stdout.String())
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the doctor made the data folder")
	}
}
