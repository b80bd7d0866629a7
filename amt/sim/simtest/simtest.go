// Package simtest hands out loopback addresses for simulated devices, so that tests
// may run beside those of other packages and other checkouts.
package simtest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
)

const (
	first, blocks = 128, 96 // 127.128.0.0/16 and those after it
	singles       = 200     // so many /24 of one are for addresses that come one by one
)

var (
	next, subnets atomic.Uint32
	held          net.Listener
)

// Network is a /16 that no other process has as long as this one lives: it holds a
// port of it.
var Network = sync.OnceValue(func() netip.Prefix {
	for i := range blocks {
		a := netip.AddrFrom4([4]byte{127, byte(first + (os.Getpid()+i)%blocks), 0, 0})
		if l, err := net.Listen("tcp", netip.AddrPortFrom(Host(netip.PrefixFrom(a, 24), 1), 16991).String()); err == nil {
			held = l
			return netip.PrefixFrom(a, 16)
		}
	}
	panic(fmt.Sprintf("all %d networks are taken by other tests", blocks))
})

// Addr is an address that nobody else has.
func Addr() netip.Addr {
	n := next.Add(1) + 1 // the first is held
	if n >= singles<<8 {
		panic("no address is left")
	}
	b := Network().Addr().As4()
	return netip.AddrFrom4([4]byte{b[0], b[1], byte(n >> 8), byte(n)})
}

// Subnet is a /24 that nobody else has.
func Subnet() netip.Prefix {
	n := subnets.Add(1)
	if singles+n > 255 {
		panic("no network is left")
	}
	b := Network().Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{b[0], b[1], byte(singles + n), 0}), 24)
}

// Host is one address of a /24.
func Host(network netip.Prefix, n byte) netip.Addr {
	b := network.Addr().As4()
	b[3] = n
	return netip.AddrFrom4(b)
}
