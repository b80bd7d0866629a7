package session

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// An EgressError is a connection that the guard did not let leave. Its reason
// is one of egressWords.
type EgressError struct {
	Address string
	Reason  string
}

func (e *EgressError) Error() string {
	return fmt.Sprintf("connecting to %s is not allowed: %s", e.Address, egressWords[e.Reason])
}

// egressWords are the closed set of the reason label, and the sentence for
// each.
var egressWords = map[string]string{
	"outside":     "it lies in none of the configured networks",
	"loopback":    "loopback addresses are refused unless a configured network names them",
	"link_local":  "link-local addresses are refused unless a configured network names them",
	"multicast":   "multicast and broadcast addresses are refused",
	"unspecified": "the unspecified address is refused",
	"own":         "it is an address of this server",
	"metadata":    "it is a cloud metadata service",
	"mapped":      "it hides an IPv4 address inside an IPv6 one",
	"reserved":    "it lies in a reserved block",
	"not_tcp":     "only TCP to an address and port is allowed",
}

// A block is an address range that a wide network such as 0.0.0.0/0 or ::/0
// does not open; a configured network opens it only if it lies inside it.
type block struct {
	prefix netip.Prefix
	reason string
}

var specialBlocks = func() []block {
	rows := []struct{ prefix, reason string }{
		{"0.0.0.0/32", "unspecified"}, {"::/128", "unspecified"},
		{"0.0.0.0/8", "reserved"}, {"240.0.0.0/4", "reserved"}, {"192.0.0.0/24", "reserved"},
		{"100::/64", "reserved"}, {"fec0::/10", "reserved"}, {"5f00::/16", "reserved"},
		{"127.0.0.0/8", "loopback"}, {"::1/128", "loopback"},
		{"169.254.0.0/16", "link_local"}, {"fe80::/10", "link_local"},
		{"224.0.0.0/4", "multicast"}, {"255.255.255.255/32", "multicast"}, {"ff00::/8", "multicast"},
		// Each of these reaches an IPv4 address past the rules for it.
		{"::ffff:0:0/96", "mapped"}, {"::ffff:0:0:0/96", "mapped"}, {"::/96", "mapped"},
		{"64:ff9b::/96", "mapped"}, {"64:ff9b:1::/48", "mapped"}, {"2002::/16", "mapped"}, {"2001::/32", "mapped"},
	}
	out := make([]block, len(rows))
	for i, r := range rows {
		out[i] = block{netip.MustParsePrefix(r.prefix), r.reason}
	}
	return out
}()

// metadataServices hand out a machine's credentials to whoever connects from
// it. Only a network that names one exactly opens it.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.169.253"),
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192"),
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254"),
}

// EgressGuard is a net.Dialer Control function: it sees the final address,
// after every rewriting, and lets it pass only inside the allowed networks.
// Loopback, link-local, multicast, reserved, embedded-IPv4 and metadata
// addresses, and those that own returns (nil: none), need an allowed network
// that means exactly them: 127.0.0.0/8 opens loopback, 0.0.0.0/0 does not.
func EgressGuard(allowed []netip.Prefix, own func() []netip.Addr) func(network, address string, c syscall.RawConn) error {
	allowed = slices.Clone(allowed)
	for i := range allowed {
		allowed[i] = allowed[i].Masked()
	}
	return func(network, address string, _ syscall.RawConn) error {
		if why := egressVerdict(allowed, own, network, address); why != "" {
			return &EgressError{Address: clipText(address), Reason: why}
		}
		return nil
	}
}

// egressVerdict is "" for an allowed address, else the reason label.
func egressVerdict(allowed []netip.Prefix, own func() []netip.Addr, network, address string) string {
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return "not_tcp"
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "not_tcp"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "not_tcp"
	}
	ip = ip.WithZone("")
	named := func(inside netip.Prefix) bool {
		return slices.ContainsFunc(allowed, func(p netip.Prefix) bool {
			return p.Contains(ip) && p.Bits() >= inside.Bits() && inside.Contains(p.Addr())
		})
	}
	exactly := netip.PrefixFrom(ip, ip.BitLen())
	if slices.Contains(metadataServices, ip) && !named(exactly) {
		return "metadata"
	}
	loopback := false
	for _, b := range specialBlocks {
		// netip keeps ::ffff:0:0/96 apart from IPv4, so each family meets its own
		// blocks.
		if !contains(b.prefix, ip) {
			continue
		}
		if b.reason == "mapped" && ip.Is4In6() {
			return b.reason // no configuration needs this spelling
		}
		if !named(b.prefix) {
			return b.reason
		}
		loopback = loopback || b.reason == "loopback"
	}
	if own != nil && !loopback && slices.ContainsFunc(own(), func(o netip.Addr) bool { return o.Unmap().WithZone("") == ip }) &&
		!named(exactly) {
		return "own"
	}
	if !slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return "outside"
	}
	return ""
}

// contains is Prefix.Contains that also matches a v4-mapped address against an
// IPv6 prefix.
func contains(p netip.Prefix, ip netip.Addr) bool {
	if ip.Is4In6() {
		return p.Addr().Is6() && p.Bits() <= 96 && p.Addr().Is4In6()
	}
	return p.Contains(ip)
}
