package receive_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

// dialFrom connects from an address of this machine.
func (in *intake) dialFrom(a netip.Addr) net.Conn {
	in.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))}
	c, err := d.DialContext(in.Context(), "tcp", in.addr.String())
	if err != nil {
		in.Fatal(err)
	}
	in.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		in.Fatal(err)
	}
	return c
}

// said sends one hello and waits until the server has closed.
func (in *intake) said(from netip.Addr, u amt.UUID) {
	in.Helper()
	c := in.dialFrom(from)
	m := hello.Message{Version: hello.VersionPKI, UUID: u}
	_, _ = c.Write(m.Encode()) // fails where the server has closed already
	_, _ = c.Read(make([]byte, 1))
	_ = c.Close()
}

func anyUUID() (u amt.UUID) {
	_, _ = rand.Read(u[:])
	return u
}

// TestOpeningAndClosingCostsNobodyAnything: 107 addresses of a /24 open and close
// connections, far more of them than the network may say hellos. Its devices are
// heard, whoever they are.
func TestOpeningAndClosingCostsNobodyAnything(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{Limits: receive.Limits{PerSourcePerMinute: 3, PerNetworkPerMinute: 40}}, "127.0.0.1:0", nil)
	for range 5 {
		for i := range byte(107) {
			_ = in.dialFrom(netip.AddrFrom4([4]byte{127, 9, 1, 1 + i})).Close()
		}
	}
	for i := range byte(20) {
		in.said(netip.AddrFrom4([4]byte{127, 9, 1, 1 + 10*i}), anyUUID())
	}
	in.stop()
	if a, r := in.received(hello.Accepted), in.received(hello.RateLimited)+in.received(hello.Overload); a != 20 || r != 0 {
		t.Errorf("%v of 20 devices were heard, %v refused", a, r)
	}
}

// TestKnownDevicesHaveAReserve: strangers use up all limits there are, with hellos
// of their own and with those of devices we know. A device that is known is heard,
// at an address of its own, and nobody else is.
func TestKnownDevicesHaveAReserve(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]receive.Limits{
		"network": {PerSourcePerMinute: 20, PerNetworkPerMinute: 64}, "total": {PerSourcePerMinute: 20, TotalPerSecond: 20}, "both": {PerNetworkPerMinute: 64, TotalPerSecond: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours := map[amt.UUID]bool{}
			for range 12 {
				ours[anyUUID()] = true
			}
			cfg := receive.Config{Limits: limits, Known: func(_ context.Context, u amt.UUID, _ netip.Addr) bool { return ours[u] }}
			in := listen(t, cfg, "127.0.0.1:0", nil)
			network := map[string]byte{"network": 2, "total": 3, "both": 4}[name]
			stolen := func() (u amt.UUID) {
				for u = range ours {
					break
				}
				return u
			}
			for range 3 {
				for i := range byte(107) {
					in.said(netip.AddrFrom4([4]byte{127, 9, network, 1 + i}), anyUUID())
				}
			}
			for range 6 {
				in.said(netip.AddrFrom4([4]byte{127, 9, network, 1}), stolen()) // one address's share is soon spent
			}
			before := in.received(hello.Accepted)
			heard := 0.0
			i := byte(200)
			for u := range ours {
				in.said(netip.AddrFrom4([4]byte{127, 9, network, i}), u)
				heard, i = heard+1, i+1
			}
			in.stop()
			if got := in.received(hello.Accepted) - before; got != heard {
				t.Errorf("%v of %v known devices were heard", got, heard)
			}
			if over := in.received(hello.RateLimited) + in.received(hello.Overload); over < 40 {
				t.Errorf("%v were refused: the limits are not used up", over)
			}
		})
	}
}

// TestTheSilentMakeRoom: whoever holds all places and says nothing loses them to
// whoever comes, the one that was there longest first.
func TestTheSilentMakeRoom(t *testing.T) {
	t.Parallel()
	const most = 32
	in := listen(t, receive.Config{Limits: receive.Limits{Connections: most}}, "127.0.0.1:0", nil)
	b := capture(t, "1")
	begun := []net.Conn{in.dial()} // it has begun to speak, so it stays
	begin := func() {
		if _, err := begun[len(begun)-1].Write(b[:30]); err != nil {
			t.Fatal(err)
		}
	}
	begin()
	silent := make([]net.Conn, most-1)
	for i := range silent {
		silent[i] = in.dial()
	}
	for range most / 2 {
		begun = append(begun, in.dial())
		begin()
	}
	for _, c := range silent[:most/2] {
		in.closes(c)
	}
	for _, c := range begun {
		if _, err := c.Write(b[30:]); err != nil {
			t.Fatal(err)
		}
		in.closes(c)
	}
	late := silent[most-2] // it takes its time, and nobody wanted its place
	if _, err := late.Write(b); err != nil {
		t.Fatal(err)
	}
	in.closes(late)
	in.stop()
	if n := in.received(hello.Accepted); n != most/2+2 {
		t.Errorf("%v accepted, want %d", n, most/2+2)
	}
	// No hello was lost by it, which overload would say.
	if n, lost := in.received(hello.Malformed), in.received(hello.Overload); n != most/2 || lost != 0 {
		t.Errorf("%v made room, want %d; %v hellos were lost", n, most/2, lost)
	}
}

// TestStrangersShutNoAgentOut: what strangers say, from the agent's own network
// and from its own address, costs an authenticated peer nothing.
func TestStrangersShutNoAgentOut(t *testing.T) {
	t.Parallel()
	l := newLab(t, receive.Config{Limits: receive.Limits{PerSourcePerMinute: 50, PerNetworkPerMinute: 20}}, nil)
	for i := range byte(60) {
		l.said(netip.AddrFrom4([4]byte{127, 0, 0, 100 + i}), anyUUID())
	}
	l.said(netip.MustParseAddr("127.0.0.1"), anyUUID())
	if l.received(hello.RateLimited) < 30 {
		t.Fatal("the network's limit is not used up")
	}
	before := l.received(hello.Accepted)
	b := capture(t, "2")
	for range 15 {
		c := tls.Client(l.dial(), l.client(l.agent))
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Read(make([]byte, 1))
	}
	r := l.do(l.http(), "POST", "/v1/hello?address=127.0.0.99", "application/octet-stream", b)
	if r.Status != 202 {
		t.Errorf("an agent that names a device of the network is told %d", r.Status)
	}
	l.stop()
	heard := 0
	for len(l.heard) > 0 {
		if h := l.next(); bytes.Equal(h.Raw, b) {
			heard++
		}
	}
	if got := l.received(hello.Accepted) - before; got != 16 || heard != 16 {
		t.Errorf("%v of 16 hellos of authenticated peers were taken", got)
	}
}
