//go:build long

package endtoend

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store/pgtest"
)

var (
	chaosFor     = flag.Duration("chaos.for", 3*time.Minute, "how long nodes are killed and frozen")
	chaosDevices = flag.Int("chaos.devices", 300, "devices that arrive meanwhile")
	chaosSeed    = flag.Uint64("chaos.seed", 0, "of who is hit, how and when; 0: another one each time")
)

// chaosNode is one of several daemons on one database.
type chaosNode struct {
	s     *site
	name  string
	d     *daemon
	until time.Time // frozen until then; zero: it runs
	long  bool
}

func (n *chaosNode) start() {
	if n.d == nil {
		n.d = n.s.serve(nil, "--node-name", n.name) // learns its ports
		return
	}
	n.d = n.s.launch(program(n.s.t, n.s.bin), nil, "--node-name", n.name)
}

func (n *chaosNode) signal(s syscall.Signal) {
	n.s.t.Helper()
	if err := n.d.cmd.Process.Signal(s); err != nil {
		n.s.t.Errorf("%s to %s: %v\n%s", s, n.name, err, tail(n.d.errs.String(), 2000))
	}
}

// threeNodes are daemons with the same certificate and master key on one Postgres.
func threeNodes(t *testing.T, url string) []*chaosNode {
	t.Helper()
	var nodes []*chaosNode
	for i := range 3 {
		n := &chaosNode{s: newSite(t, url), name: fmt.Sprintf("node-%d", i+1)}
		if i == 0 {
			n.s.base = "127.251.0.1" // more devices than a test's usual range
		} else {
			first := nodes[0].s
			n.s.leaf, n.s.dir = first.leaf, first.dir
			n.s.cfg = n.s.file(n.name+".yaml", []byte(readFile(t, first.cfg)))
		}
		n.start()
		nodes = append(nodes, n)
	}
	return nodes
}

// TestLongChaos: devices arrive at three nodes on one Postgres, of which every two
// seconds one is killed, or frozen for some seconds, or for longer than a lease so
// that another takes over what it had in hand before it wakes. In the end every
// device is managed, set up once, by one conversation at a time, and every password
// is known.
func TestLongChaos(t *testing.T) {
	seat(t)
	seed := *chaosSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	url := pgtest.URL(t)
	nodes := threeNodes(t, url)
	var hellos []string
	for _, n := range nodes {
		hellos = append(hellos, n.d.hello)
	}

	h := nodes[0].s.herd()
	began := time.Now()
	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		arrival := time.NewTicker(max(*chaosFor/time.Duration(*chaosDevices), time.Millisecond))
		defer arrival.Stop()
		server := turn(hellos...)
		for i := range *chaosDevices {
			<-arrival.C
			h.live(2*time.Second, server, h.add(generations[i%len(generations)], func(c *sim.Config) { c.Latency = 20 * time.Millisecond }))
		}
	}()

	count := map[string]int{}
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	frozenLong := false
	for time.Since(began) < *chaosFor {
		<-tick.C
		for _, n := range nodes {
			if !n.until.IsZero() && time.Now().After(n.until) {
				n.signal(syscall.SIGCONT)
				frozenLong = frozenLong && !n.long
				n.until, n.long = time.Time{}, false
			}
		}
		n := nodes[rnd.IntN(len(nodes))]
		if !n.until.IsZero() {
			continue
		}
		switch what := rnd.IntN(4); {
		case what < 2:
			count["killed"]++
			n.d.kill()
			n.start()
		case what == 2 || frozenLong:
			count["frozen"]++
			n.signal(syscall.SIGSTOP)
			n.until = time.Now().Add(time.Duration(1+rnd.IntN(8)) * time.Second)
		default:
			count["frozen longer than a lease"]++
			n.signal(syscall.SIGSTOP)
			n.until, n.long, frozenLong = time.Now().Add(time.Duration(33+rnd.IntN(10))*time.Second), true, true
		}
	}
	for _, n := range nodes {
		if !n.until.IsZero() {
			n.signal(syscall.SIGCONT)
		}
		n.d.ready()
	}
	<-arrived
	over := time.Now()
	nodes[0].d.managed(*chaosDevices, 2*time.Minute)
	settled := time.Since(over)
	fenced := 0.0
	for _, n := range nodes {
		fenced += n.d.metric("provisiond_fence_rejections_total")
	}
	h.settled(nodes[0].d)
	for _, n := range nodes {
		n.d.stop()
	}
	if least := int(*chaosFor/(2*time.Second)) / 3; count["killed"]+count["frozen"]+count["frozen longer than a lease"] < least ||
		count["frozen longer than a lease"] == 0 {
		t.Errorf("only %v in %s: that was no chaos", count, *chaosFor)
	}
	t.Logf("seed %d: %d devices in %s at three nodes, %v; all managed %.1f s after the last, none twice, 0 unknown passwords; %v writes "+
		"of a lost lease refused",
		seed, *chaosDevices, chaosFor.Round(time.Second), count, settled.Seconds(), fenced)
}
