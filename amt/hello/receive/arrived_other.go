//go:build !linux

package receive

import (
	"net"
	"time"
)

// arrived cannot find out on this system how long a hello waited in the kernel.
func arrived(net.Conn) time.Duration { return 0 }
