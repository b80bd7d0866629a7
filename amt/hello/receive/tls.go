package receive

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"go.uber.org/zap"
)

// errWouldWait stops a TLS read that would have to wait. It is a timeout, after
// which crypto/tls still uses the connection.
var errWouldWait = os.ErrDeadlineExceeded

const alpnHTTP = "http/1.1"

func (s *Server) tlsConfig() *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12, // relays and agents are not firmware
		ClientAuth: tls.RequireAndVerifyClientCert,
		NextProtos: []string{alpnHTTP},
		// A resumed session would outlive a revoked client certificate.
		SessionTicketsDisabled: true,
		GetCertificate: func(to *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c, ok := to.Conn.(*conn); ok {
				c.greeted = true
			}
			if s.cfg.Certificate == nil {
				return nil, errors.New("no certificate is configured for the hello port")
			}
			return s.cfg.Certificate()
		},
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.GetConfigForClient, c.ClientCAs = nil, s.cfg.ClientCAs()
		return c, nil
	}
	return base
}

// serveTLS lets an authenticated peer in: as HTTP if ALPN or a first letter
// says so, else as a raw hello.
func (s *Server) serveTLS(c *conn) {
	_ = c.SetWriteDeadline(time.Now().Add(s.cfg.ReadTimeout))
	t := tls.Server(c, s.tls)
	if err := t.HandshakeContext(s.ctx); err != nil {
		s.refuseTLS(c, err)
		_ = s.release(c)
		return
	}
	state := t.ConnectionState()
	peer := state.PeerCertificates[0].Subject.CommonName
	s.limits.giveBack(c.from.Addr(), c.share)
	c.guest.Known()
	names := namesIn(state.PeerCertificates[0])
	a := &agentConn{Conn: t, s: s, c: c, peer: peer, names: names}
	if state.NegotiatedProtocol == alpnHTTP {
		s.handOver(a)
		return
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := io.ReadAtLeast(t, *buf, 1)
	switch b := (*buf)[:n]; {
	case err != nil:
		s.silent(c, err)
	case b[0] >= 'A' && b[0] <= 'Z':
		a.prefix = append(a.prefix, b...)
		s.handOver(a)
		return
	case b[0] > 1:
		s.noise(c, b)
	default:
		s.relay(c, tlsSource{t, c}, buf, n, peer, names)
	}
	_ = a.Close() // ends TLS in order; a peer that has gone does not mind
}

// namesIn are the names in a client's certificate.
func namesIn(c *x509.Certificate) []string {
	var out []string
	for _, n := range append([]string{c.Subject.CommonName}, c.DNSNames...) {
		if n = strings.ToLower(strings.Trim(n, ". ")); n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func (s *Server) relay(c *conn, r source, buf *[]byte, n int, peer string, names []string) {
	m, err := read(r, buf, n, hello.MaxSize)
	if err != nil {
		s.unread(c, m, err)
		return
	}
	if r, why := s.relayed.takeRelayed(c.from.Addr(), s.now()); r != "" {
		s.refuse(r, c.from, why, zap.Stringer("uuid", m.UUID))
		return
	}
	_, _ = s.deliver(c, hello.Hello{Message: m, Via: hello.ViaRelay, Peer: peer, PeerNames: names, Tell: func(reason, why string) {
		s.sampled(zap.WarnLevel, c.from, "relay: "+why, zap.Stringer("uuid", m.UUID), zap.String("peer", peer),
			zap.String("reason", reason))
	}}) // deliver counts and logs both; a raw hello gets no answer
}

// tlsSource reads decrypted bytes; without waiting, those whose record has
// arrived.
type tlsSource struct {
	*tls.Conn
	c *conn
}

func (t tlsSource) readNow(p []byte) (int, error) {
	t.c.noWait = true
	defer func() { t.c.noWait = false }()
	n, err := t.Conn.Read(p)
	if n > 0 || errors.Is(err, errWouldWait) || errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// refuseTLS counts a failed handshake. A peer that has spoken TLS failed to
// prove who it is.
func (s *Server) refuseTLS(c *conn, err error) {
	if s.isClosing() && (errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil) {
		return
	}
	r, why := hello.Malformed, "the TLS handshake failed"
	var wrong *tls.CertificateVerificationError
	switch {
	case errors.As(err, &wrong):
		r, why = hello.DeniedDevice, "its client certificate does not verify"
	case c.greeted:
		r, why = hello.DeniedDevice, "the TLS handshake failed before a client certificate was shown"
	}
	s.refuse(r, c.from, why, zap.Error(err))
}
