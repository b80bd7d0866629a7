package provision

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestNobodyIsCalledAfterTheLease: a node that cannot renew its lease, since the
// database is away, stops calling a device that does not come back from its
// commit. By then another node may have it.
func TestNobodyIsCalledAfterTheLease(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	d := l.device("11", sim.Faults{}, func(c *sim.Config) { c.Restart = time.Hour })
	id := l.hello(d)
	e := l.newEngine("cut off")
	e.Lease, e.VerifyFor = 4*time.Second, 12*time.Second
	ctx, stop := context.WithCancel(t.Context())
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		for ; d.Snapshot().Commits == 0 && ctx.Err() == nil; _ = (realClock{}).Sleep(ctx, 500*time.Millisecond) {
			_ = e.Beat(ctx)
		}
	}()
	defer func() { stop(); <-cut }()
	var early, late atomic.Int32
	var working atomic.Int64
	dial := e.Dial
	e.Dial = func(ctx context.Context, target session.Target) (Device, error) {
		e.mu.Lock()
		held := e.live[working.Load()]
		e.mu.Unlock()
		if held.left(e.Clock.Now()) > 0 {
			early.Add(1)
		} else {
			late.Add(1)
		}
		return dial(ctx, target)
	}
	// A slow machine may need several attempts until the commit.
	for deadline := time.Now().Add(patience); d.Snapshot().Commits == 0 && time.Now().Before(deadline); id = l.live(d) {
		working.Store(id)
		_, _ = e.Work(t.Context(), id)
	}
	if d.Snapshot().Commits == 0 || late.Load() > 0 {
		t.Errorf("it was called %d times under the lease and %d times after it\n%s", early.Load(), late.Load(), l.journal(d))
	}
}

// TestAHandshakeEndsWithTheLease: so does a call that is answered by nobody.
func TestAHandshakeEndsWithTheLease(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	d := l.device("11", sim.Faults{})
	id := l.hello(d)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", d.Addr().String()) // takes the connection and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	e := l.newEngine("cut off")
	e.Lease = time.Second
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = e.Work(ctx, id) }()
	select {
	case <-ended:
	case <-time.After(patience / 3):
		t.Error("it still waits for the device")
	}
	stop()
	<-ended
}
