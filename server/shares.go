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

// A node's workers are shared, since nobody can take an attempt back: a device
// that is slow on purpose has its worker for as long as an attempt may take.
//
//   - By class: each class leaves some workers to the classes before it.
//   - By network, within a class: a network never has more than twice what it
//     leaves to all others. The more it has, the less it gets; a network that
//     comes later finds room, and so does a device we know in a network full of
//     strangers.
//
// Each node shares its own workers and needs no statement for it: what is fair
// on each node is fair on all. A run that has to wait gets a turn to ask again.

// class is the kind of an attempt; each kind leaves workers to those before it.
type class int

const (
	knownFirst    class = iota // somebody let it in or asked for it, and no attempt failed yet
	knownAgain                 // the same after a failed attempt, and what the timer began
	strangerFirst              // it came through an open door
	strangerAgain
	classes
)

const (
	leaves     = 16 // each class leaves a sixteenth of the workers, at most 16, to those before it
	waitAtMost = 30 * time.Second
	waitApart  = 10 * time.Millisecond // between two turns, so that thousands of waiting runs cost little
)

// shares are the attempts under way on this node.
type shares struct {
	workers int

	mu       sync.Mutex
	held     map[int64]place // by run
	networks map[group]int
	turns    [classes]time.Time  // the last turn given
	waits    map[int64]time.Time // by run: the time of its turn
}

// group is a set of attempts that takes no more than its share.
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

// take takes a worker for a run, or reports that its class or its network has
// as many as it may.
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

// put replaces the road of a run that has its worker.
func (s *shares) put(runID int64, r road) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.held[runID]; ok {
		s.held[runID] = place{r, p.group}
	}
}

// give gives a run's worker back; a second call does nothing.
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

// waiting returns the runs that got a turn here lately: the queue has not lost
// their jobs.
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

// classOf says which kind of attempt a run would be.
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

// place takes a worker for a run. With an open door it looks up in the list of
// authorised devices only runs that would have to wait.
func (l *limited) place(ctx context.Context, tx *store.Tx, run store.Run, d store.Device, r road) (ok bool, c class, err error) {
	c = l.classOf(run, d)
	if l.shares.take(run.ID, r, c) {
		return true, c, nil
	}
	return l.listed(ctx, tx, run.ID, d, r, c)
}

// listed takes a worker for a stranger that the list knows, in the class of a
// known device.
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

// working gives the worker back after an attempt, however it ended: if nobody
// could write its outcome, another worker takes the run.
type working struct {
	*provision.Engine
	shares *shares
}

func (w working) Work(ctx context.Context, runID int64) (again time.Time, err error) {
	defer w.shares.give(runID)
	return w.Engine.Work(ctx, runID)
}
