package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// A page, and a section of it by its number ("amt/protocol.md 6.8") or by its
	// heading ("deploy/README.md, Security").
	citation  = regexp.MustCompile(`([\w./-]*\w\.md)\b(?:,? (\d+(?:\.\d+)*)\b|, ([A-Z][\w ]+)\b)?`)
	invariant = regexp.MustCompile(`\bI(\d{1,2})\b`)
	section   = regexp.MustCompile(`(?m)^#+ (\d+(?:\.\d+)*) `)
	heading   = regexp.MustCompile(`(?m)^#+ (.*)$`)
	rule      = regexp.MustCompile(`(?m)^\| \*\*(I\d+)\*\* \|`)
	address   = regexp.MustCompile(`https?://\S+`)
	file      = regexp.MustCompile("`((?:[\\w.-]+/)+[\\w.-]+\\.(?:go|sql|ya?ml|sh|json|html))`")
	remark    = regexp.MustCompile(`(?m)(?:^|\s)(?://|#|--) .*$`)
)

const invariantsPage = "server/provision/invariants.md"

// TestCitations: whatever page, section, invariant or file the code or a page names
// is in this repository. A page is named from the top of the repository, from where the
// name stands, or from this folder.
func TestCitations(t *testing.T) {
	t.Parallel()
	pages := map[string]string{}
	page := func(from, name string) (string, bool) {
		for _, path := range []string{filepath.Join("..", name), filepath.Join(filepath.Dir(from), name), name} {
			if text, ok := pages[path]; ok {
				return text, true
			}
			if text, err := os.ReadFile(path); err == nil {
				pages[path] = string(text)
				return string(text), true
			}
		}
		return "", false
	}
	rules := map[string]bool{}
	for _, m := range rule.FindAllStringSubmatch(read(t, "../"+invariantsPage), -1) {
		rules[m[1]] = true
	}
	if len(rules) < 15 {
		t.Errorf("%s has %d invariants", invariantsPage, len(rules))
	}

	cited, numbered, ruled := 0, 0, 0
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name == ".git" || name == "testdata" || name == "bin" || name == "dist" {
				return filepath.SkipDir
			}
			return nil
		}
		switch filepath.Ext(path) {
		case ".go", ".sql", ".sh", ".md", ".mod":
		default:
			if d.Name() != "Makefile" && d.Name() != "Dockerfile" {
				return nil
			}
		}
		if d.Name() == "citations_test.go" {
			return nil
		}
		b, err := os.ReadFile(path)
		text := address.ReplaceAllString(string(b), "")
		for _, m := range citation.FindAllStringSubmatch(text, -1) {
			cited++
			there, ok := page(path, m[1])
			switch {
			case !ok:
				t.Errorf("%s cites %s, and there is no such page", path, m[1])
			case m[2] != "" && !has(section, there, m[2]):
				t.Errorf("%s cites %q, and that page has no section %s", path, m[0], m[2])
			case m[3] != "" && filepath.Ext(path) == ".go" && !has(heading, there, m[3]):
				t.Errorf("%s cites %q, and that page has no heading %q", path, m[0], m[3])
			}
			if m[2] != "" {
				numbered++
			}
		}
		if filepath.Ext(path) == ".md" {
			for _, m := range file.FindAllStringSubmatch(text, -1) {
				if _, ok := page(path, m[1]); !ok {
					t.Errorf("%s speaks of the file %s, and there is none", path, m[1])
				}
			}
		}
		if filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") {
			text = strings.Join(remark.FindAllString(text, -1), "\n")
		}
		if filepath.Ext(path) == ".go" || filepath.Ext(path) == ".md" {
			for _, m := range invariant.FindAllStringSubmatch(text, -1) {
				ruled++
				if !rules["I"+m[1]] {
					t.Errorf("%s speaks of I%s, which %s does not have", path, m[1], invariantsPage)
				}
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	// A search that finds nothing finds nothing wrong.
	if cited < 40 || numbered < 25 || ruled < 30 {
		t.Errorf("found %d citations, %d of them with a section, and %d invariants: is the search right?", cited, numbered, ruled)
	}
}

func has(what *regexp.Regexp, page, name string) bool {
	for _, m := range what.FindAllStringSubmatch(page, -1) {
		if strings.EqualFold(strings.TrimSpace(m[1]), name) {
			return true
		}
	}
	return false
}
