package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/amt/sim/simtest"
	"github.com/provisiond/provisiond/store"
)

// TestSharesOfWorkers: whatever others hold, a class finds the workers it is left,
// and a network room that no other network takes.
func TestSharesOfWorkers(t *testing.T) {
	t.Parallel()
	at := func(n int) netip.Addr {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 10<<24+uint32(n))
		return netip.AddrFrom4(a)
	}
	from := func(a netip.Addr) road { return road{network: store.NetworkOf(a), address: a} }
	for _, workers := range []int{1, 2, 8, 256, 2048} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			t.Parallel()
			s := newShares(workers)
			run := int64(0)
			// grab lets as many attempts begin as may, from so many networks in turns.
			grab := func(c class, networks, first int) (n int) {
				for misses := 0; misses < networks; {
					run++
					if !s.take(run, from(at((first+n%networks)<<8+n/networks%200+1)), c) {
						misses++
						n++ // the next network's turn
						continue
					}
					misses = 0
					n++
				}
				return n
			}
			busy := func() int { return len(s.held) }
			grab(strangerAgain, 3, 0)
			held := busy()
			if workers >= 8 && held > workers-3 {
				t.Errorf("strangers tried in vain hold %d", held)
			}
			if held < 1 || workers >= 256 && held < workers*3/4*6/7*9/10 {
				t.Errorf("three networks of strangers got %d only", held)
			}
			if workers < 8 {
				return
			}
			for i, c := range []class{strangerAgain, strangerFirst, knownAgain, knownFirst} {
				run++
				if !s.take(run, from(at((1000+i)<<8+1)), c) && (workers >= 256 || c != strangerAgain) {
					t.Errorf("beside three networks of strangers no attempt of class %d of another network begins; %d are under way", c,
						busy())
				}
				s.give(run)
			}
			grab(strangerFirst, 300, 2000) // from wherever they like
			if left := workers - busy(); left < 1 {
				t.Errorf("strangers left %d workers", left)
			}
			run++
			if !s.take(run, from(at(9000<<8+1)), knownFirst) {
				t.Errorf("no device that is known gets a worker; %d are under way", busy())
			}
			for id := int64(1); id <= run; id++ {
				s.give(id)
				s.give(id)
			}
			if busy() != 0 || len(s.networks) != 0 {
				t.Errorf("%d attempts and %d networks are left", busy(), len(s.networks))
			}
		})
	}
}

// TestWaitingTurns: however many wait, they ask a hundred times a second, and the
// strangers among them are in nobody's way.
func TestWaitingTurns(t *testing.T) {
	t.Parallel()
	s, now := newShares(256), time.Now()
	for range 600 {
		if at := s.turn(1, strangerFirst, now); at.Before(now) || at.After(now.Add(7*time.Second)) {
			t.Fatalf("a turn in %s", at.Sub(now))
		}
	}
	if at := s.turn(2, knownFirst, now); at.After(now.Add(time.Second)) {
		t.Errorf("behind 600 strangers the known wait %s", at.Sub(now))
	}
	for range 100_000 {
		s.turn(3, strangerAgain, now)
	}
	if at := s.turn(3, strangerAgain, now); at.After(now.Add(waitAtMost)) {
		t.Errorf("a turn in %s", at.Sub(now))
	}
	if w := s.waiting(time.Hour); len(w) != 3 {
		t.Errorf("%d runs wait", len(w))
	}
	s.take(1, road{}, knownFirst)
	if w := s.waiting(time.Hour); len(w) != 2 || w[1] {
		t.Errorf("%v wait", w)
	}
	if w := s.waiting(-1); len(w) != 0 || len(s.waits) != 0 {
		t.Errorf("%v wait for ever", w)
	}
	if at := s.turn(3, strangerAgain, now.Add(-24*time.Hour)); at.After(now) {
		t.Errorf("the clock was ahead, and a run waits %s", at.Sub(now.Add(-24*time.Hour)))
	}
}

// TestSlowStrangersHoldNoWorkerOfOthers: with an open door, more machines than
// there are workers say hello and then keep us waiting for ever. A device of
// another network, and one in the strangers' own network that somebody let in,
// are set up meanwhile.
func TestSlowStrangersHoldNoWorkerOfOthers(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Workers, o.CallTimeout = 16, patience }, func(t *testing.T, l *lab) {
		theirs := simtest.Subnet()
		for _, network := range []netip.Prefix{theirs, simtest.Subnet()} {
			for i := range byte(20) {
				at := simtest.Host(network, 1+i)
				swallow(t, at)
				l.hello(at, newUUID(), 0, l.roots())
			}
		}
		if !waitFor(t, func() bool { return l.metric("provisiond_attempts_held_total") >= 20 }) {
			t.Fatal("nobody had to wait")
		}
		if live := l.s.engine.Live(); live > 14 {
			t.Errorf("strangers have %d of 16 workers", live)
		}
		honest := l.device(sim.Faults{}, func(c *sim.Config) { c.Addr = simtest.Host(simtest.Subnet(), 1) })
		l.says(honest)
		l.untilState(honest.UUID(), store.Provisioned)

		known := l.device(sim.Faults{}, func(c *sim.Config) { c.Addr = simtest.Host(theirs, 100) })
		l.write(func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "uuid", Value: known.UUID().String(), CreatedBy: "test"})
			return err
		})
		l.says(known)
		l.untilState(known.UUID(), store.Provisioned)
	})
}

// TestStrangersPauseNoDeviceWeKnow: a network is paused, perhaps since strangers in
// it never answer. A device of it that is on the list is set up all the same, which
// ends the pause; until then a stranger waits.
func TestStrangersPauseNoDeviceWeKnow(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.BreakAfter = 3 }, func(t *testing.T, l *lab) {
		network := simtest.Subnet()
		stranger := l.device(sim.Faults{}, func(c *sim.Config) { c.Addr = simtest.Host(network, 1) })
		l.write(func(ctx context.Context, tx *store.Tx) error {
			now := tx.Now()
			return tx.PauseNetwork(ctx, store.PausedNetwork{Network: store.NetworkOf(stranger.Addr().Addr()), Since: now,
				Until: now.Add(longestPause), Pauses: 1, Node: l.s.node})
		})
		l.says(stranger)
		l.until(stranger.UUID(), "a run that is put off", func(d store.Device) bool {
			w, err := l.api.Why(l.t.Context(), d.UUID.String())
			return err == nil && strings.Contains(w.Next, "is paused until")
		})
		known := l.device(sim.Faults{}, func(c *sim.Config) { c.Addr = simtest.Host(network, 100) })
		l.write(func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: "uuid", Value: known.UUID().String(), CreatedBy: "test"})
			return err
		})
		l.says(known)
		l.untilState(known.UUID(), store.Provisioned)
		if !waitFor(t, func() bool {
			paused := true
			l.read(func(ctx context.Context, tx *store.Tx) error {
				_, err := tx.PausedNetwork(ctx, store.NetworkOf(known.Addr().Addr()))
				if paused = err == nil; errors.Is(err, store.ErrNotFound) {
					err = nil
				}
				return err
			})
			return !paused
		}) {
			t.Error("the pause goes on")
		}
	})
}

// swallow listens where devices do, and never says a word.
func swallow(t *testing.T, at netip.Addr) {
	t.Helper()
	s, err := net.Listen("tcp", netip.AddrPortFrom(at, 16993).String())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	closed := false
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if open = append(open, c); closed {
				_ = c.Close()
			}
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = s.Close()
		mu.Lock()
		defer mu.Unlock()
		closed = true
		for _, c := range open {
			_ = c.Close()
		}
	})
}
