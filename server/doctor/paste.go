package doctor

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The texts to paste are those of deploy/README.md; a test holds them together.

// recordText is the record that is missing, for each kind of DNS server.
func recordText(zone string, addrs []netip.Addr) string {
	var bind, windows, masq, nsupdate []string
	name := "provisionserver." + zone
	for _, a := range addrs {
		kind, cmd, flag := "A", "Add-DnsServerResourceRecordA", "-IPv4Address"
		if a.Is6() {
			kind, cmd, flag = "AAAA", "Add-DnsServerResourceRecordAAAA", "-IPv6Address"
		}
		bind = append(bind, fmt.Sprintf("provisionserver  300  IN  %s  %s", kind, a))
		windows = append(windows, fmt.Sprintf("%s -ZoneName %s -Name provisionserver %s %s -TimeToLive 00:05:00", cmd, zone, flag, a))
		nsupdate = append(nsupdate, fmt.Sprintf("update add %s 300 %s %s", name, kind, a))
		masq = append(masq, a.String())
	}
	return paste(
		"BIND, in the zone", bind,
		"Windows PowerShell", windows,
		"dnsmasq", []string{"host-record=" + name + "," + strings.Join(masq, ",")},
		"nsupdate", nsupdate,
		"Terraform, provider hashicorp/dns", terraform(zone, addrs),
	)
}

// terraform is a resource for each kind of address.
func terraform(zone string, addrs []netip.Addr) (lines []string) {
	for _, kind := range []string{"a", "aaaa"} {
		var quoted []string
		for _, a := range addrs {
			if a.Is6() == (kind == "aaaa") {
				quoted = append(quoted, strconv.Quote(a.String()))
			}
		}
		if len(quoted) > 0 {
			lines = append(lines, fmt.Sprintf("resource \"dns_%[1]s_record_set\" \"provisionserver_%[1]s\" {", kind),
				fmt.Sprintf("  zone = \"%s.\"", zone), "  name = \"provisionserver\"",
				"  addresses = ["+strings.Join(quoted, ", ")+"]", "  ttl = 300", "}")
		}
	}
	return lines
}

// option15Text sets option 15 on each kind of DHCP server.
func option15Text(suffix string, network netip.Prefix) string {
	return paste(
		"Windows PowerShell", []string{fmt.Sprintf("Set-DhcpServerv4OptionValue -ScopeId %s -DnsDomain %s", network.Masked().Addr(),
			suffix)},
		"dnsmasq", []string{"domain=" + suffix, "dhcp-option=15," + suffix},
		"Kea, in the subnet", []string{fmt.Sprintf(`"option-data": [{"name": "domain-name", "data": %q}]`, suffix)},
		"ISC dhcpd", []string{fmt.Sprintf("option domain-name %q;", suffix)},
		"Cisco IOS", []string{"ip dhcp pool CLIENTS", fmt.Sprintf(" network %s %s", network.Masked().Addr(), mask(network)),
			" domain-name " + suffix},
	)
}

func mask(p netip.Prefix) netip.Addr {
	m := uint32(0xffffffff) << (32 - p.Bits())
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)})
}

// paste lines up titles and lines: pairs of string and []string.
func paste(pairs ...any) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, "\n%s:", pairs[i])
		for _, line := range pairs[i+1].([]string) {
			b.WriteString("\n    " + line)
		}
	}
	return b.String()
}
