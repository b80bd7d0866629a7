package provision

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// errand is one kind of run, and what comes before it.
type errand struct {
	name  string
	real  func(*lab) *sim.Device
	begin func(l *lab, real *sim.Device, relay *sim.Relay)
}

func errands() []errand {
	managed := func(l *lab) *sim.Device { return l.managed("11") }
	of := func(kind, task string) errand {
		return errand{strings.TrimSpace(kind + " " + task), managed, func(l *lab, real *sim.Device, relay *sim.Relay) {
			l.meets(real, relay.From)
			l.order(real, kind, task)
		}}
	}
	return []errand{
		{"provision", func(l *lab) *sim.Device { return l.device("11", sim.Faults{}) }, func(l *lab, real *sim.Device, relay *sim.Relay) {
			l.claims(real.UUID(), relay.From, "hello")
		}},
		{"provision, wants a login too", func(l *lab) *sim.Device {
			return l.device("11", sim.Faults{}, func(c *sim.Config) { c.Tune = func(p *sim.Personality) { p.AsksDigest = true } })
		}, func(l *lab, real *sim.Device, relay *sim.Relay) { l.claims(real.UUID(), relay.From, "hello") }},
		{"approved again", managed, func(l *lab, real *sim.Device, relay *sim.Relay) { l.claims(real.UUID(), relay.From, "api") }},
		{"adopted", func(l *lab) *sim.Device { return newLab(l.t, store.SQLite).managed("11") }, func(l *lab, real *sim.Device, relay *sim.Relay) {
			l.imported(real, "Known-Pass-1!")
			l.meets(real, relay.From, func(f *store.DeviceFacts) { f.Vouched = &[]byte{} })
		}},
		of(KindMaintain, ""), of(KindRotate, ""),
		of(KindUnprovision, "partial"), of(KindUnprovision, "full"), of(KindUnprovision, "decommission"),
	}
}

// strangers are the peers that are not the device: each stands at the relay's
// address and returns what takes it away.
func strangers() map[string]func(*lab, *sim.Device, *sim.Relay) func() {
	stands := func(change func(l *lab, real *sim.Device, m *sim.MiddleConfig)) func(*lab, *sim.Device, *sim.Relay) func() {
		return func(l *lab, real *sim.Device, relay *sim.Relay) func() {
			cfg := sim.MiddleConfig{Relay: relay}
			change(l, real, &cfg)
			m := l.stands(cfg)
			return func() { _ = m.Close() }
		}
	}
	pretends := func(asks string, greedy, factory bool) func(*lab, *sim.Device, *sim.Relay) func() {
		return func(l *lab, real *sim.Device, relay *sim.Relay) func() {
			relay.Greedy = greedy
			d := l.device("11", sim.Faults{}, func(cfg *sim.Config) {
				cfg.UUID, cfg.Addr, cfg.Realm, cfg.Rogue, cfg.Asks = real.UUID(), relay.From, real.Realm(), relay, asks
				cfg.Tune = func(p *sim.Personality) { p.AsksDigest, p.NewSelfSign = asks == "", factory }
			})
			return func() { _ = d.Close() }
		}
	}
	return map[string]func(*lab, *sim.Device, *sim.Relay) func(){
		"asks for a login": stands(func(*lab, *sim.Device, *sim.MiddleConfig) {}),
		"asks without a qop": stands(func(_ *lab, _ *sim.Device, m *sim.MiddleConfig) {
			m.Relay.Rewrite = func(s string) string { return strings.Replace(s, `,qop="auth"`, "", 1) }
		}),
		"wants our certificate, then a login": stands(func(_ *lab, _ *sim.Device, m *sim.MiddleConfig) {
			m.AsksCertificate, m.Relay.Greedy = true, true
		}),
		"holds a certificate in the device's name": stands(func(l *lab, real *sim.Device, m *sim.MiddleConfig) {
			m.Certificate = l.ownCertificate(real, "the very name")
		}),
		"holds one, and wants ours": stands(func(l *lab, real *sim.Device, m *sim.MiddleConfig) {
			m.Certificate, m.AsksCertificate = l.ownCertificate(real, "the very name"), true
		}),
		"lets the set-up pass": stands(func(_ *lab, _ *sim.Device, m *sim.MiddleConfig) { m.Passes = m.Relay.UntilOpen }),
		"turns in the middle of a conversation": stands(func(_ *lab, _ *sim.Device, m *sim.MiddleConfig) {
			var n atomic.Int64
			m.Passes = func(int) int {
				if n.Add(1) == 1 {
					return 5000
				}
				return sim.None
			}
		}),
		"plays a device and asks":                       pretends("", false, false),
		"plays a device and wants more":                 pretends("", true, false),
		"plays a device, asks once it has a password":   pretends(setAdminCall, true, true),
		"plays a device, asks once it was committed":    pretends("CommitChanges", true, false),
		"plays a device and is content once it is ours": pretends("CommitChanges", false, false),
	}
}

// TestNobodyElse crosses every kind of run with every peer that is not the device:
// the real one is never opened by anybody but us, no answer made with a password
// that it holds, held or gets later reaches the other, nothing is lost, and once
// the other is gone the device is managed as before.
func TestNobodyElse(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	for _, e := range errands() {
		for who, stand := range strangers() {
			t.Run(e.name+"/"+who, func(t *testing.T) {
				t.Parallel()
				l := l.in(t)
				if e.name == "adopted" {
					l = newLab(t, store.SQLite) // which has not set it up
				}
				real := e.real(l)
				relay := l.relay(real)
				leave := stand(l, real, relay)
				e.begin(l, real, relay)
				l.tries(real, 4)
				l.untaken(real, relay)
				leave()
				if t.Failed() {
					return
				}

				// The device itself is back.
				l.meets(real, real.Addr().Addr())
				switch state, _ := real.State(); {
				case e.name == "adopted" || strings.HasPrefix(e.name, KindUnprovision):
					l.tries(real, 3)
				case state == amt.StateIn:
					if _, live := l.look(real); live == 0 {
						l.claims(real.UUID(), real.Addr().Addr(), "hello")
					}
					l.backs(real)
				default:
					if _, live := l.look(real); live == 0 {
						l.order(real, KindRotate, "")
					}
					l.backs(real)
					if dev := l.do(real, KindRotate, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
						t.Errorf("its next rotation: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(real))
					}
				}
				l.untaken(real, relay)
				if e.name != "adopted" && !l.holdsAny(real) && !real.AcceptsAdmin("admin", "admin") {
					t.Errorf("the device's password is lost\n%s", l.journal(real))
				}
			})
		}
	}
}

// backs settles a device that a stranger stood before.
func (l *lab) backs(d *sim.Device) {
	l.t.Helper()
	if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
		l.t.Errorf("once it is back: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
	} else if _, takes := l.active(d); !takes {
		l.t.Errorf("once it is back it refuses its active password\n%s", l.journal(d))
	}
}
