package receive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"go.uber.org/zap"
)

const (
	maxRequestHead = 8 << 10
	maxRequestBody = 4 << 10 // of a provisioning request
	idleTimeout    = 30 * time.Second
)

// An agentConn is an authenticated connection that net/http serves.
type agentConn struct {
	net.Conn // *tls.Conn
	s        *Server
	c        *conn
	peer     string
	names    []string
	prefix   []byte // bytes read to find out that this is HTTP
}

func (a *agentConn) Read(p []byte) (int, error) {
	if len(a.prefix) > 0 {
		n := copy(p, a.prefix)
		a.prefix = a.prefix[n:]
		return n, nil
	}
	return a.Conn.Read(p)
}

func (a *agentConn) Close() error {
	_ = a.Conn.SetWriteDeadline(time.Now().Add(time.Second)) // for close_notify
	err := a.Conn.Close()
	_ = a.s.release(a.c)
	return err
}

// handedOver is the listener of the agents' HTTP server.
type handedOver struct {
	s    *Server
	addr net.Addr
}

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.s.handed:
		return c, nil
	case <-h.s.closed:
		return nil, http.ErrServerClosed
	}
}

func (*handedOver) Close() error     { return nil }
func (h *handedOver) Addr() net.Addr { return h.addr }

func (s *Server) handOver(a *agentConn) {
	select {
	case s.handed <- a:
	case <-s.closed:
		_ = a.Close()
	}
}

type agentKey struct{}

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: s.cfg.ReadTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      s.cfg.ReadTimeout + HandlerTimeout + 5*time.Second,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxRequestHead,
		ErrorLog:          zap.NewStdLog(zap.NewNop()), // the metrics count what it would say of peers
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, agentKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			// From here on Shutdown may close the connection: the answer is out.
			a, ok := c.(*agentConn)
			switch {
			case ok && state == http.StateIdle:
				a.c.busy.Store(false)
				a.c.guest.Wait()
			case ok && state == http.StateActive:
				a.c.guest.Busy()
			}
		},
	}
}

// A problem is an answer that is not 202, after RFC 9457.
type problem struct {
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail"`
	Result hello.Result `json:"result,omitempty"` // the metric's label for the hello
	Kind   hello.Kind   `json:"kind,omitempty"`   // what is wrong with a hello that cannot be read
	Offset *int         `json:"offset,omitempty"` // the byte of the hello, from 0
	Field  string       `json:"field,omitempty"`
	Reason string       `json:"reason,omitempty"` // the catalogue's word for the refusal
}

// serveHTTP answers an agent:
//
//	POST /v1/hello                    the raw hello as application/octet-stream
//	POST /v1/provisioning-requests    {"uuid", "fqdn", "otp", "address"} as JSON
//
// Both take an address (the first as ?address=IP) if the sender is not the
// device itself.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	a, ok := r.Context().Value(agentKey{}).(*agentConn)
	if !ok {
		http.Error(w, "not a connection of the hello port", http.StatusInternalServerError)
		return
	}
	var read func(http.ResponseWriter, *http.Request) (hello.Hello, *problem)
	switch r.URL.Path {
	case "/v1/hello":
		read = readHello
	case "/v1/provisioning-requests":
		read = readRequest
	default:
		answer(w, problem{Status: http.StatusNotFound, Detail: "there is POST /v1/hello and POST /v1/provisioning-requests"})
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		answer(w, problem{Status: http.StatusMethodNotAllowed, Detail: "only POST"})
		return
	}
	h, p := read(w, r)
	if p != nil {
		p.Result = hello.Malformed
		fields := []zap.Field{zap.Int("status", p.Status), zap.String("peer", a.peer), zap.String("problem", p.Detail)}
		s.refuse(hello.Malformed, a.c.from, "an agent's request is wrong", fields...)
		answer(w, *p)
		return
	}
	h.Via, h.Peer, h.PeerNames = hello.ViaAgent, a.peer, a.names
	code, told := "", ""
	h.Tell = func(reason, why string) { code, told = reason, why }
	if r, why := s.takeAgent(a.c, h.Address); r != "" {
		s.refuse(r, a.c.from, why, zap.Stringer("uuid", h.UUID), zap.String("peer", a.peer))
		answer(w, refusal(r, why))
		return
	}
	result, err := s.deliver(a.c, h)
	if result != hello.Accepted && result != hello.Duplicate && result != hello.Updated {
		why := "policy does not admit this device"
		if err != nil {
			why = "it could not be stored; send it again"
		}
		if told != "" {
			why = told
		}
		p := refusal(result, why)
		p.Reason = code
		answer(w, p)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if result != hello.Updated { // an update is done; the others have only begun
		w.WriteHeader(http.StatusAccepted)
	}
	_ = json.NewEncoder(w).Encode(map[string]hello.Result{"result": result}) // fails when the agent has gone
}

func (s *Server) takeAgent(c *conn, device netip.Addr) (hello.Result, string) {
	if device.IsValid() {
		return s.relayed.take(device, s.now())
	}
	return s.relayed.takeRelayed(c.from.Addr(), s.now())
}

func refusal(r hello.Result, why string) problem {
	p := problem{Status: http.StatusForbidden, Detail: why, Result: r}
	switch r {
	case hello.RateLimited:
		p.Status = http.StatusTooManyRequests
	case hello.Overload, hello.StoreError:
		p.Status = http.StatusServiceUnavailable
	}
	return p
}

func answer(w http.ResponseWriter, p problem) {
	p.Title = http.StatusText(p.Status)
	switch p.Status {
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "60")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // fails when the agent has gone
}

func readHello(w http.ResponseWriter, r *http.Request) (hello.Hello, *problem) {
	body, p := readBody(w, r, "application/octet-stream", hello.MaxSize)
	if p != nil {
		return hello.Hello{}, p
	}
	var h hello.Hello
	for key, values := range r.URL.Query() {
		if key != "address" || len(values) != 1 {
			return hello.Hello{}, bad("the only query parameter is address, once: the IP address of the device")
		}
		if h.Address, p = deviceAddress(values[0]); p != nil {
			return hello.Hello{}, p
		}
	}
	m, err := hello.Parse(body)
	if e := (*hello.ParseError)(nil); errors.As(err, &e) {
		p := bad(err.Error())
		p.Kind, p.Offset, p.Field = e.Kind, &e.Offset, e.Field
		return hello.Hello{}, p
	}
	h.Message = m
	return h, nil
}

// readRequest reads an agent's request. Its errors never quote a value, since
// one of the values is a password.
func readRequest(w http.ResponseWriter, r *http.Request) (hello.Hello, *problem) {
	body, p := readBody(w, r, "application/json", maxRequestBody)
	if p != nil {
		return hello.Hello{}, p
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil || members == nil {
		return hello.Hello{}, bad(`the body is not one JSON object: want {"uuid": …, "fqdn": …, "otp": …, "address": …}`)
	}
	text := map[string]string{"uuid": "", "fqdn": "", "otp": "", "address": ""}
	for key, raw := range members {
		if _, known := text[key]; !known {
			return hello.Hello{}, bad(fmt.Sprintf("member %.40q is unknown: want uuid, fqdn, otp or address", key))
		}
		var v string
		if json.Unmarshal(raw, &v) != nil || string(raw) == "null" {
			return hello.Hello{}, bad(key + " is not a string")
		}
		text[key] = v
	}
	var h hello.Hello
	var err error
	if h.UUID, err = amt.ParseUUID(text["uuid"]); err != nil {
		return hello.Hello{}, bad("uuid: want 32 hexadecimal digits such as 11223344-5566-7788-99aa-bbccddeeff00")
	}
	if h.FQDN = strings.ToLower(strings.TrimSuffix(text["fqdn"], ".")); h.FQDN != "" && !isHostName(h.FQDN) {
		return hello.Hello{}, bad("fqdn: want a host name such as pc7.example.com")
	}
	if otp := text["otp"]; otp != "" {
		if len(otp) > 64 || strings.ContainsFunc(otp, func(c rune) bool { return c < 32 || c > 126 }) {
			return hello.Hello{}, bad("otp: want at most 64 printable ASCII characters")
		}
		h.OTP = amt.NewSecret(otp)
	}
	if text["address"] != "" {
		if h.Address, p = deviceAddress(text["address"]); p != nil {
			return hello.Hello{}, p
		}
	}
	return h, nil
}

func readBody(w http.ResponseWriter, r *http.Request, media string, limit int64) ([]byte, *problem) {
	if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || got != media {
		return nil, &problem{Status: http.StatusUnsupportedMediaType, Detail: "want Content-Type: " + media}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if e := (*http.MaxBytesError)(nil); errors.As(err, &e) {
		return nil, &problem{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("want at most %d bytes", limit)}
	}
	if err != nil {
		return nil, bad("the body broke off")
	}
	return body, nil
}

func bad(detail string) *problem { return &problem{Status: http.StatusBadRequest, Detail: detail} }

// deviceAddress reads the address of one device. It does not decide whether we
// may connect there.
func deviceAddress(s string) (netip.Addr, *problem) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, bad("address: want the IP address of one device such as 192.0.2.7 or 2001:db8::7")
	}
	return a.Unmap(), nil
}

// isHostName follows RFC 1123, with underscores as Windows allows them.
func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	return !slices.ContainsFunc(strings.Split(s, "."), func(label string) bool {
		return label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(c rune) bool {
				return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_'
			})
	})
}
