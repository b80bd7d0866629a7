package server

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// slow makes every answer of a device take a while, so that something can
// happen in the middle of a run.
func slow(c *sim.Config) { c.Latency = 60 * time.Millisecond }

// midRun waits until a run has begun to change the device.
func (l *lab) midRun(d *sim.Device) (run store.Run) {
	l.t.Helper()
	ok := waitFor(l.t, func() bool {
		found := false
		_ = l.s.DB.Read(context.Background(), func(tx *store.Tx) error {
			r, err := tx.LiveRun(context.Background(), d.UUID())
			if err != nil || r.State != store.RunRunning {
				return err
			}
			steps, err := tx.Steps(context.Background(), r.ID)
			run, found = r, len(steps) > 2
			return err
		})
		return found
	})
	if !ok {
		l.t.Fatalf("no run came under way\n%s", l.story(d.UUID()))
	}
	return run
}

// TestRetireStopsARun: a device retired in the middle of its setup is sent
// nothing after the run's next write, and stays retired.
func TestRetireStopsARun(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"retire", "quarantine"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, nil, func(t *testing.T, l *lab) {
				d := l.device(sim.Faults{}, slow)
				l.says(d)
				run := l.midRun(d)
				res, err := l.api.Act(t.Context(), verb, d.UUID().String(), "")
				if err != nil {
					t.Fatal(err)
				}
				want := store.Lifecycle(res.Device.Lifecycle)
				if want != store.Retired && want != store.Quarantined {
					t.Fatalf("it is %s after %s", want, verb)
				}
				// The call that was on its way may end; then the run sees its fence.
				if !waitFor(t, func() bool { return l.s.engine.Live() == 0 }) {
					t.Fatal("the run goes on")
				}
				after := d.Snapshot()
				l.says(d)
				dev := l.heard(d.UUID(), 2)
				if dev.Lifecycle != want {
					t.Errorf("it is %s: %s\n%s", dev.Lifecycle, dev.Reason, l.story(d.UUID()))
				}
				l.read(func(ctx context.Context, tx *store.Tx) error {
					r, err := tx.Run(ctx, run.ID)
					if err == nil && r.State != store.RunCancelled {
						t.Errorf("run %d is %s", r.ID, r.State)
					}
					return err
				})
				end := d.Snapshot()
				if end.Commits != 0 || end.Requests != after.Requests || end.State != amt.StateIn {
					t.Errorf("%d commits, %d requests after the stop, %s", end.Commits, end.Requests-after.Requests, end.State)
				}
				l.keeps(d)
			})
		})
	}
}

// TestRetiredInMidRunAndTakenBack: the next attempt begins only when the old
// one's lease is over, and ends with a managed device.
func TestRetiredInMidRunAndTakenBack(t *testing.T) {
	t.Parallel()
	// The second run waits until the first's lease is over.
	forEachEngine(t, func(o *Options) { o.Lease = 15 * time.Second }, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{}, slow)
		l.says(d)
		l.midRun(d)
		for _, verb := range []string{"retire", "restore"} {
			if _, err := l.api.Act(t.Context(), verb, d.UUID().String(), ""); err != nil {
				t.Fatal(err)
			}
		}
		l.says(d)
		l.untilState(d.UUID(), store.Provisioned)
		l.keeps(d)
		if s := d.Snapshot(); s.MaxInFlight > 1 || s.Commits != 1 {
			t.Errorf("%d requests at once, %d commits", s.MaxInFlight, s.Commits)
		}
	})
}

// TestApprovalAndRetryInMidRun change nothing about the run under way.
func TestApprovalAndRetryInMidRun(t *testing.T) {
	t.Parallel()
	forEachEngine(t, approveMode, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{}, slow)
		l.says(d)
		l.untilState(d.UUID(), store.PendingApproval)
		for range 3 { // the second and third are late
			if _, err := l.api.Act(t.Context(), "approve", d.UUID().String(), ""); err != nil {
				t.Fatal(err)
			}
		}
		run := l.midRun(d)
		for _, verb := range []string{"approve", "retry"} {
			if _, err := l.api.Act(t.Context(), verb, d.UUID().String(), ""); err != nil {
				t.Fatal(err)
			}
		}
		l.untilState(d.UUID(), store.Provisioned)
		l.read(func(ctx context.Context, tx *store.Tx) error {
			runs, err := tx.Runs(ctx, d.UUID(), 10)
			if len(runs) != 1 || runs[0].ID != run.ID {
				t.Errorf("%d runs", len(runs))
			}
			return err
		})
		if s := d.Snapshot(); s.Commits != 1 || s.MaxConcurrent > 1 {
			t.Errorf("%d commits, %d connections at once", s.Commits, s.MaxConcurrent)
		}
		l.keeps(d)
	})
}

// TestHellosAtEveryMoment: a device that never stops saying hello, from several
// connections at once, is set up once.
func TestHellosAtEveryMoment(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Limits.Connections = 32 }, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{}, func(c *sim.Config) { c.Latency = 10 * time.Millisecond })
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for n := uint32(0); ctx.Err() == nil; n++ {
					if s, _ := d.State(); s == amt.StatePost {
						return // firmware is silent from here on
					}
					_ = d.SayHello(ctx, l.s.HelloAddr().String())
				}
			})
		}
		dev := l.untilState(d.UUID(), store.Provisioned)
		stop()
		wg.Wait()
		s := d.Snapshot()
		if s.Commits != 1 || s.MaxInFlight > 1 {
			t.Errorf("%d commits, %d requests at once", s.Commits, s.MaxInFlight)
		}
		l.keeps(d)
		l.read(func(ctx context.Context, tx *store.Tx) error {
			runs, err := tx.Runs(ctx, d.UUID(), 10)
			if len(runs) != 1 {
				t.Errorf("%d runs after %d hellos\n%s", len(runs), dev.HelloCount, l.story(d.UUID()))
			}
			return err
		})
	})
}

// TestTheAddressChangesInMidRun: the run ends at the old address, the device is
// found at the new one, and nobody else is told its passwords.
func TestTheAddressChangesInMidRun(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{}, slow)
		l.says(d)
		l.midRun(d)
		moved := l.moved(d)
		l.says(moved)
		dev := l.untilState(d.UUID(), store.Provisioned)
		if dev.Address != moved.Addr().Addr() {
			t.Errorf("it is at %s, not %s", dev.Address, moved.Addr().Addr())
		}
		if dev.Reason != "" {
			t.Errorf("reason %s", dev.Reason)
		}
		l.keeps(moved)
		if s := moved.Snapshot(); s.Commits != 1 {
			t.Errorf("%d commits", s.Commits)
		}
	})
}

// moved is the same machine, switched off and on at another address.
func (l *lab) moved(d *sim.Device) *sim.Device {
	l.t.Helper()
	if err := d.Close(); err != nil {
		l.t.Fatal(err)
	}
	return l.device(sim.Faults{}, func(c *sim.Config) { c.UUID = d.UUID() })
}

// TestAnotherMachineUnderARun: the second of two machines with one UUID calls
// while the first is being set up. The first is set up where it is; the other is a
// stray, whatever roots it names, and moves nothing.
func TestAnotherMachineUnderARun(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{}, slow)
		l.says(d)
		l.midRun(d)
		l.hello(address(), d.UUID(), 0, amt.HashesOf([]byte("another board")))
		if !waitFor(t, func() bool { return slices.Contains(l.events(d.UUID()), "stray_hello") }) {
			t.Fatalf("nothing in the timeline\n%s", l.story(d.UUID()))
		}
		dev := l.untilState(d.UUID(), store.Provisioned)
		if dev.Address != d.Addr().Addr() || d.Snapshot().Commits != 1 {
			t.Errorf("it is at %s, not %s; %d commits\n%s", dev.Address, d.Addr().Addr(), d.Snapshot().Commits, l.story(d.UUID()))
		}
		l.keeps(d)
	})
}

// TestManyDevicesAtOnce on one daemon, each saying hello three times.
func TestManyDevicesAtOnce(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) {
		o.Workers, o.PerNetwork, o.AtOnce = 16, 4, 6
		o.BreakAfter = 1000 // a busy machine is no network that fails
	}, func(t *testing.T, l *lab) {
		const n = 24
		devices := make([]*sim.Device, n)
		var wg sync.WaitGroup
		for i := range devices {
			devices[i] = l.device(sim.Faults{}, func(c *sim.Config) { c.Latency = 5 * time.Millisecond })
			wg.Go(func() {
				for range 3 {
					_ = devices[i].SayHello(t.Context(), l.s.HelloAddr().String())
				}
			})
		}
		most := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				most = max(most, l.s.engine.Live())
				select {
				case <-t.Context().Done():
					return
				case <-time.After(2 * time.Millisecond):
				}
				managed := 0
				_ = l.s.DB.Read(context.Background(), func(tx *store.Tx) error {
					c, err := tx.CountDevices(context.Background())
					managed = c[store.Provisioned]
					return err
				})
				if managed == n {
					return
				}
			}
		}()
		wg.Wait()
		for _, d := range devices {
			l.untilState(d.UUID(), store.Provisioned)
			l.keeps(d)
		}
		<-done
		if most > 6 {
			t.Errorf("%d attempts at once, 6 are allowed", most)
		}
		t.Logf("at most %d attempts at once", most)
	})
}
