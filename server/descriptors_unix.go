//go:build unix

package server

import "syscall"

// mayOpen is how many descriptors the process may have. The Go runtime has
// raised the soft limit to the hard one.
func mayOpen() uint64 {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return 0
	}
	return uint64(r.Cur) //nolint:unconvert // signed on some systems
}
