package server

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// Limits are asked in the transaction that would claim a device, so that all
// nodes on one database count the same leases. A run that has to wait keeps its
// place: its job sleeps some seconds and asks again.

// networkOf is the unit of limits and breakers: a /24 or a /64.
func networkOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return netip.Prefix{}
	}
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// probeHour is how long a device is left alone after it refused our passwords:
// three tries an hour lock nobody out.
const probeHour = time.Hour

// journal is embedded under this name, since it has a method Journal.
type journal = provision.Journal

// limited is the journal with limits around it.
type limited struct {
	*journal
	s *Server

	mu       sync.Mutex
	networks map[int64]netip.Prefix // of the runs under way here
}

func newLimited(s *Server, j *provision.Journal) *limited {
	l := &limited{journal: j, s: s, networks: map[int64]netip.Prefix{}}
	j.Hold = l.hold
	return l
}

// Claim remembers whose network an attempt is in.
func (l *limited) Claim(ctx context.Context, runID int64, lease time.Duration) (*provision.Job, error) {
	job, err := l.journal.Claim(ctx, runID, lease)
	if job != nil {
		l.mu.Lock()
		l.networks[runID] = networkOf(job.Device.Address)
		l.mu.Unlock()
	}
	return job, err
}

// Settle tells the breaker how an attempt ended.
func (l *limited) Settle(ctx context.Context, lease provision.Lease, v provision.Verdict) error {
	err := l.journal.Settle(ctx, lease, v)
	if err != nil && !errors.Is(err, store.ErrFenced) {
		return err // it is tried again
	}
	l.mu.Lock()
	network := l.networks[lease.RunID]
	delete(l.networks, lease.RunID)
	l.mu.Unlock()
	if err == nil {
		l.s.breaker.ended(ctx, network, v.OK, v.Blame == reason.TheNet)
	}
	return err
}

// hold says until when a run has to wait, zero for not at all.
func (l *limited) hold(ctx context.Context, tx *store.Tx, runID int64) (time.Time, error) {
	run, err := tx.Run(ctx, runID)
	if err != nil || !run.Live() {
		return time.Time{}, nil //nolint:nilerr // the claim itself says what is wrong
	}
	d, err := tx.Device(ctx, run.UUID)
	if err != nil {
		return time.Time{}, err
	}
	now := tx.Now()
	if until, err := refusedLately(ctx, tx, run, now); err != nil || !until.IsZero() {
		return until, err
	}
	network := networkOf(d.Address)
	if wait := l.s.breaker.wait(network); wait > 0 {
		until := now.Add(wait + jitter(2*time.Second))
		return until, tx.PostponeRun(ctx, runID, until) // seen as what it is: put off
	}
	for _, lim := range []struct {
		most    int
		network netip.Prefix
		key     string
	}{{l.s.o.PerNetwork, network, network.String()}, {l.s.o.AtOnce, netip.Prefix{}, "all"}} {
		if lim.most <= 0 {
			continue
		}
		// Those who count the same leases take turns, or two would take one place.
		if err := tx.LockNetwork(ctx, lim.key); err != nil {
			return time.Time{}, err
		}
		n, err := tx.Leases(ctx, lim.network)
		if err != nil {
			return time.Time{}, err
		}
		if n >= lim.most {
			l.s.metrics.held.Inc()
			return now.Add(500*time.Millisecond + jitter(2*time.Second)), nil
		}
	}
	return time.Time{}, nil
}

// refusedLately puts off a run of a device that refused our passwords within
// the hour, whoever asked for it.
func refusedLately(ctx context.Context, tx *store.Tx, run store.Run, now time.Time) (time.Time, error) {
	runs, err := tx.Runs(ctx, run.UUID, 4)
	if err != nil {
		return time.Time{}, err
	}
	for _, r := range runs {
		if r.ID == run.ID || r.Reason != reason.CredentialsUnknown {
			continue
		}
		if until := r.FinishedAt.Add(probeHour); until.After(now) {
			return until, tx.PostponeRun(ctx, run.ID, until)
		}
	}
	return time.Time{}, nil
}

func jitter(most time.Duration) time.Duration { return rand.N(most) }

// breaker pauses a network in which attempt after attempt fails for the
// network's sake: a switch, a firewall or a VLAN is the trouble, and dialling
// hundreds of devices behind it helps nobody. After the pause one attempt is let
// through; if it fails as well the pause doubles, up to a quarter of an hour.
// Each node keeps its own account.
type breaker struct {
	after int
	pause time.Duration
	now   func() time.Time
	say   func(ctx context.Context, network netip.Prefix, event string, pause time.Duration)
	open  prometheus.Gauge

	mu       sync.Mutex
	networks map[netip.Prefix]*circuit
}

type circuit struct {
	failures int // in a row
	pauses   int // in a row
	until    time.Time
	probing  bool // one attempt is on its way after the pause
}

const (
	longestPause = 15 * time.Minute
	mostCircuits = 65536
)

// wait says how long an attempt in this network has to wait; zero lets it begin.
func (b *breaker) wait(network netip.Prefix) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.networks[network]
	if c == nil || c.until.IsZero() {
		return 0
	}
	if left := c.until.Sub(b.now()); left > 0 {
		return left
	}
	if c.probing && b.now().Before(c.until.Add(time.Minute)) {
		return 2 * time.Second
	}
	c.probing, c.until = true, b.now() // a probe that never ends is given up after a minute
	return 0
}

func (b *breaker) ended(ctx context.Context, network netip.Prefix, ok, blamed bool) {
	if b.after <= 0 || !network.IsValid() {
		return
	}
	event, pause := b.count(network, ok, blamed)
	if event != "" {
		b.say(ctx, network, event, pause)
	}
}

func (b *breaker) count(network netip.Prefix, ok, blamed bool) (event string, pause time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.open.Set(float64(b.paused())) }()
	c := b.networks[network]
	if !blamed {
		// It answered: success, or a failure of its own, either way the road is there.
		if c != nil && !c.until.IsZero() {
			event = "network_resumed"
		}
		delete(b.networks, network)
		return event, 0
	}
	if c == nil {
		if len(b.networks) >= mostCircuits {
			return "", 0
		}
		c = &circuit{}
		b.networks[network] = c
	}
	c.failures++
	if c.probing || c.until.IsZero() && c.failures >= b.after {
		pause = min(b.pause<<min(c.pauses, 10), longestPause)
		c.pauses++
		c.probing, c.until = false, b.now().Add(pause)
		return "network_paused", pause
	}
	return "", 0
}

func (b *breaker) paused() (n int) {
	for _, c := range b.networks {
		if !c.until.IsZero() {
			n++
		}
	}
	return n
}

// newBreaker says what it does in the timeline.
func newBreaker(s *Server) *breaker {
	return &breaker{
		after: s.o.BreakAfter, pause: s.o.BreakFor, now: time.Now, networks: map[netip.Prefix]*circuit{}, open: s.metrics.pausedNetworks,
		say: func(ctx context.Context, network netip.Prefix, event string, pause time.Duration) {
			detail := fmt.Sprintf("devices in %s can be reached again", network)
			code := reason.Code("")
			if event == "network_paused" {
				detail = fmt.Sprintf("%d attempts in a row failed in %s for the network's sake; the next one comes in %s", s.o.BreakAfter, network, pause)
				code = reason.DeviceUnreachable
			}
			s.log.Warn(event, zap.Stringer("network", network), zap.Duration("pause", pause))
			err := s.DB.Write(ctx, func(tx *store.Tx) error {
				_, err := tx.AddEvent(ctx, store.Event{Name: event, Reason: code, Detail: detail, Actor: "node:" + s.node, Data: map[string]any{"network": network.String()}})
				return err
			})
			if err != nil {
				s.log.Warn("network.event", zap.Error(err))
			}
		},
	}
}

type limitMetrics struct {
	held           prometheus.Counter
	pausedNetworks prometheus.Gauge
}

func newLimitMetrics(reg prometheus.Registerer) limitMetrics {
	f := promauto.With(reg)
	return limitMetrics{
		held:           f.NewCounter(prometheus.CounterOpts{Name: "provisiond_attempts_held_total", Help: "Attempts put off because a network or the whole had as many as allowed."}),
		pausedNetworks: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_networks_paused", Help: "Networks this node makes no attempts in for the moment."}),
	}
}
