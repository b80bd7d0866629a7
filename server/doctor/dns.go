package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sync/errgroup"
)

// firmwareName is the host name firmware looks for (amt/protocol.md 1.1).
const firmwareName = "provisionserver"

const (
	manyServers = 6  // of one zone that are asked
	manyZones   = 32 // that are asked at a time
	longTTL     = 24 * time.Hour
)

// zones looks for provisionserver in every zone.
func (v *visit) zones(ctx context.Context) []Check {
	if len(v.c.Zones) == 0 {
		return one("dns", Warn, "zones: [corp.example.com]", "no zone is configured, so it cannot be seen whether devices find this server")
	}
	out := make([]Check, len(v.c.Zones))
	var g errgroup.Group
	g.SetLimit(manyZones)
	for i, z := range v.c.Zones {
		zone := strings.ToLower(strings.TrimSuffix(z, "."))
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, 14*time.Second)
			defer cancel()
			out[i] = guarded(ctx, "dns:"+zone, func(ctx context.Context) []Check { return []Check{v.zone(ctx, zone)} })[0]
			v.measure(func(m *Measures) { m.Zones[zone] = out[i].Status != Fail })
			return nil
		})
	}
	_ = g.Wait()
	return out
}

// A sighting is what one server says of provisionserver.<zone>.
type sighting struct {
	who     string
	addrs   []netip.Addr
	aliases []string
	ttl     uint32
	rcode   dnsmessage.RCode
	err     error
}

func (s sighting) String() string {
	switch {
	case s.err != nil:
		return fmt.Sprintf("%s: %v", s.who, s.err)
	case len(s.addrs) == 0 && len(s.aliases) == 0:
		return fmt.Sprintf("%s: %s", s.who, rcodeWord(s.rcode))
	}
	said := s.who + ": "
	if len(s.aliases) > 0 {
		said += "CNAME " + strings.Join(s.aliases, ", CNAME ") + ", "
	}
	if len(s.addrs) == 0 {
		return said + "which leads to no address"
	}
	return fmt.Sprintf("%s%s, TTL %d s", said, words(s.addrs), s.ttl)
}

func words(addrs []netip.Addr) string {
	var out []string
	for _, a := range addrs {
		kind := "A "
		if a.Is6() {
			kind = "AAAA "
		}
		out = append(out, kind+a.String())
	}
	return strings.Join(out, ", ")
}

// zone asks each of the zone's own servers, and the resolver of this machine.
func (v *visit) zone(ctx context.Context, zone string) Check {
	check := Check{Name: "dns:" + zone, Status: Pass}
	name := firmwareName + "." + zone
	resolvers, err := v.resolvers()
	if err != nil {
		check.Status, check.Detail, check.Hint = Fail, fmt.Sprintf("no resolver is known: %v", err),
			"name one in /etc/resolv.conf, or in doctor.resolvers"
		return check
	}
	own, servers, err := zoneServers(ctx, resolvers, zone)
	var silent *noAnswer
	if errors.As(err, &silent) {
		check.Status, check.Detail, check.Hint = Fail, fmt.Sprintf("who serves %s cannot be asked: %v", zone, err),
			"is the DNS server up, and UDP and TCP 53 open from here to it?"
		return check
	}
	resolver := v.see(ctx, "this machine's resolver", resolvers, resolvers, name)
	seen := make([]sighting, len(servers))
	var g errgroup.Group
	for i, s := range servers {
		g.Go(func() error { seen[i] = v.see(ctx, s.String(), []netip.AddrPort{s.addr}, resolvers, name); return nil })
	}
	_ = g.Wait()

	var lines []string
	if err != nil {
		lines = append(lines, err.Error()+"; only the resolver could be asked")
		seen = []sighting{resolver}
	} else if own != zone {
		lines = append(lines, fmt.Sprintf("%s is part of the zone %s", zone, own))
	}
	for _, s := range seen {
		lines = append(lines, s.String())
	}
	v.judgeZone(&check, zone, seen, resolver, err == nil)
	if err == nil && !sameAddrs(resolver.addrs, merged(seen)) {
		lines = append(lines, resolver.String())
	}
	check.Detail = strings.Join(append([]string{check.Detail}, lines...), "\n")
	return check
}

// judgeZone sets status, the first line of the detail, and the hint.
func (v *visit) judgeZone(check *Check, zone string, seen []sighting, resolver sighting, asked bool) {
	name := firmwareName + "." + zone
	var answered, found, lost, errors []string
	var foreign []netip.Addr
	var mine, alias, long bool
	for _, s := range seen {
		switch {
		case s.err != nil:
			errors = append(errors, s.who)
			continue
		case len(s.addrs) == 0:
			lost = append(lost, s.who)
		default:
			found = append(found, s.who)
		}
		answered = append(answered, s.who)
		alias = alias || len(s.aliases) > 0
		long = long || time.Duration(s.ttl)*time.Second > longTTL
		for _, a := range s.addrs {
			if v.isOurs(a) {
				mine = true
			} else if !slices.Contains(foreign, a) {
				foreign = append(foreign, a)
			}
		}
	}
	add := "\nadd the record:" + recordText(zone, v.announced())
	switch {
	case len(answered) == 0:
		check.Status, check.Detail = Fail, fmt.Sprintf("no server of %s answers", zone)
		check.Hint = "is the DNS server up, and UDP and TCP 53 open from here to it?"
	case len(found) == 0 && alias:
		check.Status, check.Detail = Fail, name+" is an alias that leads nowhere"
		check.Hint = "let the alias point at a name with an address, or better" + add
	case len(found) == 0:
		check.Status, check.Detail = Fail, "there is no "+name+", so devices of this zone cannot find the server"
		check.Hint = strings.TrimPrefix(add, "\n")
	case !mine:
		check.Status, check.Detail = Fail, fmt.Sprintf("%s leads to %s, which is not this server", name, addresses(foreign))
		check.Hint = fmt.Sprintf("ours: %s. If devices do reach us there (a balancer, NAT, another node), name it in doctor.addresses; "+
			"else replace the record:%s", addresses(v.announced()), recordText(zone, v.announced()))
	case len(foreign) > 0:
		check.Status, check.Detail = Warn, fmt.Sprintf("%s leads to us, and also to %s, which is not this server; firmware may try the "+
			"first address only", name, addresses(foreign))
		check.Hint = "take the other address out, or name it in doctor.addresses if another node is there"
	case len(lost) > 0:
		check.Status, check.Detail = Warn, fmt.Sprintf("%s is right on %s and missing on %s", name, strings.Join(found, ", "),
			strings.Join(lost, ", "))
		check.Hint = "has the zone been transferred to every server? Compare the serial numbers of its SOA"
	default:
		check.Detail = name + " leads to us"
	}
	if check.Status == Fail {
		return
	}
	warn := func(detail, hint string) {
		check.Status = worse(check.Status, Warn)
		check.Detail += "; " + detail
		if check.Hint != "" {
			check.Hint += "\n"
		}
		check.Hint += hint
	}
	if alias {
		warn("by an alias (CNAME), which not every firmware follows", "an address record is safer:"+recordText(zone, v.announced()))
	}
	if len(errors) > 0 {
		warn("no answer from "+strings.Join(errors, ", "), "devices that ask this server wait in vain: is it up, and UDP and TCP 53 open?")
	}
	if asked && resolver.err == nil && !sameAddrs(resolver.addrs, merged(seen)) {
		warn("this machine's resolver answers differently (split horizon, or an old answer still kept)",
			"firmware uses the servers of DHCP option 6: the name has to be right in the view that these serve")
	}
	if long {
		warn("the answer may be kept for more than a day", "a TTL of 300 s makes moving the server easy")
	}
}

// see asks servers for both kinds of address. An alias that leads out of their
// answer is followed with the resolvers.
func (v *visit) see(ctx context.Context, who string, servers, resolvers []netip.AddrPort, name string) sighting {
	s := sighting{who: who}
	for _, t := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		a, _, err := askAny(ctx, servers, name, t)
		if err != nil {
			s.err = err
			return s
		}
		addrs, aliases, ttl, end := addressesIn(a, name)
		if len(addrs) == 0 && len(aliases) > 0 {
			if b, _, err := askAny(ctx, resolvers, end, t); err == nil {
				more, further, _, _ := addressesIn(b, end)
				addrs, aliases = more, append(aliases, further...)
			}
		}
		if len(addrs) > 0 && (s.ttl == 0 || ttl < s.ttl) || len(s.addrs) == 0 {
			s.ttl = ttl
		}
		if len(s.aliases) < len(aliases) {
			s.aliases = aliases
		}
		s.addrs = append(s.addrs, addrs...)
		if t == dnsmessage.TypeA || a.RCode != dnsmessage.RCodeSuccess {
			s.rcode = a.RCode
		}
		if len(s.addrs) == 0 && a.RCode != dnsmessage.RCodeSuccess && a.RCode != dnsmessage.RCodeNameError {
			s.err = errors.New(rcodeWord(a.RCode)) // it knows nothing of the zone, which is not the same as no such name
			return s
		}
	}
	return s
}

// A nameServer is one address of one server of a zone.
type nameServer struct {
	name string
	addr netip.AddrPort
}

func (n nameServer) String() string { return fmt.Sprintf("%s (%s)", n.name, n.addr.Addr()) }

// zoneServers finds the zone that holds name, which may be name itself or above
// it, and that zone's own servers. The error is a *noAnswer when nobody could be
// asked, else says that no servers are known.
func zoneServers(ctx context.Context, resolvers []netip.AddrPort, name string) (zone string, out []nameServer, err error) {
	for zone = name; ; {
		a, _, err := askAny(ctx, resolvers, zone, dnsmessage.TypeNS)
		if err != nil {
			return "", nil, err
		}
		for _, r := range a.Answer {
			if r.Type != dnsmessage.TypeNS || r.Name != zone || len(out) >= manyServers {
				continue
			}
			for _, t := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
				b, _, err := askAny(ctx, resolvers, r.Target, t)
				if err != nil {
					break
				}
				addrs, _, _, _ := addressesIn(b, r.Target)
				for _, addr := range addrs {
					out = append(out, nameServer{r.Target, netip.AddrPortFrom(addr, 53)})
				}
			}
		}
		if len(out) > 0 {
			return zone, out[:min(len(out), manyServers)], nil
		}
		_, above, more := strings.Cut(zone, ".")
		if !more || !strings.Contains(above, ".") {
			return "", nil, fmt.Errorf("the resolver knows no server for %s", name)
		}
		zone = above
	}
}

func merged(seen []sighting) []netip.Addr {
	var out []netip.Addr
	for _, s := range seen {
		out = append(out, s.addrs...)
	}
	return out
}

func sameAddrs(a, b []netip.Addr) bool {
	norm := func(l []netip.Addr) []netip.Addr {
		l = slices.Clone(l)
		slices.SortFunc(l, netip.Addr.Compare)
		return slices.Compact(l)
	}
	return slices.Equal(norm(a), norm(b))
}

func addresses(l []netip.Addr) string {
	var out []string
	for _, a := range l {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// reverse looks up the names of our own addresses. Firmware does not need them;
// people who read logs do, and a name that leads elsewhere is a sign of an old
// record.
func (v *visit) reverse(ctx context.Context) []Check {
	const name = "reverse"
	resolvers, err := v.resolvers()
	if err != nil {
		return one(name, Warn, "name a resolver in /etc/resolv.conf, or in doctor.resolvers", "no resolver is known: %v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	addrs := slices.DeleteFunc(slices.Clone(v.announced()), func(a netip.Addr) bool { return a.IsLoopback() })
	addrs = addrs[:min(len(addrs), 8)]
	lines, status := make([]string, len(addrs)), make([]Status, len(addrs))
	var g errgroup.Group
	for i, a := range addrs {
		g.Go(func() error { lines[i], status[i] = reverseOf(ctx, resolvers, a); return nil })
	}
	_ = g.Wait()
	worst := Pass
	for _, s := range status {
		worst = worse(worst, s)
	}
	hint := ""
	if worst != Pass {
		hint = "firmware does not ask for reverse names, but an address whose name leads elsewhere is often an old record: correct the " +
			"PTR record"
	}
	if len(lines) == 0 {
		return one(name, Skip, "", "no address of ours is reachable from outside, so there is no name to look up")
	}
	return one(name, worst, hint, "%s", strings.Join(lines, "\n"))
}

func reverseOf(ctx context.Context, resolvers []netip.AddrPort, a netip.Addr) (string, Status) {
	answer, _, err := askAny(ctx, resolvers, arpa(a), dnsmessage.TypePTR)
	if err != nil {
		return fmt.Sprintf("%s: %v", a, err), Warn
	}
	var names []string
	for _, r := range answer.Answer {
		if r.Type == dnsmessage.TypePTR {
			names = append(names, r.Target)
		}
	}
	if len(names) == 0 {
		return fmt.Sprintf("%s has no reverse name; firmware does not need one", a), Pass
	}
	t := dnsmessage.TypeA
	if a.Is6() {
		t = dnsmessage.TypeAAAA
	}
	for _, n := range names {
		if b, _, err := askAny(ctx, resolvers, n, t); err == nil {
			if addrs, _, _, _ := addressesIn(b, n); slices.Contains(addrs, a) {
				return fmt.Sprintf("%s is %s, which leads back to it", a, n), Pass
			}
		}
	}
	return fmt.Sprintf("%s is %s, which does not lead back to it", a, strings.Join(names, ", ")), Warn
}

// arpa is the name under which an address's names stand (RFC 1035 3.5, RFC 3596 2.5).
func arpa(a netip.Addr) string {
	b := a.AsSlice()
	var out strings.Builder
	for _, v := range slices.Backward(b) {
		if a.Is4() {
			fmt.Fprintf(&out, "%d.", v)
		} else {
			fmt.Fprintf(&out, "%x.%x.", v&15, v>>4)
		}
	}
	if a.Is4() {
		return out.String() + "in-addr.arpa"
	}
	return out.String() + "ip6.arpa"
}
