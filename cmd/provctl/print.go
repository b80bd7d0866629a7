package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// printJSON is what --json prints.
func (p *program) printJSON(v any) error {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// say prints on standard output, note on standard error. Names, addresses and
// certificates are words of strangers, so neither lets a word steer the terminal.
func (p *program) say(format string, args ...any)  { fmt.Fprintf(clean{p.out}, format, args...) }
func (p *program) note(format string, args ...any) { fmt.Fprintf(clean{p.err}, format, args...) }

// clean replaces control characters and marks that turn the direction of writing.
type clean struct{ w io.Writer }

// Write writes b without them.
func (c clean) Write(b []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return '\uFFFD'
		}
		return r
	}, string(b))
	if _, err := io.WriteString(c.w, text); err != nil {
		return 0, err
	}
	return len(b), nil
}

// A table lines its columns up; every row has as many cells.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// print writes the rows on standard output. A line has no spaces at its end.
func (p *program) print(t table) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	inCell := strings.NewReplacer("\t", " ", "\n", " ", "\v", " ", "\f", " ")
	for _, r := range t.rows {
		for i, c := range r {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, inCell.Replace(c))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush() // to memory
	for line := range strings.Lines(b.String()) {
		p.say("%s\n", strings.TrimRight(line, " \n"))
	}
}

// rows prints a table under a heading of words divided by |.
func rows[T any](p *program, head string, all []T, row func(T) []any) {
	var t table
	t.row(strings.Split(head, "|")...)
	for _, v := range all {
		var cells []string
		for _, c := range row(v) {
			cells = append(cells, cell(c))
		}
		t.row(cells...)
	}
	p.print(t)
}

// fields prints names with their values below each other, without those that are
// not known.
func (p *program) fields(pairs ...any) {
	var t table
	for i := 0; i < len(pairs); i += 2 {
		if value := cell(pairs[i+1]); value != "-" {
			t.row(pairs[i].(string), value)
		}
	}
	p.print(t)
}

// cell is a value in a table; - stands for what is not known.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case blank:
		return string(v)
	case string:
		return dash(v)
	case *time.Time:
		return when(v)
	case time.Time:
		return when(&v)
	case []string:
		return dash(strings.Join(v, ", "))
	}
	return fmt.Sprint(v)
}

// blank is a text of which nothing is better shown than -.
type blank string

// when shows a moment of UTC, and says so.
func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// day shows a day of UTC.
func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

// dash stands for what is not known.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// ifAny is n, unless it is 0, which says nothing.
func ifAny[N int | int64](n N) any {
	if n == 0 {
		return nil
	}
	return n
}

// plural is a number with the words that go with it.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
