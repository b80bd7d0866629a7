package provision

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// The simulation drives the shipped engine through its seams with one seeded
// scheduler: every call to the store, the device or the clock is a point at
// which any other actor may go first, a node may die, or the call may fail
// before or after it took effect. One seed is one history, to the line.

// world is one device, one store and some nodes.
type world struct {
	rng    *rand.Rand
	now    time.Time
	faulty bool
	mutant string

	dev   simDevice
	db    simStore
	acts  []*actor
	late  []lateChange
	epoch int

	trace     []string
	violation string
	events    int
	sends     int
	hits      map[string]int
}

type lateChange struct {
	at   time.Time
	what string
	do   func()
}

// actor is one goroutine of a node, as a coroutine the scheduler resumes.
type actor struct {
	name string
	node int
	at   time.Time
	next func() (time.Duration, bool)
	stop func()
	dead bool
}

// died ends an actor from inside: its node is gone and executes nothing more.
type died struct{}

const (
	simLease  = 30 * time.Second
	simMargin = 5 * time.Second
	simQuiet  = 15 * time.Second
	// inFlight bounds how long after the client gave up a request may still
	// reach the device. The quiet period has to be longer.
	inFlight = 12 * time.Second
)

var simMetrics = NewMetrics(prometheus.NewRegistry())

func newWorld(seed uint64, mutant string) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 0x5eed)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		faulty: true, mutant: mutant, hits: map[string]int{},
	}
	w.dev = simDevice{
		state: amt.StateIn, admin: "admin", mebx: "admin", cert: byte(1 + w.rng.IntN(200)),
		atOnce: w.rng.IntN(2) == 0, keeps: w.rng.IntN(2) == 0, mebxOnce: w.rng.IntN(2) == 0,
		asks: w.rng.IntN(3) == 0, slowKeys: w.rng.IntN(3) == 0, wantsClock: w.rng.IntN(2) == 0,
	}
	w.db = simStore{w: w, lifecycle: store.Discovered}
	return w
}

// p is a fault's chance; no fault happens once the calm has begun.
func (w *world) p(x float64) bool { return w.faulty && w.rng.Float64() < x }

func (w *world) say(format string, args ...any) {
	w.events++
	if len(w.trace) < 20000 {
		w.trace = append(w.trace, fmt.Sprintf("%8.3fs ", w.now.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds())+fmt.Sprintf(format, args...))
	}
}

func (w *world) hit(site string) { w.hits[site]++; w.say("FAULT %s", site) }

func (w *world) broken(invariant, format string, args ...any) {
	if w.violation == "" {
		w.violation = invariant + ": " + fmt.Sprintf(format, args...)
		w.say("VIOLATION %s", w.violation)
	}
}

// spawn starts an actor; body yields through pause.
func (w *world) spawn(name string, node int, body func(*actor, func(time.Duration) bool)) {
	a := &actor{name: name, node: node, at: w.now}
	a.next, a.stop = iter.Pull(func(yield func(time.Duration) bool) {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(died); !ok {
					panic(r)
				}
			}
		}()
		body(a, yield)
	})
	w.acts = append(w.acts, a)
}

// kill ends every actor of a node where it stands.
func (w *world) kill(node int) {
	w.hit(fmt.Sprintf("node%d dies", node))
	for _, a := range w.acts {
		if a.node == node && !a.dead {
			a.dead = true
			a.stop()
		}
	}
	w.acts = slices.DeleteFunc(w.acts, func(a *actor) bool { return a.dead })
}

// simNode is one daemon: an engine, two workers and a beat.
type simNode struct {
	w    *world
	id   int
	boot int
	eng  *Engine
}

func (w *world) boot(id int) {
	w.epoch++
	n := &simNode{w: w, id: id, boot: w.epoch}
	n.eng = New(Config{
		Store: nil, Trust: simTrust{}, Rand: simRand{w.rng},
		Lease: simLease, Margin: simMargin, Quiet: simQuiet, AttemptFor: time.Hour,
		VerifyFor: time.Minute, VerifyPause: time.Second, KeyPause: time.Second, Later: 10 * time.Minute,
	}, zap.NewNop(), simMetrics)
	for i := range 2 {
		w.spawn(fmt.Sprintf("n%d.%d/w%d", id, n.boot, i), id, func(a *actor, yield func(time.Duration) bool) {
			// Each worker has seams of its own over the same engine state, so
			// that a call knows which actor it suspends.
			e := n.engine(a, yield)
			for {
				pause(a, yield, w.idle())
				if id := w.db.due(); id != 0 {
					if _, err := e.Work(context.Background(), id); err != nil {
						w.say("%s work: %v", a.name, err)
					}
				}
			}
		})
	}
	if w.mutant != "no heartbeat" {
		w.spawn(fmt.Sprintf("n%d.%d/beat", id, n.boot), id, func(a *actor, yield func(time.Duration) bool) {
			e := n.engine(a, yield)
			for {
				pause(a, yield, simLease/3)
				if err := e.Beat(context.Background()); err != nil {
					w.say("%s beat: %v", a.name, err)
				}
			}
		})
	}
}

// engine is the node's engine as one actor sees it: same live leases, own seams.
func (n *simNode) engine(a *actor, yield func(time.Duration) bool) *Engine {
	e := &Engine{Config: n.eng.Config, metrics: n.eng.metrics, log: n.eng.log, live: n.eng.live}
	s := &seams{w: n.w, n: n, a: a, yield: yield}
	e.Store, e.Clock, e.Dial = s, s, s.dial
	if n.w.mutant == "no quiet period" {
		e.Quiet = 0
		e.Retry = []time.Duration{time.Second}
	}
	return e
}

// idle is how long a worker waits before it looks again; in the calm, longer:
// the last retry may be an hour away.
func (w *world) idle() time.Duration {
	d := time.Duration(200+w.rng.IntN(800)) * time.Millisecond
	if !w.faulty {
		d *= 20
	}
	return d
}

func pause(a *actor, yield func(time.Duration) bool, d time.Duration) {
	if a.dead || !yield(d) {
		panic(died{})
	}
}

// run plays the world: faults for a while, then calm in which all must settle.
func (w *world) run() {
	w.boot(1)
	w.boot(2)
	w.boot(3)
	w.hello()
	turn := w.now.Add(time.Duration(60+w.rng.IntN(240)) * time.Second)
	end := turn.Add(3 * time.Hour)
	nextHello := w.now
	for w.violation == "" && w.now.Before(end) {
		if w.faulty && w.now.After(turn) {
			w.faulty = false
			w.say("the calm begins")
		}
		if !w.faulty && w.settled() {
			break
		}
		w.disasters()
		if w.now.After(nextHello) {
			w.hello()
			nextHello = w.now.Add(time.Duration(5+w.rng.IntN(60)) * time.Second)
		}
		w.step()
	}
	if w.violation == "" && !w.settled() {
		w.broken("I4", "not settled in the calm: lifecycle %s (%s), device %s", w.db.lifecycle, w.db.reason, w.dev.state)
	}
	if w.violation == "" {
		w.atRest()
	}
	for _, a := range w.acts {
		a.dead = true
		a.stop()
	}
}

// settled means that nothing is under way and the device is ours.
func (w *world) settled() bool {
	return w.db.lifecycle == store.Provisioned && w.db.reason == "" && w.dev.state == amt.StatePost && len(w.late) == 0 && w.db.live() == nil
}

// disasters are what happens to the world rather than to a call. Among them is
// an operator who wants another password.
func (w *world) disasters() {
	if w.db.lifecycle == store.Provisioned && w.db.live() == nil && w.p(.02) {
		w.hit("rotation asked for")
		w.db.order("api", w.now)
	}
	switch {
	case w.p(.002):
		node := 1 + w.rng.IntN(3)
		w.kill(node)
		w.boot(node)
	case w.p(.003):
		w.dev.powerLoss(w)
	case w.p(.004) && len(w.acts) > 0:
		a := w.acts[w.rng.IntN(len(w.acts))]
		a.at = a.at.Add(time.Duration(5+w.rng.IntN(60)) * time.Second)
		w.hit("stall")
	}
}

// step lets the late arrive, or resumes the actor whose time has come.
func (w *world) step() {
	slices.SortStableFunc(w.late, func(a, b lateChange) int { return a.at.Compare(b.at) })
	var first *actor
	for _, a := range w.acts {
		if first == nil || a.at.Before(first.at) {
			first = a
		}
	}
	if len(w.late) > 0 && (first == nil || !w.late[0].at.After(first.at)) {
		l := w.late[0]
		w.late = w.late[1:]
		w.advance(l.at)
		w.say("late arrival: %s", l.what)
		l.do()
		w.check("late")
		return
	}
	w.advance(first.at)
	// Of those whose time has come, any may go first.
	ready := []*actor{}
	for _, a := range w.acts {
		if !a.at.After(w.now) {
			ready = append(ready, a)
		}
	}
	a := ready[w.rng.IntN(len(ready))]
	d, ok := a.next()
	if !ok {
		a.dead = true
		w.acts = slices.DeleteFunc(w.acts, func(b *actor) bool { return b == a })
		return
	}
	a.at = w.now.Add(d)
}

func (w *world) advance(t time.Time) {
	if t.After(w.now) {
		w.now = t
	}
}

// hello is the device's own: it makes it eligible and changes nothing else.
func (w *world) hello() {
	if w.dev.state != amt.StateIn || w.now.Before(w.dev.back) {
		return
	}
	if w.p(.1) {
		w.hit("hello lost")
		return
	}
	w.db.hello()
	w.check("hello")
}

// check holds the invariants at every instant.
func (w *world) check(where string) {
	for _, held := range []struct{ kind, pw string }{{"admin", w.dev.admin}, {"admin", w.dev.pendingAdmin}, {"mebx", w.dev.mebx}, {"mebx", w.dev.pendingMEBx}} {
		if held.pw == "" || held.pw == "admin" {
			continue
		}
		if !w.db.holds(held.kind, held.pw) {
			w.broken("I1", "%s: the device holds a %s password the store does not", where, held.kind)
		}
	}
	if w.dev.commits > 1 {
		w.broken("I5", "%s: committed %d times in one setup", where, w.dev.commits)
	}
	if len(w.db.creds) < w.db.most {
		w.broken("I8", "%s: a password was deleted", where)
	}
	w.db.most = max(w.db.most, len(w.db.creds))
}

// atRest holds what must be true when nothing moves any more.
func (w *world) atRest() {
	admin, mebx := "", ""
	generations := 0
	for _, c := range w.db.creds {
		if c.State == store.CredentialActive && c.Kind == store.KindAdmin {
			admin = c.Password.Reveal()
		}
		if c.State == store.CredentialActive && c.Kind == store.KindMEBx {
			mebx = c.Password.Reveal()
		}
		if c.Kind == store.KindMEBx && !c.SentAt.IsZero() {
			generations++
		}
	}
	if admin != w.dev.admin {
		w.broken("I3", "the store's active admin password is not the device's")
	}
	if generations <= 1 && mebx != w.dev.mebx {
		w.broken("I3", "the store's active MEBx password is not the device's")
	}
}

// simDevice is firmware as far as the protocol of passwords and commit goes.
type simDevice struct {
	state                     amt.ProvisioningState
	admin, mebx               string
	pendingAdmin, pendingMEBx string // atOnce is false: effective at commit
	clock, host               bool
	ext                       int
	commits                   int
	cert                      byte
	back                      time.Time // after a power loss or commit, when it listens again
	power                     int       // counts power losses: a connection does not survive one
	keyReady                  bool

	atOnce, keeps, mebxOnce, asks, slowKeys, wantsClock bool
}

func (d *simDevice) powerLoss(w *world) {
	w.hit("power loss")
	d.power++
	d.back = w.now.Add(time.Duration(2+w.rng.IntN(10)) * time.Second)
	if d.state == amt.StateIn && !d.keeps {
		d.admin, d.mebx, d.pendingAdmin, d.pendingMEBx = "admin", "admin", "", ""
		d.clock, d.host, d.keyReady = false, false, false
	}
}

func (d *simDevice) commit(w *world) error {
	if d.state != amt.StateIn {
		return &reason.Error{Code: reason.CommitFailed, Err: amt.StatusInvalidState}
	}
	if d.wantsClock && !d.clock || !d.host {
		return &reason.Error{Code: reason.CommitFailed, Err: amt.StatusDataMissing}
	}
	if d.pendingAdmin != "" {
		d.admin, d.pendingAdmin = d.pendingAdmin, ""
	}
	if d.pendingMEBx != "" {
		d.mebx, d.pendingMEBx = d.pendingMEBx, ""
	}
	d.state = amt.StatePost
	d.commits++
	d.power++ // the network part restarts: connections are gone
	d.back = w.now.Add(time.Duration(w.rng.IntN(4)) * time.Second)
	return nil
}

// seams are one actor's view of store, clock and device.
type seams struct {
	w     *world
	n     *simNode
	a     *actor
	yield func(time.Duration) bool
}

func (s *seams) Now() time.Time { return s.w.now }

func (s *seams) Sleep(_ context.Context, d time.Duration) error {
	pause(s.a, s.yield, d)
	return nil
}

// db is one transaction: it may fail before it happens, or happen and not say so.
func (s *seams) db(name string, f func() error) error {
	pause(s.a, s.yield, time.Duration(1+s.w.rng.IntN(20))*time.Millisecond)
	if s.w.p(.03) {
		s.w.hit("store fails: " + name)
		return errors.New("the database is away")
	}
	err := f()
	s.w.say("%s %s -> %v", s.a.name, name, err)
	s.w.check(name)
	if err == nil && s.w.p(.03) {
		s.w.hit("store outcome unknown: " + name)
		err = store.ErrUnknownOutcome
	}
	pause(s.a, s.yield, time.Duration(1+s.w.rng.IntN(20))*time.Millisecond)
	return err
}

func (s *seams) owner() string { return fmt.Sprintf("n%d", s.n.id) }

func (s *seams) Claim(_ context.Context, id int64, lease time.Duration) (job *Job, err error) {
	err = s.db("claim", func() error { job, err = s.w.db.claim(id, s.owner(), lease); return err })
	if err != nil {
		job = nil
	}
	return job, err
}

func (s *seams) Journal(_ context.Context, l Lease, steps []store.StepRecord, _ *Facts) error {
	return s.db("journal "+lastName(steps), func() error { return s.w.db.renew(l, lastName(steps)) })
}

func (s *seams) Sending(_ context.Context, l Lease, steps []store.StepRecord, ids []int64, realm string, peer []byte, addr netip.Addr) error {
	return s.db("sending "+lastName(steps), func() error {
		if err := s.w.db.renew(l, lastName(steps)); err != nil {
			return err
		}
		for _, id := range ids {
			c := s.w.db.cred(id)
			if c == nil {
				return fmt.Errorf("credential %d is not there", id)
			}
			c.SentAt, c.Peer, c.Address, c.Realm, c.RefusedAt = s.w.now, bytes.Clone(peer), addr, realm, time.Time{}
		}
		return nil
	})
}

func (s *seams) Stage(_ context.Context, l Lease, admin, mebx amt.Secret) (a, m store.Credential, err error) {
	err = s.db("stage", func() error {
		if err := s.w.db.renew(l, ""); err != nil {
			return err
		}
		a, m = s.w.db.stage(l.RunID, admin, mebx)
		if mebx.IsZero() {
			m = store.Credential{}
		}
		return nil
	})
	return a, m, err
}

func (s *seams) Renew(_ context.Context, leases []Lease) (lost []Lease, err error) {
	err = s.db("renew", func() error {
		lost = nil
		for _, l := range leases {
			if s.w.db.renew(l, "") != nil {
				lost = append(lost, l)
			}
		}
		if s.w.mutant == "lease end from unfenced read" {
			lost = nil
		}
		return nil
	})
	return lost, err
}

func (s *seams) Settle(_ context.Context, l Lease, v Verdict) error {
	return s.db("settle "+string(v.Reason), func() error { return s.w.db.settle(l, v) })
}

func lastName(steps []store.StepRecord) string {
	if len(steps) == 0 {
		return ""
	}
	return steps[len(steps)-1].Name
}

// simStore is the store's part of the truth, with its fences.
type simStore struct {
	w         *world
	lifecycle store.Lifecycle
	reason    reason.Code
	attempts  int
	fence     int64
	owner     string
	until     time.Time
	runs      []store.Run
	creds     []*store.Credential
	most      int
	moved     bool
	later     time.Time
}

func (d *simStore) live() *store.Run {
	for i := range d.runs {
		if s := d.runs[i].State; s == store.RunQueued || s == store.RunRunning {
			return &d.runs[i]
		}
	}
	return nil
}

// due is the queue's nudge, and the sweep for runs whose worker went away.
func (d *simStore) due() int64 {
	if r := d.live(); r != nil && !d.w.now.Before(r.NotBefore) {
		return r.ID
	}
	// A managed device whose last run failed is looked at again.
	if d.live() == nil && d.lifecycle == store.Provisioned && d.reason != "" && d.w.now.After(d.later) {
		d.order("timer", d.w.now)
	}
	return 0
}

func (d *simStore) hello() {
	d.w.say("hello")
	if r := d.live(); r != nil {
		if r.State == store.RunQueued && d.w.now.Before(r.NotBefore) && d.attempts < 6 {
			r.NotBefore = d.w.now
		}
		return
	}
	if d.lifecycle == store.Provisioned {
		return
	}
	d.start("hello", d.w.now)
}

func (d *simStore) start(trigger string, at time.Time) {
	id := int64(len(d.runs) + 1)
	d.runs = append(d.runs, store.Run{ID: id, State: store.RunQueued, Trigger: trigger, NotBefore: at})
	d.lifecycle = store.Queued
	if c := d.newest(store.KindAdmin); c == nil || c.State != store.CredentialCandidate {
		if d.w.mutant == "send before store" {
			return
		}
		rnd := simRand{d.w.rng}
		admin, _ := amt.NewAdminPassword(rnd)
		mebx, _ := amt.NewMEBxPassword(rnd)
		d.stage(id, admin, mebx)
	}
}

// order makes a run that changes the password; it stages nothing itself.
func (d *simStore) order(trigger string, at time.Time) {
	d.runs = append(d.runs, store.Run{ID: int64(len(d.runs) + 1), Kind: KindRotate, State: store.RunQueued, Trigger: trigger, NotBefore: at})
}

func (d *simStore) newest(kind string) *store.Credential {
	for i := len(d.creds) - 1; i >= 0; i-- {
		if d.creds[i].Kind == kind {
			return d.creds[i]
		}
	}
	return nil
}

func (d *simStore) stage(run int64, admin, mebx amt.Secret) (a, m store.Credential) {
	if d.w.mutant == "overwrite old secret" {
		for _, c := range d.creds {
			if c.Kind == store.KindAdmin {
				c.Password = admin
			} else if !mebx.IsZero() {
				c.Password = mebx
			}
		}
	}
	gen := 1
	if c := d.newest(store.KindAdmin); c != nil {
		gen = c.Generation + 1
	}
	id := int64(len(d.creds) + 1)
	d.creds = append(d.creds, &store.Credential{ID: id, Generation: gen, Kind: store.KindAdmin, State: store.CredentialCandidate, Password: admin, RunID: run})
	if mebx.IsZero() {
		return *d.creds[id-1], m
	}
	d.creds = append(d.creds, &store.Credential{ID: id + 1, Generation: gen, Kind: store.KindMEBx, State: store.CredentialCandidate, Password: mebx, RunID: run})
	return *d.creds[id-1], *d.creds[id]
}

func (d *simStore) cred(id int64) *store.Credential {
	for _, c := range d.creds {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// told reports whether a password was noted as sent before it went.
func (d *simStore) told(pw string) bool {
	for _, c := range d.creds {
		if c.Password.Reveal() == pw {
			return !c.SentAt.IsZero()
		}
	}
	return false
}

func (d *simStore) holds(kind, pw string) bool {
	for _, c := range d.creds {
		if c.Kind == kind && c.Password.Reveal() == pw {
			return true
		}
	}
	return false
}

var simUUID = amt.UUID{1, 2, 3}

func (d *simStore) claim(id int64, owner string, lease time.Duration) (*Job, error) {
	i := slices.IndexFunc(d.runs, func(r store.Run) bool { return r.ID == id })
	r := &d.runs[i]
	if r.State != store.RunQueued && r.State != store.RunRunning {
		return nil, nil
	}
	own := d.w.mutant == "same node re-claims its own live lease" && d.owner == owner
	if d.w.now.Before(d.until) && !own {
		return nil, &Held{Until: d.until}
	}
	d.fence++
	d.owner, d.until = owner, d.w.now.Add(lease)
	r.State, r.Attempt, r.Fence = store.RunRunning, r.Attempt+1, d.fence
	d.attempts++
	d.lifecycle = underWay(r.Kind)
	p := profile.Default()
	p.TLS = profile.TLSNone
	if d.w.dev.slowKeys {
		p.TLS = profile.TLSServer
	}
	job := &Job{Run: *r, Fence: d.fence, Hashes: []amt.TrustHash{{Algorithm: amt.SHA256}}, Profile: p, FQDN: simName}
	job.Device = store.Device{UUID: simUUID, Address: d.address(), Attempts: d.attempts, Lifecycle: d.lifecycle}
	if r.Kind == KindRotate {
		job.Device.PeerFingerprint = []byte{d.w.dev.cert}
	}
	for i := len(d.creds) - 1; i >= 0; i-- {
		if c := *d.creds[i]; c.Kind == store.KindAdmin {
			job.Admin = append(job.Admin, c)
		} else {
			job.MEBx = append(job.MEBx, c)
		}
	}
	if d.w.mutant == "send before store" && len(job.Admin) == 0 {
		rnd := simRand{d.w.rng}
		admin, _ := amt.NewAdminPassword(rnd)
		mebx, _ := amt.NewMEBxPassword(rnd)
		job.Admin = []store.Credential{{ID: 0, Kind: store.KindAdmin, State: store.CredentialCandidate, Password: admin}}
		job.MEBx = []store.Credential{{ID: 0, Kind: store.KindMEBx, State: store.CredentialCandidate, Password: mebx}}
		// It would be stored at the end, with the success.
		d.creds = append(d.creds, &store.Credential{Kind: "none"})
	}
	return job, nil
}

// address moves once in a while: a new lease in mid-history.
func (d *simStore) address() netip.Addr {
	if d.w.p(.05) {
		d.moved = !d.moved
		d.w.hit("address changes")
	}
	if d.moved {
		return netip.AddrFrom4([4]byte{10, 0, 0, 8})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, 7})
}

func (d *simStore) fenced(l Lease) bool {
	if d.w.mutant == "no fence on writes" {
		return false
	}
	return l.Fence != d.fence || !d.w.now.Before(d.until)
}

func (d *simStore) renew(l Lease, step string) error {
	if d.w.mutant == "check, then act" && step != "" {
		return nil // the write is not fenced and renews nothing
	}
	if d.fenced(l) {
		return store.ErrFenced
	}
	d.until = d.w.now.Add(l.For)
	if step == commitChanges.Name {
		d.lifecycle = store.Verifying
	}
	return nil
}

func (d *simStore) settle(l Lease, v Verdict) error {
	if d.fenced(l) {
		return store.ErrFenced
	}
	i := slices.IndexFunc(d.runs, func(r store.Run) bool { return r.ID == l.RunID })
	if v.OK && d.w.dev.state != amt.StatePost {
		d.w.broken("I7", "reported as provisioned while the device is in %s mode", d.w.dev.state)
	}
	for _, id := range v.Refused {
		if c := d.cred(id); c != nil {
			c.RefusedAt = d.w.now
		}
	}
	for _, id := range v.Active {
		c := d.cred(id)
		if c == nil {
			continue
		}
		for _, o := range d.creds {
			if o.Kind == c.Kind && o.State == store.CredentialActive && o != c {
				o.State = store.CredentialRetired
			}
		}
		c.State, c.RefusedAt = store.CredentialActive, time.Time{}
		if v.OK && c.Kind == store.KindAdmin && c.Password.Reveal() != d.w.dev.admin {
			d.w.broken("I7", "reported as provisioned with a password the device does not take")
		}
	}
	if d.runs[i].State != store.RunQueued && d.runs[i].State != store.RunRunning {
		return nil
	}
	d.until, d.owner = d.w.now.Add(v.Quiet), ""
	if v.OK {
		d.runs[i].State, d.lifecycle, d.reason, d.attempts = store.RunDone, store.Provisioned, "", 0
		return nil
	}
	d.runs[i].State, d.lifecycle, d.reason = store.RunFailed, v.Ended, v.Reason
	d.later = d.w.now.Add(v.Later)
	if v.Later > 0 {
		d.attempts = 0
	}
	switch {
	case v.Again > 0 && d.runs[i].Kind == KindRotate:
		d.order("timer", d.w.now.Add(v.Again))
	case v.Again > 0:
		d.start("timer", d.w.now.Add(v.Again))
		d.lifecycle = v.Ended
	}
	return nil
}

// simRand makes crypto-looking bytes out of the seed.
type simRand struct{ *rand.Rand }

func (r simRand) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return len(b), nil
}

const simName = "pc-1.corp.example.com"

// simTrust has one chain, and certificates that are their owner's name.
type simTrust struct{}

func (simTrust) Candidates([]amt.TrustHash, certs.Hints) ([]certs.Candidate, error) {
	return []certs.Candidate{{Cert: &certs.Provisioning{ID: "c1", Name: "prov.corp.example.com"}}}, nil
}

func (simTrust) IssueDevice(*rsa.PublicKey, string, string, time.Duration) ([]byte, error) {
	return []byte("a device certificate"), nil
}
func (simTrust) IssuedByUs(der []byte) bool          { return false }
func (simTrust) Console() (*tls.Certificate, []byte) { return nil, nil }
