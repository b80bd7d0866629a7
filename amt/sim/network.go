package sim

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
)

// handshakeTime bounds a peer that connects and then says nothing.
const (
	handshakeTime = 60 * time.Second
	idleTime      = 5 * time.Minute
)

// listen opens what the present state calls for; mu is held.
//
//	factory      nothing
//	setup        TLS with the device's own certificate, client certificate required
//	operational  TLS with the configured certificate; without TLS, before 16.1,
//	             plain HTTP one port below
func (d *Device) listen() error {
	if d.closed || d.faults.neverListens() {
		return nil
	}
	var conf *tls.Config
	port := d.cfg.Port
	switch d.state {
	case amt.StatePre:
		return nil
	case amt.StateIn:
		c, err := d.setupTLS()
		if err != nil {
			return err
		}
		conf = c
	case amt.StatePost:
		if !d.saved.tls[0].enabled && !d.p.has(16, 1) {
			port--
			break
		}
		c, err := d.operationalTLS()
		if err != nil {
			return err
		}
		conf = c
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.cfg.Addr, port)))
	if err != nil {
		return fmt.Errorf("simulated device %s: %w", d.cfg.UUID, err)
	}
	d.listeners = append(d.listeners, l)
	setup := d.state == amt.StateIn
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			d.accept(c, conf, setup)
		}
	}()
	return nil
}

func (d *Device) accept(c *net.TCPConn, conf *tls.Config, setup bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen.connections++
	open := 1
	for o := range d.conns {
		if peerStays(o) {
			open++
		}
	}
	if d.closed || d.cfg.MaxConnections > 0 && open > d.cfg.MaxConnections {
		d.seen.tooMany++
		reset(c)
		return
	}
	d.conns[c] = struct{}{}
	d.seen.maxConcurrent = max(d.seen.maxConcurrent, open)
	epoch := d.epoch
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		defer d.leave(c)
		d.serve(c, conf, setup, epoch)
	}()
}

// leave first forgets a connection and then closes it, so that a peer that
// comes back at once does not count twice.
func (d *Device) leave(c *net.TCPConn) {
	d.mu.Lock()
	delete(d.conns, c)
	d.mu.Unlock()
	_ = c.Close()
}

// reset ends a connection without a word, as old firmware does.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// cutNetwork closes listeners and connections; mu is held.
func (d *Device) cutNetwork() {
	for _, l := range d.listeners {
		_ = l.Close()
	}
	d.listeners = nil
	for c := range d.conns {
		_ = c.Close()
		delete(d.conns, c)
	}
	d.epoch++
	d.digest.forget()
	clear(d.enums)
}

// restart takes the network down and brings it back after a while, in the
// device's state of then; mu is held.
func (d *Device) restart(down time.Duration) {
	d.cutNetwork()
	if d.closed {
		return
	}
	epoch := d.epoch
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		for pause := down; d.wait(pause); pause = time.Second {
			if d.back(epoch) {
				return
			}
		}
	}()
}

// back listens again unless another restart has taken over. It returns false if
// somebody else has the port for now: a device's own network would come back.
func (d *Device) back(epoch int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.epoch != epoch {
		return true
	}
	err := d.listen()
	if err != nil {
		d.log.Warn("the listener did not come back", zap.Error(err))
	}
	return !errors.Is(err, syscall.EADDRINUSE)
}

func (d *Device) baseTLS(cert *tls.Certificate) *tls.Config {
	suites := d.p.Suites
	if cert == d.cfg.SetupCertificate && suites != nil { // the on-die authority's keys are on a curve
		suites = append(slices.Clone(suites), tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)
	}
	return &tls.Config{
		Certificates:           []tls.Certificate{*cert},
		MinVersion:             d.p.MinTLS,
		MaxVersion:             d.p.MaxTLS,
		CipherSuites:           suites,
		CurvePreferences:       []tls.CurveID{tls.CurveP256, tls.CurveP384},
		SessionTicketsDisabled: true,
	}
}

func (d *Device) setupTLS() (*tls.Config, error) {
	if d.p.NewSelfSign && d.own != nil {
		if _, err := d.newOwnCert(d.epoch); err != nil {
			return nil, err
		}
	}
	cert, err := d.setupCert()
	if err != nil {
		return nil, err
	}
	conf := d.baseTLS(cert)
	conf.ClientAuth = tls.RequireAnyClientCert
	return conf, nil
}

// setupCert is the device's certificate during setup.
func (d *Device) setupCert() (*tls.Certificate, error) {
	if d.cfg.SetupCertificate != nil {
		return d.cfg.SetupCertificate, nil
	}
	return d.ownCert()
}

// Certificate is the certificate that the device shows now, with its key:
// somebody has it who took the device apart, or who had a machine of theirs set
// up as it.
func (d *Device) Certificate() (*tls.Certificate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == amt.StatePost {
		return d.contextCert()
	}
	return d.setupCert()
}

// operationalTLS serves the certificate of the credential context.
func (d *Device) operationalTLS() (*tls.Config, error) {
	cert, err := d.contextCert()
	if err != nil {
		return nil, err
	}
	conf := d.baseTLS(cert)
	if set := d.saved.tls[0]; set.mutual {
		var roots [][]byte
		for _, c := range d.saved.certs {
			if c.trusted {
				roots = append(roots, c.der)
			}
		}
		conf.ClientAuth = tls.RequireAnyClientCert
		conf.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
			d.mu.Lock()
			names := slices.Clone(d.saved.tls[0].trustedCN) // in force at once
			d.mu.Unlock()
			return judgeConsole(raw, roots, names)
		}
	}
	return conf, nil
}

// contextCert is the certificate in use with its key, and the certificates of
// the store that lead on from it.
func (d *Device) contextCert() (*tls.Certificate, error) {
	entry, ok := d.saved.cert(d.saved.context)
	switch {
	case d.p.KeepsOwnCert:
		return d.setupCert()
	case !ok || entry.own:
		return d.ownCert()
	}
	key, ok := d.saved.keyFor(entry.cert)
	if !ok {
		return nil, errors.New("no key for the certificate in use")
	}
	out := &tls.Certificate{Certificate: [][]byte{entry.der}, PrivateKey: key.key}
	for at := entry.cert; ; {
		issuer, ok := d.saved.issuer(at)
		if !ok {
			return out, nil
		}
		out.Certificate = append(out.Certificate, issuer.Raw)
		at = issuer
	}
}

// serve speaks with one peer until either side ends the connection.
func (d *Device) serve(raw *net.TCPConn, conf *tls.Config, setup bool, epoch int) {
	c := &conn{dev: d, raw: raw, rw: raw, setup: setup, epoch: epoch}
	if addr, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		c.peer = addr.AddrPort().Addr().Unmap()
	}
	if conf != nil {
		tc, err := d.handshake(raw, conf, setup)
		if err != nil {
			d.log.Debug("handshake", zap.Error(err))
			return
		}
		c.rw = tc
		defer func() {
			d.mu.Lock()
			delete(d.conns, raw)
			d.mu.Unlock()
			_ = raw.SetWriteDeadline(time.Now().Add(time.Second))
			_ = tc.Close()
		}()
	}
	c.loop()
}

func (d *Device) handshake(raw *net.TCPConn, conf *tls.Config, setup bool) (*tls.Conn, error) {
	d.mu.Lock()
	hang, refuse := d.faults.once(HangHandshake), d.faults.once(RefuseCert)
	d.mu.Unlock()
	if hang {
		d.hang(raw)
		return nil, errors.New("hanging, as told")
	}
	_ = raw.SetDeadline(time.Now().Add(handshakeTime))
	if setup {
		conf = conf.Clone()
		conf.VerifyPeerCertificate = func(chain [][]byte, _ [][]*x509.Certificate) error {
			peer, err := d.judge(chain, d.cfg.Clock())
			if err == nil && refuse {
				err = errors.New("told to refuse")
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if err != nil {
				d.log.Info("refused the provisioning certificate", zap.Error(err))
				d.seen.refusals = append(d.seen.refusals, err.Error())
				if d.p.SilentRefusal {
					reset(raw)
				}
				return err
			}
			d.setup = peer
			return nil
		}
	}
	tc := tls.Server(raw, conf)
	if err := tc.Handshake(); err != nil {
		d.mu.Lock()
		d.seen.badHandshakes++
		d.mu.Unlock()
		return nil, err
	}
	d.mu.Lock()
	d.seen.handshakes++
	d.mu.Unlock()
	_ = raw.SetDeadline(time.Time{})
	return tc, nil
}

// hang keeps a peer waiting until it gives up or somebody closes the device.
func (d *Device) hang(c net.Conn) {
	buf := make([]byte, 256)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}
