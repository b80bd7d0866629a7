package live_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	prometheus "github.com/provisiond/provisiond/deploy/prometheus"
)

// mayBeEmpty lists the panels that have nothing to show in this lab, each with
// its reason. Everything else must answer with a number.
var mayBeEmpty = map[string]string{
	"network/Option 15 by scope":      "the lab asks no DHCP server: doctor.dhcp_interface is not set",
	"network/ProvisionServer by zone": "the first examination may not have ended",
	"certificates/Certificates":       "certificates of the configuration live in files; the desk's table is empty",
}

// mayFire lists what is right to fire, or to be about to, in this lab.
var mayFire = map[string]string{
	"ProvisiondBackupStale":             "there never was a backup",
	"ProvisiondNoCertificateForDevices": "some devices of the lab know no root of ours",
	"ProvisiondFailureSurge":            "a quarter of this small fleet is made to fail",
	"ProvisiondSessionServerFailures":   "two devices refuse our certificate for its suffix: of some twenty runs that is more than 2 %",
	"ProvisiondDnsProbeFailed":          "corp.example.com is not a zone that exists",
	"ProvisiondDoctorFailing":           "neither does its ProvisionServer",
}

// TestDashboardsAndAlertsOnTheRealThing is one story, since each part of it
// waits for the one before.
func TestDashboardsAndAlertsOnTheRealThing(t *testing.T) {
	l := newLab(t)
	trust := filepath.Join(l.dir, "root.pem")
	var wg sync.WaitGroup
	wg.Go(func() {
		l.fleet(t, l.lite, 0, "--devices", "6", "--trust", trust, "--suffix", "corp.example.com", "--timeout", "3m")
	})
	wg.Go(func() {
		l.fleet(t, l.pg, 4, "--devices", "10", "--trust", trust, "--suffix", "corp.example.com", "--timeout", "3m")
	})
	wg.Go(func() { // a certificate for another suffix: refused by the device
		l.fleet(t, l.pg, 8, "--devices", "2", "--trust", trust, "--suffix", "branch.example.net", "--duration", "6s")
	})
	wg.Go(func() { // no root of ours
		l.fleet(t, l.pg, 12, "--devices", "2", "--suffix", "corp.example.com", "--duration", "6s")
	})
	wg.Wait()
	poll(t, "16 devices managed and seen by Prometheus", 30*time.Second, func() bool {
		list := l.values(t, `sum(provisiond_devices{state="provisioned"}) == 16`)
		return len(list) == 1
	})
	l.evaluated(t)

	t.Run("metrics", func(t *testing.T) { metricsAgree(t, l) })
	t.Run("panels", func(t *testing.T) { panelsAnswer(t, l) })
	t.Run("rules", func(t *testing.T) { rulesAreHealthy(t, l) })
	t.Run("postgres killed", func(t *testing.T) {
		l.postgres.Kill(t)
		poll(t, "ProvisiondStoreUnavailable for the node on Postgres alone", 30*time.Second, func() bool {
			list := l.values(t, `ALERTS{alertname="ProvisiondStoreUnavailable"}`)
			return len(list) == 1 && list[0].Metric["instance"] == l.pg.api
		})
	})
}

type panel struct {
	Title   string
	Targets []struct{ Expr, RawSQL string }
	Panels  []panel
}

var timeFilter = regexp.MustCompile(`\$__timeFilter\(([^)]*)\)`)

// panelsAnswer asks what each panel of each dashboard asks.
func panelsAnswer(t *testing.T, l *lab) {
	files, err := filepath.Glob("../grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no dashboards", err)
	}
	ctx := t.Context()
	db, err := pgx.Connect(ctx, l.postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(ctx))
	var device string
	if err := db.QueryRow(ctx, "SELECT uuid::text FROM v_device WHERE managed = 1 LIMIT 1").Scan(&device); err != nil {
		t.Fatal(err)
	}
	asked, excused := 0, map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d struct{ Panels []panel }
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		page := strings.TrimSuffix(filepath.Base(file), ".json")
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				asked++
				name := page + "/" + p.Title
				var full bool
				var err error
				switch {
				case q.RawSQL != "":
					full, err = answersSQL(ctx, db, q.RawSQL, device)
				default:
					expr := strings.NewReplacer("$__rate_interval", "10s", "$__range", "60s").Replace(q.Expr)
					var list []answer
					list, err = l.ask(t, expr, time.Since(l.began))
					full = slices.ContainsFunc(list, answer.number)
				}
				if err != nil {
					t.Errorf("%s: %v\n%s%s", name, err, q.Expr, q.RawSQL)
				}
				if why, may := mayBeEmpty[name]; may {
					t.Logf("%s: answered %v (%s)", name, full, why)
					excused[name] = true
				} else if err == nil && !full {
					t.Errorf("%s answers with nothing\n%s%s", name, q.Expr, q.RawSQL)
				}
			}
		}
	}
	for name := range mayBeEmpty {
		if !excused[name] {
			t.Errorf("%s may be empty, but no dashboard has it", name)
		}
	}
	t.Logf("%d queries of %d dashboards", asked, len(files))
}

func answersSQL(ctx context.Context, db *pgx.Conn, text, device string) (bool, error) {
	text = timeFilter.ReplaceAllString(text, "$1 BETWEEN now() - interval '2 day' AND now() + interval '1 day'")
	text = strings.ReplaceAll(text, "${device:sqlstring}", "'"+device+"'")
	rows, err := db.Query(ctx, text)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		n++
	}
	return n > 0, rows.Err()
}

// rulesAreHealthy looks for rules that do not evaluate and alerts nobody wants.
// One may be about to fire because the machine stood still; it must be over by
// itself.
func rulesAreHealthy(t *testing.T, l *lab) {
	var wrong []string
	healthy := func() bool {
		groups, err := l.rules(t)
		if err != nil {
			wrong = []string{err.Error()}
			return false
		}
		wrong = nil
		have := 0
		for _, g := range groups {
			for _, rule := range g.Rules {
				have++
				if rule.Health != "ok" || rule.LastError != "" {
					wrong = append(wrong, fmt.Sprintf("%s is %s: %s", rule.Name, rule.Health, rule.LastError))
				}
				if _, may := mayFire[rule.Name]; rule.Type == "alerting" && rule.State != "inactive" && !may {
					wrong = append(wrong, fmt.Sprintf("%s is %s although all is well", rule.Name, rule.State))
				}
			}
		}
		if want := strings.Count(prometheus.Rules(), "- alert: ") + strings.Count(prometheus.Rules(), "- record: "); have != want {
			wrong = append(wrong, fmt.Sprintf("Prometheus runs %d rules, the file has %d", have, want))
		}
		return len(wrong) == 0
	}
	if !within(2*time.Minute, healthy) {
		t.Error(strings.Join(wrong, "\n"))
	}
}

// noSeriesYet lists metrics that have no series in this lab.
var noSeriesYet = map[string]string{
	"provisiond_dns_probe_ok":  "one series a zone, once the first examination has ended",
	"provisiond_dhcp_probe_ok": "one series a scope, and no interface is named",
	"up":                       "made by Prometheus itself",
}

var sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? `)
var label = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="`)

// metricsAgree holds the live /metrics of both daemons against metrics.txt,
// both ways, and lets promtool judge them.
func metricsAgree(t *testing.T, l *lab) {
	list, err := prometheus.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]*daemon{"sqlite": l.lite, "postgres": l.pg} {
		text, err := get(t, "http://"+d.api+"/metrics")
		if err != nil {
			t.Fatal(err)
		}
		check := exec.Command("promtool", "check", "metrics")
		check.Stdin = strings.NewReader(text)
		if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: promtool check metrics: %v\n%s", name, err, out)
		}
		types, labels, series := read(text)
		known := map[string]bool{}
		for _, m := range list {
			known[m.Name] = true
			if noSeriesYet[m.Name] != "" {
				continue
			}
			if types[m.Name] == "" {
				t.Errorf("%s: %s is in metrics.txt and nobody exports it (%s should)", name, m.Name, m.Owner)
				continue
			}
			if types[m.Name] != m.Type {
				t.Errorf("%s: %s is a %s, metrics.txt says %s", name, m.Name, types[m.Name], m.Type)
			}
			want := slices.Clone(m.Labels)
			slices.Sort(want)
			if have := labels[m.Name]; !slices.Equal(have, want) {
				t.Errorf("%s: %s has labels %v, metrics.txt says %v", name, m.Name, have, want)
			}
		}
		for have := range types {
			if strings.HasPrefix(have, "provisiond_") && !known[have] {
				t.Errorf("%s: %s is exported and not in metrics.txt", name, have)
			}
		}
		// 2,000 is the limit of one node; series that come with use, other codes
		// and suffixes, find room below it.
		if series >= 1880 {
			t.Errorf("%s: %d series of one node", name, series)
		}
		t.Logf("%s: %d families, %d series", name, len(types), series)
		uuid := regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-|127\.\d+\.\d+\.\d+`)
		if m := uuid.FindString(text); m != "" {
			t.Errorf("%s: the metrics tell a device apart: %s", name, m)
		}
	}
}

// read finds types and label names in the text format.
func read(text string) (types map[string]string, labels map[string][]string, series int) {
	types, labels = map[string]string{}, map[string][]string{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "#" && f[1] == "TYPE" {
			types[f[2]] = f[3]
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		series++
		name := m[1]
		for _, end := range []string{"_bucket", "_sum", "_count"} {
			if base, cut := strings.CutSuffix(name, end); cut && (types[base] == "histogram" || types[base] == "summary") {
				name = base
			}
		}
		var names []string
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "le" && l[1] != "quantile" {
				names = append(names, l[1])
			}
		}
		slices.Sort(names)
		labels[name] = names
	}
	return types, labels, series
}
