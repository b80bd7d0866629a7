package provision

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
)

// settings is the list, in the order in which a device gets them: what is quiet
// first, and the doors of consoles before the person at the PC is asked about them.
// Classes, fields and limits are Intel's (the SDK's class reference and the MOF files
// of its LMS); where these are silent, a comment says so.
var settings = []setting{
	values("network", "AMT_GeneralSettings", "", nil,
		wish{"network.ping", "PingResponseEnabled", yes(func(s *profile.Sections) *bool { return networkOf(s).Ping })},
		wish{"network.rmcp_ping", "RmcpPingResponseEnabled", yes(func(s *profile.Sections) *bool { return networkOf(s).RMCPPing })},
		wish{"network.fqdn", "SharedFQDN", word(func(s *profile.Sections) string { return networkOf(s).FQDN },
			map[string]string{"shared": "true", "dedicated": "false"})},
		wish{"network.ddns.mode", "DDNSUpdateEnabled", word(func(s *profile.Sections) string { return ddnsOf(s).Mode },
			map[string]string{"off": "false", "dhcp": "false", "firmware": "true"})},
		wish{"network.ddns.mode", "DDNSUpdateByDHCPServerEnabled", word(func(s *profile.Sections) string { return ddnsOf(s).Mode },
			map[string]string{"off": "false", "dhcp": "true", "firmware": "false"})},
		wish{"network.ddns.ttl", "DDNSTTL", count(func(s *profile.Sections) *profile.Duration { return ddnsOf(s).TTL }, time.Second)},
		wish{"network.ddns.interval", "DDNSPeriodicUpdateInterval",
			count(func(s *profile.Sections) *profile.Duration { return ddnsOf(s).Interval }, time.Minute)},
		wish{"network.preferred_family", "PreferredAddressFamily",
			word(func(s *profile.Sections) string { return networkOf(s).PreferredFamily }, map[string]string{"ipv4": "0", "ipv6": "1"})},
		wish{"power.idle_wake_timeout", "IdleWakeTimeout",
			count(func(s *profile.Sections) *profile.Duration { return powerOf(s).IdleWakeTimeout }, time.Minute)},
	),
	localTime,
	switched("web_ui", "AMT_WebUIService", "redirection.web_ui", func(s *profile.Sections) *bool { return redirectedOf(s).WebUI },
		[]string{"2"}, []string{"3"}),
	redirection,
	// 6 is on with nobody connected, which is how an idle device reads.
	switched("kvm", "CIM_KVMRedirectionSAP", "redirection.kvm.enabled", func(s *profile.Sections) *bool { return kvmOf(s).Enabled },
		[]string{"2", "6"}, []string{"3"}),
	values("kvm_details", "IPS_KVMRedirectionSettingData", "Intel(r) KVM Redirection Settings", nil,
		// The MOF says minutes and one page of the guide says seconds (UNSURE).
		wish{"redirection.kvm.session_timeout", "SessionTimeout",
			count(func(s *profile.Sections) *profile.Duration { return kvmOf(s).SessionTimeout }, time.Minute)},
	),
	values("consent", "IPS_OptInService", "", mayAsk,
		wish{"consent.required", "OptInRequired", word(func(s *profile.Sections) string { return consentOf(s).Required },
			map[string]string{"none": "0", "kvm": "1", "all": "4294967295"})},
		wish{"consent.code_timeout", "OptInCodeTimeout",
			count(func(s *profile.Sections) *profile.Duration { return consentOf(s).CodeTimeout }, time.Second)},
		wish{"consent.display_timeout", "OptInDisplayTimeout",
			count(func(s *profile.Sections) *profile.Duration { return consentOf(s).DisplayTimeout }, time.Second)},
	),
	powerPackage,
	users,
}

// The sections of a profile, empty where it has none.
func networkOf(s *profile.Sections) profile.Network        { return of(s.Network) }
func ddnsOf(s *profile.Sections) profile.DDNS              { return of(of(s.Network).DDNS) }
func redirectedOf(s *profile.Sections) profile.Redirection { return of(s.Redirection) }
func kvmOf(s *profile.Sections) profile.KVM                { return of(of(s.Redirection).KVM) }
func consentOf(s *profile.Sections) profile.Consent        { return of(s.Consent) }
func powerOf(s *profile.Sections) profile.Power            { return of(s.Power) }

func of[T any](section *T) (t T) {
	if section != nil {
		t = *section
	}
	return t
}

// yes, count and word say what a field is to hold, from a key of the profile.
func yes(key func(*profile.Sections) *bool) func(*profile.Sections) (string, bool) {
	return func(s *profile.Sections) (string, bool) {
		v := key(s)
		return strconv.FormatBool(of(v)), v != nil
	}
}

func count(key func(*profile.Sections) *profile.Duration, unit time.Duration) func(*profile.Sections) (string, bool) {
	return func(s *profile.Sections) (string, bool) {
		v := key(s)
		return strconv.FormatInt(int64(time.Duration(of(v))/unit), 10), v != nil
	}
}

func word(key func(*profile.Sections) string, words map[string]string) func(*profile.Sections) (string, bool) {
	return func(s *profile.Sections) (string, bool) {
		v, is := words[key(s)]
		return v, is
	}
}

// mayAsk reports why a device does not let its consent be changed: MEBx can keep that
// to the person at the machine.
func mayAsk(in *session.Instance) error {
	if v, is := in.Value("CanModifyOptInPolicy"); is && !session.IsTrue(v) {
		return reason.Because(reason.WSMANFault, "MEBx keeps user consent to the person at the machine: %w", amt.StatusNotPermitted)
	}
	return nil
}

// Whether the operating system may set the clock is a method, and reads as three
// numbers of which two mean yes (MOF of AMT_TimeSynchronizationService).
var localTime = setting{
	name:  "time",
	wants: func(s *profile.Sections) bool { return of(s.Time).LocalSync != nil },
	differs: func(ctx context.Context, r *Run) ([]string, error) {
		in, err := r.Device.Instance(ctx, "AMT_TimeSynchronizationService", "")
		if err != nil {
			return nil, err
		}
		have, is := in.Value("LocalTimeSyncEnabled")
		want := *r.Profile.Time.LocalSync
		switch {
		case !is:
			return nil, reason.Because(reason.WSMANFault, "the operating system of this release cannot set the clock: %w", stateUnsupported)
		case want == (have == "2"):
			return []string{fmt.Sprintf("time.local_sync is %t, not %t", !want, want)}, nil
		}
		return nil, nil
	},
	write: func(ctx context.Context, r *Run) error {
		return r.Device.Invoke(ctx, "AMT_TimeSynchronizationService", "EnableLocalTimeSync",
			session.Arg{Name: "Enable", Value: strconv.FormatBool(*r.Profile.Time.LocalSync)})
	},
}

// The service of serial line and drives has one state for both, and its listener is a
// field that goes with it: the state first, then the whole instance back.
var redirection = setting{
	name: "redirection",
	wants: func(s *profile.Sections) bool {
		w := redirectedOf(s)
		return w.SOL != nil || w.IDER != nil || w.Listener != nil
	},
	differs: func(ctx context.Context, r *Run) ([]string, error) {
		_, _, _, words, err := r.redirectionOf(ctx)
		return words, err
	},
	write: func(ctx context.Context, r *Run) error {
		in, state, listener, _, err := r.redirectionOf(ctx)
		if err != nil {
			return err
		}
		if !in.Has("EnabledState", state) {
			if err := r.Device.Invoke(ctx, in.Class, "RequestStateChange", session.Arg{Name: "RequestedState", Value: state}); err != nil {
				return err
			}
			if in, err = r.Device.Instance(ctx, in.Class, ""); err != nil {
				return err
			}
		}
		if v, _ := in.Value("ListenerEnabled"); session.IsTrue(v) == listener {
			return nil
		}
		in.Set("ListenerEnabled", strconv.FormatBool(listener))
		in.Set("EnabledState", state)
		return r.Device.Put(ctx, in)
	},
}

// redirectionOf reads the service, and says what its state and listener are to be.
func (r *Run) redirectionOf(ctx context.Context) (in *session.Instance, state string, listener bool, words []string, err error) {
	in, err = r.Device.Instance(ctx, "AMT_RedirectionService", "")
	if err != nil {
		return nil, "", false, nil, err
	}
	const off, ider, sol = 32768, 1, 2
	text, _ := in.Value("EnabledState")
	have, err := strconv.Atoi(text)
	if err != nil || have < off || have > off+ider+sol {
		return nil, "", false, nil, reason.Because(reason.WSMANInvalid, "the redirection service is in state %q", text)
	}
	want := have
	for _, part := range []struct {
		key  string
		bit  int
		wish *bool
	}{{"redirection.ider", ider, redirectedOf(&r.Profile.Sections).IDER}, {"redirection.sol", sol, redirectedOf(&r.Profile.Sections).SOL}} {
		if is := (have-off)&part.bit != 0; part.wish != nil && *part.wish != is {
			want ^= part.bit // off has neither bit
			words = append(words, fmt.Sprintf("%s is %t, not %t", part.key, is, *part.wish))
		}
	}
	v, _ := in.Value("ListenerEnabled")
	listener = session.IsTrue(v)
	if wish := redirectedOf(&r.Profile.Sections).Listener; wish != nil && *wish != listener {
		words = append(words, fmt.Sprintf("redirection.listener is %t, not %t", listener, *wish))
		listener = *wish
	}
	return in, strconv.Itoa(want), listener, words, nil
}

// A device offers a few power packages, each with an identity of its maker's and a
// description. "always" is the one that wakes firmware while the PC is off.
var powerPackage = setting{
	name:  "power",
	wants: func(s *profile.Sections) bool { return powerOf(s).Package != "" },
	differs: func(ctx context.Context, r *Run) ([]string, error) {
		want, have, err := r.packages(ctx)
		if err != nil || want.ID == have {
			return nil, err
		}
		name, _ := want.Value("Description")
		return []string{fmt.Sprintf("power.package is %s, not %s (%s)", have, want.ID, name)}, nil
	},
	write: func(ctx context.Context, r *Run) error {
		want, _, err := r.packages(ctx)
		if err != nil {
			return err
		}
		return r.Device.InvokeOn(ctx, want, "SetPowerScheme")
	},
}

// packages finds the power package that is wanted, and which one is in force.
func (r *Run) packages(ctx context.Context) (want *session.Instance, have string, err error) {
	all, err := r.Device.Instances(ctx, "AMT_SystemPowerScheme")
	if err != nil {
		return nil, "", err
	}
	wish := powerOf(&r.Profile.Sections).Package
	var offers []string
	for _, in := range all {
		text, _ := in.Value("Description")
		offers = append(offers, text)
		wakes := strings.Contains(text, "ME Wake") || strings.Contains(text, "S3")
		if text == wish || wish == "always" && wakes || wish == "on_in_s0" && !wakes {
			want = in
			break
		}
	}
	if want == nil {
		return nil, "", reason.Because(reason.WSMANFault, "no power package of this device is %q; it has %s: %w", wish,
			strings.Join(offers, "; "), amt.StatusInvalidParameter)
	}
	current, err := r.Device.Instances(ctx, "CIM_ElementSettingData")
	if err != nil {
		return nil, "", err
	}
	for _, in := range current {
		if v, _ := in.Value("IsCurrent"); v == "1" && in.Refers("SettingData", "AMT_SystemPowerScheme") != "" {
			have = in.Refers("SettingData", "AMT_SystemPowerScheme")
		}
	}
	return want, have, nil
}
