// Package door decides who may keep a connection open when more come than there
// are places.
//
// A place costs nothing to take and a descriptor to keep, so nobody keeps one
// by coming first. A guest waits if it has said nothing yet, or if nobody asks
// anything of it at the moment. The guest that has waited longest makes room
// for a newcomer. Only if no guest waits, the door sends the newcomer away.
package door

import (
	"container/list"
	"net/netip"
	"sync"
)

// A Door counts the guests inside. The zero value lets everybody in.
type Door struct {
	most      int // places; 0: any number
	perSource int // places for the strangers of one address or /64; 0: any number

	mu      sync.Mutex
	inside  int
	sources map[netip.Prefix]int // strangers
	waiting list.List            // of *Guest; the first has waited longest
}

// New makes a door with most places, of which the strangers of one source may
// take perSource; 0 is any number.
func New(most, perSource int) *Door {
	return &Door{most: most, perSource: perSource, sources: map[netip.Prefix]int{}}
}

// A Guest is a connection inside. No door counts a nil Guest.
type Guest struct {
	door   *Door
	source netip.Prefix
	ask    func() bool

	elem     *list.Element // while it waits
	stranger bool
	gone     bool
}

// Enter lets a stranger in, who waits at first; nil: there is no room. The door
// calls ask when it wants the guest's place, at most once at a time: ask closes
// the connection and returns true, or returns false because the guest has just
// spoken.
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

// enter lets g in, or returns the guest whose place g may have; if it does
// neither, g is gone.
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

// Wait says that nobody asks anything of the guest from now on.
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

// Busy says that somebody serves the guest, so that nobody may take its place.
func (g *Guest) Busy() {
	if g == nil {
		return
	}
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	g.door.unwait(g)
}

// Known says that the guest has proven who it is: the door no longer counts it
// for its source.
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

// Leave gives the place back; a second call does nothing.
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

// Inside returns how many guests there are, and how many of them wait.
func (d *Door) Inside() (all, waiting int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.inside, d.waiting.Len()
}

// Source is an address, or its /64: whoever has one address of a /64 has them
// all.
func Source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // fails for the zero Addr only, which is a source of its own
	return p
}
