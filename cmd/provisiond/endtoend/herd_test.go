package endtoend

import (
	"context"
	"crypto/rand"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/cmd/built"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// herd is simulated devices in this process, where a test can ask each one what
// it holds.
type herd struct {
	s       *site
	next    netip.Addr
	devices []*sim.Device
	cancel  context.CancelFunc
	ctx     context.Context
	wg      sync.WaitGroup
}

func (s *site) herd() *herd {
	s.t.Helper()
	h := &herd{s: s, next: netip.MustParseAddr(s.base)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	s.t.Cleanup(h.stop)
	return h
}

func (h *herd) stop() {
	h.cancel()
	h.wg.Wait()
	for _, d := range h.devices {
		_ = d.Close()
	}
}

// roots are the hashes of the site's root, as a device holds them.
func (s *site) roots() []amt.TrustHash {
	return amt.HashesOf(s.leaf.Issuers[len(s.leaf.Issuers)-1].Raw)
}

// add makes one device that listens and says nothing yet.
func (h *herd) add(personality string, change func(*sim.Config)) *sim.Device {
	h.s.t.Helper()
	var u amt.UUID
	_, _ = rand.Read(u[:])
	cfg := sim.Config{UUID: u, Personality: personality, Addr: h.next, Suffix: "corp.example.com", Roots: h.s.roots(),
		Restart: 100 * time.Millisecond}
	for h.next = h.next.Next(); h.next.As4()[3] == 0 || h.next.As4()[3] == 255; h.next = h.next.Next() {
	}
	if change != nil {
		change(&cfg)
	}
	d, err := sim.New(cfg)
	if err == nil {
		err = d.Start()
	}
	if err != nil {
		h.s.t.Fatal(err)
	}
	h.devices = append(h.devices, d)
	return d
}

var generations = []string{"11", "16", "9", "18", "6", "12", "15", "7", "3.2", "5"}

// live lets devices say hello every pause while they are in setup mode; server
// names the daemon for each hello, as DNS would.
func (h *herd) live(pause time.Duration, server func() string, devices ...*sim.Device) {
	for _, d := range devices {
		h.wg.Go(func() {
			for {
				if state, _ := d.State(); state == amt.StateIn {
					_ = d.SayHello(h.ctx, server()) // the next one may be luckier
				}
				_, changed := d.State()
				select {
				case <-changed:
				case <-time.After(pause):
				case <-h.ctx.Done():
					return
				}
			}
		})
	}
}

// one always names the same server; turn names each in turn.
func one(server string) func() string { return func() string { return server } }

func turn(servers ...string) func() string {
	var n atomic.Int64
	return func() string { return servers[int(n.Add(1))%len(servers)] }
}

// lifecycles counts the devices a daemon lists by lifecycle.
func (d *daemon) lifecycles() map[string]int {
	d.t.Helper()
	list, err := d.client().AllDevices(d.t.Context(), api.DeviceQuery{}, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	n := map[string]int{}
	for _, l := range list {
		n[l.Lifecycle]++
	}
	return n
}

// managed waits until the daemon lists this many devices as provisioned.
func (d *daemon) managed(want int, most time.Duration) {
	d.t.Helper()
	late := time.Now().Add(hope(most))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		n := d.metric(`provisiond_devices{state="provisioned"}`)
		if int(n) == want {
			return
		}
		if time.Now().After(late) {
			d.t.Fatalf("%v of %d devices are provisioned after %s: %v", n, want, hope(most), d.lifecycles())
		}
		<-tick.C
	}
}

// reveal reads one password by the API.
func (d *daemon) reveal(u amt.UUID, kind string) string {
	d.t.Helper()
	r, err := d.client().Reveal(d.t.Context(), u.String(), kind, "the test compares")
	if err != nil {
		d.t.Errorf("reveal the %s password of %s: %v", kind, u, err)
	}
	return r.Password
}

// settled holds what must be true of every device of the herd once everything
// is over: managed here and there, both passwords known, committed once, never
// two conversations at a time.
func (h *herd) settled(d *daemon) {
	d.t.Helper()
	if listed := h.sound(d); listed != len(h.devices) {
		d.t.Errorf("%d devices are listed, there are %d", listed, len(h.devices))
	}
}

// sound is settled where others are listed too; it says how many in all.
func (h *herd) sound(d *daemon) (all int) {
	t := d.t
	t.Helper()
	listed, err := d.client().AllDevices(t.Context(), api.DeviceQuery{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]api.Device{}
	for _, l := range listed {
		of[l.UUID] = l
	}
	for _, dev := range h.devices {
		snap := dev.Snapshot()
		l := of[snap.UUID.String()]
		if l.Lifecycle != string(store.Provisioned) || snap.State != amt.StatePost {
			t.Errorf("%s (AMT %s) is %s (%s) here and %s itself", snap.UUID, snap.Personality, l.Lifecycle, l.Reason, snap.State)
			continue
		}
		if l.Address != dev.Addr().Addr().String() || l.AMTVersion == "" || l.FQDN != snap.HostName+"."+snap.Domain {
			t.Errorf("%s: listed as %s %s %s; the device is %s %s %s.%s", snap.UUID, l.Address, l.AMTVersion, l.FQDN, dev.Addr(),
				snap.Version, snap.HostName, snap.Domain)
		}
		if !dev.AcceptsAdmin("admin", d.reveal(snap.UUID, "admin")) {
			t.Errorf("%s: the admin password we keep is not the device's", snap.UUID)
		}
		if !dev.AcceptsMEBx(d.reveal(snap.UUID, "mebx")) {
			t.Errorf("%s: the MEBx password we keep is not the device's", snap.UUID)
		}
		if snap.Commits != 1 {
			t.Errorf("%s was committed %d times", snap.UUID, snap.Commits)
		}
		if snap.MaxInFlight > 1 {
			t.Errorf("%s had %d requests in flight at once", snap.UUID, snap.MaxInFlight)
		}
	}
	return len(listed)
}

// size is a fleet's, smaller where everything is watched for races.
func size(n, watched int) int {
	if built.Race {
		return watched
	}
	return n
}

// mixed adds n devices of every generation in turn.
func (h *herd) mixed(t *testing.T, n int) []*sim.Device {
	t.Helper()
	var list []*sim.Device
	for i := range n {
		list = append(list, h.add(generations[i%len(generations)], nil))
	}
	return list
}
