package provision

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	simSeeds = flag.Int("sim.seeds", 2000, "how many seeds the simulation plays")
	simSeed  = flag.Uint64("sim.seed", 0, "play this seed alone and print its history")
	simFirst = flag.Uint64("sim.first", 1, "the first seed")
)

// TestSimulation plays many histories of the shipped engine; none may break an
// invariant, and all must settle once the faults stop. A failing seed prints the
// command that plays it again.
func TestSimulation(t *testing.T) {
	t.Parallel()
	if *simSeed != 0 {
		w := newWorld(*simSeed, "")
		w.run()
		fmt.Println(strings.Join(w.trace, "\n"))
		if w.violation != "" {
			t.Fatal(w.violation)
		}
		return
	}
	var events, sends atomic.Int64
	hits := map[string]int{}
	var mu sync.Mutex
	each(*simFirst, *simSeeds, func(seed uint64) bool {
		w := newWorld(seed, "")
		w.run()
		events.Add(int64(w.events))
		sends.Add(int64(w.sends))
		mu.Lock()
		defer mu.Unlock()
		for k, n := range w.hits {
			hits[k] += n
		}
		if w.violation != "" {
			t.Errorf("seed %d: %s\n  go test ./server/provision -run TestSimulation -sim.seed=%d", seed, w.violation, seed)
			return false
		}
		return true
	})
	t.Logf("%d seeds, %d events, %d changes sent to devices, %d fault sites", *simSeeds, events.Load(), sends.Load(), len(hits))
	// A simulation in which nothing goes wrong proves nothing.
	for _, site := range []string{"node1 dies", "power loss", "stall", "late: mebx", "late: admin", "reply lost: commit", "request lost: commit",
		"store outcome unknown: stage", "store outcome unknown: sending set_admin_password", "store fails: settle ", "address changes",
		"rotation asked for", "store outcome unknown: sending change_password"} {
		if hits[site] == 0 && *simSeeds >= 2000 {
			t.Errorf("in %d seeds the fault %q never happened", *simSeeds, site)
		}
	}
}

// TestMutants proves that the simulation sees: each rule of the protocol is
// taken away in turn, and some history must then break.
func TestMutants(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		name  string
		seeds int
	}{
		{"send before store", 200},
		{"overwrite old secret", 2000},
		{"no recovery probe", 500},
		{"transparent reconnect", 2000},
		{"trust the commit call", 500},
		{"no socket deadline", 20000},
		{"lease end from unfenced read", 20000},
		{"no quiet period", 20000},
		{"no fence on writes", 20000},
		{"no heartbeat", 500},
		{"check, then act", 20000},
		{"same node re-claims its own live lease", 2000},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			var caught atomic.Uint64
			var why atomic.Value
			each(1, m.seeds, func(seed uint64) bool {
				w := newWorld(seed, m.name)
				w.run()
				if w.violation != "" {
					caught.Store(seed)
					why.Store(w.violation)
					return false
				}
				return true
			})
			if caught.Load() == 0 {
				t.Fatalf("without this rule %d histories still hold every invariant", m.seeds)
			}
			t.Logf("caught at seed %d: %v", caught.Load(), why.Load())
		})
	}
}

// TestReplay plays one seed twice: the histories must be the same to the line.
func TestReplay(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		a, b := newWorld(seed, ""), newWorld(seed, "")
		a.run()
		b.run()
		if x, y := strings.Join(a.trace, "\n"), strings.Join(b.trace, "\n"); x != y {
			_ = os.WriteFile(filepath.Join(t.TempDir(), "a"), []byte(x), 0o600)
			t.Fatalf("seed %d plays two different histories", seed)
		}
	}
}

// each plays seeds on all processors until f says stop.
func each(first uint64, n int, f func(seed uint64) bool) {
	var next atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				if !f(first + uint64(i)) {
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
}
