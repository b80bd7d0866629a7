package sim

import (
	"net"
	"syscall"
)

const tcpEstablished = 1 // the first byte of struct tcp_info is the state

// peerStays reports whether the other end still holds its connection open. A
// peer that closed and came back counts once, even before our own goroutine
// notices the end of its first connection.
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
