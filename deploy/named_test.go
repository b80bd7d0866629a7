package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheTestsNamedInTheManualExist: the threat table and the figures stand on
// them.
func TestTheTestsNamedInTheManualExist(t *testing.T) {
	t.Parallel()
	manual := read(t, "README.md") + read(t, "FIGURES.md")
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			there[m[1]] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`").FindAllStringSubmatch(manual, -1)
	if len(named) < 50 {
		t.Errorf("the manual names %d tests only", len(named))
	}
	for _, m := range named {
		if !there[m[1]] {
			t.Errorf("the manual names %s, and there is no such test", m[1])
		}
	}
}
