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
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// The transaction that would claim a device also asks the limits, so that all
// nodes on one database count the same leases. A run that has to wait keeps its
// place: its job sleeps some seconds and asks again.

// limited embeds the journal under this name, since it has a method Journal.
type journal = provision.Journal

// limited is the journal with limits around it.
type limited struct {
	*journal
	s      *Server
	shares *shares
}

// road is how a run reaches its device.
type road struct {
	network netip.Prefix
	address netip.Addr
	probe   bool // the one attempt after a pause
}

func newLimited(s *Server, j *provision.Journal) *limited {
	l := &limited{journal: j, s: s, shares: s.shares}
	j.Hold = l.hold
	return l
}

// Claim forgets the road of an attempt that does not begin.
func (l *limited) Claim(ctx context.Context, runID int64, lease time.Duration) (*provision.Job, error) {
	job, err := l.journal.Claim(ctx, runID, lease)
	if job == nil {
		l.shares.give(runID)
	}
	return job, err
}

// Settle tells the breaker how an attempt ended.
func (l *limited) Settle(ctx context.Context, lease provision.Lease, v provision.Verdict) error {
	err := l.journal.Settle(ctx, lease, v)
	if err != nil && !errors.Is(err, store.ErrFenced) {
		return err // the caller tries again
	}
	r := l.shares.give(lease.RunID)
	if err == nil {
		if err := l.answered(ctx, r.address, v.Reason == reason.DeviceUnreachable); err != nil {
			l.s.log.Warn("limits.answered", zap.Stringer("address", r.address),
				zap.Error(err)) // one call too many is better than an outcome written twice
		}
		l.s.breaker.ended(ctx, r.network, r.probe, !v.OK && v.Blame == reason.TheNet)
	}
	return err
}

// answered counts the attempts at an address that met nobody.
func (l *limited) answered(ctx context.Context, a netip.Addr, silent bool) error {
	if !a.IsValid() {
		return nil
	}
	if !silent {
		there := false
		err := l.s.DB.Read(ctx, func(tx *store.Tx) (err error) {
			there, err = tx.Counted(ctx, store.LatelySilent, a.String())
			return err
		})
		if err != nil || !there {
			return err // write nothing for the many devices that answer
		}
	}
	return l.s.DB.Write(ctx, func(tx *store.Tx) error {
		if silent {
			return tx.Count(ctx, queue.SilentDials(), a.String(), tx.Now())
		}
		return tx.Uncount(ctx, store.LatelySilent, a.String())
	})
}

// hold says until when a run has to wait, zero for not at all.
func (l *limited) hold(ctx context.Context, tx *store.Tx, runID int64) (time.Time, error) {
	run, err := tx.Run(ctx, runID)
	if err != nil || !run.Live() {
		return time.Time{}, nil // the claim itself reports the error
	}
	d, err := tx.Device(ctx, run.UUID)
	if err != nil {
		return time.Time{}, err
	}
	now := tx.Now()
	network := store.NetworkOf(d.Address)
	there := road{network: network, address: d.Address}
	ok, c, err := l.place(ctx, tx, run, d, there)
	if err != nil {
		return time.Time{}, err
	}
	if !ok {
		l.s.metrics.held.Inc()
		return l.shares.turn(run.ID, c, now), nil
	}
	wait, err := queue.Patience(ctx, tx, d, run, now)
	if err != nil {
		return time.Time{}, err
	}
	tries := false
	if wait.Paused && l.s.o.Admission == admit.Open {
		if c >= strangerFirst {
			if _, c, err = l.listed(ctx, tx, runID, d, there, c); err != nil {
				return time.Time{}, err
			}
		}
		tries = c < strangerFirst && l.shares.alone(runID)
	}
	if !wait.Until.IsZero() && !tries {
		until := wait.Until.Add(jitter(2 * time.Second))
		return until, tx.PostponeRun(ctx, runID, until) // the run's row shows that it waits
	}
	until, probe, err := l.s.breaker.wait(ctx, tx, network)
	if err != nil {
		return time.Time{}, err
	}
	if !until.IsZero() && !tries {
		until = until.Add(jitter(2 * time.Second))
		return until, tx.PostponeRun(ctx, runID, until)
	}
	for _, lim := range []struct {
		most    int
		network netip.Prefix
		key     string
	}{{1, exactly(d.Address), exactly(d.Address).String()}, {l.s.o.PerNetwork, network, network.String()},
		{l.s.o.AtOnce, netip.Prefix{}, "all"}} {
		if lim.most <= 0 || lim.key == exactly(netip.Addr{}).String() {
			continue
		}
		// Transactions that count the same leases take turns, or two would take one
		// place.
		if err := tx.TakeTurns(ctx, lim.key); err != nil {
			return time.Time{}, err
		}
		n, err := tx.Leases(ctx, lim.network)
		if err != nil {
			return time.Time{}, err
		}
		if n >= lim.most {
			l.s.metrics.held.Inc()
			return l.shares.turn(run.ID, c, now), nil
		}
	}
	if probe {
		if probe, err = l.s.breaker.probe(ctx, tx, network); err != nil || !probe {
			return now.Add(2 * time.Second), err
		}
	}
	there.probe = probe || tries
	l.shares.put(runID, there)
	return time.Time{}, nil
}

// exactly is the network of one address, invalid for none.
func exactly(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func jitter(most time.Duration) time.Duration { return rand.N(most) }

// breaker pauses a network in which attempt after attempt fails because of the
// network: a switch, a firewall or a VLAN is the trouble, and dialling hundreds
// of devices behind it helps nobody. After the pause one attempt goes through;
// if it fails as well, the pause doubles, up to a quarter of an hour. Each node
// counts its own failures; a pause is a row that every node obeys.
//
// With an open door the failing devices may be strangers. So nodes still try
// devices that we know in a paused network, one at a time: the first that
// answers ends the pause.
type breaker struct {
	after int
	pause time.Duration
	node  string
	db    func() *store.DB
	now   func(*store.Tx) time.Time
	open  prometheus.Gauge
	log   *zap.Logger

	mu       sync.Mutex
	failures map[netip.Prefix]int // in a row
}

const (
	longestPause = 15 * time.Minute
	mostCircuits = 65536
	probeFor     = time.Minute // after this time the breaker gives up a probe that has not ended
)

// wait says until when an attempt in this network has to wait; zero lets it
// begin. probe says that it would be the attempt after a pause.
func (b *breaker) wait(ctx context.Context, tx *store.Tx, network netip.Prefix) (until time.Time, probe bool, err error) {
	if b.after <= 0 || !network.IsValid() {
		return time.Time{}, false, nil
	}
	p, err := tx.PausedNetwork(ctx, network)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return time.Time{}, false, nil
	case err != nil:
		return time.Time{}, false, err
	}
	now := b.now(tx)
	if p.Until.After(now) {
		return p.Until, false, nil
	}
	if p.Probe.After(now) {
		return now.Add(2 * time.Second), false, nil
	}
	return time.Time{}, true, nil
}

// probe takes the place of the one attempt, unless another was faster.
func (b *breaker) probe(ctx context.Context, tx *store.Tx, network netip.Prefix) (bool, error) {
	if err := tx.TakeTurns(ctx, "pause "+network.String()); err != nil {
		return false, err
	}
	until, free, err := b.wait(ctx, tx, network)
	if err != nil || !free {
		return until.IsZero(), err // the network resumed meanwhile, or another run probes it
	}
	p, err := tx.PausedNetwork(ctx, network)
	if err != nil {
		return false, err
	}
	p.Probe = b.now(tx).Add(probeFor)
	return true, tx.PauseNetwork(ctx, p)
}

// ended counts an attempt that has ended. blamed: it failed because of the
// network. Any other end proves that the network works.
func (b *breaker) ended(ctx context.Context, network netip.Prefix, probe, blamed bool) {
	if b.after <= 0 || !network.IsValid() {
		return
	}
	b.mu.Lock()
	n := b.failures[network]
	switch {
	case !blamed:
		delete(b.failures, network)
	case n > 0 || len(b.failures) < mostCircuits:
		b.failures[network] = n + 1
	}
	trip := blamed && (probe || n+1 >= b.after)
	clear := !blamed && (probe || n > 0)
	b.mu.Unlock()
	if !trip && !clear {
		return
	}
	err := b.db().Write(ctx, func(tx *store.Tx) error {
		if err := tx.TakeTurns(ctx, "pause "+network.String()); err != nil {
			return err
		}
		if clear {
			return b.resume(ctx, tx, network)
		}
		return b.trip(ctx, tx, network, probe)
	})
	if err != nil {
		b.log.Warn("network.pause", zap.Stringer("network", network), zap.Error(err))
		return
	}
	if trip {
		b.mu.Lock()
		delete(b.failures, network) // the count begins anew after the pause
		b.mu.Unlock()
	}
	_ = b.measure(ctx) // the next tick shows it
}

func (b *breaker) trip(ctx context.Context, tx *store.Tx, network netip.Prefix, probe bool) error {
	now := b.now(tx)
	p, err := tx.PausedNetwork(ctx, network)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return err
	case p.Until.After(now) || !probe:
		return nil // paused already, perhaps by another node
	}
	p = store.PausedNetwork{Network: network, Since: now, Until: now.Add(min(b.pause<<min(p.Pauses, 10), longestPause)),
		Pauses: p.Pauses + 1, Node: b.node}
	if err := tx.PauseNetwork(ctx, p); err != nil {
		return err
	}
	b.log.Warn("network_paused", zap.Stringer("network", network), zap.Time("until", p.Until))
	_, err = tx.AddEvent(ctx, store.Event{Name: "network_paused", Reason: reason.DeviceUnreachable, Actor: "node:" + b.node,
		Detail: fmt.Sprintf("%d attempts in a row failed in %s for the network's sake; the next one comes at %s", b.after, network,
			p.Until.UTC().Format(time.RFC3339)),
		Data: map[string]any{"network": network.String(), "until": p.Until.UTC().Format(time.RFC3339), "pauses": p.Pauses}})
	return err
}

func (b *breaker) resume(ctx context.Context, tx *store.Tx, network netip.Prefix) error {
	done, err := tx.ResumeNetwork(ctx, network)
	if err != nil || !done {
		return err
	}
	b.log.Warn("network_resumed", zap.Stringer("network", network))
	_, err = tx.AddEvent(ctx, store.Event{Name: "network_resumed", Actor: "node:" + b.node,
		Data:   map[string]any{"network": network.String()},
		Detail: fmt.Sprintf("devices in %s can be reached again", network)})
	return err
}

// measure counts paused networks in the metric, and forgets pauses of networks
// in which no run waits any more.
func (b *breaker) measure(ctx context.Context) error {
	var all []store.PausedNetwork
	var now time.Time
	if err := b.db().Read(ctx, func(tx *store.Tx) (err error) {
		now = b.now(tx)
		all, err = tx.PausedNetworks(ctx)
		return err
	}); err != nil {
		return err
	}
	open := 0
	for _, p := range all {
		if now.Sub(p.Until) < 24*time.Hour {
			open++
			continue
		}
		if err := b.db().Write(ctx, func(tx *store.Tx) error { return b.resume(ctx, tx, p.Network) }); err != nil {
			return err
		}
	}
	b.open.Set(float64(open))
	return nil
}

func newBreaker(s *Server) *breaker {
	return &breaker{
		after: s.o.BreakAfter, pause: s.o.BreakFor, node: s.node, db: func() *store.DB { return s.DB }, now: (*store.Tx).Now,
		open: s.metrics.pausedNetworks, log: s.log, failures: map[netip.Prefix]int{},
	}
}

type limitMetrics struct {
	held           prometheus.Counter
	pausedNetworks prometheus.Gauge
}

func newLimitMetrics(reg prometheus.Registerer) limitMetrics {
	f := promauto.With(reg)
	return limitMetrics{
		held: f.NewCounter(prometheus.CounterOpts{Name: "provisiond_attempts_held_total",
			Help: "Attempts put off because a network, a kind of attempt or the whole had as many as allowed."}),
		pausedNetworks: f.NewGauge(prometheus.GaugeOpts{Name: "provisiond_networks_paused",
			Help: "Networks in which no attempts are made for the moment, or only one."}),
	}
}
