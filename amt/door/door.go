// Package door says who may keep a connection open when more come than there are
// places.
//
// A place costs nothing to take and a descriptor to keep, so nobody keeps one by
// being there first: whoever waits (it has said nothing yet, or nothing is asked
// of it at the moment) makes room for whoever comes, the one that has waited
// longest first. Only when nobody waits is the newcomer sent away.
package door

import (
	"container/list"
	"net/netip"
	"sync"
)

// A Door counts who is inside. The zero value lets everybody in.
type Door struct {
	most      int // places, 0: any number
	perSource int // of them for the strangers of one address or /64, 0: any number

	mu      sync.Mutex
	inside  int
	sources map[netip.Prefix]int // strangers
	waiting list.List            // of *Guest, who has waited longest first
}

// New makes a door with so many places, and of them so many for those of one
// source that are strangers; 0 is any number.
func New(most, perSource int) *Door {
	return &Door{most: most, perSource: perSource, sources: map[netip.Prefix]int{}}
}

// A Guest is a connection inside. A nil Guest is one that no door counts.
type Guest struct {
	door   *Door
	source netip.Prefix
	ask    func() bool

	elem     *list.Element // while it waits
	stranger bool
	gone     bool
}

// Enter lets a stranger in, who waits at first; nil: there is no room. ask is
// called at most once at a time, when its place is wanted: it closes the
// connection and is true, or is false since the guest has just spoken.
func (d *Door) Enter(from netip.Addr, ask func() bool) *Guest {
	g := &Guest{door: d, source: Source(from), ask: ask, stranger: true}
	for {
		longest := d.enter(g)
		switch {
		case !g.gone && longest == nil:
			return g
		case longest == nil:
			return nil
		case longest.ask():
			longest.Leave()
		}
	}
}

// enter lets g in, or gives the guest whose place it may have; with neither, g
// is gone.
func (d *Door) enter(g *Guest) (longest *Guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	crowded := d.perSource > 0 && d.sources[g.source] >= d.perSource
	if !crowded && (d.most <= 0 || d.inside < d.most) {
		d.inside++
		d.sources[g.source]++
		g.elem = d.waiting.PushBack(g)
		return nil
	}
	for e := d.waiting.Front(); e != nil; e = e.Next() {
		if w, _ := e.Value.(*Guest); !crowded || w.stranger && w.source == g.source {
			d.unwait(w)
			return w
		}
	}
	g.gone = true
	return nil
}

func (d *Door) unwait(g *Guest) {
	if g.elem != nil {
		d.waiting.Remove(g.elem)
		g.elem = nil
	}
}

// Wait says that nothing is asked of the guest from now on.
func (g *Guest) Wait() {
	if g == nil {
		return
	}
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	if g.door.unwait(g); !g.gone {
		g.elem = g.door.waiting.PushBack(g)
	}
}

// Busy says that it is being served, so that its place is its own.
func (g *Guest) Busy() {
	if g == nil {
		return
	}
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	g.door.unwait(g)
}

// Known says that it has proven who it is: it is no longer counted for its source.
func (g *Guest) Known() {
	if g == nil {
		return
	}
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	g.known()
}

func (g *Guest) known() {
	if !g.stranger {
		return
	}
	g.stranger = false
	if g.door.sources[g.source]--; g.door.sources[g.source] <= 0 {
		delete(g.door.sources, g.source)
	}
}

// Leave gives the place back; the second time does nothing.
func (g *Guest) Leave() {
	if g == nil {
		return
	}
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	if g.gone {
		return
	}
	g.gone = true
	g.door.unwait(g)
	g.known()
	g.door.inside--
}

// Inside is how many there are, and how many of them wait.
func (d *Door) Inside() (all, waiting int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inside, d.waiting.Len()
}

// Source is the address, or the /64 of it: whoever has one has them all.
func Source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // fails for the zero Addr only, which is a source of its own
	return p
}
