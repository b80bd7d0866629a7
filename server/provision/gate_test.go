package provision

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// firmware is a device that does with its trusted names what it wants.
type firmware struct {
	Device
	keeps int  // so many names are kept; the others are dropped
	lies  bool // it says that it kept all
	told  *[]string
}

func (f firmware) EnableTLS(ctx context.Context, mutual bool, names []string) error {
	*f.told = names
	return f.Device.EnableTLS(ctx, mutual, names[:min(f.keeps, len(names))])
}

func (f firmware) TLSMaterial(ctx context.Context) (session.TLSMaterial, error) {
	m, err := f.Device.TLSMaterial(ctx)
	for i := range m.Settings {
		if f.lies && network(m.Settings[i]) && len(m.Settings[i].TrustedCN) > 0 && len(*f.told) > 0 {
			m.Settings[i].TrustedCN = *f.told
		}
	}
	return m, err
}

// with makes an engine whose devices have this firmware.
func (l *lab) with(f firmware) *Engine {
	f.told = new([]string)
	e := l.newEngine("gate")
	dial := e.Dial
	e.Dial = func(ctx context.Context, t session.Target) (Device, error) {
		d, err := dial(ctx, t)
		if err != nil {
			return nil, err
		}
		f := f
		f.Device = d
		return f, nil
	}
	return e
}

// letsIn reports whether a device lets a console of a name through its TLS.
func (l *lab) letsIn(d *sim.Device, name string) bool {
	l.t.Helper()
	c := l.trust.console
	if name != c.Leaf.Subject.CommonName {
		c = l.trust.ConsoleAs(name)
	}
	s, err := session.NewDialer(session.Config{RefusedPatience: -1}, nil, nil).Dial(l.t.Context(),
		session.Target{Addr: d.Addr(), Client: c})
	if err != nil {
		if codeOf(err) != reason.TLSClientCertRefused {
			l.t.Errorf("%s: %v", name, err)
		}
		return false
	}
	_ = s.Close()
	return true
}

const stranger = "console.lab.example"

// TestTheGate: firmware that does not take our name is found out before the change
// counts, and has its old settings back; without the gate it is lost.
func TestTheGate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		before profile.TLSMode
		f      firmware
		fault  string
		commit bool // the change is committed before it is found out
	}{
		{"it says that it dropped our name", profile.TLSServer, firmware{keeps: 1}, "", false},
		{"it says that it has our name, and cuts the session at the commit", profile.TLSServer, firmware{keeps: 1, lies: true}, "", true},
		{"the names are in force at once, over the open session", profile.TLSMutual, firmware{keeps: 1, lies: true}, "", false},
		{"it says that it dropped our name, and asked for it already", profile.TLSMutual, firmware{keeps: 1}, "", false},
		{"the answer to the commit is lost", profile.TLSServer, firmware{keeps: 1, lies: true}, "drop_reply:CommitChanges#2", true},
		{"power is cut at the commit", profile.TLSServer, firmware{keeps: 1, lies: true}, "power_cycle:CommitChanges#2=keep", true},
	} {
		for _, gate := range []string{"", ", without the gate"} {
			t.Run(c.name+gate, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, store.SQLite)
				l.again = true
				l.prof.TLS = c.before
				d := l.managed("11", func(cfg *sim.Config) {
					if c.fault != "" {
						faults, err := sim.ParseFaults(c.fault)
						if err != nil {
							t.Fatal(err)
						}
						cfg.Faults = faults
					}
				})
				own := l.trust.console.Leaf.Subject.CommonName
				before := d.Snapshot()
				l.prof.TLS, l.prof.TrustedCN = profile.TLSMutual, []string{stranger}
				e := l.with(c.f)
				e.ungated = gate != ""
				l.order(d, KindMaintain, "")
				dev := l.settle(e, d)
				if e.ungated {
					if l.letsIn(d, own) {
						t.Errorf("without the gate nothing was lost, so this shows nothing\n%s", l.journal(d))
					}
					return
				}
				after := d.Snapshot()
				if dev.Lifecycle == store.Provisioned && dev.Reason == "" {
					t.Errorf("the change counts\n%s", l.journal(d))
				}
				if c.fault == "" && dev.Reason != reason.LockoutAverted {
					t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				if !l.letsIn(d, own) {
					t.Fatalf("this server is shut out: %+v\n%s", after.TrustedCN, l.journal(d))
				}
				if after.TLSMutual != before.TLSMutual || !slices.Equal(after.TrustedCN, before.TrustedCN) {
					t.Errorf("mutual %t, %v; it was %t, %v\n%s", after.TLSMutual, after.TrustedCN, before.TLSMutual, before.TrustedCN,
						l.journal(d))
				}
				if committed := after.Commits > before.Commits; committed != c.commit {
					t.Errorf("committed: %t", committed)
				}
				// With the profile put right it is maintained as before.
				l.prof.TrustedCN = nil
				l.prof.TLS = c.before
				if dev := l.do(d, KindMaintain, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
					t.Errorf("afterwards: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				l.invariants(d, dev)
			})
		}
	}
}

// TestAProfileThatNamesOthers: a bare device and a managed one that are told names of
// other consoles let this server in as well, and the console that is named.
func TestAProfileThatNamesOthers(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.again = true
		own := l.trust.console.Leaf.Subject.CommonName
		for _, personality := range []string{"6.1", "11", "18"} {
			l.prof = profile.Default()
			old := l.managed(personality)
			l.prof.TLS, l.prof.TrustedCN = profile.TLSMutual, []string{stranger}
			bare := l.managed(personality)
			if dev := l.do(old, KindMaintain, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
				t.Errorf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(old))
			}
			for _, d := range []*sim.Device{old, bare} {
				if !l.letsIn(d, own) || !l.letsIn(d, stranger) || l.letsIn(d, "console.other.example") {
					t.Errorf("AMT %s lets in %v", personality, d.Snapshot().TrustedCN)
				}
				if dev := l.do(d, KindRotate, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
					t.Errorf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
			}
			// Back to TLS that asks nobody: the same gate.
			l.prof.TLS, l.prof.TrustedCN = profile.TLSServer, nil
			if dev := l.do(bare, KindMaintain, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" || bare.Snapshot().TLSMutual {
				t.Errorf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(bare))
			}
		}
	})
}

// TestDevicesThatKnowUsByAnotherName: what an earlier release set up lets in names
// that the provisioning certificate's happened to have, or those of a version of its
// profile that nobody has any more. It stays reachable, and learns our name.
func TestDevicesThatKnowUsByAnotherName(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.again = true
		for _, forgotten := range []bool{false, true} {
			old, err := l.trust.ca.Console("prov.corp.example.com", l.engine.Clock.Now(), 1e15)
			if err != nil {
				t.Fatal(err)
			}
			l.trust.console = old
			l.prof.TLS, l.prof.TrustedCN = profile.TLSMutual, []string{"corp.example.com"}
			d := l.managed("11")
			if l.trust.console, err = l.trust.ca.Console(l.trust.ca.ConsoleName(), l.engine.Clock.Now(), 1e15); err != nil {
				t.Fatal(err)
			}
			own := l.trust.ca.ConsoleName()
			if l.letsIn(d, own) {
				t.Fatal("the new name comes in already, so this shows nothing")
			}
			e := l.newEngine("upgraded")
			if forgotten {
				l.prof.TrustedCN = []string{stranger}
				e.Trusted = func(context.Context, store.Device, string) ([]string, error) {
					return []string{"Corp.example.com"}, nil
				}
			}
			for _, kind := range []string{KindRotate, KindMaintain} {
				l.order(d, kind, "")
				if dev := l.settle(e, d); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
					t.Fatalf("%s: %s: %s: %s\n%s", kind, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
			}
			if !l.letsIn(d, own) {
				t.Errorf("it did not learn our name: %v", d.Snapshot().TrustedCN)
			}
		}
	})
}

// TestNoneTakesNoTLSAway: a managed device whose profile comes to want no TLS keeps
// what it has and stays reachable.
func TestNoneTakesNoTLSAway(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	l.again = true
	d := l.managed("11")
	l.prof.TLS, l.prof.Unprotected = profile.TLSNone, true
	for _, kind := range []string{KindMaintain, KindRotate} {
		if dev := l.do(d, kind, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
			t.Errorf("%s: %s: %s: %s\n%s", kind, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
	}
	if !d.Snapshot().TLSEnabled {
		t.Error("its TLS was taken away")
	}
	plain := l.managed("11") // set up without, from the start
	if dev := l.do(plain, KindRotate, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" || plain.Snapshot().TLSEnabled {
		t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(plain))
	}
}

// TestNoRoomForUs: a profile of an earlier release that fills all the names is not
// told to a device.
func TestNoRoomForUs(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	d := l.managed("11")
	l.prof.TLS, l.prof.TrustedCN = profile.TLSMutual, []string{"a.example", "b.example", "c.example", "d.example"}
	dev := l.do(d, KindMaintain, "")
	if dev.Reason != reason.LockoutAverted || !strings.Contains(dev.Detail, "take one out") || d.Snapshot().TLSMutual {
		t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
	}
}

// TestWhatIsPutBackIsWhatWasInForce: an earlier attempt told the device names of
// others and did not commit them. The next change is put back to what the device
// does, not to what it says.
func TestWhatIsPutBackIsWhatWasInForce(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	l.again = true
	d := l.managed("11")
	active, _ := l.active(d)
	own, root := l.trust.Console()
	s, err := session.NewDialer(session.Config{RefusedPatience: -1}, nil, nil).Dial(t.Context(), session.Target{Addr: d.Addr(), Client: own,
		Logins: []session.Login{{Name: "active", User: "admin", Password: active.Password}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddTrustedRoot(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if err := s.EnableTLS(t.Context(), true, []string{"console.third.example"}); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	l.prof.TLS, l.prof.TrustedCN = profile.TLSMutual, []string{stranger}
	l.order(d, KindMaintain, "")
	dev := l.settle(l.with(firmware{keeps: 1, lies: true}), d)
	if dev.Reason != reason.LockoutAverted || d.Snapshot().TLSMutual || !l.letsIn(d, own.Leaf.Subject.CommonName) {
		t.Errorf("%s: %s: %s; mutual %t, letting in %v\n%s", dev.Lifecycle, dev.Reason, dev.Detail, d.Snapshot().TLSMutual,
			d.Snapshot().TrustedCN, l.journal(d))
	}
}

// TestALostAnswerMeansAQuietTime, under whatever reason the attempt ends.
func TestALostAnswerMeansAQuietTime(t *testing.T) {
	t.Parallel()
	e := New(Config{Rand: simRand{rand.New(rand.NewPCG(1, 1))}}, zap.NewNop(), simMetrics)
	lost := &reason.Error{Code: reason.ConnectionLost, Sent: true, Err: errors.New("reset")}
	unheard := &reason.Error{Code: reason.ConnectionLost, Err: errors.New("reset")}
	for _, c := range []struct {
		what       string
		unanswered bool
		err        error
		quiet      bool
	}{
		{"the change itself", false, lost, true},
		{"a put-back, told under the reason of the change", false, reason.Because(reason.LockoutAverted, "shut out (%w), and not put back: %w", unheard, fmt.Errorf("tls: %w", lost)), true},
		{"an earlier commit, and then a question", true, unheard, true},
		{"only a question", false, unheard, false},
	} {
		for kind, verdict := range map[string]func(*Run, error) Verdict{KindProvision: (*Run).verdictBare,
			KindMaintain: (*Run).verdictManaged, KindUnprovision: (*Run).verdictLeaving} {
			r := &Run{e: e, unanswered: c.unanswered, Job: Job{Run: store.Run{Kind: kind}}}
			if v := verdict(r, c.err); v.Quiet > 0 != c.quiet {
				t.Errorf("%s, %s: quiet for %s", kind, c.what, v.Quiet)
			}
		}
	}
}

// TestLeftoversOfASetUp: an attempt told a device to ask consoles for certificates
// and did not commit that. Whatever the profile wants at the next one, the commit
// shuts nobody of us out.
func TestLeftoversOfASetUp(t *testing.T) {
	t.Parallel()
	for _, then := range []profile.TLSMode{profile.TLSNone, profile.TLSServer, profile.TLSMutual} {
		t.Run(string(then), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, store.SQLite)
			l.prof.TLS, l.prof.TrustedCN = profile.TLSMutual, []string{stranger}
			d := l.device("18", sim.Faults{})
			l.hello(d)
			if dev := l.settle(l.with(firmware{keeps: 1}), d); dev.Reason != reason.LockoutAverted || d.Snapshot().Commits != 0 {
				t.Fatalf("%s: %s: %s: this shows nothing\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			l.prof.TLS, l.prof.TrustedCN, l.prof.Unprotected = then, nil, then == profile.TLSNone
			l.hello(d)
			dev := l.settle(l.engine, d)
			if dev.Lifecycle != store.Provisioned || !l.letsIn(d, l.trust.console.Leaf.Subject.CommonName) {
				t.Errorf("%s: %s: %s; mutual %t, letting in %v\n%s", dev.Lifecycle, dev.Reason, dev.Detail, d.Snapshot().TLSMutual,
					d.Snapshot().TrustedCN, l.journal(d))
			}
			l.invariants(d, dev)
		})
	}
}
