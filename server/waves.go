package server

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// Whatever changes managed devices goes in waves, and where a job stands is read
// from its rows each time:
//
//  1. One device. Its run has to end well, and then a login of its own has to
//     succeed, in another run that only looks. A device that was told nothing,
//     because it is switched off, proves nothing: the next one is taken.
//  2. As many as the job's canary says, each proved in the same way.
//  3. The rest, at the job's pace.
//
// A device of the fleet that was changed since the job began and does not answer
// holds it; when no further attempt at that device is to come, the job stops.
// So does a device of the first two waves that took a change and still failed, and
// one of any wave that the change would have shut us out of.
// A stopped job begins nothing until a person resumes or aborts it.

const (
	waveFirst = 1 + iota
	waveCanary
	waveRest
)

const (
	// maintainPace is how many devices a minute the last wave begins where only
	// commands maintain.
	maintainPace = 60
	// routineLosses within routineWithin stop routine maintenance too: one laptop
	// that is closed at the wrong moment does not.
	routineLosses = 3
	routineWithin = 24 * time.Hour
)

// wavePace is how many devices a minute the last wave begins by default.
func (s *Server) wavePace() int {
	if s.o.MaintainPerMinute > 0 {
		return s.o.MaintainPerMinute
	}
	return maintainPace
}

// canary is the size of the second wave by default.
func (s *Server) canary() int { return max(s.o.MaintainCanary, 0) }

// waved reports whether a job goes in waves.
func waved(j store.BulkJob, o operate.JobOptions) bool { return operate.Waved(j.Kind, o.Task) }

// wave says which wave a job is in, and how many devices it may begin.
func (s *Server) wave(ctx context.Context, tx *store.Tx, j store.BulkJob, counts map[string]int) (wave, room int, err error) {
	at, err := tx.JobWaves(ctx, j.ID)
	if err != nil {
		return 0, 0, err
	}
	switch first, canary := at[waveFirst], at[waveCanary]; {
	case first.Done == 0:
		return waveFirst, 1 - first.Running, nil
	case canary.Done < j.Canary:
		wave, room = waveCanary, j.Canary-canary.Done-canary.Running
	default:
		wave, room = waveRest, jobBatch
	}
	at3, err := s.jobRoom(ctx, tx, j, counts)
	if err != nil {
		return 0, 0, err
	}
	if j.Kind == provision.KindMaintain || j.Kind == api.KindRollout {
		live, err := tx.CountLiveRuns(ctx, provision.KindMaintain)
		if err != nil {
			return 0, 0, err
		}
		at3 = min(at3, s.o.MaintainAtOnce-live)
	}
	return wave, min(room, at3), nil
}

// losses says whether devices that were lost since a job began, or went on, hold
// it, and why it stops when nothing more is tried with one of them.
func losses(ctx context.Context, tx *store.Tx, j store.BulkJob) (held bool, stop string, err error) {
	since := j.CreatedAt
	if j.ResumedAt.After(since) {
		since = j.ResumedAt
	}
	lost, err := tx.LostDevices(ctx, since, 10)
	if err != nil {
		return false, "", err
	}
	for _, l := range lost {
		if held = true; l.Tried {
			continue
		}
		name := l.UUID.String()
		if l.Name != "" {
			name = l.Name + " (" + name + ")"
		}
		return true, fmt.Sprintf("%s was changed and has not answered since: %s. What waits stays as it was: look at the device (provctl "+
			"device why %s), then provctl job resume %d or provctl job abort %d",
			name, strings.TrimSuffix(string(l.Reason)+": "+l.Detail, ": "), l.UUID, j.ID, j.ID), nil
	}
	return held, "", nil
}

// stopJob stops a job aloud.
func (s *Server) stopJob(ctx context.Context, tx *store.Tx, j store.BulkJob, why string) error {
	if err := tx.StopJob(ctx, j.ID, why); err != nil {
		return err
	}
	if _, err := tx.AddEvent(ctx, store.Event{Name: "job_stopped", Actor: "system", Detail: why,
		Data: map[string]any{"job": j.ID, "kind": j.Kind}}); err != nil {
		return err
	}
	s.log.Error("job.stopped", zap.Int64("job", j.ID), zap.String("kind", j.Kind), zap.String("why", why))
	return tx.Audit(ctx, store.AuditRecord{Actor: "system", Action: "job.stop", Subject: fmt.Sprint(j.ID),
		Detail: map[string]any{"kind": j.Kind, "why": why}})
}

// waveResult is what an ended run means for a device of a job in waves. stop says
// why the job cannot go on; "" when it can.
func (s *Server) waveResult(ctx context.Context, tx *store.Tx, j store.BulkJob, item *store.JobItem, run store.Run) (stop string,
	err error) {
	proving := item.Wave == waveFirst || item.Wave == waveCanary
	d, err := tx.Device(ctx, item.UUID)
	if err != nil {
		return "", err
	}
	rollout := j.Kind == api.KindRollout
	switch {
	case run.State == store.RunDone && item.Proves != 0:
		first, err := tx.Run(ctx, item.Proves)
		if err != nil {
			return "", err
		}
		item.State, item.RunID, item.Proves, item.Detail = store.ItemDone, first.ID, 0, first.Detail
		return "", nil
	case run.State == store.RunDone && rollout && store.Target(d.Profile, d.ProfileVersion) != j.Target:
		// A node with an older configuration had the run.
		item.State, item.Wave, item.Detail = store.ItemWaiting, 0,
			fmt.Sprintf("run %d left it as %s", run.ID, store.Target(d.Profile, d.ProfileVersion))
		return "", nil
	case run.State == store.RunDone && proving && j.Kind != provision.KindUnprovision:
		return "", s.prove(ctx, tx, j, d, item, run)
	case run.State == store.RunDone:
		item.State, item.Detail = store.ItemDone, run.Detail
		return "", nil
	}
	if item.Proves != 0 { // it took the change, and then no login came through
		if err := provision.MarkLost(ctx, tx, item.UUID, run.ID, true, run.Reason, run.Detail); err != nil {
			return "", err
		}
	}
	if next, err := follower(ctx, tx, run); err != nil || next != 0 {
		item.RunID = next
		return "", err
	}
	item.State, item.Detail = store.ItemFailed, failure(run)
	lost, unproved, err := tx.Unproved(ctx, item.UUID)
	switch {
	case err != nil:
		return "", err
	case lost: // losses stop the job
	case run.Reason == reason.LockoutAverted, proving && (item.Proves != 0 || unproved):
		return fmt.Sprintf("%s took a change and is not proved: %s. What waits stays as it was: look at the device (provctl device why "+
			"%s), then provctl job resume %d or provctl job abort %d",
			item.UUID, item.Detail, item.UUID, j.ID, j.ID), nil
	case rollout:
		item.State, item.Wave = store.ItemWaiting, 0
	}
	return "", nil
}

// prove begins the run that only looks, after one that changed the device.
func (s *Server) prove(ctx context.Context, tx *store.Tx, j store.BulkJob, d store.Device, item *store.JobItem, run store.Run) error {
	if _, err := tx.LiveRun(ctx, d.UUID); err == nil {
		return nil // somebody else asks it something; then it is this run's turn
	}
	t := store.Transition{UUID: d.UUID, Reason: d.Reason, Detail: d.Detail, Event: "maintenance_requested",
		Actor:     fmt.Sprintf("job:%d (%s)", j.ID, j.CreatedBy),
		NextRetry: d.NextRetry, Data: map[string]any{"job": j.ID, "proves": run.ID}}
	proof, err := s.startManaged(ctx, tx, d, provision.KindMaintain, provision.TaskCheck+","+provision.TaskKept, "api", t)
	if err != nil {
		return err
	}
	item.Proves, item.RunID, item.Detail = run.ID, proof.ID, fmt.Sprintf("run %d ended well; a login of its own is to prove it", run.ID)
	return nil
}

// routineHeld says why routine maintenance begins nothing; "" when it does.
func (s *Server) routineHeld(ctx context.Context) (why string, err error) {
	err = s.DB.Read(ctx, func(tx *store.Tx) error {
		lost, err := tx.LostDevices(ctx, tx.Now().Add(-routineWithin), routineLosses)
		if err == nil && len(lost) >= routineLosses {
			why = fmt.Sprintf("%d devices or more were changed within a day and have not answered since, the first of them %s: %s",
				len(lost), lost[0].UUID, reason.Of(lost[0].Reason).Title)
		}
		return err
	})
	return why, err
}
