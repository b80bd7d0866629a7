//go:build long

package endtoend

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store/pgtest"
)

// A balancer names one of several daemons in turn, as one in front of the hello
// port does, and leads around those that are about to stop.
type balancer struct {
	mu   sync.Mutex
	next int
	in   []*chaosNode
	out  map[*chaosNode]bool
}

func (b *balancer) server() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		n := b.in[b.next%len(b.in)]
		if b.next++; !b.out[n] {
			return n.d.hello
		}
	}
}

func (b *balancer) set(n *chaosNode, out bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.out[n] = out
}

// TestLongRollingRestart: devices arrive at three nodes on one Postgres while
// these are stopped and started one after the other, twice, as an upgrade does.
// No hello fails, and no run has to begin again: a node that stops ends what it
// has in hand.
func TestLongRollingRestart(t *testing.T) {
	seat(t)
	const devices, every = 300, 200 * time.Millisecond
	nodes := threeNodes(t, pgtest.URL(t))
	b := &balancer{in: nodes, out: map[*chaosNode]bool{}}
	h := nodes[0].s.herd()
	arrived := make(chan struct{})
	var failed atomic.Int64
	go func() {
		defer close(arrived)
		arrival := time.NewTicker(every)
		defer arrival.Stop()
		for i := range devices {
			<-arrival.C
			dev := h.add(generations[i%len(generations)], func(c *sim.Config) { c.Latency = 20 * time.Millisecond })
			h.wg.Go(func() {
				if err := dev.SayHello(h.ctx, b.server()); err != nil {
					failed.Add(1)
					t.Errorf("hello of %s: %v", dev.Addr(), err)
				}
			})
		}
	}()
	tick := time.NewTicker(2 * time.Second) // a balancer's notice, and a pause between two nodes
	defer tick.Stop()
	stops, longest := 0, time.Duration(0)
	for range 2 {
		for _, n := range nodes {
			b.set(n, true)
			<-tick.C
			before := time.Now()
			n.d.stop()
			longest = max(longest, time.Since(before))
			n.start()
			n.d.ready()
			b.set(n, false)
			stops++
			<-tick.C
		}
	}
	<-arrived
	nodes[0].d.managed(devices, time.Minute)
	h.settled(nodes[0].d)
	again := map[amt.UUID]bool{}
	for _, dev := range h.devices {
		u := dev.Snapshot().UUID
		for _, r := range nodes[0].d.of(u).Runs {
			if r.Attempt != 1 || r.State != "done" {
				again[u] = true
				t.Errorf("run %d of %s: attempt %d, %s %s", r.ID, u, r.Attempt, r.State, r.Reason)
			}
		}
	}
	for _, n := range nodes {
		n.d.stop()
	}
	t.Logf("%d devices at three nodes, %d graceful restarts, the longest took %.1f s: %d hellos failed, %d devices had to begin again",
		devices, stops, longest.Seconds(), failed.Load(), len(again))
}
