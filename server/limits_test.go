package server

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// TestBreaker: what closes the road to a network and what opens it again, for
// two nodes on one store.
func TestBreaker(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		// No earlier than now: the server at hand forgets pauses that are over for a day.
		now := time.Now().UTC().Truncate(time.Second)
		began := now
		net1, net2 := netip.MustParsePrefix("10.1.1.0/24"), netip.MustParsePrefix("10.1.2.0/24")
		node := func(name string) *breaker {
			return &breaker{
				after: 3, pause: time.Minute, node: name, db: func() *store.DB { return l.s.DB },
				now:      func(*store.Tx) time.Time { return now },
				failures: map[netip.Prefix]int{}, open: prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}), log: zap.NewNop(),
			}
		}
		a, b := node("a"), node("b")
		probing := false // by whoever asked last
		fail := func(b *breaker, n netip.Prefix) { b.ended(t.Context(), n, probing, true); probing = false }
		want := func(what string, b *breaker, n netip.Prefix, wait time.Duration) {
			t.Helper()
			l.write(func(ctx context.Context, tx *store.Tx) error {
				until, probe, err := b.wait(ctx, tx, n)
				if err == nil && probe {
					probe, err = b.probe(ctx, tx, n)
				}
				probing = probe
				got := time.Duration(0)
				if !until.IsZero() {
					got = until.Sub(now)
				}
				if got != wait {
					t.Errorf("%s: wait %s, want %s", what, got, wait)
				}
				return err
			})
		}
		fail(a, net1)
		fail(a, net1)
		a.ended(t.Context(), net1, false, false) // it answered, and refused for reasons of its own
		fail(a, net1)
		fail(a, net1)
		want("two in a row", a, net1, 0)
		fail(a, net1)
		want("three in a row", a, net1, time.Minute)
		want("the same on the other node", b, net1, time.Minute)
		want("the network beside it", a, net2, 0)
		if n := testutil.ToFloat64(a.open); n != 1 {
			t.Errorf("%v networks are shown as paused", n)
		}
		for range 5 { // attempts that were on their way
			fail(b, net1)
		}
		want("failures on their way lengthen nothing", b, net1, time.Minute)
		now = now.Add(30 * time.Second)
		want("half the pause", a, net1, 30*time.Second)
		now = now.Add(31 * time.Second)
		want("the probe", b, net1, 0)
		was := probing
		want("a second one beside the probe, on the other node", a, net1, 2*time.Second)
		probing = was
		fail(b, net1)
		want("the probe failed", a, net1, 2*time.Minute)
		now = now.Add(2*time.Minute + time.Second)
		want("the next probe", a, net1, 0)
		a.ended(t.Context(), net1, probing, false)
		want("the probe came through", b, net1, 0)
		fail(a, net1)
		want("counting from the start", a, net1, 0)
		fail(a, net1)
		fail(a, net1)
		for range 40 { // for ever out of reach
			now = now.Add(time.Hour)
			want("each hour one", a, net1, 0)
			fail(a, net1)
		}
		want("the longest pause", b, net1, longestPause)
		now = now.Add(25 * time.Hour)
		if err := b.measure(t.Context()); err != nil {
			t.Fatal(err)
		}
		want("nobody waits there any more", a, net1, 0)
		var said []string
		l.read(func(ctx context.Context, tx *store.Tx) error {
			events, err := tx.Events(ctx, store.EventFilter{Limit: 1000})
			for _, e := range events {
				if strings.HasPrefix(e.Name, "network_") {
					until, _ := e.Data["until"].(string)
					said = append(said, strings.TrimSpace(e.Name+" "+e.Data["network"].(string)+" "+until))
				}
			}
			return err
		})
		until := func(d time.Duration) string { return began.Add(d).Format(time.RFC3339) }
		if d := cmp.Diff([]string{"network_paused 10.1.1.0/24 " + until(time.Minute),
			"network_paused 10.1.1.0/24 " + until(3*time.Minute+time.Second), "network_resumed 10.1.1.0/24"}, said[:3]); d != "" {
			t.Errorf("(-want +said)\n%s", d)
		}
	})
}

// TestWhyNamesThePausedNetwork: who asks for a device behind a dead switch is
// told of the network, and until when it is left alone.
func TestWhyNamesThePausedNetwork(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.BreakAfter, o.BreakFor = 2, 5*time.Minute }, func(t *testing.T, l *lab) {
		d := l.device(sim.With(sim.Fault{Kind: sim.NeverListen}))
		l.says(d)
		network := store.NetworkOf(d.Addr().Addr()).String()
		if !waitFor(t, func() bool {
			w, err := l.api.Why(t.Context(), d.UUID().String())
			return err == nil && strings.Contains(w.Next, network+" is paused until 20")
		}) {
			w, _ := l.api.Why(t.Context(), d.UUID().String())
			t.Errorf("why says %q, then %q", w.Says, w.Next)
		}
		if !waitFor(t, func() bool { return l.metric("provisiond_networks_paused") == 1 }) {
			t.Errorf("%v networks are paused", l.metric("provisiond_networks_paused"))
		}
	})
}

// TestABlackHoleIsCalledSixTimesAnHour: five machines are announced at one
// address that never answers, again and again, for a whole day. Whoever owns the
// address hears of us six times an hour, however many nodes there are and
// however often they are started again.
func TestABlackHoleIsCalledSixTimesAnHour(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		victim := netip.MustParseAddr("192.0.2.7")
		most := queue.SilentDials().Most
		start := time.Now().Add(-48 * time.Hour)
		var dials []time.Time
		l.write(func(ctx context.Context, tx *store.Tx) error {
			dials = nil // Postgres may run it twice
			for now := start; now.Before(start.Add(24 * time.Hour)); now = now.Add(2 * time.Minute) {
				for range 5 { // each has an attempt due at any moment: hellos hasten it
					until, err := tx.Full(ctx, queue.SilentDials(), victim.String(), now)
					if err != nil {
						return err
					}
					if until.After(now) {
						continue
					}
					dials = append(dials, now)
					if err := tx.Count(ctx, queue.SilentDials(), victim.String(), now); err != nil {
						return err
					}
				}
			}
			return nil
		})
		for i := range dials {
			if j := i + most; j < len(dials) && dials[j].Sub(dials[i]) < time.Hour {
				t.Fatalf("dials %d to %d within %s", i, j, dials[j].Sub(dials[i]))
			}
		}
		if n := len(dials); n < 24*most-most || n > 24*most {
			t.Errorf("%d dials in a day, want about %d", n, 24*most)
		}

		// The same where it counts, on whichever node: the run that would be the
		// seventh is put off, by whomever its device is announced, and a person's is not.
		node := func() *limited { return newLimited(l.s, new(journal)) } // one that has just started
		for range most {
			if err := node().answered(t.Context(), victim, true); err != nil {
				t.Fatal(err)
			}
		}
		held := func(trigger string) (until time.Time) {
			t.Helper()
			l.write(func(ctx context.Context, tx *store.Tx) error {
				u := newUUID()
				if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: u, From: netip.AddrPortFrom(victim, 1), Address: victim,
					Version: 3}); err != nil {
					return err
				}
				run, err := tx.CreateRun(ctx, store.NewRun{UUID: u, Kind: "provision", Trigger: trigger})
				if err != nil {
					return err
				}
				until, err = node().hold(ctx, tx, run.ID)
				return err
			})
			return until
		}
		if until := held("hello"); time.Until(until) < 50*time.Minute {
			t.Errorf("the seventh: wait until %s", until)
		}
		if until := held("api"); time.Until(until) > time.Minute {
			t.Errorf("a person's waits until %s", until)
		}
		if err := node().answered(t.Context(), victim, false); err != nil {
			t.Fatal(err)
		}
		if until := held("hello"); time.Until(until) > time.Minute {
			t.Errorf("it answered, and is left alone until %s", until)
		}
	})
}

// TestNetworkOf: the unit that limits speak of.
func TestNetworkOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"10.1.2.3": "10.1.2.0/24", "::ffff:10.1.2.3": "10.1.2.0/24", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := store.NetworkOf(netip.MustParseAddr(address)); got.String() != want {
			t.Errorf("%s is in %s, want %s", address, got, want)
		}
	}
	if store.NetworkOf(netip.Addr{}).IsValid() {
		t.Error("no address has a network")
	}
}
