package sim

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
)

func operational(t *testing.T, personality string) (*Device, *client) {
	t.Helper()
	d := startDevice(t, Config{Personality: personality})
	setUp(t, d, sharedLab())
	awaitState(t, d, amt.StatePost)
	awaitListening(t, d)
	c := newClient(t, d, nil)
	c.user, c.password = "admin", adminPassword
	return d, c
}

func TestPartialUnprovisionKeepsTheAccount(t *testing.T) {
	t.Parallel()
	d, c := operational(t, "12")
	c.must("AMT_SetupAndConfigurationService", "PartialUnprovision", "")
	awaitState(t, d, amt.StateIn)
	if s := d.Snapshot(); !d.AcceptsAdmin("admin", adminPassword) || s.HostName != "pc1" || s.TLSEnabled || s.Certificates != 0 {
		t.Errorf("after a partial unprovision: %+v", s)
	}
}

func TestFullUnprovisionForgetsAndTheHashesToo(t *testing.T) {
	t.Parallel()
	d, c := operational(t, "12")
	c.must("AMT_SetupAndConfigurationService", "Unprovision", "<r:ProvisioningMode>1</r:ProvisioningMode>")
	awaitState(t, d, amt.StatePre)
	if !d.AcceptsAdmin("admin", "admin") || !d.AcceptsMEBx(mebxPassword) {
		t.Error("admin must be the factory's again, and MEBx what it was")
	}
	d.PowerCycle(true)
	awaitState(t, d, amt.StateIn)
	if _, _, ok := d.trusts(sharedLab().root()); ok {
		t.Error("a custom hash survived a full unprovision")
	}
}

func TestPowerCycleInMidSetup(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{true, false} {
		d := startDevice(t, Config{Personality: "11"})
		c := newClient(t, d, sharedLab().tls())
		c.must("AMT_AuthorizationService", "SetAdminAclEntryEx", digestArgs("admin", d.Realm(), adminPassword))
		d.PowerCycle(keep)
		if got := d.AcceptsAdmin("admin", adminPassword); got != keep {
			t.Errorf("keep=%t: the new password is in force: %t", keep, got)
		}
		if got := d.AcceptsAdmin("admin", "admin"); got == keep {
			t.Errorf("keep=%t: the factory password is in force: %t", keep, got)
		}
	}
}

func TestAPasswordThatCountsAtCommit(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "12-at-commit"})
	c := newClient(t, d, sharedLab().tls())
	c.user, c.password = "admin", "admin"
	c.must("AMT_AuthorizationService", "SetAdminAclEntryEx", digestArgs("admin", d.Realm(), adminPassword))
	if !d.AcceptsAdmin("admin", "admin") || d.AcceptsAdmin("admin", adminPassword) {
		t.Error("the password counted before the commit")
	}
}

func TestClosingTheWindow(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{})
	c := newClient(t, d, sharedLab().tls())
	if n, _, err := c.call("AMT_SetupAndConfigurationService", "ExtendProvisioningPeriod", "<r:Duration>25</r:Duration>"); err != nil ||
		n != 36 {
		t.Errorf("25 hours: %d %v, want 36", n, err)
	}
	c.must("AMT_SetupAndConfigurationService", "ExtendProvisioningPeriod", "<r:Duration>6</r:Duration>")
	c.must("AMT_SetupAndConfigurationService", "ExtendProvisioningPeriod", "<r:Duration>0</r:Duration>")
	awaitState(t, d, amt.StatePre)
}

func TestMEBxPolicyAndStrength(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "11", Tune: func(p *Personality) { p.MEBxPolicy = MEBxDefaultOnly }})
	c := newClient(t, d, sharedLab().tls())
	for _, weak := range []string{"short1!", "alllower1!", "ALLUPPER1!", "NoDigits!!", "NoSpecial11", "Under_score1", "Com,ma11!a"} {
		if n, _, err := c.call("AMT_SetupAndConfigurationService", "SetMEBxPassword", "<r:Password>"+weak+"</r:Password>"); err != nil ||
			n != 2054 {
			t.Errorf("%s: %d %v, want 2054", weak, n, err)
		}
	}
	c.must("AMT_SetupAndConfigurationService", "SetMEBxPassword", "<r:Password>"+mebxPassword+"</r:Password>")
	if n, _, err := c.call("AMT_SetupAndConfigurationService", "SetMEBxPassword",
		"<r:Password>"+mebxPassword+"2</r:Password>"); err != nil || n != 16 {
		t.Errorf("a second time: %d %v, want 16", n, err)
	}
}

func TestCommitPreconditions(t *testing.T) {
	t.Parallel()
	const service = "AMT_SetupAndConfigurationService"
	for _, row := range []struct {
		personality string
		set         func(*settings)
		want        int
	}{
		{"11", func(s *settings) {}, 2057},
		{"11", func(s *settings) { s.hostName = "pc1" }, 0},
		{"11", func(s *settings) { s.hostName = "pc1"; s.tls[0].enabled = true }, 2057},
		{"11", func(s *settings) { s.hostName = "pc1"; s.tls[0].enabled, s.clockSet = true, true }, 2057},
		{"16", func(s *settings) { s.hostName = "pc1"; s.tls[0].enabled, s.clockSet = true, true }, 0},
		{"16", func(s *settings) {
			s.hostName = "pc1"
			s.tls[0].enabled, s.tls[0].mutual, s.clockSet = true, true, true
		}, 2057},
		{"5", func(s *settings) { s.hostName = "pc1" }, 2057},
		{"5", func(s *settings) { s.hostName, s.clockSet = "pc1", true }, 0},
		{"19", func(s *settings) { s.hostName = "pc1" }, 2057},
		{"19", func(s *settings) { s.hostName, s.mebxDefault = "pc1", false }, 0},
	} {
		d := startDevice(t, Config{Personality: row.personality})
		d.mu.Lock()
		row.set(&d.now)
		d.mu.Unlock()
		c := newClient(t, d, sharedLab().tls())
		c.user, c.password = "admin", "admin"
		if n, body, err := c.call(service, "CommitChanges", ""); err != nil || n != row.want {
			t.Errorf("%s: %d %v, want %d\n%s", row.personality, n, err, row.want, body)
		}
	}
}

func TestWithoutTLSTheDeviceMovesToThePlainPort(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "11", HostName: "pc1"})
	newClient(t, d, sharedLab().tls()).must("AMT_SetupAndConfigurationService", "CommitChanges", "")
	awaitState(t, d, amt.StatePost)
	awaitListening(t, d)
	c := newClient(t, d, nil)
	c.url = fmt.Sprintf("http://%s:%d/wsman", d.Addr().Addr(), DefaultPort-1)
	c.user, c.password = "admin", "admin"
	if got := field1(c.get("AMT_SetupAndConfigurationService", ""), "ProvisioningState"); got != "2" {
		t.Errorf("ProvisioningState %s", got)
	}
	if raw, err := net.DialTimeout("tcp", d.Addr().String(), time.Second); err == nil {
		_ = raw.Close()
		t.Error("the TLS port is still open")
	}
}

func TestClassesComeWithReleases(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		personality, class string
		want               int
	}{
		{"5", "IPS_HostBasedSetupService", 400}, {"11", "IPS_HostBasedSetupService", 200},
		{"5", "AMT_ProvisioningCertificateHash", 400}, {"11", "AMT_NoSuchClass", 400},
	} {
		d := startDevice(t, Config{Personality: row.personality})
		c := newClient(t, d, sharedLab().tls())
		status, body, err := c.post(c.envelope(row.class, nsXfer+"/Get", "", ""))
		if err != nil || status != row.want {
			t.Errorf("%s on %s: %d %v, want %d\n%s", row.class, row.personality, status, err, row.want, body)
		}
	}
}

func TestTheRecordTellsWhoCameAndHow(t *testing.T) {
	t.Parallel()
	_, c := operational(t, "12")
	body := c.get("IPS_TLSProvisioningRecord", "")
	if field1(body, "ProvServerFQDN") != "provisionserver.lab.test" || field1(body, "SelectedHashType") != "3" ||
		field1(body, "IsTimeValid") != "true" {
		t.Errorf("record: %s", body)
	}
}

func TestMutualTLSAfterSetupWantsAConsoleCertificate(t *testing.T) {
	t.Parallel()
	if err := judgeConsole(sharedLab().chain, [][]byte{sharedLab().root()}, nil); err == nil {
		t.Error("a setup certificate passed for a console's")
	}
	if err := judgeConsole(nil, nil, nil); err == nil {
		t.Error("no certificate passed for a console's")
	}
}

func TestConnectionsAreCountedWhileBothEndsHoldThem(t *testing.T) {
	t.Parallel()
	one := startDevice(t, Config{})
	for n := range 50 { // one after the other, each gone before the next
		c, err := net.Dial("tcp", one.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for one.Snapshot().Connections <= n {
			<-time.After(time.Millisecond)
		}
		_ = c.Close()
	}
	if n := one.Snapshot().MaxConcurrent; n > 2 {
		t.Errorf("one at a time counted as %d", n)
	}

	d := startDevice(t, Config{MaxConnections: 2})
	for range 3 {
		// The third may be reset before or after its dial returned.
		if c, err := net.Dial("tcp", d.Addr().String()); err == nil {
			defer c.Close()
		}
	}
	for d.Snapshot().TooMany == 0 {
		<-time.After(time.Millisecond)
	}
	if s := d.Snapshot(); s.MaxConcurrent != 2 || s.TooMany != 1 {
		t.Errorf("three at once: %d, and %d refused", s.MaxConcurrent, s.TooMany)
	}
}

func TestAWrongLoginInSetupIsCounted(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "12", Tune: func(p *Personality) { p.AsksDigest = true }})
	c := newClient(t, d, sharedLab().tls())
	c.user, c.password = "admin", "Wrong1!pass"
	if status, _, err := c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", "")); err != nil || status != 401 {
		t.Errorf("a wrong password: %d %v, want 401", status, err)
	}
	c.password = "admin"
	c.get("AMT_GeneralSettings", "")
	if s := d.Snapshot(); s.LoginsFailed == 0 || s.WrongInARow != s.LoginsFailed || s.LoginsOK != 1 {
		t.Errorf("logins: %d wrong (%d in a row), %d right", s.LoginsFailed, s.WrongInARow, s.LoginsOK)
	}
}
