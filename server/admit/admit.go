// Package admit decides about a hello: may this device in, as what, and with
// which certificate? A refusal is a reason, an event and a counter; the device's
// row shows it.
//
// The order of questions is decide's, in one place. What follows from the
// answer happens in the same transaction that recorded the hello: device, trust
// table, run, sealed candidate passwords, event and job, or nothing at all.
package admit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
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

// Policy is what decide obeys.
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
	// StopPause is the same for reasons that ask for a person.
	StopPause time.Duration
}

// Config is what an Admitter is made of.
type Config struct {
	DB     *store.DB
	Policy func() Policy
	// Match finds the chains for a device; the error is a *reason.Error.
	Match func(announced []amt.TrustHash, hints certs.Hints) ([]certs.Candidate, error)
	// Enqueue puts a run into the work queue in the caller's transaction.
	Enqueue func(ctx context.Context, tx *store.Tx, runID int64, at time.Time, priority int) error
	Rand    io.Reader
	Log     *zap.Logger
}

// Admitter is the hello listener's handler.
type Admitter struct {
	Config
}

// New makes an Admitter.
func New(cfg Config) *Admitter { return &Admitter{cfg} }

// HandleHello records a hello and what follows from it, durably, before it
// returns. An error means nothing of it is stored.
func (a *Admitter) HandleHello(ctx context.Context, h hello.Hello) (hello.Result, error) {
	var d Decision
	var dev store.Device
	err := a.DB.Write(ctx, func(tx *store.Tx) error {
		var before store.SeenBefore
		var err error
		dev, before, err = tx.SeeHello(ctx, seen(h))
		if err != nil {
			return fmt.Errorf("record the hello: %w", err)
		}
		d, err = a.decideTx(ctx, tx, h, dev, before)
		if err != nil {
			return err
		}
		return a.carryOut(ctx, tx, dev, before, d)
	})
	if err != nil {
		return "", err
	}
	if d.Event != "" {
		a.Log.Info("hello."+d.Event, zap.Stringer("device", dev.UUID), zap.Stringer("address", dev.Address),
			zap.String("lifecycle", string(d.To)), zap.String("reason", string(d.Reason)), zap.String("detail", d.Detail))
	}
	return d.Result, nil
}

func seen(h hello.Hello) store.SeenHello {
	s := store.SeenHello{
		UUID: h.UUID, At: h.At, From: h.From, Local: h.Local, Address: h.Address, Via: string(h.Via), Peer: h.Peer, FQDN: h.FQDN,
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
func (a *Admitter) decideTx(ctx context.Context, tx *store.Tx, h hello.Hello, dev store.Device, before store.SeenBefore) (Decision, error) {
	q := Question{Policy: a.Policy(), Hello: h, Device: dev, Before: before, Now: tx.Now()}
	switch run, err := tx.LiveRun(ctx, dev.UUID); {
	case err == nil:
		q.Live = &run
	case !errors.Is(err, store.ErrNotFound):
		return Decision{}, err
	}
	if dev.Lifecycle == store.Failed || dev.Lifecycle == store.CredentialsUnknown {
		runs, err := tx.Runs(ctx, dev.UUID, 1)
		if err != nil {
			return Decision{}, err
		}
		if len(runs) > 0 {
			q.Ended = runs[0].FinishedAt
		}
	}
	if q.Policy.Mode != Open && !dev.Approved {
		auth, err := tx.AuthorisedFor(ctx, dev)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return Decision{}, err
		}
		q.Authorised = err == nil
		q.FQDN = auth.FQDN
	}
	q.Match = func() error {
		hashes := h.Hashes
		if len(hashes) == 0 && dev.TrustTable != 0 {
			var err error
			if hashes, err = tx.TrustHashes(ctx, dev.TrustTable); err != nil {
				return err
			}
		}
		_, err := a.Config.Match(hashes, certs.Hints{Suffix: dev.Suffix, Version: dev.Version})
		return err
	}
	return decide(q), nil
}

// carryOut makes a decision true.
func (a *Admitter) carryOut(ctx context.Context, tx *store.Tx, dev store.Device, before store.SeenBefore, d Decision) error {
	if d.FQDN != "" && dev.FQDN == "" {
		if err := tx.UpdateDevice(ctx, dev.UUID, store.DeviceFacts{FQDN: &d.FQDN}); err != nil {
			return err
		}
	}
	if d.HastenRun != 0 {
		if err := tx.HastenRun(ctx, d.HastenRun, tx.Now()); err != nil {
			return err
		}
		return a.Enqueue(ctx, tx, d.HastenRun, tx.Now(), 2)
	}
	if d.Event == "" {
		return nil
	}
	t := store.Transition{UUID: dev.UUID, To: d.To, Reason: d.Reason, Detail: d.Detail, Event: d.Event, Actor: "system", Data: d.Evidence}
	if !d.Start {
		return tx.Transition(ctx, t)
	}
	run, err := StartRun(ctx, tx, a.Rand, dev.UUID, "provision", "hello", dev.Profile, tx.Now())
	if err != nil {
		return err
	}
	t.RunID = run.ID
	if err := tx.Transition(ctx, t); err != nil {
		return err
	}
	return a.Enqueue(ctx, tx, run.ID, tx.Now(), 2)
}

// StartRun creates a run and, in the same transaction, makes sure that the
// device has candidate passwords: what a device receives is durable before
// anybody connects to it. Candidates no attempt has replaced are used again.
func StartRun(ctx context.Context, tx *store.Tx, rand io.Reader, uuid amt.UUID, kind, trigger, profile string, at time.Time) (store.Run, error) {
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

// Reconsider asks again about devices that wait for a certificate: one was
// activated. It returns how many runs it started.
func (a *Admitter) Reconsider(ctx context.Context) (started int, err error) {
	for _, life := range []store.Lifecycle{store.PendingCertificate, store.Failed} {
		after := ""
		for {
			var page []store.Device
			if err := a.DB.Read(ctx, func(tx *store.Tx) (err error) {
				page, err = tx.Devices(ctx, store.DeviceFilter{Lifecycle: []store.Lifecycle{life}, After: after, Limit: 200})
				return err
			}); err != nil {
				return started, err
			}
			for _, d := range page {
				after = d.Cursor(store.ByUUID)
				if reason.Of(d.Reason).Retry != reason.ForCertificate {
					continue
				}
				ok, err := a.reconsider(ctx, d)
				if err != nil {
					return started, fmt.Errorf("device %s: %w", d.UUID, err)
				}
				if ok {
					started++
				}
			}
			if len(page) < 200 {
				break
			}
		}
	}
	return started, nil
}

func (a *Admitter) reconsider(ctx context.Context, d store.Device) (started bool, err error) {
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		started = false
		now, err := tx.Device(ctx, d.UUID)
		if err != nil {
			return err
		}
		if now.Lifecycle != d.Lifecycle {
			return nil
		}
		hashes, err := tx.TrustHashes(ctx, now.TrustTable)
		if err != nil {
			return err
		}
		if _, err := a.Config.Match(hashes, certs.Hints{Suffix: now.Suffix, Version: now.Version}); err != nil {
			return nil
		}
		run, err := StartRun(ctx, tx, a.Rand, d.UUID, "provision", "api", now.Profile, tx.Now())
		if errors.Is(err, store.ErrConflict) {
			return nil
		}
		if err != nil {
			return err
		}
		started = true
		if err := tx.Transition(ctx, store.Transition{UUID: d.UUID, To: store.Queued, Event: "certificate_matched", Actor: "system", RunID: run.ID}); err != nil {
			return err
		}
		return a.Enqueue(ctx, tx, run.ID, tx.Now(), 2)
	})
	return started, err
}
