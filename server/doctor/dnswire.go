package doctor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// What of DNS is needed to ask one server one question and to see the time to
// live, the authority and the aliases of its answer, which the resolver of the
// standard library does not show (RFC 1035).

type dnsType uint16

const (
	typeA     dnsType = 1
	typeNS    dnsType = 2
	typeCNAME dnsType = 5
	typeSOA   dnsType = 6
	typePTR   dnsType = 12
	typeAAAA  dnsType = 28
)

const (
	rcodeSuccess  = 0
	rcodeServFail = 2
	rcodeNXDomain = 3
	rcodeRefused  = 5
)

func rcodeWord(c int) string {
	switch c {
	case rcodeSuccess:
		return "no such record"
	case rcodeServFail:
		return "the server fails at it (SERVFAIL)"
	case rcodeNXDomain:
		return "no such name (NXDOMAIN)"
	case rcodeRefused:
		return "the server refuses to answer (REFUSED)"
	}
	return fmt.Sprintf("response code %d", c)
}

// A record is one of an answer. Names are lower case without the last dot.
type record struct {
	Name   string
	Type   dnsType
	TTL    uint32
	Addr   netip.Addr // A, AAAA
	Target string     // NS, CNAME, PTR
}

// A dnsAnswer is what one server said to one question.
type dnsAnswer struct {
	RCode         int
	Authoritative bool
	Truncated     bool
	Answer        []record
	Authority     []record
}

var errDNS = errors.New("the answer is not DNS")

func question(id uint16, name string, t dnsType) ([]byte, error) {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return nil, fmt.Errorf("%q is not a DNS name", name)
		}
		b = append(append(b, byte(len(label))), label...)
	}
	if len(b)-12 > 254 {
		return nil, fmt.Errorf("%q is too long for a DNS name", name)
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(t))
	return binary.BigEndian.AppendUint16(b, 1), nil
}

// readName reads a name at off and says where the reading goes on. Pointers
// only lead backwards, so that it ends.
func readName(b []byte, off int) (string, int, error) {
	var labels []string
	next, length := -1, 0
	for limit := off; ; {
		if off >= len(b) {
			return "", 0, errDNS
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
				return "", 0, errDNS
			}
			to := (n&0x3f)<<8 | int(b[off+1])
			if to >= limit {
				return "", 0, errDNS
			}
			if next < 0 {
				next = off + 2
			}
			off, limit = to, to
		case n > 63 || off+1+n > len(b):
			return "", 0, errDNS
		default:
			if length += n + 1; length > 255 {
				return "", 0, errDNS
			}
			labels = append(labels, string(b[off+1:off+1+n]))
			off += 1 + n
		}
	}
}

// parseDNS reads the answer to question id.
func parseDNS(b []byte, id uint16, name string, t dnsType) (dnsAnswer, error) {
	var a dnsAnswer
	if len(b) < 12 || binary.BigEndian.Uint16(b) != id || b[2]&0x80 == 0 {
		return a, errDNS
	}
	a.Authoritative, a.Truncated, a.RCode = b[2]&4 != 0, b[2]&2 != 0, int(b[3]&15)
	questions, off := int(binary.BigEndian.Uint16(b[4:])), 12
	for range questions {
		asked, next, err := readName(b, off)
		if err != nil || next+4 > len(b) {
			return a, errDNS
		}
		if asked != strings.ToLower(strings.TrimSuffix(name, ".")) || dnsType(binary.BigEndian.Uint16(b[next:])) != t {
			return a, errDNS
		}
		off = next + 4
	}
	for i, list := range []*[]record{&a.Answer, &a.Authority} {
		for range int(binary.BigEndian.Uint16(b[6+2*i:])) {
			r, next, err := readRecord(b, off)
			if err != nil {
				if a.Truncated {
					return a, nil
				}
				return a, err
			}
			*list, off = append(*list, r), next
		}
	}
	return a, nil
}

func readRecord(b []byte, off int) (record, int, error) {
	name, off, err := readName(b, off)
	if err != nil || off+10 > len(b) {
		return record{}, 0, errDNS
	}
	r := record{Name: name, Type: dnsType(binary.BigEndian.Uint16(b[off:])), TTL: binary.BigEndian.Uint32(b[off+4:])}
	data, size := off+10, int(binary.BigEndian.Uint16(b[off+8:]))
	if data+size > len(b) {
		return record{}, 0, errDNS
	}
	switch r.Type {
	case typeA, typeAAAA:
		var ok bool
		if r.Addr, ok = netip.AddrFromSlice(b[data : data+size]); !ok || r.Addr.Is4() != (r.Type == typeA) {
			return record{}, 0, errDNS
		}
	case typeNS, typeCNAME, typePTR:
		if r.Target, _, err = readName(b, data); err != nil {
			return record{}, 0, err
		}
	}
	return r, data + size, nil
}

// A noAnswer says that a server did not answer at all.
type noAnswer struct {
	server netip.AddrPort
	err    error
}

func (e *noAnswer) Error() string {
	if ne := net.Error(nil); errors.As(e.err, &ne) && ne.Timeout() {
		return fmt.Sprintf("%s does not answer", e.server)
	}
	return fmt.Sprintf("%s: %v", e.server, short(e.err))
}

func (e *noAnswer) Unwrap() error { return e.err }

// askDNS asks one server, over UDP twice and over TCP when the answer is cut.
func askDNS(ctx context.Context, server netip.AddrPort, name string, t dnsType) (dnsAnswer, error) {
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	n := binary.BigEndian.Uint16(id[:])
	q, err := question(n, name, t)
	if err != nil {
		return dnsAnswer{}, err
	}
	var last error
	for range 2 {
		a, err := exchangeUDP(ctx, server, q, n, name, t)
		if err == nil && a.Truncated {
			return exchangeTCP(ctx, server, q, n, name, t)
		}
		if err == nil {
			return a, nil
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return dnsAnswer{}, &noAnswer{server, last}
}

const dnsPatience = 1500 * time.Millisecond

func exchangeUDP(ctx context.Context, server netip.AddrPort, q []byte, id uint16, name string, t dnsType) (dnsAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsPatience)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "udp", server.String())
	if err != nil {
		return dnsAnswer{}, err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	if _, err := c.Write(q); err != nil {
		return dnsAnswer{}, err
	}
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		if err != nil {
			return dnsAnswer{}, err
		}
		if a, err := parseDNS(b[:n], id, name, t); err == nil {
			return a, nil // anything else is not the answer to our question: wait on
		}
	}
}

func exchangeTCP(ctx context.Context, server netip.AddrPort, q []byte, id uint16, name string, t dnsType) (dnsAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dnsPatience)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", server.String())
	if err != nil {
		return dnsAnswer{}, &noAnswer{server, err}
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)); err != nil {
		return dnsAnswer{}, &noAnswer{server, err}
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return dnsAnswer{}, &noAnswer{server, err}
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return dnsAnswer{}, &noAnswer{server, err}
	}
	return parseDNS(b, id, name, t)
}

// askAny asks servers in turn until one answers.
func askAny(ctx context.Context, servers []netip.AddrPort, name string, t dnsType) (dnsAnswer, netip.AddrPort, error) {
	err := errors.New("no DNS server is known")
	for _, s := range servers {
		var a dnsAnswer
		if a, err = askDNS(ctx, s, name, t); err == nil {
			return a, s, nil
		}
	}
	return dnsAnswer{}, netip.AddrPort{}, err
}

// resolversOf are the servers given, or those of /etc/resolv.conf.
func resolversOf(given []netip.AddrPort) ([]netip.AddrPort, error) {
	if len(given) > 0 {
		return given, nil
	}
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("/etc/resolv.conf names no server")
	}
	return out[:min(len(out), 3)], nil
}

// addressesIn follows aliases inside one answer: the addresses name leads to,
// the aliases on the way, the smallest time to live, and where the road ends
// when it leaves the answer.
func addressesIn(a dnsAnswer, name string) (addrs []netip.Addr, aliases []string, ttl uint32, end string) {
	end = strings.ToLower(strings.TrimSuffix(name, "."))
	ttl = ^uint32(0)
	for range 10 {
		moved := false
		for _, r := range a.Answer {
			if r.Name != end {
				continue
			}
			switch r.Type {
			case typeA, typeAAAA:
				addrs = append(addrs, r.Addr.Unmap())
				ttl = min(ttl, r.TTL)
			case typeCNAME:
				if !moved {
					end, moved = r.Target, true
					aliases = append(aliases, r.Target)
					ttl = min(ttl, r.TTL)
				}
			}
		}
		if !moved || len(addrs) > 0 {
			break
		}
	}
	if ttl == ^uint32(0) {
		ttl = 0
	}
	return addrs, aliases, ttl, end
}
