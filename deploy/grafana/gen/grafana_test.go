package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// units are ids of Grafana's own list (packages/grafana-data, valueFormats/categories):
// an id that is not in it is shown as a suffix behind the number, without an error.
var units = []string{"none", "short", "percent", "percentunit", "bytes", "decbytes", "ops", "reqps", "cps", "ns", "ms", "s", "m", "h", "d", "dtdurations", "dtdurationms", "dateTimeAsIso", "dateTimeFromNow", "string"}

// refreshes are the steps of Grafana's own picker.
var refreshes = []string{"5s", "10s", "30s", "1m", "5m", "15m", "30m", "1h", "2h", "1d"}

var (
	uidText   = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,40}$`)
	rangeText = regexp.MustCompile(`^now-([0-9]+)([hd])$`)
	variable  = regexp.MustCompile(`\$\{?([a-zA-Z_][a-zA-Z0-9_]*)`)
	inLegend  = regexp.MustCompile(`\{\{\s*([^}\s]*)\s*\}\}`)
)

type source struct{ Type, UID string }

type jsonPanel struct {
	ID         int
	Type       string
	Title      string
	Datasource *source
	GridPos    struct{ H, W, X, Y int }
	Collapsed  *bool
	Targets    []struct {
		RefID        string
		Datasource   *source
		Expr         string
		RawSQL       string `json:"rawSql"`
		Format       string
		LegendFormat string
		Instant      bool
		Range        bool
	}
	FieldConfig struct {
		Defaults struct {
			Unit       string
			Thresholds struct {
				Steps []struct {
					Color string
					Value *float64
				}
			}
			Mappings []struct {
				Type    string
				Options map[string]struct{ Text string }
			}
		}
		Overrides []struct {
			Matcher    struct{ ID, Options string }
			Properties []struct{ ID string }
		}
	}
}

type jsonDashboard struct {
	UID, Title, Refresh, Timezone string
	SchemaVersion                 int
	Time                          struct{ From, To string }
	Templating                    struct {
		List []struct{ Name, Type, Query string }
	}
	Panels []jsonPanel
}

// TestGrafanaWouldReadThem holds each file against what Grafana does with it:
// most of what is wrong there is no error but an empty panel.
func TestGrafanaWouldReadThem(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../*.json")
	if err != nil || len(files) < 7 {
		t.Fatalf("%d dashboards, %v", len(files), err)
	}
	seen := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d jsonDashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		name := filepath.Base(file)
		if other := seen[d.UID]; other != "" || !uidText.MatchString(d.UID) || d.Title == "" {
			t.Errorf("%s: uid %q (also of %q), title %q", name, d.UID, other, d.Title)
		}
		seen[d.UID] = name
		if d.Timezone != "browser" || d.SchemaVersion < 36 || d.SchemaVersion > 39 {
			t.Errorf("%s: time zone %q, schema %d: 36 is Grafana 9, 39 is 11, which is the newest that all of them read", name, d.Timezone, d.SchemaVersion)
		}
		checkPace(t, name, d)
		sources, known := map[string]string{}, map[string]bool{}
		for _, v := range d.Templating.List {
			known[v.Name] = true
			if v.Type == "datasource" {
				sources["${"+v.Name+"}"] = v.Query
			}
		}
		for _, m := range variable.FindAllStringSubmatch(string(text), -1) {
			if !known[m[1]] && !strings.HasPrefix(m[1], "__") {
				t.Errorf("%s uses $%s and declares no such variable", name, m[1])
			}
		}
		ids := map[int]bool{}
		for _, p := range d.Panels {
			if p.ID < 1 || ids[p.ID] || p.Title == "" {
				t.Errorf("%s: panel %d %q: the id is taken or no id", name, p.ID, p.Title)
			}
			ids[p.ID] = true
			if g := p.GridPos; g.H < 1 || g.W < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > 24 {
				t.Errorf("%s, %s: grid %+v", name, p.Title, g)
			}
			if p.Type == "row" {
				if p.Collapsed == nil || *p.Collapsed || p.Datasource != nil || p.GridPos.W != 24 || p.GridPos.X != 0 {
					t.Errorf("%s: row %s is no open row over the whole width", name, p.Title)
				}
				continue
			}
			checkPanel(t, name+", "+p.Title, p, sources)
		}
	}
}

// checkPace holds the refresh against the range: a week of SQL every 30 seconds
// is load without a difference to be seen.
func checkPace(t *testing.T, name string, d jsonDashboard) {
	t.Helper()
	m := rangeText.FindStringSubmatch(d.Time.From)
	if m == nil || d.Time.To != "now" || !slices.Contains(refreshes, d.Refresh) {
		t.Errorf("%s: from %q to %q, each %q", name, d.Time.From, d.Time.To, d.Refresh)
		return
	}
	n, _ := strconv.Atoi(m[1])
	shown := time.Duration(n) * time.Hour
	if m[2] == "d" {
		shown *= 24
	}
	pace, err := time.ParseDuration(strings.Replace(d.Refresh, "1d", "24h", 1))
	if err != nil || pace < shown/10000 || pace > shown/10 {
		t.Errorf("%s shows %s and asks again each %s", name, shown, d.Refresh)
	}
}

func checkPanel(t *testing.T, name string, p jsonPanel, sources map[string]string) {
	t.Helper()
	if !slices.Contains([]string{"timeseries", "stat", "gauge", "bargauge", "table", "heatmap"}, p.Type) {
		t.Errorf("%s: there is no panel %q in every Grafana", name, p.Type)
	}
	f := p.FieldConfig.Defaults
	if !slices.Contains(units, f.Unit) {
		t.Errorf("%s: %q is no unit of Grafana's", name, f.Unit)
	}
	for i, s := range f.Thresholds.Steps {
		if (s.Value == nil) != (i == 0) || s.Color == "" || i > 1 && *s.Value <= *f.Thresholds.Steps[i-1].Value {
			t.Errorf("%s: threshold %d does not follow the one before", name, i)
		}
	}
	for _, m := range f.Mappings {
		for value, to := range m.Options {
			if _, err := strconv.ParseFloat(value, 64); err != nil || m.Type != "value" || to.Text == "" {
				t.Errorf("%s: mapping of %q to %q", name, value, to.Text)
			}
		}
	}
	for _, o := range p.FieldConfig.Overrides {
		if o.Matcher.ID != "byName" || o.Matcher.Options == "" || len(o.Properties) == 0 {
			t.Errorf("%s: an override of nothing", name)
		}
	}
	refs := map[string]bool{}
	if len(p.Targets) == 0 || p.Datasource == nil {
		t.Errorf("%s asks nobody", name)
		return
	}
	for _, q := range p.Targets {
		if q.Datasource == nil || *q.Datasource != *p.Datasource || sources[q.Datasource.UID] != q.Datasource.Type {
			t.Errorf("%s: the data source is no variable of that kind: %+v", name, q.Datasource)
		}
		if q.RefID == "" || refs[q.RefID] || (q.Expr == "") == (q.RawSQL == "") {
			t.Errorf("%s: query %q is taken, or asks nothing", name, q.RefID)
		}
		refs[q.RefID] = true
		if q.RawSQL != "" {
			if curve := p.Type == "timeseries"; curve != (q.Format == "time_series") {
				t.Errorf("%s: SQL comes as %q", name, q.Format)
			}
			continue
		}
		if q.Instant == q.Range || p.Type == "timeseries" && q.Instant {
			t.Errorf("%s: instant %v, range %v", name, q.Instant, q.Range)
		}
		// A curve without a name is shown with all its labels, the long way.
		if p.Type == "timeseries" && q.LegendFormat == "" {
			t.Errorf("%s: %s has no legend", name, q.RefID)
		}
		for _, m := range inLegend.FindAllStringSubmatch(q.LegendFormat, -1) {
			if !strings.Contains(q.Expr, m[1]) && !slices.Contains([]string{"instance", "job", "version", "revision", "goversion", "check", "zone", "scope"}, m[1]) {
				t.Errorf("%s: the legend shows %s, which the query does not keep: %s", name, m[1], q.Expr)
			}
		}
	}
}
