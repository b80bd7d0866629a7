package provision

import (
	"context"
	"slices"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Nothing that is set may lock us out (I15). The profile changes under way, also to
// names of other consoles, and firmware does with them what it wants: it drops
// some, keeps them otherwise than it says, forgets our root. What is held:
//
//   - At every instant a device that is ours lets us in, under our own name or one
//     that the store knows it may have been told. Firmware that keeps no name as it
//     was told may be lost to a fault at the wrong moment; a person then goes there.
//   - An attempt that nothing disturbed, and before which our own name was let in,
//     leaves it so, whatever the firmware.
//   - At rest our own name is let in.

// before is how an attempt found the device.
type before struct {
	own    bool // our own name was let in
	faults int  // how many faults had happened
	limps  bool // a heartbeat was late
}

// harmless are the kinds of fault that disturb no attempt under way.
var harmless = []string{
	"duplicate hello", "hello lost", "rotation asked for", "a profile is changed", "a change is put back", "a claim is believed",
	"a stranger says hello",
	"a node's clock is off", "the device's clock steps",
}

func (d *simStore) watch() {
	if d.before == nil {
		d.before = map[int64]before{}
	}
	d.before[d.fence] = before{d.w.ownLetIn(), d.w.faults, d.w.now.Before(d.w.limps)}
}

// undisturbed holds what an attempt left behind which nothing disturbed.
func (d *simStore) undisturbed(fence int64, v Verdict) {
	w, was := d.w, d.before[fence]
	if v.Reason == reason.LockoutAverted {
		w.hit("a change is put back", "")
	}
	if was.own && was.faults == w.faults && !was.limps && !w.ownLetIn() {
		w.broken("I15", "a run that nothing disturbed left the device shut to us (%s): it lets in %q", v.Reason, w.dev.tls.trusted)
	}
}

// ownLetIn reports whether a device outside setup mode lets in our own name.
func (w *world) ownLetIn() bool { return w.dev.state == amt.StatePost && w.dev.tls.admits(simConsole) }

// reachable reports whether some name that the store knows of is let in.
func (w *world) reachable() bool {
	return w.dev.tls.admits(simConsole) || slices.ContainsFunc(w.db.names(), w.dev.tls.admits)
}

// names are those that any version of the profile named.
func (d *simStore) names() (list []string) {
	for _, p := range d.profiles {
		for _, n := range p.TrustedCN {
			if !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
	}
	return list
}

// Trusted is Config.Trusted.
func (s *seams) Trusted(context.Context, store.Device, string) ([]string, error) {
	return s.w.db.names(), nil
}

// visit is a person's at a device that a fault shut to us between a change and its
// proof.
func (d *simStore) visit() {
	dev := &d.w.dev
	if r := d.live(); dev.state != amt.StatePost || !dev.tls.garbles || d.w.reachable() || r != nil && r.State == store.RunRunning {
		return
	}
	d.w.say("a person goes to the device and erases its names")
	dev.tls.trusted, dev.tls.said = nil, nil
}

// release is a person's of a device that is kept out: he says that the machine at
// its address is the device, whatever its network port was before.
func (d *simStore) release() {
	if d.lifecycle != store.Quarantined || takenForLost(d.device()) || d.live() != nil || d.now().Before(d.later) {
		return
	}
	d.w.say("a person releases it")
	d.row.MAC, d.row.Address, d.row.AddressBy, d.row.TrustTable = "", d.w.dev.addr, store.ByOperator, 1
	d.start("api", d.now())
}

// The profiles that the device is given in turn.
func (w *world) nextProfile() profile.Profile {
	f, p := &w.dev.tls, w.db.profiles[0]
	choices := [][]string{nil, {otherConsole}, {otherConsole, "console.third.example"}, {"provisiond.example"}}
	names := choices[w.odd.IntN(len(choices))]
	switch {
	case f.garbles && f.lies && !f.holds: // it can be told names only while it goes by them at once
		p.TrustedCN = names
	case w.odd.IntN(4) == 0:
		p.TLS, p.TrustedCN = profile.TLSServer, nil
	default:
		p.TLS, p.TrustedCN = profile.TLSMutual, names
	}
	return p
}

// otherConsole is a name that does not let this server in.
const otherConsole = "console.lab.example"

// change makes a new version of the profile, and rolls it out.
func (d *simStore) change(p profile.Profile) {
	p.Version = len(d.profiles) + 1
	d.profiles = append(d.profiles, p)
	d.w.hit("a profile is changed", "")
	d.w.say("the profile wants tls %s, trusted_cn %q", p.TLS, p.TrustedCN)
	if d.live() == nil && d.cared() {
		d.order(KindMaintain, "", "job", d.now())
	}
}

// temper makes a device's firmware, and the profile that it is set up with.
func (w *world) temper() {
	f, p := &w.dev.tls, profile.Default()
	p.HostName, p.TLS = "amt-{mac}", profile.TLSNone
	if w.dev.slowKeys || w.odd.IntN(4) == 0 {
		p.TLS = profile.TLSServer
	}
	f.room, f.lies, f.garbles, f.holds = 1+w.odd.IntN(4), w.odd.IntN(2) == 0, w.odd.IntN(4) == 0, w.odd.IntN(2) == 0
	if f.single = w.odd.IntN(4) == 0; f.single {
		f.garbles = false // nothing could be proved beside the change
	}
	switch {
	case f.garbles && f.lies && !f.holds, p.TLS == profile.TLSServer && w.odd.IntN(3) == 0:
		p.TLS = profile.TLSMutual
	default:
		f.rootless = w.odd.IntN(6) == 0
	}
	w.rogue.tls.room = 4
	w.db.profiles = []profile.Profile{p}
}

// calm plays, once all has settled, a rollout that nothing disturbs: names of other
// consoles, and back. It reports whether the history is over.
func (w *world) calm() bool {
	d := &w.db
	if d.live() != nil || !d.cared() {
		return false
	}
	switch w.phase {
	case 0:
		if !w.settled() {
			return false
		}
		p := w.nextProfile()
		if p.TrustedCN == nil && p.TLS == profile.TLSMutual {
			p.TrustedCN = []string{otherConsole}
		}
		d.change(p)
	case 1:
		d.change(d.profiles[0])
	default:
		return w.settled()
	}
	w.phase++
	return false
}

// asWanted reports whether the device was found, or made, to be as its profile
// wants it now.
func (d *simStore) asWanted() bool {
	if d.applied == 0 {
		return false
	}
	has, wants := d.profiles[d.applied-1], d.profiles[len(d.profiles)-1]
	return has.TLS == wants.TLS && slices.Equal(has.TrustedCN, wants.TrustedCN)
}
