package sim

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
)

const roguePassword = "R0gue!Passw0rd"

// committed is a device that was set up, and a relay to it.
func committed(t *testing.T, cfg Config) (*Device, *Relay) {
	t.Helper()
	d := startDevice(t, cfg)
	setUp(t, d, sharedLab())
	awaitState(t, d, amt.StatePost)
	awaitListening(t, d)
	return d, &Relay{Device: d.Addr(), From: ownAddress(), Password: roguePassword}
}

// at is a client that looks for a device at another address.
func at(t *testing.T, addr netip.AddrPort, cert *tls.Certificate) *client {
	t.Helper()
	c := newClient(t, &Device{cfg: Config{Addr: addr.Addr(), Port: addr.Port()}}, cert)
	c.user, c.password = "admin", adminPassword
	return c
}

// TestOneAnswerOpensTheDevice: whoever gets one answer made with the device's
// password owns it, on every generation, also where the answer covers the body;
// a wrong one opens nothing. The device tells afterwards whose password opened it.
func TestOneAnswerOpensTheDevice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		personality string
		tune        func(*Personality)
		rewrite     func(string) string
		qop         string
	}{
		{"3.2", nil, nil, "auth"}, // closes after each 401
		{"6.1", nil, nil, "auth"},
		{"9-401", nil, nil, "auth"},
		{"11", nil, nil, "auth"},
		{"11-eof", nil, nil, "auth"},
		{"15", nil, nil, "auth-int"}, // our client takes it where it is offered
		{"15", nil, func(s string) string { return strings.Replace(s, ",auth-int", "", 1) }, "auth"},
	} {
		t.Run(c.personality+" "+c.qop, func(t *testing.T) {
			t.Parallel()
			d, relay := committed(t, Config{Personality: c.personality, Tune: c.tune})
			relay.Rewrite = c.rewrite
			m, err := NewMiddle(MiddleConfig{Listen: netip.AddrPortFrom(relay.From, DefaultPort), Relay: relay})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			wrong := at(t, m.Listen, nil)
			wrong.password = "Wrong1!pass"
			if status, _, err := wrong.post(wrong.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", "")); err != nil || status != 401 {
				t.Errorf("a wrong password: %d %v", status, err)
			}
			if relay.Taken() || d.AcceptsAdmin("admin", roguePassword) {
				t.Fatal("a wrong answer opened the device")
			}
			us := at(t, m.Listen, nil)
			if got := field1(us.get("AMT_SetupAndConfigurationService", ""), "ProvisioningState"); got != "2" {
				t.Errorf("ProvisioningState %q", got)
			}
			if !relay.Taken() || !d.AcceptsAdmin("admin", roguePassword) || d.AcceptsAdmin("admin", adminPassword) {
				t.Error("one good answer did not open the device")
			}
			heard := relay.Heard()
			last := heard[len(heard)-1]
			if !last.Opened || !last.MadeWith(adminPassword) || last.MadeWith(roguePassword) || heard[0].MadeWith(adminPassword) ||
				last.Fields["qop"] != c.qop {
				t.Errorf("heard %+v", heard)
			}
			var by []netip.Addr
			for _, o := range d.Snapshot().Openings {
				if o.HA1 == ha1("admin", d.Realm(), roguePassword) {
					by = append(by, o.SetBy, o.From)
				}
			}
			if len(by) != 2 || by[0] != relay.From || by[1] != relay.From {
				t.Errorf("the device says that the rogue's password was set and used by %v", by)
			}
		})
	}
}

// TestALoginIsForTheConnection from AMT 6 on, until the accounts change; before
// that each request brings its own.
func TestALoginIsForTheConnection(t *testing.T) {
	t.Parallel()
	for personality, want := range map[string]int{"3.2": 401, "5": 401, "6": 200, "11": 200, "18": 200} {
		d, _ := committed(t, Config{Personality: personality, Tune: func(p *Personality) { p.CloseOn401 = false }})
		c := at(t, d.Addr(), nil)
		realm := field1(c.get("AMT_GeneralSettings", ""), "DigestRealm")
		ask := func() int {
			t.Helper()
			challenge, user := c.challenge, c.user
			c.challenge, c.user = nil, ""
			status, _, err := c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", ""))
			if err != nil {
				t.Fatal(err)
			}
			c.challenge, c.user = challenge, user
			return status
		}
		if got := ask(); got != want {
			t.Errorf("AMT %s: a request without a login after one with it: %d, want %d", personality, got, want)
		}
		c.must("AMT_AuthorizationService", "SetAdminAclEntryEx", digestArgs("admin", realm, "0ther!Passw0rd"))
		if got := ask(); got != 401 {
			t.Errorf("AMT %s: after the accounts changed: %d", personality, got)
		}
		if n := c.handshakes.Load(); n != 1 {
			t.Errorf("AMT %s: %d connections", personality, n)
		}
	}
}

// TestAMiddleTurns: a middle that lets everything pass is not noticed; it ends
// TLS itself once the device asks anybody for a login, or after it cut a line.
func TestAMiddleTurns(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "11"})
	relay := &Relay{Device: d.Addr(), From: ownAddress(), Password: roguePassword}
	m, err := NewMiddle(MiddleConfig{Listen: netip.AddrPortFrom(relay.From, DefaultPort), Relay: relay, Passes: relay.UntilOpen})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	before := at(t, m.Listen, sharedLab().tls())
	before.get("AMT_GeneralSettings", "")
	own, err := d.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if string(before.peer.Raw) != string(own.Certificate[0]) || m.Ended() != 0 {
		t.Error("in setup the middle ended TLS")
	}
	setUp(t, d, sharedLab())
	awaitState(t, d, amt.StatePost)
	awaitListening(t, d)
	after := at(t, m.Listen, nil)
	after.get("AMT_GeneralSettings", "")
	if string(after.peer.Raw) != string(m.Certificate.Certificate[0]) || !relay.Taken() {
		t.Error("after the commit the middle did not end TLS")
	}
	for _, o := range d.Snapshot().Openings {
		if o.From != relay.From && o.From != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("a caller behind the middle is %s to the device", o.From)
		}
	}

	second, cutting := committed(t, Config{Personality: "11"})
	m2, err := NewMiddle(MiddleConfig{Listen: netip.AddrPortFrom(cutting.From, DefaultPort), Relay: cutting, Passes: func(n int) int {
		if n == 1 {
			return 4000
		}
		return None
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer m2.Close()
	c := at(t, m2.Listen, nil)
	for end := time.Now().Add(patience); m2.Ended() == 0 && time.Now().Before(end); {
		_, _, _ = c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", ""))
	}
	if m2.Ended() == 0 || second.Snapshot().LoginsOK == 0 {
		t.Error("the line was not cut in the middle of a conversation")
	}
}

// TestARogueDevice: a device that is a rogue wants a certificate like one in
// setup, lets itself be set up, and asks for a login with another device's
// challenge, from the start or from a chosen call on.
func TestARogueDevice(t *testing.T) {
	t.Parallel()
	for _, asks := range []string{"", "SetAdminAclEntryEx"} {
		real, relay := committed(t, Config{Personality: "11"})
		rogue := startDevice(t, Config{Personality: "11", Realm: real.Realm(), Rogue: relay, Asks: asks,
			Tune: func(p *Personality) { p.AsksDigest = asks == "" }})
		c := newClient(t, rogue, sharedLab().tls())
		c.user, c.password = "admin", adminPassword
		c.get("AMT_GeneralSettings", "")
		if asks != "" {
			if n := len(relay.Heard()); n != 0 || relay.Taken() {
				t.Errorf("it asked before %s", asks)
			}
			c.must("AMT_AuthorizationService", asks, digestArgs("admin", rogue.Realm(), adminPassword))
			c.get("AMT_GeneralSettings", "")
		}
		if !relay.Taken() || !real.AcceptsAdmin("admin", roguePassword) {
			t.Errorf("asking from %q on, the rogue did not take the real device", asks)
		}
	}
}

// TestOddFirmware: no qop in the challenge, another certificate at each start in
// setup, and the factory's certificate after the commit.
func TestOddFirmware(t *testing.T) {
	t.Parallel()
	d, _ := committed(t, Config{Personality: "11"})
	d.mu.Lock()
	d.p.NoQop = true
	d.mu.Unlock()
	c := at(t, d.Addr(), nil)
	if status, _, err := c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", "")); err != nil || status != 401 {
		t.Errorf("an answer with a qop that was not offered: %d %v", status, err)
	}
	if _, offered := c.challenge["qop"]; offered {
		t.Error("the challenge names a qop")
	}
	relay := &Relay{Device: d.Addr(), From: ownAddress(), Password: adminPassword}
	if s, err := relay.do(rogueCall("AMT_GeneralSettings", nsXfer+"/Get", "")); err != nil || s.status != 200 {
		t.Errorf("an answer without qop: %v", err)
	}
	relay.close()

	fresh := startDevice(t, Config{Personality: "11", Tune: func(p *Personality) { p.NewSelfSign = true }})
	seen := map[string]bool{}
	for range 3 {
		c := newClient(t, fresh, sharedLab().tls())
		for end := time.Now().Add(patience); c.peer == nil && time.Now().Before(end); {
			_, _, _ = c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", ""))
		}
		seen[string(c.peer.Raw)] = true
		fresh.PowerCycle(true)
	}
	if len(seen) != 3 {
		t.Errorf("%d certificates in three starts", len(seen))
	}

	keeps := startDevice(t, Config{Personality: "11", Tune: func(p *Personality) { p.KeepsOwnCert = true }})
	s := setUp(t, keeps, sharedLab())
	awaitState(t, keeps, amt.StatePost)
	awaitListening(t, keeps)
	after := at(t, keeps.Addr(), nil)
	after.get("AMT_GeneralSettings", "")
	if string(after.peer.Raw) != string(s.peer.Raw) || keeps.Snapshot().Certificate == nil {
		t.Error("it shows another certificate than in setup, or none was configured")
	}
}
