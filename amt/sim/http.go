package sim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// The limits of a small HTTP server in firmware.
const (
	maxHeader = 8 << 10
	maxBody   = 64 << 10
)

// conn is one peer's connection: one request at a time, in order.
type conn struct {
	dev   *Device
	raw   *net.TCPConn
	rw    net.Conn // the TLS connection, or raw
	peer  netip.Addr
	setup bool
	epoch int    // of the device's network at the peer's connect
	user  string // the user who logged in on it
	turn  int    // of the device's sessions at that moment
	in    *bufio.Reader
	odd   bool // send the next answer in pieces
}

// httpRequest is the part of HTTP/1.1 that AMT reads.
type httpRequest struct {
	method, path  string
	authorization string
	body          []byte
	close         bool
	trusted       bool // by a rogue, which lets anybody in
}

// httpReply is an answer, before the personality frames it.
type httpReply struct {
	status    int
	challenge string // WWW-Authenticate
	kind      string // Content-Type
	body      []byte
	close     bool
}

func (c *conn) loop() {
	c.in = bufio.NewReaderSize(c.rw, 2<<10)
	for {
		_ = c.raw.SetReadDeadline(time.Now().Add(idleTime))
		req, err := c.readRequest()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				c.dev.log.Debug("request", zap.Error(err))
				_ = c.write(&httpReply{status: 400, kind: "text/html", close: true})
			}
			return
		}
		if !c.dev.wait(c.dev.cfg.Latency) {
			return
		}
		if !c.answer(req) {
			return
		}
	}
}

// readRequest reads Content-Length or chunked bodies, with or without a
// Content-Type, since clients differ.
func (c *conn) readRequest() (*httpRequest, error) {
	line, err := c.line()
	if err != nil {
		return nil, err
	}
	method, rest, ok := strings.Cut(line, " ")
	path, proto, ok2 := strings.Cut(rest, " ")
	if !ok || !ok2 || !strings.HasPrefix(proto, "HTTP/1.") {
		return nil, fmt.Errorf("no HTTP request: %.40q", line)
	}
	req := &httpRequest{method: method, path: path, close: proto == "HTTP/1.0"}
	length, chunked, size := -1, false, len(line)
	for {
		line, err := c.line()
		if err != nil {
			return nil, unexpected(err)
		}
		if line == "" {
			break
		}
		if size += len(line); size > maxHeader {
			return nil, errors.New("headers too long")
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.Atoi(value); err != nil || length < 0 {
				return nil, fmt.Errorf("content length %q", value)
			}
		case "transfer-encoding":
			chunked = strings.EqualFold(value, "chunked")
		case "connection":
			req.close = req.close || strings.EqualFold(value, "close")
		case "authorization":
			req.authorization = value
		case "expect":
			if strings.EqualFold(value, "100-continue") {
				if _, err := io.WriteString(c.rw, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
					return nil, err
				}
			}
		}
	}
	switch {
	case chunked:
		req.body, err = c.chunks()
	case length > maxBody:
		err = errors.New("body too long")
	case length > 0:
		req.body = make([]byte, length)
		_, err = io.ReadFull(c.in, req.body)
	}
	return req, unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *conn) line() (string, error) {
	var long []byte
	for {
		part, err := c.in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if len(part) > 0 || len(long) > 0 {
				err = unexpected(err)
			}
			return "", err
		}
		if err == nil && long == nil {
			return strings.TrimRight(string(part), "\r\n"), nil
		}
		if long = append(long, part...); len(long) > maxHeader {
			return "", errors.New("line too long")
		}
		if err == nil {
			return strings.TrimRight(string(long), "\r\n"), nil
		}
	}
}

func (c *conn) chunks() ([]byte, error) {
	var body []byte
	for {
		line, err := c.line()
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 24)
		if err != nil {
			return nil, fmt.Errorf("chunk size %.20q", line)
		}
		if n == 0 {
			for { // trailers
				if line, err = c.line(); err != nil || line == "" {
					return body, err
				}
			}
		}
		if len(body)+int(n) > maxBody {
			return nil, errors.New("body too long")
		}
		at := len(body)
		body = append(body, make([]byte, n)...)
		if _, err := io.ReadFull(c.in, body[at:]); err != nil {
			return nil, err
		}
		if _, err := c.line(); err != nil {
			return nil, err
		}
	}
}

var statusText = map[int]string{
	200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
	405: "Method Not Allowed", 500: "Internal Server Error", 503: "Service Unavailable",
}

// encode frames an answer as this generation does. A reply that ends with the
// connection says so.
func (c *conn) encode(r *httpReply) []byte {
	p := &c.dev.p
	r.close = r.close || p.CloseAlways || p.EOFFramed
	out := make([]byte, 0, len(r.body)+512)
	out = fmt.Appendf(out, "HTTP/1.1 %d %s\r\nDate: Thu, 01 Jan 2004 00:00:00 GMT\r\nServer: %s\r\nX-Frame-Options: DENY\r\n",
		r.status, statusText[r.status], p.ServerName)
	if r.challenge != "" {
		out = append(out, "WWW-Authenticate: "+r.challenge+"\r\n"...)
	}
	out = append(out, "Content-Type: "+r.kind+"\r\nCache-Control: no-cache\r\nExpires: Thu, 26 Oct 1995 00:00:00 GMT\r\n"...)
	if r.close {
		out = append(out, "Connection: close\r\n"...)
	}
	switch {
	case p.EOFFramed:
		return append(append(out, "\r\n"...), r.body...)
	case p.ChunkSize == 0 || r.status != 200:
		out = fmt.Appendf(out, "Content-Length: %d\r\n\r\n", len(r.body))
		return append(out, r.body...)
	}
	out = append(out, "Transfer-Encoding: chunked\r\n\r\n"...)
	for rest := r.body; len(rest) > 0; {
		n := min(len(rest), p.ChunkSize)
		out = fmt.Appendf(out, "%04X\r\n", n)
		out = append(append(out, rest[:n]...), "\r\n"...)
		rest = rest[n:]
	}
	return append(out, "0\r\n\r\n"...)
}

func (c *conn) write(r *httpReply) error {
	out := c.encode(r)
	_ = c.raw.SetWriteDeadline(time.Now().Add(handshakeTime))
	if c.dev.faults.oneByteRecords() {
		for i := range out {
			if _, err := c.rw.Write(out[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if c.odd {
		for size := 1; len(out) > 0; size = size*3%101 + 1 {
			n := min(size, len(out))
			if _, err := c.rw.Write(out[:n]); err != nil {
				return err
			}
			out = out[n:]
		}
		return nil
	}
	_, err := c.rw.Write(out)
	return err
}
