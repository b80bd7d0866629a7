package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
)

// fleetOptions are how a fleet runs and what it leaves behind.
type fleetOptions struct {
	deviceOptions
	devices                   int
	rate                      float64
	timeout, duration, settle time.Duration
	report, secrets           string
	json, stay, quiet         bool
}

func fleetCommand() *cobra.Command {
	o := &fleetOptions{}
	c := &cobra.Command{
		Use:   "fleet",
		Short: "Run many devices against a server until all are managed",
		Long: `Run many devices against a server until each is operational and somebody has
logged in to it with its new password. Ends with status 0 when all are.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	o.flags(f)
	f.IntVar(&o.devices, "devices", 25, "how many")
	f.Float64Var(&o.rate, "rate", 0, "devices that wake up a second; 0: all at once")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this long on devices that are not managed, without --stay")
	f.Bool("until-managed", true, "end when all are managed (the default; --duration and --stay change it)")
	f.DurationVar(&o.duration, "duration", 0, "run exactly this long instead of until all are managed")
	f.DurationVar(&o.settle, "settle", 2*time.Second, "stay this long after the last request, for what a server still wants to read")
	f.StringVar(&o.report, "report", "", "write a JSON report here (no secret is in it)")
	f.StringVar(&o.secrets, "secrets-file", "", "write what each device was told here, in clear (0600), for tests that compare passwords")
	f.BoolVar(&o.json, "json", false, "print the report instead of the table")
	f.BoolVar(&o.stay, "stay", false, "go on until interrupted, managed or not")
	f.BoolVar(&o.quiet, "quiet", false, "no live counts")
	return c
}

func (o *fleetOptions) run(ctx context.Context, out, progress io.Writer) error {
	devices, err := o.deviceOptions.devices(ctx, o.devices)
	if err != nil {
		return err
	}
	if o.quiet || o.json {
		progress = io.Discard
	}
	fmt.Fprintln(progress, o.mischief())
	fl, err := startFleet(ctx, devices, &o.deviceOptions, o.rate)
	if err != nil {
		return err
	}
	o.await(ctx, fl, progress)
	rep := fl.report()
	rep.FaultRate, rep.Seed = o.faultRate, o.seed
	if o.secrets != "" {
		if err := fl.writeSecrets(o.secrets); err != nil {
			return err
		}
	}
	fl.stop()
	if o.report != "" {
		if err := rep.writeFile(o.report); err != nil {
			return err
		}
	}
	if o.json {
		err = rep.write(out)
	} else {
		rep.table(out)
	}
	if err == nil && rep.Operational != rep.Devices {
		return errFailed
	}
	return err
}

// unmanagedPatience is how long operational devices wait in silence for a login
// that does not come, as when the server speaks to them in other ways.
const unmanagedPatience = 30 * time.Second

// await shows counts once a second until there is nothing more to wait for.
func (o *fleetOptions) await(ctx context.Context, fl *fleet, progress io.Writer) {
	limit := o.timeout
	if o.duration > 0 {
		limit = o.duration
	}
	enough := time.After(limit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var shown time.Time
	var last counts
	for {
		n := fl.counts()
		quiet := time.Since(n.lastRequest)
		done := n.managed == len(fl.devices) && n.open == 0 && quiet > o.settle ||
			n.states[amt.StatePost] == len(fl.devices) && quiet > max(o.settle, unmanagedPatience)
		if done && o.duration == 0 && !o.stay {
			return
		}
		if time.Since(shown) >= time.Second && n != last {
			fmt.Fprintf(progress, "%6.1fs  factory %d  setup %d  operational %d  managed %d of %d  (hellos %d, handshakes %d, requests "+
				"%d)\n",
				time.Since(fl.began).Seconds(), n.states[amt.StatePre], n.states[amt.StateIn], n.states[amt.StatePost], n.managed,
				len(fl.devices), n.hellos, n.handshakes, n.requests)
			shown, last = time.Now(), n
		}
		select {
		case <-ctx.Done():
			return
		case <-enough:
			if !o.stay || o.duration > 0 {
				return
			}
			enough = nil // whoever stays waits for its server, too
		case <-tick.C:
		}
	}
}

// fleet is devices under way.
type fleet struct {
	devices []*sim.Device
	began   time.Time
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// startFleet lets every device listen first, then wakes them at the rate asked
// for. A device goes on saying hello whenever it is in setup mode.
func startFleet(ctx context.Context, devices []*sim.Device, o *deviceOptions, rate float64) (*fleet, error) {
	ctx, cancel := context.WithCancel(ctx)
	fl := &fleet{devices: devices, cancel: cancel}
	for _, d := range devices {
		if err := d.Start(); err != nil {
			fl.stop()
			return nil, err
		}
	}
	fl.began = time.Now()
	fl.wg.Go(func() {
		for i, d := range devices {
			if rate > 0 {
				due := time.NewTimer(time.Until(fl.began.Add(time.Duration(float64(i) / rate * float64(time.Second)))))
				select {
				case <-due.C:
				case <-ctx.Done():
					due.Stop()
					return
				}
			}
			fl.wg.Go(func() {
				err := d.Live(ctx, o.server, o.scale)
				_ = errors.Is(err, context.Canceled) // every way a device ends shows in its report
			})
		}
	})
	return fl, nil
}

func (f *fleet) stop() {
	f.cancel()
	var wg sync.WaitGroup
	for _, d := range f.devices {
		wg.Go(func() { _ = d.Close() })
	}
	wg.Wait()
	f.wg.Wait()
}

type counts struct {
	states                       [3]int
	managed, open                int
	hellos, handshakes, requests int
	lastRequest                  time.Time
}

func (f *fleet) counts() counts {
	var n counts
	for _, d := range f.devices {
		b := d.Brief()
		n.states[b.State]++
		if b.State == amt.StatePost && !b.Managed.IsZero() {
			n.managed++
		}
		n.open += b.Open
		n.hellos += b.Hellos
		n.handshakes += b.Handshakes
		n.requests += b.Requests
		if b.LastRequest.After(n.lastRequest) {
			n.lastRequest = b.LastRequest
		}
	}
	return n
}
