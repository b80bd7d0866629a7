package provision

import (
	"context"
	"crypto/tls"
	"net/netip"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/store"
)

// TestHardwareCertificates: what a device shows of its hardware, under each
// policy; a device that had to show it and did not hears no password.
func TestHardwareCertificates(t *testing.T) {
	t.Parallel()
	chip, root := certtest.ODCA(time.Now())
	forged, _ := certtest.ODCA(time.Now())
	expired, _ := certtest.ODCA(time.Now().AddDate(-30, 0, 0))
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.odca = root
		for _, c := range []struct {
			name        string
			policy      ODCA
			personality string
			shows       *tls.Certificate
			met         string // the version it had before
			before      string // how it was verified before
			ok          bool
			stored      string
		}{
			{"required and shown", ODCARequire, "16", &chip, "", "", true, "odca"},
			{"required and self-signed", ODCARequire, "16", nil, "", "", false, ""},
			{"required and of another root", ODCARequire, "16", &forged, "", "", false, ""},
			{"required and expired", ODCARequire, "16", &expired, "", "", false, ""},
			{"required, too old to have one", ODCARequire, "12", nil, "", "", true, "none"},
			{"required, and it says now that it is older", ODCARequire, "12", nil, "16.1.25", "", false, ""},
			{"preferred and shown", ODCAPrefer, "16", &chip, "", "", true, "odca"},
			{"preferred and self-signed", ODCAPrefer, "16", nil, "", "", true, "none"},
			{"preferred, shown before, self-signed now", ODCAPrefer, "16", nil, "16.1.25", "odca", false, "odca"},
			{"off", ODCAOff, "16", nil, "16.1.25", "odca", true, "none"},
		} {
			t.Run(c.name, func(t *testing.T) {
				e := l.newEngine("node-odca")
				e.ODCA = c.policy
				d := l.device(c.personality, sim.Faults{}, func(cfg *sim.Config) { cfg.SetupCertificate = c.shows })
				l.hello(d)
				f := store.DeviceFacts{PeerVerified: &c.before}
				if c.met != "" {
					v, err := amt.ParseVersion(c.met)
					if err != nil {
						t.Fatal(err)
					}
					f.Version = &v
				}
				if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
					return tx.UpdateDevice(t.Context(), d.UUID(),
						f)
				}); err != nil {
					t.Fatal(err)
				}
				dev := l.settle(e, d)
				s := d.Snapshot()
				switch told := len(s.SecretsSeen) + len(s.AdminHA1Seen); {
				case c.ok && dev.Lifecycle != store.Provisioned:
					t.Errorf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
				case !c.ok && (dev.Lifecycle != store.Failed || dev.Reason != reason.ODCAVerificationFailed || told != 0 ||
					s.State != amt.StateIn):
					t.Errorf("%s: %s: %s; it was told %d passwords and is in %s mode", dev.Lifecycle, dev.Reason, dev.Detail, told, s.State)
				}
				if dev.PeerVerified != c.stored {
					t.Errorf("stored as verified by %q, want %q", dev.PeerVerified, c.stored)
				}
			})
		}
	})
}

// TestTwoProvenMachines: two machines say hello with one UUID, none is managed yet, and
// each proves its hardware. The second is told nothing, and a person says which it is.
func TestTwoProvenMachines(t *testing.T) {
	t.Parallel()
	one, root := certtest.ODCA(time.Now())
	forEachEngine(t, func(t *testing.T, l *lab) {
		l.odca = root
		e := l.newEngine("node-odca")
		e.ODCA = ODCAPrefer
		first := l.device("16", sim.With(sim.Fault{Kind: sim.Refuse, Call: "SetAdminAclEntryEx", All: true, Arg: "2054"}),
			func(cfg *sim.Config) { cfg.SetupCertificate = &one })
		l.hello(first)
		if dev := l.settle(e, first); dev.PeerVerified != "odca" || dev.Lifecycle == store.Provisioned {
			t.Fatalf("%s: %s: %s; verified by %q", dev.Lifecycle, dev.Reason, dev.Detail, dev.PeerVerified)
		}
		second := l.device("16", sim.Faults{}, func(cfg *sim.Config) { cfg.UUID = first.UUID() })
		dial := e.Dial
		e.Dial = func(ctx context.Context, target session.Target) (Device, error) {
			d, err := dial(ctx, target)
			if err != nil {
				return nil, err
			}
			return proven{d, []byte("another chip, 32 bytes long......")[:32]}, nil
		}
		l.hello(second)
		dev := l.settle(e, second)
		if s := second.Snapshot(); dev.Lifecycle != store.Quarantined || dev.Reason != reason.UUIDDuplicate ||
			len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 {
			t.Errorf("%s: %s: %s; it was told %d passwords\n%s", dev.Lifecycle, dev.Reason, dev.Detail,
				len(s.SecretsSeen)+len(s.AdminHA1Seen), l.journal(second))
		}
		// A person has looked: what the machine before proved is held against it no more.
		unknown := ""
		if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
			return tx.UpdateDevice(t.Context(), second.UUID(), store.DeviceFacts{PeerVerified: &unknown, MAC: &unknown})
		}); err != nil {
			t.Fatal(err)
		}
		l.hello(second)
		if dev := l.settle(e, second); dev.Lifecycle != store.Provisioned {
			t.Errorf("released: %s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(second))
		}
	})
}

// proven is a machine that proves other hardware.
type proven struct {
	Device
	hardware []byte
}

func (p proven) Peer() session.Peer {
	peer := p.Device.Peer()
	if peer.ClientCertAsked {
		peer.Verified, peer.Hardware = verifiedODCA, p.hardware
	}
	return peer
}

// TestManInTheMiddleOfHardware: under require, who sits before a device of a
// known generation is asked nothing and told nothing: not a byte.
func TestManInTheMiddleOfHardware(t *testing.T) {
	t.Parallel()
	chip, root := certtest.ODCA(time.Now())
	l := newLab(t, store.SQLite)
	l.odca = root
	e := l.newEngine("node-odca")
	e.ODCA = ODCARequire
	real := l.device("16", sim.Faults{}, func(cfg *sim.Config) { cfg.SetupCertificate = &chip })
	at := address()
	m := l.middle(at, real)
	id := l.hello(real)
	version := amt.Version{Major: 16, Minor: 1}
	if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
		if _, _, err := tx.SeeHello(t.Context(), store.SeenHello{UUID: real.UUID(), From: netip.AddrPortFrom(at, 40000), Address: at,
			Version: 3, Hashes: l.roots()}); err != nil {
			return err
		}
		return tx.UpdateDevice(t.Context(), real.UUID(), store.DeviceFacts{Version: &version})
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Work(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	dev, _ := l.look(real)
	m.mu.Lock()
	defer m.mu.Unlock()
	if dev.Reason != reason.ODCAVerificationFailed || len(m.got) != 0 || len(dev.PeerFingerprint) != 0 {
		t.Errorf("%s: %s: %s; it heard %d bytes, and its key was kept as the device's: %x", dev.Lifecycle, dev.Reason, dev.Detail,
			len(m.got), dev.PeerFingerprint)
	}
	if s := real.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 || s.State != amt.StateIn {
		t.Errorf("the device is in %s mode and was told %d passwords", s.State, len(s.SecretsSeen)+len(s.AdminHA1Seen))
	}
}
