package provision

import (
	"context"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// asking are the steps that change nothing at the device, with the request each
// lives by and which one of its kind that is.
var asking = []struct {
	step, call string
	nth        int
}{
	{"prove_identity", "Get:AMT_SetupAndConfigurationService", 1}, // the one-time password is in its answer
	{"verify_login", "Get:AMT_SetupAndConfigurationService", 2},
	{"read_record", "IPS_TLSProvisioningRecord", 1},
}

const oneTime = "One-time-7"

// announced gives a device the one-time password that its agent left in it.
func (l *lab) announced(d *sim.Device) {
	l.t.Helper()
	ctx := l.t.Context()
	if err := l.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.CreateOTP(ctx, store.OTP{UUID: d.UUID(), Password: amt.NewSecret(oneTime), IssuedTo: "agent",
			ExpiresAt: tx.Now().Add(time.Hour)})
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
}

// TestDeviceDisastersWhileAsking: as TestDeviceDisasters, at the steps that only
// ask.
func TestDeviceDisastersWhileAsking(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range asking {
			for _, x := range disasters {
				t.Run(c.step+"/"+x.name, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					d := l.device("11", sim.With(x.make(c.call, c.nth)), func(c *sim.Config) { c.OTP = oneTime })
					l.announced(d)
					l.hello(d)
					dev := l.settle(l.engine, d)
					if dev.Lifecycle != store.Provisioned {
						t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
					}
					if n := len(d.Snapshot().FaultsFired); n != 1 {
						t.Errorf("%d disasters happened, want 1", n)
					}
					l.invariants(d, dev)
				})
			}
		}
	})
}

// TestOurDisastersWhileAsking: as TestOurDisasters, at the steps that only ask:
// the daemon is killed before it asks, while the device answers and when it has
// the answer; the database goes away, or a second node takes over, in between.
func TestOurDisastersWhileAsking(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range asking {
			for _, when := range []string{"killed before asking", "killed while it answers", "killed after the answer", "database gone",
				"second node takes over"} {
				t.Run(c.step+"/"+when, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					d := l.device("11", sim.Faults{}, func(c *sim.Config) { c.OTP = oneTime })
					l.announced(d)
					m, dev := l.survive(d, l.hello(d), c.step, when, nil)
					if dev.Lifecycle != store.Provisioned {
						t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
					}
					if !m.hit.Load() {
						t.Error("the disaster did not happen")
					}
					if dev, _ = l.look(d); dev.Lifecycle != store.Provisioned {
						t.Errorf("afterwards: %s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
					}
					l.invariants(d, dev)
				})
			}
		}
	})
}

// asked is a question of a step that only asks, and what may happen around it.
func (d *mortalDevice) asked(step string, ask func() error) error {
	m := d.m
	if m.step != step || m.hit.Load() {
		return ask()
	}
	m.hit.Store(true)
	die := func() error {
		m.dead.Store(true)
		_ = d.Close()
		return errDead
	}
	switch m.when {
	case "killed before asking":
		return die()
	case "killed while it answers":
		_ = ask()
		return die()
	case "killed after the answer":
		err := ask()
		_ = die() // nothing the step makes of it comes anywhere
		return err
	case "database gone":
		m.gone.Store(time.Now().Add(2 * time.Second).UnixNano())
	case "second node takes over":
		<-m.resume
	}
	return ask()
}

func (d *mortalDevice) Identify(ctx context.Context) (id session.Identity, err error) {
	err = d.asked("prove_identity", func() error { id, err = d.Device.Identify(ctx); return err })
	return id, err
}

func (d *mortalDevice) State(ctx context.Context) (s amt.ProvisioningState, err error) {
	err = d.asked("verify_login", func() error { s, err = d.Device.State(ctx); return err })
	return s, err
}

func (d *mortalDevice) ProvisioningRecord(ctx context.Context) (r session.Record, err error) {
	err = d.asked("read_record", func() error { r, err = d.Device.ProvisioningRecord(ctx); return err })
	return r, err
}
