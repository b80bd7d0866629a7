package main

import (
	"runtime"
	"testing"
)

// TestGrowth has a small heap grow to one size, and a large one double.
func TestGrowth(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for live, want := range map[uint64]int{0: 1600, mib: 1600, 4 * mib: 1500, 8 * mib: 700, 16 * mib: 300, 32 * mib: 100, 33 * mib: 100,
		400 * mib: 100} {
		if got := growth(live); got != want {
			t.Errorf("%d MiB in use may grow by %d %%, want %d", live/mib, got, want)
		}
	}
}

// TestEachCollectionIsNoticed sees three of them.
func TestEachCollectionIsNoticed(t *testing.T) {
	t.Parallel()
	seen := make(chan struct{}, 100)
	afterEachCollection(func() {
		select {
		case seen <- struct{}{}:
		default:
		}
	})
	for range 3 {
		runtime.GC()
		<-seen
	}
}
