package doctor

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/cmd/built"
)

// A netLab is a small site in network namespaces of its own: a switch with the
// site's DNS, the server's machine, and room for DHCP servers and devices. It
// ends with the test, by the handles it holds and the names it gave.
//
//	infra  10.77.0.1 resolver (and DHCP), 10.77.0.2 the zone's own DNS server
//	server 10.77.0.10 on eth0
type netLab struct {
	t    *testing.T
	name string
	dir  string
	made []string
	as   []string // what the doctor is run by, to take rights away
}

const (
	labZone     = "corp.example.com"
	labResolver = "10.77.0.1"
	labOwnDNS   = "10.77.0.2"
	labServer   = "10.77.0.10"
)

var labs atomic.Int64

// needs fails with one sentence when the machine lacks something; nothing is skipped.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	packages := map[string]string{"ip": "iproute2", "dnsmasq": "dnsmasq-base", "kea-dhcp4": "kea-dhcp4-server"}
	for _, p := range programs {
		if _, err := lookProgram(p); err != nil {
			t.Fatalf("this test needs %s: apt-get install %s", p, packages[p])
		}
	}
}

func lookProgram(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if p := filepath.Join(dir, name); executable(p) {
			return p, nil
		}
	}
	return exec.LookPath(name)
}

func executable(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode()&0o111 != 0
}

func newNetLab(t *testing.T) *netLab {
	t.Helper()
	needs(t, "ip", "dnsmasq")
	l := &netLab{t: t, name: fmt.Sprintf("pd%dx%d", os.Getpid(), labs.Add(1)), dir: t.TempDir()}
	l.namespace("infra", `link add br0 type bridge
link set lo up
addr add 10.77.0.1/24 dev br0
addr add 10.77.0.2/24 dev br0
link set br0 up`)
	l.join("server", labServer+"/24")
	return l
}

func (l *netLab) ns(role string) string { return l.name + "-" + role }

// namespace makes one and runs ip commands in it.
func (l *netLab) namespace(role, batch string) {
	l.t.Helper()
	l.ip("netns", "add", l.ns(role))
	l.made = append(l.made, role)
	l.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", l.ns(role)).CombinedOutput(); err != nil {
			l.t.Errorf("remove namespace %s: %v: %s", l.ns(role), err, out)
		}
	})
	l.batch(role, batch)
}

func (l *netLab) batch(role, text string) {
	l.t.Helper()
	c := exec.Command("ip", "-n", l.ns(role), "-batch", "-")
	c.Stdin = strings.NewReader(text + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		l.t.Fatalf("ip in %s: %v: %s", role, err, out)
	}
}

func (l *netLab) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// join gives a machine a namespace and a cable to the switch.
func (l *netLab) join(role, address string) {
	l.t.Helper()
	batch := "link set lo up\nlink set eth0 up"
	if address != "" {
		batch += "\naddr add " + address + " dev eth0"
	}
	l.namespace(role, "link set lo up")
	l.batch("infra", fmt.Sprintf("link add to-%s type veth peer name eth0 netns %s\nlink set to-%s master br0\nlink set to-%s up", role,
		l.ns(role), role, role))
	l.batch(role, batch)
}

// command runs a program inside a machine.
func (l *netLab) command(role, program string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", l.ns(role), program}, args...)...)
}

// start runs a program until the test ends and waits for a line of its output.
func (l *netLab) start(role, ready, program string, env []string, args ...string) {
	l.t.Helper()
	path, err := lookProgram(program)
	if err != nil {
		path = program
	}
	c := l.command(role, path, args...)
	c.Env = append(os.Environ(), env...)
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	c.Stdout, c.Stderr = w, w
	if err := c.Start(); err != nil {
		l.t.Fatalf("start %s: %v", program, err)
	}
	_ = w.Close()
	up := make(chan bool, 1)
	var mu sync.Mutex
	var log strings.Builder
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			mu.Lock()
			log.WriteString(lines.Text() + "\n")
			mu.Unlock()
			if strings.Contains(lines.Text(), ready) {
				select {
				case up <- true:
				default:
				}
			}
		}
		close(up)
	}()
	l.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		<-done
		_ = r.Close()
		if l.t.Failed() {
			l.t.Logf("%s in %s said:\n%s", program, role, tailOf(log.String(), 4000))
		}
	})
	select {
	case ok := <-up:
		if ok {
			return
		}
	case <-time.After(2 * time.Minute):
	}
	mu.Lock()
	defer mu.Unlock()
	l.t.Fatalf("%s did not come up:\n%s", program, tailOf(log.String(), 4000))
}

func tailOf(s string, n int) string { return s[max(0, len(s)-n):] }

var dnsmasqCommon = []string{"--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=",
	"--bind-interfaces", "--user=root", "--log-facility=-", "--no-ping"}

func dnsmasq(listen string, more ...string) []string {
	return append(append(append([]string{}, dnsmasqCommon...), "--listen-address="+listen), more...)
}

// zoneServer is the zone's own DNS server.
func (l *netLab) zoneServer(records ...string) {
	l.t.Helper()
	l.start("infra", "started, version", "dnsmasq", nil,
		dnsmasq(labOwnDNS, append(records, nsRecord(), "--host-record=ns."+labZone+","+labOwnDNS, "--local-ttl=300",
			"--local=/"+labZone+"/")...)...)
}

// resolver is what the site's machines ask; it may serve DHCP too.
func (l *netLab) resolver(more ...string) {
	l.t.Helper()
	l.start("infra", "started, version", "dnsmasq", nil,
		dnsmasq(labResolver, append(more, "--server="+labOwnDNS, "--dhcp-leasefile="+filepath.Join(l.dir, "leases"))...)...)
}

// nsRecord says that ns.<zone> serves the zone; dnsmasq has no word for it.
func nsRecord() string {
	var b []byte
	for label := range strings.SplitSeq("ns."+labZone, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return "--dns-rr=" + labZone + ",2," + hex.EncodeToString(append(b, 0))
}

// kea is an ISC Kea DHCPv4 server on a machine of its own at 10.77.0.3.
func (l *netLab) kea(options string) {
	l.t.Helper()
	needs(l.t, "kea-dhcp4")
	l.join("kea", "10.77.0.3/24")
	dir := l.t.TempDir()
	file := filepath.Join(dir, "kea.json")
	text := `{"Dhcp4": {"interfaces-config": {"interfaces": ["eth0"]}, "lease-database": {"type": "memfile", "persist": false},
		"valid-lifetime": 3600, "subnet4": [{"id": 1, "subnet": "10.77.0.0/24", "pools": [{"pool": "10.77.0.160 - 10.77.0.180"}],
		"option-data": [{"name": "domain-name-servers", "data": "` + labResolver + `"}` + options + `]}],
		"loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}]}}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.start("kea", "DHCP4_STARTED", "kea-dhcp4", []string{"KEA_PIDFILE_DIR=" + dir, "KEA_LOCKFILE_DIR=" + dir, "KEA_DHCP_DATA_DIR=" + dir},
		"-c", file)
}

func TestMain(m *testing.M) {
	if os.Getenv("DOCTOR_TEST_DEVICE") != "" {
		os.Exit(bootDevice())
	}
	os.Exit(m.Run())
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := built.Program(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// labCertificate is a certificate for the lab's zone in a file, with its root.
var labCertificate = sync.OnceValue(func() certtest.Leaf {
	return certtest.NewLab(time.Now()).Plain("Lab", "provisionserver."+labZone)
})

func labRoots() []amt.TrustHash {
	chain := labCertificate().Chain()
	return amt.HashesOf(chain[len(chain)-1].Raw)
}

// configure writes the server's configuration.
func (l *netLab) configure(more string) string {
	l.t.Helper()
	for name, data := range map[string][]byte{
		"amt.pfx": labCertificate().PFX(certtest.Modern, "secret"), "amt.password": []byte("secret"),
	} {
		if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	if !strings.Contains(more, "hello:") {
		more += "\nhello: {listen: \"0.0.0.0:9971\"}"
	}
	text := fmt.Sprintf(`data_dir: %[1]s/data
zones: [%[2]s]
provisioning:
  certificates: [{pfx: %[1]s/amt.pfx, password_file: %[1]s/amt.password}]
  networks: [10.77.0.0/24]
  admission: open
doctor: {resolvers: [%[3]s], dhcp_interface: eth0}
%[4]s`, l.dir, labZone, labResolver, more)
	file := filepath.Join(l.dir, "provisiond.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return file
}

// doctor runs the real program on the server's machine.
func (l *netLab) doctor(config string, args ...string) (Report, int) {
	l.t.Helper()
	line := append(append(append([]string{}, l.as...), program(l.t, "provisiond"), "doctor", "--config", config, "--json"), args...)
	c := l.command("server", line[0], line[1:]...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	start := time.Now()
	err := c.Run()
	if took := time.Since(start); took > 60*time.Second {
		l.t.Errorf("the doctor took %v", took)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	return decodeReport(l.t, &stdout, stderr.String()), c.ProcessState.ExitCode()
}

// decodeReport refuses everything that is not exactly the promised shape.
func decodeReport(t *testing.T, r io.Reader, stderr string) Report {
	t.Helper()
	var out Report
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		t.Fatalf("the doctor's JSON: %v\n%s", err, stderr)
	}
	return out
}

func checkOf(t *testing.T, r Report, name string) Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %s in %+v", name, r)
	return Check{}
}

// want compares one check with what the world is like.
func want(t *testing.T, c Check, s Status, detail, hint []string) {
	t.Helper()
	if c.Status != s {
		t.Errorf("%s: %s, want %s", c.Name, c.Status, s)
	}
	for _, w := range detail {
		if !strings.Contains(c.Detail, w) {
			t.Errorf("%s: the detail lacks %q", c.Name, w)
		}
	}
	for _, w := range hint {
		if !strings.Contains(c.Hint, w) {
			t.Errorf("%s: the hint lacks %q", c.Name, w)
		}
	}
	if t.Failed() {
		t.Logf("%s %s\n%s\n-> %s", c.Status, c.Name, c.Detail, c.Hint)
	}
}
