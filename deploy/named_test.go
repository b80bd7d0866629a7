package deploy_test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTheTestsNamedInTheManualExist: the threat table, the figures and the
// invariants stand on them.
func TestTheTestsNamedInTheManualExist(t *testing.T) {
	t.Parallel()
	there, pages := map[string]bool{}, map[string]string{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch {
		case strings.HasSuffix(path, "_test.go"):
			for _, m := range declared.FindAllStringSubmatch(read(t, path), -1) {
				there[m[1]] = true
			}
		case strings.HasSuffix(path, ".md"):
			pages[path] = read(t, path)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	mention, count := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`"), 0
	for path, text := range pages {
		for _, m := range mention.FindAllStringSubmatch(text, -1) {
			if count++; !there[m[1]] {
				t.Errorf("%s names %s, and there is no such test", path, m[1])
			}
		}
	}
	if count < 80 {
		t.Errorf("the pages name %d tests only", count)
	}
}
