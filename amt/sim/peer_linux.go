package sim

import (
	"net"
	"syscall"
)

const tcpEstablished = 1 // the first byte of struct tcp_info is the state

// peerStays reports whether the other end still holds its connection open. One
// that has closed and come back is not there twice, even when our own goroutine
// has yet to notice the end of the first.
func peerStays(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	stays := false
	if err := raw.Control(func(fd uintptr) {
		v, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		stays = err == nil && v&0xff == tcpEstablished
	}); err != nil {
		return false
	}
	return stays
}
