//go:build !linux

package doctor

import (
	"context"
	"errors"
	"net"
)

var errLinux = errors.New("only known on Linux")

func listenDHCP(context.Context, string) (net.PacketConn, error) { return nil, errLinux }

func kernelSynced() (synced, known bool) { return false, false }

func space(string) (free, all, inodes, allInodes uint64, err error) { return 0, 0, 0, 0, errLinux }
