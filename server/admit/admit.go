// Package admit decides about a hello: may this device in, as what, and with
// which certificate? A refusal is a reason, an event and a counter; the device's
// row shows it.
//
// The order of questions is Decide's, in one place. What follows from the
// answer happens in the same transaction that recorded the hello: device, trust
// table, run, sealed candidate passwords, event and job, or nothing at all.
package admit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// Mode is who is let in.
type Mode string

const (
	Open      Mode = "open"       // everyone from an allowed network
	Approve   Mode = "approve"    // a person, or the list of authorised devices, lets each in
	AllowList Mode = "allow-list" // only authorised devices
)

// Reprovision is what to do with a managed device that says hello again.
type Reprovision string

const (
	ReprovisionAuto    Reprovision = "auto"
	ReprovisionApprove Reprovision = "approve"
	ReprovisionDeny    Reprovision = "deny"
)

// Policy is what Decide obeys.
type Policy struct {
	Mode        Mode
	Reprovision Reprovision
	// Networks we may connect back to; nothing is allowed unless named.
	Networks []netip.Prefix
	// HelloPause is how long after an attempt a hello may bring the next one
	// forward, and MostHastened how many times in a row: a hello must not make
	// us dial somebody all day.
	HelloPause   time.Duration
	MostHastened int
	// Attempts is how many in a row are made of a setup that time may mend,
	// before it counts as one that asks for a person; 0: no end.
	Attempts int
	// StopPause is the same for reasons that ask for a person.
	StopPause time.Duration
	// Window is how long firmware listens for setup after its first hello;
	// 0 keeps no account of it.
	Window time.Duration
	// TwinWithin is how close together hellos must be to prove that two
	// machines carry one UUID.
	TwinWithin time.Duration
	// Names are the name sources of a device that no rule speaks of.
	Names []profile.Source
	// OTP is off, agent (compared when an agent announced one) or required.
	OTP    OTPMode
	OTPFor time.Duration // how long an announced one is good
	// Relays are the names in certificates of those who speak for every device;
	// whoever else shows one speaks for its own.
	Relays []string
}

// Stranger reports whether nothing speaks for a device but the open door: nobody
// let it in, and it was never set up. A list may still know it.
func (p Policy) Stranger(d store.Device) bool {
	return p.Mode == Open && !d.Approved && d.ProvisionedAt.IsZero()
}

// OTPMode is what is asked of one-time passwords.
type OTPMode string

const (
	OTPOff      OTPMode = "off"
	OTPAgent    OTPMode = "agent"
	OTPRequired OTPMode = "required"
)

// Config is what an Admitter is made of.
type Config struct {
	DB     *store.DB
	Policy func() Policy
	// Match finds the chains for a device; the error is a *reason.Error.
	Match func(announced []amt.TrustHash, hints certs.Hints) ([]certs.Candidate, error)
	// Enqueue puts a run into the work queue in the caller's transaction.
	Enqueue func(ctx context.Context, tx *store.Tx, runID int64, at time.Time, priority int) error
	Rand    io.Reader
	Lookup  Lookup // of names outside; zero asks nobody
	Log     *zap.Logger
	Metrics *Metrics
}

// Admitter is the hello listener's handler.
type Admitter struct {
	Config
	turns [1024]chan struct{} // by the UUID's last bits
	batch batch
}

// New makes an Admitter.
func New(cfg Config) *Admitter {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil)
	}
	a := &Admitter{Config: cfg}
	for i := range a.turns {
		a.turns[i] = make(chan struct{}, 1)
	}
	return a
}

// HandleHello records a hello and what follows from it, durably, before it
// returns. An error means nothing of it is stored.
func (a *Admitter) HandleHello(ctx context.Context, h hello.Hello) (hello.Result, error) {
	// Hellos of one device take turns here rather than in the database, where
	// each would hold a connection while it waits for the device's row: one
	// device that never stops talking would keep all others from being served.
	if h.Via != hello.ViaPlain {
		if why, err := a.speaks(ctx, h); err != nil {
			return "", fmt.Errorf("who may speak for the device: %w", err)
		} else if why != "" {
			return a.told(h, why), nil
		}
	}
	turn := a.turns[(int(h.UUID[14])<<8|int(h.UUID[15]))%len(a.turns)]
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for the device's other hellos: %w", ctx.Err())
	}
	m, over, err := a.together(ctx, h)
	if err != nil {
		return "", err
	}
	if over {
		a.say(m.dev, m.decision)
		return m.decision.Result, nil
	}
	return a.alone(ctx, h)
}

// alone decides about one hello in a transaction of its own.
func (a *Admitter) alone(ctx context.Context, h hello.Hello) (hello.Result, error) {
	var m member
	for again := false; ; again = true {
		err := a.DB.Write(ctx, func(tx *store.Tx) error {
			met, err := tx.ReadArrivals(ctx, []store.SeenHello{seen(h)})
			if err != nil {
				return fmt.Errorf("record the hello: %w", err)
			}
			m.dev = met[0].Device
			if m.decision, err = a.decideTx(ctx, tx, h, met[0]); err != nil {
				return err
			}
			d := m.decision
			bare := Decision{Stray: d.Stray, Claim: d.Claim, Word: d.Word} // the rest is carryOut's
			if err := tx.WriteOutcomes(ctx, []store.Outcome{a.waits(a.Policy(), met[0], h, bare, tx)}); err != nil {
				return err
			}
			if err := a.heard(ctx, tx, h); err != nil {
				return err
			}
			return a.carryOut(ctx, tx, m.dev, met[0].Before, "hello", d)
		})
		if errors.Is(err, store.ErrConflict) && !again {
			continue // another node met the new device first
		}
		if err != nil {
			return "", err
		}
		a.say(m.dev, m.decision)
		return m.decision.Result, nil
	}
}

// say counts and logs a decision that is durable.
func (a *Admitter) say(dev store.Device, d Decision) {
	if d.Alarm != "" {
		a.Metrics.alarms.WithLabelValues(string(d.Alarm)).Inc()
	}
	if d.Stray != "" {
		a.Metrics.strays.WithLabelValues(string(d.Stray)).Inc()
	}
	if d.Event != "" {
		a.Log.Info("hello."+d.Event, zap.Stringer("device", dev.UUID), zap.Stringer("address", dev.Address),
			zap.String("lifecycle", string(d.To)), zap.String("reason", string(d.Reason)), zap.String("detail", d.Detail))
	}
	if e := d.Aside; e != nil {
		a.Log.Warn("hello."+e.Name, zap.Stringer("device", dev.UUID), zap.Stringer("address", dev.Address),
			zap.String("reason", string(e.Reason)), zap.String("detail", e.Detail))
	}
}

func seen(h hello.Hello) store.SeenHello {
	s := store.SeenHello{
		UUID: h.UUID, At: h.At, From: h.From, Local: h.Local, Address: h.Address, Named: h.Address.IsValid(), Via: string(h.Via),
		Peer:    h.Peer,
		Version: h.Version, Retry: h.RetryCount, AdminSet: h.AdminCredentialsSet, PID: h.PID, Hashes: h.Hashes, Trailing: h.Trailing,
	}
	if !s.Address.IsValid() {
		s.Address = h.From.Addr().Unmap()
	}
	if len(h.Trailing) > 0 {
		s.Raw = h.Raw // what could not be explained is kept as it came
	}
	return s
}

// decideTx gathers what decide needs to know from the store.
func (a *Admitter) decideTx(ctx context.Context, tx *store.Tx, h hello.Hello, s store.Arrival) (Decision, error) {
	dev := s.Device
	q, failed := a.question(ctx, factsOf(tx), h, dev, nil)
	q.Before = s.Before
	switch run, err := tx.LiveRun(ctx, dev.UUID); {
	case err == nil:
		q.Live = &run
	case !errors.Is(err, store.ErrNotFound):
		return Decision{}, err
	}
	if err := ended(ctx, tx, &q); err != nil {
		return Decision{}, err
	}
	d := Decide(q)
	return d, *failed
}

// ended tells a question when the last run ended, if it can matter.
func ended(ctx context.Context, tx *store.Tx, q *Question) error {
	if !q.failedBefore() {
		return nil
	}
	runs, err := tx.Runs(ctx, q.Device.UUID, 1)
	if err == nil && len(runs) > 0 {
		q.Ended = runs[0].FinishedAt
	}
	return err
}

// question lets Decide ask the store. A failed answer ends up in the error.
func (a *Admitter) question(ctx context.Context, f *facts, h hello.Hello, dev store.Device, answers map[profile.Source]answer) (Question,
	*error) {
	tx, failed := f.tx, new(error)
	note := func(err error) bool {
		if err != nil && !errors.Is(err, store.ErrNotFound) && *failed == nil {
			*failed = err
		}
		return err == nil
	}
	q := Question{Policy: a.Policy(), Hello: h, Device: dev, Before: store.SeenBefore{Known: true, Previous: dev}, Now: tx.Now()}
	q.Twin = func() string {
		recent, err := tx.Hellos(ctx, dev.UUID, 16)
		if !note(err) {
			return ""
		}
		// This one is not recorded yet, and who is not from here proves nothing.
		this := store.HelloRecord{At: h.At, From: h.From.String(), Via: string(h.Via), TrustTable: dev.TrustTable}
		recent = append([]store.HelloRecord{this},
			slices.DeleteFunc(recent, func(r store.HelloRecord) bool { return !fromHere(q.Policy.Networks, r) })...)
		evidence := twinEvidence(recent, h.At, q.Policy.TwinWithin)
		if evidence == "" {
			return ""
		}
		// What a person has looked at is no news.
		released, err := tx.Events(ctx, store.EventFilter{UUID: dev.UUID, Name: "released", Newest: true, Limit: 1})
		if !note(err) || len(released) == 0 {
			return evidence
		}
		since := slices.IndexFunc(recent, func(r store.HelloRecord) bool { return !r.At.After(released[0].At) })
		if since >= 0 {
			recent = recent[:since]
		}
		return twinEvidence(recent, q.Now, q.Policy.TwinWithin)
	}
	q.Stray = func() time.Time {
		last, err := tx.Events(ctx, store.EventFilter{UUID: dev.UUID, Name: strayHello, Newest: true, Limit: 1})
		if !note(err) || len(last) == 0 {
			return time.Time{}
		}
		return last[0].At
	}
	q.Authorised = func() bool {
		_, err := f.authorisedFor(ctx, dev)
		return note(err)
	}
	q.Listed = func(this, not netip.Addr) bool {
		in, err := f.networksFor(ctx, dev, this)
		out, err2 := f.networksFor(ctx, dev, not)
		return note(err) && note(err2) && slices.ContainsFunc(in, func(id int64) bool { return !slices.Contains(out, id) })
	}
	q.Sent = func() bool {
		sent, err := tx.WasSent(ctx, dev.UUID)
		return note(err) && sent
	}
	q.Identity = func() Identity {
		id, err := a.identify(ctx, f, dev, h, answers)
		note(err)
		return id
	}
	q.Match = func() error {
		hashes := h.Hashes
		if len(hashes) == 0 && dev.TrustTable != 0 {
			var err error
			if hashes, _, err = f.hashes(ctx, dev.TrustTable); !note(err) {
				return err
			}
		}
		return f.match(a.Config.Match, hashes, dev).err
	}
	return q, failed
}

// heard keeps what an authenticated agent knows, whatever is decided about the
// device.
func (a *Admitter) heard(ctx context.Context, tx *store.Tx, h hello.Hello) error {
	p, dev := a.Policy(), h
	if h.Via == hello.ViaPlain {
		return nil
	}
	if h.FQDN != "" {
		n, err := tx.NameOf(ctx, dev.UUID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if n.FQDN != h.FQDN && (n.Source == "" || n.Source == FromAgent) {
			if err := tx.PutName(ctx, store.Name{UUID: dev.UUID, FQDN: h.FQDN, Source: FromAgent}); err != nil {
				return err
			}
		}
	}
	if h.OTP.IsZero() || p.OTP == OTPOff || p.OTP == "" {
		return nil
	}
	last, err := tx.OTPFor(ctx, dev.UUID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && last.Password.Equal(h.OTP) {
		return nil // the agent repeats itself
	}
	good := p.OTPFor
	if good <= 0 {
		good = 24 * time.Hour
	}
	if _, err := tx.CreateOTP(ctx, store.OTP{UUID: dev.UUID, Password: h.OTP, IssuedTo: h.Peer,
		ExpiresAt: tx.Now().Add(good)}); err != nil {
		return err
	}
	return tx.Audit(ctx, store.AuditRecord{Actor: "agent:" + h.Peer, Action: "otp.announced", Subject: dev.UUID.String()})
}

// window says until when firmware listens: from a device's first hello, from
// one after its window was over, and from one whose retry counter began again,
// which a power cycle does. What ExtendProvisioningPeriod set stays otherwise.
func window(p Policy, h hello.Hello, dev store.Device, before store.SeenBefore, now time.Time) (time.Time, bool) {
	if p.Window <= 0 || h.Via == hello.ViaAgent || dev.Lifecycle == store.Retired {
		return time.Time{}, false
	}
	again := before.Known && h.RetryCount < before.Previous.HelloRetry
	if dev.WindowUntil.After(now) && !again {
		return time.Time{}, false
	}
	return now.Add(p.Window), true
}

// carryOut makes a decision true.
func (a *Admitter) carryOut(ctx context.Context, tx *store.Tx, dev store.Device, before store.SeenBefore, trigger string,
	d Decision) error {
	priority := queue.Normal
	if !dev.WindowUntil.IsZero() {
		priority = queue.Priority(dev.WindowUntil, tx.Now())
	}
	if dev.Attempts > 0 {
		priority = queue.Behind(priority, 1)
	}
	if a.Policy().Stranger(dev) && (d.Identity == nil || d.Identity.Entry == 0) {
		priority = queue.Behind(priority, 1)
	}
	if id := d.Identity; id != nil {
		var f store.DeviceFacts
		if id.FQDN != "" && id.FQDN != dev.FQDN {
			f.FQDN = &id.FQDN
		}
		if id.Profile != dev.Profile {
			f.Profile = &id.Profile
		}
		if err := tx.UpdateDevice(ctx, dev.UUID, f); err != nil {
			return err
		}
		dev.Profile = id.Profile
	}
	if f := moved(dev, before, d); f != (store.DeviceFacts{}) {
		if err := tx.UpdateDevice(ctx, dev.UUID, f); err != nil {
			return err
		}
	}
	if d.Aside != nil {
		if _, err := tx.AddEvent(ctx, *d.Aside); err != nil {
			return err
		}
	}
	if d.HastenRun != 0 {
		if err := tx.HastenRun(ctx, d.HastenRun, tx.Now()); err != nil {
			return err
		}
		return a.Enqueue(ctx, tx, d.HastenRun, tx.Now(), priority)
	}
	if d.Event == "" {
		return nil
	}
	t := transition(dev, d)
	if !d.Start {
		return tx.Transition(ctx, t)
	}
	run, err := StartRun(ctx, tx, a.Rand, dev.UUID, "provision", trigger, dev.Profile, tx.Now())
	if err != nil {
		return err
	}
	t.RunID = run.ID
	if err := tx.Transition(ctx, t); err != nil {
		return err
	}
	if d.Identity != nil && d.Identity.Entry != 0 {
		if err := tx.UsedAuthorisation(ctx, d.Identity.Entry); err != nil {
			return err
		}
	}
	return a.Enqueue(ctx, tx, run.ID, tx.Now(), priority)
}

// moved is what else changes about a device whose hello is believed from another
// address, or of which an agent says where it is.
func moved(dev store.Device, before store.SeenBefore, d Decision) (f store.DeviceFacts) {
	if d.Word.IsValid() {
		f.AgentAddress = &d.Word
	}
	if !d.believed() || !before.Known {
		return f
	}
	if dev.Approved && before.AddressChanged && before.Previous.Address.IsValid() && !d.Start {
		f.Approved = new(bool) // who was approved was somebody else
	}
	return f
}

// transition is how a decision moves a device.
func transition(dev store.Device, d Decision) store.Transition {
	t := store.Transition{UUID: dev.UUID, To: d.To, Reason: d.Reason, Detail: d.Detail, Event: d.Event, Actor: "system", Data: d.Evidence}
	if d.To == "" {
		t.NextRetry = dev.NextRetry
	}
	return t
}

// StartRun creates a run and, in the same transaction, makes sure that the
// device has candidate passwords: what a device receives is durable before
// anybody connects to it. Candidates no attempt has replaced are used again.
func StartRun(ctx context.Context, tx *store.Tx, rand io.Reader, uuid amt.UUID, kind, trigger, profile string, at time.Time) (store.Run,
	error) {
	run, err := tx.CreateRun(ctx, store.NewRun{UUID: uuid, Kind: kind, Trigger: trigger, Profile: profile, NotBefore: at})
	if err != nil {
		return store.Run{}, fmt.Errorf("create the run: %w", err)
	}
	have, err := tx.Credentials(ctx, uuid, store.KindAdmin)
	if err != nil {
		return store.Run{}, err
	}
	if len(have) > 0 && have[0].State == store.CredentialCandidate {
		return run, nil
	}
	admin, err := amt.NewAdminPassword(rand)
	if err != nil {
		return store.Run{}, err
	}
	mebx, err := amt.NewMEBxPassword(rand)
	if err != nil {
		return store.Run{}, err
	}
	gen, err := tx.StageCredentials(ctx, uuid, run.ID, admin, mebx)
	if err != nil {
		return store.Run{}, fmt.Errorf("store the run's passwords: %w", err)
	}
	return run, tx.Audit(ctx, store.AuditRecord{Actor: "system", Action: "secret.staged", Subject: uuid.String(),
		Detail: map[string]any{"generation": gen, "run": run.ID}})
}
