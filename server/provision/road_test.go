package provision

import (
	"slices"
	"strings"
	"sync"
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
				if why, _ := l.newest(d.UUID(), "verified").Data["certificate"].(string); !strings.Contains(why,
					"prov.corp.example.com ends in") {
					t.Errorf("the timeline does not say why the device was shown its certificate: %s", why)
				}
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

// TestNuisances: what firmware does on a good day too, at a third of the
// requests. Every generation is managed at its first attempt all the same.
func TestNuisances(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	l.trust.load(t, l.ca.Plain("Second Root", "prov.corp.example.com"))
	var mu sync.Mutex
	var fired []string
	t.Cleanup(func() {
		for _, k := range []sim.Kind{sim.StaleNonce, sim.CloseAfter, sim.OddPieces, sim.SlowAnswer} {
			if !slices.Contains(fired, string(k)) {
				t.Errorf("nobody met with %s", k)
			}
		}
	})
	for i, name := range sim.Personalities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := l.in(t)
			l.engine.VerifyFor = patience
			d := l.device(name, sim.Faults{Nuisance: .33, Seed: uint64(i)})
			id := l.hello(d)
			dev := l.settle(l.engine, d)
			if dev.Lifecycle != store.Provisioned {
				t.Errorf("AMT %s: %s: %s: %s\n%s", name, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				return
			}
			l.invariants(d, dev)
			if err := l.db.Read(t.Context(), func(tx *store.Tx) error {
				run, err := tx.Run(t.Context(), id)
				if run.State != store.RunDone || run.Attempt != 1 {
					t.Errorf("AMT %s: %v: the first attempt was not the last: run %s after %d\n%s", name, d.Snapshot().FaultsFired,
						run.State, run.Attempt, l.journal(d))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			fired = append(fired, d.Snapshot().FaultsFired...)
			mu.Unlock()
		})
	}
}
