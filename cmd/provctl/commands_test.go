package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt/reason"
)

// What follows the program's name in a sentence about it.
var prose = []string{"and", "are", "is", "looks", "says", "shows"}

// A command as it is named in a text: words, then what is not a word.
var (
	named = regexp.MustCompile(`\bprovctl((?: [a-z][a-z-]*)+)([^;,.\n` + "`" + `]*)`)
	flags = regexp.MustCompile(`--([a-z][a-z-]*)`)
)

// wrongCommands says which of the commands that a text names do not exist.
// Only words that can be no prose are looked at: from the first one on that is
// a command up to the first that takes no further ones.
func wrongCommands(root *cobra.Command, text string) (wrong []string) {
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		cmd := root
		for _, w := range strings.Fields(m[1]) {
			i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == w || c.HasAlias(w) })
			if i < 0 && !cmd.HasSubCommands() {
				break // its arguments, or prose
			}
			if i < 0 && cmd == root && slices.Contains(prose, w) {
				break
			}
			if i < 0 {
				wrong = append(wrong, fmt.Sprintf("provctl%s: %s has no %s", m[1], cmd.CommandPath(), w))
				break
			}
			cmd = cmd.Commands()[i]
		}
		if cmd == root || cmd.HasSubCommands() {
			continue
		}
		for _, f := range flags.FindAllStringSubmatch(m[1]+m[2], -1) {
			if cmd.Flags().Lookup(f[1]) == nil && root.PersistentFlags().Lookup(f[1]) == nil {
				wrong = append(wrong, fmt.Sprintf("%s has no --%s: %s", cmd.CommandPath(), f[1], m[0]))
			}
		}
	}
	return wrong
}

func theRoot() *cobra.Command {
	root := (&program{in: strings.NewReader(""), out: io.Discard, err: io.Discard}).root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// TestReasonsNameCommandsThatExist: whoever reads what to do about a reason can
// type it.
func TestReasonsNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	root := theRoot()
	found := 0
	for _, e := range reason.All() {
		for _, text := range append(slices.Clone(e.Fix), e.Causes...) {
			found += len(named.FindAllString(text, -1))
			for _, w := range wrongCommands(root, text) {
				t.Errorf("%s: %s", e.Code, w)
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d commands were found in the catalogue", found)
	}
	for text, bad := range map[string]bool{
		"provctl device approve UUID": false, "provctl device aprove UUID": true, "provctl suport-bundle": true,
		"provctl device adopt UUID --password-file FILE": false, "provctl device adopt UUID --pasword FILE": true,
	} {
		if got := wrongCommands(root, text); (len(got) > 0) != bad {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// TestTextsNameCommandsThatExist looks at every sentence of the programs and at
// the handbooks.
func TestTextsNameCommandsThatExist(t *testing.T) {
	t.Parallel()
	root := theRoot()
	texts := 0
	look := func(name, text string) {
		texts += len(named.FindAllString(text, -1))
		for _, w := range wrongCommands(root, text) {
			t.Errorf("%s: %s", name, w)
		}
	}
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && len(d.Name()) > 2:
			return fs.SkipDir
		case strings.HasSuffix(name, "_test.go"):
		case strings.HasSuffix(name, ".go"):
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					if text, err := strconv.Unquote(l.Value); err == nil {
						look(name, text)
					}
				}
				return true
			})
		case strings.HasSuffix(name, ".md"), strings.HasSuffix(name, ".html"), strings.HasSuffix(name, "rules.yml"):
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			look(name, string(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if texts < 100 {
		t.Errorf("only %d commands were found", texts)
	}
}
