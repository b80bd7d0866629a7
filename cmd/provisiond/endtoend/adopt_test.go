package endtoend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// TestBoxAdopt: devices that another server set up say no hello. They are imported
// with their addresses, refuse a wrong password, are adopted with the right one,
// and are then devices like any other: what they hold is changed and works.
func TestBoxAdopt(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) {
		before := newSite(t, "")
		old := before.serve(nil)
		h := before.herd()
		devices := h.mixed(t, 3)
		h.live(2*time.Second, one(old.hello), devices...)
		old.managed(len(devices), time.Minute)
		// What the other server knows of them, as an export of Intel SCS does.
		password, name := map[*sim.Device]string{}, map[*sim.Device]string{}
		for _, dev := range devices {
			password[dev], name[dev] = old.reveal(dev.UUID(), "admin"), old.of(dev.UUID()).FQDN
		}
		old.stop()

		// No maintenance: what it would do next is no part of an adoption.
		d := s.serve([]string{"PROVISIOND_MAINTENANCE_PER_MINUTE=0"})
		list := "uuid,fqdn,address\n"
		for _, dev := range devices {
			list += fmt.Sprintf("%s,%s,%s\n", dev.UUID(), name[dev], dev.Addr().Addr())
		}
		const far = "0f0e0d0c-0b0a-0908-0706-050403020100"
		list += far + ",far.corp.example.com,192.0.2.7\n"
		if out, errs, status := d.provctl("device", "import", s.file("scs.csv", []byte(list))); status != 0 ||
			!strings.Contains(out, "4 new entries") {
			t.Fatalf("import: status %d: %s%s", status, out, errs)
		}
		adopt := func(device, password string, word ...string) {
			t.Helper()
			file := s.file("password", []byte(password+"\n"))
			if _, errs, status := d.provctl(append([]string{"device", "adopt", device, "--password-file", file}, word...)...); status != 0 {
				t.Fatalf("adopt: status %d: %s", status, errs)
			}
		}
		// One of them is guessed wrong at first.
		adopt(devices[0].UUID().String(), "Not-Its-Pass-1!", "--trust-first")
		poll(t, "it refuses the wrong password", time.Minute,
			func() bool { return d.of(devices[0].UUID()).Lifecycle == string(store.CredentialsUnknown) })
		// Of the others nobody has seen the certificate: they are told nothing, until
		// a person vouches for what they showed.
		for _, dev := range devices[1:] {
			adopt(name[dev], password[dev])
		}
		for _, dev := range devices[1:] {
			poll(t, "it shows a certificate and hears no password", time.Minute, func() bool {
				now := d.of(dev.UUID())
				return now.Reason == string(reason.PeerUnverified) && now.PeerSeen != ""
			})
			if n := dev.Snapshot().LoginsFailed; n != 0 {
				t.Errorf("%s heard %d logins before anybody vouched for it", dev.UUID(), n)
			}
			if _, errs, status := d.provctl("device", "trust", name[dev], "--fingerprint", d.of(dev.UUID()).PeerSeen); status != 0 {
				t.Errorf("trust: status %d: %s", status, errs)
			}
		}
		adopt(far, "Any-Pass-1!")
		d.managed(2, time.Minute)
		poll(t, "an address outside provisioning.networks is not dialled, whoever names it", time.Minute, func() bool {
			u, _ := amt.ParseUUID(far)
			return d.of(u).Reason == string(reason.NetworkNotAllowed)
		})
		for _, dev := range devices[1:] {
			if got := d.reveal(dev.UUID(), "admin"); got != password[dev] {
				t.Errorf("the active password of %s is not the one it was adopted with", dev.UUID())
			}
			var res api.ActionResult
			d.must(&res, "secret", "rotate", dev.UUID().String())
			poll(t, "rotated", time.Minute, func() bool {
				now := d.reveal(dev.UUID(), "admin")
				return now != password[dev] && dev.AcceptsAdmin("admin", now)
			})
			if dev.AcceptsAdmin("admin", password[dev]) {
				t.Errorf("the password of before still opens %s", dev.UUID())
			}
			if snap := dev.Snapshot(); snap.Commits != 1 || snap.MaxInFlight > 1 {
				t.Errorf("%s was committed %d times, with %d requests at once", dev.UUID(), snap.Commits, snap.MaxInFlight)
			}
		}
		d.stop()
	})
}
