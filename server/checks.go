package server

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/doctor"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/store"
)

// checks is the doctor inside the daemon: on a timer, over the API, as metrics,
// and as an event when a check begins to fail or succeeds again.
type checks struct {
	s       *Server
	doctor  *doctor.Doctor
	metrics *doctor.Metrics
	started time.Time
	scraped atomic.Pointer[time.Time]

	mu   sync.Mutex // held during a round, so that two callers share one
	last atomic.Pointer[round]
}

type round struct {
	report doctor.Report
	at     time.Time
}

func (s *Server) newChecks() *checks {
	c := &checks{s: s, metrics: doctor.NewMetrics(s.o.Registry), started: s.o.Now()}
	d := s.o.Doctor
	d.HelloListen = s.HelloAddr().String()
	d.Descriptors = func() (few string, known bool) { return s.fds.complaint, mayOpen() != 0 }
	d.Certificates = func() ([]*certs.Provisioning, []error) { return s.Trust.All(), nil }
	d.Running = func(context.Context) doctor.Daemon {
		out := doctor.Daemon{Up: true, Since: c.started}
		if t := c.scraped.Load(); t != nil {
			out.Scraped = *t
		}
		return out
	}
	if d.Look == nil {
		d.Look = func(ctx context.Context) (store.Survey, error) {
			return store.Look(ctx, store.Options{URL: s.o.DatabaseURL, Dir: s.o.DataDir}), nil
		}
	}
	c.doctor = doctor.New(d)
	s.o.Registry.MustRegister(c)
	return c
}

// Describe and Collect make checks a collector without a metric: Prometheus
// calls it at a scrape, and it remembers that.
func (*checks) Describe(chan<- *prometheus.Desc) {}

func (c *checks) Collect(chan<- prometheus.Metric) {
	now := c.s.o.Now()
	c.scraped.Store(&now)
}

// checkSoon is how soon after the start the first round comes.
const checkSoon = 15 * time.Second

// every makes the rounds. The timer is shorter than the interval, so that the
// first round comes soon after the start.
func (c *checks) every() {
	interval := c.s.o.DoctorInterval
	if interval <= 0 {
		return
	}
	c.s.queue.Every("doctor", min(interval, checkSoon), func(ctx context.Context) error {
		if last := c.last.Load(); last != nil && time.Since(last.at) < interval {
			return nil
		}
		_, err := c.run(ctx)
		return err
	})
}

// run makes a round. A caller who comes during a round gets that round's
// answer.
func (c *checks) run(ctx context.Context) (api.DoctorReport, error) {
	asked := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.last.Load()
	if before != nil && before.at.After(asked) {
		return c.report(), nil
	}
	report, found := c.doctor.Run(ctx)
	if err := ctx.Err(); err != nil {
		return api.DoctorReport{}, err
	}
	now := time.Now()
	c.last.Store(&round{report, now})
	c.metrics.Saw(report, found, now)
	c.s.log.Info("doctor.ran", zap.String("worst", string(report.Worst())), zap.Duration("took", now.Sub(asked)))
	if err := c.tell(ctx, before, report); err != nil {
		return c.report(), fmt.Errorf("write down what the doctor found: %w", err)
	}
	return c.report(), nil
}

// tell writes an event for each check that has begun to fail since the last
// round, and for each that succeeds again.
func (c *checks) tell(ctx context.Context, before *round, now doctor.Report) error {
	failed := map[string]bool{}
	if before != nil {
		for _, k := range before.report.Checks {
			failed[k.Name] = k.Status == doctor.Fail
		}
	}
	var events []store.Event
	for _, k := range now.Checks {
		line, _, _ := strings.Cut(k.Detail, "\n")
		e := store.Event{Name: "doctor.failed", Detail: k.Name + ": " + line, Actor: "doctor",
			Data: map[string]any{"check": k.Name, "status": string(k.Status), "node": c.s.node}}
		switch {
		case k.Status == doctor.Fail && !failed[k.Name]:
			c.s.log.Warn("doctor.failed", zap.String("check", k.Name), zap.String("detail", k.Detail))
		case k.Status != doctor.Fail && failed[k.Name]:
			e.Name = "doctor.recovered"
			c.s.log.Info("doctor.recovered", zap.String("check", k.Name))
		default:
			continue
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		return nil
	}
	return c.s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, e := range events {
			if _, err := tx.AddEvent(ctx, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// report is the last round in the API's form.
func (c *checks) report() api.DoctorReport {
	out := api.DoctorReport{Checks: []api.DoctorCheck{}, Worst: string(doctor.Pass), Node: c.s.o.Node, Started: &c.started,
		Scraped: c.scraped.Load()}
	if last := c.last.Load(); last != nil {
		out.At, out.Worst = &last.at, string(last.report.Worst())
		for _, k := range last.report.Checks {
			out.Checks = append(out.Checks, api.DoctorCheck{Name: k.Name, Status: string(k.Status), Detail: k.Detail, Hint: k.Hint})
		}
	}
	return out
}

func (c *checks) api() rest.Doctor { return rest.Doctor{Last: c.report, Run: c.run} }
