package server

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// A node's workers are shared, since an attempt cannot be taken back: who is slow
// on purpose has its worker for as long as an attempt may take.
//
//   - By class: some workers are always left to whoever stands before.
//   - By network, within a class: one has never more than twice what it leaves to
//     all the others. The more it takes, the less it may; a network that comes later
//     finds room, and so does a device we know in a network full of strangers.
//
// Each node shares its own workers, so that no statement is needed for it: what is
// fair on each is fair on all. Who has to wait is given a turn to ask again.

// class is what kind of attempt it is; who stands before has workers of its own.
type class int

const (
	knownFirst    class = iota // somebody let it in or asked for it, and it was not tried in vain
	knownAgain                 // the same after an attempt in vain, and what is due by the timer
	strangerFirst              // it came through an open door
	strangerAgain
	classes
)

const (
	leaves     = 16 // each class leaves so many workers, and one of so many, to those before it
	waitAtMost = 30 * time.Second
	waitApart  = 10 * time.Millisecond // of those who wait, so many thousand that they cost little
)

// shares are the attempts under way on this node.
type shares struct {
	workers int

	mu       sync.Mutex
	held     map[int64]place // by run
	networks map[group]int
	turns    [classes]time.Time  // the last one given
	waits    map[int64]time.Time // when a run got its turn here; by run
}

// group is what takes no more than its share.
type group struct {
	network netip.Prefix
	class   class
}

type place struct {
	road
	group group
}

func newShares(workers int) *shares {
	return &shares{workers: workers, held: map[int64]place{}, networks: map[group]int{}, waits: map[int64]time.Time{}}
}

// take takes a worker for a run, or says that its class or its network has as
// many as it may.
func (s *shares) take(runID int64, r road, c class) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(runID) // of a claim that the store tries again
	g := group{r.network, c}
	room := max(s.workers-int(c)*min((s.workers+leaves-1)/leaves, leaves), 1) - len(s.held)
	if room <= 0 || s.networks[g] >= 2*room {
		return false
	}
	s.held[runID] = place{r, g}
	s.networks[g]++
	delete(s.waits, runID)
	return true
}

// alone reports whether a run is the only one of its network and class here.
func (s *shares) alone(runID int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.held[runID]
	return ok && s.networks[p.group] == 1
}

// put replaces what is known of the road of a run that has its worker.
func (s *shares) put(runID int64, r road) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.held[runID]; ok {
		s.held[runID] = place{r, p.group}
	}
}

// give gives a run's worker back; the second time does nothing.
func (s *shares) give(runID int64) road {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drop(runID)
}

func (s *shares) drop(runID int64) road {
	p, ok := s.held[runID]
	if !ok {
		return road{}
	}
	delete(s.held, runID)
	if s.networks[p.group]--; s.networks[p.group] <= 0 {
		delete(s.networks, p.group)
	}
	return p.road
}

// turn is when a run that has to wait asks again.
func (s *shares) turn(runID int64, c class, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := now.Add(500 * time.Millisecond)
	if next := s.turns[c].Add(waitApart); next.After(at) {
		at = next
	}
	if last := now.Add(waitAtMost); at.After(last) {
		at = last
	}
	s.turns[c], s.waits[runID] = at, time.Now()
	return at
}

// waiting gives the runs that got a turn here lately: their jobs are not lost.
func (s *shares) waiting(lately time.Duration) map[int64]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[int64]bool, len(s.waits))
	for id, at := range s.waits {
		if time.Since(at) > lately {
			delete(s.waits, id)
		} else {
			out[id] = true
		}
	}
	return out
}

// classOf says what kind of attempt a run would be.
func (l *limited) classOf(run store.Run, d store.Device) class {
	c := knownFirst
	if run.Kind == provision.KindProvision && run.Trigger != "api" && (admit.Policy{Mode: l.s.o.Admission}).Stranger(d) {
		c = strangerFirst
	}
	if run.Trigger != "api" && (d.Attempts > 0 || run.Kind != provision.KindProvision) {
		c++
	}
	return c
}

// place takes a worker for a run. With an open door only whoever would have to
// wait is looked up in the list of authorised devices.
func (l *limited) place(ctx context.Context, tx *store.Tx, run store.Run, d store.Device, r road) (ok bool, c class, err error) {
	c = l.classOf(run, d)
	if l.shares.take(run.ID, r, c) {
		return true, c, nil
	}
	return l.listed(ctx, tx, run.ID, d, r, c)
}

// listed takes a worker for a stranger that the list knows, as what it is.
func (l *limited) listed(ctx context.Context, tx *store.Tx, runID int64, d store.Device, r road, c class) (bool, class, error) {
	if c < strangerFirst {
		return false, c, nil
	}
	switch _, err := tx.AuthorisedFor(ctx, d); {
	case errors.Is(err, store.ErrNotFound):
		return false, c, nil
	case err != nil:
		return false, c, err
	}
	c -= strangerFirst
	return l.shares.take(runID, r, c), c, nil
}

// working gives the worker back when an attempt is over, however it ended: one
// whose outcome could not be written down is somebody else's from then on.
type working struct {
	*provision.Engine
	shares *shares
}

func (w working) Work(ctx context.Context, runID int64) (again time.Time, err error) {
	defer w.shares.give(runID)
	return w.Engine.Work(ctx, runID)
}
