package wsman

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a call may take that is to succeed: machines stand still
// for half a minute.
const patience = 2 * time.Minute

// A request as the far end saw it.
type request struct {
	conn, n int // which connection, which request on it; from 0
	auth    string
	header  http.Header
	body    string
	id      string // MessageID
}

// A reply of the far end. raw goes out as it is; cut closes without a word
// after raw; reset closes so that the client sees a reset.
type reply struct {
	raw   string
	cut   bool
	reset bool
	hang  bool
	late  time.Duration // before cut; requests that arrive meanwhile are not read
}

// A peer is a scripted device on loopback.
type peer struct {
	t        *testing.T
	l        net.Listener
	answer   func(r request) reply
	mu       sync.Mutex
	requests []request
	conns    int
	open     sync.WaitGroup
	stop     chan struct{}
}

func startPeer(t *testing.T, answer func(r request) reply) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, l: l, answer: answer, stop: make(chan struct{})}
	p.open.Add(1)
	go p.serve()
	t.Cleanup(func() {
		close(p.stop)
		_ = l.Close()
		p.open.Wait()
	})
	return p
}

func (p *peer) serve() {
	defer p.open.Done()
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		n := p.conns
		p.conns++
		p.mu.Unlock()
		p.open.Add(1)
		go p.talk(c, n)
	}
}

func (p *peer) talk(c net.Conn, conn int) {
	defer p.open.Done()
	defer c.Close()
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		select {
		case <-p.stop:
			_ = c.Close()
		case <-gone:
		}
	}()
	br := bufio.NewReader(c)
	for n := 0; ; n++ {
		hr, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(hr.Body)
		if err != nil {
			return
		}
		r := request{conn: conn, n: n, auth: hr.Header.Get("Authorization"), header: hr.Header, body: string(body)}
		_, after, _ := strings.Cut(r.body, "MessageID>")
		r.id, _, _ = strings.Cut(after, "<")
		p.mu.Lock()
		p.requests = append(p.requests, r)
		p.mu.Unlock()
		a := p.answer(r)
		if a.hang {
			<-p.stop
			return
		}
		for raw := a.raw; raw != ""; raw = raw[min(len(raw), 8192):] {
			if _, err := io.WriteString(c, raw[:min(len(raw), 8192)]); err != nil {
				return
			}
		}
		if a.reset {
			_ = c.(*net.TCPConn).SetLinger(0)
			return
		}
		if a.late > 0 {
			select {
			case <-time.After(a.late):
			case <-p.stop:
			}
		}
		if a.cut {
			return
		}
	}
}

func (p *peer) seen() []request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]request(nil), p.requests...)
}

func (p *peer) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", p.l.Addr().String())
}

// client talks to the peer, with redial unless told not to.
func (p *peer) client(cfg Config) *Client {
	p.t.Helper()
	conn, err := p.dial(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = patience
	}
	cfg.Host = p.l.Addr().String()
	if cfg.Redial == nil {
		cfg.Redial = p.dial
	}
	c := NewClient(conn, cfg)
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

func login(name, password string) Login {
	return Login{Name: name, User: "admin", Password: amt.NewSecret(password)}
}

// httpAnswer frames a body.
func httpAnswer(status int, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\n", status, http.StatusText(status), len(body))
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	return b.String() + "\r\n" + body
}

// soap is an envelope in a device's own style.
func soap(relatesTo, body string) string {
	related := ""
	if relatesTo != "" {
		related = "<b:RelatesTo>" + relatesTo + "</b:RelatesTo>"
	}
	return `<?xml version="1.0" encoding="UTF-8"?><a:Envelope xmlns:a="http://www.w3.org/2003/05/soap-envelope" xmlns:b="http://schemas.xmlsoap.org/ws/2004/08/addressing" ` +
		`xmlns:c="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:g="http://intel.com/wbem/wscim/1/amt-schema/1/X"><a:Header>` + related +
		`<b:MessageID>uuid:00000000-8086-8086-8086-000000000001</b:MessageID></a:Header><a:Body>` + body + `</a:Body></a:Envelope>`
}

func ok(r request, body string) reply { return reply{raw: httpAnswer(200, soap(r.id, body))} }

// committed answers CommitChanges.
const committed = `<g:CommitChanges_OUTPUT><g:ReturnValue>0</g:ReturnValue></g:CommitChanges_OUTPUT>`

// commit and read are a change and a question.
func commit(c *Client, ctx context.Context) error {
	_, err := c.Invoke(ctx, "AMT_SetupAndConfigurationService", "CommitChanges")
	return err
}

func read(c *Client, ctx context.Context) error {
	_, err := c.Get(ctx, "AMT_GeneralSettings")
	return err
}

// wantReason checks code and Sent of a failed call.
func wantReason(t *testing.T, err error, code reason.Code, sent bool) {
	t.Helper()
	why := new(reason.Error)
	if !errors.As(err, &why) {
		t.Fatalf("got error %v, want a *reason.Error with %s", err, code)
	}
	if why.Code != code || why.Sent != sent {
		t.Fatalf("got %s, sent %v (%v); want %s, sent %v", why.Code, why.Sent, err, code, sent)
	}
}

// checkDigest verifies an Authorization header the way a device would, with its
// own reading of RFC 2617, and reports the fields.
func checkDigest(t *testing.T, r request, password string) (fields map[string]string, valid bool) {
	t.Helper()
	rest, found := strings.CutPrefix(r.auth, "Digest ")
	if !found {
		t.Fatalf("Authorization is %q, want a digest", r.auth)
	}
	fields = map[string]string{}
	for rest != "" {
		name, after, _ := strings.Cut(rest, "=")
		var value string
		if strings.HasPrefix(after, `"`) {
			value, rest, _ = strings.Cut(after[1:], `"`)
			rest = strings.TrimPrefix(rest, ", ")
		} else {
			value, rest, _ = strings.Cut(after, ", ")
		}
		fields[strings.TrimSpace(name)] = value
	}
	ha1 := md5hex(fields["username"], fields["realm"], password)
	ha2 := md5hex("POST", fields["uri"])
	if fields["qop"] == "auth-int" {
		ha2 = md5hex("POST", fields["uri"], md5hex(r.body))
	}
	want := md5hex(ha1, fields["nonce"], ha2)
	if fields["qop"] != "" {
		want = md5hex(ha1, fields["nonce"], fields["nc"], fields["cnonce"], fields["qop"], ha2)
	}
	return fields, fields["response"] == want
}

func challengeOf(nonce string, more string) string {
	return `WWW-Authenticate: Digest realm="Digest:A4070000000000000000000000000000", nonce="` + nonce + `"` + more
}

func refusal(nonce, more string, headers ...string) string {
	return httpAnswer(401, "<html><body>401 Unauthorized</body></html>", append([]string{challengeOf(nonce, more)}, headers...)...)
}

func wantStatus(t *testing.T, err error, want amt.Status) {
	t.Helper()
	var got amt.Status
	if !errors.As(err, &got) || got != want {
		t.Fatalf("got %v, want %v", err, want)
	}
	why := new(reason.Error)
	if !errors.As(err, &why) || why.Sent {
		t.Fatalf("%v: a status is an answer, nothing is open", err)
	}
}

func itoa(n int) string { return fmt.Sprint(n) }
