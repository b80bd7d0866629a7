package receive

import (
	"encoding/binary"
	"fmt"
	"github.com/provisiond/provisiond/amt/hello"
	"net/netip"
)

// The PROXY protocol, version 2, in front of a connection from a load balancer
// (haproxy.org, proxy-protocol.txt, section 2.2). Integers are big-endian.
//
//	 0 12  signature
//	12  1  version 2 in the high half, command in the low: 0 LOCAL, 1 PROXY
//	13  1  address family and transport: 0x11 TCP over IPv4, 0x21 TCP over IPv6
//	14  2  length of what follows: addresses, ports, then extensions we skip
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyHeadLen   = 16
	maxProxyLen    = 1024 // with extensions; the addresses need 36
)

// proxied is what a header says. Both addresses are zero if the header names
// none: the balancer speaks for itself (LOCAL, a health check) or does not
// know.
type proxied struct{ from, local netip.AddrPort }

// proxyLen is like declared: it returns how long the header that begins with b
// is, as far as b tells. Offsets in the error count from the start of the
// connection.
func proxyLen(b []byte) (int, *hello.ParseError) {
	for i := range min(len(b), len(proxySignature)) {
		if b[i] != proxySignature[i] {
			return 0, hello.NotParsed(i, "PROXY signature",
				"missing, though this peer is a configured balancer: send PROXY protocol version 2")
		}
	}
	if len(b) < proxyHeadLen {
		return proxyHeadLen, nil
	}
	if b[12]>>4 != 2 || b[12]&15 > 1 {
		return 0, hello.NotParsed(12, "PROXY version and command", fmt.Sprintf("0x%02x, want 0x20 or 0x21", b[12]))
	}
	n := int(binary.BigEndian.Uint16(b[14:]))
	if n > maxProxyLen {
		return 0, hello.NotParsed(14, "PROXY length", fmt.Sprintf("%d, want at most %d", n, maxProxyLen))
	}
	return proxyHeadLen + n, nil
}

// parseProxy reads a whole header of the length that proxyLen returned.
func parseProxy(b []byte) (proxied, *hello.ParseError) {
	if b[12]&15 == 0 || b[13]>>4 == 0 {
		return proxied{}, nil
	}
	body, size := b[proxyHeadLen:], 0
	switch b[13] {
	case 0x11:
		size = 4
	case 0x21:
		size = 16
	default:
		// Nobody can be called back on a datagram or a Unix socket.
		return proxied{}, hello.NotParsed(13, "PROXY family", fmt.Sprintf("0x%02x, want TCP over IPv4 or IPv6", b[13]))
	}
	if len(body) < 2*size+4 {
		return proxied{}, hello.NotParsed(14, "PROXY length", fmt.Sprintf("%d, too short for the addresses", len(body)))
	}
	from, _ := netip.AddrFromSlice(body[:size])
	local, _ := netip.AddrFromSlice(body[size : 2*size])
	ports := body[2*size:]
	return proxied{
		from:  netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports)),
		local: netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(ports[2:])),
	}, nil
}
