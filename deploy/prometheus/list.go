// Package prometheus knows which series the dashboards and rules may name, and
// finds the names and labels inside a PromQL text. The daemon's tests compare
// the same list with its registry, so that a panel can never ask for a series
// that nobody exports.
package prometheus

import (
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

//go:embed metrics.txt
var metricsText string

//go:embed rules.yml
var rulesText string

// A Metric is one line of metrics.txt.
type Metric struct {
	Name   string
	Type   string // counter, gauge, histogram or summary
	Labels []string
	Owner  string // package that makes it
}

// Metrics reads metrics.txt, in its own order.
func Metrics() ([]Metric, error) {
	var list []Metric
	n := 0
	for line := range strings.Lines(metricsText) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 4 {
			return nil, fmt.Errorf("metrics.txt:%d: want name, type, labels and owner, got %q", n, line)
		}
		m := Metric{Name: f[0], Type: f[1], Owner: f[3]}
		if f[2] != "-" {
			m.Labels = strings.Split(f[2], ",")
		}
		list = append(list, m)
	}
	return list, nil
}

var (
	quoted   = regexp.MustCompile(`"(?:\\.|[^"\\])*"`)
	ranges   = regexp.MustCompile(`\[[^\]]*\]`)
	grouping = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	braces   = regexp.MustCompile(`\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)`)
	word     = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)
	record   = regexp.MustCompile(`(?m)^\s*- record: (\S+)$`)
	number   = regexp.MustCompile(`\b[0-9][0-9a-zA-Z.]*`)
)

var keywords = []string{"and", "or", "unless", "bool", "offset"}

// Names finds the series and the label names that a PromQL text mentions. It
// is a reader of words, not a parser: promtool has already judged the syntax.
func Names(expr string) (series, labels []string) {
	expr = quoted.ReplaceAllString(expr, `""`)
	expr = ranges.ReplaceAllString(expr, "")
	expr = grouping.ReplaceAllStringFunc(expr, func(s string) string {
		labels = append(labels, word.FindAllString(grouping.FindStringSubmatch(s)[1], -1)...)
		return " "
	})
	expr = braces.ReplaceAllStringFunc(expr, func(s string) string {
		for _, m := range matcher.FindAllStringSubmatch(s, -1) {
			labels = append(labels, m[1])
		}
		return " "
	})
	expr = number.ReplaceAllString(expr, " ")
	for _, at := range word.FindAllStringIndex(expr, -1) {
		name := expr[at[0]:at[1]]
		rest := strings.TrimSpace(expr[at[1]:])
		if slices.Contains(keywords, name) || strings.HasPrefix(rest, "(") {
			continue
		}
		series = append(series, name)
	}
	return unique(series), unique(labels)
}

// targetLabels are on every series, put there by the scrape or by a histogram.
var targetLabels = []string{"instance", "job", "le"}

// Recorded lists the series that the recording rules of rules.yml make.
func Recorded() ([]string, error) {
	var list []string
	for _, m := range record.FindAllStringSubmatch(rulesText, -1) {
		list = append(list, m[1])
	}
	if len(list) == 0 {
		return nil, errors.New("rules.yml records nothing")
	}
	return list, nil
}

// Check says what a PromQL text names that is neither on a scrape nor among
// the recorded series.
func Check(metrics []Metric, recorded []string, expr string) error {
	series, labels := Names(expr)
	known := slices.Clone(targetLabels)
	for _, s := range series {
		if slices.Contains(recorded, s) {
			continue
		}
		i := slices.IndexFunc(metrics, func(m Metric) bool { return m.exports(s) })
		if i < 0 {
			return fmt.Errorf("%s is not in metrics.txt", s)
		}
		known = append(known, metrics[i].Labels...)
	}
	for _, l := range labels {
		if !slices.Contains(known, l) {
			return fmt.Errorf("label %s is on none of %s", l, strings.Join(series, ", "))
		}
	}
	return nil
}

// exports reports whether a scrape of m carries a series called name. A
// histogram is also asked for by its plain name: that is its native form.
func (m Metric) exports(name string) bool {
	if name == m.Name {
		return true
	}
	part, ok := strings.CutPrefix(name, m.Name)
	switch m.Type {
	case "histogram":
		return ok && (part == "_bucket" || part == "_sum" || part == "_count")
	case "summary":
		return ok && (part == "_sum" || part == "_count")
	}
	return false
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// Rules is the text of rules.yml.
func Rules() string { return rulesText }
