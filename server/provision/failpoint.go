//go:build failpoints

package provision

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// Failpoints let a test kill the real binary, with SIGKILL and so without a
// word, right before or right after each durable write and each call to a
// device:
//
//	PROVISIOND_CRASH_AT=sending/set_mebx_password/after:1
//
// A site is a write (hello, claim, stage, settle, renew; journal and sending with
// the step they write down) or a call (call/SetClock), and the moment. :n is which
// passing of it, the first when left out. PROVISIOND_CRASH_TRACE names a file
// to which each site is written as it is passed, so that a test can learn them.
type failpoints struct {
	site  string
	nth   int
	trace *os.File

	mu     sync.Mutex
	passed map[string]int
}

func withFailpoints(c Config) Config {
	at, n, _ := strings.Cut(os.Getenv("PROVISIOND_CRASH_AT"), ":")
	f := &failpoints{site: at, nth: 1, passed: map[string]int{}}
	if i, err := strconv.Atoi(n); err == nil {
		f.nth = i
	}
	if name := os.Getenv("PROVISIOND_CRASH_TRACE"); name != "" {
		t, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			panic(fmt.Sprintf("PROVISIOND_CRASH_TRACE: %v", err))
		}
		f.trace = t
	}
	dial := c.Dial
	c.Dial = func(ctx context.Context, t session.Target) (d Device, err error) {
		defer f.around("call/Dial")()
		if d, err = dial(ctx, t); err != nil {
			return nil, err
		}
		return &failingDevice{d, f}, nil
	}
	c.Store = &failingStore{c.Store, f}
	return c
}

// Failpoint is a site outside the engine: hello/before and hello/after.
func (e *Engine) Failpoint(site string) {
	if s, ok := e.Store.(*failingStore); ok {
		s.f.pass(site)
	}
}

// around passes the site before a call; what it returns passes the one after.
func (f *failpoints) around(what string) (after func()) {
	f.pass(what + "/before")
	return func() { f.pass(what + "/after") }
}

func (f *failpoints) pass(site string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed[site]++
	if f.trace != nil {
		fmt.Fprintln(f.trace, site)
	}
	if site == f.site && f.passed[site] == f.nth {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // with the lock held: nothing passes any more
	}
}

// The methods of failingStore and failingDevice are in failpoint_methods.go, which
// go test ./server/provision -run FailpointMethods -update writes.

type failingStore struct {
	Store
	f *failpoints
}

func last(steps []store.StepRecord) string {
	if len(steps) == 0 {
		return ""
	}
	return "/" + steps[len(steps)-1].Name
}

type failingDevice struct {
	Device
	f *failpoints
}
