//go:build long

package server

import "testing"

// TestLongBadProfile is TestABadProfileAsksOneDevice on a fleet of three hundred.
func TestLongBadProfile(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.MaintainPerMinute, o.Workers = 10_000, 16 }, func(t *testing.T, l *lab) { badProfile(t, l, 300) })
}
