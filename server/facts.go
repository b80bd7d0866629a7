package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

const (
	factsEvery    = 10 * time.Second
	factsFresh    = 500 * time.Millisecond // a scrape that finds older figures reads again
	factsPatience = 2 * time.Second        // the longest wait of a scrape for that
	factsLast     = time.Minute            // a scrape leaves out older figures
	factsFew      = 10_000                 // above this fleet size scrapes never trigger a count
	factsRest     = 20                     // and the timer rests for so many times the length of the last count
	factsLongest  = time.Minute            // the longest time for a reading
	factsFirst    = time.Second            // the longest wait of the start for the first reading
	auditEvery    = time.Hour
)

// facts are the figures that only the database knows. The timer reads them, and
// a scrape does so too while the database answered last time: a database that
// hangs must not take /metrics with it, which is how people learn that it
// hangs. Counting a million devices takes seconds. Then a scrape shows the last
// count with its age, and counting takes a twentieth of the time.
type facts struct {
	certificates func() []*certs.Provisioning
	read         func(context.Context) (store.Facts, error)

	reading sync.Mutex // only one goroutine reads at a time

	mu     sync.Mutex
	last   store.Facts
	at     time.Time
	took   time.Duration // of the last reading
	failed bool          // the last reading failed
}

// large reports whether counting the fleet takes long; mu is held.
func (f *facts) large() bool {
	n := 0
	for _, of := range f.last.Lifecycle {
		n += of
	}
	return n > factsFew
}

// refresh reads the figures again, unless the timer rests; a second caller does
// not wait for the first.
func (f *facts) refresh(ctx context.Context) error {
	if !f.reading.TryLock() {
		return nil
	}
	defer f.reading.Unlock()
	f.mu.Lock()
	rests := !f.failed && f.large() && time.Since(f.at) < factsRest*f.took
	f.mu.Unlock()
	if rests {
		return nil
	}
	began := time.Now()
	got, err := f.read(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = err != nil
	if err == nil {
		f.last, f.at, f.took = got, time.Now(), time.Since(began)
	}
	return err
}

// now returns the figures for a scrape, when they were read, and whether they
// are recent enough.
func (f *facts) now() (last store.Facts, at time.Time, good bool) {
	f.mu.Lock()
	stale := !f.failed && !f.large() && time.Since(f.at) > factsFresh
	f.mu.Unlock()
	if stale {
		ctx, cancel := context.WithTimeout(context.Background(), factsPatience)
		defer cancel()
		_ = f.refresh(ctx) // the timer's next reading logs the error
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, f.at, !f.at.IsZero() && time.Since(f.at) < max(factsLast, 3*factsRest*f.took)
}

func gaugeDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("provisiond_"+name, help, labels, nil)
}

// mostCertificates bounds the label cert; nobody uses as many.
const mostCertificates = 50

type factsDescs struct {
	devices, health, secrets, depth, running, expiring, lost, stopped, backup, bytes, clock, age, notAfter, usable *prometheus.Desc
}

func newFactsDescs() factsDescs {
	return factsDescs{
		devices:  gaugeDesc("devices", "Devices by lifecycle.", "state"),
		health:   gaugeDesc("devices_by_health", "Devices that are not retired, by health.", "health"),
		secrets:  gaugeDesc("secret_versions", "Passwords kept, by state.", "state"),
		depth:    gaugeDesc("queue_depth", "Runs that could be worked on now and wait for a worker."),
		running:  gaugeDesc("oldest_run_age_seconds", "How long the run that has been under way longest has taken; 0 when none is."),
		expiring: gaugeDesc("device_certificates_expiring", "Managed devices whose own certificate ends within 30 days."),
		lost:     gaugeDesc("devices_lost", "Managed devices that were changed and have not answered since."),
		stopped:  gaugeDesc("jobs_stopped", "Jobs that a lost or unproved device stopped, and that wait for a person."),
		backup:   gaugeDesc("backup_last_success_timestamp_seconds", "Unix time of the last backup; 0 when there was none."),
		bytes:    gaugeDesc("store_size_bytes", "Size of the database."),
		clock:    gaugeDesc("clock_offset_seconds", "This node's clock less the database's; 0 on SQLite, which has none of its own."),
		age: gaugeDesc("facts_age_seconds", "How long ago the figures that only the database knows were read: devices, passwords, the "+
			"queue's depth. A large fleet is counted seldom."),
		notAfter: gaugeDesc("provisioning_certificate_not_after_timestamp_seconds",
			"Unix time when a provisioning certificate in use expires.",
			"cert"),
		usable: gaugeDesc("provisioning_certificate_usable", "1 when nothing keeps a provisioning certificate from being used.", "cert"),
	}
}

// A factsCollector shows facts in a scrape.
type factsCollector struct {
	*facts
	d factsDescs
}

func (c factsCollector) Describe(ch chan<- *prometheus.Desc) {
	d := c.d
	for _, desc := range []*prometheus.Desc{d.devices, d.health, d.secrets, d.depth, d.running, d.expiring, d.lost, d.stopped, d.backup,
		d.bytes, d.clock, d.age, d.notAfter, d.usable} {
		ch <- desc
	}
}

func (c factsCollector) Collect(ch chan<- prometheus.Metric) {
	show := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	shown := map[string]bool{}
	for i, p := range c.certificates() {
		if shown[p.ID] || i == mostCertificates {
			continue
		}
		// Use the name, for readable alerts; a second certificate of the same name adds
		// its id.
		name := p.Name
		if shown[name] {
			name += " " + p.ID
		}
		shown[p.ID], shown[name] = true, true
		show(c.d.notAfter, float64(p.Leaf.NotAfter.Unix()), name)
		usable := 0.0
		if p.Serving(time.Now()) {
			usable = 1
		}
		show(c.d.usable, usable, name)
	}
	f, at, good := c.now()
	if !good {
		return // provisiond_store_up says why
	}
	show(c.d.age, time.Since(at).Seconds())
	for _, l := range store.Lifecycles() {
		show(c.d.devices, float64(f.Lifecycle[l]), string(l))
	}
	for _, h := range []string{"ok", "warn", "unreachable"} {
		show(c.d.health, float64(f.Health[h]), h)
	}
	show(c.d.health, float64(f.Health[""]), "unknown")
	for _, s := range []string{"candidate", "active", "retired"} {
		show(c.d.secrets, float64(f.Secrets[s]), s)
	}
	show(c.d.depth, float64(f.Due))
	show(c.d.running, f.OldestRunning.Seconds())
	show(c.d.expiring, float64(f.ExpiringCerts))
	show(c.d.lost, float64(f.Lost))
	show(c.d.stopped, float64(f.Stopped))
	backup := 0.0
	if !f.Backup.IsZero() {
		backup = float64(f.Backup.Unix())
	}
	show(c.d.backup, backup)
	show(c.d.bytes, float64(f.Bytes))
	show(c.d.clock, f.ClockOffset.Seconds())
}

// startFacts reads the figures, so that the first scrape has them, but does not
// hold up the start for long. Then the timer reads them, and verifies the audit
// chain beside that.
func (s *Server) startFacts(ctx context.Context) {
	f := &facts{certificates: func() []*certs.Provisioning {
		if s.Trust == nil {
			return nil
		}
		return s.Trust.All()
	}, read: s.DB.Facts}
	s.pingStore(ctx)
	s.metrics.reg.MustRegister(factsCollector{f, newFactsDescs()})

	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	first := make(chan struct{})
	wg.Go(func() { repeat(run, factsEvery, func() { s.pingStore(run) }) })
	wg.Go(func() {
		s.readFacts(run, f)
		close(first)
		repeat(run, factsEvery, func() { s.readFacts(run, f) })
	})
	wg.Go(func() {
		s.checkAudit(run)
		repeat(run, auditEvery, func() { s.checkAudit(run) })
	})
	s.onStop("the figures", func(context.Context) error {
		cancel()
		wg.Wait()
		return nil
	})
	patience := time.NewTimer(factsFirst)
	defer patience.Stop()
	select {
	case <-first:
	case <-patience.C:
	case <-ctx.Done():
	}
}

func repeat(ctx context.Context, every time.Duration, do func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// pingStore sets provisiond_store_up.
func (s *Server) pingStore(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, factsEvery)
	defer cancel()
	if err := s.DB.Ping(ctx); err != nil && !errors.Is(err, context.Canceled) {
		s.log.Warn("store.down", zap.Error(err))
	}
}

func (s *Server) readFacts(ctx context.Context, f *facts) {
	ctx, cancel := context.WithTimeout(ctx, factsLongest)
	defer cancel()
	err := f.refresh(ctx)
	if err == nil || errors.Is(err, context.Canceled) || s.DB.Ping(ctx) != nil {
		return // pingStore logs a database that is down
	}
	s.log.Warn("figures", zap.Error(err))
}

// checkAudit verifies the audit chain. A break is an incident, not a fault of
// the store: checkAudit logs it as an error and changes nothing.
func (s *Server) checkAudit(ctx context.Context) {
	n, err := s.DB.CheckAudit(ctx)
	var broken *store.AuditError
	switch {
	case errors.As(err, &broken):
		s.log.Error("audit.broken", zap.Int64("record", broken.Seq), zap.String("problem", broken.Problem))
	case err != nil && !errors.Is(err, context.Canceled):
		s.log.Warn("audit.not_verified", zap.Error(err))
	case err == nil:
		s.log.Debug("audit.verified", zap.Int64("records", n))
	}
}
