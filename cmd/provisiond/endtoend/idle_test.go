package endtoend

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// TestBoxFewDescriptors: the daemon may open 400 files, and strangers open 900
// connections to its API and as many to the hello port, which stay open and idle. A
// device is set up, an operator is answered, and the log and the doctor say that the
// limit is too small.
func TestBoxFewDescriptors(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	bin := s.file("few", fmt.Appendf(nil, "#!/bin/sh\nulimit -n 400\nexec %s \"$@\"\n", program(t, s.bin)))
	if err := os.Chmod(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	d := s.launch(bin, []string{"PROVISIOND_PROVISIONING_WORKERS=32"})
	d.ready()
	if m := d.line("descriptors.few", time.Minute); !strings.Contains(fmt.Sprint(m["detail"]), "may open 400 files") {
		t.Errorf("the log says %v", m)
	}
	idle := func(server string, network byte) {
		to, err := net.ResolveTCPAddr("tcp", server)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 900 {
			from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 87, network, byte(1 + i%200)}), 0))
			c, err := net.DialTCP("tcp", from, to)
			if err != nil {
				t.Fatalf("the %d. connection: %v", i, err)
			}
			t.Cleanup(func() { _ = c.Close() })
			if network == 1 {
				_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			}
		}
	}
	idle(d.api, 1)
	idle(d.hello, 2)
	h := s.herd()
	h.live(5*time.Second, one(d.hello), h.mixed(t, 2)...)
	d.managed(2, 3*time.Minute)
	if n := d.metric("process_open_fds"); n > 395 {
		t.Errorf("%v descriptors are open", n)
	}
	for _, checks := range []string{first(d.provctl("doctor", "--run", "--json")),
		first(command(t, program(t, s.bin), nil, "doctor", "--config", s.cfg, "--api-listen", d.api, "--json"))} {
		if !strings.Contains(checks, "this process may open 400 files") {
			t.Errorf("the doctor says %s", checks)
		}
	}
	d.stop()
}

func first(a, _ string, _ int) string { return a }
