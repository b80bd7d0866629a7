package receive_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

// patience bounds what a test waits for; nothing takes that long, on a machine
// that stands still for half a minute either.
const patience = 3 * time.Minute

// desk is a handler that keeps what it was told.
type desk struct {
	heard  chan hello.Hello
	answer func(context.Context, hello.Hello) (hello.Result, error)
}

func (d *desk) HandleHello(ctx context.Context, h hello.Hello) (hello.Result, error) {
	d.heard <- h
	if d.answer != nil {
		return d.answer(ctx, h)
	}
	return hello.Accepted, nil
}

// intake is a running server with its handler, log and metrics.
type intake struct {
	*testing.T
	*desk
	server *receive.Server
	addr   netip.AddrPort
	reg    *prometheus.Registry
	logs   *observer.ObservedLogs
	once   sync.Once
	stop   func()
}

func listen(t *testing.T, cfg receive.Config, address string, answer func(context.Context, hello.Hello) (hello.Result, error)) *intake {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, cfg, l, answer)
}

func serve(t *testing.T, cfg receive.Config, l net.Listener, answer func(context.Context, hello.Hello) (hello.Result, error)) *intake {
	t.Helper()
	if cfg.ReadTimeout == 0 { // what is not about it waits out a machine that stands still
		cfg.ReadTimeout = patience / 2
	}
	core, logs := observer.New(zapcore.DebugLevel)
	in := &intake{T: t, desk: &desk{make(chan hello.Hello, 10_000), answer}, reg: prometheus.NewRegistry(), logs: logs}
	in.addr = l.Addr().(*net.TCPAddr).AddrPort()
	in.server = receive.NewServer(cfg, in.desk, zap.New(core), receive.NewMetrics(in.reg))
	ended := make(chan error, 1)
	go func() { ended <- in.server.Serve(l) }()
	in.stop = func() {
		in.once.Do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := in.server.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			if err := <-ended; !errors.Is(err, receive.ErrServerClosed) {
				t.Errorf("Serve returned %v", err)
			}
			if n := in.metric("provisiond_hello_connections"); n != 0 {
				t.Errorf("%v connections are open after the end", n)
			}
		})
	}
	t.Cleanup(in.stop)
	return in
}

// metric is a gauge's value, or a counter's with the result named.
func (in *intake) metric(name string, result ...hello.Result) float64 {
	in.Helper()
	families, err := in.reg.Gather()
	if err != nil {
		in.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() != name || len(result) > 0 && m.GetLabel()[0].GetValue() != string(result[0]) {
				continue
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	in.Fatalf("there is no %s %v", name, result)
	return 0
}

func (in *intake) received(r hello.Result) float64 {
	in.Helper()
	return in.metric("provisiond_hello_received_total", r)
}

func (in *intake) dial() net.Conn {
	in.Helper()
	c, err := net.Dial("tcp", in.addr.String())
	if err != nil {
		in.Fatal(err)
	}
	in.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		in.Fatal(err)
	}
	return c
}

// say sends one segment after the other and returns what came back until the
// server closed: it must be nothing on a raw connection.
func (in *intake) say(segments ...[]byte) {
	in.Helper()
	c := in.dial()
	for _, s := range segments {
		if _, err := c.Write(s); err != nil {
			in.Fatal(err)
		}
	}
	in.closes(c)
}

// closes waits until the server has closed c and checks that it sent nothing.
func (in *intake) closes(c net.Conn) {
	in.Helper()
	b := make([]byte, 100)
	n, err := c.Read(b)
	if n > 0 {
		in.Errorf("the server answered %q", b[:n])
	}
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		in.Errorf("the server did not close: %v", err)
	}
}

func (in *intake) next() hello.Hello {
	in.Helper()
	select {
	case h := <-in.heard:
		return h
	case <-time.After(patience):
		in.Fatal("no hello reached the handler")
		return hello.Hello{}
	}
}

// logged is every message and string field of the log, a line each.
func (in *intake) logged() string {
	var b strings.Builder
	for _, e := range in.logs.All() {
		fmt.Fprintln(&b, e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}
