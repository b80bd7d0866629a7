package receive

import (
	"errors"
	"fmt"
	"github.com/provisiond/provisiond/amt/hello"
	"io"
	"net"
	"sync"
	"syscall"
)

// bufSize holds every known hello (841 bytes and less) in one read.
const bufSize = 2 << 10

// buffers hold a message while it arrives; Parse copies out of them.
var buffers = sync.Pool{New: func() any { b := make([]byte, bufSize); return &b }}

// Read reads one hello from r: exactly the declared length, however it is
// split, without waiting for the sender to close. Bytes after it become
// Trailing if they came in the same reads or, for a net.Conn of the operating
// system, have arrived already; Read never waits for them. max bounds
// everything, in bytes; 0 means MaxSize.
//
// The error is io.EOF if nothing came at all, the reader's own if it failed
// before the first byte, else a *ParseError; what Parse says of the message
// beside an error holds here too.
func Read(r io.Reader, max int) (hello.Message, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	return read(plainSource{r}, buf, 0, max)
}

// A source is a reader that can also return what has arrived without waiting;
// readNow returns 0 bytes if nothing has.
type source interface {
	io.Reader
	readNow([]byte) (int, error)
}

type plainSource struct{ io.Reader }

func (s plainSource) readNow(p []byte) (int, error) {
	// An os.File has a SyscallConn too, but may block.
	if c, ok := s.Reader.(net.Conn); ok {
		if sc, ok := c.(syscall.Conn); ok {
			return readNow(sc, p)
		}
	}
	return 0, nil
}

// read works in *buf, whose first n bytes are read already, and may replace it
// by a larger buffer.
func read(r source, buf *[]byte, n, limit int) (hello.Message, error) {
	if limit <= 0 {
		limit = hello.MaxSize
	}
	b := *buf
	need, perr := hello.Declared(b[:n])
	for need > n || perr != nil {
		if perr != nil {
			// Of an unknown version, read on to the UUID.
			if perr.Kind != hello.KindVersion || n >= hello.HeadLength {
				return hello.Parse(b[:n])
			}
			need = hello.HeadLength
		}
		if need > limit {
			return hello.Message{}, hello.NotParsed(limit, "message", fmt.Sprintf("longer than %d bytes", limit))
		}
		b = grow(b, n, min(limit, need))
		k, err := io.ReadAtLeast(r, b[n:min(len(b), limit)], need-n)
		n += k
		if err != nil {
			if n == 0 {
				return hello.Message{}, err
			}
			return cut(b[:n], err)
		}
		need, perr = hello.Declared(b[:n])
	}
	for n < limit {
		b = grow(b, n, min(limit, n+1))
		k, err := r.readNow(b[n:min(len(b), limit)])
		n += k
		if k == 0 || err != nil {
			break
		}
	}
	if len(b) > len(*buf) && len(b) <= 8*bufSize {
		*buf = b
	}
	return hello.Parse(b[:n])
}

// cut explains a message that broke off because of err. The bytes that came may
// be wrong already, which says more.
func cut(b []byte, err error) (hello.Message, error) {
	m, perr := hello.Parse(b)
	if e := (*hello.ParseError)(nil); errors.As(perr, &e) && e.Kind == hello.KindTruncated {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		e.Err = err
	}
	return m, perr
}

// grow returns b with room for at least size bytes, the first n kept.
func grow(b []byte, n, size int) []byte {
	if size <= len(b) {
		return b
	}
	g := make([]byte, max(size, 2*len(b)))
	copy(g, b[:n])
	return g
}
