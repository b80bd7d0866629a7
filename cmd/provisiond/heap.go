package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// smallHeap is what may lie about before the collector runs, however little of
// it is in use.
const smallHeap = 64 << 20

// collectSeldom keeps the collector from running many times a second while the
// heap is small: its pace follows what is in use, and that is little here until
// thousands of sessions are open. From half of smallHeap on, everything is as Go
// has it. GOGC in the environment is the operator's word and goes before this.
func collectSeldom() {
	if os.Getenv("GOGC") != "" {
		return
	}
	afterEachCollection(func() {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		debug.SetGCPercent(growth(live[0].Value.Uint64()))
	})
}

// growth is by how many percent of what is in use the heap may grow.
func growth(live uint64) int {
	const usual, most = 100, 1600 // most: right after the start hardly anything is in use
	if live == 0 {
		return most
	}
	return min(max(usual, int(100*smallHeap/live)-100), most)
}

// afterEachCollection runs f when the collector has taken an object that nobody
// holds, and leaves it another.
func afterEachCollection(f func()) {
	type left struct{ _ *left } // with a pointer: small ones without share their memory with others
	runtime.AddCleanup(new(left), func(struct{}) { f(); afterEachCollection(f) }, struct{}{})
}
