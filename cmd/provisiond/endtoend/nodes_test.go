package endtoend

import (
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
)

// twoDaemons is two daemons on one Postgres behind one name, of which one dies.
func twoDaemons(t *testing.T, devices int) {
	first, second := pair(t)
	a := first.serve(nil, "--node-name", "node-a")
	b := second.serve(nil, "--node-name", "node-b")

	h := first.herd()
	// One after the other, and slow: the middle is wide enough to hit.
	wake := time.NewTicker(150 * time.Millisecond)
	defer wake.Stop()
	for i := range devices {
		<-wake.C
		h.live(2*time.Second, turn(a.hello, b.hello),
			h.add(generations[i%len(generations)], func(c *sim.Config) { c.Latency = 40 * time.Millisecond }))
	}
	// The first to have something under way dies with it.
	poll(t, "a quarter of the fleet managed, and work under way at the one that will die", 3*time.Minute, func() bool {
		n := a.metric(`provisiond_devices{state="provisioned"}`)
		return n >= float64(devices)/4 && b.metric("provisiond_sessions_active") > 0 || n == float64(devices)
	})
	live := b.metric("provisiond_sessions_active")
	b.kill()
	killed := time.Now()
	a.managed(devices, 4*time.Minute)
	recovered := time.Since(killed)
	h.settled(a)
	a.stop()
	t.Logf("%d devices on two daemons, one killed with %.0f under way: all managed %.1f s later", devices, live, recovered.Seconds())
}
