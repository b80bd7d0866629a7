package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestTextsToPaste gives what the manual says to type into a DNS or DHCP server
// to those servers that are free. The doctor prints the same texts; its own test
// holds the two together. Not tried, since they cannot be had here: Windows DNS
// and DHCP, Cisco IOS, MikroTik, and ISC dhcpd and unbound, whose one line each
// is in their own manuals.
func TestTextsToPaste(t *testing.T) {
	t.Parallel()
	manual := read(t, "README.md")
	row := func(server string) string {
		t.Helper()
		m := regexp.MustCompile("(?m)^\\| " + regexp.QuoteMeta(server) + " +\\| `([^`]+)`").FindStringSubmatch(manual)
		if m == nil {
			t.Fatalf("the manual has no row for %s", server)
		}
		return m[1]
	}
	block := func(after string) string {
		t.Helper()
		_, rest, ok := strings.Cut(manual, after)
		if !ok {
			t.Fatalf("the manual has no %q", after)
		}
		_, rest, _ = strings.Cut(rest, "```")
		_, rest, _ = strings.Cut(rest, "\n")
		text, _, _ := strings.Cut(rest, "```")
		return text
	}
	for _, c := range []struct {
		name, tool, debian, file, text string
		args                           []string
		spoil                          string // a part of the text without which the server must complain, or say less
	}{
		{"BIND", "/usr/bin/named-checkzone", "bind9-utils", "zone", "$TTL 300\n@ IN SOA ns hostmaster 1 3600 600 86400 300\n@ IN NS ns\nns IN A 192.0.2.1\n" + row("BIND, in the zone") + "\n",
			[]string{"-D", "corp.example.com", "FILE"}, "192.0.2.10"},
		{"dnsmasq, DNS", "/usr/sbin/dnsmasq", "dnsmasq-base", "conf", row("dnsmasq") + "\n", []string{"--test", "--conf-file=FILE"}, "host-record"},
		{"dnsmasq, DHCP", "/usr/sbin/dnsmasq", "dnsmasq-base", "conf", "dhcp-range=10.20.0.10,10.20.0.20\n" + block("\ndnsmasq:\n"), []string{"--test", "--conf-file=FILE"}, "dhcp-option"},
		{"Kea", "/usr/sbin/kea-dhcp4", "kea-dhcp4-server", "conf",
			`{"Dhcp4": {"interfaces-config": {"interfaces": []}, "lease-database": {"type": "memfile", "persist": false}, "subnet4": [` +
				block("Kea (`kea-dhcp4.conf`):") + `]}}`,
			[]string{"-t", "FILE"}, "domain-name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			try := func(text string) (string, error) {
				file := filepath.Join(t.TempDir(), c.file)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				var args []string
				for _, a := range c.args {
					args = append(args, strings.ReplaceAll(a, "FILE", file))
				}
				out, err := exec.Command(c.tool, args...).CombinedOutput()
				return string(out), err
			}
			if _, err := os.Stat(c.tool); err != nil {
				t.Fatalf("%s is missing: apt-get install %s", c.tool, c.debian)
			}
			out, err := try(c.text)
			if err != nil {
				t.Errorf("%v: %s\n%s", err, c.text, out)
			}
			if c.name == "BIND" && !regexp.MustCompile(`(?m)^provisionserver\.corp\.example\.com\.\s+300\s+IN\s+A\s+192\.0\.2\.10$`).MatchString(out) {
				t.Errorf("the zone says\n%s", out)
			}
			if out, err := try(strings.Replace(c.text, c.spoil, "no-such-word", 1)); err == nil {
				t.Errorf("the server takes nonsense as well:\n%s", out)
			}
		})
	}
}
