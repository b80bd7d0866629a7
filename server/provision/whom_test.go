package provision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestOneDoor: a login is handed to a session in whom.go and nowhere else in this
// package, neither when it is opened nor later.
func TestOneDoor(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	doors := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			found := ""
			switch n := n.(type) {
			case *ast.SelectorExpr:
				if n.Sel.Name == "SetLogins" || n.Sel.Name == "Logins" {
					found = n.Sel.Name
				}
			case *ast.KeyValueExpr:
				if k, ok := n.Key.(*ast.Ident); ok && k.Name == "Logins" {
					found = "Logins"
				}
			}
			switch {
			case found == "":
			case f.Name() == "whom.go":
				doors++
			default:
				t.Errorf("%s: %s is used outside whom.go", set.Position(n.Pos()), found)
			}
			return true
		})
	}
	if doors == 0 {
		t.Error("whom.go hands out no login: this test looks for the wrong thing")
	}
}

// TestFirmwareThatKeepsItsOwnCertificate: a device that goes on showing the
// certificate it made itself is verified, since its key is that of the session in
// which the commit was sent; what is odd about it is said.
func TestFirmwareThatKeepsItsOwnCertificate(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.device("11", sim.Faults{}, func(c *sim.Config) { c.Tune = func(p *sim.Personality) { p.KeepsOwnCert = true } })
		l.hello(d)
		dev := l.settle(l.engine, d)
		if dev.Lifecycle != store.Provisioned || dev.Health != "warn" || !strings.Contains(dev.Detail, "made itself") {
			t.Fatalf("%s (%s): %s: %s\n%s", dev.Lifecycle, dev.Health, dev.Reason, dev.Detail, l.journal(d))
		}
		l.invariants(d, dev)
		l.again = true
		l.engine.VerifyFor = time.Second
		for _, kind := range []string{KindRotate, KindMaintain, KindMaintain} {
			if dev := l.do(d, kind, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" || dev.Health != "warn" || !l.holds(d) {
				t.Errorf("after %s: %s (%s): %s: %s\n%s", kind, dev.Lifecycle, dev.Health, dev.Reason, dev.Detail, l.journal(d))
			}
		}
	})
}

// TestAnotherCertificateAtEachStart: in setup mode firmware may make itself a new
// certificate whenever it starts. Such a device still takes the password that an
// attempt before gave it, and ends managed.
func TestAnotherCertificateAtEachStart(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, call := range []string{"SetAdminAclEntryEx", "AddCertificate", "CommitChanges"} {
			faults, err := sim.ParseFaults("power_cycle:" + call + "=keep")
			if err != nil {
				t.Fatal(err)
			}
			d := l.device("11", faults, func(c *sim.Config) {
				c.Tune = func(p *sim.Personality) { p.NewSelfSign, p.AsksDigest = true, true }
			})
			l.hello(d)
			dev := l.settle(l.engine, d)
			if dev.Lifecycle != store.Provisioned {
				t.Errorf("%s: %s: %s: %s\n%s", call, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
			}
			l.invariants(d, dev)
		}
	})
}

// another makes a peer show another key than the device's.
type another struct {
	Device
	key    byte
	logins *[]session.Login
}

func (a another) Peer() session.Peer {
	p := a.Device.Peer()
	sum := sha256.Sum256([]byte{a.key})
	p.Fingerprint, p.Key, p.Hardware, p.Verified, p.Chain = sum[:], sum[:], nil, "none", nil
	return p
}

func (a another) SetLogins(list []session.Login) {
	*a.logins = append(*a.logins, list...)
	a.Device.SetLogins(list)
}

// TestVouched: a managed device that shows another key hears nothing, until a
// person vouches for its certificate. That opens the door for this certificate
// alone and once; afterwards the device is known by its key.
func TestVouched(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.managed("11")
		var heard []session.Login
		key := byte(1)
		dial := l.engine.Dial
		l.engine.Dial = func(ctx context.Context, target session.Target) (Device, error) {
			s, err := dial(ctx, target)
			if err != nil {
				return nil, err
			}
			return another{s, key, &heard}, nil
		}
		vouch := func(fingerprint []byte) {
			t.Helper()
			if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
				return tx.Vouch(t.Context(), d.UUID(),
					fingerprint)
			}); err != nil {
				t.Fatal(err)
			}
		}
		shown := sha256.Sum256([]byte{1})
		refused := func(what string) {
			t.Helper()
			dev := l.do(d, KindMaintain, TaskClock)
			if dev.Reason != reason.TLSPinnedKeyChanged || len(heard) != 0 {
				t.Fatalf("%s: %s: %s; it was handed %d logins", what, dev.Reason, dev.Detail, len(heard))
			}
		}
		refused("a key nobody knows")
		if dev, _ := l.look(d); !bytes.Equal(dev.PeerSeen, shown[:]) || !strings.Contains(dev.Detail, fmt.Sprintf("%x", shown)) {
			t.Errorf("the certificate it showed is not told: %x: %s", dev.PeerSeen, dev.Detail)
		}
		other := sha256.Sum256([]byte{2})
		vouch(other[:])
		refused("vouched for another one")
		vouch(shown[:])
		if dev := l.do(d, KindMaintain, TaskClock); dev.Reason != "" || len(dev.Vouched) != 0 || len(dev.PeerSeen) != 0 ||
			!bytes.Equal(dev.PeerFingerprint, shown[:]) {
			t.Fatalf("vouched for: %s: %s; left of the word: %x, seen %x\n%s", dev.Reason, dev.Detail, dev.Vouched, dev.PeerSeen,
				l.journal(d))
		}
		if dev := l.do(d, KindMaintain, TaskClock); dev.Reason != "" {
			t.Errorf("known by now: %s: %s", dev.Reason, dev.Detail)
		}
		key, heard = 3, nil
		refused("the word is spent")
		vouch(nil)
		if dev := l.do(d, KindMaintain, TaskClock); dev.Reason != "" {
			t.Errorf("whoever answers first: %s: %s", dev.Reason, dev.Detail)
		}
		key, heard = 4, nil
		refused("the second that answers")
	})
}

// earlier is a store whose next claim reads rows of an earlier release, which did
// not know whom a password is for.
type earlier struct {
	Store
	forget func(*Job) // nil: nothing
}

func (e *earlier) Claim(ctx context.Context, id int64, lease time.Duration) (*Job, error) {
	job, err := e.Store.Claim(ctx, id, lease)
	if job == nil || e.forget == nil {
		return job, err
	}
	for i := range job.Admin {
		c := &job.Admin[i]
		c.Setup, c.Proofs, c.CommittedAt, c.OldPin = 0, nil, time.Time{}, true
	}
	e.forget(job)
	e.forget = nil
	return job, err
}

// TestRowsOfAnEarlierRelease: a device that was set up before passwords knew whom
// they are for is met by the certificate it showed last, or to which the password
// went, and is known by its key from then on. A set-up on its way then is finished.
func TestRowsOfAnEarlierRelease(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.managed("11")
		rows := &earlier{Store: l.engine.Store}
		l.engine.Store = rows
		rows.forget = func(*Job) {}
		if dev := l.do(d, KindRotate, ""); dev.Lifecycle != store.Provisioned || dev.Reason != "" {
			t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
		c, takes := l.active(d)
		if !takes || c.Setup == 0 || c.Setup == c.Generation {
			t.Errorf("generation %d belongs to set-up %d; the device takes it: %t", c.Generation, c.Setup, takes)
		}
		rows.forget = func(j *Job) { j.Device.PeerFingerprint = nil } // as after a release by a person
		if dev := l.do(d, KindMaintain, TaskClock); dev.Reason != "" {
			t.Errorf("%s: %s", dev.Reason, dev.Detail)
		}

		// Committed by the release before, and stopped before the login.
		d = l.device("11", sim.Faults{})
		id := l.hello(d)
		dial, patient := l.engine.Dial, l.engine.VerifyFor
		l.engine.VerifyFor = time.Millisecond
		l.engine.Dial = func(ctx context.Context, target session.Target) (Device, error) {
			if target.Client == l.trust.console {
				return nil, reason.Because(reason.DeviceUnreachable, "the cable is out")
			}
			return dial(ctx, target)
		}
		if _, err := l.engine.Work(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if s := d.Snapshot(); s.State != amt.StatePost {
			t.Fatalf("the device is in %s mode", s.State)
		}
		l.engine.Dial, l.engine.VerifyFor = dial, patient
		rows.forget = func(*Job) {}
		if dev := l.settle(l.engine, d); dev.Lifecycle != store.Provisioned {
			t.Errorf("half way: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
	})
}

// TestAStrangerOverwritesNothing: who answers under a managed device's UUID, and
// is not it, changes nothing of what the device said when it let us in.
func TestAStrangerOverwritesNothing(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.managed("11")
		was, _ := l.look(d)
		rogue := l.device("16", sim.Faults{}, func(c *sim.Config) { c.UUID, c.Suffix = d.UUID(), "corp.example.com" })
		l.hello(rogue)
		if err := d.Lease(netip.Addr{}); err != nil { // else it is asked first, and answers
			t.Fatal(err)
		}
		_, live := l.look(d)
		l.engine.Dial = stopAt(l.engine.Dial, "SetAdminPassword")
		if _, err := l.engine.Work(t.Context(), live); err != nil {
			t.Fatal(err)
		}
		dev, _ := l.look(d)
		if dev.Realm != was.Realm || dev.MAC != was.MAC || dev.Version != was.Version || dev.HostName != was.HostName ||
			dev.FQDN != was.FQDN ||
			dev.DeviceMode != was.DeviceMode || dev.TLSVersion != was.TLSVersion ||
			!bytes.Equal(dev.PeerFingerprint, was.PeerFingerprint) || !dev.LastContact.Equal(was.LastContact) {
			t.Errorf("before %+v\nafter  %+v", was, dev)
		}
		if rogue.Snapshot().Handshakes == 0 {
			t.Error("nobody called the stranger")
		}
	})
}

// stopAt makes the device break off at one call.
func stopAt(dial Dial, call string) Dial {
	return func(ctx context.Context, t session.Target) (Device, error) {
		d, err := dial(ctx, t)
		if err != nil {
			return nil, err
		}
		return stopping{d, call}, nil
	}
}

type stopping struct {
	Device
	call string
}

func (s stopping) SetAdminPassword(ctx context.Context, user, realm string, pw amt.Secret) error {
	if s.call == "SetAdminPassword" {
		return reason.Because(reason.AdminPasswordRejected, "it is stopped here")
	}
	return s.Device.SetAdminPassword(ctx, user, realm, pw)
}

// TestAnotherUserInTheProfile: a profile that names another user changes nothing
// for devices under management: they are logged in to, and get their next password,
// as the user they have.
func TestAnotherUserInTheProfile(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.managed("11")
		l.prof.AdminUser = "operator"
		for _, kind := range []string{KindMaintain, KindRotate, KindMaintain} {
			dev := l.do(d, kind, "")
			c, takes := l.active(d)
			if dev.Lifecycle != store.Provisioned || dev.Reason != "" || c.User != "admin" || !takes {
				t.Fatalf("%s: %s: %s: %s; as %q: %t\n%s", kind, dev.Lifecycle, dev.Reason, dev.Detail, c.User, takes, l.journal(d))
			}
		}
		if n := d.Snapshot().LoginsFailed; n != 0 {
			t.Errorf("%d wrong logins", n)
		}
	})
}
