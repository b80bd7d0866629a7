//go:build long

package endtoend

import (
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
)

// The same claims on larger fleets.

func TestLongFleet(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, s *site) { fleetRun(t, s, 500) })
}

func TestLongKilled(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, s *site) { killedRun(t, s, 500) })
}

func TestLongTwoDaemons(t *testing.T) { twoDaemons(t, 500) }

// TestLongFlood is the flood of the threat table: 5,000 hellos a second beside 100
// authorised devices.
func TestLongFlood(t *testing.T) {
	forEachDatabase(t, func(t *testing.T, s *site) { s.flooded(100, 20*time.Second, 5000) })
}

// TestLongKillPoints: every kill point there is, on devices of four
// temperaments, on both engines.
func TestLongKillPoints(t *testing.T) {
	all := killpoints(t, "12")
	temperaments := map[string]struct {
		personality string
		change      func(*sim.Config)
	}{
		"plain":                     {"12", nil},
		"password counts at commit": {"12-at-commit", nil},
		"loses the commit's answer": {"12", func(c *sim.Config) { c.Faults = sim.With(sim.Drop("CommitChanges")) }},
		"loses its settings": {"12", func(c *sim.Config) {
			c.Faults = sim.With(sim.Fault{Kind: sim.PowerCycle, Call: "SetAdminAclEntryEx", Arg: "lose"})
		}},
	}
	for name, c := range temperaments {
		t.Run(name, func(t *testing.T) {
			forEachDatabase(t, func(t *testing.T, s *site) { s.chain(all, c.personality, c.change) })
		})
	}
}
