package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

// commitChanges is sent once. Whatever the answer, also none, the next step
// asks the device what it is now: the network part restarts at commit, so that
// a cut connection is as good a sign as a reply (amt/protocol.md 6.9).
var commitChanges = Step{
	Name:  "commit",
	Setup: true,
	Before: func(r *Run) {
		r.proveWith(&r.admin, append(peerProofs(r.Device.Peer()), r.shownNext()...)...)
		r.facts.Known = &Known{Setup: r.admin.Setup, Proofs: r.proofs(r.admin), Commits: true}
	},
	Apply: func(ctx context.Context, r *Run) error {
		err := r.Device.Commit(ctx)
		switch {
		case amt.Answered(err, amt.StatusDataMissing) && !r.mebxKnown():
			// From AMT 19 commit insists on a MEBx password (amt/protocol.md 6.6).
			return &reason.Error{Code: reason.MEBxPasswordRejected, Err: err}
		case amt.Answered(err):
			return named(reason.CommitFailed, err)
		case err != nil && !sent(err):
			return err
		case err != nil:
			r.unanswered = true
			r.log.Info("commit.ambiguous", zap.Error(err))
		}
		r.hangUp()
		return nil
	},
}

func (r *Run) mebxKnown() bool { return r.Profile.MEBx != "set" || r.mebxHeld != 0 }

// verifyLogin is the only proof of success: a login with a stored password on a
// device that says it is operational.
var verifyLogin = Step{
	Name: "verify_login",
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if r.Device != nil && r.committed() && r.ours() {
			// Found committed: the session at hand is already that login.
			c, _ := r.credentialOf(r.Device.LoginUsed())
			r.admin, r.verified = c, true
			r.letIn(r.Device.Peer())
			if r.mebxHeld == 0 {
				r.mebxHeld = r.mebxOf(c)
			}
			return true, nil
		}
		return r.verify(ctx)
	},
}

// verify dials again until the device is back from its restart.
func (r *Run) verify(ctx context.Context) (bool, error) {
	// Patience is measured on the run's own clock, which a test can turn.
	until := r.e.Clock.Now().Add(r.e.VerifyFor)
	ask := r.e.Clock.Now().Add(r.e.VerifyFor / 12)
	hold := r.e.Clock.Now().Add(r.e.VerifyFor / 6)
	pause := r.e.VerifyPause
	// The listener of the setup is open for a moment after the answer.
	if err := r.e.Clock.Sleep(ctx, pause); err != nil {
		return false, err
	}
	var last error
	for refused := 0; ; {
		ok, err := r.verifyOnce(ctx)
		if ok {
			return true, nil
		}
		last = err
		if len(r.guarded) > 0 {
			// A device that is back and refuses us was shut to us by what was changed;
			// one that still does not answer when a restart is over takes no second
			// connection, and lets go of the first.
			if shutsOut(err) {
				if refused++; refused > 1 {
					return false, err
				}
			} else if r.e.Clock.Now().After(hold) {
				r.dropRope()
			}
		}
		if now := r.e.Clock.Now(); wantsSetup(err) && now.After(ask) {
			// A restart is over by now. Is it one of those that said yes to the
			// commit and did nothing?
			if err := r.stillInSetup(ctx); err != nil {
				last = err
				break
			}
			ask = now.Add(r.e.VerifyFor / 12)
		}
		if final(err) || r.e.Clock.Now().Add(pause).After(until) {
			break
		}
		if err := r.e.Clock.Sleep(ctx, pause); err != nil {
			return false, errors.Join(err, last)
		}
		pause = min(pause+pause/2, 5*time.Second)
	}
	if codeOf(last) == reason.AuthFailed {
		return false, last
	}
	if c := codeOf(last); c == reason.CommitFailed || c == reason.LeaseLost || c == reason.UUIDMismatch {
		return false, last
	}
	if codeOf(last) == reason.TLSPinnedKeyChanged {
		return false, reason.Because(reason.CommitUnverified, "after the commit another key answers than the device was given: %w", last)
	}
	return false, reason.Because(reason.CommitUnverified, "the device did not come back as ours after commit: %w", last)
}

// wantsSetup reports whether a device answered as one in setup mode does to
// somebody without a setup certificate.
func wantsSetup(err error) bool {
	switch codeOf(err) {
	case reason.TLSClientCertRefused, reason.TLSHandshakeFailed, reason.ConnectionLost, reason.DeviceHalfProvisioned:
		return true
	}
	return false
}

// stillInSetup asks with the setup certificate. Only a device that says it is
// in setup mode is an error; silence proves nothing.
func (r *Run) stillInSetup(ctx context.Context) error {
	if r.cert.Cert == nil {
		return nil
	}
	d, err := r.dialSetup(ctx, r.cert)
	if err != nil {
		return nil
	}
	r.lease.guard(d)
	defer func() {
		r.lease.guard(nil)
		_ = d.Close()
	}()
	if r.greet(ctx, d, d.Peer().ClientCertAsked) != nil {
		return nil
	}
	id, err := d.Identify(ctx)
	another := !id.UUID.IsZero() && id.UUID != r.Job.Device.UUID // whose lease it is by now
	if err == nil && !another && id.State == amt.StateIn && d.Peer().ClientCertAsked {
		// The commit may still be on its way: a quiet time has to pass first.
		return &reason.Error{Code: reason.CommitFailed, Sent: true,
			Err: errors.New("the commit was sent and the device is still in setup mode")}
	}
	return nil
}

// final reports whether asking again cannot change the answer.
func final(err error) bool {
	switch codeOf(err) {
	case reason.AuthFailed, reason.LeaseLost, reason.UUIDMismatch, reason.NetworkNotAllowed:
		return true
	}
	return false
}

func (r *Run) verifyOnce(ctx context.Context) (bool, error) {
	meet := r.meet
	if len(r.guarded) > 0 {
		meet = r.meetAgain // what is to be proved is that we come in as before
	}
	d, err := meet(ctx)
	if err != nil {
		return false, err
	}
	// The listener of the setup, with its own key, may answer for a moment yet:
	// another key is a verdict only when the patience for a restart is over.
	if err := r.greetWith(d, r.admin); err != nil {
		_ = d.Close()
		return false, err
	}
	r.Device = d
	r.lease.guard(d)
	state, err := d.State(ctx)
	if err != nil {
		r.hangUp()
		return false, err
	}
	if state != amt.StatePost {
		r.hangUp()
		// The old listener may answer for a moment; if it stays in setup the
		// commit did nothing.
		return false, &reason.Error{Code: reason.CommitFailed, Sent: true,
			Err: fmt.Errorf("the commit was sent and the device is still in %s mode", state)}
	}
	if d.LoginUsed() != credentialName(r.admin) {
		r.hangUp()
		return false, reason.Because(reason.CommitUnverified, "the device is operational and never asked for the new password")
	}
	r.facts.DeviceMode, r.facts.ModeKnown = state, true
	r.Identity.State = state
	r.verified = true
	r.letIn(d.Peer())
	return true, nil
}

// readRecord keeps the device's own account of its setup, the best evidence
// afterwards. A release without one is no failure.
var readRecord = Step{
	Name: "read_record",
	Done: func(ctx context.Context, r *Run) (bool, error) {
		rec, err := r.Device.ProvisioningRecord(ctx)
		if err != nil {
			r.log.Debug("record.unread", zap.Error(err))
			return true, nil
		}
		r.facts.Record = &rec
		return true, nil
	},
}
