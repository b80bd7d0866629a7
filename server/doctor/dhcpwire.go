package doctor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// DHCP options that matter to firmware, and those of the exchange (RFC 2132,
// 4702, 3397).
const (
	optionMask       = 1
	optionRouter     = 3
	optionDNS        = 6
	optionDomain     = 15
	optionAddress    = 50
	optionType       = 53
	optionServer     = 54
	optionParameters = 55
	optionClientID   = 61
	optionFQDN       = 81
	optionSearch     = 119
)

// DHCP message types.
const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
	dhcpNak      = 6
	dhcpInform   = 8
)

const dhcpCookie = 0x63825363

// An option as it stood in the message; one code may come more than once.
type dhcpOption struct {
	Code byte
	Data []byte
}

// A dhcpMessage is BOOTP with options (RFC 2131).
type dhcpMessage struct {
	Reply     bool
	ID        uint32
	Broadcast bool
	Client    netip.Addr // ciaddr: the address that the client has
	Your      netip.Addr // yiaddr: the address that it may have
	Hardware  net.HardwareAddr
	Options   []dhcpOption
}

func (m dhcpMessage) get(code byte) (first []byte, times int) {
	for _, o := range m.Options {
		if o.Code == code {
			if times == 0 {
				first = o.Data
			}
			times++
		}
	}
	return first, times
}

func (m dhcpMessage) kind() byte {
	if d, _ := m.get(optionType); len(d) == 1 {
		return d[0]
	}
	return 0
}

func (m dhcpMessage) addr(code byte) netip.Addr {
	d, _ := m.get(code)
	if len(d) < 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(d[:4]))
}

func (m dhcpMessage) encode() []byte {
	b := make([]byte, 240, 320)
	b[0], b[1], b[2] = 1, 1, 6
	if m.Reply {
		b[0] = 2
	}
	binary.BigEndian.PutUint32(b[4:], m.ID)
	if m.Broadcast {
		b[10] = 0x80
	}
	if m.Client.Is4() {
		copy(b[12:], m.Client.AsSlice())
	}
	if m.Your.Is4() {
		copy(b[16:], m.Your.AsSlice())
	}
	copy(b[28:44], m.Hardware)
	binary.BigEndian.PutUint32(b[236:], dhcpCookie)
	for _, o := range m.Options {
		b = append(append(b, o.Code, byte(len(o.Data))), o.Data...)
	}
	b = append(b, 255)
	for len(b) < 300 { // some relays drop what is shorter than BOOTP was
		b = append(b, 0)
	}
	return b
}

func parseDHCP(b []byte) (dhcpMessage, error) {
	if len(b) < 240 || binary.BigEndian.Uint32(b[236:]) != dhcpCookie || b[2] > 16 {
		return dhcpMessage{}, errors.New("not a DHCP message")
	}
	m := dhcpMessage{
		Reply: b[0] == 2, ID: binary.BigEndian.Uint32(b[4:]), Broadcast: b[10]&0x80 != 0,
		Client: netip.AddrFrom4([4]byte(b[12:16])), Your: netip.AddrFrom4([4]byte(b[16:20])), Hardware: slices.Clone(b[28 : 28+int(b[2])]),
	}
	overload := byte(0)
	read := func(area []byte) {
		for len(area) > 0 {
			code := area[0]
			if code == 255 {
				return
			}
			if code == 0 {
				area = area[1:]
				continue
			}
			if len(area) < 2 || len(area) < 2+int(area[1]) {
				return // cut: what came before stands
			}
			data := slices.Clone(area[2 : 2+int(area[1])])
			if code == 52 && len(data) == 1 {
				overload = data[0]
			}
			m.Options = append(m.Options, dhcpOption{code, data})
			area = area[2+int(area[1]):]
		}
	}
	read(b[240:])
	if overload&1 != 0 {
		read(b[108:236])
	}
	if overload&2 != 0 {
		read(b[44:108])
	}
	return m, nil
}

// An offer is what one DHCP server tells.
type offer struct {
	Server  netip.Addr
	DNS     []netip.Addr // option 6
	Domains [][]byte     // option 15, each time it came
	Search  []string     // option 119
	FQDN    bool         // option 81 came
}

func offerOf(m dhcpMessage, from netip.Addr) offer {
	o := offer{Server: m.addr(optionServer)}
	if !o.Server.IsValid() {
		o.Server = from
	}
	for _, opt := range m.Options {
		switch opt.Code {
		case optionDNS:
			for d := opt.Data; len(d) >= 4; d = d[4:] {
				o.DNS = append(o.DNS, netip.AddrFrom4([4]byte(d[:4])))
			}
		case optionDomain:
			o.Domains = append(o.Domains, opt.Data)
		case optionFQDN:
			o.FQDN = true
		case optionSearch:
			for off := 0; off < len(opt.Data); {
				name, next, err := readName(opt.Data, off)
				if err != nil || next <= off {
					break
				}
				o.Search, off = append(o.Search, name), next
			}
		}
	}
	return o
}

var errDHCPName = errors.New("option 119 holds no DNS name")

// readName reads a name of option 119 at off and says where the reading goes on. Pointers
// only lead backwards, so that it ends.
func readName(b []byte, off int) (string, int, error) {
	var labels []string
	next, length := -1, 0
	for limit := off; ; {
		if off >= len(b) {
			return "", 0, errDHCPName
		}
		n := int(b[off])
		switch {
		case n == 0:
			if next < 0 {
				next = off + 1
			}
			return strings.ToLower(strings.Join(labels, ".")), next, nil
		case n&0xc0 == 0xc0:
			if off+1 >= len(b) {
				return "", 0, errDHCPName
			}
			to := (n&0x3f)<<8 | int(b[off+1])
			if to >= limit {
				return "", 0, errDHCPName
			}
			if next < 0 {
				next = off + 2
			}
			off, limit = to, to
		case n > 63 || off+1+n > len(b):
			return "", 0, errDHCPName
		default:
			if length += n + 1; length > 255 {
				return "", 0, errDHCPName
			}
			labels = append(labels, string(b[off+1:off+1+n]))
			off += 1 + n
		}
	}
}

const (
	dhcpPatience = 4 * time.Second
	dhcpMore     = 700 * time.Millisecond // after the first answer, for a second server
)

// inform asks every DHCP server on an interface what it tells a machine that has
// an address already: DHCPINFORM reserves nothing, a DISCOVER would.
func inform(ctx context.Context, iface string) ([]offer, error) {
	nic, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, err
	}
	addr, err := firstIPv4(nic)
	if err != nil {
		return nil, err
	}
	hw := nic.HardwareAddr
	if len(hw) != 6 {
		return nil, fmt.Errorf("%s is no Ethernet", iface)
	}
	c, err := listenDHCP(ctx, iface)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	m := dhcpMessage{ID: binary.BigEndian.Uint32(id[:]), Client: addr, Hardware: hw, Options: []dhcpOption{
		{optionType, []byte{dhcpInform}}, {optionClientID, append([]byte{1}, hw...)},
		{optionParameters, []byte{optionMask, optionRouter, optionDNS, optionDomain, optionFQDN, optionSearch}},
	}}
	found, err := gather(ctx, c, m)
	slices.SortFunc(found, func(a, b offer) int { return a.Server.Compare(b.Server) })
	return found, err
}

// gather sends m until an answer comes, then waits a little for others.
func gather(ctx context.Context, c net.PacketConn, m dhcpMessage) ([]offer, error) {
	end := time.Now().Add(dhcpPatience)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	var out []offer
	b := make([]byte, 4096)
	for again := time.Now(); ; {
		now := time.Now()
		if len(out) == 0 && !now.Before(again) {
			if _, err := c.WriteTo(m.encode(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
				return nil, err
			}
			again = now.Add(time.Second)
		}
		until := end
		if len(out) == 0 && again.Before(end) {
			until = again
		}
		if !now.Before(end) {
			return out, nil
		}
		_ = c.SetReadDeadline(until)
		n, from, err := c.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return out, err
		}
		reply, err := parseDHCP(b[:n])
		if err != nil || !reply.Reply || reply.ID != m.ID || reply.kind() != dhcpAck {
			continue
		}
		var source netip.Addr
		if u, ok := from.(*net.UDPAddr); ok {
			source = u.AddrPort().Addr().Unmap()
		}
		o := offerOf(reply, source)
		if slices.ContainsFunc(out, func(have offer) bool { return have.Server == o.Server }) {
			continue
		}
		if out = append(out, o); len(out) == 1 {
			if soon := time.Now().Add(dhcpMore); soon.Before(end) {
				end = soon
			}
		}
	}
}

var errNoIPv4 = errors.New("it has no IPv4 address")

func firstIPv4(nic *net.Interface) (netip.Addr, error) {
	list, err := nic.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap().Is4() {
			return p.Addr().Unmap(), nil
		}
	}
	return netip.Addr{}, errNoIPv4
}

// asciiLower leaves every byte that is no letter of ASCII as it is.
func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// A domainReading is option 15 as firmware gets it, and what is odd about it.
type domainReading struct {
	Suffix   string   // the one domain that was meant, lower case, no last dot; "" none
	Odd      []string // worth a warning
	Unusable string   // why firmware cannot use it, "" it can
}

// readDomain reads option 15. Firmware takes the bytes as they are.
func readDomain(times [][]byte) domainReading {
	var r domainReading
	if len(times) == 0 {
		r.Unusable = "option 15 is missing"
		return r
	}
	raw := string(times[0])
	if len(times) > 1 {
		var all []string
		for _, t := range times {
			all = append(all, fmt.Sprintf("%q", t))
		}
		r.Unusable = fmt.Sprintf("option 15 comes %d times (%s); RFC 3396 joins the pieces into one name", len(times),
			strings.Join(all, ", "))
	}
	text := raw
	if trimmed := strings.TrimRight(text, "\x00"); trimmed != text {
		r.Odd = append(r.Odd, "it ends in a NUL byte")
		text = trimmed
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		r.Unusable = fmt.Sprintf("there is a NUL byte inside %q", raw)
		text = text[:i]
	}
	if trimmed := strings.TrimSpace(text); trimmed != text {
		r.Odd = append(r.Odd, "there is white space around it")
		text = trimmed
	}
	if parts := strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == ',' || c == ';' || c == '\t' }); len(parts) > 1 {
		r.Unusable = fmt.Sprintf("%q is several domains in one string; firmware compares the whole string, so none of them counts", raw)
		text = parts[0]
	}
	if trimmed := strings.TrimRight(text, "."); trimmed != text {
		r.Odd = append(r.Odd, "it ends in a dot, which the certificate's name does not")
		text = trimmed
	}
	if lower := asciiLower(text); lower != text {
		r.Odd = append(r.Odd, "it has capital letters; Intel's rule says that case does not matter, lower case is safer")
		text = lower
	}
	if text == "" && r.Unusable == "" {
		r.Unusable = "option 15 is empty"
	}
	for label := range strings.SplitSeq(text, ".") {
		if text == "" {
			break
		}
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			if r.Unusable == "" {
				r.Unusable = fmt.Sprintf("%q is not a domain name", raw)
			}
			text = ""
			break
		}
		if strings.Contains(label, "_") {
			r.Odd = append(r.Odd, "an underscore is not allowed in a host's domain")
		}
	}
	r.Suffix = text
	return r
}
