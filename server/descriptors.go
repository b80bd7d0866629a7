package server

import (
	"fmt"
	"net"
	"net/netip"
)

// Every connection takes a descriptor, and the process has a limited number.
// The daemon's own needs come first, then the hello port, then the API, so that
// a stranger who fills one cannot stop the others.
const (
	ownDescriptors = 96 // files, pipes, listeners, the database, a few calls of its own
	leastHello     = 32
	leastAPI       = 16
)

// descriptors is how the process shares out its descriptors.
type descriptors struct {
	hello, api int // most connections
	complaint  string
}

// shareDescriptors shares out what the configuration asks for, 0 for any
// number. limit is the most that the process may have, 0: unknown.
func shareDescriptors(limit uint64, hello, api, workers, database int) descriptors {
	d := descriptors{hello: hello, api: api}
	if limit == 0 {
		return d
	}
	own := uint64(ownDescriptors + workers + database)
	rest := int(min(max(limit, own)-own, 1<<30))
	if api <= 0 {
		d.api = max(rest/4, leastAPI)
	}
	if hello <= 0 {
		d.hello = max(rest-d.api, leastHello)
	}
	if d.hello+d.api <= rest {
		return d
	}
	d.api = max(min(d.api, rest/4), leastAPI)
	d.hello = max(min(d.hello, rest-d.api), leastHello)
	d.complaint = fmt.Sprintf("this process may open %d files, and the configuration wants %d: %d for itself, its %d workers and the "+
		"database, hello.limits.connections %d, api.connections %d; it takes %d connections on the hello port and %d of the API",
		limit, int(own)+hello+api, ownDescriptors, workers, hello, api, d.hello, d.api)
	return d
}

// addressOf is the other end's address, zero if it has none.
func addressOf(c net.Conn) netip.Addr {
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
