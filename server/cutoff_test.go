package server

import (
	"context"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/storetest"
)

// cable is the line between one node and its database. When it is cut, nothing
// passes and nothing is closed: the node has to find out by itself.
type cable struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	open *sync.Cond
	cut  bool
	end  bool
	all  []net.Conn
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{l: l, to: to}
	c.open = sync.NewCond(&c.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			c.mu.Lock()
			c.all = append(c.all, in, out)
			c.mu.Unlock()
			wg.Go(func() { c.copy(in, out) })
			wg.Go(func() { c.copy(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		c.end = true
		for _, conn := range c.all {
			_ = conn.Close()
		}
		c.open.Broadcast()
		c.mu.Unlock()
		wg.Wait()
	})
	return c
}

func (c *cable) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		for c.cut && !c.end {
			c.open.Wait()
		}
		c.mu.Unlock()
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *cable) set(cut bool) {
	c.mu.Lock()
	c.cut = cut
	c.open.Broadcast()
	c.mu.Unlock()
}

// TestANodeCutOffStopsBeforeItsFenceIsTaken: the line between a node and the
// database freezes while a run lives on its heartbeat alone. The node lets go of
// the device before anybody else may take it; another brings it to its end; and
// when the line is back, the first does nothing to it.
func TestANodeCutOffStopsBeforeItsFenceIsTaken(t *testing.T) {
	t.Parallel()
	// Nothing is shown where the machine itself stood still: both nodes wake up
	// at the same moment, and all leases are over.
	for try, shown := 1, false; !shown && !t.Failed(); try++ {
		if try > 5 {
			t.Fatal("nothing was shown")
		}
		t.Run(strconv.Itoa(try), func(t *testing.T) { shown = nodeCutOff(t) })
	}
}

func nodeCutOff(t *testing.T) (shown bool) {
	direct := storetest.URL(t)
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	line := newCable(t, filepath.Join(q.Get("host"), ".s.PGSQL.5432"))
	host, port, _ := net.SplitHostPort(line.l.Addr().String())
	q.Set("host", host)
	q.Set("port", port)
	u.RawQuery = q.Encode()
	l := newLab(t, store.Postgres, func(o *Options) {
		o.DatabaseURL, o.Log, o.Lease = u.String(), zap.NewNop(), 12*time.Second
	})
	t.Cleanup(func() { line.set(false) }) // or the first node could not stop
	lease := l.o.Lease

	// A slow key generator: for a good while the run asks the device again and
	// again and writes nothing down.
	faults, err := sim.ParseFaults("slow_keygen=6")
	if err != nil {
		t.Fatal(err)
	}
	d := l.device(faults)
	l.says(d)
	first := l.midRun(d)
	if !waitFor(t, func() bool {
		found := false
		l.read(func(ctx context.Context, tx *store.Tx) error {
			steps, err := tx.Steps(ctx, first.ID)
			found = len(steps) > 0 && steps[len(steps)-1].Name == "device_key"
			return err
		})
		return found
	}) {
		t.Fatalf("it never came to the key\n%s", l.story(d.UUID()))
	}

	o := l.o
	o.Node, o.DatabaseURL, o.DataDir, o.Registry = "n2", direct, t.TempDir(), prometheus.NewRegistry()
	second, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := second.Stop(ctx); err != nil {
			t.Errorf("stop the second node: %v", err)
		}
	})
	if err := second.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	fence := func() (f int64) {
		err := second.DB.Read(context.WithoutCancel(t.Context()), func(tx *store.Tx) error {
			dev, err := tx.Device(context.Background(), d.UUID())
			f = dev.Fence
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	had := fence()
	if had != first.Fence {
		t.Log("the run ended before the line was cut")
		return false
	}
	line.set(true)
	cut := time.Now()

	// The last that is heard of the first node before the fence moves.
	var last time.Time
	open := 0
	looked, stood := cut, time.Duration(0)
	deadline := cut.Add(2 * patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		stood, looked = max(stood, time.Since(looked)), time.Now()
		b := d.Brief() // before the fence is asked: behind it the next node is at work
		if fence() != had {
			break
		}
		last, open = b.LastRequest, b.Open
		if time.Now().After(deadline) {
			t.Fatalf("nobody took over\n%s", l.story(d.UUID()))
		}
		<-tick.C
	}
	taken := time.Now()
	if stood = max(stood, time.Since(looked)); stood > 2*time.Second {
		t.Logf("the machine stood still for %s", stood)
		return false
	}
	t.Logf("cut off; its last request came %.1f s later, its fence was taken after %.1f s", last.Sub(cut).Seconds(),
		taken.Sub(cut).Seconds())
	if last.Before(cut) {
		t.Errorf("it did nothing after the cut: nothing was shown")
	}
	if last.After(cut.Add(lease)) {
		t.Errorf("it touched the device %s after the cut; its lease is %s", last.Sub(cut), lease)
	}
	if open > 0 {
		t.Errorf("%d connections were open as the fence moved", open)
	}
	ok := waitFor(t, func() bool {
		done := false
		_ = second.DB.Read(context.Background(), func(tx *store.Tx) error {
			dev, err := tx.Device(context.Background(), d.UUID())
			done = err == nil && dev.Lifecycle == store.Provisioned && dev.Owner == ""
			return err
		})
		return done
	})
	if !ok {
		t.Fatalf("the second node did not bring it to its end: %+v", d.Brief())
	}
	line.set(false)
	l.untilState(d.UUID(), store.Provisioned)
	if s := d.Snapshot(); s.Commits != 1 || s.MaxInFlight > 1 || s.MaxConcurrent > 1 {
		t.Errorf("%d commits, %d requests and %d connections at once", s.Commits, s.MaxInFlight, s.MaxConcurrent)
	}
	l.keeps(d)
	return true
}
