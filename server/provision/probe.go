package provision

import (
	"context"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// KindProbe is a run that changes nothing: somebody says hello in the name of a
// device from elsewhere, and the device is called where it is believed to be. If
// it answers there with its key, the hello is a stray.
const KindProbe = store.ProbeRun

// answers asks who is there.
var answers = []Step{readManaged}

// contactProbe asks twice before it believes that nobody is there.
func (r *Run) contactProbe(ctx context.Context) error {
	err := r.contactManaged(ctx)
	if codeOf(err) != reason.DeviceUnreachable {
		return err
	}
	if err := r.e.Clock.Sleep(ctx, r.e.Quiet); err != nil {
		return err
	}
	r.looked = nil
	return r.contactManaged(ctx)
}

// verdictProbe says whether the device is where it is believed to be. A machine
// that showed the device's key and asked for no set-up is the device, whatever
// password it wants; what went wrong here says nothing and is asked again.
func (r *Run) verdictProbe(err error) Verdict {
	v := Verdict{OK: true, Facts: r.learnt(), Steps: r.book, Blame: reason.NoBlame, Looked: r.looked}
	if err == nil {
		v.There = true
		v.Kept = r.kept()
		if r.admin.ID != 0 {
			v.Active = []int64{r.admin.ID}
		}
		if mebx := r.mebxOf(r.admin); mebx != 0 && !v.Kept {
			v.Active = append(v.Active, mebx)
		}
		return v
	}
	code := codeOf(err)
	v.Detail = clip(errText(err))
	switch {
	case reason.Of(code).Blame == reason.OurServer, code == reason.Cancelled, code == reason.NetworkNotAllowed:
		v.OK, v.Reason, v.Blame, v.Later = false, code, reason.Of(code).Blame, time.Minute
	case code == reason.ReappearedUnprovisioned, !r.met:
		v.Reason = code
	case code == reason.AuthFailed, code == reason.CredentialsUnknown, code == reason.AccountLocked:
		v.There = true
		v.Facts = Facts{}
	default: // its key answered, and then it broke off
		v.OK, v.Reason, v.Blame, v.Later = false, code, reason.Of(code).Blame, time.Minute
	}
	return v
}

// Claims is told how a call ended at a device that is claimed from elsewhere, in the transaction that writes it down. said
// is called when that is durable.
type Claims interface {
	// Answered: the device is where it is believed to be.
	Answered(ctx context.Context, tx *store.Tx, d store.Device) (said func(), err error)
	// Gone: nobody there answers as the device.
	Gone(ctx context.Context, tx *store.Tx, d store.Device) (said func(), err error)
	// Absent: a set-up met nobody there, and is tried again.
	Absent(ctx context.Context, tx *store.Tx, d store.Device) error
}

// reprobe is how long after a hello from elsewhere was believed the device is
// looked for again at its last good address: it may only have been switched off.
const reprobe = time.Hour

// settleProbe ends a probe. The device stays what it is, unless nobody answered
// as it or it had been taken for lost.
func (j *Journal) settleProbe(ctx context.Context, tx *store.Tx, l Lease, v Verdict) (said func(), err error) {
	said = func() {}
	now := tx.Now()
	var due time.Time
	if v.Later > 0 {
		due = now.Add(v.Later)
	}
	facts := store.DeviceFacts{ClaimDue: &due}
	if v.There {
		healthy := "ok"
		facts.LastContact, facts.Health = &now, &healthy
	}
	if err := tx.UpdateDevice(ctx, l.UUID, facts); err != nil {
		return said, err
	}
	state := store.RunDone
	if !v.OK {
		state = store.RunFailed
	}
	if err := tx.FinishRun(ctx, l.RunID, state, v.Reason, v.Detail, string(v.Blame)); err != nil {
		return said, err
	}
	if err := tx.Release(ctx, l.UUID, l.Fence, time.Time{}); err != nil || !v.OK {
		return said, err
	}
	d, err := tx.Device(ctx, l.UUID)
	if err != nil {
		return said, err
	}
	if !v.There {
		if j.Claims == nil {
			return said, nil
		}
		if said, err = j.Claims.Gone(ctx, tx, d); err != nil {
			return said, err
		}
		if d, err = tx.Device(ctx, l.UUID); err == nil && takenForLost(d) && d.GoodAddress.IsValid() {
			due = now.Add(reprobe)
			err = tx.UpdateDevice(ctx, l.UUID, store.DeviceFacts{ClaimDue: &due})
		}
		return said, err
	}
	return j.answered(ctx, tx, l, d, v)
}

// settleKept ends the set-up of a device that was met with a password of an earlier
// one: nothing was asked of it.
func (j *Journal) settleKept(ctx context.Context, tx *store.Tx, l Lease, v Verdict) (said func(), err error) {
	now, none, healthy := tx.Now(), 0, "ok"
	facts := store.DeviceFacts{LastContact: &now, Attempts: &none, Health: &healthy, ClaimDue: &time.Time{}}
	if err := tx.UpdateDevice(ctx, l.UUID, facts); err != nil {
		return nil, err
	}
	d, err := tx.Device(ctx, l.UUID)
	if err != nil {
		return nil, err
	}
	if said, err = j.answered(ctx, tx, l, d, v); err != nil {
		return nil, err
	}
	if err := tx.FinishRun(ctx, l.RunID, store.RunDone, "", v.Detail, string(reason.NoBlame)); err != nil {
		return nil, err
	}
	return said, tx.Release(ctx, l.UUID, l.Fence, time.Time{})
}

// answered makes a device that was taken for lost, and let us in, what it was. One
// whose last set-up was not proved has it proved by that.
func (j *Journal) answered(ctx context.Context, tx *store.Tx, l Lease, d store.Device, v Verdict) (said func(), err error) {
	if len(v.Active) > 0 && (v.Kind != KindProbe || takenForLost(d) || unfinished(d)) {
		t := store.Transition{UUID: d.UUID, To: store.Provisioned, Event: "answered", Actor: "node:" + j.Node, RunID: l.RunID,
			Detail: "it answers at " + d.Address.String() + " with its key and its password: it never was without its setup"}
		if !v.Kept {
			t.Detail = "it answers at " + d.Address.String() +
				" with the key and the password of its last set-up, of which nobody knew yet that it came through"
			now := tx.Now()
			if err := tx.UpdateDevice(ctx, d.UUID, store.DeviceFacts{ProvisionedAt: &now, PasswordChanged: &now}); err != nil {
				return nil, err
			}
			if err := spendOTP(ctx, tx, d.UUID); err != nil {
				return nil, err
			}
		}
		if err := tx.MarkAnswered(ctx, d.UUID); err != nil {
			return nil, err
		}
		if err := tx.Transition(ctx, t); err != nil {
			return nil, err
		}
	}
	stray := v.Kind == KindProbe || d.HeardFrom.IsValid() && d.HeardFrom != d.Address && d.LastSeen.After(d.ProvisionedAt)
	if j.Claims == nil || !stray {
		return func() {}, nil
	}
	return j.Claims.Answered(ctx, tx, d)
}

// takenForLost reports whether a device that was managed is not, because somebody
// said hello in its name: it waits for a person, or was to be set up again.
func takenForLost(d store.Device) bool {
	switch d.Lifecycle {
	case store.PendingApproval:
		return d.Reason == reason.ReappearedUnprovisioned
	case store.Quarantined:
		return d.Reason == reason.UUIDDuplicate
	}
	return unfinished(d) && !d.ProvisionedAt.IsZero()
}

// unfinished reports whether a device is on its way to being managed, or was left
// there. One that lets us in with its password has arrived.
func unfinished(d store.Device) bool {
	switch d.Lifecycle {
	case store.Queued, store.PendingCertificate, store.PendingIdentity, store.Failed, store.CredentialsUnknown:
		return true
	}
	return false
}
