package provision

import (
	"context"
	"encoding/base64"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// managed sets a device up and checks that it stands as it should.
func (l *lab) managed(personality string, change ...func(*sim.Config)) *sim.Device {
	l.t.Helper()
	d := l.device(personality, sim.Faults{}, change...)
	l.hello(d)
	if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
		l.t.Fatalf("setup: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
	}
	return d
}

// order makes a run of a kind for a device.
func (l *lab) order(d *sim.Device, kind, task string) int64 {
	l.t.Helper()
	var id int64
	if err := l.db.Write(l.t.Context(), func(tx *store.Tx) error {
		run, err := tx.CreateRun(l.t.Context(), store.NewRun{UUID: d.UUID(), Kind: kind, Trigger: "api", Task: task})
		id = run.ID
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return id
}

func (l *lab) do(d *sim.Device, kind, task string) store.Device {
	l.t.Helper()
	l.order(d, kind, task)
	return l.settle(l.engine, d)
}

func (l *lab) credentials(d *sim.Device, kind string) (list []store.Credential) {
	l.t.Helper()
	if err := l.db.Read(context.WithoutCancel(l.t.Context()), func(tx *store.Tx) (err error) {
		list, err = tx.Credentials(context.Background(), d.UUID(), kind)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return list
}

// active is the password the store believes in, and whether the device takes it.
func (l *lab) active(d *sim.Device) (c store.Credential, takes bool) {
	l.t.Helper()
	for _, c := range l.credentials(d, store.KindAdmin) {
		if c.State == store.CredentialActive {
			return c, d.AcceptsAdmin("admin", c.Password.Reveal())
		}
	}
	return c, false
}

func (l *lab) steps(d *sim.Device) map[string]string {
	l.t.Helper()
	out := map[string]string{}
	_ = l.db.Read(context.WithoutCancel(l.t.Context()), func(tx *store.Tx) error {
		runs, _ := tx.Runs(context.Background(), d.UUID(), 1)
		for _, r := range runs {
			steps, _ := tx.Steps(context.Background(), r.ID)
			for _, s := range steps {
				out[s.Name] = s.State
			}
		}
		return nil
	})
	return out
}

// TestRotation: the device takes the new password, the store calls it active,
// and the old one is kept.
func TestRotation(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, personality := range []string{"3.2", "9", "11", "16", "18"} {
			d := l.managed(personality)
			before, _ := l.active(d)
			dev := l.do(d, KindRotate, "")
			if dev.Lifecycle != store.Provisioned || dev.Reason != "" {
				t.Fatalf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			after, takes := l.active(d)
			if after.SentAt.IsZero() || !after.SentAt.Before(after.ActivatedAt) && !after.SentAt.Equal(after.ActivatedAt) {
				t.Errorf("AMT %s: sent at %s, active at %s", personality, after.SentAt, after.ActivatedAt)
			}
			if !takes || after.Generation <= before.Generation || after.Password.Equal(before.Password) {
				t.Errorf("AMT %s: active is generation %d (was %d), taken: %t", personality, after.Generation, before.Generation, takes)
			}
			kept := false
			for _, c := range l.credentials(d, store.KindAdmin) {
				kept = kept || c.ID == before.ID && c.State == store.CredentialRetired && c.Password.Equal(before.Password)
			}
			if !kept {
				t.Errorf("AMT %s: the old password is not kept as retired", personality)
			}
			if d.Snapshot().Commits != 1 {
				t.Errorf("AMT %s: committed %d times", personality, d.Snapshot().Commits)
			}
		}
	})
}

// TestOnlyWhatIsDue: a device as wanted is looked at and not changed; one that
// is not is put right, and then as wanted again.
func TestOnlyWhatIsDue(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	for _, personality := range []string{"6.1", "11", "18"} {
		t.Run(personality, func(t *testing.T) {
			l := l.in(t)
			d := l.managed(personality)
			dev := l.do(d, KindMaintain, "")
			steps := l.steps(d)
			if dev.Lifecycle != store.Provisioned || steps["renew_key"] != "skipped" || steps["save_changes"] != "skipped" ||
				steps["change_password"] != "skipped" {
				t.Errorf("a device as wanted: %s %s %v\n%s", dev.Lifecycle, dev.Detail, steps, l.journal(d))
			}
			// The certificate comes to its end: 20 days are left of the 825.
			pin := dev.PeerFingerprint
			l.prof.CertificateDays = 20
			l.do(d, KindMaintain, "cert") // a day old it is not: named, and left alone
			if got := l.steps(d); got["renew_certificate"] != "skipped" {
				t.Errorf("a certificate of today was renewed: %v", got)
			}
			e := l.newEngine("later")
			e.Clock = laterClock{realClock{}, 800 * 24 * time.Hour}
			l.prof.CertificateDays = 825
			l.order(d, KindMaintain, "cert")
			dev = l.settle(e, d)
			steps = l.steps(d)
			if dev.Lifecycle != store.Provisioned || steps["use_renewed"] != "done" || steps["save_changes"] != "done" {
				t.Fatalf("renewal: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			if string(pin) == string(dev.PeerFingerprint) {
				t.Error("the device's certificate is renewed and the pin is not")
			}
			// The old certificate and its key are gone: one of ours is left.
			if n := l.ours(d); n != 1 {
				t.Errorf("%d certificates of ours are in the device", n)
			}
		})
	}
}

// laterClock is some time ahead, so that things come to their end.
type laterClock struct {
	realClock
	ahead time.Duration
}

func (c laterClock) Now() time.Time { return time.Now().Add(c.ahead) }

// look inside the device as its administrator.
func (l *lab) admin(d *sim.Device) *session.Session {
	l.t.Helper()
	c, _ := l.active(d)
	client, _ := l.trust.Console()
	s, err := session.NewDialer(session.Config{}, nil, nil).Dial(l.t.Context(), session.Target{Addr: d.Addr(), Client: client,
		Logins: []session.Login{{Name: "test", User: "admin", Password: c.Password}}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (l *lab) ours(d *sim.Device) (n int) {
	l.t.Helper()
	m, err := l.admin(d).TLSMaterial(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, c := range m.Certificates {
		if !c.Trusted && l.trust.IssuedByUs(c.DER) {
			n++
		}
	}
	return n
}

// TestDrift: somebody renamed the device and switched its TLS. Asked to check,
// the run says so and changes nothing; the next one puts it right.
func TestDrift(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	d := l.managed("11")
	s := l.admin(d)
	if err := s.SetHostName(t.Context(), "somebody-else", "example.org"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddTrustedRoot(t.Context(), l.trust.ca.Certificate().Raw); err != nil {
		t.Fatal(err)
	}
	if err := s.EnableTLS(t.Context(), true, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	dev := l.do(d, KindMaintain, TaskCheck)
	if dev.Lifecycle != store.Drifted || dev.Reason != reason.ProfileDrift || !strings.Contains(dev.Detail, "somebody-else.example.org") ||
		!strings.Contains(dev.Detail, "mutual TLS is true") {
		t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
	}
	dev = l.do(d, KindMaintain, "")
	if dev.Lifecycle != store.Provisioned || dev.Reason != "" || dev.Detail != "" {
		t.Fatalf("put right: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
	}
	if snap := d.Snapshot(); snap.HostName == "somebody-else" {
		t.Errorf("the device is still called %s", snap.HostName)
	}
}

// TestMutualTLS: the profile with mutual TLS goes the whole road, and the
// device is met again with a console certificate.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.prof.TLS, l.prof.TrustedCN = profile.TLSMutual, []string{"corp.example.com"}
		for _, personality := range []string{"6.1", "11", "18"} {
			d := l.managed(personality)
			dev := l.do(d, KindRotate, "")
			if _, takes := l.active(d); !takes || dev.Lifecycle != store.Provisioned {
				t.Errorf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			dev = l.do(d, KindUnprovision, "full")
			if dev.Lifecycle != store.Unprovisioned {
				t.Errorf("AMT %s: %s: %s: %s\n%s", personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
		}
	})
}

// TestUnprovision: full and partial, on every generation that differs.
func TestUnprovision(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range []struct {
			personality, mode string
			ends              amt.ProvisioningState
		}{{"11", "full", amt.StatePre}, {"11", "decommission", amt.StatePre}, {"11", "partial", amt.StateIn}, {"18", "full", amt.StatePre},
			{"6.1", "partial", amt.StateIn}} {
			d := l.managed(c.personality)
			active, _ := l.active(d)
			dev := l.do(d, KindUnprovision, c.mode)
			want := store.Unprovisioned
			if c.mode == "decommission" {
				want = store.Retired
			}
			if dev.Lifecycle != want || d.Snapshot().State != c.ends {
				t.Fatalf("AMT %s, %s: %s (device %s): %s: %s\n%s", c.personality, c.mode, dev.Lifecycle, d.Snapshot().State, dev.Reason,
					dev.Detail, l.journal(d))
			}
			if still, _ := l.active(d); still.ID != active.ID {
				t.Errorf("AMT %s, %s: the password was not kept", c.personality, c.mode)
			}
			if c.mode == "partial" { // it says hello again, and can be set up again
				l.hello(d)
				if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
					t.Errorf("AMT %s, again: %s: %s: %s\n%s", c.personality, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
			}
		}
	})
}

// TestManagedRefusals: what a managed device says no to has a name, and the
// device stays where it is.
func TestManagedRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	for _, c := range []struct {
		name, faults, kind, task string
		want                     reason.Code
		ends                     store.Lifecycle
	}{
		{"auditor", "refuse:Unprovision#all=2076", KindUnprovision, "full", reason.UnprovisionBlocked, store.Provisioned},
		{"auditor, for good", "refuse:Unprovision#all=2076", KindUnprovision, "decommission", reason.UnprovisionBlocked, store.Provisioned},
		{"password refused", "refuse:SetAdminAclEntryEx#2=2054", KindRotate, "", reason.AdminPasswordRejected, store.Provisioned},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := l.in(t)
			faults, err := sim.ParseFaults(c.faults)
			if err != nil {
				t.Fatal(err)
			}
			d := l.managed("11", func(cfg *sim.Config) { cfg.Faults = faults })
			dev := l.do(d, c.kind, c.task)
			if dev.Reason != c.want || dev.Lifecycle != c.ends {
				t.Errorf("%s (%s: %s), want %s (%s)\n%s", dev.Lifecycle, dev.Reason, dev.Detail, c.ends, c.want, l.journal(d))
			}
			if _, takes := l.active(d); !takes {
				t.Error("the active password is not the device's")
			}
		})
	}
}

// TestAnotherKeyHearsNothing: an address that answers with another certificate
// than the device's gets no login at all, not even a certificate of our CA made
// for another device.
func TestAnotherKeyHearsNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	d, other := l.managed("11"), l.managed("11")
	_ = d.Close() // where it answered last, nobody does
	addr := other.Addr().Addr()
	if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
		return tx.UpdateDevice(t.Context(), d.UUID(), store.DeviceFacts{Address: &addr})
	}); err != nil {
		t.Fatal(err)
	}
	before := other.Snapshot()
	dev := l.do(d, KindRotate, "")
	if dev.Reason != reason.TLSPinnedKeyChanged || dev.Lifecycle != store.Provisioned {
		t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
	}
	after := other.Snapshot()
	if after.LoginsOK != before.LoginsOK || after.LoginsFailed != before.LoginsFailed {
		t.Error("somebody else's device was asked for a login")
	}
}

// TestErasedDevice: a managed device whose settings were erased says so by what
// it asks for.
func TestErasedDevice(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite)
	d := l.managed("11")
	if err := l.admin(d).Unprovision(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	_ = realClock{}.Sleep(t.Context(), 200*time.Millisecond)
	dev := l.do(d, KindMaintain, "")
	if dev.Lifecycle != store.Drifted || dev.Reason != reason.ReappearedUnprovisioned {
		t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
	}
}

// TestDerivedPassword: a profile that derives passwords sets what the digest
// master password of the device's domain gives, for every device, also where the
// characters are not those that MEBx would take. openssl says what that is.
func TestDerivedPassword(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.prof.Passwords = "derived"
		d := l.managed("11")
		if dev := l.do(d, KindRotate, ""); dev.Lifecycle != store.Provisioned || dev.Reason != reason.MasterPasswordMissing ||
			!strings.Contains(dev.Detail, "provctl secret master set") {
			t.Fatalf("with no master password: %s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
		}
		keep := func(allowed bool) (want string) {
			t.Helper()
			for i := 0; ; i++ {
				master := amt.NewSecret(fmt.Sprintf("Master-Of-All-%d", i))
				pw, err := amt.DerivePassword(master, d.Realm(), "admin")
				if err != nil {
					t.Fatal(err)
				}
				if (amt.CheckPassword(pw.Reveal()) == nil) != allowed {
					continue
				}
				if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
					return tx.PutSealedSetting(t.Context(), store.MasterPasswordKey("example.com"), master)
				}); err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), "openssl", "dgst", "-sha256", "-hmac", master.Reveal(), "-binary")
				cmd.Stdin = strings.NewReader(d.Realm() + "admin")
				sum, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				return base64.StdEncoding.EncodeToString(sum)[:32]
			}
		}
		has := func(what, want string) {
			t.Helper()
			if c, takes := l.active(d); !takes || c.Password.Reveal() != want || !d.AcceptsAdmin("admin", want) {
				t.Errorf("%s: the device takes its active password: %t; it is what openssl derives: %t\n%s", what, takes,
					c.Password.Reveal() == want, l.journal(d))
			}
		}
		for _, kind := range []string{KindRotate, KindMaintain} { // asked for, and by itself
			for _, allowed := range []bool{false, true} {
				want := keep(allowed)
				if dev := l.do(d, kind, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
					t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				has(kind, want)
				if dev := l.do(d, KindRotate, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
					t.Fatalf("once more: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				}
				has(kind+" once more", want)
			}
		}
	})
}
