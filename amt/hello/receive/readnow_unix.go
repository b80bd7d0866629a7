//go:build unix

package receive

import (
	"errors"
	"net"
	"syscall"
)

// readNow reads what the kernel holds already; 0 bytes and no error if that is
// nothing or the other end has closed. A deadline in the past would not do: the
// runtime then fails without looking at the socket.
func readNow(c syscall.Conn, p []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	rerr := raw.Read(func(fd uintptr) bool {
		n, err = syscall.Read(int(fd), p)
		return true // once: never wait
	})
	if n < 0 {
		n = 0
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
		err = nil
	}
	if rerr != nil {
		err = rerr
	}
	return n, err
}

// hasSpoken reports whether a connection has bytes that nobody has read yet. It
// changes nothing, since another goroutine may be waiting to read them.
func hasSpoken(c net.Conn) (spoken bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		spoken = err == nil && n > 0
	})
	return spoken
}
