package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	selfTestEvery = 30 * time.Second
	selfTestTime  = 10 * time.Second
)

// startSelfTest makes this node connect to its own ports: a server that looks
// fine from inside may have stopped accepting. Only a success moves the time,
// so the metric's age shows a node that hangs.
func (s *Server) startSelfTest() {
	run, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		s.selfTest(run)
		repeat(run, selfTestEvery, func() { s.selfTest(run) })
	})
	s.onStop("the self-test", func(context.Context) error {
		cancel()
		wg.Wait()
		return nil
	})
}

func (s *Server) selfTest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, selfTestTime)
	defer cancel()
	if s.o.ClientCAs != nil {
		s.o.ClientCAs() // look at its file, even if no relay comes for long
	}
	err := errors.Join(s.knockHello(ctx), s.knockAPI(ctx))
	switch {
	case err == nil:
		s.metrics.tested.SetToCurrentTime()
	case !errors.Is(ctx.Err(), context.Canceled):
		s.log.Warn("selftest.failed", zap.Error(err))
	}
}

// knockHello connects to the hello port and closes: silence is no hello, and
// nothing counts it. The listener closes in return, which shows that it accepts
// and reads.
func (s *Server) knockHello(ctx context.Context) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", nearby(s.HelloAddr()))
	if err != nil {
		return fmt.Errorf("connect to our hello port: %w", err)
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !isReset(err) {
		return fmt.Errorf("our hello port took the connection and does not read: %w", err)
	}
	return nil
}

// isReset reports an end by reset, which also ends the connection.
func isReset(err error) bool {
	var n net.Error
	return err != nil && !(errors.As(err, &n) && n.Timeout())
}

// knockAPI asks for readiness over the API's own socket, with TLS if that is
// on.
func (s *Server) knockAPI(ctx context.Context) error {
	scheme, transport := "http", &http.Transport{DisableKeepAlives: true}
	if s.o.APITLS != nil {
		before := s.o.APITLS().Certificate[0] // the knock itself may take up a new certificate
		scheme, transport.TLSClientConfig = "https", OnlyOurs(func() [][]byte { return [][]byte{before, s.o.APITLS().Certificate[0]} })
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+nearby(s.APIAddr())+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("ask our API: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("our API says %s to /readyz", res.Status)
	}
	return nil
}

// OnlyOurs accepts a server only if its leaf is one of the certificates (DER)
// that leaves returns; it calls leaves after the server has shown its own. This
// machine talks to its own daemon like that: the certificate names the outside,
// not loopback, and perhaps only clients know its authority, so neither name
// nor chain says anything here. That it is the configuration's very certificate
// says all.
func OnlyOurs(leaves func() [][]byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection verifies instead
		VerifyConnection: func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) == 0 || !slices.ContainsFunc(leaves(),
				func(leaf []byte) bool { return bytes.Equal(c.PeerCertificates[0].Raw, leaf) }) {
				return errors.New("what answers there does not have the certificate of api.tls, nor the one the daemon took up last: it " +
					"is another " +
					"server")
			}
			return nil
		},
	}
}

// nearby is the address at which this machine reaches a listener.
func nearby(a net.Addr) string {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	if p.Addr().IsUnspecified() {
		loop := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if p.Addr().Is6() {
			loop = netip.IPv6Loopback()
		}
		return netip.AddrPortFrom(loop, p.Port()).String()
	}
	return p.String()
}
