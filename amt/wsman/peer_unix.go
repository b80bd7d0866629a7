//go:build unix

package wsman

import (
	"errors"
	"net"
	"syscall"
)

type peerCondition int

const (
	peerOpen peerCondition = iota
	peerClosed
	peerReset
)

// peerState looks, without waiting or consuming anything, whether the peer has
// closed an idle connection: by a FIN, or by a waiting TLS alert (content type
// 21) such as close_notify.
func peerState(conn net.Conn) peerCondition {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = t.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return peerOpen
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return peerOpen // the write finds out
	}
	state := peerOpen
	_ = raw.Read(func(fd uintptr) bool {
		var first [1]byte
		n, _, err := syscall.Recvfrom(int(fd), first[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		case err != nil:
			state = peerReset
		case n == 0, first[0] == 21:
			state = peerClosed
		}
		return true
	})
	return state
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
