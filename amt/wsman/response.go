package wsman

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

const (
	maxHeader  = 32 << 10 // all header bytes of one answer, informational ones included
	maxLine    = 8 << 10
	maxHeaders = 200
)

// Every refusal of the answer's framing wraps errHTTP.
var (
	errHTTP     = errors.New("not an HTTP answer we can read")
	errTooLarge = errors.New("the answer is too large")
)

func badHTTP(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errHTTP, fmt.Sprintf(format, args...))
}

// A response is one answer's head, and how its body is divided from the next.
type response struct {
	status    int
	close     bool // the device announced that it will close, or cannot say where the body ends
	old       bool // HTTP/1.0
	keep      bool // it promised keep-alive
	chunked   bool
	length    int64 // -1: unknown
	encoding  string
	server    string
	retry     bool // the answer has a Retry-After
	authLines []string
}

// headReader counts header bytes over all lines of one answer.
type headReader struct {
	br   *bufio.Reader
	left int
}

// line reads one header line without its end, LF alone accepted.
func (h *headReader) line() (string, error) {
	var long []byte
	for {
		part, err := h.br.ReadSlice('\n')
		h.left -= len(part)
		if h.left < 0 || len(long)+len(part) > maxLine {
			return "", fmt.Errorf("%w: more than %d bytes of headers", errTooLarge, maxHeader)
		}
		if err == nil {
			if long != nil {
				part = append(long, part...)
			}
			return strings.TrimRight(string(part), "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) && (len(part) > 0 || long != nil) {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		long = append(long, part...)
	}
}

// readHead reads a status line and headers, and skips informational answers
// such as 100 Continue. It returns an error before the first byte as it is, so
// that the caller can tell a closed line from a broken answer.
func readHead(br *bufio.Reader) (*response, error) {
	h := &headReader{br: br, left: maxHeader}
	for range 10 {
		r, err := h.one()
		if err != nil {
			return nil, err
		}
		if r.status >= 200 {
			return r, nil
		}
		if r.status == 101 {
			return nil, badHTTP("the device wants to switch protocols")
		}
	}
	return nil, badHTTP("too many informational answers")
}

func (h *headReader) one() (*response, error) {
	first, err := h.line()
	if err != nil {
		return nil, err
	}
	r := &response{length: -1}
	defer r.settle()
	proto, rest, _ := strings.Cut(first, " ")
	switch proto {
	case "HTTP/1.1":
	case "HTTP/1.0":
		r.old = true
	default:
		return nil, badHTTP("it begins with %q", amt.Clip(first))
	}
	code := strings.TrimLeft(rest, " ")
	if len(code) > 3 && code[3] == ' ' {
		code = code[:3]
	}
	if r.status, err = strconv.Atoi(code); err != nil || len(code) != 3 || r.status < 100 || r.status > 599 {
		return nil, badHTTP("its status line is %q", amt.Clip(first))
	}
	for n := 0; ; n++ {
		line, err := h.line()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if line == "" {
			break
		}
		if n >= maxHeaders {
			return nil, fmt.Errorf("%w: more than %d header lines", errTooLarge, maxHeaders)
		}
		if line[0] == ' ' || line[0] == '\t' {
			// A folded line (RFC 2616): only a challenge needs its second half.
			if k := len(r.authLines); k > 0 {
				r.authLines[k-1] += " " + strings.TrimLeft(line, " \t")
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, badHTTP("a header line without a colon: %q", amt.Clip(line))
		}
		if err := r.header(strings.TrimRight(name, " \t"), strings.Trim(value, " \t")); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// settle decides from the whole head where the body ends and whether the
// connection outlives it.
func (r *response) settle() {
	if r.chunked {
		r.length = -1 // chunking wins if a device sends both
	}
	if r.status == 204 || r.status == 304 || r.status < 200 {
		r.chunked, r.length = false, 0
	}
	if !r.chunked && r.length < 0 || r.old && !r.keep {
		r.close = true
	}
}

func (r *response) header(name, value string) error {
	switch strings.ToLower(name) {
	case "content-length":
		// The same length twice, as a list too, is harmless; two lengths are not.
		for v := range strings.SplitSeq(value, ",") {
			v = strings.TrimSpace(v)
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 || v[0] == '+' || r.length >= 0 && r.length != n {
				return badHTTP("Content-Length %q", amt.Clip(value))
			}
			r.length = n
		}
	case "transfer-encoding":
		switch strings.ToLower(value) {
		case "chunked":
			r.chunked = true
		case "identity", "":
		default:
			return badHTTP("Transfer-Encoding %q", amt.Clip(value))
		}
	case "connection", "proxy-connection":
		for v := range strings.SplitSeq(value, ",") {
			switch strings.ToLower(strings.TrimSpace(v)) {
			case "close":
				r.close = true
			case "keep-alive":
				r.keep = true
			}
		}
	case "content-encoding":
		if !strings.EqualFold(value, "identity") && value != "" {
			r.encoding = value
		}
	case "server":
		r.server = amt.Clip(value)
	case "retry-after":
		r.retry = true
	case "www-authenticate":
		r.authLines = append(r.authLines, value)
	}
	return nil
}

// readBody appends the whole body to buf, at most limit bytes of it.
func readBody(br *bufio.Reader, r *response, buf []byte, limit int) ([]byte, error) {
	switch {
	case r.chunked:
		return readChunks(br, buf, limit)
	case r.length > int64(limit):
		return buf, fmt.Errorf("%w: %d bytes, the limit is %d", errTooLarge, r.length, limit)
	case r.length >= 0:
		return readN(br, buf, int(r.length))
	}
	for {
		if len(buf) > limit {
			return buf, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
		}
		var err error
		if buf, err = readSome(br, buf, limit+1-len(buf)); err != nil {
			if errors.Is(err, io.EOF) {
				return buf, nil // the body ends with the connection
			}
			return buf, err
		}
	}
}

func readChunks(br *bufio.Reader, buf []byte, limit int) ([]byte, error) {
	h := &headReader{br: br, left: maxHeader}
	for {
		line, err := h.line()
		if err != nil {
			return buf, noEOF(err)
		}
		size, _, _ := strings.Cut(line, ";")
		size = strings.Trim(size, " \t")
		n, err := strconv.ParseUint(size, 16, 31)
		if err != nil {
			return buf, badHTTP("a chunk of %q bytes", amt.Clip(size))
		}
		if n == 0 {
			break
		}
		if len(buf)+int(n) > limit {
			return buf, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
		}
		h.left = maxHeader // each chunk's line is bounded, their number by limit
		if buf, err = readN(br, buf, int(n)); err != nil {
			return buf, err
		}
		if end, err := h.line(); err != nil {
			return buf, noEOF(err)
		} else if end != "" {
			return buf, badHTTP("a chunk is longer than it says")
		}
	}
	for range maxHeaders { // ignore trailers
		line, err := h.line()
		if err != nil {
			return buf, noEOF(err)
		}
		if line == "" {
			return buf, nil
		}
	}
	return buf, fmt.Errorf("%w: more than %d trailer lines", errTooLarge, maxHeaders)
}

func readN(br *bufio.Reader, buf []byte, n int) ([]byte, error) {
	for n > 0 {
		before := len(buf)
		var err error
		if buf, err = readSome(br, buf, n); err != nil {
			return buf, noEOF(err)
		}
		n -= len(buf) - before
	}
	return buf, nil
}

// readSome grows buf by what one Read returns, at most want bytes: memory
// follows what arrives, not what was announced.
func readSome(br *bufio.Reader, buf []byte, want int) ([]byte, error) {
	if cap(buf) == len(buf) {
		buf = append(buf, make([]byte, max(2048, len(buf)))...)[:len(buf)]
	}
	room := min(cap(buf)-len(buf), want)
	n, err := br.Read(buf[len(buf) : len(buf)+room])
	if n > 0 {
		err = nil // an error with data comes again at the next Read
	}
	return buf[:len(buf)+n], err
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
