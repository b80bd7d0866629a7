package provision

import (
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// managedCalls are the steps of managed devices that change something, with the
// request at which the simulator misbehaves: the setup made the first of most.
var managedCalls = []struct {
	step, call string
	nth        int
}{
	{"check_clock", "SetHighAccuracyTimeSynch", 2},
	{"check_name", "Put:AMT_GeneralSettings", 2},
	{"renew_key", "GenerateKeyPair", 2},
	{"renew_certificate", "AddCertificate", 2},
	{"use_renewed", "Put:AMT_TLSCredentialContext", 1},
	{"restore_tls", "Put:AMT_TLSSettingData", 2},
	{"save_changes", "CommitChanges", 2},
	{"drop_old_certificates", "Delete:AMT_PublicKeyCertificate", 1},
	{"change_password", "SetAdminAclEntryEx", 2},
}

const newName = "pc-77.corp.example.com"

// everythingDue sets a device up and lets two years pass: its clock, name,
// certificate, TLS settings and password are all to be changed.
func (l *lab) everythingDue(faults ...sim.Fault) (*sim.Device, Clock) {
	l.t.Helper()
	d := l.managed("11", func(c *sim.Config) { c.Faults = sim.With(faults...) })
	name := newName
	if err := l.db.Write(l.t.Context(), func(tx *store.Tx) error {
		return tx.UpdateDevice(l.t.Context(), d.UUID(), store.DeviceFacts{FQDN: &name})
	}); err != nil {
		l.t.Fatal(err)
	}
	l.again = true
	l.prof.TLS, l.prof.CertificateDays, l.prof.PasswordDays = profile.TLSMutual, 7000, 365
	l.prof.TrustedCN = []string{"console.lab.example"} // not ours
	return d, laterClock{realClock{}, 800 * 24 * time.Hour}
}

// maintained holds what must be true after a maintain run that came through.
func (l *lab) maintained(d *sim.Device, dev store.Device) {
	l.t.Helper()
	if dev.Lifecycle != store.Provisioned || dev.Reason != "" {
		l.t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		return
	}
	l.invariants(d, dev)
	snap := d.Snapshot()
	if got := snap.HostName; got != "pc-77" {
		l.t.Errorf("the device is called %q", got)
	}
	if c, takes := l.active(d); !takes || c.Generation < 2 {
		l.t.Errorf("the password is generation %d, taken: %t", c.Generation, takes)
	}
	if until := time.Until(dev.DeviceCertNotAfter); until < 6900*24*time.Hour {
		l.t.Errorf("the certificate is valid until %s", dev.DeviceCertNotAfter)
	}
	if n := l.ours(d); n != 1 {
		l.t.Errorf("%d certificates of ours are in the device", n)
	}
}

// TestMaintenanceDisasters: as TestDeviceDisasters, on a managed device with
// everything due.
func TestMaintenanceDisasters(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range managedCalls {
			for _, x := range disasters {
				t.Run(c.step+"/"+x.name, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					d, clock := l.everythingDue(x.make(c.call, c.nth))
					e := l.newEngine("later")
					e.Clock = clock
					l.order(d, KindMaintain, "")
					dev := l.settle(e, d)
					if len(d.Snapshot().FaultsFired) == 0 {
						t.Error("the disaster did not happen")
					}
					l.maintained(d, dev)
				})
			}
		}
	})
}

// TestOurMaintenanceDisasters: as TestOurDisasters, on a managed device.
func TestOurMaintenanceDisasters(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range append(managedCalls[:len(managedCalls):len(managedCalls)], struct {
			step, call string
			nth        int
		}{step: "stage_password"}) {
			for _, when := range []string{"killed before recording", "killed after recording", "killed after applying", "database gone",
				"second node takes over"} {
				if c.call == "" && when == "killed after applying" {
					continue // it changes nothing at the device
				}
				t.Run(c.step+"/"+when, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					d, clock := l.everythingDue()
					m, dev := l.survive(d, l.order(d, KindMaintain, ""), c.step, when, clock)
					if !m.hit.Load() {
						t.Error("the disaster did not happen")
					}
					if when == "second node takes over" {
						dev, _ = l.look(d)
					}
					l.maintained(d, dev)
				})
			}
		}
	})
}

// TestUnprovisionDisasters: whatever happens at the call, the device ends
// unprovisioned and the store knows, with its passwords kept.
func TestUnprovisionDisasters(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, mode := range []struct{ name, call string }{{"full", "Unprovision"}, {"partial", "PartialUnprovision"}} {
			check := func(l *lab, d *sim.Device, dev store.Device) {
				l.t.Helper()
				if state := d.Snapshot().State; dev.Lifecycle != store.Unprovisioned || state == amt.StatePost {
					l.t.Errorf("%s (device %s): %s: %s\n%s", dev.Lifecycle, state, dev.Reason, dev.Detail, l.journal(d))
				}
				if len(l.credentials(d, "")) != 2 {
					l.t.Errorf("%d passwords are kept", len(l.credentials(d, "")))
				}
			}
			for _, x := range disasters {
				t.Run(mode.name+"/"+x.name, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					d := l.managed("11", func(c *sim.Config) { c.Faults = sim.With(x.make(mode.call, 1)) })
					check(l, d, l.do(d, KindUnprovision, mode.name))
				})
			}
			for _, when := range []string{"killed before recording", "killed after recording", "killed after applying", "database gone",
				"second node takes over"} {
				t.Run(mode.name+"/"+when, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					d := l.managed("11")
					m, dev := l.survive(d, l.order(d, KindUnprovision, mode.name), "unprovision", when, nil)
					if !m.hit.Load() {
						t.Error("the disaster did not happen")
					}
					if when == "second node takes over" {
						dev, _ = l.look(d)
					}
					check(l, d, dev)
				})
			}
		}
	})
}

// TestRecoveryOfMutualTLS: the commit's answer is lost and the daemon with it;
// the device then wants a console's certificate and no longer the setup's.
func TestRecoveryOfMutualTLS(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.prof.TLS = profile.TLSMutual
		for _, when := range []string{"killed after recording", "killed after applying", "database gone"} {
			t.Run(when, func(t *testing.T) {
				l := l.in(t)
				d := l.device("11", sim.Faults{})
				m, dev := l.survive(d, l.hello(d), "commit", when, nil)
				if !m.hit.Load() || dev.Lifecycle != store.Provisioned {
					t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				l.invariants(d, dev)
			})
		}
	})
}
