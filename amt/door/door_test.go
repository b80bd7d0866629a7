package door

import (
	"net/netip"
	"slices"
	"testing"
)

// TestWhoMakesRoom: places are for whoever has something to say.
func TestWhoMakesRoom(t *testing.T) {
	t.Parallel()
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")
	d := New(4, 2)
	var left []string
	spoke := map[string]bool{}
	guests := map[string]*Guest{}
	enter := func(name string, from netip.Addr) {
		guests[name] = d.Enter(from, func() bool {
			if spoke[name] {
				return false
			}
			left = append(left, name)
			return true
		})
		if guests[name] == nil {
			left = append(left, "-"+name)
		}
	}
	want := func(what string, inside int, names ...string) {
		t.Helper()
		if all, _ := d.Inside(); all != inside || !slices.Equal(left, names) {
			t.Errorf("%s: %d inside and %v left, want %d and %v", what, all, left, inside, names)
		}
		left = nil
	}
	enter("a1", a)
	enter("a2", a)
	enter("a3", a)
	want("a third of one source takes the place of its first", 2, "a1")
	enter("b1", b)
	enter("c1", c)
	enter("b2", b)
	want("a fifth takes the place of who has waited longest", 4, "a2")
	guests["a3"].Busy()
	spoke["b1"] = true
	enter("c2", netip.MustParseAddr("2001:db8::2"))
	want("who has just spoken keeps its place", 4, "c1")
	for _, name := range []string{"b2", "c2"} {
		guests[name].Busy()
	}
	enter("c3", c)
	want("all are busy", 4, "-c3")
	guests["a3"].Wait()
	guests["b2"].Wait()
	enter("b3", b) // b has two, and one waits
	want("a source's own place, though another has waited longer", 4, "b2")
	guests["b1"].Known()
	guests["b3"].Known()
	enter("b4", b)
	want("who is known counts for no source, and makes room as well", 4, "a3")
	guests["b4"].Busy()
	guests["b3"].Busy()
	enter("b5", b)
	want("all are busy again", 4, "-b5")
	for _, g := range guests {
		g.Leave()
		g.Leave()
		g.Wait() // a late word of one that has gone
	}
	if all, waiting := d.Inside(); all != 0 || waiting != 0 || len(d.sources) != 0 {
		t.Errorf("%d inside, %d waiting, sources %v", all, waiting, d.sources)
	}
	var nobody *Guest
	nobody.Busy()
	nobody.Wait()
	nobody.Known()
	nobody.Leave()
}
