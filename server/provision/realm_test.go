package provision

import (
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestRealmOfAnotherDevice: a device with the digest realm of a known one is
// told nothing, and both timelines say so; a person's word, or the retirement of
// the other, lets it in.
func TestRealmOfAnotherDevice(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for name, realm := range map[string]string{"Digest": "",
			"of AMT 2 and 3": "Intel(R) AMT (ID:8f0d4a6c-1a2b-4c3d-9e8f-001122334455)"} {
			t.Run(name, func(t *testing.T) {
				victim := l.device("11", sim.Faults{}, func(c *sim.Config) { c.Realm = realm })
				l.hello(victim)
				if dev := l.settle(l.engine, victim); dev.Lifecycle != store.Provisioned {
					t.Fatalf("%s: %s", dev.Reason, dev.Detail)
				}
				copied := func(c *sim.Config) { c.Realm = victim.Realm() }
				for _, way := range []string{"released", "approved", "the other retired"} {
					d := l.device("11", sim.Faults{}, copied)
					l.hello(d)
					dev := l.settle(l.engine, d)
					if s := d.Snapshot(); dev.Lifecycle != store.Quarantined || dev.Reason != reason.IdentityConflict ||
						len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 {
						t.Errorf("%s: %s: it was told %d passwords", dev.Lifecycle, dev.Reason, len(s.SecretsSeen)+len(s.AdminHA1Seen))
					}
					if dev.Realm != "" || !strings.Contains(dev.Detail, victim.UUID().String()) {
						t.Errorf("the realm %q was kept as its own, or the detail does not name the other: %s", dev.Realm, dev.Detail)
					}
					for _, u := range []amt.UUID{d.UUID(), victim.UUID()} {
						if e := l.newest(u, "realm_conflict"); !strings.Contains(e.Detail, d.UUID().String()) ||
							!strings.Contains(e.Detail, victim.UUID().String()) {
							t.Errorf("the timeline of %s does not name both: %q", u, e.Detail)
						}
					}
					say := store.Transition{UUID: d.UUID(), To: store.Discovered, Event: way, Actor: "user:a"}
					if way == "the other retired" {
						say = store.Transition{UUID: victim.UUID(), To: store.Retired, Event: "retired", Actor: "user:a"}
					}
					if err := l.db.Write(t.Context(), func(tx *store.Tx) error { return tx.Transition(t.Context(), say) }); err != nil {
						t.Fatal(err)
					}
					l.hello(d)
					if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
						t.Errorf("%s, and it ends as %s: %s: %s", way, dev.Lifecycle, dev.Reason, dev.Detail)
					}
					// The next one meets the victim only.
					if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
						return tx.Transition(t.Context(),
							store.Transition{UUID: d.UUID(), To: store.Retired, Event: "retired", Actor: "user:a"})
					}); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	})
}

// TestShortRealmsAreShared: firmware whose realm has few random bits is no
// impostor when two devices have the same.
func TestShortRealmsAreShared(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	for range 2 {
		d := l.device("9", sim.Faults{}, func(c *sim.Config) { c.Realm = "Digest:A4070000000000000000000000000000" })
		l.hello(d)
		if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
			t.Errorf("%s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
		}
	}
}

func (l *lab) newest(u amt.UUID, name string) (e store.Event) {
	l.t.Helper()
	if err := l.db.Read(l.t.Context(), func(tx *store.Tx) error {
		list, err := tx.Events(l.t.Context(), store.EventFilter{UUID: u, Name: name, Newest: true, Limit: 1})
		if len(list) > 0 {
			e = list[0]
		}
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return e
}
