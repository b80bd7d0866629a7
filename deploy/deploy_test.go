// Package deploy_test holds the files of this folder against each other and
// against the tools that will read them.
package deploy_test

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func readYAML(t *testing.T, name string, into any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(read(t, name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestUnitIsHardened(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("systemd-analyze is missing: install the Debian package systemd (apt-get install systemd)")
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "security", "--offline=true", "--threshold=20", "--no-pager",
		"systemd/provisiond.service").CombinedOutput()
	if err != nil {
		t.Errorf("the unit is exposed above 2.0: %v\n%s", err, out)
	}
}

// TestUnitsAreUnderstood looks for what systemd would ignore with a warning.
func TestUnitsAreUnderstood(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("systemd-analyze is missing: install the Debian package systemd (apt-get install systemd)")
	}
	if err != nil {
		t.Fatal(err)
	}
	// The binary is not installed here, so the copy names one that is.
	dir := t.TempDir()
	for _, name := range []string{"provisiond.service", "provisiond.socket", "provisiond-api.socket"} {
		text := strings.ReplaceAll(read(t, "systemd/"+name), "/usr/bin/provisiond", "/bin/true")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := exec.Command(tool, "verify", "--man=no", filepath.Join(dir, "provisiond.service"), filepath.Join(dir, "provisiond.socket"),
		filepath.Join(dir, "provisiond-api.socket")).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) {
			t.Error(strings.TrimSpace(line))
		}
	}
}

func TestChartCarriesTheSameRules(t *testing.T) {
	t.Parallel()
	if read(t, "helm/provisiond/files/rules.yml") != read(t, "prometheus/rules.yml") {
		t.Error("the chart's rules are old; run `cp deploy/prometheus/rules.yml deploy/helm/provisiond/files/rules.yml`")
	}
}

func TestPackageContentsExist(t *testing.T) {
	t.Parallel()
	var pkg struct {
		Contents []struct {
			Src, Dst, Type string
		}
		Scripts map[string]string
	}
	readYAML(t, "package/nfpm.yaml", &pkg)
	conffiles := 0
	for _, c := range pkg.Contents {
		if strings.HasPrefix(c.Type, "config") {
			conffiles++
		}
		if c.Src == "" || strings.HasPrefix(c.Src, "bin/") {
			continue
		}
		if found, err := filepath.Glob(filepath.Join("..", c.Src)); err != nil || len(found) == 0 {
			t.Errorf("%s, meant for %s, does not exist", c.Src, c.Dst)
		}
	}
	if conffiles == 0 {
		t.Error("no conffile: an upgrade would overwrite the operator's configuration")
	}
	for when, script := range pkg.Scripts {
		out, err := exec.Command("sh", "-n", filepath.Join("..", script)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %s: %v %s", when, script, err, out)
		}
	}
}

func TestComposeIsWhole(t *testing.T) {
	t.Parallel()
	type service struct {
		Image       string
		Build       map[string]string
		NetworkMode string `yaml:"network_mode"`
		DependsOn   any    `yaml:"depends_on"`
		Volumes     []string
		Ports       []string
		ReadOnly    bool `yaml:"read_only"`
	}
	var tour struct {
		Services map[string]service
		Volumes  map[string]any
	}
	readYAML(t, "compose/compose.yml", &tour)
	for _, name := range []string{"postgres", "provisiond", "fleet", "prometheus", "grafana"} {
		if _, ok := tour.Services[name]; !ok {
			t.Errorf("the tour lacks %s", name)
		}
	}
	for name, s := range tour.Services {
		if s.Image == "" && s.Build == nil {
			t.Errorf("%s has neither image nor build", name)
		}
		if strings.HasSuffix(s.Image, ":latest") || s.Image != "" && !strings.Contains(s.Image, ":") {
			t.Errorf("%s: image %s has no version", name, s.Image)
		}
		for _, v := range s.Volumes {
			from, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(from, ".") {
				if _, err := os.Stat(filepath.Join("compose", from)); err != nil {
					t.Errorf("%s mounts %s: %v", name, from, err)
				}
			} else if _, ok := tour.Volumes[from]; !ok {
				t.Errorf("%s: volume %s is not declared", name, from)
			}
		}
		for _, p := range s.Ports {
			host, err := netip.ParseAddr(strings.SplitN(p, ":", 2)[0])
			if err != nil || !host.IsLoopback() {
				t.Errorf("%s publishes %s beyond this machine", name, p)
			}
		}
	}
	if !tour.Services["provisiond"].ReadOnly {
		t.Error("the server's root is writable")
	}
}

func TestImageRunsAsNobodyInParticular(t *testing.T) {
	t.Parallel()
	text := read(t, "../Dockerfile")
	for _, want := range []string{"\nFROM scratch\n", "\nUSER 65532:65532\n", "CGO_ENABLED=0", "-X main.version=$VERSION",
		`HEALTHCHECK --interval=15s`, `"/usr/bin/provisiond", "health"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the Dockerfile lacks %q", strings.TrimSpace(want))
		}
	}
}

// TestLinksLeadSomewhere: each link of each page leads to a file or a heading that
// is there.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#\s]+)?(#[^)\s]+)?\)`)
	pages := map[string]map[string]bool{} // a page's headings
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		pages[path] = map[string]bool{}
		for line := range strings.Lines(read(t, path)) {
			if strings.HasPrefix(line, "#") {
				pages[path]["#"+anchor(strings.TrimSpace(strings.TrimLeft(line, "#")))] = true
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for page := range pages {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := page
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(page), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			} else if m[2] != "" && !pages[to][m[2]] {
				t.Errorf("%s links to %s%s: no such heading", page, m[1], m[2])
			}
		}
	}
}

// anchor is how a heading's link is spelled.
func anchor(heading string) string {
	var b bytes.Buffer
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TestTourCertificateIsUsable makes the tour's lab and looks at it as the daemon
// will.
func TestTourCertificateIsUsable(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); errors.Is(err, exec.ErrNotFound) {
		t.Fatal("openssl is missing: install the Debian package openssl (apt-get install openssl)")
	}
	lab, err := filepath.Abs("compose/lab.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for range 2 { // the second time it must leave all as it is
		if out, err := exec.Command("/bin/sh", lab, dir, "corp.example.com").CombinedOutput(); err != nil {
			t.Fatalf("lab.sh: %v\n%s", err, out)
		}
	}
	pfx := read(t, filepath.Join(dir, "provisioning.pfx"))
	password := amt.NewSecret(read(t, filepath.Join(dir, "provisioning.password")))
	cert, err := certs.LoadPFX(t.Context(), []byte(pfx), password, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if !cert.Usable() {
		t.Errorf("the tour's certificate is not usable: %v", cert.Findings)
	}
}
