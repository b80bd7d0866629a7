package main

import (
	"fmt"
	"strings"
)

// A Dashboard is one page: rows of panels, laid out from left to right.
type Dashboard struct {
	Name        string // file name without .json; the uid is provisiond-NAME
	Title       string
	Description string
	From        string // start of the time range shown first, such as now-24h
	Device      bool   // has the text box that takes a device's UUID
	Rows        []Row
}

// A Row is a heading and the panels under it.
type Row struct {
	Title  string
	Panels []Panel
}

// Kind is Grafana's name of a panel plugin.
type Kind string

const (
	lines   Kind = "timeseries"
	stat    Kind = "stat"
	gauge   Kind = "gauge"
	bars    Kind = "bargauge"
	table   Kind = "table"
	heatmap Kind = "heatmap"
)

// A Panel asks one or more questions of one data source.
type Panel struct {
	Title string
	// Help tells the operator what the picture means and the next move.
	Help    string
	Kind    Kind
	Unit    string // Grafana's unit id: short, s, reqps, percentunit, bytes, dtdurations
	Width   int    // of 24; 0 is 8
	Height  int    // 0 is 8
	Queries []Query
	Limits  []Limit // colours from the first value up; the base is green unless Base says otherwise
	Base    string
	Min     *float64
	Max     *float64
	Stack   bool
	Instant bool // PromQL for one moment, not over the range
	// Links turn a column's values into links; keys are column names.
	Links map[string]string
	// Names gives a number its word, as in 0 = missing.
	Names map[string]string
}

// A Query is PromQL, or SQL on the read-only views when SQL is set.
type Query struct {
	Expr   string
	SQL    string
	Legend string
	Series bool // SQL answers with a time column, for a curve
}

// A Limit is the value from which a colour holds.
type Limit struct {
	From  float64
	Color string
}

type object = map[string]any

func (d Dashboard) model() object {
	panels := []any{}
	id, y := 0, 0
	for _, r := range d.Rows {
		id++
		panels = append(panels, object{
			"id": id, "type": "row", "title": r.Title, "collapsed": false, "panels": []any{},
			"gridPos": object{"h": 1, "w": 24, "x": 0, "y": y},
		})
		y++
		x, high := 0, 0
		for _, p := range r.Panels {
			id++
			w, h := p.Width, p.Height
			if w == 0 {
				w = 8
			}
			if h == 0 {
				h = 8
			}
			if x+w > 24 {
				x, y, high = 0, y+high, 0
			}
			m := p.model()
			m["id"] = id
			m["gridPos"] = object{"h": h, "w": w, "x": x, "y": y}
			panels = append(panels, m)
			x += w
			high = max(high, h)
		}
		y += high
	}
	return object{
		"uid": "provisiond-" + d.Name, "title": "provisiond / " + d.Title, "description": d.Description,
		"tags": []string{"provisiond"}, "schemaVersion": 39, "version": 1, "editable": true, "graphTooltip": 1,
		"timezone": "browser", "refresh": d.refresh(), "time": object{"from": d.From, "to": "now"},
		"annotations": object{"list": []any{}},
		"templating":  object{"list": d.variables()},
		"links": []any{
			object{"type": "dashboards", "title": "provisiond", "tags": []string{"provisiond"}, "asDropdown": true, "includeVars": true, "keepTime": true},
			object{"type": "link", "title": "Console", "url": "${console}", "icon": "external link", "targetBlank": true},
		},
		"panels": panels,
	}
}

// refresh is how often the page asks again: of a week nobody sees the
// difference that half a minute makes, and the database does.
func (d Dashboard) refresh() string {
	if strings.HasSuffix(d.From, "d") {
		return "5m"
	}
	return "30s"
}

// variables are the data sources, so that one file fits every installation,
// and the address of the console for the links.
func (d Dashboard) variables() []any {
	list := []any{
		object{"name": "prometheus", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 0, "options": []any{}, "current": object{}},
		object{"name": "postgres", "label": "Postgres", "type": "datasource", "query": "postgres", "refresh": 1, "hide": 0, "options": []any{}, "current": object{}},
		textbox("console", "Console", "http://localhost:8080"),
	}
	if d.Device {
		list = append(list, textbox("device", "Device (UUID, name or MAC)", ""))
	}
	return list
}

func textbox(name, label, value string) object {
	return object{
		"name": name, "label": label, "type": "textbox", "query": value, "hide": 0,
		"current": object{"text": value, "value": value}, "options": []any{object{"text": value, "value": value, "selected": true}},
	}
}

func (p Panel) model() object {
	source := object{"type": "prometheus", "uid": "${prometheus}"}
	if p.Queries[0].SQL != "" {
		source = object{"type": "postgres", "uid": "${postgres}"}
	}
	targets := []any{}
	for i, q := range p.Queries {
		t := object{"refId": string(rune('A' + i)), "datasource": source}
		switch {
		case q.SQL != "":
			t["rawSql"], t["rawQuery"], t["editorMode"], t["format"] = q.SQL, true, "code", "table"
			if q.Series {
				t["format"] = "time_series"
			}
		default:
			t["expr"], t["editorMode"], t["legendFormat"] = q.Expr, "code", q.Legend
			t["instant"], t["range"] = p.Instant, !p.Instant
			if p.Kind == heatmap {
				t["format"] = "heatmap"
			} else if p.Kind == table {
				t["format"] = "table"
			}
		}
		targets = append(targets, t)
	}
	return object{
		"type": string(p.Kind), "title": p.Title, "description": p.Help, "datasource": source,
		"targets": targets, "fieldConfig": p.fields(), "options": p.options(), "transparent": false,
	}
}

func (p Panel) fields() object {
	base := p.Base
	if base == "" {
		base = "green"
	}
	steps := []any{object{"color": base, "value": nil}}
	for _, l := range p.Limits {
		steps = append(steps, object{"color": l.Color, "value": l.From})
	}
	defaults := object{
		"unit": p.Unit, "color": object{"mode": "palette-classic"},
		"thresholds": object{"mode": "absolute", "steps": steps}, "mappings": []any{}, "custom": object{},
	}
	if p.Kind != lines {
		defaults["color"] = object{"mode": "thresholds"}
	}
	if p.Min != nil {
		defaults["min"] = *p.Min
	}
	if p.Max != nil {
		defaults["max"] = *p.Max
	}
	if len(p.Names) > 0 {
		words := object{}
		for value, text := range p.Names {
			words[value] = object{"text": text}
		}
		defaults["mappings"] = []any{object{"type": "value", "options": words}}
	}
	if p.Kind == lines {
		custom := object{"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never", "spanNulls": false}
		if p.Stack {
			custom["stacking"] = object{"mode": "normal", "group": "A"}
			custom["fillOpacity"] = 40
		}
		if len(p.Limits) > 0 {
			custom["thresholdsStyle"] = object{"mode": "dashed"}
		}
		defaults["custom"] = custom
	}
	overrides := []any{}
	for _, column := range []string{"uuid", "reason", "device"} {
		if url, ok := p.Links[column]; ok {
			overrides = append(overrides, object{
				"matcher":    object{"id": "byName", "options": column},
				"properties": []any{object{"id": "links", "value": []any{object{"title": fmt.Sprintf("Open %s", column), "url": url, "targetBlank": column == "device"}}}},
			})
		}
	}
	return object{"defaults": defaults, "overrides": overrides}
}

func (p Panel) options() object {
	last := object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}
	switch p.Kind {
	case stat:
		return object{"reduceOptions": last, "colorMode": "value", "graphMode": "area", "textMode": "auto", "orientation": "auto", "justifyMode": "auto"}
	case gauge:
		return object{"reduceOptions": last, "showThresholdLabels": false, "showThresholdMarkers": true, "orientation": "auto"}
	case bars:
		if p.Queries[0].SQL != "" {
			last = object{"calcs": []string{"lastNotNull"}, "fields": "/.*/", "values": true}
		}
		return object{"reduceOptions": last, "displayMode": "gradient", "orientation": "horizontal", "showUnfilled": true}
	case table:
		return object{"showHeader": true, "cellHeight": "sm", "footer": object{"show": false}}
	case heatmap:
		return object{
			"calculate": false, "cellGap": 1, "yAxis": object{"unit": p.Unit}, "legend": object{"show": true},
			"color": object{"mode": "scheme", "scheme": "Oranges", "steps": 64}, "tooltip": object{"show": true, "yHistogram": false},
		}
	}
	return object{
		"legend":  object{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
}

// quantile asks in both forms of a histogram, classic buckets first, since a
// server that scrapes native histograms has no _bucket series at all.
func quantile(q, metric, by string) string {
	le, plain := "le", ""
	if by != "" {
		le, plain = "le, "+by, " by ("+by+")"
	}
	return fmt.Sprintf("histogram_quantile(%s, sum by (%s) (rate(%s_bucket[$__rate_interval]))) or histogram_quantile(%s, sum%s (rate(%s[$__rate_interval])))",
		q, le, metric, q, plain, metric)
}

func one(expr, legend string) []Query { return []Query{{Expr: expr, Legend: legend}} }

func sql(text string) []Query { return []Query{{SQL: text}} }

func num(v float64) *float64 { return &v }

// deviceLinks make the uuid column open the drill-down, and the reason column
// its runbook.
var deviceLinks = map[string]string{
	"uuid":   "/d/provisiond-device?var-device=${__value.text}&${__url_time_range}",
	"device": "${console}/devices/${__data.fields.uuid}",
	"reason": "https://github.com/provisiond/provisiond/blob/main/deploy/RUNBOOKS.md#${__value.text}",
}
