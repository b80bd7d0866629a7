package hello

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
)

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("hello: server closed")

const (
	// DefaultReadTimeout is how long a connection may take from being accepted
	// to having said everything; firmware needs milliseconds.
	DefaultReadTimeout = 10 * time.Second

	// HandlerTimeout ends a Handler's context: the firmware has long gone by
	// then and will say hello again.
	HandlerTimeout = 30 * time.Second
)

// Config is what the listener is told. The zero value takes plain hellos from
// everybody without limits.
type Config struct {
	Limits Limits

	// ClientCAs switches TLS on: a client must show a certificate that chains
	// to one of these and is meant for client authentication (EKU clientAuth,
	// anyExtendedKeyUsage or no EKU at all; Go's own rule). It is asked at each
	// handshake so that it can change. nil: TLS is refused.
	ClientCAs func() *x509.CertPool
	// Certificate is our side of TLS, asked at each handshake so that it can
	// change: leaf first, root last. Needed with ClientCAs.
	Certificate func() (*tls.Certificate, error)
	// PlainOff refuses hellos of firmware itself, as denied_device.
	PlainOff bool
	// ProxyFrom are the balancers that must put a PROXY protocol version 2
	// header in front of each connection; from anybody else it is malformed.
	ProxyFrom []netip.Prefix
	// Known reports whether a device that says hello from an address is one of
	// ours or one that somebody let in; it is asked when strangers have used up
	// the limits, of which such a device has a reserve. nil: nobody is known.
	Known func(ctx context.Context, device amt.UUID, from netip.Addr) bool
	// ReadTimeout is absolute, not per read; 0 means DefaultReadTimeout.
	ReadTimeout time.Duration
}

// Limits bound what strangers can make us do; 0 switches one off. Each rate
// allows its whole quota at once and then refills evenly. A connection counts from
// its first byte on; one that says nothing has a place only for as long as nobody
// else wants it.
type Limits struct {
	PerSourcePerMinute  int // connections of one address, or hellos for one named address
	PerNetworkPerMinute int // the same of an IPv4 /24 or IPv6 /64
	TotalPerSecond      int
	Connections         int // open at once
}

// A Server listens for hellos. Its Serve and Shutdown are those of net/http.
type Server struct {
	cfg     Config
	handler Handler
	log     *zap.Logger
	metrics *Metrics
	limits  *limiter // of strangers
	relayed *limiter // of authenticated peers
	door    *door.Door
	samples *sampler
	tls     *tls.Config   // nil: refuse TLS
	http    *http.Server  // for agents, fed by hand
	handed  chan net.Conn // from serveTLS to http
	start   time.Time
	ctx     context.Context // of handlers and handshakes; ends when Shutdown loses patience
	cancel  context.CancelFunc
	closed  chan struct{} // closed as Shutdown begins
	running sync.WaitGroup

	mu        sync.Mutex // guards what follows
	closing   bool
	serving   bool // the goroutine of http runs
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
}

// NewServer builds a server; log and metrics may be nil.
func NewServer(cfg Config, h Handler, log *zap.Logger, m *Metrics) *Server {
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
		limits: newLimiter(cfg.Limits), relayed: newLimiter(cfg.Limits), door: door.New(cfg.Limits.Connections, 0), samples: newSampler(),
		handed: make(chan net.Conn), start: time.Now(), closed: make(chan struct{}),
		listeners: make(map[net.Listener]struct{}), conns: make(map[*conn]struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.ClientCAs != nil {
		s.tls, s.http = s.tlsConfig(), s.httpServer()
	}
	return s
}

// now is the time since the server was made, on the monotonic clock.
func (s *Server) now() time.Duration { return time.Since(s.start) }

// Serve accepts connections until the listener fails or Shutdown is called, then
// returns ErrServerClosed. It closes l. Several listeners may be served at once.
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

// passing reports whether Accept may succeed later: another end gave up in the
// queue, or we have no descriptors or memory left.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Shutdown stops listening, drops connections that have not said everything
// yet (those devices will say hello again), and waits for handlers. When ctx
// ends first their context is cancelled, and ctx's error is returned without
// waiting further. It may be called again.
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

// A conn is one connection, from being accepted to being closed.
type conn struct {
	net.Conn
	from, local netip.AddrPort // of the device's connection; a PROXY header changes them
	peer        netip.Addr     // the real other end
	buf         *[]byte        // buf[r:w] was read and is not consumed yet
	r, w        int
	noWait      bool // Read gives only what has arrived
	greeted     bool // a TLS ClientHello was understood
	busy        atomic.Bool
	sent        atomic.Bool // away, for somebody else to have its place
	share       bool        // it drew from the reserve
	guest       *door.Guest
	once        sync.Once
}

// accept gives a connection a place and starts its goroutine. What it costs is
// counted when it has said something; only a source that has nothing left to say
// is not listened to at all.
func (s *Server) accept(nc net.Conn) {
	c := &conn{Conn: nc, from: addrPort(nc.RemoteAddr()), local: addrPort(nc.LocalAddr())}
	c.peer = c.from.Addr()
	proxied := s.fromBalancer(c.peer)
	if !proxied && s.limits.spent(c.peer, s.now()) {
		nc.Close()
		s.refuse(RateLimited, c.from, "this source says too much")
		return
	}
	if c.guest = s.door.Enter(c.peer, func() bool { return s.makesRoom(c) }); c.guest == nil {
		nc.Close()
		s.refuse(Overload, c.from, "too many connections are open")
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
	_ = nc.SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout)) // fails on a closed connection only, as the read then does
	go s.handle(c, proxied)
}

// makesRoom closes a connection that nothing is heard of, unless something has
// come meanwhile.
func (s *Server) makesRoom(c *conn) bool {
	if hasSpoken(c.Conn) {
		return false
	}
	c.sent.Store(true)
	c.Conn.Close()
	return true
}

// release closes a connection and forgets it; the second time does nothing.
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

// addrPort is a's address; an IPv4 address that came in on an IPv6 socket is
// IPv4, else one device would have two names.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// Read gives what was read ahead, then the socket.
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
