package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
)

// why15 is the question that the old instructions left open.
const why15 = "Firmware takes its DNS suffix from option 15 of its own lease on the wired port, unless a PKI DNS suffix was typed into " +
	"MEBx, and refuses a certificate for another domain. It is an option of the DHCP scope, not a DNS record."

// dhcpFinding is what was learned on the interface, once for several checks.
type dhcpFinding struct {
	iface  string
	offers []offer
	err    error
}

func (v *visit) askDHCP(ctx context.Context) dhcpFinding {
	f := dhcpFinding{iface: v.c.DHCPInterface}
	if f.iface != "" {
		f.offers, f.err = inform(ctx, f.iface)
	}
	return f
}

// dhcp reads option 15 as a device on that network would, and follows it into
// DNS with the servers of option 6.
func (v *visit) dhcp(ctx context.Context) []Check {
	f := v.lease()
	if f.iface == "" {
		return one("dhcp", Skip, "", "DHCP was not asked: doctor.dhcp_interface names no interface")
	}
	check := Check{Name: "dhcp:" + f.iface, Status: Pass}
	if f.err != nil {
		check.Status, check.Detail, check.Hint = unasked(f.iface, f.err)
		return []Check{check}
	}
	network := v.networkOf(f.iface)
	if len(f.offers) == 0 {
		check.Status = Fail
		check.Detail = fmt.Sprintf("no DHCP server on %s answered a DHCPINFORM within %d s", f.iface, int(dhcpPatience.Seconds()))
		check.Hint = "is a DHCP server or a relay on this network, and does it have a scope for " + network.String() +
			"? A server on this very machine does not hear its own broadcast everywhere."
		v.measure(func(m *Measures) { m.DHCP[f.iface] = false })
		return []Check{check}
	}
	var heads, lines, hints []string
	seen := map[string]bool{}
	wrong15 := false
	for _, o := range f.offers {
		status, head, hint := v.judgeOffer(o)
		check.Status = worse(check.Status, status)
		wrong15 = wrong15 || status != Pass
		lines = append(append(lines, fmt.Sprintf("%s: %s", o.Server, head)), describe(o)...)
		if hint != "" && !slices.Contains(hints, hint) {
			hints = append(hints, hint)
		}
		seen[readDomain(o.Domains).Suffix] = true
		if s, line := v.followOffer(ctx, o); line != "" {
			if s == Fail {
				hints = append(hints, "the check dns says which record is missing; is the server of option 6 the right one?")
			}
			check.Status = worse(check.Status, s)
			lines = append(lines, line)
		}
	}
	if len(seen) > 1 {
		check.Status, wrong15 = Fail, true
		heads = append(heads, fmt.Sprintf("%d DHCP servers answer on %s and tell different suffixes: it is chance which one a device "+
			"believes", len(f.offers), f.iface))
		hints = append(hints, "switch off the server that does not belong there, or give both the same option 15")
	}
	check.Detail = strings.Join(append(heads, lines...), "\n")
	if wrong15 {
		hints = append(hints, why15, "set option 15:"+option15Text(v.wantedSuffix(), network),
			"then let the device take a new lease: renew it, or ten seconds without power")
	}
	check.Hint = strings.Join(hints, "\n")
	v.measure(func(m *Measures) { m.DHCP[f.iface] = check.Status != Fail })
	return []Check{check}
}

// unasked explains why no question could be put. That says nothing about the
// devices, so it is a warning, but for an interface that is not there.
func unasked(iface string, err error) (Status, string, string) {
	switch {
	case errors.Is(err, os.ErrPermission):
		return Warn, "this user has no right to use port 68, so DHCP was not asked",
			"run the doctor as root, or give the service CAP_NET_BIND_SERVICE and CAP_NET_RAW (its unit says how)"
	case errors.Is(err, syscall.EADDRINUSE):
		return Warn, "port 68 is held by a DHCP client of this machine that does not share it, so DHCP was not asked",
			"ask on another interface, or stop the client for a moment (ss -lunp shows it)"
	case errors.Is(err, errNoIPv4):
		return Warn, iface + " has no IPv4 address, so a DHCPINFORM has no sender",
			"give it an address in the devices' network, or name another interface in doctor.dhcp_interface"
	case errors.Is(err, syscall.ENETDOWN), errors.Is(err, syscall.ENETUNREACH):
		return Warn, iface + " is down", "ip link set " + iface + " up"
	}
	var names []string
	if list, lerr := net.Interfaces(); lerr == nil {
		known := false
		for _, i := range list {
			known = known || i.Name == iface
			if i.Flags&net.FlagLoopback == 0 {
				names = append(names, i.Name)
			}
		}
		if !known {
			return Fail, "there is no interface " + iface, "doctor.dhcp_interface: one of " + strings.Join(names, ", ")
		}
	}
	return Warn, fmt.Sprintf("DHCP could not be asked on %s: %v", iface, short(err)), ""
}

// judgeOffer holds option 15 against zones and certificates.
func (v *visit) judgeOffer(o offer) (Status, string, string) {
	r := readDomain(o.Domains)
	status, said := Pass, ""
	hint := ""
	switch {
	case r.Unusable != "":
		status, said = Fail, r.Unusable
		if len(o.Domains) == 0 && len(o.Search) > 0 {
			said += "; option 119 (" + strings.Join(o.Search, ", ") +
				") is there, but firmware does not read it: it does not replace option 15"
		}
		return status, said, hint
	default:
		said = "option 15 is " + r.Suffix
	}
	if len(r.Odd) > 0 {
		status = Warn
		said += ", but " + strings.Join(r.Odd, ", and ")
		hint = "write it plainly: " + r.Suffix
	}
	zone := v.zoneOf(r.Suffix)
	covered, why := v.covered(r.Suffix)
	switch {
	case len(v.loaded()) > 0 && !covered:
		return Fail, said + "; no certificate serves it: " + why, hint
	case zone == "" && len(v.c.Zones) > 0 && len(v.loaded()) == 0:
		return Fail, fmt.Sprintf("%s, which is none of the configured zones (%s)", said, strings.Join(v.c.Zones, ", ")), hint
	case zone == "" && len(v.c.Zones) > 0:
		return worse(status, Warn), fmt.Sprintf("%s, which is none of the configured zones (%s); %s", said, strings.Join(v.c.Zones, ", "),
			why), "devices look for provisionserver." + r.Suffix + ": add it to zones, or correct option 15"
	case covered:
		said += "; " + why
	}
	return status, said, hint
}

func (v *visit) zoneOf(suffix string) string {
	for _, z := range v.c.Zones {
		if strings.EqualFold(strings.TrimSuffix(z, "."), suffix) {
			return suffix
		}
	}
	return ""
}

// covered asks whether any certificate serves a suffix on the newest firmware.
func (v *visit) covered(suffix string) (bool, string) {
	why := "no certificate is loaded"
	for _, p := range v.loaded() {
		d := p.Covers(suffix, amt.Version{})
		if d.OK {
			return true, d.Why
		}
		why = d.Why
	}
	return false, why
}

// wantedSuffix is what option 15 ought to be.
func (v *visit) wantedSuffix() string {
	for _, z := range v.c.Zones {
		z = strings.ToLower(strings.TrimSuffix(z, "."))
		if ok, _ := v.covered(z); ok || len(v.loaded()) == 0 {
			return z
		}
	}
	for _, p := range v.loaded() {
		if _, domain, ok := strings.Cut(strings.TrimPrefix(strings.ToLower(p.Name), "*."), "."); ok {
			return domain
		}
	}
	if len(v.c.Zones) > 0 {
		return strings.ToLower(strings.TrimSuffix(v.c.Zones[0], "."))
	}
	return "corp.example.com"
}

func (v *visit) networkOf(iface string) netip.Prefix {
	if nic, err := net.InterfaceByName(iface); err == nil {
		if list, err := nic.Addrs(); err == nil {
			for _, a := range list {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
					return p.Masked()
				}
			}
		}
	}
	return netip.MustParsePrefix("10.20.0.0/16")
}

// describe lists the options as they came.
func describe(o offer) []string {
	var raw []string
	for _, d := range o.Domains {
		raw = append(raw, fmt.Sprintf("%q", d))
	}
	dash := func(s string) string {
		if s == "" {
			return "not sent"
		}
		return s
	}
	fqdn := "not sent"
	if o.FQDN {
		fqdn = "sent"
	}
	return []string{
		"  option 6 (DNS servers):    " + dash(addresses(o.DNS)),
		"  option 15 (domain):        " + dash(strings.Join(raw, " and ")),
		"  option 81 (client FQDN):   " + fqdn,
		"  option 119 (search list):  " + dash(strings.Join(o.Search, ", ")),
	}
}

// followOffer does what the firmware does next: it asks the servers of option 6.
func (v *visit) followOffer(ctx context.Context, o offer) (Status, string) {
	r := readDomain(o.Domains)
	if r.Suffix == "" || r.Unusable != "" {
		return Pass, ""
	}
	if len(o.DNS) == 0 {
		return Fail, "  a device gets no DNS server (option 6), so it cannot look for provisionserver." + r.Suffix
	}
	ctx, cancel := context.WithTimeout(ctx, 6*time.Second)
	defer cancel()
	var servers []netip.AddrPort
	for _, a := range o.DNS {
		servers = append(servers, netip.AddrPortFrom(a, 53))
	}
	s := v.see(ctx, "  a device then asks "+addresses(o.DNS), servers, servers, firmwareName+"."+r.Suffix)
	if s.err != nil || len(s.addrs) == 0 {
		return Fail, s.String()
	}
	for _, a := range s.addrs {
		if v.isOurs(a) {
			return Pass, s.String() + ", which is us"
		}
	}
	return Fail, s.String() + ", which is not this server"
}

// certificateNames are the names of a certificate, the common name first.
func certificateNames(p *certs.Provisioning) string { return strings.Join(p.Names, ", ") }
