package provision

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// full reports whether the device is to lose all of its setup. A partial one
// keeps users and names and says hello again.
func (r *Run) full() bool { return r.Job.Run.Task != "partial" }

// left is where a device stands once it has shown that it is gone. One that was
// decommissioned is retired then and not before: until that moment its
// passwords are what the next attempt needs.
func (r *Run) left() store.Lifecycle {
	if r.Job.Run.Task == "decommission" {
		return store.Retired
	}
	return store.Unprovisioned
}

// contactLeaving meets a managed device, or finds that an earlier attempt has
// already undone its setup.
func (r *Run) contactLeaving(ctx context.Context) error {
	r.unprovisionSent = r.Told
	err := r.contactManaged(ctx)
	if err == nil {
		return nil
	}
	if gone, sure := r.goneBy(err); gone != "" {
		if !sure {
			return r.watchGone(ctx)
		}
		r.goneEvidence = gone
		return nil
	}
	return err
}

// goneBy reads a failed contact: what it says about the setup, and whether that
// is enough. A closed port means that only after the device was told.
func (r *Run) goneBy(err error) (gone string, sure bool) {
	switch code := codeOf(err); {
	case code == reason.ReappearedUnprovisioned, code == reason.TLSClientCertRefused && r.unprovisionSent:
		return "the device is back in setup mode", true
	case r.unprovisionSent && refusedPort(err):
		return "nothing listens at its port any more", r.unprovisionAcked && r.full()
	}
	return "", false
}

var readLeaving = Step{
	Name:   readIdentity.Name,
	Needed: func(r *Run) bool { return r.goneEvidence == "" },
	Done: func(ctx context.Context, r *Run) (bool, error) {
		done, err := readManaged.Done(ctx, r)
		if codeOf(err) == reason.ReappearedUnprovisioned {
			r.goneEvidence = "the device says that it is in " + r.Identity.State.String() + " mode"
			return true, nil
		}
		return done, err
	},
}

// unprovision is sent once an attempt. As with commit, the line may be cut
// before the answer, so the answer only helps to believe what is seen next.
var unprovision = Step{
	Name:   "unprovision",
	Needed: func(r *Run) bool { return r.goneEvidence == "" },
	Apply: func(ctx context.Context, r *Run) error {
		err := r.Device.Unprovision(ctx, r.full())
		switch {
		case codeOf(err) == reason.UnprovisionBlocked && err != nil, amt.Answered(err):
			return err
		case err != nil && !sent(err):
			return err
		case err != nil:
			r.unanswered = true
			r.log.Info("unprovision.ambiguous", zap.Error(err))
		default:
			r.unprovisionAcked = true
		}
		r.unprovisionSent = true
		r.hangUp()
		return nil
	},
}

// confirmGone looks until the device shows that it is no longer ours.
var confirmGone = Step{
	Name: "confirm_gone",
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if r.goneEvidence != "" {
			return true, nil
		}
		return true, r.watchGone(ctx)
	},
}

// watchGone shakes hands, and asks nothing, until the device asks for a setup
// certificate, or its port stays closed for as long as a restart could take.
func (r *Run) watchGone(ctx context.Context) error {
	until := r.e.Clock.Now().Add(r.e.VerifyFor)
	pause := r.e.VerifyPause
	var last error
	word := ""
	for {
		word = ""
		d, err := r.meet(ctx)
		if err == nil {
			asks := d.Peer().ClientCertAsked
			_ = d.Close()
			if asks && r.Profile.TLS != profile.TLSMutual {
				r.goneEvidence = "the device is back in setup mode"
				return nil
			}
			last = reason.Because(reason.CommitUnverified, "the device still answers as a managed one")
		} else {
			err = r.notManaged(err)
			gone, sure := r.goneBy(err)
			if sure {
				r.goneEvidence = gone
				return nil
			}
			word, last = gone, err
		}
		if codeOf(last) == reason.LeaseLost || r.e.Clock.Now().Add(pause).After(until) {
			break
		}
		if err := r.e.Clock.Sleep(ctx, pause); err != nil {
			return errors.Join(err, last)
		}
		pause = min(2*pause, 5*time.Second)
	}
	switch {
	case word != "":
		r.goneEvidence = word
		return nil
	case r.unprovisionAcked && codeOf(last) == reason.DeviceUnreachable:
		// It said yes; its address may go silent afterwards (amt/protocol.md 6.11).
		r.goneEvidence = "the device said yes and its address is silent since"
		return nil
	}
	return &reason.Error{Code: codeOf(last), Sent: true, Err: last}
}

// verdictLeaving ends a run that undoes a setup.
func (r *Run) verdictLeaving(err error) Verdict {
	if err == nil && r.goneEvidence != "" {
		return Verdict{OK: true, Ended: r.left(), Detail: r.goneEvidence, Steps: r.book, Facts: r.factsGone(), Blame: reason.NoBlame}
	}
	if err == nil {
		err = reason.Because(reason.CommitUnverified, "the device still answers as a managed one")
	}
	v := r.verdictManaged(err)
	v.Later = 0
	told := r.unprovisionSent || sent(err)
	code := v.Reason
	if reason.Of(code).Retry == reason.Repeat && (told || r.Job.Device.Attempts < r.e.Tries) && r.Job.Device.Attempts < 8*r.e.Tries {
		v.Again = max(r.e.backoff(r.Job.Device.Attempts), v.Quiet)
	} else {
		v.Again = 0
	}
	if v.Again > 0 || told {
		v.Ended = store.Unprovisioning
	}
	if code == reason.UnprovisionBlocked {
		v.Ended = store.Provisioned // it refused, and is as it was
	}
	if r.admin.ID != 0 && r.Identity.State == amt.StatePost {
		v.Active = []int64{r.admin.ID}
	}
	return v
}

// factsGone is what is known of a device that left: its mode.
func (r *Run) factsGone() Facts {
	f := r.learnt()
	f.DeviceMode, f.ModeKnown = amt.StatePre, true
	if !r.full() {
		f.DeviceMode = amt.StateIn
	}
	return f
}
