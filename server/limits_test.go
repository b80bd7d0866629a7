package server

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// TestBreaker: what opens the road to a network and what closes it.
func TestBreaker(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	net1, net2 := netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("10.1.2.0/24")
	var said []string
	b := &breaker{
		after: 3, pause: time.Minute, now: func() time.Time { return now }, networks: map[netip.Prefix]*circuit{},
		open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}),
		say: func(_ context.Context, n netip.Prefix, event string, pause time.Duration) {
			said = append(said, event+" "+n.String()+" "+pause.String())
		},
	}
	fail := func(n netip.Prefix) { b.ended(t.Context(), n, false, true) }
	want := func(what string, n netip.Prefix, wait time.Duration) {
		t.Helper()
		if got := b.wait(n); got != wait {
			t.Errorf("%s: wait %s, want %s", what, got, wait)
		}
	}
	fail(net1)
	fail(net1)
	b.ended(t.Context(), net1, false, false) // it answered, and refused for reasons of its own
	fail(net1)
	fail(net1)
	want("two in a row", net1, 0)
	fail(net1)
	want("three in a row", net1, time.Minute)
	want("the network beside it", net2, 0)
	now = now.Add(30 * time.Second)
	want("half the pause", net1, 30*time.Second)
	now = now.Add(31 * time.Second)
	want("the probe", net1, 0)
	want("a second one beside the probe", net1, 2*time.Second)
	fail(net1)
	want("the probe failed", net1, 2*time.Minute)
	now = now.Add(2*time.Minute + time.Second)
	want("the next probe", net1, 0)
	b.ended(t.Context(), net1, true, false)
	want("the probe came through", net1, 0)
	fail(net1)
	want("counting from the start", net1, 0)
	for range 40 { // for ever out of reach
		now = now.Add(time.Hour)
		b.wait(net1)
		fail(net1)
	}
	if w := b.wait(net1); w > longestPause {
		t.Errorf("a pause of %s", w)
	}
	if d := cmp.Diff([]string{"network_paused 10.1.1.0/24 1m0s", "network_paused 10.1.1.0/24 2m0s", "network_resumed 10.1.1.0/24 0s"}, said[:3]); d != "" {
		t.Errorf("(-want +said)\n%s", d)
	}
}

// TestNetworkOf: the unit that limits speak of.
func TestNetworkOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"10.1.2.3": "10.1.2.0/24", "::ffff:10.1.2.3": "10.1.2.0/24", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := networkOf(netip.MustParseAddr(address)); got.String() != want {
			t.Errorf("%s is in %s, want %s", address, got, want)
		}
	}
	if networkOf(netip.Addr{}).IsValid() {
		t.Error("no address has a network")
	}
}
