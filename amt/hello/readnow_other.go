//go:build !unix

package hello

import (
	"net"
	"syscall"
)

// readNow finds nothing here: only what came along with the message is kept.
func readNow(syscall.Conn, []byte) (int, error) { return 0, nil }

func hasSpoken(net.Conn) bool { return false }
