package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// apiFrom opens a connection to the API from an address of this machine.
func (l *lab) apiFrom(a netip.Addr) net.Conn {
	l.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)), Timeout: patience}
	c, err := d.DialContext(l.t.Context(), "tcp", l.s.APIAddr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// asks sends one request on a connection that stays open, and gives the status.
func (l *lab) asks(c net.Conn, path, token string) int {
	l.t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", path, token); err != nil {
		l.t.Fatalf("GET %s: %v", path, err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		l.t.Fatalf("GET %s: %v", path, err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// TestIdleStrangersAtTheAPI: one machine, then a whole network, opens far more
// keep-alive connections than there are places and says nothing more. The hello
// port, a new user and one who is logged in do not notice.
func TestIdleStrangersAtTheAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite, func(o *Options) { o.APIConnections, o.APIPerSource = 48, 16 })
	user := l.apiFrom(netip.MustParseAddr("127.86.0.1"))
	if s := l.asks(user, "/api/v1/whoami", l.api.Token); s != 200 {
		t.Fatalf("a good token: %d", s)
	}
	one := netip.MustParseAddr("127.86.1.1")
	flood := func(from func(i int) netip.Addr, n int) {
		for i := range n {
			c := l.apiFrom(from(i))
			switch i % 3 {
			case 0: // not a word
			case 1: // a question that needs no token, and then nothing
				if s := l.asks(c, "/healthz", ""); s != 200 {
					t.Fatalf("the %d. connection: %d", i, s)
				}
			case 2: // half a request
				_, _ = io.WriteString(c, "POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ntok")
			}
		}
	}
	flood(func(int) netip.Addr { return one }, 200)
	if n := l.metric("provisiond_api_connections"); n > 18 { // one more may be on its way out
		t.Errorf("one source has %v connections", n)
	}
	flood(func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 86, 2, byte(1 + i%250)}) }, 400)
	if !waitFor(t, func() bool { return l.metric("provisiond_api_connections") <= 48 }) {
		t.Errorf("%v connections are open", l.metric("provisiond_api_connections"))
	}
	if n := l.metric("provisiond_api_connections_refused_total"); n < 400 {
		t.Errorf("%v made room", n)
	}
	if s := l.asks(l.apiFrom(netip.MustParseAddr("127.86.0.2")), "/api/v1/whoami", l.api.Token); s != 200 {
		t.Errorf("a new user behind them: %d", s)
	}
	d := l.device(sim.Faults{})
	l.says(d)
	l.untilState(d.UUID(), store.Provisioned)

	// Who is busy keeps its place, whatever comes.
	stream := l.apiFrom(netip.MustParseAddr("127.86.0.3"))
	_, _ = fmt.Fprintf(stream, "GET /api/v1/events/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", l.api.Token)
	in := bufio.NewReader(stream)
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != 200 {
		t.Fatalf("the stream: %v", err)
	}
	flood(func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 86, 3, byte(1 + i%250)}) }, 100)
	d = l.device(sim.Faults{})
	l.says(d)
	if _, err := in.ReadString('\n'); err != nil {
		t.Errorf("the stream: %v", err)
	}
}

// TestAStrangersConnectionIsCut when its time is over, wherever it stands; one
// that brought a token is not.
func TestAStrangersConnectionIsCut(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite, nil)
	silent, asked := l.apiFrom(netip.MustParseAddr("127.86.4.1")), l.apiFrom(netip.MustParseAddr("127.86.4.2"))
	known := l.apiFrom(netip.MustParseAddr("127.86.4.3"))
	l.asks(known, "/api/v1/whoami", l.api.Token)
	if s := l.asks(asked, "/api/v1/whoami", "pvd_guessed"); s != 401 {
		t.Errorf("a wrong token: %d", s)
	}
	for _, c := range []net.Conn{silent, asked} {
		if n, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("%d bytes, %v: it was not closed", n, err)
		}
	}
	if s := l.asks(known, "/api/v1/whoami", l.api.Token); s != 200 {
		t.Errorf("a connection that brought a token: %d", s)
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// TestDescriptorsAreShared: whatever the process may open, each port has
// something of it, all together no more than there is, and what is missing is said.
func TestDescriptorsAreShared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit                      uint64
		hello, api, workers, wantH int
		wantA                      int
		complains                  bool
	}{
		{0, 4096, 512, 256, 4096, 512, false},
		{65536, 4096, 512, 256, 4096, 512, false},
		{1 << 62, 4096, 512, 256, 4096, 512, false},
		{4976, 4096, 512, 256, 4096, 512, false},
		{4975, 4096, 512, 256, 4095, 512, true},
		{4096, 4096, 512, 256, 3216, 512, true},
		{1024, 4096, 512, 256, 492, 164, true},
		{65536, 0, 0, 256, 48876, 16292, false},
		{64, 4096, 512, 256, leastHello, leastAPI, true},
	} {
		d := shareDescriptors(c.limit, c.hello, c.api, c.workers, 16)
		if d.hello != c.wantH || d.api != c.wantA || (d.complaint != "") != c.complains {
			t.Errorf("%d descriptors, %d and %d wanted: %+v, want %d and %d", c.limit, c.hello, c.api, d, c.wantH, c.wantA)
		}
	}
}
