//go:build !linux

package hello

import (
	"net"
	"time"
)

// arrived does not know here how long a hello has waited in the kernel.
func arrived(net.Conn) time.Duration { return 0 }
