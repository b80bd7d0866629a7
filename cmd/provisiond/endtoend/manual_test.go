package endtoend

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
)

// A trial is how a command of the manuals is tried.
type trial struct {
	doc    string // as it stands there, without the folder bin/
	as     string // what is run: doc with its example names replaced; "" is doc itself
	status []int  // how it may end; empty is 0
	says   string // what it must print
}

// trials are run in this order, by a shell, beside a daemon that has set three
// devices up. Words in capitals are replaced by what the laboratory has.
var trials = []trial{
	{doc: "provisiond config check --config /etc/provisiond/provisiond.yaml", says: "the configuration is good"},
	{doc: "provisiond config check --config provisiond.yaml", says: "the configuration is good"},
	{doc: "provisiond config check", as: "provisiond config check --config provisiond.yaml"},
	{doc: "provisiond config keys", says: "data_dir"},
	{doc: "provisiond doctor --config /etc/provisiond/provisiond.yaml", status: []int{0, 1, 2}, says: "certificates"},
	{doc: "provisiond doctor --config /etc/provisiond/provisiond.yaml --json", status: []int{0, 1, 2}, says: `"checks"`},
	{doc: "provisiond doctor --config provisiond.yaml", status: []int{0, 1, 2}, says: "dhcp"},
	{doc: "provisiond doctor", as: "provisiond doctor --config provisiond.yaml", status: []int{0, 1, 2}},
	{doc: "provisiond doctor --interface eth0", as: "provisiond doctor --config provisiond.yaml --interface lo", status: []int{0, 1, 2}, says: "dhcp:lo"},
	{doc: "provisiond health --config /etc/provisiond/provisiond.yaml", as: "provisiond health --config provisiond.yaml", says: "ok"},
	{doc: "provisiond migrate --config FILE", as: "provisiond migrate --config fresh.yaml", says: "schema"},
	{doc: "provctl doctor --run", status: []int{0, 1, 2}, says: "certificates"},
	{doc: "provctl doctor", status: []int{0, 1, 2}, says: "certificates"},
	{doc: "provctl status", says: "provisioned"},
	{doc: "provctl device list", says: "provisioned"},
	{doc: "provctl --address https://amt.corp.example.com:8443 --token-file FILE device list", as: "provctl --token-file TOKEN device list", says: "provisioned"},
	{doc: "provctl device why UUID", says: "under management"},
	{doc: "provctl device why DEVICE", as: "provctl device why NAME", says: "under management"},
	{doc: "provctl device why", as: "provctl device why UUID", says: "under management"},
	{doc: "provctl device show DEVICE", as: "provctl device show NAME", says: "provisioned"},
	{doc: "provctl device trust", as: "provctl device trust --help", says: "--fingerprint"},
	{doc: "provctl device trust DEVICE --fingerprint SHA256", as: "provctl device trust TRUSTED --fingerprint $(printf x | sha256sum | cut -c1-64)", says: "TRUSTED"},
	{doc: "provctl device why 10.20.3.7", status: []int{0, 5}, says: "10.20.3.7"},
	{doc: "provctl device why 10.20.3.4", status: []int{0, 5}, says: "10.20.3.4"},
	{doc: "provctl device approve UUID", as: "provctl device approve WAITING"},
	{doc: "provctl device quarantine", as: "provctl device quarantine WAITING", says: "quarantine"},
	{doc: "provctl device release", as: "provctl device release WAITING"},
	{doc: "provctl device reject UUID", as: "provctl device quarantine WAITING && provctl device restore WAITING && provctl device reject WAITING", says: "turned away"},
	{doc: "provctl job start release reason:rejected", as: "provctl job start release reason:rejected --dry-run", says: "devices  1"},
	{doc: "provctl job start reject QUERY", as: "provctl job start reject state:pending_approval --dry-run", says: "dry run"},
	{doc: "provctl job start clear-failures net:10.20.0.0/16", as: "provctl job start clear-failures net:10.20.0.0/16 --dry-run", says: "dry run"},
	{doc: "provctl job start retry --all", as: "provctl job start retry --all --dry-run", says: "dry run"},
	{doc: "provctl hello list pc-24", as: "provctl hello list UUID", says: "RETRY"},
	{doc: "provctl hello show pc-24", as: "provctl hello show UUID", says: "3 (PKI)"},
	{doc: "provctl hello export pc-24 --out hello.bin", as: "provctl hello export UUID --out hello.bin", says: "written to hello.bin"},
	{doc: "provctl hello decode hello.bin", says: "the bytes themselves"},
	{doc: "provctl hello decode FILE", as: "provctl hello decode hello.bin", says: "taken for"},
	{doc: "provctl event tail", as: "timeout 5 provctl event tail --after 0", status: []int{0, 124}, says: "verified"},
	{doc: `provctl secret reveal pc-24 --kind admin --reason "ticket 4711"`, as: `provctl secret reveal NAME --kind admin --reason "ticket 4711"`},
	{doc: `provctl secret reveal UUID --kind admin --reason "recovery drill"`},
	{doc: "provctl secret reveal UUID --kind admin --reason …", as: "provctl secret reveal UUID --kind admin --reason back"},
	{doc: "provctl secret reveal DEVICE --kind user:helpdesk --reason …", as: "provctl secret reveal NAME --kind user:helpdesk --reason why", status: []int{5},
		says: "no user:helpdesk password"},
	{doc: "provctl secret reveal", as: "provctl secret reveal UUID --kind mebx --reason why"},
	{doc: "provctl secret rotate UUID"},
	{doc: "provctl secret master set DOMAIN", as: "echo 'Ma5ter!Password' | provctl secret master set corp.example.com"},
	{doc: "provctl device import FILE", as: "provctl device import assets.csv"},
	{doc: "provctl device adopt UUID --password-file FILE", as: "provctl device adopt UUID --password-file adopt.password", status: []int{0, 1}},
	{doc: "provctl device address UUID ADDRESS", as: "provctl device address WAITING 127.91.7.7", says: "is called at 127.91.7.7 from now on"},
	{doc: "provctl device retry UUID", status: []int{1}, says: "under management already"},
	{doc: "provctl profile apply FILE", as: "provctl profile apply profile.yaml"},
	{doc: "provctl profile apply FILE --dry-run", as: "provctl profile apply profile.yaml --dry-run", says: "nothing would change"},
	{doc: "provctl profile history desk", says: "token:first-admin"},
	{doc: "provctl profile diff desk", status: []int{1}, says: "has one version only"},
	{doc: "provctl profile rollback desk --to 1", says: "profile desk: version 1"},
	{doc: "provctl profile rollback", as: "provctl profile rollback desk --to 1 --dry-run", says: "nothing would change"},
	{doc: "provctl maintain DEVICE --due", as: "provctl maintain NAME --due"},
	{doc: "provctl maintain DEVICE --task settings", as: "provctl maintain TRUSTED --task settings"},
	{doc: "provctl job list", as: "provctl job start maintain --all --yes --at 2h && provctl job list", says: "maintain"},
	{doc: "provctl job show ID", as: "provctl job show 1", says: "maintain"},
	{doc: "provctl job show", as: "provctl job show 1", says: "maintain"},
	{doc: "provctl job resume ID", as: "provctl job resume 1", status: []int{1}, says: "was not stopped"},
	{doc: "provctl job abort ID", as: "provctl job abort 1", says: "aborted"},
	{doc: "provctl job abort", as: "provctl job start maintain --all --yes --at 2h && provctl job abort 2", says: "aborted"},
	{doc: `provctl console-certificate issue --name console.corp.example.com --for "the help desk" --key console.key --out console.pem`, says: "console.corp.example.com"},
	{doc: "provctl console-certificate list", says: "the help desk"},
	{doc: "provctl console-certificate revoke ID", as: "provctl console-certificate revoke 1", says: "revoked"},
	{doc: "provctl device-ca export --out device-ca.pem", says: "sha256"},
	{doc: "provctl unprovision", as: "provctl unprovision --help", says: "partial"},
	{doc: "provctl rule test UUID"},
	{doc: "provctl user add alice --role operator,secret-reader", says: "added"},
	{doc: "provctl token create --user alice --name alice-laptop --role operator --out alice.token", says: "alice-laptop"},
	{doc: "provctl token revoke", as: "provctl token revoke 2", says: "revoked"},
	{doc: "provctl user disable alice", says: "disabled"},
	{doc: "provctl user role", as: "provctl user role alice --role viewer", says: "viewer"},
	{doc: "provctl audit list --actor alice --since 7d"},
	{doc: "provctl audit export --out FILE", as: "provctl audit export --out audit.json"},
	{doc: "provctl audit verify --against FILE", as: "provctl audit verify --against audit.json"},
	{doc: "provctl audit verify --checkpoint RECORD:HASH", as: `provctl audit verify --checkpoint $(provctl audit checkpoint | awk '$1 == "record" {r = $2} $1 == "hash" {print r ":" $2}')`},
	{doc: "provisiond rows check", as: "provisiond rows check --config provisiond.yaml", says: "every row that grants something is signed"},
	{doc: "provisiond rows sign --reason …", as: "provisiond rows sign --config provisiond.yaml --reason drill"},
	{doc: "provctl cert list", says: "provisionserver.corp.example.com"},
	{doc: "provctl cert advise", says: "oot"},
	{doc: "provctl cert request --cn provisionserver.corp.example.com --out request.pem", says: "written to request.pem"},
	{doc: "vendor", as: "./vendor request.pem"}, // the CA's part, no command of the manual
	{doc: "provctl cert import answer.crt bundle.crt", says: "certificate "},
	{doc: "provctl cert import amt.pfx", as: "provctl cert import amt.pfx --password-file amt.password --activate", says: "certificate"},
	{doc: "provctl cert import FILE", as: "provctl cert import --dry-run answer.crt bundle.crt", status: []int{0, 1}},
	{doc: "provctl cert import FILE...", as: "provctl cert import --dry-run answer.crt bundle.crt", status: []int{0, 1}},
	{doc: "provctl cert import", as: "provctl cert import --dry-run answer.crt", status: []int{0, 1}},
	{doc: "provctl cert import what-came.zip", as: "provctl cert import --dry-run what-came.zip", says: "certificate"},
	{doc: "provctl cert import amt.key amt.crt chain.p7b", as: "openssl crl2pkcs7 -nocrl -certfile certs.pem -out chain.p7b && provctl cert import --dry-run amt.key amt.crt chain.p7b", says: "certificate"},
	{doc: "provctl cert import key.p12 certs.pem", as: "openssl pkcs12 -export -nocerts -inkey amt.key -out key.p12 -passout file:amt.password && provctl cert import --dry-run --password-file amt.password key.p12 certs.pem", says: "certificate"},
	{doc: "provctl cert import amt.p12", as: "provctl cert import --dry-run --password-file amt.password amt.p12", says: "certificate"},
	{doc: "provctl cert show ID", says: "provctl cert renew"},
	{doc: "provctl cert check ID --amt 11.8 --suffix corp.example.com", as: "provctl cert check ID --amt 11.8 --suffix corp.example.com --root-added", says: "ACCEPT"},
	{doc: "provctl cert activate ID", status: []int{0, 1}},
	{doc: "provctl cert backup", as: "provctl cert backup list"},
	{doc: "provctl cert request --suggest", as: "provctl cert request --suggest --suffix branch.example.com", says: "provctl cert request --cn"},
	{doc: "provctl cert request --suggest --suffix corp.example.com", says: "provisionserver.corp.example.com"},
	{doc: "provctl cert import --aia FILE...", as: "provctl cert import --aia --dry-run answer.crt bundle.crt", status: []int{0, 1}},
	{doc: "provctl cert backup verify", as: "provctl cert backup verify ID", says: "opens and holds the key"},
	{doc: "provctl cert backup list", says: "ID"},
	{doc: "provctl cert backup export ID --out amt-backup.p12", says: "amt-backup.p12"},
	{doc: "provctl cert backup confirm ID", says: "kept elsewhere"},
	{doc: "provctl cert backup verify ID --file amt-backup.p12", says: "opens and holds the key"},
	{doc: "provctl cert backup restore amt-backup.p12", says: "ID"},
	{doc: "provctl cert backup create ID", says: "shown this once"},
	{doc: "provctl cert backup create", as: "provctl cert backup create ID --split 2", says: "Any two"},
	{doc: "provctl root create", says: "oot"},
	{doc: "provctl root issue --cn provisionserver.corp.local", says: "provisionserver.corp.local"},
	{doc: "provctl root setup-bin --out setup.bin --suffix corp.local --server ADDRESS",
		as: "provctl root setup-bin --out setup.bin --suffix corp.local --server 192.0.2.10 --current-password-file mebx.now " +
			"--new-password-file mebx.new"},
	{doc: "provctl root setup-bin", as: "provctl root setup-bin --help"},
	{doc: "provctl cert renew ID --dry-run", says: "nothing was changed"},
	{doc: "provctl cert renew ID", says: "is to follow"},
	{doc: "provctl cert pending", says: "RENEWS"},
	{doc: "provctl cert replace OLD NEW", as: "provctl cert replace ID NEW", says: "nothing was changed"},
	{doc: "provctl cert replace OLD NEW --overlap --yes", as: "provctl cert replace ID NEW --overlap --force --yes"},
	{doc: "provctl cert remove OLD", as: "provctl cert remove ID --force"},
	{doc: "provctl cert restore ID"},
	{doc: "provctl cert advise --from ROOT --to ROOT"},
	{doc: "provisiond backup create --config /etc/provisiond/provisiond.yaml --out amt.backup",
		as: "provisiond backup create --config provisiond.yaml --out amt.backup --passphrase-file phrase", says: "verified"},
	{doc: "provisiond backup verify amt.backup", as: "provisiond backup verify amt.backup --passphrase-file phrase"},
	{doc: "provisiond backup restore amt.backup --config /etc/provisiond/provisiond.yaml", as: "provisiond backup restore amt.backup --config elsewhere.yaml --passphrase-file phrase"},
	{doc: "provisiond backup restore amt.backup --config drill.yaml", as: "provisiond backup restore amt.backup --config drill.yaml --passphrase-file phrase"},
	{doc: "provisiond backup restore", as: "provisiond backup restore --help", says: "passphrase"},
	{doc: "provisiond doctor --from-client", says: "http://provisionserver.corp.example.com:9971/probe"},
	{doc: "provisiond doctor --config drill.yaml", status: []int{0, 1, 2}, says: "master_key"},
	{doc: "provisiond support-bundle --config FILE --out bundle.zip --log FILE", as: "provisiond support-bundle --config provisiond.yaml --out bundle.zip --log daemon.log"},
	{doc: "provisiond support-bundle", as: "provisiond support-bundle --config provisiond.yaml --out bundle3.zip"},
	{doc: "provctl job start unprovision tag:sold --mode decommission --dry-run"},
	{doc: "provctl unprovision UUID --mode decommission", as: "provctl unprovision UUID --mode decommission --confirm UUID"},
	{doc: "provisiond selftest --config /etc/provisiond/provisiond.yaml", as: "provisiond selftest --config provisiond.yaml", says: "and read back"},
	{doc: "provctl cert check", as: "provctl cert check --help"},
	{doc: "provisiond demo", as: "provisiond demo --exit"},
}

// notHere are commands of the manuals that this test does not run, by how they
// begin, each with its reason.
var notHere = map[string]string{
	"provisiond serve ": "the daemon beside which all this is run was started so",
	"make ":             "the targets are what runs this test; make packages and make soak are runs of their own",
	"go test ":          "a figure; that the test it names exists is looked up below",
	"apt-get install ":  "make packages installs the .deb in a fresh Debian",
	"dnf install ":      "there is no Fedora here; make packages installs the .rpm with rpm in a fresh Debian",
	"systemctl ":        "needs a running systemd; systemd-analyze verifies the units (deploy)",
	"install -m ":       "copies a file",
	"editor ":           "a person types",
	"docker ": "needs a container engine and a registry; make packages builds the Dockerfile with buildah and runs what " +
		"the image holds",
	"kubectl ":               "needs a cluster",
	"helm install ":          "needs a cluster; make packages lints and renders the chart",
	"nslookup ":              "TestProvisionServerInDNS asks a real dnsmasq what this asks",
	"update add ":            "needs a server that takes updates",
	"/ip ":                   "needs a MikroTik",
	"Add-DnsServerResource":  "needs Windows",
	"Set-DhcpServerv4Option": "needs Windows",
	"Get-DhcpServerv4Option": "needs Windows",
	"systemd-creds ":         "needs a machine's own credential secret",
}

var (
	fenced   = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")
	inline   = regexp.MustCompile("`([^`\n]+)`")
	aCommand = regexp.MustCompile(`^(bin/)?(provisiond|provctl|amtsim|make|go|apt-get|dnf|systemctl|systemd-creds|install|editor|docker|kubectl|helm|nslookup|cert|update add|/ip|[A-Z][a-z]+-D[a-z]+Server\w+)( |$)`)
	remark   = regexp.MustCompile(`\s+# .*`)
	spaces   = regexp.MustCompile(`\s+`)
)

// commandsOf finds what a manual tells its reader to type.
func commandsOf(text string) (out []string) {
	add := func(line string) {
		line = strings.TrimSpace(spaces.ReplaceAllString(remark.ReplaceAllString(line, ""), " "))
		line = strings.TrimPrefix(line, "bin/")
		if strings.HasPrefix(line, "cert ") {
			line = "provctl " + line
		}
		if aCommand.MatchString(line) && strings.Contains(line, " ") && !strings.Contains(line, "(daemon)") && !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	for _, block := range fenced.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[2], "\\\n", " ")) {
			add(line)
		}
	}
	for _, m := range inline.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		add(m[1])
	}
	return out
}

// TestBoxManual runs every command of the manuals, or says why not.
func TestBoxManual(t *testing.T) {
	t.Parallel()
	var documented []string
	for _, file := range []string{"../../../README.md", "../../../deploy/README.md", "../../../deploy/FIGURES.md"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commandsOf(string(b)) {
			if !slices.Contains(documented, c) {
				documented = append(documented, c)
			}
		}
	}
	if len(documented) < 60 {
		t.Fatalf("only %d commands were found", len(documented))
	}
	tried := map[string]bool{}
	for _, x := range trials {
		tried[x.doc] = true
	}
	for _, c := range documented {
		away := ""
		for start, why := range notHere {
			if strings.HasPrefix(c, start) || c == strings.TrimSpace(start) {
				away = why
			}
		}
		if strings.HasPrefix(c, "go test ") {
			namesATest(t, c)
		}
		switch {
		case !tried[c] && away == "":
			t.Errorf("%q stands in the manual, and nobody tries it", c)
		case !tried[c]:
			t.Logf("not run: %s: %s", c, away)
		}
	}

	m := newManualLab(t)
	for _, x := range trials {
		if x.doc != "vendor" && !slices.Contains(documented, x.doc) {
			t.Errorf("%q is tried and stands in no manual", x.doc)
			continue
		}
		m.try(x)
	}
}

var (
	testPackage = regexp.MustCompile(` \./([a-z/]+)`)
	testName    = regexp.MustCompile(`(?:Test|Bench)[A-Za-z]*|-bench [A-Z]\w*`)
)

// namesATest holds the command of a figure against the tests there are.
func namesATest(t *testing.T, command string) {
	t.Helper()
	pkg := testPackage.FindStringSubmatch(command)
	if pkg == nil {
		t.Errorf("%s: which package?", command)
		return
	}
	files, _ := filepath.Glob("../../../" + pkg[1] + "/*_test.go")
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	for _, name := range testName.FindAllString(command, -1) {
		if rest, bench := strings.CutPrefix(name, "-bench "); bench {
			name = "Benchmark" + rest
		}
		if !strings.Contains(all.String(), "func "+name) {
			t.Errorf("%s: %s has no %s", command, pkg[1], name)
		}
	}
}

type manualLab struct {
	t     *testing.T
	dir   string
	words map[string]string // what stands for a word of the manual
	env   []string
}

func newManualLab(t *testing.T) *manualLab {
	s := newSite(t, "")
	s.configure("zones: [corp.example.com]\ndoctor: {resolvers: [127.0.0.1]}\n")
	d := s.serve(nil)
	h := s.herd()
	devices := h.mixed(t, 3)
	h.live(time.Second, one(d.hello), devices...)
	d.managed(3, time.Minute)

	m := &manualLab{t: t, dir: t.TempDir(), words: map[string]string{
		"UUID": devices[0].UUID().String(), "TOKEN": d.token, "WAITING": devices[1].UUID().String(),
		"NAME": "amt-" + devices[0].UUID().String()[:8], "TRUSTED": devices[2].UUID().String(),
		"ROOT": fmt.Sprintf("sha256:%x", sha256.Sum256(s.leaf.Issuers[len(s.leaf.Issuers)-1].Raw)),
	}}
	for name, bin := range map[string]string{"provisiond": program(t, box.daemon), "provctl": program(t, box.provctl)} {
		if err := os.Symlink(bin, filepath.Join(m.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(strings.ReplaceAll(string(text), "listen: \"127.0.0.1:0\"\n  limits",
		"listen: \""+d.hello+"\"\n  limits"),
		`api: {listen: "127.0.0.1:0"`, `api: {listen: "`+d.api+`"`))
	other := func(dir string) []byte {
		return []byte(strings.ReplaceAll(string(text), s.dir+"/data", m.dir+"/"+dir))
	}
	lab := certtest.NewLab(time.Now())
	pfx := lab.Plain("Other", "provisionserver.corp.example.com")
	for name, data := range map[string][]byte{
		"provisiond.yaml": text, "drill.yaml": other("drill"), "elsewhere.yaml": other("elsewhere"), "fresh.yaml": other("fresh"),
		"amt.pfx": pfx.PFX(certtest.Modern, "secret"), "amt.p12": pfx.PFX(certtest.Modern, "secret"), "amt.password": []byte("secret\n"),
		"amt.key": certtest.KeyPEM(pfx.Key), "amt.crt": certtest.PEM(pfx.Cert), "certs.pem": certtest.PEM(pfx.Chain()...),
		"phrase": []byte("correct horse battery staple\n"), "daemon.log": []byte(d.errs.String()),
		"adopt.password": []byte("P@ssw0rd-of-SCS\n"), "mebx.now": []byte("admin\n"), "mebx.new": []byte("Mebx!Passw0rd\n"),
		"assets.csv":   []byte("uuid,fqdn\n11223344-5566-7788-99aa-bbccddeeff00,pc7.corp.example.com\n"),
		"profile.yaml": []byte("name: desk\n"),
	} {
		if err := os.WriteFile(filepath.Join(m.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.env = append(cleanEnv(), "PATH="+m.dir+":"+os.Getenv("PATH"), "PROVISIOND_ADDRESS=http://"+d.api, "PROVISIOND_TOKEN_FILE="+d.token)
	return m
}

// try runs one command as a shell would and remembers the ids it prints.
func (m *manualLab) try(x trial) {
	m.t.Helper()
	if x.doc == "vendor" {
		certificate, bundle := certtest.NewLab(time.Now()).Vendor().Answer([]byte(readFile(m.t, filepath.Join(m.dir, "request.pem"))))
		for name, data := range map[string][]byte{"answer.crt": certificate, "bundle.crt": bundle} {
			if err := os.WriteFile(filepath.Join(m.dir, name), data, 0o600); err != nil {
				m.t.Fatal(err)
			}
		}
		m.zip("what-came.zip", "answer.crt", "bundle.crt")
		return
	}
	line := x.as
	if line == "" {
		line = x.doc
	}
	line = strings.ReplaceAll(line, "/etc/provisiond/", "./")
	for _, word := range slices.Sorted(maps.Keys(m.words)) {
		line = regexp.MustCompile(`\b`+word+`\b`).ReplaceAllString(line, m.words[word])
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), patience*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	c.Dir, c.Env = m.dir, m.env
	out, err := c.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("%s: %v", line, err)
	}
	said, status := string(out), c.ProcessState.ExitCode()
	if len(x.status) == 0 {
		x.status = []int{0}
	}
	if !slices.Contains(x.status, status) {
		m.t.Errorf("%s\nended with status %d, want one of %v:\n%s", line, status, x.status, tail(said, 1500))
	}
	if !strings.Contains(said, m.replaced(x.says)) {
		m.t.Errorf("%s\ndoes not say %q:\n%s", line, x.says, tail(said, 1500))
	}
	if p := backupPhrase.FindString(said); p != "" && m.words["ID"] == "" {
		m.env = append(m.env, "PROVISIOND_BACKUP_PASSPHRASE="+p)
	}
	if found := madeCertificate.FindStringSubmatch(said); found != nil {
		switch {
		case strings.HasPrefix(x.doc, "provctl cert import") && m.words["ID"] == "":
			m.words["ID"] = found[1]
		case strings.HasPrefix(x.doc, "provctl root issue"):
			m.words["NEW"] = found[1]
		}
	}
}

// zip packs files as a CA sends them.
func (m *manualLab) zip(name string, files ...string) {
	m.t.Helper()
	var packed bytes.Buffer
	z := zip.NewWriter(&packed)
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(m.dir, file))
		if err != nil {
			m.t.Fatal(err)
		}
		w, err := z.Create(file)
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.dir, name), packed.Bytes(), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *manualLab) replaced(s string) string {
	if id := m.words[s]; id != "" {
		return id
	}
	return s
}

var (
	madeCertificate = regexp.MustCompile(`certificate ([0-9a-f]{16})\b`)
	backupPhrase    = regexp.MustCompile(`\b([A-Z2-9]{5}-){4}[A-Z2-9]{5}\b`)
)
