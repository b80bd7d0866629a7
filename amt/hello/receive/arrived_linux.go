package receive

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// longestQueue is the longest time that a hello can have waited in the kernel;
// a longer one is an error.
const longestQueue = time.Hour

// arrived returns how long ago the last data of a connection came. A process
// that was stopped, or cannot keep up, reads a hello long after the device sent
// it, and by then another node may have set the device up.
func arrived(c net.Conn) (ago time.Duration) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		// tcpi_last_data_recv is in milliseconds (linux/tcp.h).
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			ago = time.Duration(info.Last_data_recv) * time.Millisecond
		}
	})
	if ago > longestQueue {
		return 0
	}
	return ago
}
