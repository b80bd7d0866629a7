package provision

import (
	"context"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
)

// readIdentity asks who answered, before anything is told to it.
var readIdentity = Step{
	Name: "read_identity",
	Done: func(ctx context.Context, r *Run) (bool, error) {
		id, err := r.Device.Identify(ctx)
		if err != nil {
			return false, r.refused(err)
		}
		r.Identity = id
		r.facts.Identity = &id
		r.facts.DeviceMode, r.facts.ModeKnown = id.State, true
		if !id.UUID.IsZero() && id.UUID != r.Job.Device.UUID {
			return false, reason.Because(reason.UUIDMismatch, "the hello came from %s, but %s answers at %s", r.Job.Device.UUID, id.UUID, r.Job.Device.Address)
		}
		if v := id.Version; !v.IsZero() && !v.AtLeast(3, 2) {
			return false, reason.Because(reason.FirmwareTooOld, "AMT %s has no WS-MAN setup; 3.2 is the first release that has", v)
		}
		if c, ok := r.credentialOf(r.Device.LoginUsed()); ok && !r.setup {
			r.e.metrics.probe(c.State, "ok")
		}
		if r.committed() && !r.ours() {
			return false, reason.Because(reason.NotInSetup, "the device is in operational mode and let us in without a password of ours")
		}
		return true, nil
	},
}

// refused gives a login failure on a committed device its name: none of the
// stored passwords works.
func (r *Run) refused(err error) error {
	if codeOf(err) == reason.AuthFailed && !r.setup {
		for _, l := range r.committedLogins() {
			if c, ok := r.credentialOf(l.Name); ok {
				r.e.metrics.probe(c.State, "refused")
			}
		}
		return reason.Because(reason.CredentialsUnknown, "the device is set up and refuses the %d stored passwords tried: %w", len(r.committedLogins()), err)
	}
	return err
}

// ours reports whether the session's login was one of the stored passwords.
func (r *Run) ours() bool {
	_, ok := r.credentialOf(r.Device.LoginUsed())
	return ok
}

// proveIdentity compares the one-time password an agent put into the device
// with the one it announced to us (SDK "Remote Setup and Configuration Flow",
// step 4). Bare metal has no agent, hence no OTP.
var proveIdentity = Step{
	Name:   "prove_identity",
	Setup:  true,
	Needed: func(r *Run) bool { return r.OTPRequired || !r.OTP.IsZero() },
	Done: func(ctx context.Context, r *Run) (bool, error) {
		switch {
		case r.OTP.IsZero():
			return false, reason.Because(reason.OTPRequired, "policy asks for a one-time password and no agent announced this device")
		case !r.OTP.Equal(r.Identity.OTP):
			// Close the window: whoever this is should not be able to try on.
			_ = r.Device.ExtendSetup(ctx, 0)
			return false, reason.Because(reason.OTPMismatch, "the one-time password in the device is not the one its agent announced")
		}
		return true, nil
	},
}

// extendWindow keeps the device listening while it is worked on.
var extendWindow = Step{
	Name:   "extend_window",
	Setup:  true,
	Needed: func(r *Run) bool { return r.Profile.ExtendHours > 0 },
	Apply: func(ctx context.Context, r *Run) error {
		err := r.Device.ExtendSetup(ctx, r.Profile.ExtendHours)
		if codeOf(err) == reason.WSMANFault && !sent(err) {
			r.log.Info("window.not_extended", zap.Error(err))
			return nil // the remaining time stands; the setup itself can go on
		}
		if err == nil {
			r.facts.WindowUntil = r.e.Clock.Now().Add(hours(r.Profile.ExtendHours))
		}
		return err
	},
}

// setClock sets the device's clock even when it is right: before AMT 6.0, and
// for TLS on every release, commit asks that the clock was set over the network
// (SDK "Set the Network Time").
var setClock = Step{
	Name:  "set_clock",
	Setup: true,
	Apply: func(ctx context.Context, r *Run) error {
		if _, err := r.Device.SetClock(ctx); err != nil {
			return named(reason.ClockSyncFailed, err)
		}
		return nil
	},
}
