package endtoend

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
)

// The real binary, built with failpoints, is ended by SIGKILL before and after
// each durable write and each call to a device.

// killpoints asks the binary which sites one setup passes.
func killpoints(t *testing.T, personality string) []string {
	t.Helper()
	s := newSite(t, "")
	trace := s.path("trace")
	d := s.launch(program(t, box.crashing), []string{"PROVISIOND_CRASH_TRACE=" + trace})
	d.ready()
	h := s.herd()
	h.live(2*time.Second, one(d.hello), h.add(personality, nil))
	d.managed(1, time.Minute)
	d.stop()
	var sites []string
	for site := range strings.FieldsSeq(readFile(t, trace)) {
		if !slices.Contains(sites, site) && !strings.HasPrefix(site, "renew") {
			sites = append(sites, site)
		}
	}
	if len(sites) < 40 {
		t.Fatalf("one setup passes %d kill points only: %v", len(sites), sites)
	}
	return sites
}

// chain kills daemon after daemon on one data directory, each at another site
// with another device, while what the former left behind is still unsettled;
// the last daemon has to settle all.
func (s *site) chain(sites []string, personality string, change func(*sim.Config)) {
	t := s.t
	t.Helper()
	h := s.herd()
	bin := program(t, box.crashing)
	began := time.Now()
	for i, site := range sites {
		d := s.launch(bin, []string{"PROVISIOND_CRASH_AT=" + site})
		if i == 0 {
			d.ready()
			s.hello, s.api = d.hello, d.api
		}
		h.live(time.Second, one(s.hello), h.add(personality, change))
		if status := d.wait(90 * time.Second); status != -1 || d.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("at %s: status %d, want an end by SIGKILL", site, status)
		}
	}
	last := time.Now()
	d := s.launch(bin, nil)
	d.ready()
	d.managed(len(h.devices), 3*time.Minute)
	settled := time.Since(last)
	h.settled(d)
	d.stop()
	t.Logf("killed at %d points in %.0f s; the next start settled all %d devices in %.1f s", len(sites), last.Sub(began).Seconds(),
		len(h.devices), settled.Seconds())
}

// worst are the kill points at which something could be lost.
var worst = []string{
	"hello/before", "hello/after", "claim/after", "journal/set_clock/after", "sending/set_mebx_password/before",
	"sending/set_mebx_password/after", "call/SetMEBxPassword/after",
	"sending/set_admin_password/before", "call/SetAdminPassword/before", "call/SetAdminPassword/after", "call/UseCertificate/after",
	"journal/commit/before",
	"journal/commit/after", "call/Commit/before", "call/Commit/after", "settle/before", "settle/after",
}

// TestBoxKillPoints: after kill -9 at the worst moments every device ends
// managed, committed once, with both passwords known.
func TestBoxKillPoints(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) {
		all := killpoints(t, "12")
		for _, w := range worst {
			if !slices.Contains(all, w) {
				t.Fatalf("no setup passes %s; there are %v", w, all)
			}
		}
		s.chain(worst, "12", nil)
	})
}
