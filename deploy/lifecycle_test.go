package deploy_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/storetest"
)

var update = flag.Bool("update", false, "write the pages that are made from tables")

const lifecyclePage = "../server/operate/lifecycle.md"

// TestLifecyclePage: the page about states is what the tables say: the roads, which
// tests of the server hold every history to, and the table of commands.
func TestLifecyclePage(t *testing.T) {
	t.Parallel()
	want := lifecycle(t)
	if *update {
		if err := os.MkdirAll(filepath.Dir(lifecyclePage), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(lifecyclePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if read(t, lifecyclePage) != want {
		t.Errorf("%s is old; run `go test ./deploy -run TestLifecyclePage -update`", strings.TrimPrefix(lifecyclePage, "../"))
	}
}

// groups are the states that the picture draws as one.
var groups = []struct{ id, title, set string }{
	{"open", "not under management", "+open"}, {"work", "being set up", "+work"}, {"managed", "under management", "+managed"}, {"leaving", "going back", "+leaving"},
	{"quarantined", "kept out", ""}, {"retired", "given up", ""},
}

func groupOf(l store.Lifecycle) string {
	for _, g := range groups {
		if g.set != "" && slices.Contains(storetest.Sets[g.set], l) || g.id == string(l) {
			return g.id
		}
	}
	return "?"
}

func lifecycle(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("<!-- Made from the tables: go test ./deploy -run TestLifecyclePage -update -->\n\n# Where a device can stand\n\n")
	p("A device has one state (`lifecycle`). Who moves it: its **hello**, a **run**, a **timer**, a **person**. Each move is one event " +
		"on its timeline.\n\n")
	p("```mermaid\nflowchart LR\n")
	for _, g := range groups {
		var names []string
		for _, l := range storetest.Sets[g.set] {
			if l != "" {
				names = append(names, string(l))
			}
		}
		if g.set == "" {
			names = []string{g.id}
		}
		p("  %s[\"<b>%s</b><br/>%s\"]\n", g.id, g.title, strings.Join(names, "<br/>"))
	}
	type edge struct{ from, to string }
	drawn := map[edge][]string{}
	for _, r := range storetest.Roads() {
		for _, l := range r.From {
			e := edge{groupOf(l), groupOf(r.To)}
			if word := r.By + ": " + r.Event; l != "" && e.from != e.to && !slices.Contains(drawn[e], word) {
				drawn[e] = append(drawn[e], word)
			}
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(drawn),
		func(a, b edge) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) }) {
		p("  %s -->|\"%s\"| %s\n", e.from, strings.Join(drawn[e], "<br/>"), e.to)
	}
	p("```\n\n## States\n\n| state | meaning |\n|---|---|\n")
	meaning := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t\w+\s+Lifecycle = "(\w+)"\s+// (.*)$`).FindAllStringSubmatch(read(t, "../store/types.go"),
		-1) {
		meaning[m[1]] = m[2]
	}
	for _, l := range store.Lifecycles() {
		if meaning[string(l)] == "" {
			t.Errorf("store/types.go does not say what %s means", l)
		}
		p("| `%s` | %s |\n", l, meaning[string(l)])
	}
	p("\n## Moves\n\n")
	for _, g := range groups {
		if g.set == "" {
			continue
		}
		var names []string
		for _, l := range storetest.Sets[g.set] {
			names = append(names, named(l))
		}
		p("- *%s*: %s\n", g.title, strings.Join(names, ", "))
	}
	p("\n| who | from | to | event |\n|---|---|---|---|\n")
	for _, r := range storetest.Roads() {
		var from []string
		for _, word := range r.Words {
			i := slices.IndexFunc(groups, func(g struct{ id, title, set string }) bool { return g.set == word })
			switch {
			case i >= 0:
				from = append(from, "*"+groups[i].title+"*")
			case word == "new":
				from = append(from, named(""))
			default:
				from = append(from, "`"+word+"`")
			}
		}
		p("| %s | %s | `%s` | `%s` |\n", r.By, strings.Join(from, ", "), r.To, r.Event)
	}
	var never []string
	for _, l := range store.Lifecycles() {
		if !slices.ContainsFunc(storetest.Roads(), func(r storetest.Road) bool { return r.To == l }) {
			never = append(never, "`"+string(l)+"`")
		}
	}
	if len(never) > 0 {
		p("\nNo move leads to %s: the word is kept for databases and clients that know it.\n", strings.Join(never, ", "))
	}
	commands(t, &b)
	return b.String()
}

func named(l store.Lifecycle) string {
	if l == "" {
		return "nobody has met it"
	}
	return "`" + string(l) + "`"
}

// commands writes the table of commands the other way round: for each command the
// states.
func commands(t *testing.T, b *strings.Builder) {
	t.Helper()
	text := source(t, "const eligibility = `")
	_, text, _ = strings.Cut(text, "const eligibility = `\n")
	table, rest, _ := strings.Cut(text, "`")
	said := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t"(\w+)":\s+"(.*)",$`).FindAllStringSubmatch(rest, -1) {
		said[m[1]] = m[2]
	}
	lines := strings.Split(strings.TrimRight(table, "\n"), "\n")
	verbs := strings.Fields(lines[0])
	fmt.Fprint(b, "\n## Commands\n\nA command works on devices in these states, given to one device or by a job to many. A job whose "+
		"query names no state leaves those out that have to be *named*.\n\n"+
		"| command | works | works when named | nothing left to do | refused |\n|---|---|---|---|---|\n")
	used := map[string]bool{}
	for i, verb := range verbs {
		by := map[string][]string{}
		for _, line := range lines[1:] {
			f := strings.Fields(line)
			by[f[1+i]] = append(by[f[1+i]], "`"+f[0]+"`")
		}
		var refused []string
		for _, word := range slices.Sorted(maps.Keys(by)) {
			if said[word] != "" {
				used[word] = true
				refused = append(refused, "*"+word+"*: "+strings.Join(by[word], ", "))
			} else if word != "yes" && word != "named" && word != "idle" {
				t.Errorf("the table of commands says %q, which has no sentence", word)
			}
		}
		works := strings.Join(by["yes"], ", ")
		if len(by["yes"]) == len(lines)-1 {
			works = "everywhere"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", verb, works, strings.Join(by["named"], ", "), strings.Join(by["idle"], ", "),
			strings.Join(refused, "; "))
	}
	fmt.Fprint(b, "\nWhat a refusal says, and the next move:\n\n| word | sentence |\n|---|---|\n")
	place := strings.NewReplacer("%[1]s", "DEVICE", "%[2]s", "STATE", "%[3]s", "COMMAND")
	for _, word := range slices.Sorted(maps.Keys(used)) {
		fmt.Fprintf(b, "| *%s* (`device_%s`) | %s |\n", word, word, place.Replace(said[word]))
	}
}

// source finds the program's file that holds a text.
func source(t *testing.T, what string) string {
	t.Helper()
	files, err := filepath.Glob("../server/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if text := read(t, f); strings.Contains(text, what) {
			return text
		}
	}
	t.Fatalf("no file of server holds %q", what)
	return ""
}
