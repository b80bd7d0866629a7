package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// topLevel is what stands at the top of the repository. A directory gets a place
// here only when no other holds what it is about.
var topLevel = []string{
	".ci", ".dockerignore", ".github", ".gitignore", ".golangci.yml", "CHANGELOG.md", "Dockerfile", "LICENSE", "Makefile", "README.md",
	"go.mod", "go.sum",
	"amt", "certs", "cmd", "deploy", "migrations", "server", "store",
}

const largestFile = 1 << 20

// programStarts are the first bytes of what a compiler leaves behind.
var programStarts = []string{"\x7fELF", "MZ", "\xcf\xfa\xed\xfe", "\xca\xfe\xba\xbe", "!<arch>", "\x00asm"}

// TestTheTreeHoldsSourcesOnly refuses what a build or a person left in the
// repository by mistake: programs, large or binary files, strange names at the top.
func TestTheTreeHoldsSourcesOnly(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	files := treeFiles(t, root)
	if len(files) < 500 {
		t.Fatalf("only %d files were found", len(files))
	}
	for _, name := range files {
		if top, _, _ := strings.Cut(name, "/"); !slices.Contains(topLevel, top) {
			t.Errorf("%s: nothing of the name %s belongs at the top; if it does, name it in topLevel", name, top)
			continue
		}
		data, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // taken away and not committed yet
		}
		if err != nil {
			t.Error(err)
			continue
		}
		for _, fault := range fileFaults(name, data) {
			t.Errorf("%s: %s", name, fault)
		}
	}
}

func fileFaults(name string, data []byte) (faults []string) {
	recorded := strings.Contains(name, "/testdata/")
	picture := slices.Contains([]string{".png", ".ico", ".webp", ".woff2"}, path.Ext(name))
	for _, start := range programStarts {
		if bytes.HasPrefix(data, []byte(start)) && !recorded {
			faults = append(faults, "it is a program or a library: a build makes it, so the repository does not hold it")
			return faults
		}
	}
	if len(data) > largestFile {
		faults = append(faults, "it is larger than a megabyte")
	}
	if bytes.IndexByte(data, 0) >= 0 && !recorded && !picture {
		faults = append(faults, "it is binary; recordings for tests belong in testdata")
	}
	return faults
}

// treeFiles are the files that a commit would hold.
func treeFiles(t *testing.T, root string) (files []string) {
	t.Helper()
	_, history := os.Stat(filepath.Join(root, ".git"))
	if _, err := exec.LookPath("git"); err == nil && history == nil {
		out, err := exec.Command("git", "-C", root, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
			"--exclude-standard").Output()
		if err != nil {
			t.Fatalf("git ls-files: %v", err)
		}
		return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	}
	// An unpacked archive: every file, but not what builds leave where .gitignore allows it.
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if d.IsDir() && (rel == "bin" || rel == "dist" || rel == ".git") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestFilesThatDoNotBelong holds that the test above sees what it is for.
func TestFilesThatDoNotBelong(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"cmd/provctl/provctl": "\x7fELF\x02\x01\x01", "deploy/tool.exe": "MZ\x90", "store/dump.db": "SQLite format 3\x00",
		"deploy/large.sql": strings.Repeat("x", largestFile+1),
	} {
		if len(fileFaults(name, []byte(data))) != 1 {
			t.Errorf("%s: %v", name, fileFaults(name, []byte(data)))
		}
	}
	for name, data := range map[string]string{"certs/testdata/a.pfx": "\x30\x00", "deploy/console.png": "\x89PNG\x00",
		"README.md": "# A page"} {
		if faults := fileFaults(name, []byte(data)); len(faults) > 0 {
			t.Errorf("%s: %v", name, faults)
		}
	}
}

var (
	literal = regexp.MustCompile("\"(?:\\\\.|[^\"\\\\])*\"|`[^`]*`")
	tagged  = regexp.MustCompile("`[a-z]+:\"")
)

// TestLinesAreReadable holds code to 140 columns. A table, a field's tag and a
// sentence in a literal may be longer.
func TestLinesAreReadable(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	for _, name := range treeFiles(t, root) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		n, inText := 0, false
		for line := range strings.Lines(string(text)) {
			n++
			table := inText // of words, within one long literal
			inText = inText != (strings.Count(line, "`")%2 == 1)
			if len(line) <= 141 || table || tagged.MatchString(line) || strings.HasPrefix(strings.TrimSpace(line), "{") ||
				len(literal.ReplaceAllString(line, `""`)) <= 141 {
				continue
			}
			t.Errorf("%s:%d: %d columns of code; 140 are the most", name, n, len(line)-1)
		}
	}
}
