package provision

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// naming makes an engine that obeys the rules of names, as the server's does.
func (l *lab) naming() *Engine {
	e := l.newEngine("naming")
	e.Name = e.Store.(*Journal).Name
	e.ServesDomain = func(domain string) bool { return certs.ServesDomain(l.trust.list[0].Names, domain) }
	return e
}

// alike is a UUID that begins like all others of these tests' kind.
func alike(n byte) amt.UUID {
	u, _ := amt.ParseUUID("a1b2c3d4-0000-4000-8000-0000000000ff")
	u[len(u)-1] = n
	u[5], u[6] = n, n
	return u
}

// TestUUIDsThatBeginAlike: the second device gets a longer name, both at once or one
// after the other, and a certificate in it.
func TestUUIDsThatBeginAlike(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		e := l.naming()
		var devices []*sim.Device
		for n := range byte(3) {
			d := l.device("11", sim.Faults{}, func(c *sim.Config) { c.UUID = alike(n + 1) })
			l.hello(d)
			devices = append(devices, d)
		}
		var wg sync.WaitGroup
		for _, d := range devices {
			wg.Go(func() { l.settle(e, d) })
		}
		wg.Wait()
		var names []string
		for _, d := range devices {
			dev, _ := l.look(d)
			if dev.Lifecycle != store.Provisioned || dev.FQDN != d.Snapshot().HostName+".corp.example.com" {
				t.Errorf("%s: %s: %s %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, dev.FQDN, l.journal(d))
			}
			if slices.Contains(names, dev.FQDN) || !strings.HasPrefix(dev.FQDN, "amt-a1b2c3d4") {
				t.Errorf("%s is of two, or of another pattern", dev.FQDN)
			}
			if got := certificateName(t, d, l); got != dev.FQDN {
				t.Errorf("its certificate is for %s, not %s", got, dev.FQDN)
			}
			names = append(names, dev.FQDN)
		}
		// A name stays, also when the shorter one would be free.
		for _, d := range devices {
			before, _ := l.look(d)
			l.order(d, KindMaintain, "")
			if dev := l.settle(e, d); dev.FQDN != before.FQDN || dev.Reason != "" {
				t.Errorf("maintained it is %s, not %s (%s)", dev.FQDN, before.FQDN, dev.Detail)
			}
		}
	})
}

func certificateName(t *testing.T, d *sim.Device, l *lab) string {
	t.Helper()
	s, err := session.NewDialer(session.Config{}, nil, nil).Dial(t.Context(), session.Target{Addr: d.Addr(), Client: l.trust.console})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Peer().Chain[0].Subject.CommonName
}

// TestANameGivenTwice: the second device of a name waits with a reason, hears no
// password, and goes on when the first is retired.
func TestANameGivenTwice(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		e := l.naming()
		given := func(d *sim.Device) {
			name := "PC-7.corp.example.com"
			if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
				return tx.UpdateDevice(t.Context(), d.UUID(), store.DeviceFacts{FQDN: &name})
			}); err != nil {
				t.Fatal(err)
			}
		}
		first, second := l.device("11", sim.Faults{}), l.device("11", sim.Faults{})
		for _, d := range []*sim.Device{first, second} {
			l.hello(d)
			given(d)
			l.settle(e, d)
		}
		if dev, _ := l.look(first); dev.Lifecycle != store.Provisioned || dev.FQDN != "pc-7.corp.example.com" {
			t.Fatalf("%s: %s %s", dev.Lifecycle, dev.Detail, dev.FQDN)
		}
		dev, live := l.look(second)
		if dev.Lifecycle != store.Failed || dev.Reason != reason.NameTaken || live != 0 ||
			!strings.Contains(dev.Detail, first.UUID().String()) {
			t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(second))
		}
		if s := second.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 {
			t.Error("it heard a password")
		}
		if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
			return tx.Transition(t.Context(), store.Transition{UUID: first.UUID(), To: store.Retired, Event: "retired", Actor: "test"})
		}); err != nil {
			t.Fatal(err)
		}
		l.order(second, KindProvision, "")
		if dev := l.settle(e, second); dev.Lifecycle != store.Provisioned || dev.FQDN != "pc-7.corp.example.com" {
			t.Errorf("afterwards: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(second))
		}
	})
}

// TestAClashOfAnEarlierReleaseStays: two managed devices of one name keep it, and
// are maintained.
func TestAClashOfAnEarlierReleaseStays(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	l.prof.HostName = "pc-1"
	a, b := l.managed("11"), l.managed("11") // by an engine that claims nothing
	e := l.naming()
	for _, d := range []*sim.Device{a, b} {
		l.order(d, KindMaintain, "")
		if dev := l.settle(e, d); dev.Lifecycle != store.Provisioned || dev.Reason != "" || dev.FQDN != "pc-1.corp.example.com" {
			t.Errorf("%s: %s: %s: %s\n%s", dev.FQDN, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
	}
	c := l.device("11", sim.Faults{})
	l.hello(c)
	if dev := l.settle(e, c); dev.Reason != reason.NameTaken {
		t.Errorf("a third: %s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
	}
}

// TestAClashEndsNoMaintenance: a managed device that is given the name of another keeps
// its own and is maintained under that; the clash is a finding of it until it is
// resolved.
func TestAClashEndsNoMaintenance(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.again = true
		e := l.naming()
		maintain := func(d *sim.Device, task string) store.Device {
			t.Helper()
			l.order(d, KindMaintain, task)
			return l.settle(e, d)
		}
		call := func(d *sim.Device, name string) {
			t.Helper()
			if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
				return tx.UpdateDevice(t.Context(), d.UUID(), store.DeviceFacts{FQDN: &name})
			}); err != nil {
				t.Fatal(err)
			}
		}
		first, second := l.device("11", sim.Faults{}), l.device("11", sim.Faults{})
		for _, d := range []*sim.Device{first, second} {
			l.hello(d)
			l.settle(e, d)
		}
		call(first, "pc-7.corp.example.com")
		if dev := maintain(first, ""); dev.HostName != "pc-7" {
			t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(first))
		}
		bears, _ := l.look(second)
		old, _ := l.active(second)
		call(second, "pc-7.corp.example.com")
		e.Clock = laterClock{realClock{}, 800 * 24 * time.Hour} // its certificate is at its end
		dev := maintain(second, "")
		if dev.Lifecycle != store.Drifted || dev.Reason != reason.NameTaken || !strings.Contains(dev.Detail, first.UUID().String()) ||
			dev.Health != "ok" {
			t.Errorf("%s (%s): %s: %s\n%s", dev.Lifecycle, dev.Health, dev.Reason, dev.Detail, l.journal(second))
		}
		if steps := l.steps(second); steps["use_renewed"] != "done" || steps["save_changes"] != "done" {
			t.Errorf("its certificate was not renewed: %v", steps)
		}
		if dev.HostName != bears.HostName || dev.FQDN != "pc-7.corp.example.com" || second.Snapshot().HostName != bears.HostName ||
			dev.ProfileVersion != l.prof.Version {
			t.Errorf("it is called %s, wanted as %s, version %d", dev.HostName, dev.FQDN, dev.ProfileVersion)
		}
		if dev := maintain(second, TaskPassword); dev.Lifecycle != store.Drifted || dev.Reason != reason.NameTaken {
			t.Errorf("after another task: %s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
		}
		if c, takes := l.active(second); !takes || c.ID == old.ID {
			t.Errorf("its password was not changed: %d, taken %t\n%s", c.ID, takes, l.journal(second))
		}
		call(second, "pc-8.corp.example.com")
		if dev := maintain(second, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" || dev.HostName != "pc-8" {
			t.Errorf("resolved: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(second))
		}
	})
}

// suffixed is a device that reports another suffix than it judged our certificate by.
type suffixed struct {
	Device
	suffix string
}

func (s suffixed) Identify(ctx context.Context) (session.Identity, error) {
	id, err := s.Device.Identify(ctx)
	id.DHCPSuffix, id.TrustedSuffix = s.suffix, ""
	return id, err
}

// TestDomains: our CA signs no domain that a device makes up. A suffix that firmware
// would not have taken our certificate under proves the device false.
func TestDomains(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, suffix, given, domain string // domain: the profile's
		reason                      reason.Code
		ends                        store.Lifecycle
	}{
		{"ours", "corp.example.com", "", "", "", store.Provisioned},
		{"below ours", "berlin.corp.example.com", "", "", "", store.Provisioned},
		{"somebody else's", "accounts.bank.example", "", "", reason.SuffixContradiction, store.Quarantined},
		{"a public suffix", "com", "", "", reason.DomainNotAllowed, store.Failed},
		{"a name given in another domain", "corp.example.com", "pc.accounts.bank.example", "", reason.DomainNotAllowed, store.Failed},
		{"a name given below ours", "corp.example.com", "pc.lab.corp.example.com", "", "", store.Provisioned},
		{"the profile's own word", "corp.example.com", "", "lab.example", "", store.Provisioned},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, store.SQLite)
			l.prof.Domain = c.domain
			e := l.naming()
			dial := e.Dial
			e.Dial = func(ctx context.Context, t session.Target) (Device, error) {
				d, err := dial(ctx, t)
				if err != nil {
					return nil, err
				}
				return suffixed{d, c.suffix}, nil
			}
			d := l.device("11", sim.Faults{})
			l.hello(d)
			if c.given != "" {
				if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
					return tx.UpdateDevice(t.Context(), d.UUID(), store.DeviceFacts{FQDN: &c.given})
				}); err != nil {
					t.Fatal(err)
				}
			}
			dev := l.settle(e, d)
			if dev.Lifecycle != c.ends || dev.Reason != c.reason {
				t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			if s := d.Snapshot(); c.reason != "" && len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 {
				t.Error("it heard a password")
			}
		})
	}
	// What was named before stays named so.
	l := newLab(t, store.SQLite)
	l.prof.Domain = "bank.example"
	d := l.managed("11")
	l.prof.Domain = ""
	l.order(d, KindMaintain, "")
	if dev := l.settle(l.naming(), d); dev.Lifecycle != store.Provisioned || dev.Reason != "" || dev.Domain != "bank.example" {
		t.Errorf("%s: %s: %s %s", dev.Lifecycle, dev.Reason, dev.Detail, dev.Domain)
	}
}
