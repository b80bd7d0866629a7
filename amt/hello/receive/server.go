// Package receive listens for hellos, on the road that package hello describes: it
// takes connections, bounds them, reads one message each, and hands it to a
// hello.Handler.
package receive

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/door"
	"github.com/provisiond/provisiond/amt/hello"
)

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("hello: server closed")

const (
	// DefaultReadTimeout is how long a connection may take from its accept to its
	// last byte; firmware needs milliseconds.
	DefaultReadTimeout = 10 * time.Second

	// HandlerTimeout ends a Handler's context: by then the firmware has gone, and
	// will say hello again.
	HandlerTimeout = 30 * time.Second
)

// Config configures the listener. The zero value takes plain hellos from
// everybody without limits.
type Config struct {
	Limits Limits

	// ClientCAs switches TLS on: a client must show a certificate that chains to
	// one of these and is meant for client authentication (EKU clientAuth,
	// anyExtendedKeyUsage or no EKU at all; Go's own rule). The server calls it at
	// each handshake, so that the pool can change. nil: the server refuses TLS.
	ClientCAs func() *x509.CertPool
	// Certificate is our side of TLS: leaf first, root last. The server calls it at
	// each handshake, so that it can change. ClientCAs needs it.
	Certificate func() (*tls.Certificate, error)
	// PlainOff refuses hellos of firmware itself, as denied_device.
	PlainOff bool
	// ProxyFrom are the balancers that must put a PROXY protocol version 2 header
	// in front of each connection; a header from anybody else is malformed.
	ProxyFrom []netip.Prefix
	// Known reports whether a device that says hello from an address is ours, or
	// one that somebody let in. The server asks when strangers have used up the
	// limits, of which such a device has a reserve. nil: the server knows nobody.
	Known func(ctx context.Context, device amt.UUID, from netip.Addr) bool
	// ReadTimeout is absolute, not per read; 0 means DefaultReadTimeout.
	ReadTimeout time.Duration
}

// Limits bound what strangers can make us do; 0 switches one off. Each rate
// allows its whole quota at once and then refills evenly. A connection counts
// from its first byte on; a silent one keeps its place only until somebody else
// wants it.
type Limits struct {
	PerSourcePerMinute  int // for connections of one address or /64, or hellos for one named address
	PerNetworkPerMinute int // the same for an IPv4 /24 or IPv6 /64
	TotalPerSecond      int
	Connections         int // open at once
}

// A Server listens for hellos. Its Serve and Shutdown behave like those of
// net/http.
type Server struct {
	cfg     Config
	handler hello.Handler
	log     *zap.Logger
	metrics *Metrics
	limits  *limiter // for strangers
	relayed *limiter // for authenticated peers
	door    *door.Door
	samples *sampler
	tls     *tls.Config   // nil: refuse TLS
	http    *http.Server  // for agents, fed by hand
	handed  chan net.Conn // from serveTLS to http
	start   time.Time
	ctx     context.Context // for handlers and handshakes; ends when Shutdown loses patience
	cancel  context.CancelFunc
	closed  chan struct{} // Shutdown closes it at its begin
	running sync.WaitGroup

	mu        sync.Mutex // guards what follows
	closing   bool
	serving   bool // the goroutine of http runs
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// NewServer builds a server; log and metrics may be nil.
func NewServer(cfg Config, h hello.Handler, log *zap.Logger, m *Metrics) *Server {
	if cfg.ReadTimeout <= 0 {
		cfg.ReadTimeout = DefaultReadTimeout
	}
	if log == nil {
		log = zap.NewNop()
	}
	if m == nil {
		m = NewMetrics(nil)
	}
	s := &Server{
		cfg: cfg, handler: h, log: log, metrics: m,
		limits: newLimiter(cfg.Limits), relayed: newLimiter(cfg.Limits).ofNamed(),
		door: door.New(cfg.Limits.Connections, 0), samples: newSampler(),
		handed: make(chan net.Conn), start: time.Now(), closed: make(chan struct{}),
		listeners: make(map[net.Listener]struct{}), conns: make(map[*conn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.ClientCAs != nil {
		s.tls, s.http = s.tlsConfig(), s.httpServer()
	}
	return s
}

// now is the time since NewServer, on the monotonic clock.
func (s *Server) now() time.Duration { return time.Since(s.start) }

// Serve accepts connections until the listener fails or somebody calls
// Shutdown, then returns ErrServerClosed. It closes l. Several goroutines may
// serve a listener each.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.open(l) {
		return ErrServerClosed
	}
	defer s.forget(l)
	for pause := time.Duration(0); ; {
		nc, err := l.Accept()
		if err == nil {
			pause = 0
			s.accept(nc)
			continue
		}
		if s.isClosing() {
			return ErrServerClosed
		}
		if !passing(err) {
			return fmt.Errorf("accept a hello connection: %w", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.sampled(zap.ErrorLevel, netip.AddrPort{}, "cannot accept connections, trying again", zap.Error(err), zap.Duration("pause", pause))
		select {
		case <-time.After(pause):
		case <-s.closed:
		}
	}
}

// passing reports whether a later Accept may succeed: a client in the queue
// gave up, or we have no descriptors or memory left.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Shutdown stops listening, drops connections that have not said everything yet
// (those devices will say hello again), and waits for handlers. If ctx ends
// first, Shutdown cancels their context and returns ctx's error without waiting
// further. A caller may repeat it.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		close(s.closed)
	}
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		if !c.busy.Load() {
			c.Conn.Close()
		}
	}
	s.mu.Unlock()

	var err error
	if s.http != nil {
		err = s.http.Shutdown(ctx)
	}
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.cancel()
	if err != nil {
		s.closeAll()
		return fmt.Errorf("shut the hello listener down: %w", err)
	}
	return nil
}

func (s *Server) closeAll() {
	if s.http != nil {
		s.http.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Conn.Close()
	}
}

func (s *Server) isClosing() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// open registers a listener, and starts the agents' HTTP server with the first.
func (s *Server) open(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.listeners[l] = struct{}{}
	s.running.Add(1)
	if s.http != nil && !s.serving {
		s.serving = true
		s.running.Go(func() {
			if err := s.http.Serve(&handedOver{s: s, addr: l.Addr()}); !errors.Is(err, http.ErrServerClosed) {
				s.log.Error("the agents' HTTP server ended", zap.Error(err))
			}
		})
	}
	return true
}

func (s *Server) forget(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	s.running.Done()
}

// A conn is one connection, from its accept to its close.
type conn struct {
	net.Conn
	from, local netip.AddrPort // of the device's connection; a PROXY header changes them
	peer        netip.Addr     // the real other end
	buf         *[]byte        // buf[r:w] was read and is not consumed yet
	r, w        int
	noWait      bool // Read gives only what has arrived
	greeted     bool // a TLS ClientHello was understood
	busy        atomic.Bool
	sent        atomic.Bool // closed, so that somebody else has its place
	share       bool        // it used the reserve
	guest       *door.Guest
	once        sync.Once
}

// accept gives a connection a place and starts its goroutine. The limits count
// it when it has said something; accept refuses only a source that has nothing
// left to say.
func (s *Server) accept(nc net.Conn) {
	c := &conn{Conn: nc, from: addrPort(nc.RemoteAddr()), local: addrPort(nc.LocalAddr())}
	c.peer = c.from.Addr()
	proxied := s.fromBalancer(c.peer)
	if !proxied && s.limits.spent(c.peer, s.now()) {
		nc.Close()
		s.refuse(hello.RateLimited, c.from, "this source says too much")
		return
	}
	if c.guest = s.door.Enter(c.peer, func() bool { return s.makesRoom(c) }); c.guest == nil {
		nc.Close()
		s.refuse(hello.Overload, c.from, "too many connections are open")
		return
	}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		c.guest.Leave()
		nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	s.metrics.connections.Inc()
	_ = nc.SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout)) // fails only on a closed connection, as the read then does
	go s.handle(c, proxied)
}

// makesRoom closes a silent connection, unless something has come meanwhile.
func (s *Server) makesRoom(c *conn) bool {
	if hasSpoken(c.Conn) {
		return false
	}
	c.sent.Store(true)
	c.Conn.Close()
	return true
}

// release closes a connection and forgets it; a second call does nothing.
func (s *Server) release(c *conn) (err error) {
	c.once.Do(func() {
		err = c.Conn.Close()
		c.guest.Leave()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
		s.metrics.connections.Dec()
		s.running.Done()
	})
	return err
}

func (s *Server) fromBalancer(a netip.Addr) bool {
	for _, p := range s.cfg.ProxyFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addrPort is a's address. An IPv4 address on an IPv6 socket becomes IPv4,
// since otherwise one device would have two names.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// Read returns the bytes read ahead, then the socket's.
func (c *conn) Read(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, (*c.buf)[c.r:c.w])
		c.r += n
		return n, nil
	}
	if c.noWait {
		n, err := c.readNow(p)
		if n == 0 && err == nil {
			err = errWouldWait
		}
		return n, err
	}
	return c.Conn.Read(p)
}

// readNow reads the socket without waiting.
func (c *conn) readNow(p []byte) (int, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return readNow(sc, p)
	}
	return 0, nil
}

// ahead reads until n bytes are there, without consuming them. n is at most
// bufSize.
func (c *conn) ahead(n int) ([]byte, error) {
	for c.w-c.r < n {
		if c.r > 0 {
			c.w, c.r = copy(*c.buf, (*c.buf)[c.r:c.w]), 0
		}
		k, err := c.Conn.Read((*c.buf)[c.w:])
		c.w += k
		if err != nil && c.w-c.r < n {
			return (*c.buf)[c.r:c.w], err
		}
	}
	return (*c.buf)[c.r:c.w], nil
}
