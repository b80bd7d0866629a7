package receive_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

func TestFirmwareHello(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		in := listen(t, receive.Config{}, address, nil)
		if address == "[::]:0" { // an IPv4 device on a dual-stack socket is IPv4
			in.addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), in.addr.Port())
		}
		b := capture(t, "2")
		in.say(b)
		h := in.next()
		if !bytes.Equal(h.Raw, b) || h.Via != hello.ViaPlain || h.Peer != "" || len(h.Hashes) != 24 || h.Address.IsValid() {
			t.Errorf("%s: got %+v", address, h)
		}
		if h.From.Addr() != in.addr.Addr() || h.Local != in.addr || time.Since(h.At) > patience {
			t.Errorf("%s: from %v to %v at %v", address, h.From, h.Local, h.At)
		}
		in.stop()
		if in.received(hello.Accepted) != 1 || in.metric("provisiond_hello_persist_duration_seconds") != 1 ||
			in.metric("provisiond_hello_last_timestamp_seconds") == 0 {
			t.Errorf("%s: the metrics do not show it", address)
		}
	}
}

func TestSplitHello(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{}, "127.0.0.1:0", nil)
	b := capture(t, "3")
	single := make([][]byte, len(b))
	for i := range b {
		single[i] = b[i : i+1]
	}
	for _, segments := range [][][]byte{{b[:1], b[1:]}, {b[:24], b[24:]}, {b[:500], b[500:]}, {b[:840], b[840:]}, single} {
		in.say(segments...)
		if h := in.next(); !bytes.Equal(h.Raw, b) {
			t.Errorf("%d segments: got %d bytes", len(segments), len(h.Raw))
		}
	}
}

func TestTrailingBytesAreKeptAndLogged(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// All has arrived before the server looks, in several segments, and more
	// than one read holds.
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tail := bytes.Repeat([]byte{0xee}, 3000)
	for _, b := range [][]byte{capture(t, "1"), tail[:1], tail[1:2000], tail[2000:]} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	in := serve(t, receive.Config{}, l, nil)
	if h := in.next(); !bytes.Equal(h.Trailing, tail) || len(h.Hashes) != 23 {
		t.Errorf("got %d trailing bytes, want %d", len(h.Trailing), len(tail))
	}
	in.stop()
	if log := in.logged(); !strings.Contains(log, "eeeeee") {
		t.Errorf("the log does not show them:\n%s", log)
	}
}

func TestNoiseIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, log string }{
		{"HTTP", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP request"},
		{"HTTP post", "POST /v1/hello HTTP/1.1\r\n\r\n", "HTTP request"},
		{"SSH", "SSH-2.0-OpenSSH_9.9\r\n", "SSH client"},
		{"TLS without a client CA", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no client CA"},
		{"PROXY from a stranger", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", "not a configured balancer"},
		{"PROXY version 1", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "version 1"},
		{"random", "\xa7\x00\x91\x04\x55", "not a hello"},
		{"an escape for the terminal", "\x1b[2J\nfake log line", "not a hello"},
		{"broken hash length", string(pki(1, 2, 20)), "hash 1 length"},
		{"unknown version", "\x01\x00\x09\x00" + strings.Repeat("\x07", 20), "hello_version_unsupported"},
	} {
		in := listen(t, receive.Config{}, "127.0.0.1:0", nil)
		in.say([]byte(c.in))
		in.stop()
		if got := in.received(hello.Malformed); got != 1 {
			t.Errorf("%s: %v counted as malformed", c.name, got)
		}
		if log := in.logged(); !strings.Contains(log, c.log) || strings.Contains(log, "fake log") {
			t.Errorf("%s: the log does not say %q:\n%s", c.name, c.log, log)
		}
	}
}

func TestConnectionThatOnlyOpensIsNoHello(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{}, "127.0.0.1:0", nil)
	c := in.dial().(*net.TCPConn)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	in.closes(c)
	in.stop()
	if n := in.received(hello.Malformed); n != 0 {
		t.Errorf("%v counted as malformed", n)
	}
}

func TestTruncatedHelloIsCounted(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{}, "127.0.0.1:0", nil)
	c := in.dial().(*net.TCPConn)
	_, _ = c.Write(capture(t, "1")[:100])
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	in.closes(c)
	in.stop()
	if in.received(hello.Malformed) != 1 || !strings.Contains(in.logged(), "byte 100, hash 3 of 23") {
		t.Errorf("log:\n%s", in.logged())
	}
}

func TestHandlerDecidesTheResult(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func() (hello.Result, error)
		want hello.Result
		log  string
	}{
		{"duplicate", func() (hello.Result, error) { return hello.Duplicate, nil }, hello.Duplicate, ""},
		{"network", func() (hello.Result, error) { return hello.DeniedNetwork, nil }, hello.DeniedNetwork, "refused by policy"},
		{"device", func() (hello.Result, error) { return hello.DeniedDevice, nil }, hello.DeniedDevice, "refused by policy"},
		{"store down", func() (hello.Result, error) { return "", errors.New("disk full") }, hello.StoreError, "disk full"},
		{"an error beside a result", func() (hello.Result, error) { return hello.Accepted, errors.New("disk full") }, hello.StoreError, "disk full"},
		{"nonsense", func() (hello.Result, error) { return "fine", nil }, hello.StoreError, "no result"},
		{"a panic", func() (hello.Result, error) { panic("oops") }, hello.StoreError, "panicked"},
	} {
		in := listen(t, receive.Config{}, "127.0.0.1:0", func(context.Context, hello.Hello) (hello.Result, error) { return c.do() })
		in.say(psk())
		in.stop()
		if in.received(c.want) != 1 || !strings.Contains(in.logged(), c.log) {
			t.Errorf("%s: not counted as %s, or not logged:\n%s", c.name, c.want, in.logged())
		}
	}
}

func TestSocketStaysOpenUntilTheHandlerIsDone(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	in := listen(t, receive.Config{}, "127.0.0.1:0", func(context.Context, hello.Hello) (hello.Result, error) {
		<-release
		return hello.Accepted, nil
	})
	c := in.dial()
	_, _ = c.Write(psk())
	in.next()
	if n := in.metric("provisiond_hello_connections"); n != 1 {
		t.Errorf("%v connections while the handler works", n)
	}
	close(release)
	in.closes(c)
}

func TestPlainHellosCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{PlainOff: true}, "127.0.0.1:0", nil)
	in.say(capture(t, "1"))
	in.stop()
	if in.received(hello.DeniedDevice) != 1 || len(in.heard) != 0 ||
		!strings.Contains(in.logged(), "939b524b-13d4-1d18-e487-1c697a6b7a2b") {
		t.Errorf("log:\n%s", in.logged())
	}
}

func TestBalancer(t *testing.T) {
	t.Parallel()
	sig := "\r\n\r\n\x00\r\nQUIT\n"
	header := sig + "\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x30\x39\x26\xf3"
	cfg := receive.Config{ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Limits: receive.Limits{PerSourcePerMinute: 2}}

	in := listen(t, cfg, "127.0.0.1:0", nil)
	began := time.Now()
	b := capture(t, "1")
	in.say([]byte(header), b)
	h := in.next()
	if h.From.String() != "192.0.2.7:12345" || h.Local.String() != "198.51.100.1:9971" || !bytes.Equal(h.Raw, b) {
		t.Errorf("from %v to %v, %d bytes", h.From, h.Local, len(h.Raw))
	}
	all := append([]byte(header), b...) // byte by byte
	c := in.dial()
	for i := range all {
		if _, err := c.Write(all[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	in.closes(c)
	if h := in.next(); h.From.String() != "192.0.2.7:12345" {
		t.Errorf("byte by byte: from %v", h.From)
	}
	in.say(all) // the device's own limit
	// It refills by one in half a minute.
	var more float64
	if n := len(in.heard); n > 0 && time.Since(began) > 25*time.Second {
		in.next()
		more = 1
	}
	in.say(append([]byte(sig+"\x20\x00\x00\x00"), b...))
	if h := in.next(); h.From.Addr().String() != "127.0.0.1" {
		t.Errorf("LOCAL: from %v", h.From)
	}
	in.say(b) // no header
	in.say([]byte(sig + "\x21\x12\x00\x0c" + strings.Repeat("\x01", 12)))
	in.stop()
	for r, want := range map[hello.Result]float64{hello.Accepted: 3 + more, hello.RateLimited: 1 - more, hello.Malformed: 2} {
		if got := in.received(r); got != want {
			t.Errorf("%s: %v, want %v", r, got, want)
		}
	}
}

func TestShutdownIsPromptAndWaitsForHandlers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	in := listen(t, receive.Config{}, "127.0.0.1:0", func(context.Context, hello.Hello) (hello.Result, error) {
		<-release
		return hello.Accepted, nil
	})
	idle, half, whole := in.dial(), in.dial(), in.dial()
	_, _ = half.Write(psk()[:20])
	_, _ = whole.Write(psk())
	in.next()

	short, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.server.Shutdown(short) }()
	in.closes(idle)
	in.closes(half)
	select {
	case err := <-done:
		t.Errorf("shut down while a handler was at work: %v", err)
	default:
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	cancel()
	in.stop()
	if in.received(hello.Accepted) != 1 || in.received(hello.Malformed) != 0 {
		t.Errorf("%v accepted, %v malformed", in.received(hello.Accepted), in.received(hello.Malformed))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := in.server.Serve(l); !errors.Is(err, receive.ErrServerClosed) {
		t.Errorf("Serve after the end: %v", err)
	}
}

func TestShutdownLosesPatience(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{}, "127.0.0.1:0", func(ctx context.Context, _ hello.Hello) (hello.Result, error) {
		<-ctx.Done()
		return "", ctx.Err()
	})
	c := in.dial()
	_, _ = c.Write(psk())
	in.next()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := in.server.Shutdown(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	in.closes(c)
	in.stop() // now without a handler in the way
	if n := in.received(hello.StoreError); n != 1 {
		t.Errorf("%v counted as store_error", n)
	}
}

func TestServeReturnsWhenTheListenerFails(t *testing.T) {
	t.Parallel()
	s := receive.NewServer(receive.Config{}, &desk{}, nil, nil)
	l := brokenListener{}
	if err := s.Serve(l); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

type brokenListener struct{}

func (brokenListener) Accept() (net.Conn, error) { return nil, io.ErrClosedPipe }
func (brokenListener) Close() error              { return nil }
func (brokenListener) Addr() net.Addr            { return &net.TCPAddr{} }

// capture is a hello as a machine sent it.
func capture(t testing.TB, n string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "testdata", "capture-"+n+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pki is a version 3 header with n as the number of hashes, and body behind it.
func pki(n byte, body ...byte) []byte {
	b := []byte{1, 0, 3, 0, 7, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0, n}
	return append(b, body...)
}

// psk is a version 2 hello.
func psk() []byte {
	b := pki(0)[:24]
	b[2] = 2
	return append(b, "4444-444"[:8]...)
}
