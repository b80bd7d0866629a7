package session

import (
	"errors"
	"net/netip"
	"testing"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

func TestEgress(t *testing.T) {
	t.Parallel()
	everything := prefixes("0.0.0.0/0", "::/0")
	office := prefixes("10.0.0.0/8", "2001:db8:1::/48")
	loop := prefixes("127.0.0.0/8", "::1/128")
	own := func() []netip.Addr {
		return []netip.Addr{netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("::ffff:10.0.0.6"), netip.MustParseAddr("127.0.0.1"),
			netip.MustParseAddr("fe80::5%eth0"), netip.MustParseAddr("2001:db8:1::5")}
	}
	for _, tc := range []struct {
		address string
		allowed []netip.Prefix
		want    string // "" passes
	}{
		// Ordinary addresses.
		{"10.1.2.3:16993", office, ""},
		{"10.255.255.255:16993", office, ""},
		{"11.0.0.1:16993", office, "outside"},
		{"9.255.255.255:16993", office, "outside"},
		{"192.168.1.1:16993", office, "outside"},
		{"192.168.1.1:16993", everything, ""},
		{"8.8.8.8:16993", everything, ""},
		{"8.8.8.8:16993", nil, "outside"},
		{"[2001:db8:1::7]:16993", office, ""},
		{"[2001:db8:2::7]:16993", office, "outside"},
		{"[2001:db8:2::7]:16993", everything, ""},
		// Loopback opens only by name.
		{"127.0.0.1:16993", office, "loopback"},
		{"127.0.0.1:16993", everything, "loopback"},
		{"127.0.0.1:16993", prefixes("126.0.0.0/7"), "loopback"},
		{"127.0.0.1:16993", loop, ""},
		{"127.20.3.4:16993", loop, ""},
		{"127.20.3.4:16993", prefixes("127.20.0.0/16"), ""},
		{"127.21.3.4:16993", prefixes("127.20.0.0/16"), "loopback"},
		{"127.255.255.255:16993", everything, "loopback"},
		{"[::1]:16993", everything, "loopback"},
		{"[::1]:16993", loop, ""},
		// Unspecified.
		{"0.0.0.0:16993", everything, "unspecified"},
		{"[::]:16993", everything, "unspecified"},
		{"0.1.2.3:16993", everything, "reserved"},
		// Link-local.
		{"169.254.1.1:16993", everything, "link_local"},
		{"169.254.1.1:16993", prefixes("169.254.0.0/16"), ""},
		{"[fe80::1]:16993", everything, "link_local"},
		{"[fe80::1%eth0]:16993", everything, "link_local"},
		{"[fe80::1%eth0]:16993", prefixes("fe80::/10"), ""},
		{"[febf::1]:16993", everything, "link_local"},
		{"[fec0::1]:16993", everything, "reserved"},
		// Cloud metadata, even where the network around it is open.
		{"169.254.169.254:80", everything, "metadata"},
		{"169.254.169.254:80", prefixes("169.254.0.0/16"), "metadata"},
		{"169.254.169.254:80", prefixes("169.254.169.254/32"), ""},
		{"169.254.170.2:80", everything, "metadata"},
		{"[fd00:ec2::254]:80", everything, "metadata"},
		{"[fd00:ec2::254]:80", prefixes("fd00:ec2::254/128"), ""},
		{"[fd00:ec2::253]:80", everything, ""},
		{"100.100.100.200:80", everything, "metadata"},
		{"168.63.129.16:80", everything, "metadata"},
		{"192.0.0.192:80", everything, "metadata"},
		// Multicast, broadcast, reserved.
		{"224.0.0.1:16993", everything, "multicast"},
		{"239.255.255.250:1900", everything, "multicast"},
		{"255.255.255.255:16993", everything, "reserved"},
		{"240.0.0.1:16993", everything, "reserved"},
		{"192.0.0.8:16993", everything, "reserved"},
		{"[ff02::1]:16993", everything, "multicast"},
		{"[100::1]:16993", everything, "reserved"},
		// IPv4 hidden in IPv6.
		{"[::ffff:127.0.0.1]:16993", everything, "mapped"},
		{"[::ffff:127.0.0.1]:16993", loop, "mapped"},
		{"[::ffff:10.1.2.3]:16993", office, "mapped"},
		{"[::ffff:10.1.2.3]:16993", prefixes("::ffff:0:0/96"), "mapped"},
		{"[::127.0.0.1]:16993", everything, "mapped"},
		{"[64:ff9b::7f00:1]:16993", everything, "mapped"},
		{"[64:ff9b::a9fe:a9fe]:80", everything, "mapped"},
		{"[64:ff9b::a01:203]:16993", prefixes("64:ff9b::/96"), ""},
		{"[64:ff9b:1::1]:16993", everything, "mapped"},
		{"[2002:7f00:1::]:16993", everything, "mapped"},
		{"[2001::1]:16993", everything, "mapped"},
		{"[::ffff:0:7f00:1]:16993", everything, "mapped"},
		// Ourselves.
		{"10.0.0.5:16993", office, "own"},
		{"10.0.0.6:16993", office, "own"},
		{"10.0.0.5:16993", prefixes("10.0.0.5/32"), ""},
		{"[2001:db8:1::5]:16993", office, "own"},
		// Not an address at all.
		{"localhost:16993", everything, "not_tcp"},
		{"10.1.2.3", everything, "not_tcp"},
		{"010.1.2.3:16993", everything, "not_tcp"},
		{"0x7f.1:16993", everything, "not_tcp"},
		{"", everything, "not_tcp"},
	} {
		err := EgressGuard(tc.allowed, own)("tcp", tc.address, nil)
		got := ""
		if denied := new(EgressError); errors.As(err, &denied) {
			got = denied.Reason
		} else if err != nil {
			t.Errorf("%s: %v is no EgressError", tc.address, err)
		}
		if got != tc.want {
			t.Errorf("%s with %v: got %q, want %q", tc.address, tc.allowed, got, tc.want)
		}
	}
	if err := EgressGuard(everything, nil)("udp", "8.8.8.8:53", nil); err == nil {
		t.Error("UDP passes")
	}
}
