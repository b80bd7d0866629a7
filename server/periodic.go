package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

type uuidT = amt.UUID

// every starts what each node does on a timer.
func (s *Server) every() {
	lease := s.o.Lease
	if lease == 0 {
		lease = 30 * time.Second
	}
	s.queue.Every("beat", lease/3, s.engine.Beat)
	s.queue.Every("sweep", 5*time.Second, s.sweep)
	s.queue.Every("jobs", jobTick, s.runJobs)
	s.queue.Every("maintenance", dueTick, s.maintainDue)
	s.queue.Every("claims", claimTick, s.callClaimed)
	s.queue.Every("reseal", resealTick, s.reseal)
	s.queue.Every("prune", pruneTick, s.prune)
	s.queue.Every("checkpoint", checkpointTick, s.DB.TendAudit)
	s.queue.Every("rows", rowsTick, s.DB.TendRows)
	s.queue.Every("windows", 15*time.Second, seldom(s.windows))
	s.queue.Every("paused networks", 30*time.Second, s.breaker.measure)
	s.queue.Every("names", 2*time.Second, s.Admit.ResolveNames)
	s.queue.Every("reconsider", 5*time.Minute, s.reconsider)
	s.queue.Every("strangers", 20*time.Second, seldom(s.strangers))
	s.queue.Every("certificates", pollCertificates, s.Desk.Poll)
	s.queue.Every("certificate reminders", tickCertificates, s.Desk.Tick)
}

// rowsTick is how often a node looks whether it has met rows that count for
// nothing.
const rowsTick = 30 * time.Second

// checkpointTick is how often a node compares the audit with what it saw
// before, and signs it when that is due.
const checkpointTick = time.Minute

// jobLost is how long a run waits for its queue job before the sweep gives it
// another one. A large site that wakes up keeps the queue busy for longer: then
// each run gets one more job in that time, not one per sweep.
const jobLost = 2 * time.Minute

// A foundRun is a run to which this node gave another queue job.
type foundRun struct {
	attempt int
	at      time.Time
}

// sweep finds live runs that no worker has: the worker died, or could not write
// an outcome. They go the same way as a first attempt.
func (s *Server) sweep(ctx context.Context) error {
	var waiting []store.Run
	var now time.Time
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		now = tx.Now()
		waiting, err = tx.WaitingRuns(ctx, 10*time.Second, 500)
		return err
	}); err != nil {
		return fmt.Errorf("look for runs left behind: %w", err)
	}
	first := !s.swept.Swap(true) // a restored database has runs and no queue
	before, turned := s.found, s.shares.waiting(jobLost)
	s.found = make(map[int64]foundRun, len(waiting))
	for _, r := range waiting {
		if !first && r.State != store.RunRunning && now.Sub(r.NotBefore) < jobLost {
			continue // the queue has its job, and is just busy
		}
		if !first && turned[r.ID] {
			continue // its job asks again and again for a worker
		}
		if f, ok := before[r.ID]; ok && f.attempt == r.Attempt && time.Since(f.at) < jobLost {
			s.found[r.ID] = f
			continue // the job that this node gave it is in the queue
		}
		if err := s.DB.Write(ctx, func(tx *store.Tx) error { return s.enqueue(ctx, tx, r.ID, tx.Now(), 1) }); err != nil {
			return fmt.Errorf("queue run %d again: %w", r.ID, err)
		}
		s.found[r.ID] = foundRun{r.Attempt, time.Now()}
		s.log.Info("run.found", zap.Int64("run", r.ID), zap.Stringer("device", r.UUID), zap.String("node", r.Node))
	}
	return s.hastenFar(ctx)
}

// hastenFar brings back runs that a node postponed while its clock was ahead:
// no run waits longer than twice the longest pause, unless a wrong clock wrote
// its time.
func (s *Server) hastenFar(ctx context.Context) error {
	longest := queue.LongestPatience
	for _, d := range s.o.Retry {
		longest = max(longest, d)
	}
	var far []store.Run
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		far, err = tx.FarRuns(ctx, 2*longest, 500)
		return err
	}); err != nil {
		return fmt.Errorf("look for runs that wait for a far day: %w", err)
	}
	for _, r := range far {
		err := s.DB.Write(ctx, func(tx *store.Tx) error {
			now := tx.Now()
			if err := tx.HastenRun(ctx, r.ID, now); err != nil {
				return err
			}
			return s.enqueue(ctx, tx, r.ID, now, 1)
		})
		if errors.Is(err, store.ErrGone) {
			continue // it has ended
		}
		if err != nil {
			return fmt.Errorf("bring run %d back to today: %w", r.ID, err)
		}
		s.log.Warn("run.clock_was_ahead", zap.Int64("run", r.ID), zap.Stringer("device", r.UUID), zap.Time("waited_for", r.NotBefore))
	}
	return nil
}

// wallClock is the time for runs.
type wallClock struct{}

func (wallClock) Now() time.Time { return time.Now() }

func (wallClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// ownAddresses are this machine's, which no device can have.
func ownAddresses() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// listen binds a port. If the port is in use, the error names the process that
// has it, if this process can find that out.
func listen(given net.Listener, address, key string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	if strings.Contains(err.Error(), "address already in use") {
		if who := holder(address); who != "" {
			return nil, fmt.Errorf("%s: %s is in use by %s; stop it, or choose another port", key, address, who)
		}
		return nil, fmt.Errorf("%s: %s is in use by another process; stop it (ss -ltnp shows it), or choose another port", key, address)
	}
	return nil, fmt.Errorf("%s: cannot listen on %s: %w", key, address, err)
}

// holder names the process that listens on a port: it finds the socket's inode
// in /proc/net, and the process with that inode among its open files.
func holder(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	var n int
	if _, err := fmt.Sscanf(port, "%d", &n); err != nil {
		return ""
	}
	inode := ""
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", n)) {
				inode = f[9]
			}
		}
	}
	if inode == "" {
		return ""
	}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		fds, err := os.ReadDir("/proc/" + p.Name() + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name()); err == nil && to == "socket:["+inode+"]" {
				name, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
				return strings.TrimSpace(string(name)) + " (pid " + p.Name() + ")"
			}
		}
	}
	return ""
}
