package provision

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// A device under management is met in this order:
//
//  1. What it shows in the handshake has to be its own (whom.go). Otherwise it
//     hears nothing from us.
//  2. It is asked for its UUID with the active password, then with candidates
//     and retired ones, each at most once, never with the factory's.
//  3. The password that worked is made the active one with the run's outcome,
//     so that a change whose answer was lost is settled by the next contact.

// contactManaged opens a session with a device we set up before.
func (r *Run) contactManaged(ctx context.Context) error {
	r.tasks = tasksOf(r.Job.Run.Task)
	r.tasks.blind = r.Job.Blind
	if len(r.Job.Admin) == 0 {
		return reason.Because(reason.CredentialsUnknown, "no password of this device is stored")
	}
	d, err := r.find(ctx)
	if err != nil {
		return err
	}
	if err := r.greet(ctx, d, false); err != nil {
		_ = d.Close()
		return r.soughtFor(err)
	}
	r.Device, r.met = d, r.hasKey() && r.knows(d.Peer())
	r.lease.guard(d)
	return nil
}

// notManaged names what a device says by wanting a certificate of another kind.
func (r *Run) notManaged(err error) error {
	if codeOf(err) == reason.TLSClientCertRefused && r.Profile.TLS != profile.TLSMutual {
		return reason.Because(reason.ReappearedUnprovisioned,
			"the device at %s wants a client certificate and refuses ours, as a device does whose settings were erased: %w",
			r.Job.Device.Address, err)
	}
	return err
}

// ownName reports whether a certificate of our CA is in a name of this device:
// one device's certificate must not open another's door.
func (r *Run) ownName(c *x509.Certificate) bool {
	d := r.Job.Device
	names := []string{r.FQDN, d.FQDN, d.HostName}
	if d.Domain != "" {
		names = append(names, d.HostName+"."+d.Domain)
	}
	return slices.ContainsFunc(names, func(n string) bool { return n != "" && strings.EqualFold(n, c.Subject.CommonName) })
}

// readManaged asks who answered; nothing is told to it before that.
var readManaged = Step{
	Name: readIdentity.Name,
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if _, err := readIdentity.Done(ctx, r); err != nil {
			r.facts = Facts{} // it is not our device: nothing of it is kept
			return false, err
		}
		if !r.committed() {
			r.facts.Identity = nil
			return false, reason.Because(reason.ReappearedUnprovisioned, "the device says that it is in %s mode", r.Identity.State)
		}
		if c, ok := r.credentialOf(r.Device.LoginUsed()); ok {
			r.admin = c
			r.letIn(r.Device.Peer())
			r.located()
		}
		return true, nil
	},
}

// verdictManaged ends a run on a managed device. Whatever failed, the device
// stays managed, unless none of its passwords works. One that lost its setup has
// drifted: its next hello, not another run, decides what becomes of it.
func (r *Run) verdictManaged(err error) Verdict {
	v := Verdict{Steps: r.book, Facts: r.learnt(), Blame: reason.NoBlame, Refused: r.denied, Did: r.fixed, Looked: r.looked,
		Ended: store.Provisioned, Health: "ok"}
	if r.Job.Device.Lifecycle == store.Drifted {
		v.Ended = store.Drifted
	}
	if r.admin.ID != 0 && (r.verified || r.Identity.State == amt.StatePost) {
		v.Active = []int64{r.admin.ID} // it let us in with this one
	}
	if err == nil {
		v.OK = true
		if why := r.ownCertificateStays(); why != "" {
			v.Health, v.Detail = "warn", why
		}
		if code, text := r.finding(); code != "" {
			v.Ended, v.Reason, v.Detail = store.Drifted, code, text
		} else if r.tasks.complete() || r.Job.Device.Reason == reason.ReappearedUnprovisioned {
			v.Ended = store.Provisioned
		} else if v.Ended == store.Drifted {
			v.Reason, v.Detail = r.Job.Device.Reason, r.Job.Device.Detail // it was not looked at, and stays so
		}
		if len(r.differs) == 0 && r.tasks.complete() && r.Job.Run.Kind == KindMaintain {
			v.Profile, v.ProfileVersion = r.Profile.Name, r.Profile.Version
		}
		return v
	}
	code := codeOf(err)
	entry := reason.Of(code)
	v.Reason, v.Detail, v.Blame, v.Changed = code, clip(errText(err)), entry.Blame, r.changed
	v.Health = "warn"
	switch code {
	case reason.DeviceUnreachable, reason.ConnectionLost, reason.TLSHandshakeFailed:
		v.Health = "unreachable"
	case reason.CredentialsUnknown:
		v.Ended = store.CredentialsUnknown
	case reason.ReappearedUnprovisioned:
		v.Ended = store.Drifted // not as we left it; its hello brings it back
	}
	if r.mayArrive(err) {
		v.Quiet = r.e.Quiet
	}
	if code == reason.FlashWriteLimit {
		v.Later = flashRest
		return v
	}
	v.Later = r.e.Later - r.e.Later/5 + jitter(r.e.Rand, r.e.Later*2/5)
	if entry.Retry == reason.Repeat && (r.Job.Device.Attempts < r.e.Tries || r.untried > 0) {
		v.Again, v.Later = max(r.e.backoff(r.Job.Device.Attempts), v.Quiet), 0
	}
	return v
}

// flashRest is how long a device is left alone that spares its flash.
const flashRest = 24 * time.Hour

// finding is what is left to differ from what the device is to be, "" nothing.
func (r *Run) finding() (code reason.Code, text string) {
	if len(r.differs) > 0 {
		code, text = reason.ProfileDrift, "differs from profile "+r.Profile.Name+": "+strings.Join(r.differs, "; ")
	}
	if r.misnamed != nil {
		code, text = codeOf(r.misnamed), strings.TrimSuffix(errText(r.misnamed)+"; "+text, "; ")
	}
	return code, clip(text)
}

// Unanswered reports whether a reason says that a device can no longer be spoken
// to: after a change, it may be the change that shut us out.
func Unanswered(code reason.Code) bool {
	switch code {
	case reason.ConnectionLost, reason.WSMANTimeout, reason.CommitUnverified, reason.AuthFailed, reason.CredentialsUnknown,
		reason.AccountLocked,
		reason.RealmChanged, reason.ReappearedUnprovisioned:
		return true
	}
	p := reason.Of(code).Phase
	return p == reason.Network || p == reason.Handshake
}

// refusedPort reports whether the device's address answers and nothing listens.
func refusedPort(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
