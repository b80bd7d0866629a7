package sim

import (
	"testing"

	"github.com/provisiond/provisiond/amt"
)

func TestEveryGenerationCanBeSetUp(t *testing.T) {
	t.Parallel()
	for _, name := range Personalities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDevice(t, Config{Personality: name})
			setUp(t, d, sharedLab())
			awaitState(t, d, amt.StatePost)
			awaitListening(t, d)

			c := newClient(t, d, nil) // no client certificate is asked for any more
			c.user, c.password = "admin", adminPassword
			if got := field1(c.get("AMT_SetupAndConfigurationService", ""), "ProvisioningState"); got != "2" {
				t.Errorf("ProvisioningState %s, want 2", got)
			}
			if c.peer.Subject.CommonName != "pc1.lab.test" {
				t.Errorf("served certificate %q, want the one configured", c.peer.Subject)
			}
			s := d.Snapshot()
			if s.Commits != 1 || !s.TLSEnabled || s.HostName != "pc1" || s.Domain != "lab.test" || !s.ClockSet || s.AdminDefault ||
				s.MEBxDefault {
				t.Errorf("after setup: %+v", s)
			}
			if !d.AcceptsAdmin("admin", adminPassword) || d.AcceptsAdmin("admin", "admin") || !d.AcceptsMEBx(mebxPassword) {
				t.Error("the passwords in force are not the ones set")
			}
			if !s.HasPassword(adminPassword) || !s.HasPassword(mebxPassword) || s.HasPassword("Other1!pass") {
				t.Error("the device misremembers what it was told")
			}
			if s.LoginsFailed > 0 {
				t.Errorf("%d failed logins", s.LoginsFailed)
			}
			bad := newClient(t, d, nil)
			bad.user, bad.password = "admin", "Wrong1!pass"
			if status, _, err := bad.post(bad.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", "")); err != nil || status != 401 {
				t.Errorf("a wrong password: %d %v, want 401", status, err)
			}
		})
	}
}
