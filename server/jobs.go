package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// A bulk job is rows: the job, and one item for each device that the filter
// found. Every node looks at the rows on a timer, in this order:
//
//  1. An item whose run has ended gets that run's result.
//  2. The node begins as many further items as the wave and the job's pace allow:
//     a run each.
//  3. A job with nothing left is done.
//
// Each of these is one transaction that locks the job's row, so that one of
// several nodes does it, and a node that dies leaves nothing half begun.

const (
	jobTick  = 2 * time.Second
	jobBatch = 100 // items per transaction
	// jobMost bounds the runs of one job under way: a job without a pace must not
	// keep hellos waiting in the queue.
	jobMost = 500
)

func (s *Server) runJobs(ctx context.Context) error {
	for _, state := range []string{store.JobWaiting, store.JobRunning} {
		var jobs []store.BulkJob
		if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
			jobs, err = tx.Jobs(ctx, state, 1000)
			return err
		}); err != nil {
			return fmt.Errorf("look for jobs: %w", err)
		}
		for _, j := range slices.Backward(jobs) {
			if ours, err := s.judges(ctx, j); err != nil || !ours {
				if err != nil {
					return fmt.Errorf("job %d: %w", j.ID, err)
				}
				continue
			}
			if j.State == store.JobWaiting && time.Now().Before(j.NotBefore) {
				continue
			}
			if err := s.runJob(ctx, j.ID); err != nil && !errors.Is(err, store.ErrGone) {
				return fmt.Errorf("job %d: %w", j.ID, err)
			}
		}
	}
	return s.endAborted(ctx)
}

// judges reports whether this node may work on a job: a node whose
// configuration is older than another's does not know the rollout's version.
func (s *Server) judges(ctx context.Context, j store.BulkJob) (ours bool, err error) {
	name, _, _ := strings.Cut(j.Target, "@")
	if j.Kind != api.KindRollout || name != s.o.Profile.Name {
		return true, nil
	}
	err = s.DB.Read(ctx, func(tx *store.Tx) error {
		p, err := s.profileNamed(ctx, tx, name)
		if err == nil {
			ours, err = s.current(ctx, tx, p)
		}
		return err
	})
	return ours, err
}

// endAborted gives results to items whose run was under way when their job was
// aborted or stopped.
func (s *Server) endAborted(ctx context.Context) error {
	var jobs []store.BulkJob
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		if jobs, err = tx.Jobs(ctx, store.JobAborted, 10); err != nil {
			return err
		}
		stopped, err := tx.Jobs(ctx, store.JobStopped, 100)
		jobs = append(jobs, stopped...)
		return err
	}); err != nil {
		return err
	}
	for _, j := range jobs {
		if _, err := s.jobResults(ctx, j.ID); err != nil {
			return fmt.Errorf("job %d: %w", j.ID, err)
		}
	}
	return nil
}

func (s *Server) runJob(ctx context.Context, id int64) error {
	for {
		n, err := s.jobResults(ctx, id)
		if err != nil {
			return err
		}
		if n < jobBatch {
			break
		}
	}
	for {
		more, err := s.jobBegin(ctx, id)
		if err != nil || !more {
			return err
		}
	}
}

// jobResults looks at items whose run has ended. A failed run with a successor
// of its kind is not over: the item goes with the new run.
func (s *Server) jobResults(ctx context.Context, id int64) (n int, err error) {
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		n = 0
		j, err := tx.LockJob(ctx, id)
		if err != nil {
			return err
		}
		if err := tx.RefuseJobItems(ctx, id); err != nil {
			return err
		}
		items, runs, err := tx.JobEnded(ctx, id, jobBatch)
		if err != nil {
			return err
		}
		n = len(items)
		for i, item := range items {
			var stop string
			if item.Wave > 0 {
				stop, err = s.waveResult(ctx, tx, j, &item, runs[i])
			} else {
				err = itemResult(ctx, tx, &item, runs[i])
			}
			if err == nil {
				err = tx.PutJobItem(ctx, item)
			}
			if err == nil && stop != "" && j.State == store.JobRunning {
				j.State, err = store.JobStopped, s.stopJob(ctx, tx, j, stop)
			}
			if err != nil {
				return fmt.Errorf("device %s: %w", item.UUID, err)
			}
		}
		return nil
	})
	return n, err
}

// itemResult says what an ended run means for a device of a job without waves:
// what became of the device.
func itemResult(ctx context.Context, tx *store.Tx, item *store.JobItem, run store.Run) error {
	said := item.Detail
	if run.State == store.RunDone {
		item.State, item.Detail = store.ItemDone, run.Detail
		if said != "" { // the job handed it over
			d, err := tx.Device(ctx, item.UUID)
			if err != nil {
				return err
			}
			item.Detail = fmt.Sprintf("%s; run %d ended well, and it is %s", said, run.ID, d.Lifecycle)
		}
		return nil
	}
	next, err := follower(ctx, tx, run)
	if err != nil || next != 0 {
		item.RunID = next
		return err
	}
	item.State, item.Detail = store.ItemFailed, failure(run)
	return nil
}

// follower is the run that goes on with what another one failed at; 0 for none.
func follower(ctx context.Context, tx *store.Tx, run store.Run) (int64, error) {
	next, err := tx.LiveRun(ctx, run.UUID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case next.Kind == run.Kind && next.ID > run.ID:
		return next.ID, nil
	}
	return 0, nil
}

func failure(run store.Run) string {
	return strings.TrimSuffix(string(run.Reason)+": "+run.Detail, ": ")
}

// jobBegin begins as many items as it may, and reports whether to go on at
// once.
func (s *Server) jobBegin(ctx context.Context, id int64) (more bool, err error) {
	var ended *store.BulkJob
	var counts map[string]int
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		more, ended = false, nil
		j, err := tx.LockJob(ctx, id)
		if err != nil {
			return err
		}
		switch j.State {
		case store.JobWaiting:
			if err := tx.SetJobState(ctx, id, store.JobRunning, ""); err != nil {
				return err
			}
			if err := jobEvent(ctx, tx, "job_started", j, nil); err != nil {
				return err
			}
			if j, err = tx.LockJob(ctx, id); err != nil {
				return err
			}
		case store.JobRunning:
		default:
			return nil
		}
		if counts, err = tx.CountJobItems(ctx, id); err != nil {
			return err
		}
		o, err := operate.OptionsOf(j)
		if err != nil {
			return err
		}
		inWaves := waved(j, o)
		if inWaves && (counts[store.ItemWaiting] > 0 || counts[store.ItemFailed] > 0) {
			held, stop, err := losses(ctx, tx, j)
			if err == nil && stop != "" {
				err = s.stopJob(ctx, tx, j, stop)
			}
			if err != nil || held {
				return err
			}
		}
		if counts[store.ItemWaiting] == 0 {
			if counts[store.ItemRunning]+counts[store.ItemHanded] > 0 {
				return nil
			}
			if err := tx.SetJobState(ctx, id, store.JobDone, ""); err != nil {
				return err
			}
			ended = &j
			return jobEvent(ctx, tx, "job_finished", j, counts)
		}
		wave, room := 0, 0
		if inWaves {
			wave, room, err = s.wave(ctx, tx, j, counts)
		} else {
			room, err = s.jobRoom(ctx, tx, j, counts)
		}
		if err != nil || room <= 0 {
			return err
		}
		var items []store.JobItem
		if proving := wave == waveFirst || wave == waveCanary; proving || j.Kind == api.KindRollout {
			items, err = tx.NextInWave(ctx, id, j.Kind == api.KindRollout, proving, room)
		} else {
			items, err = tx.JobItems(ctx, id, store.ItemWaiting, amt.UUID{}, room)
		}
		if err != nil {
			return err
		}
		for _, item := range items {
			item.Wave = wave
			if err := s.beginItem(ctx, tx, j, o, item); err != nil {
				return fmt.Errorf("device %s: %w", item.UUID, err)
			}
		}
		more = j.PerMinute == 0 && len(items) == jobBatch || len(items) == counts[store.ItemWaiting] && counts[store.ItemRunning] == 0
		return nil
	})
	if err == nil && ended != nil {
		s.log.Info("job.finished", zap.Int64("job", ended.ID), zap.String("kind", ended.Kind), zap.Int("done", counts[store.ItemDone]),
			zap.Int("failed", counts[store.ItemFailed]))
	}
	return more, err
}

// jobRoom is how many items may begin now: a sixth of the job's pace at a time,
// so that a minute's share does not come in one second.
func (s *Server) jobRoom(ctx context.Context, tx *store.Tx, j store.BulkJob, counts map[string]int) (int, error) {
	room := min(jobBatch, jobMost-counts[store.ItemRunning]-counts[store.ItemHanded])
	if j.PerMinute == 0 {
		return room, nil
	}
	lately, err := tx.JobStarted(ctx, j.ID, time.Minute)
	if err != nil {
		return 0, err
	}
	just, err := tx.JobStarted(ctx, j.ID, 10*time.Second)
	if err != nil {
		return 0, err
	}
	share := max(1, (j.PerMinute+5)/6)
	return min(room, j.PerMinute-lately, share-just), nil
}

func jobEvent(ctx context.Context, tx *store.Tx, name string, j store.BulkJob, counts map[string]int) error {
	data := map[string]any{"job": j.ID, "kind": j.Kind}
	for k, n := range counts {
		data[k] = n
	}
	_, err := tx.AddEvent(ctx, store.Event{Name: name, Actor: "system", Data: data})
	return err
}

// beginItem begins one device's part.
func (s *Server) beginItem(ctx context.Context, tx *store.Tx, j store.BulkJob, o operate.JobOptions, item store.JobItem) error {
	d, err := tx.Device(ctx, item.UUID)
	var part operate.Part
	switch {
	case errors.Is(err, store.ErrNotFound):
		part, err = operate.Part{State: store.ItemSkipped, Detail: "the device is no longer known"}, nil
	case err != nil:
	case j.Kind == api.KindRollout:
		part, err = s.rolloutPart(ctx, tx, j, d)
	default:
		part, err = s.room().Begin(ctx, tx, j, o, d)
	}
	if err != nil || part.State == "" {
		return err
	}
	if item.State, item.Detail, item.RunID = part.State, part.Detail, part.RunID; item.State != store.ItemRunning {
		item.Wave = 0 // a device that did not begin proves nothing
	}
	return tx.PutJobItem(ctx, item)
}

// room is what operators, and jobs in their name, may do here.
func (s *Server) room() *operate.Room {
	return &operate.Room{
		StartRun: startRun, Enqueue: s.enqueue, Certs: s.Trust.All, MostAttempts: s.o.Attempts,
		SecondApprover: s.o.SecondApprover, SecondApproverAbove: s.o.SecondApproverAbove, Canary: s.canary(), WavePace: s.wavePace(),
		Networks: s.o.Networks, Zones: s.o.Zones, HelloAt: s.HelloAddr().String(), Now: s.o.Now,
	}
}

func startRun(ctx context.Context, tx *store.Tx, uuid uuidT, kind, trigger, profile string, at time.Time) (store.Run, error) {
	return admit.StartRun(ctx, tx, rand.Reader, uuid, kind, trigger, profile, at)
}

// startManaged begins a run that the server itself wants of a managed device.
// Devices that wait for their setup go first.
func (s *Server) startManaged(ctx context.Context, tx *store.Tx, d store.Device, kind, task, trigger string,
	t store.Transition) (store.Run, error) {
	return s.room().StartManaged(ctx, tx, d, kind, task, trigger, queue.Background, t)
}
