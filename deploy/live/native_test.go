package live_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestHistogramsInBothForms: a Prometheus that wants native histograms gets the
// classic buckets unless we are told otherwise, and the dashboards' way to ask
// for a quantile answers in both forms. Prometheus 2.42 drops the buckets where
// the native form is offered, which is why it is not offered by itself.
func TestHistogramsInBothForms(t *testing.T) {
	l := &lab{dir: t.TempDir()}
	build(t, l.dir, "provisiond")
	prom, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatal("prometheus is missing: install the Debian package prometheus (apt-get install prometheus)")
	}
	plain := l.plain(t, "plain", false)
	native := l.plain(t, "native", true)
	cfg := filepath.Join(l.dir, "prometheus.yml")
	write(t, cfg, fmt.Sprintf(`global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: provisiond
  static_configs: [{targets: [%q, %q]}]
`, plain.api, native.api))
	l.prometheus = freePort(t)
	run(t, prom, "--config.file="+cfg, "--storage.tsdb.path="+filepath.Join(l.dir, "tsdb"), "--web.listen-address="+l.prometheus,
		"--log.level=warn", "--enable-feature=native-histograms")

	const name = "provisiond_http_request_duration_seconds"
	request := func() { // something to measure
		for _, d := range []*daemon{plain, native} {
			if res, err := http.Get("http://" + d.api + "/readyz"); err == nil {
				_ = res.Body.Close()
			}
		}
	}
	// As deploy/grafana/gen asks.
	quantile := func(d *daemon) string {
		sel := `{instance="` + d.api + `"}[30s]`
		return fmt.Sprintf("histogram_quantile(0.99, sum by (le) (rate(%[1]s_bucket%[2]s))) or histogram_quantile(0.99, "+
			"sum(rate(%[1]s%[2]s)))", name, sel)
	}
	for form, d := range map[string]*daemon{"classic": plain, "native": native} {
		poll(t, "a quantile from the "+form+" form", time.Minute, func() bool {
			request()
			for _, a := range l.values(t, quantile(d)) {
				if a.number() {
					return true
				}
			}
			return false
		})
	}
	buckets := func(d *daemon) int { return len(l.values(t, name+`_bucket{instance="`+d.api+`"}`)) }
	if buckets(plain) == 0 {
		t.Error("no classic buckets, though native histograms are off")
	}
	if n := buckets(native); n != 0 {
		t.Errorf("%d classic buckets beside the native form: this Prometheus keeps both, and the README may say so", n)
	}
	// The native form is an answer without a value of its own.
	if n := len(l.values(t, name+`{instance="`+native.api+`"}`)); n == 0 {
		t.Error("no native histograms, though they are on")
	}
	if n := len(l.values(t, name+`{instance="`+plain.api+`"}`)); n != 0 {
		t.Errorf("%d native histograms, though they are off", n)
	}
}

// plain is a daemon without certificate and devices.
func (l *lab) plain(t *testing.T, name string, native bool) *daemon {
	t.Helper()
	cfg := filepath.Join(l.dir, name+".yaml")
	write(t, cfg, fmt.Sprintf("data_dir: %s/%s\nhello: {listen: \"127.0.0.1:0\"}\napi: {listen: \"127.0.0.1:0\"}\nmetrics: "+
		"{native_histograms: %t}\n", l.dir, name, native))
	d := &daemon{log: run(t, filepath.Join(l.dir, "provisiond"), "serve", "--config", cfg)}
	poll(t, name+" is ready", time.Minute, func() bool {
		d.hello, d.api = ready(d.log.String())
		return d.api != ""
	})
	return d
}
