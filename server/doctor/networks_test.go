package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFromClient types what the doctor prints on a machine of a device network:
// with a real DNS server and the real daemon it answers, and without either it
// does not.
func TestFromClient(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                string
		record, daemon      bool
		resolves, connected bool
	}{
		{name: "all is well", record: true, daemon: true, resolves: true, connected: true},
		{name: "no record", daemon: true},
		{name: "nobody listens", record: true, resolves: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newNetLab(t)
			if c.record {
				l.zoneServer(ourRecord)
			} else {
				l.zoneServer()
			}
			l.resolver()
			config := l.configure("")
			if c.daemon {
				l.start("server", "server.ready", program(t, "provisiond"), nil, "serve", "--config", config)
			}
			l.join("client", "10.77.0.50/24")
			out, err := l.command("server", program(t, "provisiond"), "doctor", "--config", config, "--from-client").Output()
			if err != nil {
				t.Fatal(err)
			}
			_, linux, ok := strings.Cut(string(out), "Linux:\n")
			linux, _, _ = strings.Cut(linux, "in a browser")
			if !ok {
				t.Fatalf("nothing for Linux in %s", out)
			}
			resolv, script := filepath.Join(l.dir, "resolv.conf"), filepath.Join(l.dir, "script")
			for file, text := range map[string]string{resolv: "nameserver " + labResolver + "\n",
				script: "mount --bind " + resolv + " /etc/resolv.conf\n" + linux} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			said, _ := l.command("client", "unshare", "--mount", "sh", script).CombinedOutput()
			if got := strings.Contains(string(said), labServer); got != c.resolves {
				t.Errorf("the name resolves: %v, want %v: %s", got, c.resolves, said)
			}
			if got := strings.Contains(string(said), "you come from 10.77.0.50:"); got != c.connected {
				t.Errorf("the port answers: %v, want %v: %s", got, c.connected, said)
			}
		})
	}
}
