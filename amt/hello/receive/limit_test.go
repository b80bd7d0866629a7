package receive

import (
	"bytes"
	"encoding/binary"
	"github.com/provisiond/provisiond/amt/hello"
	"net/netip"
	"testing"
	"time"
)

func TestBucketHoldsAMinuteAndRefillsEvenly(t *testing.T) {
	t.Parallel()
	b := newBuckets(20, time.Minute, 100)
	a := netip.MustParseAddr("192.0.2.1")
	count := func(now time.Duration) (n int) {
		for b.take(a, now) {
			n++
		}
		return n
	}
	for _, c := range []struct {
		at   time.Duration
		want int
	}{{0, 20}, {time.Second, 0}, {3 * time.Second, 1}, {9 * time.Second, 2}, {time.Hour, 20}} {
		if got := count(c.at); got != c.want {
			t.Errorf("at %v: %d allowed, want %d", c.at, got, c.want)
		}
	}
	b.giveBack(a)
	if got := count(time.Hour); got != 1 {
		t.Errorf("after one was given back: %d allowed", got)
	}
	if off := newBuckets(0, time.Minute, 1); !off.take(a, 0) || !off.take(a, 0) {
		t.Error("0 does not switch the limit off")
	}
}

func TestBucketsAreBounded(t *testing.T) {
	t.Parallel()
	b := newBuckets(2, time.Minute, 100)
	for i := range uint32(100_000) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], i)
		b.take(netip.AddrFrom4(a), time.Duration(i))
		if len(b.cur) > 100 || len(b.old) > 100 {
			t.Fatalf("%d and %d keys after %d sources", len(b.cur), len(b.old), i)
		}
	}
}

func TestBucketSurvivesAFewOtherSources(t *testing.T) {
	t.Parallel()
	b := newBuckets(1, time.Minute, 10)
	loud := netip.MustParseAddr("192.0.2.1")
	if !b.take(loud, 0) {
		t.Fatal("the first is refused")
	}
	for i := range byte(50) { // five generations
		b.take(netip.AddrFrom4([4]byte{10, 0, 0, i}), time.Duration(i))
		if b.take(loud, time.Duration(i)) {
			t.Fatalf("a source that keeps coming was forgotten after %d others", i)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	type say struct {
		from string
		want hello.Result
	}
	for _, c := range []struct {
		name   string
		limits Limits
		says   []say
	}{
		{"each source has its own", Limits{PerSourcePerMinute: 1}, []say{
			{"192.0.2.1", ""}, {"192.0.2.1", hello.RateLimited}, {"192.0.2.2", ""}}},
		{"a /64 is one source", Limits{PerSourcePerMinute: 1}, []say{
			{"2001:db8::1", ""}, {"2001:db8::2", hello.RateLimited}, {"2001:db8:0:1::1", ""}}},
		{"a /24 and a /64 are one network", Limits{PerNetworkPerMinute: 2}, []say{
			{"192.0.2.1", ""}, {"192.0.2.2", ""}, {"192.0.2.3", hello.RateLimited}, {"192.0.3.1", ""},
			{"2001:db8::1", ""}, {"2001:db8::2", ""}, {"2001:db8::3", hello.RateLimited}, {"2001:db8:0:1::1", ""}}},
		{"a loud source costs its neighbours nothing", Limits{PerSourcePerMinute: 1, PerNetworkPerMinute: 2}, []say{
			{"192.0.2.1", ""}, {"192.0.2.1", hello.RateLimited}, {"192.0.2.1", hello.RateLimited}, {"192.0.2.2", ""}}},
		{"the total is over all", Limits{TotalPerSecond: 2}, []say{{"192.0.2.1", ""}, {"2001:db8::1", ""}, {"198.51.100.1", hello.Overload}}},
		{"off", Limits{}, []say{{"192.0.2.1", ""}, {"192.0.2.1", ""}, {"192.0.2.1", ""}}},
	} {
		l := newLimiter(c.limits)
		for i, s := range c.says {
			if got, _ := l.take(netip.MustParseAddr(s.from), time.Second); got != s.want {
				t.Errorf("%s: hello %d from %s: %q, want %q", c.name, i+1, s.from, got, s.want)
			}
		}
	}
}

func TestRefusalsAreSampled(t *testing.T) {
	t.Parallel()
	s := newSampler()
	a := netip.MustParseAddr("192.0.2.1")
	if ok, _, _ := s.take(a, 0); !ok {
		t.Fatal("the first refusal is not logged")
	}
	for range 5 {
		if ok, _, _ := s.take(a, time.Second); ok {
			t.Fatal("a second line within the minute")
		}
	}
	if ok, left, _ := s.take(a, time.Minute+time.Second); !ok || left != 5 {
		t.Errorf("after a minute: %v, %d left out, want 5", ok, left)
	}
	if ok, _, _ := s.take(netip.MustParseAddr("2001:db8::1"), 90*time.Second); !ok {
		t.Error("another source is not logged")
	}
	if ok, _, _ := s.take(netip.MustParseAddr("2001:db8::2"), 90*time.Second); ok {
		t.Error("a /64 gets more than one line")
	}
	lines := 0
	for i := range uint32(50_000) {
		var from [4]byte
		binary.BigEndian.PutUint32(from[:], i)
		if ok, _, _ := s.take(netip.AddrFrom4(from), 2*time.Minute); ok {
			lines++
		}
	}
	if lines > samplesMinute || len(s.cur)+len(s.old) > 2*maxSampled {
		t.Errorf("a flood from 50,000 sources wrote %d lines and remembers %d sources", lines, len(s.cur)+len(s.old))
	}
}

// proxyHeader builds a header with body behind the fixed part.
func proxyHeader(command, family byte, body ...byte) []byte {
	b := append([]byte(proxySignature), command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

var (
	proxyTCP4 = []byte{192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x26, 0xf3}
	proxyTCP6 = append(append(netip.MustParseAddr("2001:db8::7").AsSlice(), netip.MustParseAddr("2001:db8::1").AsSlice()...), 0x30, 0x39,
		0x26, 0xf3)
	proxyMap6 = append(append(netip.MustParseAddr("::ffff:192.0.2.7").AsSlice(), netip.MustParseAddr("::ffff:198.51.100.1").AsSlice()...),
		0x30, 0x39, 0x26, 0xf3)
)

func TestProxyHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		in          []byte
		from, local string
		wrongAt     int // 0: right
	}{
		{"IPv4", proxyHeader(0x21, 0x11, proxyTCP4...), "192.0.2.7:12345", "198.51.100.1:9971", 0},
		{"IPv6", proxyHeader(0x21, 0x21, proxyTCP6...), "[2001:db8::7]:12345", "[2001:db8::1]:9971", 0},
		{"IPv4 written as IPv6", proxyHeader(0x21, 0x21, proxyMap6...), "192.0.2.7:12345", "198.51.100.1:9971", 0},
		{"extensions behind the addresses", proxyHeader(0x21, 0x11, append(bytes.Clone(proxyTCP4), 4, 0, 1, 0)...), "192.0.2.7:12345", "198.51.100.1:9971", 0},
		{"LOCAL", proxyHeader(0x20, 0x00), "", "", 0},
		{"LOCAL with addresses to be ignored", proxyHeader(0x20, 0x11, proxyTCP4...), "", "", 0},
		{"unspecified family", proxyHeader(0x21, 0x00), "", "", 0},
		{"UDP", proxyHeader(0x21, 0x12, proxyTCP4...), "", "", 13},
		{"Unix socket", proxyHeader(0x21, 0x31, make([]byte, 216)...), "", "", 13},
		{"version 1 number", proxyHeader(0x11, 0x11, proxyTCP4...), "", "", 12},
		{"unknown command", proxyHeader(0x22, 0x11, proxyTCP4...), "", "", 12},
		{"too short for its addresses", proxyHeader(0x21, 0x21, proxyTCP4...), "", "", 14},
		{"too long", proxyHeader(0x21, 0x11, make([]byte, 2000)...), "", "", 14},
		{"another signature", append([]byte("\r\n\r\n\x00\r\nQUIX\n"), 0x21, 0x11, 0, 0), "", "", 10},
	} {
		n, err := proxyLen(c.in)
		var p proxied
		if err == nil {
			if n != len(c.in) {
				t.Errorf("%s: length %d, want %d", c.name, n, len(c.in))
				continue
			}
			p, err = parseProxy(c.in)
		}
		if c.wrongAt != 0 {
			if err == nil || err.Offset != c.wrongAt {
				t.Errorf("%s: %v, want an error at byte %d", c.name, err, c.wrongAt)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var want proxied
		if c.from != "" {
			want = proxied{netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.local)}
		}
		if p != want {
			t.Errorf("%s: %v, want %v", c.name, p, want)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add(proxyHeader(0x21, 0x11, proxyTCP4...))
	f.Add(proxyHeader(0x21, 0x21, proxyTCP6...))
	f.Add(proxyHeader(0x20, 0))
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		last := 0
		for i := range len(b) + 1 { // as bytes come in, the answer never shrinks
			n, err := proxyLen(b[:i])
			if err != nil {
				if err.Offset > i {
					t.Fatalf("error at byte %d of %d", err.Offset, i)
				}
				return
			}
			if n < last || n > proxyHeadLen+maxProxyLen {
				t.Fatalf("length %d after %d", n, last)
			}
			last = n
			if n <= i {
				p, err := parseProxy(b[:n])
				if err == nil && p.from.IsValid() != p.local.IsValid() {
					t.Fatalf("half an answer: %v", p)
				}
				return
			}
		}
	})
}
