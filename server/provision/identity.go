package provision

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
)

// readIdentity asks who answered, before anything is told to it.
var readIdentity = Step{
	Name: "read_identity",
	Done: func(ctx context.Context, r *Run) (bool, error) {
		id, err := r.Device.Identify(ctx)
		if err != nil {
			id, err = r.askDerived(ctx, err)
		}
		if err != nil {
			return false, r.refused(err)
		}
		r.Identity = id
		if !id.UUID.IsZero() && id.UUID != r.Job.Device.UUID {
			return false, reason.Because(reason.UUIDMismatch, "the hello came from %s, but %s answers at %s", r.Job.Device.UUID, id.UUID,
				r.Job.Device.Address)
		}
		if err := r.sameMachine(id); err != nil {
			return false, err
		}
		if r.Job.Run.Kind == KindProvision {
			if err := r.provenHardware(r.Device.Peer(), r.setup, id.Version); err != nil {
				r.facts.SetupPeer = nil
				return false, err
			}
		}
		if err := r.ownRealm(ctx, id); err != nil {
			return false, err
		}
		// Only now: what another machine says of itself is no news of this one.
		r.facts.Identity = &id
		r.facts.DeviceMode, r.facts.ModeKnown = id.State, true
		if v := id.Version; !v.IsZero() && !v.AtLeast(3, 2) {
			return false, reason.Because(reason.FirmwareTooOld, "AMT %s has no WS-MAN setup; 3.2 is the first release that has", v)
		}
		if c, ok := r.credentialOf(r.Device.LoginUsed()); ok && !r.setup {
			r.e.metrics.probe(c.State, "ok")
		}
		if r.unheard && !r.committed() {
			return false, r.notSetUp(errors.New("it says that it is in " + id.State.String() + " mode"))
		}
		if r.committed() && !r.ours() {
			return false, reason.Because(reason.NotInSetup, "the device is in operational mode and let us in without a password of ours")
		}
		if err := r.reassign(ctx); err != nil {
			return false, err
		}
		return true, nil
	},
}

// sameMachine compares the network port with the one this UUID had before: two
// machines with one UUID look alike in a hello, and only one may be told the
// passwords. After a board was changed a person says so.
func (r *Run) sameMachine(id session.Identity) error {
	known := r.Job.Device.MAC
	if known == "" || id.MAC == "" || strings.EqualFold(known, id.MAC) {
		return nil
	}
	code := reason.IdentityConflict
	if last := r.Job.Device.LastContact; !last.IsZero() && r.e.Clock.Now().Sub(last).Abs() < twinContact {
		code = reason.UUIDDuplicate
	}
	return reason.Because(code, "the machine at %s has the MAC %s, and the one known under this UUID has %s", r.Job.Device.Address, id.MAC,
		known)
}

// twinContact is how soon after each other two machines must answer to be two;
// a board is not changed that fast.
const twinContact = 10 * time.Minute

// reassign asks the rules again when the device has told us what they may ask
// for: until now its suffix and version were perhaps not known.
func (r *Run) reassign(ctx context.Context) error {
	if r.e.Assign == nil || !r.setup || r.committed() {
		return nil
	}
	d, id := r.Job.Device, r.Identity
	suffix := first(id.TrustedSuffix, id.DHCPSuffix)
	if d.Version == id.Version && (suffix == "" || strings.EqualFold(d.Suffix, suffix)) {
		return nil
	}
	d.Version, d.MAC = id.Version, id.MAC
	if suffix != "" {
		d.Suffix = suffix
	}
	p, err := r.e.Assign(ctx, d, r.Job.Run.Profile)
	if err != nil {
		return storeError("ask the assignment rules", err)
	}
	r.Profile = p
	return nil
}

// refused notes which stored passwords the device did not take. On a committed
// device that has refused every one of them, the failure has a name of its own;
// until then the others get their turn in later attempts, a few at a time, since
// firmware may take many wrong logins in a row for an attack.
func (r *Run) refused(err error) error {
	if codeOf(err) != reason.AuthFailed {
		return err
	}
	peer := r.Device.Peer()
	for _, c := range r.Job.Admin {
		switch {
		case slices.Contains(r.offered, c.ID):
			r.denied = append(r.denied, c.ID)
			if !r.setup {
				r.e.metrics.probe(c.State, "refused")
			}
		case c.RefusedAt.IsZero() && mayBeHeld(c) && r.mayHear(c, peer, r.setup):
			r.untried++
		}
	}
	switch {
	case r.setup && r.withheld > 0:
		return fmt.Errorf("%w; and %w", r.stranger(peer), err)
	case r.setup:
		return err
	case r.untried > 0:
		return reason.Because(reason.AuthFailed, "the device is set up and refuses %d stored passwords; %d more are tried in later "+
			"attempts: %w", len(r.denied), r.untried, err)
	}
	if len(r.denied) == 0 {
		return reason.Because(reason.CredentialsUnknown,
			"the device at %s was set up by somebody else, and no password that it could have is stored here: %w", r.Job.Device.Address,
			err)
	}
	return reason.Because(reason.CredentialsUnknown, "the device is set up and refuses each of the %d stored passwords: %w", len(r.denied),
		err)
}

// ours reports whether the session's login was one of the stored passwords.
func (r *Run) ours() bool {
	_, ok := r.credentialOf(r.Device.LoginUsed())
	return ok
}

// proveIdentity compares the one-time password an agent put into the device
// with the one it announced to us (amt/protocol.md 6.4). Bare metal has no agent,
// hence no OTP.
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
// (amt/protocol.md 6.5).
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
