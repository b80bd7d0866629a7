//go:build long

package server

import "testing"

// TestLongStormOfStrays: 300 managed devices and 5,000 hellos in their names.
func TestLongStormOfStrays(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Workers = 64 }, func(t *testing.T, l *lab) { l.storm(300, 5000) })
}
