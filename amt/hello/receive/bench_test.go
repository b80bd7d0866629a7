package receive_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

// BenchmarkAcceptReadClose is the floor of BenchmarkIntake: the least a server
// can do with a hello.
func BenchmarkAcceptReadClose(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 2048))
			}()
		}
	}()
	sayHello(b, l.Addr().String())
}

// BenchmarkIntake is the listener with its limits on and a handler that does
// nothing.
func BenchmarkIntake(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var accepted accepter
	s := receive.NewServer(receive.Config{Limits: receive.Limits{
		PerSourcePerMinute: 1e9, PerNetworkPerMinute: 1e9, TotalPerSecond: 1e9, Connections: 4096,
	}}, &accepted, nil, nil)
	go func() { _ = s.Serve(l) }()
	sayHello(b, l.Addr().String())
	if err := s.Shutdown(context.Background()); err != nil {
		b.Fatal(err)
	}
	if accepted.n.Load() < int64(b.N) {
		b.Fatalf("%d of %d hellos arrived", accepted.n.Load(), b.N)
	}
}

type accepter struct{ n atomic.Int64 }

func (a *accepter) HandleHello(context.Context, hello.Hello) (hello.Result, error) {
	a.n.Add(1)
	return hello.Accepted, nil
}

// sayHello says b.N hellos and waits each time until the server has closed, so
// that nothing is left in a queue uncounted.
func sayHello(b *testing.B, addr string) {
	raw := capture(b, "2")
	b.SetParallelism(16)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		one := make([]byte, 1)
		for pb.Next() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = c.Write(raw)
			_, _ = c.Read(one)
			c.Close()
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "hellos/s")
}
