package wsman

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
)

const (
	readBuffer = 1 << 10 // TLS holds whole records before it

	// reopenWithin is how long after its last answer the client may open a closed
	// line again. Later, a device that answers may have restarted and forgotten
	// what it was told.
	reopenWithin = 30 * time.Second

	// idleRace is how long a line must have been idle so that its end during a
	// request can be the device's idle time-out rather than a break, once the
	// device was changed. Firmware's idle time-outs are several seconds.
	idleRace = 2 * time.Second

	// closePatience is how long a device may take to close a connection after it
	// announced that.
	closePatience = 250 * time.Millisecond

	// afterClose is the pause between the end of a line and the next one. A device
	// that takes one connection only needs time to count none.
	afterClose = 20 * time.Millisecond

	// afterRefusal is how long a change waits, before the client sends it again
	// with a login, to see whether the device closes unannounced after its 401.
	afterRefusal = 50 * time.Millisecond
)

// errGone says that the device had closed the line in good order before it got
// our request.
var errGone = errors.New("the device closed the connection")

// exchange sends one request and reads its whole answer. Its error is a
// *lineError.
func (c *Client) exchange(ctx context.Context, envelope []byte, login *Login) (*response, []byte, error) {
	if err := c.ready(ctx); err != nil {
		return nil, nil, err
	}
	spare(&c.body, 16<<10) // nobody reads the last answer any more
	out := scratch()
	b := (*buffer)(&out)
	b.raw("POST /wsman HTTP/1.1\r\nHost: ")
	b.raw(c.cfg.Host)
	b.raw("\r\nContent-Type: application/soap+xml;charset=UTF-8\r\nContent-Length: ")
	out = strconv.AppendInt(out, int64(len(envelope)), 10)
	b.raw("\r\n")
	if login != nil {
		c.auth.digest.authorize(b, *login, "POST", "/wsman", envelope)
	}
	b.raw("\r\n")
	out = append(out, envelope...)

	idle := c.history.idle()
	n, err := c.conn.Write(out)
	spare(&out, 8<<10)
	if err != nil {
		return nil, nil, &lineError{err: err, sent: n > 0}
	}
	if _, err := c.br.Peek(1); err != nil {
		return nil, nil, &lineError{err: err, sent: true, gone: isClosed(err) && c.history.mayReopenAsked(idle), idle: idle}
	}
	r, err := readHead(c.br)
	if err != nil {
		return nil, nil, &lineError{err: noEOF(err), sent: true}
	}
	limit := maxBody
	if r.status == 401 {
		limit = 64 << 10 // HTML for people
	}
	body, err := readBody(c.br, r, scratch(), limit)
	if err != nil && r.status == 401 {
		r.close, body, err = true, nil, nil // the head says all; a new line is cheaper than the rest
	}
	if err != nil {
		return nil, nil, &lineError{err: err, sent: true}
	}
	c.body = body
	c.history.answered(r)
	if r.server != "" {
		c.server = r.server
	}
	return r, body, nil
}

// All conversations share buffers: one that waits for a slow device needs none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func scratch() []byte { return (*buffers.Get().(*[]byte))[:0] }

// spare clears a buffer, which may hold a password, and gives it back.
func spare(b *[]byte, most int) {
	if *b == nil {
		return
	}
	clear((*b)[:cap(*b)])
	if cap(*b) <= most {
		kept := *b
		buffers.Put(&kept)
	}
	*b = nil
}

// A lineError is a failed exchange: whether the device may have got the
// request, and whether the line ended in good order.
type lineError struct {
	err  error
	sent bool
	gone bool
	idle time.Duration // since the line's last answer
}

func (e *lineError) Error() string { return e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

// ready makes sure that a line is open: the one at hand, or a new one if the
// device closed it in good order. It tries once, now: a device that does not
// answer at once may be restarting, and is then not the device we talked to.
func (c *Client) ready(ctx context.Context) error {
	if !c.history.closed && c.history.answers > 0 {
		state := peerState(c.conn)
		if state == peerOpen && c.endWaiting() {
			state = peerClosed
		}
		switch state {
		case peerClosed:
			if !c.history.mayReopenUnasked() {
				return &lineError{err: errors.New("the device closed the connection without a word after it was changed: it may have " +
					"restarted and " +
					"forgotten")}
			}
			c.history.foundClosed()
		case peerReset:
			return &lineError{err: errors.New("the connection was reset while idle")}
		}
	}
	if !c.history.closed {
		return nil
	}
	if c.cfg.Redial == nil {
		return &lineError{err: errGone}
	}
	if c.history.idle() > reopenWithin {
		return &lineError{err: errors.New("the device closed the connection too long ago to be taken for the same conversation")}
	}
	return c.redial(ctx)
}

// endWaiting reports whether the TLS layer's own buffer already holds the
// line's end, where the kernel does not see it any more. A deadline in the past
// lets Read use that buffer and nothing else.
func (c *Client) endWaiting() bool {
	_, err := c.peekUntil(time.Unix(1, 0))
	return isClosed(err)
}

// peekUntil waits for the next byte until t at most.
func (c *Client) peekUntil(t time.Time) ([]byte, error) {
	c.lookUntil(t)
	first, err := c.br.Peek(1)
	c.lookUntil(time.Time{})
	return first, err
}

// lookUntil bounds reads apart from the call's deadline, until a call with
// zero.
func (c *Client) lookUntil(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look = t
	c.setDeadline()
}

func (c *Client) redial(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.openUntilEnd(func() { cancel(context.DeadlineExceeded) })
	defer c.openUntilEnd(nil)
	// Let the device close first, so that it never sees two connections: some take
	// one only.
	limit := time.Now().Add(closePatience)
	if _, err := c.peekUntil(limit); isClosed(err) {
		if t, ok := c.conn.(interface{ NetConn() net.Conn }); ok { // TLS said so; TCP follows
			c.lookUntil(limit)
			_, _ = t.NetConn().Read(make([]byte, 64))
			c.lookUntil(time.Time{})
		}
	}
	_ = c.conn.Close()
	select {
	case <-time.After(afterClose):
	case <-ctx.Done():
	}
	conn, err := c.cfg.Redial(ctx)
	if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && errors.Is(cause, context.DeadlineExceeded) {
		err = cause
	}
	if err != nil {
		return &lineError{err: err}
	}
	c.attach(conn)
	return nil
}

// openUntilEnd calls end at the end of the call at hand, wherever a renewed
// lease moves that; nil: no more.
func (c *Client) openUntilEnd(end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.opening != nil {
		c.opening.Stop()
		c.opening = nil
	}
	if end != nil {
		c.opening = time.AfterFunc(time.Until(c.until()), end)
		c.setDeadline()
	}
}

// attach makes conn the line.
func (c *Client) attach(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if c.br == nil {
		c.br = bufio.NewReaderSize(conn, readBuffer)
	} else {
		c.br.Reset(conn)
	}
	c.history.opened()
	c.setDeadline()
}

// until is when the call at hand must be over. mu is held.
func (c *Client) until() time.Time {
	if c.hard.IsZero() || c.call.Before(c.hard) {
		return c.call
	}
	return c.hard
}

// setDeadline sets the connection's deadlines. mu is held.
func (c *Client) setDeadline() {
	if c.conn == nil {
		return
	}
	if c.opening != nil {
		left := time.Until(c.until())
		if c.aborted {
			left = 0
		}
		c.opening.Reset(left)
	}
	if c.aborted {
		_ = c.conn.SetDeadline(time.Unix(1, 0))
		return
	}
	_ = c.conn.SetDeadline(c.until())
	if !c.look.IsZero() { // a renewed lease does not lengthen a look
		_ = c.conn.SetReadDeadline(c.look)
	}
}

// waitForClose waits for the device to close the line, and reports whether it
// did.
func (c *Client) waitForClose(patience time.Duration) bool {
	if patience == 0 {
		return false
	}
	_, err := c.peekUntil(time.Now().Add(patience))
	c.history.closed = c.history.closed || isClosed(err)
	return c.history.closed
}

// code names a failure of the line.
func (c *Client) code(ctx context.Context, err error) reason.Code {
	if why := new(reason.Error); errors.As(err, &why) {
		return why.Code // the redial knows better
	}
	if ctx.Err() != nil {
		return contextCode(ctx)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.hard.IsZero() && !time.Now().Before(c.hard) {
			return reason.LeaseLost
		}
		return reason.WSMANTimeout
	case errors.Is(err, errHTTP), errors.Is(err, errTooLarge):
		return reason.WSMANInvalid
	}
	if c.cfg.Explain != nil {
		if code := c.cfg.Explain(err); code != "" {
			return code
		}
	}
	return reason.ConnectionLost
}

// contextCode names the end of a context: the cause that its owner gave, a
// deadline, or our own shutdown.
func contextCode(ctx context.Context) reason.Code {
	cause := context.Cause(ctx)
	if why := new(reason.Error); errors.As(cause, &why) {
		return why.Code
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return reason.WSMANTimeout
	}
	return reason.WorkerCrashed
}

// isClosed reports whether the peer ended the line, as opposed to a time-out.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) || isReset(err)
}
