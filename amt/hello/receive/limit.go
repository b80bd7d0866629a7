package receive

import (
	"github.com/provisiond/provisiond/amt/hello"
	"net/netip"
	"sync"
	"time"
)

// maxRemembered bounds each generation of each table of buckets: an attacker
// who fills a table takes some 5 MiB.
const maxRemembered = 1 << 16

// buckets is a token bucket for each key, which holds a minute's worth and
// fills evenly. A bucket is one number: the time at which it is full again (the
// "generic cell rate algorithm"), so a missing bucket is a full one.
//
// Two generations bound the memory: a bucket that nobody touched for a minute
// is full and may go. If a generation fills up before the minute is over, the
// keys least recently seen go early, in their favour.
type buckets struct {
	cost     time.Duration // of one token; 0: no limit
	burst    time.Duration
	most     int // most keys in a generation
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

// take takes a token from key's bucket at now, the time since the server was
// made, and reports whether there was one.
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

// limiter holds the rate limits of one kind of peer: of strangers, whose
// connections count, or of authenticated peers, whose hellos count. Strangers
// use up nothing of the others' limits.
type limiter struct {
	mu      sync.Mutex
	named   bool // sources are devices that a peer names
	source  *buckets
	network *buckets
	total   *buckets

	// The reserve of devices that we know, for when strangers have used up the
	// rest. An IPv4 address has a share of its own in it, which no neighbour can
	// use: 256 of them make a network's quota. A /64 has too many addresses for
	// that, and shares.
	share4, share6 *buckets
	reserve        *buckets // of the total rate
}

const leastShare = 4 // per minute and address

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

// ofNamed has each device that a peer names be a source.
func (l *limiter) ofNamed() *limiter {
	l.named = true
	return l
}

// take asks whether source may send one more. A source over its own limit uses
// up nothing of its neighbours'.
func (l *limiter) take(source netip.Addr, now time.Duration) (refused hello.Result, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.source.take(l.key(source), now) {
		return hello.RateLimited, "this source says too much"
	}
	return l.takeShared(source, now)
}

// takeRelayed is take for an authenticated peer that does not name the device:
// one relay speaks for many, so its own address has no limit of its own.
func (l *limiter) takeRelayed(peer netip.Addr, now time.Duration) (refused hello.Result, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.takeShared(peer, now)
}

func (l *limiter) takeShared(source netip.Addr, now time.Duration) (refused hello.Result, why string) {
	if !l.network.take(networkOf(source), now) {
		return hello.RateLimited, "this network says too much"
	}
	if !l.total.take(netip.Addr{}, now) {
		return hello.Overload, "more than the total rate"
	}
	return "", ""
}

// key is the source that an address counts as: whoever has one address of a /64 has
// them all. Of devices that an authenticated peer names each is a source.
func (l *limiter) key(a netip.Addr) netip.Addr {
	if a.Is6() && !l.named {
		return networkOf(a)
	}
	return a
}

// share is the reserve from which a source draws.
func (l *limiter) share(source netip.Addr) (*buckets, netip.Addr) {
	if source.Is4() {
		return l.share4, source
	}
	return l.share6, networkOf(source)
}

// takeShare asks whether a sender over the limits may show that we know it.
func (l *limiter) takeShare(source netip.Addr, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, key := l.share(source)
	return b.take(key, now)
}

// takeReserve draws for a device that we know: all of them together have a
// limit too.
func (l *limiter) takeReserve(now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reserve.take(netip.Addr{}, now)
}

// spent reports whether the limits would refuse anything that the source sends
// now.
func (l *limiter) spent(source netip.Addr, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, key := l.share(source)
	return !l.source.has(l.key(source), now) && !b.has(key, now)
}

// giveBack undoes a take, or a takeShare: the connection is an authenticated
// peer's, whose hellos count one by one instead.
func (l *limiter) giveBack(source netip.Addr, share bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if share {
		b, key := l.share(source)
		b.giveBack(key)
		return
	}
	l.source.giveBack(l.key(source))
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
