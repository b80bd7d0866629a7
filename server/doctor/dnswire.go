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

	"golang.org/x/net/dns/dnsmessage"
)

// A server of a zone is asked directly: the resolver of the standard library does
// not show the time to live and the aliases of an answer.

// rcodeWord says why an answer holds nothing.
func rcodeWord(c dnsmessage.RCode) string {
	switch c {
	case dnsmessage.RCodeSuccess:
		return "no such record"
	case dnsmessage.RCodeServerFailure:
		return "the server fails at it (SERVFAIL)"
	case dnsmessage.RCodeNameError:
		return "no such name (NXDOMAIN)"
	case dnsmessage.RCodeRefused:
		return "the server refuses to answer (REFUSED)"
	}
	return fmt.Sprintf("response code %d", c)
}

// A record is one of an answer. Names are lower case without the last dot.
type record struct {
	Name   string
	Type   dnsmessage.Type
	TTL    uint32
	Addr   netip.Addr // A, AAAA
	Target string     // NS, CNAME, PTR
}

// A dnsAnswer is what one server said to one question.
type dnsAnswer struct {
	RCode     dnsmessage.RCode
	Truncated bool // the records are left out
	Answer    []record
}

var errDNS = errors.New("the answer is not DNS")

func question(id uint16, name string, t dnsmessage.Type) ([]byte, error) {
	n, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil || len(n.String()) == 1 {
		return nil, fmt.Errorf("%q is not a DNS name", name)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: n, Type: t, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("%q is not a DNS name: %w", name, err)
	}
	return b, nil
}

func plainName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

// parseDNS reads the answer to question id.
func parseDNS(b []byte, id uint16, name string, t dnsmessage.Type) (dnsAnswer, error) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.ID != id || !h.Response {
		return dnsAnswer{}, errDNS
	}
	asked, err := p.AllQuestions()
	if err != nil {
		return dnsAnswer{}, errDNS
	}
	for _, q := range asked {
		if plainName(q.Name.String()) != plainName(name) || q.Type != t {
			return dnsAnswer{}, errDNS
		}
	}
	a := dnsAnswer{RCode: h.RCode, Truncated: h.Truncated}
	if a.Truncated {
		return a, nil
	}
	all, err := p.AllAnswers()
	if err != nil {
		return dnsAnswer{}, errDNS
	}
	for _, res := range all {
		r := record{Name: plainName(res.Header.Name.String()), Type: res.Header.Type, TTL: res.Header.TTL}
		switch body := res.Body.(type) {
		case *dnsmessage.AResource:
			r.Addr = netip.AddrFrom4(body.A)
		case *dnsmessage.AAAAResource:
			r.Addr = netip.AddrFrom16(body.AAAA)
		case *dnsmessage.NSResource:
			r.Target = plainName(body.NS.String())
		case *dnsmessage.CNAMEResource:
			r.Target = plainName(body.CNAME.String())
		case *dnsmessage.PTRResource:
			r.Target = plainName(body.PTR.String())
		}
		a.Answer = append(a.Answer, r)
	}
	return a, nil
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
func askDNS(ctx context.Context, server netip.AddrPort, name string, t dnsmessage.Type) (dnsAnswer, error) {
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

func exchangeUDP(ctx context.Context, server netip.AddrPort, q []byte, id uint16, name string, t dnsmessage.Type) (dnsAnswer, error) {
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

func exchangeTCP(ctx context.Context, server netip.AddrPort, q []byte, id uint16, name string, t dnsmessage.Type) (dnsAnswer, error) {
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
func askAny(ctx context.Context, servers []netip.AddrPort, name string, t dnsmessage.Type) (dnsAnswer, netip.AddrPort, error) {
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
	end = plainName(name)
	ttl = ^uint32(0)
	for range 10 {
		moved := false
		for _, r := range a.Answer {
			if r.Name != end {
				continue
			}
			switch r.Type {
			case dnsmessage.TypeA, dnsmessage.TypeAAAA:
				addrs = append(addrs, r.Addr.Unmap())
				ttl = min(ttl, r.TTL)
			case dnsmessage.TypeCNAME:
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
