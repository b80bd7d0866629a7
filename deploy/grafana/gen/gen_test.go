package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/deploy/prometheus"
)

func TestDashboardsAreUpToDate(t *testing.T) {
	t.Parallel()
	made := map[string]bool{}
	for _, d := range dashboards() {
		made[d.file()] = true
		want, err := d.encode()
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(filepath.Join("..", d.file()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, have) {
			t.Errorf("%s is old; run `go run ./deploy/grafana/gen -out deploy/grafana`", d.file())
		}
	}
	files, err := filepath.Glob("../*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !made[filepath.Base(f)] {
			t.Errorf("%s is made by nobody: remove it", f)
		}
	}
}

// from finds what a query reads. A panel may read the stable views, and the tables that
// have none.
var from = regexp.MustCompile(`(?i)\b(?:from|join)\s+([a-z_]+)`)

func TestPanelsAskOnlyForWhatExists(t *testing.T) {
	t.Parallel()
	metrics, err := prometheus.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := prometheus.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	readable := map[string]bool{
		"v_device": true, "v_run": true, "v_failure_daily": true, "v_certificate": true, "v_coverage": true,
		"run_steps": true, "events": true, "trust_hashes": true, "trust_tables": true, "devices": true,
		"s": true, // extract(epoch FROM s.finished_at …)
	}
	for _, d := range dashboards() {
		for _, r := range d.Rows {
			for _, p := range r.Panels {
				for _, q := range p.Queries {
					if q.SQL == "" {
						if err := prometheus.Check(metrics, recorded, q.Expr); err != nil {
							t.Errorf("%s, %s: %v", d.Name, p.Title, err)
						}
						continue
					}
					for _, m := range from.FindAllStringSubmatch(q.SQL, -1) {
						if !readable[m[1]] {
							t.Errorf("%s, %s: reads %s, which is no view of ours", d.Name, p.Title, m[1])
						}
					}
				}
			}
		}
	}
}

func TestPanelsExplainThemselves(t *testing.T) {
	t.Parallel()
	uids := map[string]bool{}
	for _, d := range dashboards() {
		if uids[d.Name] {
			t.Errorf("two dashboards are called %s", d.Name)
		}
		uids[d.Name] = true
		if len("provisiond-"+d.Name) > 40 {
			t.Errorf("%s: Grafana takes no uid longer than 40 characters", d.Name)
		}
		titles := map[string]bool{}
		for _, r := range d.Rows {
			for _, p := range r.Panels {
				if titles[p.Title] {
					t.Errorf("%s has two panels called %s", d.Name, p.Title)
				}
				titles[p.Title] = true
				if len(p.Help) < 20 || p.Unit == "" {
					t.Errorf("%s, %s: no unit, or no words on what to do next", d.Name, p.Title)
				}
				for _, q := range p.Queries {
					if strings.Contains(q.Expr, "rate(") && strings.Contains(q.Expr, "[5m]") {
						t.Errorf("%s, %s: a curve's rate wants $__rate_interval", d.Name, p.Title)
					}
				}
			}
		}
	}
}

// TestPanelsFitTheGrid reads the JSON back as Grafana does.
func TestPanelsFitTheGrid(t *testing.T) {
	t.Parallel()
	for _, d := range dashboards() {
		text, err := d.encode()
		if err != nil {
			t.Fatal(err)
		}
		var model struct {
			SchemaVersion int `json:"schemaVersion"`
			Panels        []struct {
				ID      int    `json:"id"`
				Title   string `json:"title"`
				GridPos struct{ H, W, X, Y int }
			} `json:"panels"`
		}
		if err := json.Unmarshal(text, &model); err != nil {
			t.Fatal(err)
		}
		if model.SchemaVersion != 39 {
			t.Errorf("%s: schema %d", d.Name, model.SchemaVersion)
		}
		taken := map[[2]int]string{}
		for _, p := range model.Panels {
			if p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s, %s hangs over the edge", d.Name, p.Title)
			}
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: %s lies on %s", d.Name, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
		}
	}
}
