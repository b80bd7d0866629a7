package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPasswordFilesMeanWhatIsTyped: a file and standard input are read alike.
func TestPasswordFilesMeanWhatIsTyped(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ data, want string }{
		"a mark":       {"\ufeffCase-1n-hand\r\n", "Case-1n-hand"},
		"UTF-16":       {"\xff\xfeG\x00r\x00\xfc\x00n\x00\r\x00\n\x00", "Grün"},
		"Windows-1252": {"Gr\xfcn\r\n", "Grün"},
		"plain":        {"secret", "secret"},
	} {
		file := filepath.Join(t.TempDir(), "pass")
		if err := os.WriteFile(file, []byte(c.data), 0o600); err != nil {
			t.Fatal(err)
		}
		p := &program{in: strings.NewReader(c.data)}
		got, err := p.passwordsFrom([]string{file, "-"}, "")
		if err != nil || len(got) != 2 || got[0] != c.want || got[1] != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	file := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(file, []byte("sec\x07ret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, "-"} {
		p := &program{in: strings.NewReader("sec\x07ret")}
		if _, err := p.passwordsFrom([]string{name}, ""); err == nil || !strings.Contains(err.Error(), "control character") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
