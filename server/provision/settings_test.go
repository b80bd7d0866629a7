package provision

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// everySetting is a profile that wants every setting otherwise than a simulated
// device has it out of the box.
const everySetting = `{
	"network": {"ping": false, "rmcp_ping": false, "fqdn": "dedicated", "ddns": {"mode": "firmware", "ttl": "30m", "interval": "12h"}, "preferred_family": "ipv6"},
	"time": {"local_sync": false},
	"redirection": {"sol": true, "ider": true, "listener": true, "web_ui": true, "kvm": {"enabled": true, "session_timeout": "10m"}},
	"consent": {"required": "kvm", "code_timeout": "3m", "display_timeout": "4m"},
	"power": {"package": "on_in_s0", "idle_wake_timeout": "30m"},
	"users": {"digest": [{"name": "helpdesk", "realms": ["redirection", "remote-control", "event-log-reader"]}, {"name": "agent", "access": "local", "realms": ["general-info"]}],
		"kerberos": [{"account": "CORP\\AMT", "sid": "S-1-5-21-1-2-3-512", "access": "both", "realms": ["pt-administration"]}]}
}`

// arrived is what the simulator itself says where each wish of everySetting must have
// arrived: the setting, the class and field, and the value; since is the first
// release that has it.
var arrived = []struct {
	setting, class, field, want string
	since                       amt.Version
}{
	{"network", "AMT_GeneralSettings", "PingResponseEnabled", "false", amt.Version{}},
	{"network", "AMT_GeneralSettings", "RmcpPingResponseEnabled", "false", amt.Version{Major: 5}},
	{"network", "AMT_GeneralSettings", "SharedFQDN", "false", amt.Version{Major: 6}},
	{"network", "AMT_GeneralSettings", "DDNSUpdateEnabled", "true", amt.Version{Major: 6}},
	{"network", "AMT_GeneralSettings", "DDNSUpdateByDHCPServerEnabled", "false", amt.Version{Major: 6}},
	{"network", "AMT_GeneralSettings", "DDNSTTL", "1800", amt.Version{Major: 6}},
	{"network", "AMT_GeneralSettings", "DDNSPeriodicUpdateInterval", "720", amt.Version{Major: 6}},
	{"network", "AMT_GeneralSettings", "PreferredAddressFamily", "1", amt.Version{Major: 6}},
	{"network", "AMT_GeneralSettings", "IdleWakeTimeout", "30", amt.Version{}},
	{"time", "AMT_TimeSynchronizationService", "LocalTimeSyncEnabled", "2", amt.Version{Major: 8}},
	{"web_ui", "AMT_WebUIService", "EnabledState", "2", amt.Version{}},
	{"redirection", "AMT_RedirectionService", "EnabledState", "32771", amt.Version{}},
	{"redirection", "AMT_RedirectionService", "ListenerEnabled", "true", amt.Version{}},
	{"kvm", "CIM_KVMRedirectionSAP", "EnabledState", "2", amt.Version{Major: 6}},
	{"kvm_details", "IPS_KVMRedirectionSettingData", "SessionTimeout", "10", amt.Version{Major: 6}},
	{"consent", "IPS_OptInService", "OptInRequired", "1", amt.Version{Major: 6, Minor: 2}},
	{"consent", "IPS_OptInService", "OptInCodeTimeout", "180", amt.Version{Major: 6, Minor: 2}},
	{"consent", "IPS_OptInService", "OptInDisplayTimeout", "240", amt.Version{Major: 6, Minor: 2}},
}

func sections(t *testing.T, doc string) (s profile.Sections) {
	t.Helper()
	if err := json.Unmarshal([]byte(doc), &s); err != nil {
		t.Fatal(err)
	}
	p := profile.Default()
	p.Sections = s
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

// asWished holds the simulator's own account of itself against everySetting.
func (l *lab) asWished(d *sim.Device) {
	l.t.Helper()
	for _, a := range arrived {
		if have, is := d.Field(a.class, a.field); is && have != a.want {
			l.t.Errorf("%s: %s of %s is %s, want %s", a.setting, a.field, a.class, have, a.want)
		} else if !is && a.setting != "web_ui" && d.Snapshot().Version.AtLeast(a.since.Major, a.since.Minor) {
			l.t.Errorf("%s: the device has no %s", a.setting, a.field)
		}
	}
	for _, want := range []string{
		"helpdesk access 1 realms [2 5 19]", "agent access 0 realms [13]", "010500000000000515000000010000000200000003000000" +
			"00020000 access 2 realms [3]",
	} {
		if got := d.Users(); !slices.Contains(got, want) {
			l.t.Errorf("users: %q is not among %q", want, got)
		}
	}
	if got := d.Scheme(); got != "Mobile: ON in S0" {
		l.t.Errorf("power: the package is %q", got)
	}
}

func (l *lab) settingsOf(d *sim.Device) (all map[string]store.DeviceSetting) {
	l.t.Helper()
	if err := l.db.Read(l.t.Context(), func(tx *store.Tx) (err error) {
		all, err = tx.DeviceSettings(l.t.Context(), d.UUID())
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return all
}

func changes(d *sim.Device) (calls []string) {
	for _, c := range d.Snapshot().Changes {
		if strings.HasPrefix(c.Detail, "fault") {
			continue // it has no such class
		}
		calls = append(calls, c.Call)
	}
	return calls
}

// TestEverySetting: a device of any generation has, once it is set up, what its
// profile wants as far as its firmware can; a second look changes nothing.
func TestEverySetting(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, p := range sim.Personalities() {
			t.Run(p, func(t *testing.T) {
				t.Parallel()
				l := l.in(t)
				l.prof.Sections = sections(t, everySetting)
				d := l.managed(p)
				l.asWished(d)
				got := l.settingsOf(d)
				for _, name := range SettingNames() {
					since := amt.Version{}
					for _, a := range arrived {
						if a.setting == name {
							since = a.since
							break
						}
					}
					want := store.SettingOK
					if !d.Snapshot().Version.AtLeast(since.Major, since.Minor) || name == "web_ui" && d.Snapshot().Version.AtLeast(16, 0) {
						want = store.SettingUnsupported
					}
					if got[name].State != want {
						t.Errorf("%s is %q (%s), want %q", name, got[name].State, got[name].Detail, want)
					}
				}
				before := changes(d)
				dev := l.do(d, KindMaintain, "")
				if dev.Lifecycle != store.Provisioned || dev.Reason != "" {
					t.Errorf("%s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
				}
				if after := changes(d); len(after) != len(before) {
					t.Errorf("a second look changed %v", after[len(before):])
				}
			})
		}
	})
}

// TestSettingsBehindOurBack: what another console changes is found, said, and mended,
// or only said where the profile wants no more.
func TestSettingsBehindOurBack(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.prof.Sections = sections(t, everySetting)
		d := l.managed("11")
		for _, c := range []struct {
			name, says string
			rewrite    func(*sim.Consoles)
		}{
			{"network", "network.ping is true, not false", func(c *sim.Consoles) { *c.Ping = true }},
			{"network", "power.idle_wake_timeout is 7, not 30", func(c *sim.Consoles) { *c.IdleWake = 7 }},
			{"web_ui", "redirection.web_ui is in state 3, not 2", func(c *sim.Consoles) { *c.WebUI = 3 }},
			{"redirection", "redirection.sol is false, not true", func(c *sim.Consoles) { *c.Redirection = 32769 }},
			{"redirection", "redirection.listener is false, not true", func(c *sim.Consoles) { *c.Listener = false }},
			{"kvm", "redirection.kvm.enabled is in state 3, not 2", func(c *sim.Consoles) { *c.KVM = 3 }},
			{"consent", "consent.required is 0, not 1", func(c *sim.Consoles) { *c.OptIn = 0 }},
		} {
			d.Rewrite(c.rewrite)
			if dev := l.do(d, KindMaintain, TaskCheck); dev.Lifecycle != store.Drifted ||
				!strings.Contains(dev.Detail, c.name+": "+c.says) {
				t.Errorf("%s: %s: %s, want %q", c.name, dev.Lifecycle, dev.Detail, c.says)
			}
			if got := l.settingsOf(d)[c.name]; got.State != store.SettingDiffers || !strings.Contains(got.Detail, c.says) {
				t.Errorf("%s: %+v", c.name, got)
			}
			if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
				t.Errorf("%s is not mended: %s", c.name, dev.Detail)
			}
			l.asWished(d)
		}
		l.prof.Drift = "report"
		d.Rewrite(func(c *sim.Consoles) { *c.Ping = true })
		if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Drifted || !strings.Contains(dev.Detail, "network.ping") {
			t.Errorf("only to be reported: %s: %s", dev.Lifecycle, dev.Detail)
		}
		if v, _ := d.Field("AMT_GeneralSettings", "PingResponseEnabled"); v != "true" {
			t.Error("what was only to be reported was mended")
		}
	})
}

// TestAnotherConsoleWritesThis: a setting that is changed back again and again is
// left to whoever does it, until the profile has a new version.
func TestAnotherConsoleWritesThis(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.prof.Sections = sections(t, `{"network": {"ping": false}}`)
		d := l.managed("12")
		for i := range mostFlips {
			d.Rewrite(func(c *sim.Consoles) { *c.Ping = true })
			if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Provisioned {
				t.Fatalf("flip %d: %s: %s", i+1, dev.Lifecycle, dev.Detail)
			}
		}
		d.Rewrite(func(c *sim.Consoles) { *c.Ping = true })
		dev := l.do(d, KindMaintain, "")
		if got := l.settingsOf(d)["network"]; dev.Lifecycle != store.Drifted || got.State != store.SettingElsewhere ||
			!strings.Contains(dev.Detail, "another console writes this") {
			t.Errorf("%s: %s: %+v", dev.Lifecycle, dev.Detail, got)
		}
		if v, _ := d.Field("AMT_GeneralSettings", "PingResponseEnabled"); v != "true" {
			t.Error("it was mended once more")
		}
		l.prof.Version++
		if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Provisioned {
			t.Errorf("with a new version: %s: %s", dev.Lifecycle, dev.Detail)
		}
	})
}

// TestADeviceSaysNoToASetting: the rest of the profile reaches it all the same, and
// it is not asked again and again.
func TestADeviceSaysNoToASetting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		tune   func(*sim.Personality)
		faults []sim.Fault
		state  map[string]store.SettingState
		ends   store.Lifecycle
		needs  []string
	}{
		{"MEBx keeps consent", func(p *sim.Personality) { p.ConsentLocked = true }, nil, map[string]store.SettingState{"consent": store.SettingRefused}, store.Drifted, nil},
		{"no KVM", func(p *sim.Personality) { p.NoKVM = true }, nil, map[string]store.SettingState{"kvm": store.SettingUnsupported, "kvm_details": store.SettingUnsupported}, store.Provisioned, nil},
		{"no KVM, and required", func(p *sim.Personality) { p.NoKVM = true }, nil, map[string]store.SettingState{"kvm": store.SettingUnsupported, "kvm_details": store.SettingUnsupported}, store.Drifted, []string{"kvm"}},
		{"MEBx switched redirection off", func(p *sim.Personality) { p.NoRedirection = true }, nil, map[string]store.SettingState{"redirection": store.SettingUnsupported, "kvm": store.SettingUnsupported}, store.Provisioned, nil},
		{"a refusal", nil, []sim.Fault{sim.Refused("EnableLocalTimeSync", amt.StatusNotPermitted)}, map[string]store.SettingState{"time": store.SettingRefused}, store.Drifted, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(t *testing.T, l *lab) {
				l.prof.Sections = sections(t, everySetting)
				l.prof.Required = c.needs
				d := l.device("11", sim.With(c.faults...), func(cfg *sim.Config) { cfg.Tune = c.tune })
				l.hello(d)
				dev := l.settle(l.engine, d)
				if dev.Lifecycle != c.ends {
					t.Errorf("%s: %s", dev.Lifecycle, dev.Detail)
				}
				got := l.settingsOf(d)
				for _, name := range SettingNames() {
					want := c.state[name]
					if want == "" {
						want = store.SettingOK
					}
					if got[name].State != want {
						t.Errorf("%s is %q (%s), want %q", name, got[name].State, got[name].Detail, want)
					}
				}
				before := len(changes(d))
				l.do(d, KindMaintain, "")
				if after := changes(d); len(after) != before {
					t.Errorf("asked again: %v", after[before:])
				}
				if dev, _ := l.look(d); dev.Lifecycle != c.ends {
					t.Errorf("after another look: %s: %s", dev.Lifecycle, dev.Detail)
				}
			})
		})
	}
}

// TestFlashIsSpared: a device that takes no more writes is left alone for a day.
func TestFlashIsSpared(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.prof.Sections = sections(t, everySetting)
		d := l.device("11", sim.With(sim.Refused("EnableLocalTimeSync", amt.StatusFlashWriteLimit)))
		l.hello(d)
		dev := l.settle(l.engine, d)
		if dev.Lifecycle != store.Provisioned || dev.Reason != reason.FlashWriteLimit {
			t.Errorf("%s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
		}
	})
}

// TestSettingsDisasters: each change is lost, applied though its answer was lost, or
// met by a power cut, and the device has every setting in the end.
func TestSettingsDisasters(t *testing.T) {
	t.Parallel()
	calls := []string{"Put:AMT_GeneralSettings#2", "EnableLocalTimeSync", "RequestStateChange#1", "RequestStateChange#2",
		"Put:AMT_RedirectionService", "RequestStateChange#3",
		"Put:IPS_KVMRedirectionSettingData", "Put:IPS_OptInService", "SetPowerScheme"}
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, call := range calls {
			name, nth := call, 1
			if i := strings.IndexByte(call, '#'); i > 0 {
				name, nth = call[:i], int(call[i+1]-'0')
			}
			for _, x := range disasters {
				t.Run(fmt.Sprint(call, "/", x.name), func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					l.prof.Sections = sections(t, everySetting)
					d := l.managed("11", func(c *sim.Config) { c.Faults = sim.With(x.make(name, nth)) })
					if len(d.Snapshot().FaultsFired) == 0 {
						t.Error("the disaster did not happen")
					}
					l.asWished(d)
					dev, _ := l.look(d)
					l.invariants(d, dev)
				})
			}
		}
	})
}

// TestSettingNames: what a profile may require is what the list has.
func TestSettingNames(t *testing.T) {
	t.Parallel()
	if got := SettingNames(); !slices.Equal(got, profile.Settings) {
		t.Errorf("the list has %v, the profile knows %v", got, profile.Settings)
	}
}

// opens reports whether a user's active password lets it in.
func (l *lab) opens(d *sim.Device, name string) bool {
	l.t.Helper()
	var all []store.UserPassword
	if err := l.db.Read(l.t.Context(), func(tx *store.Tx) (err error) {
		all, err = tx.UserPasswords(l.t.Context(), d.UUID(), name)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	for _, u := range all {
		if u.State == store.CredentialActive {
			return d.AcceptsUser(name, u.Password.Reveal())
		}
	}
	return false
}

// TestUsers: each digest user has a password of its own that the store holds and that
// lets it in; others are left alone, or taken away where the profile says so.
func TestUsers(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		const doc = `{"users": {"digest": [{"name": "helpdesk", "realms": ["redirection"]}, {"name": "nurse", "realms": ["redirection"], "enabled": false}]}}`
		l.prof.Sections = sections(t, doc)
		d := l.managed("12")
		if !l.opens(d, "helpdesk") {
			t.Error("helpdesk cannot log in with the password stored")
		}
		d.AddUser("of another console", []string{"3"})
		if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Provisioned || len(d.Users()) != 3 {
			t.Errorf("%s: %s: %q", dev.Lifecycle, dev.Detail, d.Users())
		}
		l.prof.Users.Exclusive = true
		if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Provisioned || len(d.Users()) != 2 {
			t.Errorf("exclusive: %s: %s: %q", dev.Lifecycle, dev.Detail, d.Users())
		}
		l.prof.Users.Digest[0].Realms = []string{"redirection", "remote-control"}
		if dev := l.do(d, KindMaintain, TaskCheck); dev.Lifecycle != store.Drifted ||
			!strings.Contains(dev.Detail, "helpdesk has realms [2], not [2 5]") {
			t.Errorf("%s: %s", dev.Lifecycle, dev.Detail)
		}
		if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Provisioned || !l.opens(d, "helpdesk") ||
			!slices.Contains(d.Users(), "helpdesk access 1 realms [2 5]") {
			t.Errorf("%s: %s: %q", dev.Lifecycle, dev.Detail, d.Users())
		}
		if dev := l.do(d, KindRotate, ""); dev.Lifecycle != store.Provisioned || !l.opens(d, "helpdesk") {
			t.Errorf("after a new admin password: %s: %s", dev.Lifecycle, dev.Detail)
		}
	})
}

// TestUserDisasters: whatever is lost on the way, the store holds the password that
// the device takes from a user, and it is found.
func TestUserDisasters(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, call := range []string{"AddUserAclEntryEx", "EnumerateUserAclEntries", "GetUserAclEntryEx"} {
			for _, x := range disasters {
				t.Run(call+"/"+x.name, func(t *testing.T) {
					t.Parallel()
					l := l.in(t)
					l.prof.Sections = sections(t, `{"users": {"digest": [{"name": "helpdesk", "realms": ["redirection"]}]}}`)
					d := l.managed("11", func(c *sim.Config) { c.Faults = sim.With(x.make(call, 1)) })
					if len(d.Snapshot().FaultsFired) == 0 {
						t.Error("the disaster did not happen")
					}
					if !l.opens(d, "helpdesk") {
						t.Errorf("helpdesk cannot log in with the password stored\n%s", l.journal(d))
					}
				})
			}
		}
	})
}
