package provision

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// simSession is one connection to the simulated device.
type simSession struct {
	s        *seams
	dev      *simDevice
	setup    bool
	power    int
	logins   []session.Login
	used     string
	deadline time.Time
	fence    int64
	closed   bool
	keyTries int // key generation starts over with a new connection
	stranger byte

	told      int  // how often the device heard whom to let in
	committed bool // it was asked to commit
}

// dial connects: in setup the device wants our certificate, afterwards none.
func (s *seams) dial(_ context.Context, t session.Target) (Device, error) {
	pause(s.a, s.yield, time.Duration(5+s.w.rng.IntN(100))*time.Millisecond)
	if s.w.faulty && s.w.odd.IntN(12) == 0 {
		return s.stranger(t), nil
	}
	dev := &s.w.dev
	if t.Addr.Addr() == s.w.rogue.addr && s.w.faulty {
		dev = &s.w.rogue
		s.w.met[s.w.db.fence] = true
		s.w.hit("a rogue is called", "")
	}
	if t.Addr.Addr() != dev.addr || s.w.now.Before(dev.back) || s.w.p(.03) {
		return nil, &reason.Error{Code: reason.DeviceUnreachable, Err: errors.New("connection refused")}
	}
	switch {
	case s.beside(dev):
		return nil, &reason.Error{Code: reason.DeviceUnreachable, Err: errors.New("one connection is open, and it takes no other")}
	case dev.state == amt.StateIn && t.Client == nil && s.w.mutant != "trust the commit call":
		return nil, &reason.Error{Code: reason.TLSHandshakeFailed, Err: errors.New("certificate required")}
	case dev.state == amt.StateIn && nameOf(t.Client) != simLeaf.Subject.CommonName && s.w.mutant != "trust the commit call",
		dev.state == amt.StatePost && !dev.tls.admits(nameOf(t.Client)):
		s.w.say("%s is refused as %q", s.a.name, nameOf(t.Client))
		return nil, &reason.Error{Code: reason.TLSClientCertRefused, Err: errors.New("bad certificate")}
	}
	c := &simSession{
		s: s, dev: dev, setup: dev.state == amt.StateIn, power: dev.power, logins: t.Logins,
		fence: s.w.db.fence,
	}
	s.open = append(s.open, c)
	return c, nil
}

// beside reports whether a device takes no second connection while one is open.
// Without the proof beside the change it is as if none did.
func (s *seams) beside(dev *simDevice) bool {
	s.open = slices.DeleteFunc(s.open, func(c *simSession) bool { return c.closed || c.power != c.dev.power })
	return slices.ContainsFunc(s.open, func(c *simSession) bool {
		return c.dev == dev && (dev.tls.single || s.w.mutant == "no proof beside the change" && c.told > 0 && !c.committed)
	})
}

// stranger answers in the device's place: one that shows another certificate, asks
// for ours or does not, and knows the UUID. It hears what it can and breaks off
// before it would be taken for the device. There are two of them, who come back.
func (s *seams) stranger(t session.Target) Device {
	w := s.w
	w.met[w.db.fence] = true
	w.hit("a stranger answers", "")
	c := &simSession{s: s, dev: &w.dev, setup: t.Client != nil && w.odd.IntN(2) == 0, power: w.dev.power, logins: t.Logins,
		fence: w.db.fence, stranger: byte(1 + w.odd.IntN(2))}
	if w.mutant == "a stranger's key becomes a proof" {
		for _, o := range w.db.creds {
			o.Proofs, _ = store.AddProofs(o.Proofs, peerProofs(c.Peer())...)
		}
	}
	return c
}

// ask is one request to a stranger.
func (c *simSession) ask(name string, change bool) error {
	w := c.s.w
	if !c.setup || w.odd.IntN(2) == 0 {
		c.used = ""
		for _, l := range c.logins {
			pw := l.Password.Reveal()
			w.say("a stranger hears %s", l.Name)
			// An answer is worth something to him while the device takes one from
			// anybody: in setup it talks only to who shows our certificate.
			if w.dev.state == amt.StatePost {
				w.heard[pw] = true
			}
			w.check("a stranger in " + name)
			if w.odd.IntN(3) == 0 {
				c.used = l.Name
				break
			}
		}
		if c.used == "" {
			return &reason.Error{Code: reason.AuthFailed, Err: errors.New("401")}
		}
	}
	if name == "commit" || !c.setup || w.odd.IntN(8) == 0 {
		c.closed = true
		return &reason.Error{Code: reason.ConnectionLost, Sent: change, Err: fmt.Errorf("%s: the stranger broke off", name)}
	}
	return nil
}

// call is one request: it may be lost, be applied and its answer lost, or
// arrive after the caller gave up.
func (c *simSession) call(name string, change bool, f func(*simDevice) error) error {
	w := c.s.w
	c.s.a.in = name
	defer func() { c.s.a.in = "" }()
	pause(c.s.a, c.s.yield, time.Duration(1+w.rng.IntN(150))*time.Millisecond)
	if c.closed {
		return &reason.Error{Code: reason.ConnectionLost, Err: errors.New("use of closed connection")}
	}
	if !c.deadline.IsZero() && !c.s.Now().Before(c.deadline) && w.mutant != "no socket deadline" {
		return &reason.Error{Code: reason.LeaseLost, Err: errors.New("i/o timeout: the lease ends")}
	}
	if c.stranger != 0 {
		if err := c.ask(name, change); err != nil {
			return err
		}
		d := &simDevice{state: amt.StateIn, atOnce: true, version: amt.Version{Major: 17}, mac: strangersMAC, realm: "Digest:0666"}
		if c.stranger == 2 {
			d.mac = w.dev.mac // anybody can read it
		}
		return f(d)
	}
	lost := func() error {
		c.closed = true
		return &reason.Error{Code: reason.ConnectionLost, Sent: change, Err: fmt.Errorf("%s: connection reset", name)}
	}
	if c.power != c.dev.power {
		if w.mutant != "transparent reconnect" {
			return lost()
		}
		pause(c.s.a, c.s.yield, max(c.dev.back.Sub(w.now), 0))
		if c.setup != (c.dev.state == amt.StateIn) {
			return lost()
		}
		c.power = c.dev.power
	}
	if w.p(.03) {
		w.hit("request lost:", name)
		return lost()
	}
	if change && w.p(.03) {
		w.hit("late delivery:", name)
		power := c.dev.power
		w.late = append(w.late, lateChange{w.now.Add(time.Duration(w.rng.Int64N(int64(inFlight)))), name, func() {
			if c.dev.power == power {
				_ = c.apply(name, true, f)
			}
		}})
		return lost()
	}
	if err := c.login(); err != nil {
		return err
	}
	err := c.apply(name, change, f)
	w.check(name)
	if w.p(.04) {
		w.hit("reply lost:", name)
		return lost()
	}
	pause(c.s.a, c.s.yield, time.Duration(1+w.rng.IntN(150))*time.Millisecond)
	return err
}

// apply is the moment the device acts. A change by a session whose lease is
// over is two masters at one device.
func (c *simSession) apply(name string, change bool, f func(*simDevice) error) error {
	w := c.s.w
	if change {
		w.sends++
		if c.dev == &w.dev && c.fence != w.db.fence && w.db.owner != "" {
			w.broken("I2", "%s sent %s under fence %d while fence %d holds the device", c.s.a.name, name, c.fence, w.db.fence)
		}
	}
	err := f(c.dev)
	w.say("%s %s -> %v", c.s.a.name, name, err)
	return err
}

// login is the digest: the device asks in operational mode, and in setup if it
// is of that temperament.
func (c *simSession) login() error {
	d := c.dev
	if d == &c.s.w.rogue {
		return c.rogueLogin()
	}
	if c.setup && !d.asks {
		return nil
	}
	logins := c.logins
	if c.s.w.mutant == "no recovery probe" && !c.setup && len(logins) > 1 {
		logins = nil
	}
	if c.s.w.mutant == "no recovery probe" && !c.setup && c.used == "" && c.s.a != nil && c.fresh() {
		logins = nil
	}
	for _, l := range logins {
		pw := l.Password.Reveal()
		if pw == d.admin {
			c.used = l.Name
			return nil
		}
	}
	return &reason.Error{Code: reason.AuthFailed, Err: errors.New("401")}
}

// rogueLogin hears what it is offered, and takes one: the one it was told last.
func (c *simSession) rogueLogin() error {
	w := c.s.w
	if c.setup && w.odd.IntN(2) == 0 {
		return nil
	}
	c.used = ""
	for _, l := range c.logins {
		pw := l.Password.Reveal()
		if w.dev.state == amt.StatePost {
			w.heard[pw] = true
		}
		w.check("a rogue")
		if pw == c.dev.admin {
			c.used = l.Name
			return nil
		}
	}
	return &reason.Error{Code: reason.AuthFailed, Err: errors.New("401")}
}

// fresh reports whether this session began a run rather than verified one.
func (c *simSession) fresh() bool { return len(c.logins) > 0 && c.s.w.db.lifecycle != "verifying" }

func (c *simSession) Peer() session.Peer {
	d := c.dev
	if c.stranger == 0 {
		return d.peer(c.setup)
	}
	p := shown("a stranger's", c.stranger)
	p.ClientCertAsked, p.TLSVersion = c.setup, 0x0303
	p.Hardware = chipKey[:] // anybody may show the chain; it does not verify
	switch c.s.w.mutant {
	case "any key will do":
		p.Key = d.peer(false).Key
	case "any hardware will do":
		p.Verified = verifiedODCA
	}
	return p
}

func (c *simSession) LoginUsed() string {
	if c.s.w.mutant == "trust the commit call" && len(c.logins) == 1 {
		return c.logins[0].Name
	}
	return c.used
}
func (c *simSession) SetLogins(l []session.Login) { c.logins = l }
func (c *simSession) SetDeadline(t time.Time)     { c.deadline = t }
func (c *simSession) Close() error                { c.closed = true; return nil }

func (c *simSession) Identify(context.Context) (id session.Identity, err error) {
	err = c.call("identify", false, func(d *simDevice) error {
		id = session.Identity{UUID: simUUID, Version: d.version, Realm: d.realm, MAC: d.mac, HostName: d.hostName, DomainName: d.domain,
			State: d.state, DHCPSuffix: simDomain}
		return nil
	})
	return id, err
}

func (c *simSession) State(context.Context) (st amt.ProvisioningState, err error) {
	if c.s.w.mutant == "trust the commit call" {
		return amt.StatePost, nil
	}
	err = c.call("state", false, func(d *simDevice) error { st = d.state; return nil })
	return st, err
}

func (c *simSession) inSetup(name string, f func(*simDevice) error) error {
	return c.call(name, true, func(d *simDevice) error {
		if d.state != amt.StateIn {
			return &reason.Error{Code: reason.WSMANFault, Err: amt.StatusInvalidState}
		}
		return f(d)
	})
}

func (c *simSession) ExtendSetup(_ context.Context, hours int) error {
	return c.inSetup("extend", func(d *simDevice) error { d.ext = hours; return nil })
}

func (c *simSession) SetClock(context.Context) (time.Time, error) {
	return time.Time{}, c.change("clock", func(d *simDevice) error { d.clock, d.clockOff = true, 0; return nil })
}

// handed holds what must be true of a password the moment it leaves.
func (c *simSession) handed(pw amt.Secret) {
	w := c.s.w
	if c.stranger != 0 || c.dev == &w.rogue {
		w.heard[pw.Reveal()] = true
	}
	switch {
	case w.mutant != "" && w.mutant != "an unknown outcome counts as done":
		// What a missing rule leads to is to be seen, not that it is missing.
	case !w.db.told(pw.Reveal()):
		w.broken("I10", "a password is sent that is not noted as sent")
	case !w.certain[handout{c.fence, pw.Reveal()}]:
		w.broken("I9", "a password is sent while nobody knows whether its note was committed")
	}
}

func (c *simSession) SetMEBxPassword(_ context.Context, pw amt.Secret) error {
	c.handed(pw)
	return c.inSetup("mebx", func(d *simDevice) error {
		held := d.mebx
		if d.pendingMEBx != "" {
			held = d.pendingMEBx
		}
		if d.mebxOnce && held != "admin" {
			return &reason.Error{Code: reason.WSMANFault, Err: amt.StatusNotPermitted}
		}
		if d.atOnce {
			d.mebx = pw.Reveal()
		} else {
			d.pendingMEBx = pw.Reveal()
		}
		return nil
	})
}

// SetAdminPassword tells the device a hash over its realm: over another's it is of
// no password.
func (c *simSession) SetAdminPassword(_ context.Context, _, realm string, pw amt.Secret) error {
	c.handed(pw)
	hears := func(d *simDevice) string {
		if realm != d.realm {
			return "a hash for " + realm
		}
		return pw.Reveal()
	}
	if !c.setup {
		return c.call("admin", true, func(d *simDevice) error {
			if d.state != amt.StatePost {
				return &reason.Error{Code: reason.WSMANFault, Err: amt.StatusInvalidState}
			}
			d.admin = hears(d)
			return nil
		})
	}
	return c.inSetup("admin", func(d *simDevice) error {
		if d.atOnce {
			d.admin = hears(d)
		} else {
			d.pendingAdmin = hears(d)
		}
		return nil
	})
}

// change is a call of a device in setup mode or after it, over a session of the
// same mode.
func (c *simSession) change(name string, f func(*simDevice) error) error {
	return c.call(name, true, func(d *simDevice) error {
		if c.setup && d.state != amt.StateIn && c.stranger == 0 {
			return &reason.Error{Code: reason.WSMANFault, Err: amt.StatusInvalidState}
		}
		return f(d)
	})
}

func (c *simSession) SetHostName(_ context.Context, host, domain string) error {
	return c.change("host", func(d *simDevice) error { d.host, d.hostName, d.domain = true, host, domain; return nil })
}

func (c *simSession) TLSMaterial(context.Context) (m session.TLSMaterial, err error) {
	err = c.call("material", false, func(d *simDevice) error { m = d.material(); return nil })
	return m, err
}

// GenerateKey is busy for longer than a lease on a slow device, so that a run
// lives on its heartbeat alone.
func (c *simSession) GenerateKey(context.Context, int) (string, error) {
	err := c.change("key", func(d *simDevice) error {
		if c.keyTries++; d.slowKeys && c.keyTries < 9 {
			return &reason.Error{Code: reason.KeypairGenerationFailed, Err: amt.StatusGeneratingKeys}
		}
		d.keyReady = true
		return nil
	})
	return "key 1", err
}

func (c *simSession) AddKey(context.Context, *rsa.PrivateKey) (string, error) {
	return "", errors.New("not asked of this generation")
}

func (c *simSession) AddCertificate(_ context.Context, der []byte) (string, error) {
	return "cert 1", c.change("certificate", func(d *simDevice) error { d.tls.given = der; return nil })
}

func (c *simSession) AddTrustedRoot(context.Context, []byte) (string, error) {
	return "root", c.change("root", func(d *simDevice) error {
		if d.tls.root {
			return &reason.Error{Code: reason.WSMANFault, Err: amt.StatusDuplicate}
		}
		d.tls.root = !d.tls.rootless
		return nil
	})
}

func (c *simSession) UseCertificate(context.Context, string) error {
	return c.change("context", func(d *simDevice) error { d.tls.chosen = true; return nil })
}

func (c *simSession) EnableTLS(_ context.Context, mutual bool, names []string) error {
	c.s.told++
	return c.change("tls", func(d *simDevice) error {
		if c.s.w.mutant == "nothing is put back" && c.s.told > 1 && !c.setup {
			return nil
		}
		c.told++
		d.tls.tell(mutual, names)
		return nil
	})
}

func (c *simSession) Commit(context.Context) error {
	c.committed = true
	return c.call("commit", true, func(d *simDevice) error {
		if c.setup && d.state != amt.StateIn {
			return &reason.Error{Code: reason.CommitFailed, Err: amt.StatusInvalidState}
		}
		return d.commit(c.s.w)
	})
}

func (c *simSession) ProvisioningRecord(context.Context) (session.Record, error) {
	return session.Record{}, c.call("record", false, func(*simDevice) error { return nil })
}

func (c *simSession) Clock(context.Context) (t time.Time, err error) {
	err = c.call("clock?", false, func(d *simDevice) error { t = c.s.w.now.Add(-d.clockOff); return nil })
	return t, err
}

func (c *simSession) Delete(context.Context, string) error {
	return c.change("delete", func(*simDevice) error { return nil })
}

func (c *simSession) Unprovision(context.Context, bool) error {
	return errors.New("not asked in this simulation")
}
