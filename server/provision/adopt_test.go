package provision

import (
	"context"
	"crypto/rand"
	"net/netip"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// imported makes the row of a device that never said hello, the password that a
// person knows for it, and the run that tries it.
func (l *lab) imported(d *sim.Device, password string) {
	l.t.Helper()
	ctx := l.t.Context()
	if err := l.db.Write(ctx, func(tx *store.Tx) error {
		a := d.Addr().Addr()
		if _, err := tx.Device(ctx, d.UUID()); err != nil {
			if err := tx.ImportDevice(ctx, d.UUID(), "test", store.DeviceFacts{Address: &a}); err != nil {
				return err
			}
		}
		mebx, err := amt.NewMEBxPassword(rand.Reader)
		if err != nil {
			return err
		}
		if _, err := tx.StageCredentials(ctx, d.UUID(), 0, amt.NewSecret(password), mebx); err != nil {
			return err
		}
		if err := tx.Vouch(ctx, d.UUID(), nil); err != nil {
			return err
		}
		_, err = tx.CreateRun(ctx, store.NewRun{UUID: d.UUID(), Kind: KindProvision, Trigger: "api"})
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
}

// TestAdoption: a device that another server set up says no hello. Imported with
// its address it is under management after one login with the password somebody
// knows, and nothing about it is changed; then it gets one of its own.
func TestAdoption(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		other := newLab(t, store.SQLite)
		for _, personality := range []string{"3.2", "11", "18"} {
			d := other.managed(personality)
			known, _ := other.active(d)
			before := d.Snapshot()

			l.imported(d, "Wrong-Pass-1!")
			if dev := l.settle(l.engine, d); dev.Lifecycle != store.CredentialsUnknown || dev.Reason != reason.CredentialsUnknown {
				t.Fatalf("AMT %s, another password: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			l.imported(d, known.Password.Reveal())
			dev := l.settle(l.engine, d)
			if dev.Lifecycle != store.Provisioned || dev.Reason != "" || dev.MAC == "" || dev.Version.IsZero() {
				t.Fatalf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			if c, takes := l.active(d); !takes || !c.Password.Equal(known.Password) {
				t.Errorf("AMT %s: the active password is not the one it was adopted with", personality)
			}
			if after := d.Snapshot(); after.Commits != 1 || after.HostName != before.HostName || !other.holds(d) {
				t.Errorf("AMT %s: the adoption changed it: %+v, was %+v", personality, after, before)
			}

			if dev := l.do(d, KindRotate, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
				t.Fatalf("AMT %s: rotate: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			if _, takes := l.active(d); !takes || other.holds(d) {
				t.Errorf("AMT %s: after the rotation the device takes the old password: %t, ours: %t", personality, other.holds(d), takes)
			}

			// One that a person typed and nobody needed is not what the next rotation sets.
			l.imported(d, "Typed-Pass-1!")
			if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
				t.Fatalf("AMT %s, asked again: %s: %s: %s", personality, dev.Lifecycle, dev.Reason, dev.Detail)
			}
			if dev := l.do(d, KindRotate, ""); dev.Lifecycle != store.Provisioned || d.AcceptsAdmin("admin", "Typed-Pass-1!") {
				t.Errorf("AMT %s: the rotation set what a person typed (%s)", personality, dev.Lifecycle)
			}
		}
	})
}

// TestDerivedAdoption: of a device that Intel SCS set up only its domain's digest
// master password is known. It is under management after a few logins, never
// more than an attempt may spend; one whose password is no derived one is left
// alone.
func TestDerivedAdoption(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		other := newLab(t, store.SQLite)
		other.prof.Passwords = "derived"
		master := amt.NewSecret("Master-Of-All-1")
		for of, domain := range map[*lab]string{l: "scs.example.com", other: "*"} {
			if err := of.db.Write(t.Context(), func(tx *store.Tx) error {
				return tx.PutSealedSetting(t.Context(), store.MasterPasswordKey(domain), master)
			}); err != nil {
				t.Fatal(err)
			}
		}
		random, derived := other.managed("11"), other.managed("11") // one as its setup left it
		if dev := other.do(derived, KindRotate, ""); dev.Reason != "" {
			t.Fatalf("%s: %s", dev.Reason, dev.Detail)
		}
		name := "pc1.scs.example.com"
		adopt := func(d *sim.Device) store.Device {
			t.Helper()
			if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
				a := d.Addr().Addr()
				if err := tx.ImportDevice(t.Context(), d.UUID(), "test", store.DeviceFacts{Address: &a, FQDN: &name}); err != nil {
					return err
				}
				run, err := tx.CreateRun(t.Context(), store.NewRun{UUID: d.UUID(), Kind: KindProvision, Trigger: "api"})
				if err != nil {
					return err
				}
				admin, _ := amt.NewAdminPassword(rand.Reader)
				mebx, _ := amt.NewMEBxPassword(rand.Reader)
				if _, err = tx.StageCredentials(t.Context(), d.UUID(), run.ID, admin, mebx); err != nil {
					return err
				}
				return tx.Vouch(t.Context(), d.UUID(), nil)
			}); err != nil {
				t.Fatal(err)
			}
			before := d.Snapshot().LoginsFailed
			dev := l.settle(l.engine, d)
			if n := d.Snapshot().LoginsFailed - before; n > maxProbes {
				t.Errorf("%d wrong logins, at most %d", n, maxProbes)
			}
			return dev
		}
		if dev := adopt(derived); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
			t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(derived))
		}
		if c, takes := l.active(derived); !takes || derived.Snapshot().Commits != 1 {
			t.Errorf("the active password works: %t (%s)", takes, credentialName(c))
		}
		if dev := adopt(random); dev.Lifecycle != store.CredentialsUnknown || dev.Reason != reason.CredentialsUnknown {
			t.Errorf("another password: %s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
		}
		if dev := l.do(derived, KindRotate, ""); dev.Lifecycle != store.Provisioned || other.holds(derived) {
			t.Errorf("after the rotation: %s: %s", dev.Lifecycle, dev.Reason)
		}
	})
}

// holds reports whether a device still takes the password this store believes in.
func (l *lab) holds(d *sim.Device) bool {
	_, takes := l.active(d)
	return takes
}

// TestOnlyDevicesSetUpAreAdopted: one that still waits to be set up is told
// nothing, in whichever way it meets us; its hello brings it in.
func TestOnlyDevicesSetUpAreAdopted(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for name, change := range map[string]func(*sim.Config){
			"wants a certificate":      func(*sim.Config) {},
			"wants a password as well": func(c *sim.Config) { c.Tune = func(p *sim.Personality) { p.AsksDigest = true } },
		} {
			d := l.device("11", sim.Faults{}, change)
			l.imported(d, "Known-Pass-1!")
			_, live := l.look(d)
			if _, err := l.engine.Work(t.Context(), live); err != nil {
				t.Fatal(err)
			}
			dev, _ := l.look(d)
			snap := d.Snapshot()
			if dev.Reason != reason.RootNotTrusted || dev.Lifecycle != store.PendingCertificate || snap.State != amt.StateIn ||
				d.AcceptsAdmin("admin", "Known-Pass-1!") {
				t.Errorf("%s: %s: %s: %s; the device is in %s mode\n%s", name, dev.Lifecycle, dev.Reason, dev.Detail, snap.State,
					l.journal(d))
			}
			// The newest passwords were never sent, so that its hello needs no others.
			if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
				a := d.Addr().Addr()
				if _, _, err := tx.SeeHello(t.Context(), store.SeenHello{UUID: d.UUID(), From: netip.AddrPortFrom(a, 40000), Address: a,
					Version: 3, Hashes: l.roots()}); err != nil {
					return err
				}
				_, err := tx.CreateRun(t.Context(), store.NewRun{UUID: d.UUID(), Kind: KindProvision, Trigger: "hello"})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
				t.Errorf("%s, after its hello: %s: %s: %s\n%s", name, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			if d.AcceptsAdmin("admin", "Known-Pass-1!") {
				t.Errorf("%s: it was given the password that a person typed, which other devices may have", name)
			}
		}
	})
}

// pretender is a device that is set up, takes the password, and says that it is
// not set up.
type pretender struct{ Device }

func (p pretender) Identify(ctx context.Context) (session.Identity, error) {
	id, err := p.Device.Identify(ctx)
	id.State = amt.StateIn
	return id, err
}

// TestAPretenderIsToldNothing: whoever waits at an imported address and says that
// it wants to be set up gets no password that a person typed.
func TestAPretenderIsToldNothing(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		other := newLab(t, store.SQLite)
		d := other.managed("11")
		known, _ := other.active(d)
		l.imported(d, known.Password.Reveal())
		dial := l.engine.Dial
		l.engine.Dial = func(ctx context.Context, target session.Target) (Device, error) {
			s, err := dial(ctx, target)
			if err != nil {
				return nil, err
			}
			return pretender{s}, nil
		}
		_, live := l.look(d)
		if _, err := l.engine.Work(t.Context(), live); err != nil {
			t.Fatal(err)
		}
		dev, _ := l.look(d)
		if dev.Reason != reason.RootNotTrusted || !other.holds(d) {
			t.Errorf("%s: %s: %s; the password it had still works: %t\n%s", dev.Lifecycle, dev.Reason, dev.Detail, other.holds(d),
				l.journal(d))
		}
		for _, c := range append(l.credentials(d, store.KindAdmin), l.credentials(d, store.KindMEBx)...) {
			if !c.SentAt.IsZero() {
				t.Errorf("%s password of generation %d was sent", c.Kind, c.Generation)
			}
		}
	})
}
