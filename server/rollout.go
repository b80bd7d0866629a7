package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// A rollout is the job that brings managed devices to another version of their
// profile, or to another profile. Nothing else does, but for a person's word:
// routine maintenance keeps each device at the version that it has.
//
//  1. On a timer, the devices that differ from the newest version are looked
//     for, once for each version and then from time to time, and put into a job.
//  2. The job goes in waves (waves.go). A device that cannot be brought there
//     now, and is not lost by that, waits in it until it can.
//  3. A job whose version is no longer the newest begins nothing more.

// causes of a rollout, beside "rules" with their digest.
const (
	causeVersion  = "version"
	causeAssigned = "assigned"
)

const (
	// rolloutAgain is after what time all devices are looked through although no
	// profile was changed: one may have been away.
	rolloutAgain = time.Hour
	// rolloutMost bounds a job; what is beyond joins it with the next tick.
	rolloutMost = 200_000
)

// rolled says which version of a profile all devices were last looked through
// for.
type rolled struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
}

func rolledKey(name string) string { return "rolled_out:" + name }

func readRolled(ctx context.Context, tx *store.Tx, name string) (r rolled, err error) {
	text, err := tx.Setting(ctx, rolledKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &r)
	}
	return r, err
}

// rolledOut reports whether everybody who is to have the newest version of a
// profile has it, as far as rollouts know.
func (s *Server) rolledOut(ctx context.Context, tx *store.Tx, p profile.Profile) (bool, error) {
	at, err := readRolled(ctx, tx, p.Name)
	if err != nil || at.Version != p.Version {
		return false, err
	}
	open, err := tx.OpenRollout(ctx, p.Name)
	return !open, err
}

// rollOut puts devices that differ from the newest version of their profile into
// jobs.
func (s *Server) rollOut(ctx context.Context) error {
	var all []profile.Profile
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		all, err = s.newestProfiles(ctx, tx)
		return err
	}); err != nil {
		return err
	}
	for _, p := range all {
		if err := s.supersede(ctx, p); err != nil {
			return fmt.Errorf("roll profile %s out: %w", p.Name, err)
		}
		for _, cause := range []string{causeVersion, causeAssigned} {
			if err := s.rollOutOne(ctx, p, cause); err != nil {
				return fmt.Errorf("roll profile %s out: %w", p.Name, err)
			}
		}
	}
	return s.sweepRules(ctx)
}

// newestProfiles are the profiles of which this node has the newest version.
func (s *Server) newestProfiles(ctx context.Context, tx *store.Tx) ([]profile.Profile, error) {
	names, err := tx.Profiles(ctx)
	if err != nil {
		return nil, err
	}
	own := true
	for _, n := range names {
		own = own && n.Name != s.o.Profile.Name
	}
	if own {
		names = append(names, store.Profile{Name: s.o.Profile.Name})
	}
	var all []profile.Profile
	for _, n := range names {
		p, err := s.profileNamed(ctx, tx, n.Name)
		if err != nil {
			return nil, err
		}
		newest, err := s.current(ctx, tx, p)
		if err != nil {
			return nil, err
		}
		if newest {
			all = append(all, p)
		}
	}
	return all, nil
}

func (s *Server) rollOutOne(ctx context.Context, p profile.Profile, cause string) error {
	o := store.Outgrown{Profile: p.Name, Version: p.Version, Cause: cause}
	look := true
	var found []amt.UUID
	if err := s.DB.Read(ctx, func(tx *store.Tx) error {
		if cause == causeVersion {
			at, err := readRolled(ctx, tx, p.Name)
			if look = at.Version != p.Version || time.Since(at.At) >= rolloutAgain; err != nil || !look {
				return err
			}
		}
		some := o
		some.Limit = 1
		var err error
		found, err = tx.OutgrownDevices(ctx, some, cause == causeAssigned)
		return err
	}); err != nil || !look || cause == causeAssigned && len(found) == 0 {
		return err
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := tx.TakeTurns(ctx, "rollout "+p.Name); err != nil { // another node has the same idea
			return err
		}
		var all []amt.UUID
		if len(found) > 0 { // else a whole fleet is not walked through while others wait to write
			var err error
			if all, err = outgrown(ctx, tx, o); err != nil {
				return err
			}
		}
		if err := s.join(ctx, tx, o, all); err != nil || cause != causeVersion {
			return err
		}
		at := rolled{Version: p.Version, At: time.Now().UTC()}
		if len(all) >= rolloutMost {
			at.At = time.Time{}
		}
		text, err := json.Marshal(at)
		if err != nil {
			return err
		}
		return tx.PutSetting(ctx, rolledKey(p.Name), string(text))
	})
}

func outgrown(ctx context.Context, tx *store.Tx, o store.Outgrown) (all []amt.UUID, err error) {
	for o.Limit = 1000; len(all) < rolloutMost; {
		page, err := tx.OutgrownDevices(ctx, o, o.Cause == causeAssigned)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < o.Limit {
			break
		}
		o.After = page[len(page)-1]
	}
	return all, nil
}

// join adds devices to the rollout that is open for the same version and cause,
// or begins one.
func (s *Server) join(ctx context.Context, tx *store.Tx, o store.Outgrown, devices []amt.UUID) error {
	if len(devices) == 0 {
		return nil
	}
	target := store.Target(o.Profile, o.Version)
	id, err := tx.RolloutOf(ctx, target, o.Cause)
	if errors.Is(err, store.ErrNotFound) {
		options, err := json.Marshal(operate.JobOptions{Change: api.Change{Profile: o.Profile}})
		if err != nil {
			return err
		}
		j := store.BulkJob{Kind: api.KindRollout, State: store.JobWaiting, Options: options, PerMinute: s.wavePace(), Canary: s.canary(),
			Target: target, Cause: o.Cause, CreatedBy: "system"}
		if id, err = tx.CreateJob(ctx, j); err != nil {
			return err
		}
		detail := map[string]any{"job": id, "kind": j.Kind, "devices": len(devices), "profile": target, "cause": o.Cause}
		if _, err := tx.AddEvent(ctx, store.Event{Name: "job_created", Actor: "system", Data: detail}); err != nil {
			return err
		}
		if err := tx.Audit(ctx, store.AuditRecord{Actor: "system", Action: "job.start", Subject: fmt.Sprint(id),
			Detail: detail}); err != nil {
			return err
		}
		s.log.Info("rollout.begun", zap.Int64("job", id), zap.String("profile", target), zap.String("cause", o.Cause),
			zap.Int("devices", len(devices)))
	} else if err != nil {
		return err
	}
	return tx.AddJobItems(ctx, id, devices)
}

// supersede ends what is left of rollouts to older versions of a profile.
func (s *Server) supersede(ctx context.Context, p profile.Profile) error {
	target := store.Target(p.Name, p.Version)
	var old []store.BulkJob
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		old, err = tx.OlderRollouts(ctx, p.Name, target)
		return err
	}); err != nil {
		return err
	}
	why := "superseded by " + target
	for _, j := range old {
		if err := s.DB.Write(ctx, func(tx *store.Tx) error {
			j, err := tx.LockJob(ctx, j.ID)
			if err != nil {
				return err
			}
			if _, err := tx.SkipJobItems(ctx, j.ID, why); err != nil {
				return err
			}
			if j.State == store.JobStopped {
				if err := tx.SetJobState(ctx, j.ID, store.JobAborted, ""); err != nil {
					return err
				}
			}
			return tx.SetJobDetail(ctx, j.ID, why)
		}); err != nil && !errors.Is(err, store.ErrGone) {
			return err
		}
	}
	return nil
}

// wanted is the profile a device is to have by now.
func (s *Server) wanted(ctx context.Context, tx *store.Tx, d store.Device) (p profile.Profile, rule string, err error) {
	as, rule, _, err := admit.Assign(ctx, tx, d)
	if err != nil {
		return p, "", err
	}
	name := as.Profile
	if name == "" {
		name = d.Profile
	}
	p, err = s.profileNamed(ctx, tx, name)
	return p, rule, err
}

// rolloutPart begins a device's way to the version that a rollout is about, if it
// still is the one that it is to have. A zero part is not begun yet.
func (s *Server) rolloutPart(ctx context.Context, tx *store.Tx, j store.BulkJob, d store.Device) (operate.Part, error) {
	if no := operate.Refusal(operate.Maintain, d); no != nil {
		return operate.Part{State: store.ItemSkipped, Detail: no.Why}, nil
	}
	if _, err := tx.LiveWork(ctx, d.UUID); !errors.Is(err, store.ErrNotFound) {
		return operate.Part{}, err // it was free a moment ago
	}
	p, rule, err := s.wanted(ctx, tx, d)
	if err != nil {
		return operate.Part{}, err
	}
	has := d.Profile
	if has == "" {
		has = s.o.Profile.Name
	}
	switch want := store.Target(p.Name, p.Version); {
	case want != j.Target:
		return operate.Part{State: store.ItemSkipped, Detail: "it is to have " + want + " now"}, nil
	case store.Target(has, d.ProfileVersion) == want:
		return operate.Part{State: store.ItemDone, Detail: "it had that version already"}, nil
	}
	t := store.Transition{UUID: d.UUID, To: store.Drifted, Reason: reason.ProfileDrift, Detail: d.Detail, Event: "drift_found",
		Actor: operate.OfJob(j).Actor(), Data: map[string]any{"job": j.ID}}
	who := "the rule " + rule + " gives it"
	switch {
	case has == p.Name:
		who = ""
		t.Detail = fmt.Sprintf("it was made by version %d of the profile %s, and version %d is the newest", d.ProfileVersion, p.Name,
			p.Version)
	case d.AssignedProfile != "":
		who = "it was given"
	case rule == "":
		who = "the list of authorised devices gives it"
	}
	if who != "" {
		t.Detail = fmt.Sprintf("%s the profile %s and it still has %s", who, p.Name, has)
	}
	run, err := s.startManaged(ctx, tx, d, provision.KindMaintain, "", "timer", t)
	return operate.Part{State: store.ItemRunning, RunID: run.ID}, err
}
