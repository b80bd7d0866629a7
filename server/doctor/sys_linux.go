package doctor

import (
	"context"
	"errors"
	"net"
	"syscall"
)

// listenDHCP takes port 68 on one interface alone. The port needs root or
// CAP_NET_BIND_SERVICE; a DHCP client that has it may let us share it.
func listenDHCP(ctx context.Context, iface string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = errors.Join(
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
				syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1),
				syscall.BindToDevice(int(fd), iface),
			)
		})
		return errors.Join(cerr, err)
	}}
	return lc.ListenPacket(ctx, "udp4", ":68")
}

// kernelSynced asks the kernel whether somebody keeps its clock right.
func kernelSynced() (synced, known bool) {
	var t syscall.Timex
	state, err := syscall.Adjtimex(&t)
	const timeError = 5
	return err == nil && state != timeError, err == nil
}

// space gives the bytes and inodes that are free for us, and in all.
func space(dir string) (free, all, inodes, allInodes uint64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, 0, 0, err
	}
	return s.Bavail * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), s.Ffree, s.Files, nil
}
