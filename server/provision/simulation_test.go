package provision

import (
	"context"
	"crypto/rsa"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"iter"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
)

// The simulation drives the shipped engine through its seams with one seeded
// scheduler: every call to the store, the device or the clock is a point at
// which any other actor may go first, a node may die, or the call may fail
// before or after it took effect. One seed is one history, to the line.

// world is one device, one store and some nodes.
type world struct {
	rng    *rand.Rand
	odd    *rand.Rand // of strangers, so that they do not shift what else happens
	now    time.Time
	faulty bool
	mutant string

	dev   simDevice
	rogue simDevice // another machine with its UUID, at an address of its own, that plays along
	db    simStore
	acts  []*actor
	late  []lateChange
	epoch int

	trace     []string
	sum       hash.Hash64 // of the history, line by line
	violation string
	events    int
	sends     int
	hits      map[string]int   // by site
	kinds     map[string]int   // by kind of fault
	certain   map[handout]bool // what a Sending that surely committed has noted
	met       map[int64]bool   // fences whose attempt met one
	faults    int              // those that may disturb an attempt
	limps     time.Time        // until when a heartbeat is late
	phase     int              // of the calm
	early     bool             // the profile changes during the set-up too
	heard     map[string]bool  // what strangers heard while the device could be opened with an answer, or were told
}

// handout is a password one attempt hands to the device.
type handout struct {
	fence    int64
	password string
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
	in   string // the call it is suspended in

	clock func() time.Time // its node's
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
		rng: rand.New(rand.NewPCG(seed, 0x5eed)), odd: rand.New(rand.NewPCG(seed, 0x0dd)), met: map[int64]bool{}, heard: map[string]bool{},
		now:    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		faulty: true, mutant: mutant, sum: fnv.New64a(), hits: map[string]int{}, kinds: map[string]int{}, certain: map[handout]bool{},
	}
	w.dev = simDevice{
		state: amt.StateIn, admin: "admin", mebx: "admin", cert: byte(1 + w.rng.IntN(200)),
		atOnce: w.rng.IntN(2) == 0, keeps: w.rng.IntN(2) == 0, mebxOnce: w.rng.IntN(2) == 0,
		asks: w.rng.IntN(3) == 0, slowKeys: w.rng.IntN(3) == 0, wantsClock: w.rng.IntN(2) == 0,
		newCert: w.odd.IntN(2) == 0, keepsCert: w.odd.IntN(2) == 0, chip: w.odd.IntN(3) == 0,
		name: "own", addr: netip.MustParseAddr("10.0.0.7"), version: amt.Version{Major: 18}, key: simKey, mac: "02:00:00:00:00:07",
		realm: "Digest:0123",
	}
	w.rogue = simDevice{
		state: amt.StateIn, admin: "admin", mebx: "admin", cert: 1, atOnce: w.odd.IntN(2) == 0, slowKeys: w.dev.slowKeys,
		keepsCert: w.odd.IntN(2) == 0, name: "a rogue's", addr: netip.MustParseAddr("10.0.0.66"), version: amt.Version{Major: 17},
		key: &rsa.PublicKey{N: big.NewInt(2773), E: 17},
		mac: strangersMAC, realm: "Digest:0666",
	}
	w.db = simStore{w: w, lifecycle: store.Discovered, auto: w.odd.IntN(2) == 0}
	w.temper()
	w.early = seed%4 == 0
	return w
}

const (
	simDomain    = "corp.example.com"
	strangersMAC = "02:00:00:00:00:66"
)

// p is a fault's chance; no fault happens once the calm has begun.
func (w *world) p(x float64) bool { return w.faulty && w.rng.Float64() < x }

func (w *world) say(format string, args ...any) {
	w.events++
	line := fmt.Sprintf("%8.3fs ", w.now.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds()) + fmt.Sprintf(format, args...)
	_, _ = io.WriteString(w.sum, line)
	if len(w.trace) < 20000 {
		w.trace = append(w.trace, line)
	}
}

// hit notes a fault: its kind, one of faultKinds, and where it struck.
func (w *world) hit(kind, where string) {
	w.kinds[kind]++
	if !slices.Contains(harmless, kind) {
		w.faults++
	}
	site := strings.TrimSpace(kind + " " + where)
	w.hits[site]++
	w.say("FAULT %s", site)
}

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
	at := "between two calls"
	for _, a := range w.acts {
		if a.node == node && !a.dead {
			if a.in != "" {
				at = "in " + a.in
			}
			a.dead = true
			a.stop()
		}
	}
	w.hit("node dies", at)
	w.acts = slices.DeleteFunc(w.acts, func(a *actor) bool { return a.dead })
}

// simNode is one daemon: an engine, two workers and a beat.
type simNode struct {
	w    *world
	id   int
	boot int
	eng  *Engine
	skew time.Duration // its clock against the world's; monotonic, so it stays while the process lives
}

func (w *world) boot(id int) {
	w.epoch++
	n := &simNode{w: w, id: id, boot: w.epoch}
	if w.rng.IntN(2) == 0 {
		n.skew = time.Duration(w.rng.Int64N(int64(48*time.Hour))) - 24*time.Hour
		w.hit("a node's clock is off", "")
	}
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
	a.clock = s.Now
	e.Store, e.Clock, e.Dial, e.Trusted = s, s, s.dial, s.Trusted
	e.ungated = n.w.mutant == "no gate"
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

// clock is what a node's wall clock shows.
func (w *world) clock(owner string) time.Time {
	for _, a := range w.acts {
		if a.clock != nil && fmt.Sprintf("n%d", a.node) == owner {
			return a.clock()
		}
	}
	return w.now
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
			w.db.change(w.db.profiles[0])
		}
		if !w.faulty && w.calm() {
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
		which := "I4"
		if w.dev.state == amt.StatePost && !w.ownLetIn() {
			which = "I15"
		}
		if which == "I4" && w.kinds["node dies"] > 0 {
			which = "I12"
		}
		w.broken(which, "not settled in the calm: lifecycle %s (%s), device %s", w.db.lifecycle, w.db.reason, w.dev.state)
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
	return w.db.lifecycle == store.Provisioned && w.db.reason == "" && w.dev.state == amt.StatePost && len(w.late) == 0 &&
		w.db.live() == nil &&
		w.db.row.Address == w.dev.addr && w.db.asWanted()
}

// disasters are what happens to the world rather than to a call. Among them is
// an operator who wants another password.
func (w *world) disasters() {
	if w.db.lifecycle == store.Provisioned && w.db.live() == nil && w.p(.02) {
		w.hit("rotation asked for", "")
		w.db.order(KindRotate, "", "api", w.now)
	}
	if w.faulty && w.db.lifecycle == store.Provisioned && w.db.live() == nil && w.odd.IntN(40) == 0 || w.early && w.faulty &&
		!(w.dev.tls.garbles && w.dev.tls.lies) && w.odd.IntN(300) == 0 {
		w.db.change(w.nextProfile())
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
		if i := slices.IndexFunc(w.acts, func(a *actor) bool { return a.in == "commit" || a.in == "admin" }); i >= 0 {
			a = w.acts[i] // a moment is short, and this is the one that matters
		}
		d := time.Duration(5+w.rng.IntN(60)) * time.Second
		w.delay(a, d)
		if d > simLease {
			w.hit("stall across a lease", a.in)
		} else {
			w.hit("stall", a.in)
		}
	case w.p(.004):
		// Its work goes on, on what each of its writes renews.
		if i := slices.IndexFunc(w.acts, func(a *actor) bool {
			return strings.HasSuffix(a.name, "/beat") && fmt.Sprintf("n%d", a.node) == w.db.owner
		}); i >= 0 {
			w.delay(w.acts[i], time.Duration(20+w.rng.IntN(40))*time.Second)
			w.hit("a heartbeat stalls", "")
		}
	case w.p(.002):
		w.hello() // beside the ones the firmware's timer makes
	case w.p(.001) && w.dev.state == amt.StateIn && len(w.late) == 0 && (w.db.live() == nil || w.db.live().State == store.RunQueued):
		w.dev.addr = netip.AddrFrom4([4]byte{10, 0, 0, 15 - w.dev.addr.As4()[3]}) // a new lease, which its next hello tells
		w.hit("address changes", "")
	case w.faulty && w.odd.IntN(300) == 0:
		w.rogueHello()
	case w.p(.001):
		w.db.leap()
	case w.p(.001):
		w.dev.clockOff = time.Duration(w.rng.Int64N(int64(20 * 365 * 24 * time.Hour)))
		w.hit("the device's clock steps", "")
	}
}

// delay has an actor stand still; what a node without its heart beats begins meanwhile
// may run out of its lease.
func (w *world) delay(a *actor, d time.Duration) {
	a.at = a.at.Add(d)
	if strings.HasSuffix(a.name, "/beat") && a.at.After(w.limps) {
		w.limps = a.at
	}
}

// leap is a step of the database's clock. Backwards by any amount: leases only
// last longer. Forwards by less than what the margin and the quiet period leave
// over, and not twice in a lease: that is what an operator has to see to.
func (d *simStore) leap() {
	if d.w.rng.IntN(2) == 0 || d.w.now.Before(d.leapt.Add(2*simLease)) {
		d.skew -= time.Duration(d.w.rng.Int64N(int64(40 * time.Second)))
		d.w.hit("the database's clock steps back", "")
		return
	}
	d.skew += time.Duration(d.w.rng.Int64N(int64(2 * time.Second)))
	d.leapt = d.w.now
	d.w.hit("the database's clock steps forward", "")
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
		w.faults++
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

// check holds the invariants at every instant.
func (w *world) check(where string) {
	for _, held := range []struct{ kind, pw string }{{"admin", w.dev.admin}, {"admin", w.dev.pendingAdmin}, {"mebx", w.dev.mebx},
		{"mebx", w.dev.pendingMEBx}} {
		if held.pw == "" || held.pw == "admin" {
			continue
		}
		if !w.db.holds(held.kind, held.pw) {
			w.broken("I1", "%s: the device holds a %s password the store does not", where, held.kind)
		}
	}
	if w.dev.state == amt.StatePost && w.heard[w.dev.admin] {
		w.broken("I13", "%s: a stranger had an answer made with the password that the device holds now", where)
	}
	if w.managed() && (w.db.row.Version != w.dev.version || (w.db.lifecycle == store.Provisioned || w.db.lifecycle == store.Maintaining) &&
		w.db.row.Address != w.dev.addr) {
		w.broken("I14", "%s: the device is ours, at %s with AMT %s, and is written down at %s with AMT %s", where, w.dev.addr,
			w.dev.version, w.db.row.Address, w.db.row.Version)
	}
	if row := w.db.row; w.managed() && (row.MAC != "" && row.MAC != w.dev.mac || row.Realm != w.dev.realm ||
		row.HostName != w.dev.hostName) {
		w.broken("I14", "%s: the device is ours, %s with the MAC %s and the realm %s, and is written down as %s, %s, %s", where,
			w.dev.hostName, w.dev.mac, w.dev.realm, row.HostName, row.MAC, row.Realm)
	}
	if w.managed() && !w.dev.tls.garbles && !w.reachable() {
		w.broken("I15", "%s: the device is ours and lets in %q, under none of which anybody can come", where, w.dev.tls.trusted)
	}
	if w.dev.commits > 1 {
		w.broken("I5", "%s: committed %d times in one setup", where, w.dev.commits)
	}
	if len(w.db.creds) < w.db.most && w.mutant != "delete old secret" {
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
	if !w.ownLetIn() {
		w.broken("I15", "at rest the device lets in %q, and this server is not among them", w.dev.tls.trusted)
	}
	if admin != w.dev.admin {
		w.broken("I3", "the store's active admin password is not the device's")
	}
	if generations <= 1 && mebx != w.dev.mebx {
		w.broken("I3", "the store's active MEBx password is not the device's")
	}
}
