package provision

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/cmd/built"
)

var (
	simSeeds = flag.Int("sim.seeds", seedsByDefault(), "how many seeds the simulation plays")
	simSeed  = flag.Uint64("sim.seed", 0, "play this seed alone and print its history")
	simWhich = flag.String("sim.mutant", "", "with -sim.seed: which rule is missing")
	simFirst = flag.Uint64("sim.first", 1, "the first seed")
)

// seedsByDefault: the race detector sees in few histories what it sees in many, and
// each takes ten times as long; make test plays the others without it.
func seedsByDefault() int {
	if built.Race {
		return 200
	}
	return 2000
}

// TestSimulation plays many histories of the shipped engine; none may break an
// invariant, and all must settle once the faults stop. A failing seed prints the
// command that plays it again.
func TestSimulation(t *testing.T) {
	t.Parallel()
	if *simSeed != 0 {
		w := newWorld(*simSeed, *simWhich)
		w.run()
		fmt.Println(strings.Join(w.trace, "\n"))
		if w.violation != "" {
			t.Fatal(w.violation)
		}
		return
	}
	began := time.Now()
	var played, events, sends int
	hits, kinds := map[string]int{}, map[string]int{}
	histories := make(map[uint64]bool, *simSeeds)
	var mu sync.Mutex
	each(*simFirst, *simSeeds, func(seed uint64) bool {
		w := newWorld(seed, "")
		w.run()
		mu.Lock()
		defer mu.Unlock()
		played++
		events += w.events
		sends += w.sends
		histories[w.sum.Sum64()] = true
		for k, n := range w.hits {
			hits[k] += n
		}
		for k, n := range w.kinds {
			kinds[k] += n
		}
		if w.violation != "" {
			t.Errorf("seed %d: %s\n  go test ./server/provision -run TestSimulation -sim.seed=%d", seed, w.violation, seed)
			return false
		}
		return true
	})
	t.Logf("%d seeds from %d, %d different histories, %d events, %d changes sent to devices, %d fault sites, %.0f s",
		played, *simFirst, len(histories), events, sends, len(hits), time.Since(began).Seconds())
	for _, k := range faultKinds {
		t.Logf("%8d  %s", kinds[k], k)
	}
	if t.Failed() {
		return
	}
	// A simulation in which nothing goes wrong proves nothing.
	if played != *simSeeds || len(histories) != played {
		t.Errorf("%d seeds were played, of %d asked for; %d histories differ", played, *simSeeds, len(histories))
	}
	for _, k := range faultKinds {
		if kinds[k] < *simSeeds/50 {
			t.Errorf("in %d seeds %q happened %d times", *simSeeds, k, kinds[k])
		}
	}
	for k := range kinds {
		if !slices.Contains(faultKinds, k) {
			t.Errorf("%q is no kind of fault", k)
		}
	}
	for _, site := range []string{"late delivery: mebx", "late delivery: admin", "reply lost: commit", "request lost: commit",
		"commit outcome unknown, made: stage", "commit outcome unknown, not made: sending set_admin_password",
		"commit outcome unknown, made: sending set_admin_password",
		"commit outcome unknown, made: sending change_password", "store fails: settle", "node dies in commit", "node dies in mebx",
		"node dies in stage",
		"node dies in settle", "stall across a lease commit", "stall across a lease admin"} {
		if hits[site] == 0 && *simSeeds >= 2000 {
			t.Errorf("in %d seeds the fault %q never happened", *simSeeds, site)
		}
	}
}

// faultKinds are what the simulation draws from; each must have happened.
var faultKinds = []string{
	"node dies", "stall", "stall across a lease", "a heartbeat stalls",
	"power loss, settings kept", "power loss, settings lost",
	"request lost:", "reply lost:", "late delivery:",
	"store fails:", "commit outcome unknown, made:", "commit outcome unknown, not made:",
	"duplicate hello", "hello lost", "address changes", "rotation asked for", "a profile is changed", "a change is put back",
	"a stranger answers", "a stranger says hello", "a claim is believed", "a rogue is called",
	"a node's clock is off", "the device's clock steps", "the database's clock steps back", "the database's clock steps forward",
}

// TestMutants proves that the simulation sees: each rule of the protocol is
// taken away in turn, and some history must then break.
func TestMutants(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		name  string
		first uint64 // near the first seed that shows it, so that the search is short
		seeds int
	}{
		{"send before store", 1, 200},
		{"overwrite old secret", 1, 20000},
		{"delete old secret", 1, 20000},
		{"no recovery probe", 1, 20000},
		{"transparent reconnect", 1, 20000},
		{"trust the commit call", 1, 20000},
		{"no socket deadline", 1, 20000},
		{"lease end from unfenced read", 13490, 20000},
		{"no quiet period", 1, 20000},
		{"no fence on writes", 2680, 20000},
		{"no heartbeat", 1, 20000},
		{"check, then act", 3930, 20000},
		{"same node re-claims its own live lease", 1, 20000},
		{"an unknown outcome counts as done", 1, 20000},
		{"a node's wall clock decides", 1, 20000},
		// The checks of whom.go, one by one.
		{"any key will do", 1, 20000},
		{"any hardware will do", 1, 20000},
		{"what was handed out is for anybody", 1, 20000},
		{"an active password is for anybody", 1, 20000},
		{"the commit is not noted", 2300, 20000},
		{"all set-ups are one", 1730, 20000},
		{"the first that answers is believed", 1, 20000},
		// Of hellos and of what strangers say.
		{"a hello moves the device", 1, 20000},
		{"every network is ours", 1, 20000},
		{"who answers is believed", 7940, 20000},
		{"who answers is believed, its MAC", 22880, 20000},
		{"who answers is believed, its realm", 7940, 20000},
		{"who answers is believed, its name", 2650, 20000},
		{"a stranger's key becomes a proof", 1, 20000},
		// Of the gate.
		{"no gate", 1, 20000},
		{"nothing is put back", 1, 20000},
		{"no proof beside the change", 1, 20000},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			var caught atomic.Uint64
			var why atomic.Value
			began := time.Now()
			each(m.first, m.seeds, func(seed uint64) bool {
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
			t.Logf("caught at seed %d: %v (%.1f s)", caught.Load(), why.Load(), time.Since(began).Seconds())
			a, b := newWorld(caught.Load(), m.name), newWorld(caught.Load(), m.name)
			a.run()
			b.run()
			if a.violation != why.Load() || !slices.Equal(a.trace, b.trace) {
				t.Errorf("played again, seed %d says %q: not the same to the line", caught.Load(), a.violation)
			}
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
