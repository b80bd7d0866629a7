package endtoend

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
)

// A device proves nothing to us before it is set up, so that a rogue can get as
// far as being told passwords. What each sort of rogue learns is of no use on
// any other device.

// of is a device as the daemon has it.
func (d *daemon) of(u amt.UUID) api.DeviceDetail {
	d.t.Helper()
	dev, err := d.client().Device(d.t.Context(), u.String())
	if err != nil {
		d.t.Fatal(err)
	}
	return dev
}

// useless holds what a rogue was told against an honest device.
func useless(t *testing.T, rogue, honest *sim.Device) {
	t.Helper()
	r, h := rogue.Snapshot(), honest.Snapshot()
	for _, m := range r.SecretsSeen {
		if honest.AcceptsMEBx(m.Reveal()) || honest.AcceptsAdmin("admin", m.Reveal()) || slices.ContainsFunc(h.SecretsSeen, m.Equal) {
			t.Error("a MEBx password the rogue was told is, or was, another device's")
		}
	}
	for _, a := range r.AdminHA1Seen {
		if a == h.AdminHA1 || slices.Contains(h.AdminHA1Seen, a) {
			t.Error("an admin hash the rogue was told is, or was, another device's")
		}
	}
}

// TestBoxRogues: what each sort of rogue gets, beside an honest device.
func TestBoxRogues(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	d := s.serve(nil)
	h := s.herd()
	honest := h.add("12", nil)
	h.live(2*time.Second, one(d.hello), honest)
	d.managed(1, time.Minute)

	t.Run("not AMT", func(t *testing.T) {
		// Something that speaks TLS and HTTP, and keeps every byte.
		rogue := listenRogue(t, h)
		rogue.sayHello(t, d, s.roots())
		poll(t, "it was called and given up", time.Minute, func() bool {
			dev := d.of(rogue.uuid)
			return rogue.calls() > 0 && dev.Reason != "" && dev.Lifecycle == "failed"
		})
		if got := rogue.heard(); bytes.Contains(got, []byte("SetMEBxPassword")) || bytes.Contains(got, []byte("SetAdminAclEntryEx")) {
			t.Errorf("something that is not AMT was told a password: %q", got)
		}
		for _, c := range d.of(rogue.uuid).Credentials {
			if c.SentAt != nil {
				t.Errorf("a password counts as sent: %+v", c)
			}
		}
	})

	t.Run("stolen UUID, another machine answers", func(t *testing.T) {
		rogue := h.add("12", func(c *sim.Config) { c.Faults = sim.With(sim.Fault{Kind: sim.WrongUUID}) })
		h.live(2*time.Second, one(d.hello), rogue)
		poll(t, "quarantined", time.Minute, func() bool {
			l, err := d.client().Device(t.Context(), rogue.UUID().String())
			return err == nil && l.Lifecycle == "quarantined" && l.Reason == "uuid_mismatch"
		})
		if snap := rogue.Snapshot(); len(snap.SecretsSeen)+len(snap.AdminHA1Seen) != 0 {
			t.Errorf("it was told %d passwords", len(snap.SecretsSeen)+len(snap.AdminHA1Seen))
		}
	})

	t.Run("stolen UUID of a managed device", func(t *testing.T) {
		before := d.reveal(honest.UUID(), "admin")
		rogue := h.add("12", func(c *sim.Config) { c.UUID = honest.UUID() })
		h.live(2*time.Second, one(d.hello), rogue)
		poll(t, "its hello stands in the timeline as a stray", time.Minute, func() bool {
			p, err := d.client().Events(t.Context(), api.EventQuery{UUID: honest.UUID().String(), Name: "stray_hello"})
			return err == nil && len(p.Events) > 0
		})
		if dev := d.of(honest.UUID()); dev.Lifecycle != "provisioned" || dev.Reason != "" || dev.Address != honest.Addr().Addr().String() {
			t.Errorf("a hello in its name made the managed device %s (%s) at %s", dev.Lifecycle, dev.Reason, dev.Address)
		}
		if n := rogue.Snapshot().Connections; n != 0 {
			t.Errorf("a machine with the UUID of a managed one was called %d times before anybody looked", n)
		}
		if d.reveal(honest.UUID(), "admin") != before || !honest.AcceptsAdmin("admin", before) {
			t.Error("a hello with a stolen UUID changed the password we keep")
		}
		if out, _, status := d.provctl("device", "restore", honest.UUID().String()); status == 0 {
			t.Errorf("a managed device was restored: %s", out)
		}
		if _, errs, status := d.provctl("device", "approve", honest.UUID().String()); status != 0 {
			t.Errorf("approve: %s", errs)
		}
		if n := rogue.Snapshot().Connections; n != 0 {
			t.Errorf("a person's word for a managed device had the other machine called %d times", n)
		}
		// The worst case: the device is switched off meanwhile, so that the hello is
		// believed, and a person is taken in.
		if err := honest.Close(); err != nil {
			t.Fatal(err)
		}
		poll(t, "nobody answers as the device, and a person is asked", 3*time.Minute, func() bool {
			dev := d.of(honest.UUID())
			return dev.Lifecycle == "pending_approval" && dev.Reason == "reappeared_unprovisioned"
		})
		if s := rogue.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 {
			t.Errorf("it was told %d passwords before a person let it in", len(s.SecretsSeen)+len(s.AdminHA1Seen))
		}
		if _, errs, status := d.provctl("device", "approve", honest.UUID().String()); status != 0 {
			t.Fatalf("approve: %s", errs)
		}
		poll(t, "it is set up in the device's place", time.Minute, func() bool {
			return rogue.Snapshot().Commits == 1 && d.of(honest.UUID()).Lifecycle == "provisioned"
		})
		if s := rogue.Snapshot(); len(s.SecretsSeen) == 0 || len(s.AdminHA1Seen) == 0 {
			t.Errorf("it was told %d and %d passwords: this shows nothing", len(s.SecretsSeen), len(s.AdminHA1Seen))
		}
		useless(t, rogue, honest)
		if !honest.AcceptsAdmin("admin", before) {
			t.Error("the honest device's password was changed")
		}
		if n := len(d.of(honest.UUID()).Credentials); n < 4 {
			t.Errorf("%d passwords are kept, want those of both machines", n)
		}
	})

	t.Run("realm copied from another device", func(t *testing.T) {
		victim := h.add("11", nil)
		h.live(2*time.Second, one(d.hello), victim)
		poll(t, "the victim is managed", time.Minute,
			func() bool { return victim.Snapshot().Commits == 1 && !victim.Brief().Managed.IsZero() })
		rogue := h.add("11", func(c *sim.Config) { c.Realm = victim.Realm() })
		h.live(2*time.Second, one(d.hello), rogue)
		poll(t, "the rogue was dealt with", time.Minute, func() bool {
			l, err := d.client().Device(t.Context(), rogue.UUID().String())
			return err == nil && l.Lifecycle == "quarantined" && l.Reason == "identity_conflict"
		})
		if n := len(rogue.Snapshot().AdminHA1Seen); n != 0 {
			t.Errorf("%d admin hashes were told", n)
		}
		useless(t, rogue, victim)
	})
}

// TestBoxHardwareCertificate: where the configuration requires Intel's hardware
// certificate, the device that shows one is set up, and the one that signed its
// own is told nothing.
func TestBoxHardwareCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	chip, root := certtest.ODCA(time.Now())
	s.configure("  odca: {roots: " + s.file("odca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})) +
		", policy: require}\n")
	d := s.serve(nil)
	h := s.herd()
	real := h.add("16", func(c *sim.Config) { c.SetupCertificate = &chip })
	rogue := h.add("16", nil)
	h.live(2*time.Second, one(d.hello), real, rogue)
	d.managed(1, time.Minute)
	poll(t, "the one without is refused", time.Minute, func() bool {
		dev, err := d.client().Device(t.Context(), rogue.UUID().String())
		return err == nil && dev.Lifecycle == "failed" && dev.Reason == "odca_verification_failed"
	})
	if s := rogue.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 {
		t.Errorf("it was told %d passwords", len(s.SecretsSeen)+len(s.AdminHA1Seen))
	}
	if dev := d.of(real.UUID()); dev.Lifecycle != "provisioned" || dev.PeerVerified != "odca" {
		t.Errorf("the one that shows it: %s, verified %q: %s", dev.Lifecycle, dev.PeerVerified, dev.Detail)
	}
}

// TestBoxRogueInTheMiddle: a rogue answers first at a device's address, takes
// the passwords and breaks off. The honest device that answers afterwards gets
// others, and what the rogue learnt opens nothing.
func TestBoxRogueInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, faults string }{
		{"refuses after the MEBx password", "drop_reply:SetMEBxPassword#all"},
		{"refuses after the admin password", "refuse:SetAdminAclEntryEx#all=2054"},
		{"refuses to commit", "refuse:CommitChanges#all=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			faults, err := sim.ParseFaults(c.faults)
			if err != nil {
				t.Fatal(err)
			}
			s := newSite(t, "")
			d := s.serve(nil)
			h := s.herd()
			rogue := h.add("11", func(cfg *sim.Config) {
				cfg.Faults = faults
				cfg.Tune = func(p *sim.Personality) { p.WeakSelfSign = !p.WeakSelfSign } // another certificate than the honest one's
			})
			if err := rogue.SayHello(t.Context(), d.hello); err != nil {
				t.Fatal(err)
			}
			poll(t, "the rogue was told a password and broke off", time.Minute, func() bool {
				return len(rogue.Snapshot().SecretsSeen) > 0 && d.of(rogue.UUID()).Reason != "" &&
					d.metric("provisiond_sessions_active") == 0
			})
			_ = rogue.Close()
			h.devices = nil
			// The same UUID and address; its own certificate.
			honest := h.add("11", func(cfg *sim.Config) { cfg.UUID, cfg.Addr = rogue.UUID(), rogue.Addr().Addr() })
			h.live(time.Second, one(d.hello), honest)
			if _, errs, status := d.provctl("device", "retry", rogue.UUID().String()); status != 0 {
				t.Logf("retry: %s", errs)
			}
			d.managed(1, 90*time.Second)
			useless(t, rogue, honest)
			h.settled(d)
			if n := len(honest.Snapshot().SecretsSeen); n != 1 {
				t.Errorf("the honest device was told %d MEBx passwords, want 1", n)
			}
		})
	}
}

// rogueListener is TLS with HTTP behind it that has nothing to do with AMT.
type rogueListener struct {
	uuid amt.UUID
	addr net.IP
	l    net.Listener

	mu  sync.Mutex
	got []byte
	n   int
}

func listenRogue(t *testing.T, h *herd) *rogueListener {
	t.Helper()
	cert := certtest.NewLab(time.Now()).ClientCA("nobody").Server("nobody")
	r := &rogueListener{addr: net.IP(h.next.AsSlice()), uuid: amt.UUID{0xa0, 1, 2, 3, 4, 5, 0x46, 7, 0x88, 9, 10, 11, 12, 13, 14, 15}}
	h.next = h.next.Next()
	l, err := tls.Listen("tcp", net.JoinHostPort(r.addr.String(), "16993"),
		&tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	r.l = l
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return r
}

func (r *rogueListener) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	r.mu.Lock()
	r.n++
	r.mu.Unlock()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		r.mu.Lock()
		r.got = append(r.got, buf[:n]...)
		r.mu.Unlock()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>printer</html>")
	}
}

func (r *rogueListener) heard() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.got)
}

func (r *rogueListener) calls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func (r *rogueListener) sayHello(t *testing.T, d *daemon, roots []amt.TrustHash) {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: r.addr}}).DialContext(t.Context(), "tcp", d.hello)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(hello.Message{Version: 3, UUID: r.uuid, Hashes: roots}.Encode()); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	poll(t, "its hello is known", 10*time.Second, func() bool {
		_, err := d.client().Device(t.Context(), r.uuid.String())
		return err == nil
	})
}
