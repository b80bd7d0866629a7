package receive_test

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

func TestReadDeadlineIsAbsolute(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{ReadTimeout: 200 * time.Millisecond}, "127.0.0.1:0", nil)
	began := time.Now()
	silent, drip := in.dial(), in.dial()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	b := capture(t, "1")
	for i := 0; ; i++ { // each byte well within the timeout
		if _, err := drip.Write(b[i : i+1]); err != nil {
			break
		}
		<-tick.C
		if i == len(b)-1 {
			t.Fatal("a byte every 20 ms was read to the end")
		}
	}
	in.closes(silent)
	if d := time.Since(began); d < 200*time.Millisecond || d > patience/2 {
		t.Errorf("cut after %v", d)
	}
	in.stop()
	if n := in.received(hello.Malformed); n != 2 {
		t.Errorf("%v counted as malformed, want 2", n)
	}
}

func TestSourceLimit(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{Limits: receive.Limits{PerSourcePerMinute: 3}}, "127.0.0.1:0", nil)
	began := time.Now()
	for range 3 {
		in.say(psk())
	}
	for range 4 {
		in.say(psk())
	}
	in.stop()
	// The bucket refills while the test lasts, by one in twenty seconds.
	more := float64(time.Since(began) / (20 * time.Second))
	if a, r := in.received(hello.Accepted), in.received(hello.RateLimited); a < 3 || a > 3+more || a+r != 7 {
		t.Errorf("%v accepted, %v limited in %s", a, r, time.Since(began))
	}
	if n := in.logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != 1 && time.Since(began) < time.Minute {
		t.Errorf("%d lines about one source", n)
	}
}

func TestFloodFromOneNetworkLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	in := listen(t, receive.Config{Limits: receive.Limits{PerSourcePerMinute: 10, PerNetworkPerMinute: 50, Connections: 512}},
		"127.0.0.1:0",
		nil)
	from := func(a netip.Addr) error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))}
		c, err := d.Dial("tcp", in.addr.String())
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write(psk()) // fails where the server has closed already
		_, _ = c.Read(make([]byte, 1))
		return nil
	}
	began := time.Now()
	var flood sync.WaitGroup
	for i := range byte(30) {
		flood.Go(func() {
			for range 20 {
				if err := from(netip.AddrFrom4([4]byte{127, 7, 7, i})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range byte(10) {
		if err := from(netip.AddrFrom4([4]byte{127, 8, i, 1})); err != nil {
			t.Error(err)
		}
	}
	flood.Wait()
	in.stop()
	honest := 0
	for len(in.heard) > 0 {
		if h := in.next(); h.From.Addr().As4()[1] == 8 {
			honest++
		}
	}
	// The bucket refills while the flood lasts: 50 a minute is not yet one a second.
	lasted := time.Since(began)
	if a, r := in.received(hello.Accepted), in.received(hello.RateLimited); honest != 10 || a < 60 || a > 60+lasted.Seconds() ||
		a+r != 610 {
		t.Errorf("%d of 10 others were heard; %v accepted, %v limited of 610 in %s", honest, a, r, lasted)
	}
	if n := in.logs.FilterLevelExact(zapcore.WarnLevel).Len(); n > 30*int(1+lasted/time.Minute) {
		t.Errorf("%d lines about 30 sources", n)
	}
}

func TestSlowConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	const most = 64
	in := listen(t, receive.Config{Limits: receive.Limits{Connections: most}}, "127.0.0.1:0", nil)
	open := make([]net.Conn, most)
	b := capture(t, "1")
	for i := range open {
		open[i] = in.dial()
		if _, err := open[i].Write(b[:30]); err != nil {
			t.Fatal(err)
		}
	}
	// Connections are accepted in order, so these find the server full.
	for range 10 {
		in.closes(in.dial())
	}
	if n := in.metric("provisiond_hello_connections"); n != most {
		t.Errorf("%v open, want %d", n, most)
	}
	if n := in.received(hello.Overload); n != 10 {
		t.Errorf("%v counted as overload, want 10", n)
	}
	for _, c := range open { // and nobody who was in is lost
		if _, err := c.Write(b[30:]); err != nil {
			t.Fatal(err)
		}
		in.closes(c)
	}
	in.say(b)
	in.stop()
	if n := in.received(hello.Accepted); n != most+1 {
		t.Errorf("%v accepted, want %d", n, most+1)
	}
}

// TestFourThousandDrips: as many connections that never come to an end hold up
// nobody, and cost a few KiB each. It runs alone: it counts the process's memory.
func TestFourThousandDrips(t *testing.T) {
	const drips = 4000
	in := listen(t, receive.Config{Limits: receive.Limits{Connections: 4096}, ReadTimeout: 5 * time.Minute}, "127.0.0.1:0", nil)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	b := capture(t, "1")
	open := make([]net.Conn, drips)
	for i := range open {
		open[i] = in.dial()
		if _, err := open[i].Write(b[:1+i%30]); err != nil {
			t.Fatal(err)
		}
	}
	var slowest time.Duration
	for range 50 {
		began := time.Now()
		in.say(b)
		slowest = max(slowest, time.Since(began))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / drips
	if n := in.metric("provisiond_hello_connections"); n != drips {
		t.Errorf("%v open, want %d", n, drips)
	}
	if each > 24<<10 { // both ends are in this process
		t.Errorf("%d bytes a connection", each)
	}
	if slowest > patience/2 {
		t.Errorf("a hello took %s", slowest)
	}
	t.Logf("%d drips: %d bytes each, both ends; the slowest of 50 hellos beside them took %s", drips, each, slowest.Round(time.Millisecond))
	for _, c := range open {
		_ = c.Close()
	}
	in.stop()
	if n := in.received(hello.Accepted); n != 50 {
		t.Errorf("%v accepted, want 50", n)
	}
}
