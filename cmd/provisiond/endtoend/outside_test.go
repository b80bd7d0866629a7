package endtoend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// members gives the names of a JSON object in order.
func members(t *testing.T, raw json.RawMessage) []string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	var names []string
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// TestBoxOutside is what others script against: keys, commands, names of
// fields, files, metrics.
func TestBoxOutside(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	d := s.serve(nil)
	h := s.herd()
	dev := h.add("11", nil)
	h.live(2*time.Second, one(d.hello), dev)
	d.managed(1, time.Minute)
	uuid := dev.UUID().String()

	t.Run("device list", func(t *testing.T) {
		var list []json.RawMessage
		d.must(&list, "device", "list")
		if len(list) != 1 {
			t.Fatalf("%d devices are listed", len(list))
		}
		want := []string{"address", "amt_version", "device_mode", "first_seen", "fqdn", "lifecycle", "provisioned_at", "reason", "uuid"}
		if diff := cmp.Diff(want, members(t, list[0])); diff != "" {
			t.Errorf("fields of a line (-want +got):\n%s", diff)
		}
		var line struct {
			UUID, Lifecycle, Reason, Address, FQDN string
			DeviceMode                             string    `json:"device_mode"`
			AMTVersion                             string    `json:"amt_version"`
			FirstSeen                              time.Time `json:"first_seen"`
			ProvisionedAt                          time.Time `json:"provisioned_at"`
		}
		if err := json.Unmarshal(list[0], &line); err != nil {
			t.Fatal(err)
		}
		snap := dev.Snapshot()
		if line.UUID != uuid || line.Lifecycle != "provisioned" || line.Reason != "" || line.Address != dev.Addr().Addr().String() ||
			line.FQDN != snap.HostName+"."+snap.Domain || line.DeviceMode != "operational" || line.AMTVersion != snap.Version.String() ||
			line.FirstSeen.IsZero() || line.ProvisionedAt.Before(line.FirstSeen) {
			t.Errorf("%+v", line)
		}
	})
	t.Run("device show", func(t *testing.T) {
		var show map[string]json.RawMessage
		d.must(&show, "device", "show", uuid)
		for _, name := range []string{"uuid", "lifecycle", "reason", "device_mode", "amt_version", "address", "fqdn", "first_seen",
			"provisioned_at", "runs"} {
			if _, ok := show[name]; !ok {
				t.Errorf("no field %q", name)
			}
		}
		var runs []struct {
			State string
			Steps []struct{ Name, State string }
		}
		if err := json.Unmarshal(show["runs"], &runs); err != nil {
			t.Fatal(err)
		}
		if len(runs) != 1 || runs[0].State != "done" || len(runs[0].Steps) < 10 {
			t.Errorf("runs: %+v", runs)
		}
	})
	t.Run("secret reveal", func(t *testing.T) {
		for kind, accepts := range map[string]func(string) bool{
			"admin": func(p string) bool { return dev.AcceptsAdmin("admin", p) }, "mebx": dev.AcceptsMEBx,
		} {
			var raw json.RawMessage
			d.must(&raw, "secret", "reveal", uuid, "--kind", kind, "--reason", "ticket 4711")
			if diff := cmp.Diff([]string{"password"}, members(t, raw)); diff != "" {
				t.Errorf("fields of the answer (-want +got):\n%s", diff)
			}
			var r struct{ Password string }
			if err := json.Unmarshal(raw, &r); err != nil || !accepts(r.Password) {
				t.Errorf("the device does not take the %s password revealed (%v)", kind, err)
			}
		}
		out, _, status := d.provctl("audit", "list", "--json")
		if status != 0 || strings.Count(out, "secret.reveal") != 2 || !strings.Contains(out, "ticket 4711") {
			t.Errorf("status %d; the audit does not name both readings and the reason: %s", status, out)
		}
		if _, errs, status := d.provctl("secret", "reveal", uuid, "--kind", "admin"); status == 0 {
			t.Errorf("revealed without a reason: %s", errs)
		}
	})
	t.Run("hello decode", func(t *testing.T) {
		captures, err := filepath.Glob("../../../amt/hello/testdata/*.bin")
		if err != nil || len(captures) == 0 {
			captures, _ = filepath.Glob("../../../amt/hello/testdata/*.hex")
		}
		if len(captures) == 0 {
			t.Fatal("no recorded hello")
		}
		for _, c := range captures {
			out, errs, status := command(t, program(t, box.provctl), nil, "hello", "decode", c, "--json")
			if status != 0 {
				t.Errorf("%s: status %d: %s", c, status, errs)
				continue
			}
			want := []string{"admin_credentials_set", "form", "hashes", "retry", "uuid", "version"}
			if diff := cmp.Diff(want, members(t, json.RawMessage(out))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c, diff)
			}
			var m struct{ Hashes []json.RawMessage }
			if err := json.Unmarshal([]byte(out), &m); err != nil {
				t.Fatal(err)
			}
			for _, h := range m.Hashes[:min(1, len(m.Hashes))] {
				if diff := cmp.Diff([]string{"algorithm", "hash", "name"}, members(t, h)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", c, diff)
				}
			}
		}
	})
	t.Run("token file", func(t *testing.T) {
		info, err := os.Stat(s.path("data/admin.token"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("admin.token: %v, %v; want mode 0600", info, err)
		}
		// Without --token-file it is the local daemon's, found by its data_dir.
		out, errs, status := command(t, program(t, box.provctl),
			[]string{"PROVISIOND_DATA_DIR=" + s.path("data"), "PROVISIOND_ADDRESS=http://" + d.api}, "device", "list", "--json")
		if status != 0 || !strings.Contains(out, uuid) {
			t.Errorf("status %d: %s", status, errs)
		}
		wrong := s.file("wrong.token", []byte("pvd_nonsense\n"))
		_, errs, status = command(t, program(t, box.provctl), nil, "--address", "http://"+d.api, "--token-file", wrong, "device", "list")
		if status != 4 || !strings.Contains(errs, "token") {
			t.Errorf("a wrong token: status %d, %s", status, errs)
		}
	})
	t.Run("health and metrics", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, body := d.get(path); status != 200 {
				t.Errorf("%s: %d %s", path, status, body)
			}
		}
		if status, _ := d.get("/api/v1/devices"); status != 401 {
			t.Errorf("devices without a token: %d", status)
		}
		_, text := d.get("/metrics")
		for _, series := range []string{
			`provisiond_devices{state="provisioned"}`, `provisiond_hello_received_total{result="accepted"}`,
			`provisiond_sessions_started_total{trigger="hello"}`,
		} {
			if metricIn(text, series) < 1 {
				t.Errorf("%s is %v", series, metricIn(text, series))
			}
		}
		for _, name := range []string{
			"provisiond_hello_persist_duration_seconds", "provisiond_hello_connections", "provisiond_sessions_active",
			"provisiond_sessions_finished_total", "provisiond_steps_total",
			"provisiond_step_duration_seconds", "provisiond_time_to_provision_seconds", "provisiond_queue_oldest_ready_age_seconds",
			"provisiond_tls_handshakes_total",
			"provisiond_tls_legacy_features_total", "provisiond_tls_peer_verifications_total", "provisiond_wsman_requests_total",
			"provisiond_wsman_request_duration_seconds",
			"provisiond_credential_probes_total", "provisiond_egress_denied_total", "provisiond_secret_versions",
			"provisiond_provisioning_certificate_not_after_timestamp_seconds", "provisiond_audit_verify_failures_total",
			"provisiond_secret_reads_total",
			"provisiond_audit_records_total", "provisiond_lease_claims_total",
			"provisiond_fence_rejections_total", "provisiond_store_up", "provisiond_store_operations_total",
			"provisiond_store_operation_duration_seconds",
			"provisiond_http_requests_total", "provisiond_http_request_duration_seconds", "provisiond_api_auth_failures_total",
			"provisiond_build_info",
		} {
			if !strings.Contains(text, "# TYPE "+name+" ") {
				t.Errorf("/metrics has no %s", name)
			}
		}
		for _, state := range []string{"discovered", "failed", "quarantined"} {
			if !strings.Contains(text, `provisiond_devices{state="`+state+`"} 0`) {
				t.Errorf("provisiond_devices has no series for %s", state)
			}
		}
	})
	d.stop()
}

// TestBoxOverrides: the environment goes before the file, flags before both.
func TestBoxOverrides(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	other := t.TempDir()
	d := s.launch(program(t, box.daemon), []string{"PROVISIOND_DATA_DIR=" + other, "PROVISIOND_PROVISIONING_ADMISSION=approve",
		"PROVISIOND_NODE_NAME=from-env"}, "--node-name", "from-flag")
	d.ready()
	d.token = filepath.Join(other, "admin.token")
	if m := d.line("server.ready", time.Second); !strings.HasPrefix(m["node"].(string), "from-flag-") {
		t.Errorf("the node is %v, want the flag's name", m["node"])
	}
	if _, err := os.Stat(filepath.Join(other, "admin.token")); err != nil {
		t.Errorf("data_dir of the environment is not used: %v", err)
	}
	h := s.herd()
	dev := h.add("11", nil)
	h.live(2*time.Second, one(d.hello), dev)
	poll(t, "the device waits for approval", 20*time.Second, func() bool { return d.lifecycles()["pending_approval"] == 1 })
	if n := dev.Snapshot().Connections; n != 0 {
		t.Errorf("%d connections to a device that nobody approved", n)
	}
	if _, errs, status := d.provctl("device", "approve", dev.UUID().String()); status != 0 {
		t.Fatalf("approve: %s", errs)
	}
	d.managed(1, time.Minute)
	h.settled(d)

	// The switch back: a flag wins over the environment.
	out, errs, status := command(t, program(t, box.daemon),
		[]string{"PROVISIOND_PROVISIONING_ADMISSION=approve", "PROVISIOND_HELLO_LISTEN=127.0.0.1:1"},
		"config", "print", "--origin", "--config", s.cfg, "--provisioning-admission", "allow-list")
	if status != 0 || !strings.Contains(flat(out), "provisioning.admission: allow-list # flag") ||
		!strings.Contains(flat(out), "hello.listen: 127.0.0.1:1 # environment PROVISIOND_HELLO_LISTEN") {
		t.Errorf("status %d: %s\n%s", status, errs, out)
	}
}

// flat makes one space of each stretch of white space.
func flat(s string) string { return strings.Join(strings.Fields(s), " ") }
