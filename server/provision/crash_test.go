package provision

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// calls names, for each step that speaks to the device, the request at which
// the simulator is told to misbehave.
var calls = []struct{ step, call string }{
	{"read_identity", "GetUuid"},
	{"extend_window", "ExtendProvisioningPeriod"},
	{"set_clock", "SetHighAccuracyTimeSynch"},
	{"set_mebx_password", "SetMEBxPassword"},
	{"set_admin_password", "SetAdminAclEntryEx"},
	{"set_host_name", "Put:AMT_GeneralSettings"},
	{"device_key", "GenerateKeyPair"},
	{"device_certificate", "AddCertificate"},
	{"use_certificate", "Create:AMT_TLSCredentialContext"},
	{"enable_tls", "Put:AMT_TLSSettingData"},
	{"commit", "CommitChanges"},
}

// disasters are what a device, or the line to it, does at a call. nth is the
// occurrence: what the setup asked for before counts.
var disasters = []struct {
	name string
	make func(call string, nth int) sim.Fault
}{
	{"not applied", fault(sim.CutBefore, "")},
	{"applied, reply lost", fault(sim.DropReply, "")},
	{"applied, reply cut", fault(sim.CutReply, "")},
	{"applied, reply garbled", fault(sim.Garble, "")},
	{"answer to another request", fault(sim.WrongRelate, "")},
	{"power lost, settings lost", fault(sim.PowerCycle, "lose")},
	{"power lost, settings kept", fault(sim.PowerCycle, "keep")},
	{"busy", fault(sim.Busy503, "")},
	{"unannounced challenge", fault(sim.Ask401, "")},
	{"slow", fault(sim.Delay, "30ms")},
}

func fault(kind sim.Kind, arg string) func(call string, nth int) sim.Fault {
	return func(call string, nth int) sim.Fault { return sim.Fault{Kind: kind, Call: call, Nth: nth, Arg: arg} }
}

// TestDeviceDisasters: each call to the device fails in each way, on both
// engines. The device ends managed, with every invariant held.
func TestDeviceDisasters(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range calls {
			for _, x := range disasters {
				t.Run(c.step+"/"+x.name, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					for _, personality := range []string{"11", "12-at-commit"} {
						d := l.device(personality, sim.With(x.make(c.call, 1)))
						l.hello(d)
						dev := l.settle(l.engine, d)
						if dev.Lifecycle != store.Provisioned {
							t.Errorf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
						}
						l.invariants(d, dev)
					}
				})
			}
		}
	})
}

// TestRefusals: a device that says no gets the reason an operator can act on,
// and keeps nothing the store does not know.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	for _, c := range []struct {
		name   string
		faults string
		want   reason.Code
		ends   store.Lifecycle
	}{
		{"another machine answers", "wrong_uuid", reason.UUIDMismatch, store.Quarantined},
		{"our certificate is refused", "refuse_cert#all", reason.TLSClientCertRefused, store.Failed},
		{"the MEBx password is refused", "refuse:SetMEBxPassword#all=2054", reason.MEBxPasswordRejected, store.Failed},
		{"the admin password is refused", "refuse:SetAdminAclEntryEx#all=2054", reason.AdminPasswordRejected, store.Failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := l.in(t)
			faults, err := sim.ParseFaults(c.faults)
			if err != nil {
				t.Fatal(err)
			}
			d := l.device("11", faults)
			l.hello(d)
			dev := l.settle(l.engine, d)
			if dev.Reason != c.want || dev.Lifecycle != c.ends {
				t.Errorf("got %s (%s: %s), want %s (%s)", dev.Lifecycle, dev.Reason, dev.Detail, c.ends, c.want)
			}
			l.invariants(d, dev)
		})
	}
}

// TestOurDisasters: the daemon is killed at each step before and after it wrote
// down what it is about to do, and after the device did it; the database is
// away for longer than a lease; a second node takes over while the first one
// stalls. Both engines.
func TestOurDisasters(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range calls[1:] {
			for _, when := range []string{"killed before recording", "killed after recording", "killed after applying", "database gone",
				"second node takes over"} {
				t.Run(c.step+"/"+when, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					d := l.device("11", sim.Faults{})
					id := l.hello(d)

					m, dev := l.survive(d, id, c.step, when, nil)
					if dev.Lifecycle != store.Provisioned {
						t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
					}
					if !m.hit.Load() {
						t.Errorf("the disaster did not happen")
					}
					if when == "second node takes over" {
						dev, _ = l.look(d) // what the first node did when it woke up
						if n := d.Snapshot().Commits; n != 1 {
							t.Errorf("committed %d times", n)
						}
						return
					}
					l.invariants(d, dev)
				})
			}
		}
	})
}

// survive has node-1 work a run until disaster strikes at a step, and node-2
// bring it to its end.
func (l *lab) survive(d *sim.Device, id int64, step, when string, clock Clock) (*mortal, store.Device) {
	e := l.newEngine("node-1")
	e.Lease, e.Margin = 1500*time.Millisecond, 300*time.Millisecond
	m := &mortal{Store: e.Store, step: step, when: when, resume: make(chan struct{})}
	e.Store = m
	dial := e.Dial
	e.Dial = func(ctx context.Context, t session.Target) (Device, error) {
		if m.dead.Load() {
			return nil, errDead
		}
		dev, err := dial(ctx, t)
		if err != nil {
			return nil, err
		}
		return &mortalDevice{Device: dev, m: m}, nil
	}
	e2 := l.newEngine("node-2")
	if clock != nil {
		e.Clock, e2.Clock = clock, clock
	}

	first := make(chan struct{})
	go func() {
		for {
			select {
			case <-first:
				return
			case <-time.After(e.Lease / 3):
				_ = e.Beat(context.WithoutCancel(l.t.Context()))
			}
		}
	}()
	go func() {
		defer close(first)
		// A machine that stands still for longer than the lease loses it, and the
		// run comes back, before the disaster as well.
		for ctx, id := context.WithoutCancel(l.t.Context()), id; id != 0; id = l.live(d) {
			_, _ = e.Work(ctx, id)
			if m.hit.Load() {
				return
			}
			_ = realClock{}.Sleep(ctx, 50*time.Millisecond)
		}
	}()
	if when == "second node takes over" {
		select {
		case <-m.stalled(first):
		case <-first:
		}
	} else {
		<-first
	}
	dev := l.settle(e2, d)
	close(m.resume)
	<-first
	return m, dev
}

// live is a device's run, 0 when none is under way.
func (l *lab) live(d *sim.Device) (id int64) {
	_ = l.db.Read(context.WithoutCancel(l.t.Context()), func(tx *store.Tx) error {
		r, err := tx.LiveRun(context.Background(), d.UUID())
		id = r.ID
		return err
	})
	return id
}

// in is the same lab for a subtest.
func (l *lab) in(t *testing.T) *lab {
	c := *l
	c.t = t
	c.engine = c.newEngine("node-" + strings.ReplaceAll(t.Name(), "/", "-"))
	return &c
}

var errDead = errors.New("this process is dead")

// mortal is a daemon's view of the store that ends at one step: after that
// moment nothing it does has any effect, as after kill -9.
type mortal struct {
	Store
	step, when string
	dead       atomic.Bool
	hit        atomic.Bool
	gone       atomic.Int64 // until when the database is away, unix nanoseconds
	resume     chan struct{}
}

// stalled is closed when the disaster has begun, or when there will be none.
func (m *mortal) stalled(over <-chan struct{}) chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		for !m.hit.Load() {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return c
}

// Renew stops with the process, and stalls with the machine.
func (m *mortal) Renew(ctx context.Context, l []Lease) ([]Lease, error) {
	if m.hit.Load() && m.when == "second node takes over" {
		<-m.resume
	}
	var lost []Lease
	err := m.around(nil, func() (err error) { lost, err = m.Store.Renew(ctx, l); return err })
	return lost, err
}

func (m *mortal) around(steps []store.StepRecord, write func() error) error {
	if m.dead.Load() {
		return errDead
	}
	if time.Now().UnixNano() < m.gone.Load() {
		return errors.New("the database is away")
	}
	here := len(steps) > 0 && steps[len(steps)-1].Name == m.step && steps[len(steps)-1].State == "started" && !m.hit.Load()
	if !here || m.when == "killed after applying" {
		return write()
	}
	m.hit.Store(true)
	switch m.when {
	case "killed before recording":
		m.dead.Store(true)
		return errDead
	case "killed after recording":
		_ = write()
		m.dead.Store(true)
		return errDead
	case "database gone":
		m.gone.Store(time.Now().Add(2 * time.Second).UnixNano())
		return errors.New("the database is away")
	case "second node takes over":
		<-m.resume // stalled, as by a long pause of the whole machine
	}
	return write()
}

func (m *mortal) Journal(ctx context.Context, l Lease, steps []store.StepRecord, f *Facts) error {
	return m.around(steps, func() error { return m.Store.Journal(ctx, l, steps, f) })
}

func (m *mortal) Sending(ctx context.Context, l Lease, steps []store.StepRecord, out Handout) error {
	return m.around(steps, func() error { return m.Store.Sending(ctx, l, steps, out) })
}

func (m *mortal) Settle(ctx context.Context, l Lease, v Verdict) error {
	return m.around(nil, func() error { return m.Store.Settle(ctx, l, v) })
}

func (m *mortal) Stage(ctx context.Context, l Lease, setup int, a, b amt.Secret) (x, y store.Credential, err error) {
	err = m.around(nil, func() error { x, y, err = m.Store.Stage(ctx, l, setup, a, b); return err })
	return x, y, err
}

// mortalDevice dies with its daemon, right after the device carried a call out.
type mortalDevice struct {
	Device
	m *mortal
}

func (d *mortalDevice) after(err error, steps ...string) error {
	if d.m.when == "killed after applying" && slices.Contains(steps, d.m.step) && !d.m.hit.Load() {
		d.m.hit.Store(true)
		d.m.dead.Store(true)
		_ = d.Close()
		return errDead
	}
	return err
}

func (d *mortalDevice) ExtendSetup(ctx context.Context, h int) error {
	return d.after(d.Device.ExtendSetup(ctx, h), "extend_window")
}
func (d *mortalDevice) SetClock(ctx context.Context) (time.Time, error) {
	t, err := d.Device.SetClock(ctx)
	return t, d.after(err, "set_clock", "check_clock")
}
func (d *mortalDevice) SetMEBxPassword(ctx context.Context, p amt.Secret) error {
	return d.after(d.Device.SetMEBxPassword(ctx, p), "set_mebx_password")
}
func (d *mortalDevice) SetAdminPassword(ctx context.Context, u, r string, p amt.Secret) error {
	return d.after(d.Device.SetAdminPassword(ctx, u, r, p), "set_admin_password", "change_password")
}
func (d *mortalDevice) SetHostName(ctx context.Context, h, n string) error {
	return d.after(d.Device.SetHostName(ctx, h, n), "set_host_name", "check_name")
}
func (d *mortalDevice) GenerateKey(ctx context.Context, b int) (string, error) {
	h, err := d.Device.GenerateKey(ctx, b)
	return h, d.after(err, "device_key", "renew_key")
}
func (d *mortalDevice) AddCertificate(ctx context.Context, der []byte) (string, error) {
	h, err := d.Device.AddCertificate(ctx, der)
	return h, d.after(err, "device_certificate", "renew_certificate")
}
func (d *mortalDevice) UseCertificate(ctx context.Context, h string) error {
	return d.after(d.Device.UseCertificate(ctx, h), "use_certificate", "use_renewed")
}
func (d *mortalDevice) EnableTLS(ctx context.Context, m bool, cn []string) error {
	return d.after(d.Device.EnableTLS(ctx, m, cn), "enable_tls", "restore_tls")
}
func (d *mortalDevice) Commit(ctx context.Context) error {
	return d.after(d.Device.Commit(ctx), "commit", "save_changes")
}
func (d *mortalDevice) Delete(ctx context.Context, h string) error {
	return d.after(d.Device.Delete(ctx, h), "drop_old_certificates")
}
func (d *mortalDevice) Unprovision(ctx context.Context, full bool) error {
	return d.after(d.Device.Unprovision(ctx, full), "unprovision")
}
