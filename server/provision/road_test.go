package provision

import (
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestEveryGenerationBecomesManaged takes each personality of the simulator
// down the whole road: real TLS, real WS-MAN, real store.
func TestEveryGenerationBecomesManaged(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.trust.load(t, l.ca.Plain("Second Root", "prov.corp.example.com"))
		for _, name := range sim.Personalities() {
			t.Run(name, func(t *testing.T) {
				l := *l
				l.t = t
				d := l.device(name, sim.Faults{})
				l.hello(d)
				dev := l.settle(l.engine, d)
				if dev.Lifecycle != store.Provisioned {
					t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				l.invariants(d, dev)
				snap := d.Snapshot()
				t.Logf("%d handshakes, %d commits\n%s", snap.Handshakes, snap.Commits, l.journal(d))
			})
		}
	})
}

// The time left for setup is a convenience: a device that will not lengthen it
// is set up all the same, at the first attempt.
func TestAWindowThatStaysAsItIs(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]sim.Fault{
		"internal error": sim.Refused("ExtendProvisioningPeriod", amt.StatusInternalError),
		"503":            {Kind: sim.Busy503, Call: "ExtendProvisioningPeriod"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, store.SQLite)
			l.trust.load(t, l.ca.Plain("Second Root", "prov.corp.example.com"))
			d := l.device("11", sim.With(fault))
			l.hello(d)
			dev := l.settle(l.engine, d)
			if dev.Lifecycle != store.Provisioned || d.Snapshot().Handshakes != 2 {
				t.Fatalf("%s after %d handshakes: %s: %s\n%s", dev.Lifecycle, d.Snapshot().Handshakes, dev.Reason, dev.Detail, l.journal(d))
			}
			l.invariants(d, dev)
		})
	}
}
