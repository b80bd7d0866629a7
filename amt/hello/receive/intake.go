package receive

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
)

// handle serves one connection, in this order:
//
//  1. from a configured balancer, its PROXY header names the device's address;
//  2. with the first byte the limits count the connection;
//  3. that byte tells a hello (0 or 1) from TLS (0x16); anything else is noise,
//     except a request for the probe page;
//  4. it reads the message, gives it to the handler, and closes the connection.
//
// Over the limits it still listens to senders that we may know.
func (s *Server) handle(c *conn, proxied bool) {
	c.buf = buffers.Get().(*[]byte)
	if proxied && !s.readProxy(c) {
		s.finish(c)
		return
	}
	b, err := c.ahead(1)
	if err != nil {
		s.silent(c, err)
		s.finish(c)
		return
	}
	c.guest.Busy()
	over, why := s.limits.take(c.from.Addr(), s.now())
	agent := b[0] == 0x16 && s.tls != nil
	if over != "" {
		if !agent && (b[0] > 1 || s.cfg.Known == nil) || !s.limits.takeShare(c.from.Addr(), s.now()) {
			s.refuse(over, c.from, why)
			s.finish(c)
			return
		}
		c.share = true
	}
	switch {
	case agent:
		s.serveTLS(c) // releases c itself, maybe later
		return
	case b[0] == 'G' && s.probed(c):
	case b[0] > 1:
		s.noise(c, (*c.buf)[c.r:c.w])
	default:
		s.plain(c, over, why)
	}
	s.finish(c)
}

func (s *Server) finish(c *conn) {
	_ = s.release(c) // nothing helps against a failed close
	buffers.Put(c.buf)
}

// plain takes a hello of firmware; over the limits, only one of a device that
// we know.
func (s *Server) plain(c *conn, over hello.Result, tooMuch string) {
	n := copy(*c.buf, (*c.buf)[c.r:c.w])
	c.r, c.w = 0, 0
	m, err := read(tcpSource{c}, c.buf, n, hello.MaxSize)
	switch {
	case over != "" && (err != nil || !s.known(m.UUID, c.from.Addr())):
		s.refuse(over, c.from, tooMuch)
	case err != nil:
		s.unread(c, m, err)
	case s.cfg.PlainOff:
		s.refuse(hello.DeniedDevice, c.from, "hellos without TLS are switched off", zap.Stringer("uuid", m.UUID))
	default:
		_, _ = s.deliver(c, hello.Hello{Message: m, Via: hello.ViaPlain}) // deliver counts and logs both; firmware gets no answer
	}
}

// known reports whether a device may use the reserve, and draws from it.
func (s *Server) known(device amt.UUID, from netip.Addr) bool {
	ctx, cancel := context.WithTimeout(s.ctx, HandlerTimeout)
	defer cancel()
	return s.cfg.Known(ctx, device, from) && s.limits.takeReserve(s.now())
}

// tcpSource reads the socket itself, without conn.Read's buffer.
type tcpSource struct{ c *conn }

func (t tcpSource) Read(p []byte) (int, error)    { return t.c.Conn.Read(p) }
func (t tcpSource) readNow(p []byte) (int, error) { return t.c.readNow(p) }

// deliver hands a complete hello to the handler and counts the result.
func (s *Server) deliver(c *conn, h hello.Hello) (hello.Result, error) {
	c.busy.Store(true)
	now := time.Now()
	h.From, h.Local, h.At = c.from, c.local, now.Add(-arrived(c.Conn))
	if len(h.Trailing) > 0 {
		s.sampled(zap.InfoLevel, c.from, "hello with bytes behind its declared length", zap.Stringer("uuid", h.UUID),
			zap.Int("bytes", len(h.Trailing)), hexField("trailing", h.Trailing))
	}
	r, err := s.call(h)
	took := time.Since(now)
	s.metrics.persist.Observe(took.Seconds())
	s.metrics.received[r].Inc()
	switch r {
	case hello.Accepted, hello.Duplicate, hello.Updated:
		s.metrics.last.Set(float64(now.UnixMilli()) / 1000)
		if e := s.log.Check(zap.DebugLevel, "hello"); e != nil {
			e.Write(zap.Stringer("uuid", h.UUID), zap.Stringer("from", h.From), zap.String("via", string(h.Via)),
				zap.String("result", string(r)), zap.Duration("took", took))
		}
	case hello.StoreError:
		s.sampled(zap.ErrorLevel, c.from, "hello lost: it could not be stored", zap.Stringer("uuid", h.UUID), zap.Error(err))
	default:
		s.sampled(zap.WarnLevel, c.from, "hello refused by policy", zap.Stringer("uuid", h.UUID), zap.String("result", string(r)))
	}
	return r, err
}

// call runs the handler. A panic in it must not end a daemon that strangers can
// talk to.
func (s *Server) call(h hello.Hello) (r hello.Result, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, HandlerTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("the hello handler panicked", zap.Any("panic", p), zap.Stringer("uuid", h.UUID), zap.Stack("stack"))
			r, err = hello.StoreError, errors.New("the hello handler panicked")
		}
	}()
	r, err = s.handler.HandleHello(ctx, h)
	if err != nil {
		return hello.StoreError, err
	}
	switch r {
	case hello.Accepted, hello.Duplicate, hello.Updated, hello.DeniedNetwork, hello.DeniedDevice:
		return r, nil
	}
	return hello.StoreError, fmt.Errorf("the hello handler answered %q, which is no result of its", r)
}

// unread counts and explains a hello that the parser could not read.
func (s *Server) unread(c *conn, m hello.Message, err error) {
	var e *hello.ParseError
	if !errors.As(err, &e) {
		s.silent(c, err)
		return
	}
	if s.isClosing() && errors.Is(err, net.ErrClosed) {
		return
	}
	why := "it cannot be read"
	switch {
	case e.Kind == hello.KindVersion:
		why = "its interface version is unknown (hello_version_unsupported)"
	case errors.Is(err, os.ErrDeadlineExceeded):
		why = "it was not complete in time"
	case e.Kind == hello.KindTruncated:
		why = "it broke off"
	}
	fields := []zap.Field{zap.Error(err), hexField("received", m.Raw)}
	if e.Kind == hello.KindVersion {
		fields = append(fields, zap.Uint16("version", m.Version), zap.Stringer("uuid", m.UUID))
	}
	s.refuse(hello.Malformed, c.from, why, fields...)
}

// silent handles a connection on which nothing came. One that closes is a
// health check or a port scan, so there was no hello to count.
func (s *Server) silent(c *conn, err error) {
	if c.sent.Load() {
		s.refuse(hello.Malformed, c.from, "it said nothing, and others wanted its place") // no hello is lost
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.refuse(hello.Malformed, c.from, "nothing came in time")
		return
	}
	if !s.isClosing() && !errors.Is(err, io.EOF) {
		s.log.Debug("hello connection broke before its first byte", zap.Stringer("from", c.from), zap.Error(err))
	}
}

// noise counts a connection whose first byte is no hello's, and says what it
// looks like, since that is the fault to look for.
func (s *Server) noise(c *conn, b []byte) {
	why := "not a hello of Intel AMT"
	switch {
	case b[0] == 0x16:
		why = "this is TLS, and no client CA is configured (hello.client_ca)"
	case b[0] == proxySignature[0]:
		why = "this looks like a PROXY protocol header, and the peer is not a configured balancer"
	case bytes.HasPrefix(b, []byte("PROXY ")):
		why = "this is a PROXY protocol header of version 1; send version 2, from a configured balancer"
	case bytes.HasPrefix(b, []byte("SSH-")):
		why = "this is an SSH client"
	case looksLikeHTTP(b):
		why = "this is an HTTP request without TLS"
	}
	s.refuse(hello.Malformed, c.from, why, hexField("received", b))
}

func looksLikeHTTP(b []byte) bool {
	for _, method := range []string{"GET ", "POST ", "HEAD ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ", "TRACE ", "PRI "} {
		if bytes.HasPrefix(b, []byte(method)) {
			return true
		}
	}
	return false
}

// hexField logs at most the first 64 bytes.
func hexField(key string, b []byte) zapcore.Field {
	more := ""
	if len(b) > 64 {
		b, more = b[:64], "…"
	}
	return zap.String(key, hex.EncodeToString(b)+more)
}

// readProxy reads the device's address from the balancer's header.
func (s *Server) readProxy(c *conn) bool {
	need := 1
	b, err := c.ahead(need)
	for ; err == nil; b, err = c.ahead(need) {
		n, perr := proxyLen(b)
		if perr != nil {
			s.refuse(hello.Malformed, c.from, "no PROXY protocol header", zap.Error(perr), hexField("received", b))
			return false
		}
		if n > len(b) {
			need = n
			continue
		}
		p, perr := parseProxy(b[:n])
		if perr != nil {
			s.refuse(hello.Malformed, c.from, "the PROXY protocol header is wrong", zap.Error(perr), hexField("received", b))
			return false
		}
		c.r += n
		if p.from.IsValid() {
			c.from, c.local = p.from, p.local
		}
		return true
	}
	if len(b) == 0 {
		s.silent(c, err)
	} else if !s.isClosing() {
		s.refuse(hello.Malformed, c.from, "the PROXY protocol header broke off", zap.Error(err), hexField("received", b))
	}
	return false
}
