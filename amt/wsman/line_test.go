package wsman

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
)

// What the device does with the line, against what we make of it. calls are
// run in order; each row says how the last one ends.
func TestWhatTheLineDoes(t *testing.T) {
	t.Parallel()
	type outcome struct {
		code reason.Code // "": it works
		sent bool
	}
	worked := outcome{}
	closing := func(r request) reply {
		return reply{raw: httpAnswer(200, soap(r.id, committed), "Connection: close"), cut: true}
	}
	for _, tc := range []struct {
		name   string
		answer func(r request) reply
		change outcome // for a change as the second call
		read   outcome // for a question as the second call
		conns  int
	}{
		{"kept open", func(r request) reply { return ok(r, committed) }, worked, worked, 1},
		{"announced close", closing, worked, worked, 2},
		{"HTTP/1.0", func(r request) reply {
			body := soap(r.id, committed)
			return reply{raw: fmt.Sprintf("HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body), cut: true}
		}, worked, worked, 2},
		{"HTTP/1.0 kept alive", func(r request) reply {
			body := soap(r.id, committed)
			return reply{raw: fmt.Sprintf("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: %d\r\n\r\n%s", len(body), body)}
		}, worked, worked, 1},
		{"body until the end", func(r request) reply {
			return reply{raw: "HTTP/1.1 200 OK\r\n\r\n" + soap(r.id, committed), cut: true}
		}, worked, worked, 2},
		{"chunked", func(r request) reply {
			body := soap(r.id, committed)
			return reply{raw: fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: "+
				"x\r\n\r\n", body[:5], len(body)-5, body[5:])}
		}, worked, worked, 1},
		{"100 Continue first", func(r request) reply {
			return reply{raw: "HTTP/1.1 100 Continue\r\n\r\n" + httpAnswer(200, soap(r.id, committed))}
		}, worked, worked, 1},
		{"line feeds alone", func(r request) reply {
			return reply{raw: strings.ReplaceAll(httpAnswer(200, soap(r.id, committed)), "\r\n", "\n")}
		}, worked, worked, 1},
		{"byte order mark", func(r request) reply {
			return reply{raw: httpAnswer(200, "\ufeff"+soap(r.id, committed))}
		}, worked, worked, 1},
		{"zero bytes behind", func(r request) reply {
			return reply{raw: httpAnswer(200, soap(r.id, committed)+"\x00\x00")}
		}, worked, worked, 1},
		{"no RelatesTo", func(r request) reply { return reply{raw: httpAnswer(200, soap("", committed))} }, worked, worked, 1},
		{"cut before any answer", func(r request) reply {
			if r.n == 1 {
				return reply{cut: true}
			}
			return ok(r, committed)
		}, outcome{reason.ConnectionLost, true}, worked, 1}, // nothing was changed, so that it is asked again
		{"reset before any answer", func(r request) reply {
			if r.n == 1 {
				return reply{reset: true}
			}
			return ok(r, committed)
		}, outcome{reason.ConnectionLost, true}, worked, 1}, // nothing was changed, so that it is asked again
		{"cut in the middle of the head", func(r request) reply {
			if r.n == 1 {
				return reply{raw: "HTTP/1.1 200 OK\r\nContent-Le", cut: true}
			}
			return ok(r, committed)
		}, outcome{reason.ConnectionLost, true}, outcome{reason.ConnectionLost, false}, 1},
		{"cut in the middle of the body", func(r request) reply {
			if r.n == 1 {
				return reply{raw: httpAnswer(200, soap(r.id, committed))[:300], cut: true}
			}
			return ok(r, committed)
		}, outcome{reason.ConnectionLost, true}, outcome{reason.ConnectionLost, false}, 1},
		{"cut in the middle of a chunk", func(r request) reply {
			if r.n == 1 {
				return reply{raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n<a", cut: true}
			}
			return ok(r, committed)
		}, outcome{reason.ConnectionLost, true}, outcome{reason.ConnectionLost, false}, 1},
		{"closes after each 401, announced", func(r request) reply {
			if r.auth == "" {
				return reply{raw: refusal("n", `, qop="auth"`, "Connection: close"), cut: true}
			}
			return ok(r, committed)
		}, worked, worked, 2},
		{"closes after each 401, unannounced", func(r request) reply {
			if r.auth == "" {
				return reply{raw: refusal("n", `, qop="auth"`), cut: true}
			}
			return ok(r, committed)
		}, worked, worked, 2},
		{"401 without end", func(r request) reply {
			if r.auth == "" {
				return reply{raw: "HTTP/1.1 401 No\r\nContent-Length: 9999999999\r\n" + challengeOf("n", `, qop="auth"`) + "\r\n\r\nhello"}
			}
			return ok(r, committed)
		}, worked, worked, 2},
		{"answer to another message", func(r request) reply {
			return reply{raw: httpAnswer(200, soap("4711", committed))}
		}, outcome{reason.WSMANInvalid, true}, outcome{reason.WSMANInvalid, false}, 1},
	} {
		for _, kind := range []string{"change", "read"} {
			t.Run(tc.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				p := startPeer(t, tc.answer)
				c := p.client(Config{Logins: []Login{login("active", "x")}})
				call, want := commit, tc.change
				if kind == "read" {
					call, want = read, tc.read
				}
				if tc.name != "answer to another message" {
					_ = read(c, t.Context()) // the first request on the line
				}
				err := call(c, t.Context())
				if want == worked {
					if err != nil {
						t.Fatal(err)
					}
				} else {
					wantReason(t, err, want.code, want.sent)
					wantReason(t, call(c, t.Context()), want.code, false) // and so it stays
				}
				p.mu.Lock()
				defer p.mu.Unlock()
				conns := tc.conns
				if kind == "read" && want == worked && tc.change != worked {
					conns++
				}
				if p.conns != conns {
					t.Errorf("%d connections, want %d", p.conns, conns)
				}
			})
		}
	}
}

// A device that closes an idle line is opened again for changes too, since
// nothing of the request had been written.
func TestIdleCloseIsNoticedBeforeWriting(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		a := ok(r, committed)
		a.cut = r.conn == 0 // unannounced
		return a
	})
	c := p.client(Config{})
	if err := read(c, t.Context()); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, c)
	if err := commit(c, t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A device that takes one connection only still counts the last one for a moment
// after it ended it.
func TestTheNextLineComesAMomentLater(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		a := ok(r, committed)
		a.cut = true
		return a
	})
	var ended time.Time
	c := p.client(Config{Redial: func(ctx context.Context) (net.Conn, error) {
		if since := time.Since(ended); since < afterClose {
			t.Errorf("the next line was opened %s after the end of the last", since)
		}
		return p.dial(ctx)
	}})
	for range 5 {
		if err := read(c, t.Context()); err != nil {
			t.Fatal(err)
		}
		waitClosed(t, c)
		ended = time.Now()
	}
}

// Once something was changed, a device that closes without a word may have
// restarted and forgotten it, unless it always closes like that.
func TestUnannouncedCloseAfterAChange(t *testing.T) {
	t.Parallel()
	cutting := func(from int) func(request) reply {
		answers := 0
		return func(r request) reply {
			a := ok(r, committed)
			a.cut = answers >= from
			answers++
			return a
		}
	}
	t.Run("may be a restart", func(t *testing.T) {
		t.Parallel()
		p := startPeer(t, cutting(1))
		c := p.client(Config{})
		if err := errors.Join(read(c, t.Context()), commit(c, t.Context())); err != nil {
			t.Fatal(err)
		}
		waitClosed(t, c)
		wantReason(t, read(c, t.Context()), reason.ConnectionLost, false)
	})
	t.Run("is a habit", func(t *testing.T) {
		t.Parallel()
		p := startPeer(t, cutting(0))
		c := p.client(Config{})
		for range 3 {
			if err := read(c, t.Context()); err != nil {
				t.Fatal(err)
			}
			waitClosed(t, c)
		}
		for range 3 {
			if err := commit(c, t.Context()); err != nil {
				t.Fatal(err)
			}
			waitClosed(t, c)
		}
	})
}

// A device that closes after each answer, a moment later and without a word, is
// found out while it is only asked, and waited for before it is changed.
func TestLateCloseAfterEachAnswer(t *testing.T) {
	t.Parallel()
	for _, late := range []time.Duration{0, 5 * time.Millisecond, 30 * time.Millisecond} {
		t.Run(late.String(), func(t *testing.T) {
			t.Parallel()
			undisturbed(t, func() error {
				p := startPeer(t, func(r request) reply {
					answer := committed
					switch {
					case strings.Contains(r.body, "<Pull "):
						answer = `<PullResponse><Items><A/></Items><EndOfSequence/></PullResponse>`
					case strings.Contains(r.body, "<Enumerate "):
						answer = `<EnumerateResponse><EnumerationContext>1</EnumerationContext></EnumerateResponse>`
					}
					a := ok(r, answer)
					a.cut, a.late = true, late
					return a
				})
				c := p.client(Config{})
				if items, err := c.Enumerate(t.Context(), "CIM_SoftwareIdentity"); err != nil || len(items) != 1 {
					return fmt.Errorf("%d items, %w", len(items), err)
				}
				for range 3 {
					if err := read(c, t.Context()); err != nil {
						return err
					}
				}
				for range 3 {
					if err := commit(c, t.Context()); err != nil {
						return err
					}
				}
				commits := 0
				for _, r := range p.seen() {
					commits += strings.Count(r.body, "<r:CommitChanges_INPUT") + strings.Count(r.body, "<CommitChanges_INPUT")
				}
				if commits != 3 {
					return fmt.Errorf("%d commits were read, want 3", commits)
				}
				return nil
			})
		})
	}
}

// undisturbed makes a claim whose times are the shipped ones, of milliseconds. A
// failure counts if the machine did not stand still meanwhile.
func undisturbed(t *testing.T, claim func() error) {
	t.Helper()
	for {
		stop, longest := make(chan struct{}), make(chan time.Duration)
		go func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			var most time.Duration
			for last := time.Now(); ; {
				select {
				case <-stop:
					longest <- most
					return
				case <-tick.C:
					most, last = max(most, time.Since(last)), time.Now()
				}
			}
		}()
		err := claim()
		close(stop)
		stood := <-longest
		if err == nil {
			return
		}
		if stood < closePatience/5 {
			t.Fatal(err)
		}
		t.Logf("the machine stood still for %s: %v", stood, err)
	}
}

// A reset while idle is no orderly end: the device may have restarted.
func TestIdleResetEndsTheConversation(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		a := ok(r, committed)
		a.reset = true
		return a
	})
	c := p.client(Config{})
	// The answer itself may be lost to the reset on a fast loopback; then the
	// call has already said so.
	if err := read(c, t.Context()); err == nil {
		waitClosed(t, c)
		wantReason(t, commit(c, t.Context()), reason.ConnectionLost, false)
	}
	if p.conns != 1 {
		t.Errorf("%d connections, want 1", p.conns)
	}
}

// waitClosed blocks until the peer's FIN or reset has arrived.
func waitClosed(t *testing.T, c *Client) {
	t.Helper()
	raw, err := c.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// The state of the TCP connection, since asking for the error would use it up.
	const established = 1
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		state := established
		if err := raw.Control(func(fd uintptr) {
			state, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
			state &= 0xff
		}); err != nil {
			t.Fatal(err)
		}
		if state != established {
			return
		}
	}
	t.Fatal("the far end did not close")
}

// A device that closes after each 401, a moment later than its answer, is waited
// for once it is known.
func TestLateCloseAfterARefusal(t *testing.T) {
	t.Parallel()
	undisturbed(t, func() error {
		nonces := 0
		p := startPeer(t, func(r request) reply {
			if r.auth != "" {
				if f, valid := checkDigest(t, r, "x"); valid && f["nonce"] == "n"+itoa(nonces) {
					return ok(r, committed)
				}
			}
			nonces++
			return reply{raw: refusal("n"+itoa(nonces), `, qop="auth"`), cut: true, late: 80 * time.Millisecond}
		})
		c := p.client(Config{Logins: []Login{login("active", "x")}})
		if err := read(c, t.Context()); err != nil {
			return err
		}
		nonces++ // forgets the nonce, so that the next request is refused first
		return commit(c, t.Context())
	})
}

func TestARefusedRedialEndsTheConversation(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		return reply{raw: httpAnswer(200, soap(r.id, committed), "Connection: close"), cut: true}
	})
	dials := 0
	c := p.client(Config{Redial: func(context.Context) (net.Conn, error) {
		dials++
		return nil, syscall.ECONNREFUSED
	}})
	if err := commit(c, t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantReason(t, commit(c, t.Context()), reason.ConnectionLost, false)
	}
	if dials != 1 {
		t.Errorf("%d redials, want 1: at once and only at once", dials)
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	hang := func(request) reply { return reply{hang: true} }
	t.Run("of the call", func(t *testing.T) {
		t.Parallel()
		for { // until the machine was fast enough for the request to leave
			p := startPeer(t, hang)
			err := commit(p.client(Config{CallTimeout: 50 * time.Millisecond}), t.Context())
			if len(p.seen()) > 0 {
				wantReason(t, err, reason.WSMANTimeout, true)
				return
			}
		}
	})
	t.Run("of the caller", func(t *testing.T) {
		t.Parallel()
		c := startPeer(t, hang).client(Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		wantReason(t, read(c, ctx), reason.WSMANTimeout, false)
	})
	t.Run("cancelled while waiting", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		c := startPeer(t, func(request) reply { cancel(); return reply{hang: true} }).client(Config{})
		err := commit(c, ctx)
		wantReason(t, err, reason.WorkerCrashed, true)
	})
	t.Run("cancelled for a reason", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		c := startPeer(t, func(request) reply {
			cancel(reason.Because(reason.LeaseLost, "another node"))
			return reply{hang: true}
		}).client(Config{})
		wantReason(t, commit(c, ctx), reason.LeaseLost, true)
	})
	t.Run("of the lease", func(t *testing.T) {
		t.Parallel()
		var c *Client
		ready := make(chan struct{})
		p := startPeer(t, func(request) reply {
			<-ready
			c.SetDeadline(time.Now().Add(50 * time.Millisecond))
			return reply{hang: true}
		})
		c = p.client(Config{})
		close(ready)
		wantReason(t, commit(c, t.Context()), reason.LeaseLost, true)
	})
	t.Run("of a lease renewed meanwhile", func(t *testing.T) {
		t.Parallel()
		var c *Client
		ready := make(chan struct{})
		p := startPeer(t, func(r request) reply {
			<-ready
			c.SetDeadline(time.Now().Add(time.Hour))
			return ok(r, committed)
		})
		c = p.client(Config{})
		c.SetDeadline(time.Now().Add(patience / 2))
		close(ready)
		if err := commit(c, t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("of a lease renewed while the line is opened again", func(t *testing.T) {
		t.Parallel()
		undisturbed(t, func() error {
			p := startPeer(t, func(r request) reply {
				return reply{raw: httpAnswer(200, soap(r.id, committed), "Connection: close"), cut: true}
			})
			const lease = time.Second
			var c *Client
			c = p.client(Config{Redial: func(ctx context.Context) (net.Conn, error) {
				c.SetDeadline(time.Now().Add(time.Hour))
				select {
				case <-time.After(2 * lease):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				return p.dial(ctx)
			}})
			if err := read(c, t.Context()); err != nil {
				return err
			}
			c.SetDeadline(time.Now().Add(lease))
			return read(c, t.Context())
		})
	})
	t.Run("of a lease that ends while the line is opened again", func(t *testing.T) {
		t.Parallel()
		p := startPeer(t, func(r request) reply {
			return reply{raw: httpAnswer(200, soap(r.id, committed), "Connection: close"), cut: true}
		})
		c := p.client(Config{Redial: func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}})
		if err := read(c, t.Context()); err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(50 * time.Millisecond))
		wantReason(t, read(c, t.Context()), reason.LeaseLost, false)
	})
	t.Run("before the call", func(t *testing.T) {
		t.Parallel()
		p := startPeer(t, hang)
		c := p.client(Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantReason(t, commit(c, ctx), reason.WorkerCrashed, false)
		if len(p.seen()) != 0 {
			t.Error("something was sent")
		}
	})
	t.Run("closed by us", func(t *testing.T) {
		t.Parallel()
		asked := make(chan struct{})
		c := startPeer(t, func(request) reply { close(asked); return reply{hang: true} }).client(Config{})
		go func() {
			<-asked
			_ = c.Close()
		}()
		wantReason(t, commit(c, t.Context()), reason.ConnectionLost, true)
	})
}

// A lease may be renewed at any moment, also while the line is only looked at
// for a moment; the look must not turn into a wait for the whole call.
func TestRenewalDoesNotHoldUpALook(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		if r.auth == "" {
			return reply{raw: refusal("n", `, qop="auth"`)}
		}
		return ok(r, committed)
	})
	c := p.client(Config{Logins: []Login{login("active", "x")}})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				c.SetDeadline(time.Now().Add(time.Hour))
				runtime.Gosched()
			}
		}
	}()
	for range 5 {
		c.SetLogins([]Login{login("active", "x")}) // so that it is refused first
		if err := commit(c, t.Context()); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	<-done
}

// A slow drip must not outlive the call's deadline.
func TestDripEndsAtTheDeadline(t *testing.T) {
	t.Parallel()
	for !drips(t) { // until the machine was fast enough for the request to leave
	}
}

// drips reports whether the request was read before the call was over.
func drips(t *testing.T) (asked bool) {
	here, there := net.Pipe()
	defer there.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		if _, err := there.Read(buf); err != nil {
			return
		}
		asked = true
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := there.Write([]byte("H")); err != nil {
				return
			}
		}
	}()
	c := NewClient(here, Config{Host: "device", CallTimeout: 100 * time.Millisecond})
	started := time.Now()
	err := commit(c, t.Context())
	if took := time.Since(started); took > patience {
		t.Errorf("it took %v", took)
	}
	_ = there.Close()
	<-done
	why := new(reason.Error)
	if asked && (!errors.As(err, &why) || !why.Sent) {
		t.Errorf("got %v, want an error with Sent", err)
	}
	return asked
}
