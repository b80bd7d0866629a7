package prometheus

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// rulesFile is the part of rules.yml that the tests look at.
type rulesFile struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []struct {
			Record      string            `yaml:"record"`
			Alert       string            `yaml:"alert"`
			Expr        string            `yaml:"expr"`
			Labels      map[string]string `yaml:"labels"`
			Annotations map[string]string `yaml:"annotations"`
		} `yaml:"rules"`
	} `yaml:"groups"`
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("promtool is missing: install the Debian package prometheus (apt-get install prometheus)")
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtoolAcceptsTheRules(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "rules.yml")
}

func TestEachAlertFiresAndStaysSilent(t *testing.T) {
	t.Parallel()
	promtool(t, "test", "rules", "rules-test.yml", "rules-slow-test.yml")
}

func TestPromtoolAcceptsTheScrapeConfiguration(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "config", "prometheus.yml")
}

func readRules(t *testing.T) rulesFile {
	t.Helper()
	var rules rulesFile
	readYAML(t, "rules.yml", &rules)
	return rules
}

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestEveryAlertHasBothCases(t *testing.T) {
	t.Parallel()
	type caseFile struct {
		Tests []struct {
			Alerts []struct {
				Name string `yaml:"alertname"`
				Want []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, name := range []string{"rules-test.yml", "rules-slow-test.yml"} {
		var cases caseFile
		readYAML(t, name, &cases)
		for _, c := range cases.Tests {
			for _, a := range c.Alerts {
				if len(a.Want) > 0 {
					fires[a.Name] = true
				} else {
					silent[a.Name] = true
				}
			}
		}
	}
	alerts := 0
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			alerts++
			if !fires[r.Alert] {
				t.Errorf("%s: rules-test.yml has no case in which it fires", r.Alert)
			}
			if !silent[r.Alert] {
				t.Errorf("%s: rules-test.yml has no case in which it stays silent", r.Alert)
			}
		}
	}
	if alerts == 0 {
		t.Fatal("rules.yml holds no alert")
	}
}

func TestEveryAlertSaysWhatToDo(t *testing.T) {
	t.Parallel()
	const runbooks = "https://github.com/provisiond/provisiond/blob/main/deploy/RUNBOOKS.md#"
	text, err := os.ReadFile("../RUNBOOKS.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if heading, ok := strings.CutPrefix(strings.TrimSpace(line), "### "); ok {
			anchors[strings.ToLower(heading)] = true
		}
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			for _, key := range []string{"summary", "description", "runbook_url"} {
				if r.Annotations[key] == "" {
					t.Errorf("%s has no %s", r.Alert, key)
				}
			}
			if s := r.Labels["severity"]; s != "page" && s != "ticket" {
				t.Errorf("%s: severity %q is neither page nor ticket", r.Alert, s)
			}
			anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], runbooks)
			if !ok || !anchors[anchor] {
				t.Errorf("%s: runbook_url %s leads nowhere", r.Alert, r.Annotations["runbook_url"])
			}
		}
	}
}

func TestRulesNameOnlyKnownSeries(t *testing.T) {
	t.Parallel()
	metrics, err := Metrics()
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := Recorded()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if err := Check(metrics, recorded, r.Expr); err != nil {
				t.Errorf("%s%s: %v", r.Alert, r.Record, err)
			}
		}
	}
}

func TestNamesFindsSeriesAndLabels(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		expr           string
		series, labels []string
	}{
		{`up`, []string{"up"}, nil},
		{`sum by (a, b) (rate(x_total{c=~"d|e",f!="}"}[5m])) > 2 * 1e9`, []string{"x_total"}, []string{"a", "b", "c", "f"}},
		{`max(x) - max(x offset 1h) and on () y`, []string{"x", "y"}, nil},
		{`histogram_quantile(0.9, sum by (le) (rate(h_bucket[$__rate_interval]))) or z:r1h`, []string{"h_bucket", "z:r1h"}, []string{"le"}},
	} {
		series, labels := Names(c.expr)
		if !slices.Equal(series, c.series) || !slices.Equal(labels, c.labels) {
			t.Errorf("Names(%s) = %v, %v; want %v, %v", c.expr, series, labels, c.series, c.labels)
		}
	}
}

func TestMetricsListIsWellFormed(t *testing.T) {
	t.Parallel()
	metrics, err := Metrics()
	if err != nil {
		t.Fatal(err)
	}
	forbidden := []string{"uuid", "ip", "address", "host", "hostname", "serial", "error"}
	seen := map[string]bool{}
	for _, m := range metrics {
		if seen[m.Name] {
			t.Errorf("%s stands twice", m.Name)
		}
		seen[m.Name] = true
		if !slices.Contains([]string{"counter", "gauge", "histogram", "summary"}, m.Type) {
			t.Errorf("%s: unknown type %s", m.Name, m.Type)
		}
		if m.Type == "counter" && !strings.HasSuffix(m.Name, "_total") {
			t.Errorf("%s is a counter and does not end in _total", m.Name)
		}
		for _, l := range m.Labels {
			if slices.Contains(forbidden, l) {
				t.Errorf("%s: label %s would tell devices apart", m.Name, l)
			}
		}
	}
}
