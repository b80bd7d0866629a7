package typed

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

func wide(s string, big, mark bool) []byte {
	var out []byte
	if mark {
		s = "\ufeff" + s
	}
	for _, u := range utf16.Encode([]rune(s)) {
		if big {
			out = append(out, byte(u>>8), byte(u))
		} else {
			out = append(out, byte(u), byte(u>>8))
		}
	}
	return out
}

func TestPassword(t *testing.T) {
	t.Parallel()
	const want = "Case-1n-hand"
	for name, data := range map[string][]byte{
		"plain": []byte(want), "line end": []byte(want + "\n"), "Windows": []byte(want + "\r\n"), "old Mac": []byte(want + "\r"),
		"two line ends":   []byte(want + "\n\n"),
		"byte order mark": []byte("\ufeff" + want + "\r\n"), "UTF-16LE": wide(want+"\r\n", false, true),
		"UTF-16BE":          wide(want+"\r\n", true, true),
		"UTF-16LE, no mark": wide(want+"\n", false, false), "UTF-16BE, no mark": wide(want, true, false),
		"half a line end": append(wide(want, false, true), '\n'),
	} {
		got, err := Password(data)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		line, err := Line(bufio.NewReaderSize(bytes.NewReader(append(bytes.Clone(data), data...)), 16))
		if twice := strings.Contains(name, "plain") || strings.Contains(name, "old Mac") || strings.Contains(name, "BE, no") ||
			strings.Contains(name, "half"); !twice && (err != nil || line != want) {
			t.Errorf("%s as a line: %q, %v", name, line, err)
		}
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"a blank at the end": {[]byte("secret "), "secret "},
		"UTF-8":              {[]byte("Grün\n"), "Grün"},
		"Windows-1252":       {[]byte("Gr\xfcn \x80\n"), "Grün €"},
		"UTF-16":             {wide("Grün🔑", true, true), "Grün🔑"},
		"nothing":            {[]byte("\r\n"), ""},
	} {
		if got, err := Password(c.data); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestPasswordRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"two lines": {[]byte("secret\nother\n"), "more than one line"}, "a tab": {[]byte("sec\tret"), "U+0009, character 4"},
		"a zero": {[]byte("secret\x00longer and longer"), "U+0000"}, "a mark inside": {[]byte("sec\ufeffret"), "U+FEFF"}, "two marks": {[]byte("\ufeff\ufeffsecret"), "U+FEFF, character 1"},
		"lost letters": {[]byte("Gr\ufffdn"), "U+FFFD"}, "half a pair": {[]byte{0xff, 0xfe, 0x41, 0, 0x3d, 0xd8}, "U+FFFD"},
		"a novel": {bytes.Repeat([]byte("x"), MaxPassword+1), "larger than a password"}, "no encoding": {[]byte("Gr\x81n"), "character 3"},
	} {
		got, err := Password(c.data)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: want %q, got %q, %v", name, c.says, got, err)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data       []byte
		want, from string
	}{
		"UTF-8": {[]byte("a;b\n"), "a;b\n", ""}, "mark": {[]byte("\ufeffa"), "a", ""}, "LE": {wide("uuid\tfqdn\r\n", false, true), "uuid\tfqdn\r\n", "UTF-16LE"},
		"BE without mark": {wide("uuid,ü\r\n", true, false), "uuid,ü\r\n", "UTF-16BE"}, "DER": {[]byte{0x30, 0x82, 0, 4, 0, 1}, "\x30\x82\x00\x04\x00\x01", ""}, "nothing": {nil, "", ""},
	} {
		if got, from := Text(c.data); string(got) != c.want || from != c.from {
			t.Errorf("%s: %q from %q", name, got, from)
		}
	}
}

func FuzzPassword(f *testing.F) {
	f.Add([]byte("secret\r\n"))
	f.Add(wide("secret\n", false, true))
	f.Add([]byte("Gr\xfcn"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Password(data)
		if err != nil {
			return
		}
		if !utf8.ValidString(s) || strings.ContainsAny(s, "\r\n\x00\ufeff") {
			t.Errorf("%q is no password that can be typed", s)
		}
		if again, err := Password([]byte(s)); utf8.RuneCountInString(s) > 1 && len(s) <= MaxPassword && (err != nil || again != s) {
			t.Errorf("%q typed again is %q, %v", s, again, err)
		}
	})
}

// TestPasswordFile: a file means what a person types; what is no password is named
// with the file.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, data := range map[string][]byte{"plain": []byte("Gr\u00fcn 7\n"), "mark": []byte("\ufeffGr\u00fcn 7\r\n"),
		"wide": wide("Gr\u00fcn 7\r\n", false, true), "ansi": []byte("Gr\xfcn 7\r\n")} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := PasswordFile(file); err != nil || got != "Gr\u00fcn 7" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("sec\x00ret and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{dir: "is a directory", filepath.Join(dir, "none"): "no such file",
		bad: "control character (U+0000, character 4)"} {
		if _, err := PasswordFile(name); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
