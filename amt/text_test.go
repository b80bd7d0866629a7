package amt_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt"
)

// TestStrangersWords: what is quoted is short, ends on a whole letter and steers no terminal.
func TestStrangersWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                       "plain",
		"\x1b[2Jred\r\n":              ".[2Jred..",
		"name\u202egnp.exe":           "name.gnp.exe",
		strings.Repeat("ü", 100):      strings.Repeat("ü", 60) + "…",
		"a" + strings.Repeat("ü", 70): "a" + strings.Repeat("ü", 59) + "…",
		"\xff\xfe":                    "..",
	} {
		if got := amt.Clip(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	if got := amt.Called("uuid", "") + amt.Called(" uuid", "pc\u202e7"); got != "uuid uuid (pc.7)" {
		t.Error(got)
	}
	if got := amt.Text(netip.Addr{}) + amt.Text(netip.AddrPort{}) + amt.Text(netip.MustParseAddr("::1")); got != "::1" {
		t.Error(got)
	}
}
