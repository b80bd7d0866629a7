package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

// Config is what all conversations share. Zero values work.
type Config struct {
	// Control sees every connection's final address before it leaves; its
	// *EgressError becomes network_not_allowed. See EgressGuard.
	Control          func(network, address string, c syscall.RawConn) error
	ConnectTimeout   time.Duration // 0: 10 s
	HandshakeTimeout time.Duration // 0: 30 s; old firmware takes many seconds for its RSA operation
	CallTimeout      time.Duration // 0: 90 s; TLS settings alone may take 30
	// RefusedPatience is how long Dial repeats a refused connection: a device opens
	// its listener only after it said hello. 0: 10 s; negative: not at all.
	RefusedPatience time.Duration
	Now             func() time.Time // nil: time.Now
	// ODCARoots holds Intel's on-die root certificate, see IntelODCARoot, and no
	// other authority. nil: the session reports a chain's shape and never calls it
	// verified.
	ODCARoots *x509.CertPool
}

// A Dialer opens sessions.
type Dialer struct {
	cfg     Config
	log     *zap.Logger
	metrics *Metrics
}

// NewDialer fills in the defaults. log and metrics may be nil.
func NewDialer(cfg Config, log *zap.Logger, metrics *Metrics) *Dialer {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.ConnectTimeout, 10*time.Second)
	def(&cfg.HandshakeTimeout, 30*time.Second)
	def(&cfg.CallTimeout, 90*time.Second)
	def(&cfg.RefusedPatience, 10*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if log == nil {
		log = zap.NewNop()
	}
	if metrics == nil {
		metrics = NewMetrics(nil)
	}
	return &Dialer{cfg: cfg, log: log, metrics: metrics}
}

// cipherSuites lists the offer explicitly, since Go's default lacks the only
// one that AMT before 12 speaks: RSA key exchange. Go ignores the order.
// crypto/tls has no DHE.
var cipherSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_RSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_AES_128_CBC_SHA,
	tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA256,
	tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, // AMT 2 to 5 may have nothing better
}

// Dial connects, shakes hands and returns a session that has asked the device
// nothing yet. Errors are *reason.Error.
func (d *Dialer) Dial(ctx context.Context, t Target) (*Session, error) {
	t.Addr = netip.AddrPortFrom(t.Addr.Addr().Unmap(), t.Addr.Port())
	conn, peer, err := d.climb(ctx, t, d.cfg.RefusedPatience)
	if err != nil {
		return nil, err
	}
	s := &Session{peer: peer, now: d.cfg.Now}
	// A redial has to meet the same machine.
	again := t
	again.Pin = peer.Fingerprint
	hint := ""
	if t.Client != nil && !peer.ClientCertAsked {
		hint = "it did not ask for our certificate in the TLS handshake, so it may be set up already"
	}
	s.client = wsman.NewClient(conn, wsman.Config{
		Host: netip.AddrPortFrom(t.Addr.Addr().WithZone(""), t.Addr.Port()).String(), Logins: t.Logins, LoginHint: hint,
		CallTimeout: d.cfg.CallTimeout,
		Log:         d.log, Metrics: d.metrics.wsman, Explain: explain,
		Redial: func(ctx context.Context) (net.Conn, error) {
			conn, p, err := d.shake(ctx, again, peer.TLSVersion, new(attempt))
			if err != nil {
				if why := new(reason.Error); errors.As(err, &why) && why.Code == reason.DeviceUnreachable {
					why.Code = reason.ConnectionLost // it was there a moment ago
				}
				return nil, err
			}
			s.mu.Lock()
			p.Verified, p.ODCAProblem = s.peer.Verified, s.peer.ODCAProblem // the same leaf
			s.peer = p
			s.mu.Unlock()
			return conn, nil
		},
	})
	return s, nil
}

// climb goes down the ladder of TLS versions. One ClientHello offers them all,
// and a sound device picks; if a device breaks off instead, climb offers less,
// each time on a new connection. A refused certificate ends it: another version
// would not make a better certificate.
func (d *Dialer) climb(ctx context.Context, t Target, patience time.Duration) (net.Conn, Peer, error) {
	most := t.MaxTLS
	if most == 0 {
		most = tls.VersionTLS12
	}
	least := max(t.MinTLS, tls.VersionTLS10)
	if least > most {
		return nil, Peer{}, reason.Because(reason.TLSVersionRefused, "TLS versions: the least allowed lies above the most")
	}
	deadline := time.Now().Add(patience)
	pause := 100 * time.Millisecond
	var first error
	newest := false
	for version := most; ; {
		a := new(attempt)
		conn, peer, err := d.shake(ctx, t, version, a)
		switch {
		case err == nil:
			return conn, peer, nil
		case errors.Is(err, syscall.ECONNREFUSED) && time.Now().Add(pause).Before(deadline):
			select {
			case <-ctx.Done():
				return nil, Peer{}, contextError(ctx, "connect to "+t.Addr.String())
			case <-time.After(pause):
			}
			pause = min(pause*3/2, 2*time.Second)
			continue
		case !a.lower:
			if first != nil && a.unreached {
				err = first // the device went away during the ladder; the first failure says more
			}
			return nil, Peer{}, err
		}
		if first == nil {
			first = err
		}
		if a.alert == alertProtocolVersion && t.MaxTLS == 0 && !newest {
			newest = true // perhaps the device takes nothing older than 1.3
			conn, peer, err := d.shake(ctx, t, tls.VersionTLS13, new(attempt))
			if odd := new(CertificateError); err == nil || errors.As(err, &odd) {
				return conn, peer, err
			}
		}
		if version == least {
			return nil, Peer{}, first
		}
		version--
		d.log.Debug("trying an older TLS version", zap.String("to", versionLabel(version)), zap.Error(err))
	}
}

// An attempt is what one handshake showed; the ladder decides on it.
type attempt struct {
	alert     int  // the device's fatal alert; -1: none
	lower     bool // an older version may help
	unreached bool // no connection came about
}

// shake opens one connection and makes one handshake with versions up to most.
func (d *Dialer) shake(ctx context.Context, t Target, most uint16, a *attempt) (net.Conn, Peer, error) {
	what := "connect to " + t.Addr.String()
	a.alert = -1
	dialer := net.Dialer{Timeout: d.cfg.ConnectTimeout, Control: d.cfg.Control, KeepAlive: 15 * time.Second}
	raw, err := dialer.DialContext(ctx, "tcp", t.Addr.String())
	if err != nil {
		a.unreached = true
		return nil, Peer{}, d.unreachable(ctx, what, err)
	}
	if t.Plain {
		return raw, Peer{Verified: "none"}, nil
	}
	line := &observer{Conn: raw}
	policy := newTrustPolicy(t.Pin, d.cfg)
	var asked, sent bool
	conn := tls.Client(line, &tls.Config{
		InsecureSkipVerify: true, // a trustPolicy verifies instead
		VerifyConnection:   policy.verify,
		MinVersion:         max(t.MinTLS, tls.VersionTLS10),
		MaxVersion:         most,
		CipherSuites:       cipherSuites,
		// Without post-quantum shares the hello is 283 bytes instead of 1500; old
		// stacks have fixed buffers.
		CurvePreferences:       []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.X25519},
		SessionTicketsDisabled: true,
		Renegotiation:          tls.RenegotiateNever,
		// Go would silently send no certificate if the device's list of authorities
		// does not name ours.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			if t.Client == nil {
				return new(tls.Certificate), nil
			}
			sent = true
			return t.Client, nil
		},
	})
	shook := time.Now()
	hctx, cancel := context.WithTimeout(ctx, d.cfg.HandshakeTimeout)
	defer cancel()
	if err := handshake(hctx, conn); err != nil {
		seen := line.look()
		_ = raw.Close()
		wsman.Called(ctx, Call{Name: HandshakeCall, Began: shook, Took: time.Since(shook), Err: err})
		failure := classify(err, seen, asked || seen.certAsked, sent, hctx.Err() != nil)
		a.alert, a.lower = failure.alert, failure.lower && ctx.Err() == nil
		if ctx.Err() != nil {
			return nil, Peer{}, contextError(ctx, "TLS handshake with "+t.Addr.String())
		}
		d.metrics.handshakes.WithLabelValues("none", "none", failure.result).Inc()
		if failure.code == reason.TLSPinnedKeyChanged {
			d.metrics.verified.WithLabelValues("pin", "failed").Inc()
		}
		return nil, Peer{}, &reason.Error{Code: failure.code, Err: fmt.Errorf("TLS handshake with %s: %w", t.Addr, failure.err)}
	}
	line.stop()
	peer := policy.found
	peer.ClientCertAsked, peer.ClientCertSent = asked, sent
	wsman.Called(ctx, Call{Name: HandshakeCall, Began: shook, Took: time.Since(shook),
		Labels: map[string]string{"version": versionLabel(peer.TLSVersion), "cipher": tls.CipherSuiteName(peer.Cipher),
			"verified": peer.Verified}})
	d.metrics.handshakes.WithLabelValues(versionLabel(peer.TLSVersion), tls.CipherSuiteName(peer.Cipher), "ok").Inc()
	for _, f := range legacyFeaturesOf(peer) {
		d.metrics.legacy.WithLabelValues(f).Inc()
	}
	d.metrics.verified.WithLabelValues(peer.Verified, "ok").Inc()
	if peer.ODCAProblem != "" {
		d.metrics.verified.WithLabelValues("odca", "failed").Inc()
	}
	return conn, peer, nil
}

// handshake shakes hands on a goroutine of its own, whose stack ends with it:
// the arithmetic needs four times the stack of a conversation, and the
// session's would stay as large while a slow device makes it wait.
func handshake(ctx context.Context, conn *tls.Conn) error {
	var panicked any
	done := make(chan error, 1)
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		done <- conn.HandshakeContext(ctx)
	}()
	err, ok := <-done
	if !ok {
		panic(panicked) // the session's guard catches it
	}
	return err
}

// unreachable names why a connection did not come about.
func (d *Dialer) unreachable(ctx context.Context, what string, err error) error {
	denied := new(EgressError)
	switch {
	case errors.As(err, &denied):
		d.metrics.denied.WithLabelValues(denied.Reason).Inc()
		return &reason.Error{Code: reason.NetworkNotAllowed, Err: denied}
	case ctx.Err() != nil:
		return contextError(ctx, what)
	}
	return &reason.Error{Code: reason.DeviceUnreachable, Err: fmt.Errorf("%s: %w", what, err)}
}

// contextError names the end of a context during dialling: the cause that its
// owner gave, a deadline, or our own shutdown.
func contextError(ctx context.Context, what string) error {
	cause := context.Cause(ctx)
	code := reason.WorkerCrashed
	if why := new(reason.Error); errors.As(cause, &why) {
		code = why.Code
	} else if errors.Is(cause, context.DeadlineExceeded) {
		code = reason.DeviceUnreachable
	}
	return &reason.Error{Code: code, Err: fmt.Errorf("%s: %w", what, cause)}
}
