package wsman

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// Config configures a conversation.
type Config struct {
	Host string // the Host header: 10.0.0.7:16993
	// Redial opens the line again after the device closed it in good order. nil: a
	// closed line ends the conversation.
	Redial func(ctx context.Context) (net.Conn, error)
	// Explain may name a failure of the connection that only the dialler
	// understands, such as a TLS alert; "" leaves it a lost connection.
	Explain     func(error) reason.Code
	Logins      []Login
	LoginHint   string        // ends the error's text if no login works; "": nothing
	CallTimeout time.Duration // of one call, logins and redials included; 0: 90 s
	Log         *zap.Logger
	Metrics     *Metrics
}

// A Client is one conversation with one device over one connection, one request
// at a time. Several goroutines may call its methods, which then wait for each
// other.
type Client struct {
	cfg  Config
	turn sync.Mutex // held for the whole of a call; guards what follows

	br      *bufio.Reader
	body    []byte // the last answer, until the next request
	history lineHistory
	dead    error // why the conversation is over
	id      uint64
	auth    auth
	server  string

	mu      sync.Mutex // guards what a deadline or a cancellation changes from outside
	conn    net.Conn
	call    time.Time   // the end of the call at hand
	hard    time.Time   // the end of everything: the lease's
	look    time.Time   // the end of a look at the line; zero: nobody looks
	aborted bool        // the call's context ended
	opening *time.Timer // ends a redial under way; nil: none
}

// NewClient starts a conversation on an open connection, and owns it from now
// on.
func NewClient(conn net.Conn, cfg Config) *Client {
	if cfg.CallTimeout <= 0 {
		cfg.CallTimeout = 90 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	c := &Client{cfg: cfg, history: lineHistory{lastAnswer: time.Now()}}
	c.auth.set(cfg.Logins)
	c.call = time.Now().Add(cfg.CallTimeout)
	c.attach(conn)
	return c
}

// SetDeadline sets the end of the lease under which the caller holds this
// conversation. It applies to the call under way too: a renewed lease keeps a
// long call alive, and a lost one ends it.
func (c *Client) SetDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hard = t
	c.setDeadline()
}

// SetLogins replaces the logins. A login that the device refused stays refused,
// unless Adopt said that it has become the device's password since.
func (c *Client) SetLogins(l []Login) {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.auth.set(l)
}

// Adopt puts a login in front of the others, because a call has just made it
// the device's password: it answers the next challenge, if the device asks at
// all. A login with the same user and password keeps its name.
func (c *Client) Adopt(l Login) {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.auth.adopt(l)
}

// LoginUsed is the name of the login that the device last accepted, "" if it
// never asked for one.
func (c *Client) LoginUsed() string {
	c.turn.Lock()
	defer c.turn.Unlock()
	return c.auth.used
}

// Realm is the digest realm of the device's challenges, "" if it never asked
// for a login.
func (c *Client) Realm() string {
	c.turn.Lock()
	defer c.turn.Unlock()
	return c.auth.realm
}

// Server is the Server header of the last answer, "" if there was none.
func (c *Client) Server() string {
	c.turn.Lock()
	defer c.turn.Unlock()
	return c.server
}

// Close ends the conversation. A call under way fails.
func (c *Client) Close() error {
	c.mu.Lock()
	conn := c.conn
	c.aborted = true
	c.mu.Unlock()
	return conn.Close()
}

// A call is one request of the table in ops.go.
type call struct {
	op       string // metric label: the generic operation or the method
	class    string
	action   string
	sel      []Selector
	changes  bool     // it may change the device
	repeat   bool     // repeating it does no harm
	again    bool     // a question that the caller has to begin anew instead: errBeginAnew
	method   bool     // its answer has a ReturnValue
	secrets  []string // values that no error's text may hold
	write    func(*buffer)
	envelope buffer
}

// do runs a call and returns the content of the answer's Body. Errors are
// *reason.Error; Sent is set for a change with an unknown outcome.
func (c *Client) do(ctx context.Context, q *call) (Node, error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.dead != nil {
		return Node{}, &reason.Error{Code: codeOf(c.dead), Err: fmt.Errorf("%s: the conversation is over: %w", q.op, c.dead)}
	}
	started := time.Now()
	deadline := started.Add(c.cfg.CallTimeout)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	if ctx.Err() != nil {
		return Node{}, &reason.Error{Code: contextCode(ctx), Err: fmt.Errorf("%s: %w", q.op, context.Cause(ctx))}
	}
	c.mu.Lock()
	if c.aborted { // Close
		c.mu.Unlock()
		return Node{}, reason.Because(reason.ConnectionLost, "%s: %w", q.op, net.ErrClosed)
	}
	c.call = deadline
	c.setDeadline()
	c.mu.Unlock()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		c.aborted = true
		c.setDeadline()
		c.mu.Unlock()
		close(ended)
	})
	n, err := c.ask(ctx, q)
	if !stop() {
		<-ended
	}
	if err != nil && q.leaks(err) {
		err = &reason.Error{Code: codeOf(err), Sent: sentOf(err), Err: fmt.Errorf("%s: %w", q.op, errEcho)}
		if c.dead != nil {
			c.dead = err
		}
	}
	took := time.Since(started)
	c.cfg.Metrics.observe(q.op, took, traceOf(ctx))
	Called(ctx, Call{Name: q.op, Began: started, Took: took, Err: err})
	if ce := c.cfg.Log.Check(zap.DebugLevel, "ws-man"); ce != nil {
		ce.Write(zap.String("operation", q.op), zap.String("class", q.class), zap.Duration("took", took), zap.Error(err))
	}
	return n, err
}

// errBeginAnew says that the device closed the line between two questions that
// belong together, before any change.
var errBeginAnew = errors.New("the device closed the connection half way")

// errEcho replaces an error in whose text the device repeats our secret.
var errEcho = errors.New("the device failed the call, and its words are left out because they repeat a password")

// leaks reports whether an error's text holds a secret of this call.
func (q *call) leaks(err error) bool {
	for _, s := range q.secrets {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}

// ask sends the request, and logs in if the device wants it.
func (c *Client) ask(ctx context.Context, q *call) (Node, error) {
	c.id++
	id := c.id
	q.envelope = make(buffer, 0, 1280)
	q.envelope.head(q.action, URI(q.class), id, q.sel)
	q.write(&q.envelope)
	q.envelope.raw(envelopeEnd)
	defer func() { clear(q.envelope) }() // it may hold a password

	c.auth.begin()
	reopened := false
	for range 2*len(c.auth.logins) + 6 {
		c.waitForClose(c.history.waitBefore(q))
		r, body, err := c.exchange(ctx, q.envelope, c.auth.current())
		if failed := (*lineError)(nil); errors.As(err, &failed) {
			if failed.gone && q.repeat && !reopened {
				reopened = true
				c.history.closedUnannounced(failed.idle)
				continue
			}
			c.cfg.Metrics.count(q.op, lineResult(err))
			if failed.gone && q.again && !c.history.refused {
				c.history.closedUnannounced(failed.idle)
				return Node{}, &reason.Error{Code: c.code(ctx, failed.err), Err: fmt.Errorf("%s: %w: %w", q.op, errBeginAnew, failed.err)}
			}
			return Node{}, c.end(&reason.Error{
				Code: c.code(ctx, failed.err), Sent: failed.sent && q.changes,
				Err: fmt.Errorf("%s: %w", q.op, failed.err),
			})
		}
		if r.status != 401 {
			c.history.changed = c.history.changed || q.changes
			c.auth.accepted()
			return c.understand(q, id, r, body)
		}
		c.cfg.Metrics.count(q.op, "401")
		if err := c.auth.challenged(r); err != nil {
			err.Err = fmt.Errorf("%s: %w", q.op, err.Err)
			if c.cfg.LoginHint != "" && errors.Is(err, ErrNoLogin) {
				err.Err = fmt.Errorf("%w; %s", err.Err, c.cfg.LoginHint)
			}
			return Node{}, err
		}
		if c.waitForClose(c.history.waitAfter401(q)) {
			c.history.closesAfter401 = true
		}
	}
	return Node{}, reason.Because(reason.AuthFailed, "%s: the device does not stop asking for a login", q.op)
}

// end ends the conversation with err.
func (c *Client) end(err *reason.Error) error {
	c.dead = err
	_ = c.conn.Close()
	return err
}

// understand reads an answer that is not a 401.
func (c *Client) understand(q *call, id uint64, r *response, body []byte) (Node, error) {
	fail := func(result string, code reason.Code, sent bool, err error) (Node, error) {
		c.cfg.Metrics.count(q.op, result)
		return Node{}, &reason.Error{Code: code, Sent: sent && q.changes, Err: fmt.Errorf("%s %s: %w", q.op, q.class, err)}
	}
	if r.encoding != "" {
		return fail("parse_error", reason.WSMANInvalid, true, badHTTP("Content-Encoding %q was not asked for", amt.Clip(r.encoding)))
	}
	if r.status >= 300 && r.status < 400 {
		return fail("parse_error", reason.WSMANInvalid, true, badHTTP("status %d sends us elsewhere", r.status))
	}
	content, related, err := openEnvelope(body)
	if err == nil && related != "" && !sameID(related, id) {
		// It answers another request, so nothing on this line can be trusted any more.
		c.cfg.Metrics.count(q.op, "parse_error")
		return Node{}, c.end(&reason.Error{Code: reason.WSMANInvalid, Sent: q.changes, Err: fmt.Errorf(
			"%s %s: the answer belongs to message %q, not %d", q.op, q.class, amt.Clip(related), id)})
	}
	if fault := content.Child("Fault"); err == nil && fault.OK() {
		return fail("fault", reason.WSMANFault, false, readFault(fault, r.status))
	}
	switch {
	case r.status >= 500:
		return fail("5xx", reason.WSMANFault, r.status != 503, &Fault{HTTPStatus: r.status})
	case r.status >= 400:
		if r.retry {
			return fail("4xx", reason.AccountLocked, false, &Fault{HTTPStatus: r.status, Reason: "it asks for a pause"})
		}
		return fail("4xx", reason.WSMANFault, false, &Fault{HTTPStatus: r.status})
	case err != nil && !(len(body) == 0 && q.op == "Delete"):
		return fail("parse_error", reason.WSMANInvalid, true, err)
	}
	c.cfg.Metrics.count(q.op, q.result(content))
	return content, nil
}

// result is the metric's word for a readable answer: a method says in its
// ReturnValue whether it worked.
func (q *call) result(content Node) string {
	if !q.method {
		return "ok"
	}
	switch content.Child(q.op + "_OUTPUT").Child("ReturnValue").Text() {
	case "0":
		return "ok"
	case "":
		return "parse_error"
	}
	return "fault"
}

// openEnvelope parses an answer and returns the content of its one Body, and
// the message that it answers.
func openEnvelope(body []byte) (content Node, relatesTo string, err error) {
	if len(body) == 0 {
		return Node{}, "", badXML("it is empty")
	}
	root, err := Parse(bytes.TrimRight(body, "\x00")) // firmware may send a C string's end along
	if err != nil {
		return Node{}, "", err
	}
	if root.Name() != "Envelope" {
		return Node{}, "", badXML("it is a %s, not an Envelope", amt.Clip(root.Name()))
	}
	var header Node
	for n := range root.Children() {
		switch n.Name() {
		case "Header":
			if header.OK() {
				return Node{}, "", badXML("it has two Headers")
			}
			header = n
		case "Body":
			if content.OK() {
				return Node{}, "", badXML("it has two Bodies")
			}
			content = n
		}
	}
	if !content.OK() {
		return Node{}, "", badXML("it has no Body")
	}
	return content, header.Child("RelatesTo").Text(), nil
}

// sameID compares a RelatesTo with the number of our MessageID.
func sameID(related string, id uint64) bool {
	return strings.TrimSpace(related) == fmt.Sprint(id)
}

func lineResult(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, errTooLarge):
		return "too_large"
	case errors.Is(err, errHTTP):
		return "parse_error"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "reset"
}

func sentOf(err error) bool {
	why := new(reason.Error)
	return errors.As(err, &why) && why.Sent
}

func codeOf(err error) reason.Code {
	if why := new(reason.Error); errors.As(err, &why) {
		return why.Code
	}
	return reason.InternalError
}
