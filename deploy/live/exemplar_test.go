package live_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestExemplarsReachPrometheus: a daemon that sends spans is scraped as
// OpenMetrics, and a real Prometheus that keeps exemplars leads from a duration
// to a trace; the same buckets are there as ever.
func TestExemplarsReachPrometheus(t *testing.T) {
	l := &lab{dir: t.TempDir(), base: 100 + rand.IntN(28)}
	build(t, l.dir, "provisiond", "amtsim")
	prom, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("prometheus is missing: install the Debian package prometheus (apt-get install prometheus)")
	}
	l.certificate(t)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(collector.Close)
	d := l.serve(t, "traced", "", fmt.Sprintf("tracing: {otlp_endpoint: %q}", collector.URL))
	cfg := filepath.Join(l.dir, "prometheus.yml")
	write(t, cfg, fmt.Sprintf("global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: provisiond\n  "+
		"static_configs: [{targets: [%q]}]\n", d.api))
	l.prometheus = freePort(t)
	run(t, prom, "--config.file="+cfg, "--storage.tsdb.path="+filepath.Join(l.dir, "tsdb"), "--web.listen-address="+l.prometheus,
		"--log.level=warn", "--enable-feature=exemplar-storage")
	l.fleet(t, d, 0, "--devices", "1", "--trust", filepath.Join(l.dir, "root.pem"), "--suffix", "corp.example.com", "--timeout", "3m")

	trace := regexp.MustCompile("^[0-9a-f]{32}$")
	for _, name := range []string{"provisiond_step_duration_seconds", "provisiond_time_to_provision_seconds",
		"provisiond_wsman_request_duration_seconds"} {
		traces := map[string]bool{}
		poll(t, "an exemplar of "+name, time.Minute, func() bool {
			text, err := get(t, fmt.Sprintf("http://%s/api/v1/query_exemplars?query=%s&start=%d&end=%d", l.prometheus,
				url.QueryEscape(name+"_bucket"), time.Now().Add(-10*time.Minute).Unix(), time.Now().Add(time.Minute).Unix()))
			var answer struct {
				Data []struct {
					Exemplars []struct{ Labels map[string]string }
				}
			}
			if err != nil || json.Unmarshal([]byte(text), &answer) != nil {
				return false
			}
			for _, s := range answer.Data {
				for _, e := range s.Exemplars {
					if len(e.Labels) != 1 || !trace.MatchString(e.Labels["trace_id"]) {
						t.Fatalf("%s: an exemplar says %v", name, e.Labels)
					}
					traces[e.Labels["trace_id"]] = true
				}
			}
			return len(traces) > 0
		})
		if len(traces) != 1 {
			t.Errorf("%s: one device was set up once, and there are %d traces", name, len(traces))
		}
	}
	if n := len(l.values(t, `provisiond_time_to_provision_seconds_bucket{le=~"60(\\.0)?"}`)); n != 1 {
		t.Errorf("%d buckets of 60 s", n)
	}
}
