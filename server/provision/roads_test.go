package provision

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// A login is a key that works once (RFC 7616, 5.8). The tests here are the roads
// on which somebody who cannot know a password had one used for him: he passes
// the real device's challenge on, takes the answer and spends it there. What
// counts is what became of the real device.

const roguePassword = "R0gue!Passw0rd"

// relay is a rogue's line to a real device, from an address of the rogue's own.
func (l *lab) relay(real *sim.Device) *sim.Relay {
	return &sim.Relay{Device: real.Addr(), From: address(), Password: roguePassword}
}

// stands makes a rogue stand where a device is looked for.
func (l *lab) stands(cfg sim.MiddleConfig) *sim.Middle {
	l.t.Helper()
	if !cfg.Listen.IsValid() {
		cfg.Listen = netip.AddrPortFrom(cfg.Relay.From, sim.DefaultPort)
	}
	m, err := sim.NewMiddle(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = m.Close() })
	return m
}

// claims is a hello with a device's UUID from another address, believed, since the
// device has moved and nobody here knows where to; the run that follows from it gets candidate passwords, as one after a hello does.
func (l *lab) claims(u amt.UUID, from netip.Addr, trigger string) {
	l.t.Helper()
	ctx, left := l.t.Context(), address()
	if err := l.db.Write(ctx, func(tx *store.Tx) error {
		if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: u, From: netip.AddrPortFrom(from, 40000), Address: from, Version: 3,
			Hashes: l.roots()}); err != nil {
			return err
		}
		if err := tx.UpdateDevice(ctx, u, store.DeviceFacts{Address: &from, GoodAddress: &left}); err != nil {
			return err
		}
		run, err := tx.CreateRun(ctx, store.NewRun{UUID: u, Kind: KindProvision, Trigger: trigger})
		if err != nil {
			return err
		}
		admin, _ := amt.NewAdminPassword(rand.Reader)
		mebx, _ := amt.NewMEBxPassword(rand.Reader)
		_, err = tx.StageCredentials(ctx, u, run.ID, admin, mebx)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
}

// meets says where a device is believed to be.
func (l *lab) meets(d *sim.Device, at netip.Addr, change ...func(*store.DeviceFacts)) {
	l.t.Helper()
	facts := store.DeviceFacts{Address: &at}
	for _, f := range change {
		f(&facts)
	}
	if err := l.db.Write(l.t.Context(), func(tx *store.Tx) error { return tx.UpdateDevice(l.t.Context(), d.UUID(), facts) }); err != nil {
		l.t.Fatal(err)
	}
}

// tries works a device's runs a few times, whatever becomes of them: a rogue can
// keep a device from settling for good.
func (l *lab) tries(d *sim.Device, attempts int) store.Device {
	l.t.Helper()
	var dev store.Device
	for range attempts {
		var live int64
		if dev, live = l.look(d); live == 0 {
			break
		}
		again, err := l.engine.Work(l.t.Context(), live)
		if err != nil {
			l.t.Logf("work: %v", err)
		}
		if err != nil || !again.IsZero() {
			_ = realClock{}.Sleep(l.t.Context(), l.engine.Quiet)
		}
	}
	dev, _ = l.look(d)
	return dev
}

// reasons lists why a device's runs ended.
func (l *lab) reasons(d *sim.Device) (list []reason.Code) {
	l.t.Helper()
	_ = l.db.Read(l.t.Context(), func(tx *store.Tx) error {
		runs, err := tx.Runs(l.t.Context(), d.UUID(), 50)
		for _, r := range runs {
			if r.Reason != "" {
				list = append(list, reason.Code(r.Reason))
			}
		}
		return err
	})
	return list
}

// untaken holds what must be true of a real device whatever a rogue did (I13):
// only passwords of ours or the factory's ever opened it, nobody but us used one
// of ours, and no answer reached the rogue that was made with a password which
// this device, or any, may hold. held names further ones of those.
func (l *lab) untaken(real *sim.Device, relay *sim.Relay, held ...string) {
	l.t.Helper()
	snap := real.Snapshot()
	for _, o := range snap.Openings {
		if o.SetBy == relay.From {
			l.t.Errorf("a password that the rogue set opens the real device")
		}
		if o.From == relay.From {
			l.t.Errorf("the rogue opened the real device with a password set by %s", o.SetBy)
		}
	}
	if real.AcceptsAdmin("admin", roguePassword) {
		l.t.Errorf("the real device takes the rogue's password")
	}
	for _, c := range l.credentials(real, store.KindAdmin) {
		if pw := c.Password.Reveal(); snap.HasPassword(pw) || c.Typed() {
			held = append(held, pw)
		}
	}
	for _, h := range relay.Heard() {
		for _, pw := range held {
			if h.MadeWith(pw) {
				l.t.Errorf("the rogue heard an answer made with a password that a device holds (as %s in realm %s)", h.Fields["username"],
					h.Fields["realm"])
			}
		}
	}
	if l.t.Failed() {
		l.t.Logf("\n%s", l.journal(real))
	}
}

// ended holds that the last run said why it failed.
func (l *lab) ended(d *sim.Device, dev store.Device) {
	l.t.Helper()
	if list := l.reasons(d); len(list) == 0 || dev.Reason == "" {
		l.t.Errorf("%s: the run ended without a reason\n%s", dev.Lifecycle, l.journal(d))
	} else {
		l.t.Logf("%s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
	}
}

// TestRoadOffPath (a, b, e): one hello with a managed device's UUID, believed by
// a setting or by an operator; the rogue asks for a login, at once or after it
// asked for our certificate as a device in setup does.
func TestRoadOffPath(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range []struct {
			name, personality, trigger string
			asks                       bool
			rewrite                    func(string) string
		}{
			{"a: reprovision auto", "11", "hello", false, nil},
			{"a, before AMT 6", "3.2", "hello", false, nil},
			{"a, auth-int offered", "15", "hello", false, nil},
			{"a, auth-int kept back", "15", "hello", false, func(s string) string { return strings.Replace(s, ",auth-int", "", 1) }},
			{"a, without qop", "11", "hello", false, func(s string) string { return strings.Replace(s, `,qop="auth"`, "", 1) }},
			{"b: approved", "11", "api", false, nil},
			{"e: wants a certificate first", "11", "hello", true, nil},
			{"e, auth-int offered", "18", "hello", true, nil},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := l.in(t)
				real := l.managed(c.personality)
				relay := l.relay(real)
				relay.Rewrite = c.rewrite
				m := l.stands(sim.MiddleConfig{Relay: relay, AsksCertificate: c.asks})
				l.claims(real.UUID(), relay.From, c.trigger)
				dev := l.tries(real, 4)
				l.untaken(real, relay)
				l.ended(real, dev)
				if m.Ended() == 0 {
					t.Error("nobody came to the rogue")
				}
				if !l.holdsAny(real) {
					t.Error("no stored password is the device's")
				}
			})
		}
	})
}

// holdsAny reports whether the device takes one of its stored passwords.
func (l *lab) holdsAny(d *sim.Device) bool {
	for _, c := range l.credentials(d, store.KindAdmin) {
		if d.AcceptsAdmin("admin", c.Password.Reveal()) {
			return true
		}
	}
	return false
}

// TestRoadPretender (e): the rogue is a whole device in setup mode with a managed
// one's UUID and realm. It lets itself be set up, and from some moment on it asks
// for a login, takes what it hears or wants more; once it is managed itself it
// refuses its own password, to hear the older ones.
func TestRoadPretender(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, c := range []struct {
			name   string
			asks   string // from this call on; "": from the start
			greedy bool
			later  bool // greedy once it is managed
			left   bool // a rotation of the real device was cut off before it began
		}{
			{"asks at once", "", false, false, false},
			{"asks at once and wants more", "", true, false, false},
			{"asks at once and wants more, after a rotation", "", true, false, true},
			{"asks once it has a password", setAdminCall, true, false, false},
			{"asks once it was committed", "CommitChanges", true, false, false},
			{"refuses its own password later", "CommitChanges", false, true, false},
			{"refuses its own password later, after a rotation", "CommitChanges", false, true, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				l := l.in(t)
				real := l.managed("11")
				active, _ := l.active(real)
				relay := l.relay(real)
				relay.Greedy = c.greedy
				rogue := l.device("11", sim.Faults{}, func(cfg *sim.Config) {
					cfg.UUID, cfg.Addr, cfg.Realm = real.UUID(), relay.From, real.Realm()
					cfg.Rogue, cfg.Asks = relay, c.asks
					cfg.Tune = func(p *sim.Personality) { p.AsksDigest = c.asks == "" }
				})
				held := []string{active.Password.Reveal()}
				if c.left {
					held = append(held, l.leftOver(real, active))
					left := address()
					l.meets(real, relay.From, func(f *store.DeviceFacts) { f.GoodAddress = &left })
					l.order(real, KindProvision, "") // with the candidate that is there
				} else {
					l.claims(real.UUID(), relay.From, "hello")
				}
				dev := l.tries(real, 4)
				if c.later {
					if dev.Lifecycle != store.Provisioned {
						t.Fatalf("the rogue was not set up: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(real))
					}
					relay.TurnGreedy()
					for _, kind := range []string{KindMaintain, KindRotate, KindUnprovision} {
						if _, live := l.look(real); live == 0 {
							l.order(real, kind, "")
						}
						dev = l.tries(real, 4)
					}
				}
				l.untaken(real, relay, held...)
				if !real.AcceptsAdmin("admin", active.Password.Reveal()) {
					t.Error("the real device no longer takes its password")
				}
				if rogue.Snapshot().Handshakes == 0 {
					t.Error("nobody came to the rogue")
				}
				t.Logf("%s: %s: %s; %d answers heard", dev.Lifecycle, dev.Reason, dev.Detail, len(relay.Heard()))
			})
		}
	})
}

// leftOver is the next password of a device whose rotation ended before it was
// sent.
func (l *lab) leftOver(d *sim.Device, active store.Credential) string {
	l.t.Helper()
	pw, err := amt.NewAdminPassword(rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.db.Write(l.t.Context(), func(tx *store.Tx) error {
		_, err := tx.StageWithin(l.t.Context(), d.UUID(), 1, active.Setup, pw, amt.Secret{})
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	return pw.Reveal()
}

const setAdminCall = "SetAdminAclEntryEx"

// TestRoadAfterCommit (c): who sits before a new device lets its setup pass and
// ends TLS himself at the first login after the commit. He hears nothing, nothing
// of him is believed, and once he is gone the device is managed.
func TestRoadAfterCommit(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, personality := range []string{"3.2", "11", "16", "18"} {
			t.Run(personality, func(t *testing.T) {
				l := l.in(t)
				real := l.device(personality, sim.Faults{})
				relay := l.relay(real)
				var gone atomic.Bool
				m := l.stands(sim.MiddleConfig{Relay: relay, Passes: func(int) int {
					if gone.Load() || real.Snapshot().State != amt.StatePost {
						return sim.All
					}
					return sim.None
				}})
				l.claims(real.UUID(), relay.From, "hello")
				dev := l.tries(real, 2)
				if state := real.Snapshot().State; state != amt.StatePost || m.Ended() == 0 {
					t.Fatalf("the device is in %s mode, %d handshakes with the middle\n%s", state, m.Ended(), l.journal(real))
				}
				l.untaken(real, relay)
				l.ended(real, dev)
				if string(dev.PeerFingerprint) == string(fingerprint(m.Certificate)) {
					t.Error("the middle's key is taken for the device's")
				}
				gone.Store(true)
				if _, live := l.look(real); live == 0 {
					l.claims(real.UUID(), relay.From, "hello")
				}
				dev = l.settle(l.engine, real)
				if _, takes := l.active(real); dev.Lifecycle != store.Provisioned || !takes {
					t.Errorf("once the middle was gone: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(real))
				}
				l.untaken(real, relay)
			})
		}
	})
}

func fingerprint(c *tls.Certificate) []byte {
	sum := sha256.Sum256(c.Certificate[0])
	return sum[:]
}

// TestRoadOwnCertificate (d): who sits before a managed device holds a certificate
// of our device CA in that device's name: a machine of his was set up once under a
// UUID that begins alike, or he had one signed for the very name.
func TestRoadOwnCertificate(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, road := range []string{"set up once", "the very name"} {
			for _, kind := range []string{KindMaintain, KindRotate, KindUnprovision} {
				t.Run(road+" "+kind, func(t *testing.T) {
					l := l.in(t)
					real := l.device("11", sim.Faults{})
					relay := l.relay(real)
					var turned atomic.Bool
					own := l.ownCertificate(real, road)
					m := l.stands(sim.MiddleConfig{Relay: relay, Certificate: own, Passes: func(int) int {
						if turned.Load() {
							return sim.None
						}
						return sim.All
					}})
					l.claims(real.UUID(), relay.From, "hello")
					if dev := l.tries(real, 2); dev.Lifecycle != store.Provisioned {
						t.Fatalf("setup through a middle that passes all: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail,
							l.journal(real))
					}
					turned.Store(true)
					l.order(real, kind, "")
					dev := l.tries(real, 3)
					l.untaken(real, relay)
					l.ended(real, dev)
					if _, takes := l.active(real); !takes || m.Ended() == 0 {
						t.Errorf("the device takes its password: %t; %d handshakes with the middle", takes, m.Ended())
					}
				})
			}
		}
	})
}

// ownCertificate is what a rogue holds of our device CA in a device's name.
func (l *lab) ownCertificate(real *sim.Device, road string) *tls.Certificate {
	l.t.Helper()
	other := l.device("11", sim.Faults{}, func(cfg *sim.Config) {
		if road == "set up once" {
			u := real.UUID()
			copy(cfg.UUID[:4], u[:4])
		}
	})
	l.hello(other)
	if dev := l.settle(l.engine, other); dev.Lifecycle != store.Provisioned {
		l.t.Fatalf("the rogue's own set-up: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(other))
	}
	cert, err := other.Certificate()
	if err != nil {
		l.t.Fatal(err)
	}
	if road == "set up once" {
		return cert
	}
	key := cert.PrivateKey.(*rsa.PrivateKey)
	host := "amt-" + real.UUID().String()[:8]
	der, err := l.trust.ca.IssueDevice(&key.PublicKey, other.UUID(), host+".corp.example.com", host, time.Now(), 24*time.Hour)
	if err != nil {
		l.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestRoadAdoption (f): somebody answers at the address of an adoption. What a
// person typed is not told to him, nor what a master password gives in a realm of
// his choice: with that he could try master passwords at leisure.
func TestRoadAdoption(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, personality := range []string{"3.2", "11", "15"} {
			for _, word := range []string{"nobody vouched", "vouched for the device"} {
				t.Run(personality+", "+word, func(t *testing.T) {
					l := l.in(t)
					other := newLab(t, store.SQLite)
					real := other.managed(personality)
					known, _ := other.active(real)
					shows, err := real.Certificate()
					if err != nil {
						t.Fatal(err)
					}
					vouched := []byte{}
					if word != "nobody vouched" {
						vouched = fingerprint(shows)
					}
					relay := l.relay(real)
					m := l.stands(sim.MiddleConfig{Relay: relay})
					l.imported(real, known.Password.Reveal())
					l.meets(real, relay.From, func(f *store.DeviceFacts) { f.Vouched = &vouched })
					dev := l.tries(real, 3)
					l.untaken(real, relay, known.Password.Reveal())
					l.ended(real, dev)
					if m.Ended() == 0 || !other.holds(real) {
						t.Errorf("%d handshakes with the rogue; the device takes its password: %t", m.Ended(), other.holds(real))
					}
					if len(vouched) == 0 {
						return
					}
					if _, live := l.look(real); live == 0 {
						l.order(real, KindProvision, "")
					}
					l.meets(real, real.Addr().Addr())
					if dev := l.settle(l.engine, real); dev.Lifecycle != store.Provisioned {
						t.Errorf("the device itself: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(real))
					}
				})
			}
		}
		t.Run("derived", func(t *testing.T) {
			l := l.in(t)
			other := newLab(t, store.SQLite)
			real := other.managed("11")
			master := amt.NewSecret("Master-Of-All-1")
			relay := l.relay(real)
			realm := "Digest:0123456789ABCDEF0123456789ABCDEF"
			relay.Rewrite = func(s string) string { return strings.Replace(s, real.Realm(), realm, 1) }
			relay.Greedy = true
			l.stands(sim.MiddleConfig{Relay: relay})
			name := "pc1.scs.example.com"
			if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
				if err := tx.PutSealedSetting(t.Context(), store.MasterPasswordKey("scs.example.com"), master); err != nil {
					return err
				}
				if err := tx.ImportDevice(t.Context(), real.UUID(), "test",
					store.DeviceFacts{Address: &relay.From, FQDN: &name}); err != nil {
					return err
				}
				run, err := tx.CreateRun(t.Context(), store.NewRun{UUID: real.UUID(), Kind: KindProvision, Trigger: "api"})
				if err != nil {
					return err
				}
				admin, _ := amt.NewAdminPassword(rand.Reader)
				mebx, _ := amt.NewMEBxPassword(rand.Reader)
				_, err = tx.StageCredentials(t.Context(), real.UUID(), run.ID, admin, mebx)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			dev := l.tries(real, 3)
			readings, err := amt.DerivedPasswords(master, realm, "admin")
			if err != nil {
				t.Fatal(err)
			}
			var guessed []string
			for _, pw := range readings {
				guessed = append(guessed, pw.Reveal())
			}
			l.untaken(real, relay, guessed...)
			l.ended(real, dev)
		})
	})
}

// TestRoadSwitch: who sits before a device lets a conversation begin with it,
// cuts the line and ends TLS himself as we come back, in every kind of run.
func TestRoadSwitch(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for _, kind := range []string{KindProvision, KindMaintain, KindRotate, KindUnprovision} {
			for _, bytes := range []int{3000, 9000} { // in the handshake's wake, and further on
				t.Run(kind, func(t *testing.T) {
					l := l.in(t)
					real := l.device("11-close", sim.Faults{})
					relay := l.relay(real)
					var from atomic.Int64 // connections that pass before the one that is cut
					from.Store(1 << 40)
					if kind == KindProvision {
						from.Store(0)
					}
					var came atomic.Int64
					m := l.stands(sim.MiddleConfig{Relay: relay, AsksCertificate: kind == KindProvision, Passes: func(int) int {
						switch n := came.Add(1); {
						case n <= from.Load():
							return sim.All
						case n == from.Load()+1:
							return bytes
						}
						return sim.None
					}})
					l.claims(real.UUID(), relay.From, "hello")
					if kind != KindProvision {
						if dev := l.tries(real, 2); dev.Lifecycle != store.Provisioned {
							t.Fatalf("setup: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(real))
						}
						from.Store(came.Load())
						l.order(real, kind, "")
					}
					l.tries(real, 3)
					l.untaken(real, relay)
					if m.Ended() == 0 && came.Load() > from.Load()+1 {
						t.Errorf("of %d connections the middle ended none", came.Load())
					}
				})
			}
		}
	})
}

// TestOddFirmware: a device that shows another certificate of its own at each
// start in setup, and one that goes on showing its own after the commit, are set
// up and known again like any other.
func TestOddFirmware(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		for name, c := range map[string]struct {
			tune   func(*sim.Personality)
			faults string
		}{
			"its own certificate after the commit": {func(p *sim.Personality) { p.KeepsOwnCert = true }, ""},
			"another one at each start":            {func(p *sim.Personality) { p.NewSelfSign = true }, ""},
			"another one after a power loss":       {func(p *sim.Personality) { p.NewSelfSign = true }, "power_cycle:SetAdminAclEntryEx=keep"},
			"the same, and it asks for a login":    {func(p *sim.Personality) { p.NewSelfSign, p.AsksDigest = true, true }, "power_cycle:SetAdminAclEntryEx=keep"},
			"the same, before it has a key":        {func(p *sim.Personality) { p.NewSelfSign, p.AsksDigest = true, true }, "power_cycle:Put:AMT_GeneralSettings=keep"},
			"the same, with its certificate":       {func(p *sim.Personality) { p.NewSelfSign, p.AsksDigest = true, true }, "power_cycle:Put:AMT_TLSSettingData=keep"},
			"all of that":                          {func(p *sim.Personality) { p.NewSelfSign, p.KeepsOwnCert, p.AsksDigest = true, true, true }, "power_cycle:Put:AMT_TLSSettingData=keep"},
		} {
			t.Run(name, func(t *testing.T) {
				l := l.in(t)
				faults, err := sim.ParseFaults(c.faults)
				if err != nil {
					t.Fatal(err)
				}
				d := l.managed("11", func(cfg *sim.Config) { cfg.Tune, cfg.Faults = c.tune, faults })
				for _, kind := range []string{KindMaintain, KindRotate} {
					if dev := l.do(d, kind, ""); dev.Lifecycle != store.Provisioned {
						t.Errorf("%s: %s: %s: %s\n%s", kind, dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
					}
				}
				if _, takes := l.active(d); !takes {
					t.Error("the active password is not the device's")
				}
			})
		}
	})
}
