package hello

import (
	"net/netip"
	"sync"
	"time"
)

// maxRemembered bounds each generation of each table of buckets: some 5 MiB a
// table when an attacker fills it.
const maxRemembered = 1 << 16

// buckets is a token bucket for each key, which holds a minute's worth and fills
// evenly. A bucket is one number: the time at which it is full again (the
// "generic cell rate algorithm"), so one that is not there is a full one.
//
// Memory is bounded by two generations: what was not touched for a minute is
// full and may be forgotten; when a generation is full before the minute is
// over, the keys least lately seen are forgotten early, in their favour.
type buckets struct {
	cost     time.Duration // of one token; 0: no limit
	burst    time.Duration
	most     int // keys in a generation
	cur, old map[netip.Addr]time.Duration
	turned   time.Duration
}

// newBuckets allows n in each period; 0 switches the limit off.
func newBuckets(n int, period time.Duration, most int) *buckets {
	if n <= 0 {
		return &buckets{}
	}
	return &buckets{
		cost: max(period/time.Duration(n), 1), burst: period, most: most,
		cur: make(map[netip.Addr]time.Duration), old: make(map[netip.Addr]time.Duration),
	}
}

// take takes a token of key's bucket at now, which is the time since the server
// was made, and reports whether there was one.
func (b *buckets) take(key netip.Addr, now time.Duration) bool {
	if b.cost == 0 {
		return true
	}
	if len(b.cur) >= b.most || now-b.turned > b.burst {
		b.cur, b.old, b.turned = b.old, b.cur, now
		clear(b.cur)
	}
	full, ok := b.cur[key]
	if !ok {
		full = b.old[key]
	}
	full = max(full, now)
	allowed := full+b.cost-now <= b.burst
	if allowed {
		full += b.cost
	}
	b.cur[key] = full
	return allowed
}

// has reports whether there is a token, and takes none.
func (b *buckets) has(key netip.Addr, now time.Duration) bool {
	full, ok := b.cur[key]
	if !ok {
		full = b.old[key]
	}
	return b.cost == 0 || max(full, now)+b.cost-now <= b.burst
}

// giveBack returns a token.
func (b *buckets) giveBack(key netip.Addr) {
	if full, ok := b.cur[key]; ok {
		b.cur[key] = full - b.cost
	}
}

// limiter holds the rate limits of one kind of peer: of strangers, who are counted
// by their connections, or of authenticated ones, who are counted by their hellos.
// What strangers say costs the others nothing.
type limiter struct {
	mu      sync.Mutex
	source  *buckets
	network *buckets
	total   *buckets

	// The reserve of devices we know, for when strangers have used up the rest. An
	// IPv4 address has a share of its own in it, which no neighbour can use: 256 of
	// them make a network's quota. A /64 has too many addresses for that, and shares.
	share4, share6 *buckets
	reserve        *buckets // of the total
}

const leastShare = 4 // a minute, of one address

func newLimiter(l Limits) *limiter {
	return &limiter{
		source:  newBuckets(l.PerSourcePerMinute, time.Minute, maxRemembered),
		network: newBuckets(l.PerNetworkPerMinute, time.Minute, maxRemembered),
		total:   newBuckets(l.TotalPerSecond, time.Second, 1),
		share4:  newBuckets(max((l.PerNetworkPerMinute+255)/256, leastShare), time.Minute, maxRemembered),
		share6:  newBuckets(max(l.PerNetworkPerMinute, leastShare), time.Minute, maxRemembered),
		reserve: newBuckets(l.TotalPerSecond, time.Second, 1),
	}
}

// take asks whether source may say one more. A source over its own limit costs
// its neighbours nothing.
func (l *limiter) take(source netip.Addr, now time.Duration) (refused Result, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.source.take(source, now) {
		return RateLimited, "this source says too much"
	}
	return l.takeShared(source, now)
}

// takeRelayed is take for an authenticated peer that does not name the device:
// one relay speaks for many, so its own address has no limit of its own.
func (l *limiter) takeRelayed(peer netip.Addr, now time.Duration) (refused Result, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takeShared(peer, now)
}

func (l *limiter) takeShared(source netip.Addr, now time.Duration) (refused Result, why string) {
	if !l.network.take(networkOf(source), now) {
		return RateLimited, "this network says too much"
	}
	if !l.total.take(netip.Addr{}, now) {
		return Overload, "more than the total rate"
	}
	return "", ""
}

// share is the reserve that a source draws from.
func (l *limiter) share(source netip.Addr) (*buckets, netip.Addr) {
	if source.Is4() {
		return l.share4, source
	}
	return l.share6, networkOf(source)
}

// takeShare asks whether one who is over the limits may show that it is known.
func (l *limiter) takeShare(source netip.Addr, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, key := l.share(source)
	return b.take(key, now)
}

// takeReserve is for one who is known: all of them together have a limit too.
func (l *limiter) takeReserve(now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reserve.take(netip.Addr{}, now)
}

// spent reports whether whatever a source could say now would be refused.
func (l *limiter) spent(source netip.Addr, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, key := l.share(source)
	return !l.source.has(source, now) && !b.has(key, now)
}

// giveBack undoes a take, or a takeShare: the connection turned out to be an
// authenticated peer's, whose hellos are counted one by one instead.
func (l *limiter) giveBack(source netip.Addr, share bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if share {
		b, key := l.share(source)
		b.giveBack(key)
		return
	}
	l.source.giveBack(source)
	l.network.giveBack(networkOf(source))
	l.total.giveBack(netip.Addr{})
}

// networkOf is the first address of a's /24, or /64 for IPv6.
func networkOf(a netip.Addr) netip.Addr {
	bits := 64
	if a.Is4() {
		bits = 24
	}
	p, _ := a.WithZone("").Prefix(bits) // fails for the zero Addr only, which is its own network
	return p.Addr()
}
