package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// A bulk job is rows: the job, and one item for each device the filter found.
// Every node looks at the rows on a timer, in this order:
//
//  1. An item whose run has ended gets that run's result.
//  2. As many further items are begun as the rate cap allows: a run each.
//  3. A job with nothing left is done.
//
// Each of these is one transaction that holds the job's row, so that of several
// nodes one does it, and a node that dies leaves nothing half begun.

const (
	jobTick  = 2 * time.Second
	jobBatch = 100 // items a transaction
	// jobMost bounds the runs of one job under way: a job without a rate cap
	// must not keep hellos waiting in the queue.
	jobMost = 500
)

func (s *Server) runJobs(ctx context.Context) error {
	for _, state := range []string{store.JobWaiting, store.JobRunning} {
		var jobs []store.Job
		if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
			jobs, err = tx.Jobs(ctx, state, 1000)
			return err
		}); err != nil {
			return fmt.Errorf("look for jobs: %w", err)
		}
		for _, j := range slices.Backward(jobs) {
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

// endAborted gives the results of runs that were under way as their job was
// aborted.
func (s *Server) endAborted(ctx context.Context) error {
	var jobs []store.Job
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		jobs, err = tx.Jobs(ctx, store.JobAborted, 10)
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

// jobResults looks at items whose run has ended. A run that failed and was
// followed by another of its kind is not over: the item goes with the new one.
func (s *Server) jobResults(ctx context.Context, id int64) (n int, err error) {
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		n = 0
		if _, err := tx.LockJob(ctx, id); err != nil {
			return err
		}
		items, runs, err := tx.JobEnded(ctx, id, jobBatch)
		if err != nil {
			return err
		}
		n = len(items)
		for i, item := range items {
			run := runs[i]
			item.State, item.Detail = store.ItemDone, run.Detail
			if run.State != store.RunDone {
				if next, err := tx.LiveRun(ctx, item.UUID); err == nil && next.Kind == run.Kind && next.ID > run.ID {
					item.State, item.RunID = store.ItemRunning, next.ID
				} else if err != nil && !errors.Is(err, store.ErrNotFound) {
					return err
				} else {
					item.State, item.Detail = store.ItemFailed, strings.TrimSuffix(string(run.Reason)+": "+run.Detail, ": ")
				}
			}
			if err := tx.PutJobItem(ctx, item); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// jobBegin begins as many items as it may, and reports whether to go on at once.
func (s *Server) jobBegin(ctx context.Context, id int64) (more bool, err error) {
	var ended *store.Job
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
		case store.JobRunning:
		default:
			return nil
		}
		if counts, err = tx.CountJobItems(ctx, id); err != nil {
			return err
		}
		if counts[store.ItemWaiting] == 0 {
			if counts[store.ItemRunning] > 0 {
				return nil
			}
			if err := tx.SetJobState(ctx, id, store.JobDone, ""); err != nil {
				return err
			}
			ended = &j
			return jobEvent(ctx, tx, "job_finished", j, counts)
		}
		room, err := s.jobRoom(ctx, tx, j, counts)
		if err != nil || room <= 0 {
			return err
		}
		items, err := tx.JobItems(ctx, id, store.ItemWaiting, amt.UUID{}, room)
		if err != nil {
			return err
		}
		for _, item := range items {
			if err := s.beginItem(ctx, tx, j, item); err != nil {
				return fmt.Errorf("device %s: %w", item.UUID, err)
			}
		}
		more = j.PerMinute == 0 && len(items) == jobBatch || len(items) == counts[store.ItemWaiting] && counts[store.ItemRunning] == 0
		return nil
	})
	if err == nil && ended != nil {
		s.log.Info("job.finished", zap.Int64("job", ended.ID), zap.String("kind", ended.Kind), zap.Int("done", counts[store.ItemDone]), zap.Int("failed", counts[store.ItemFailed]))
	}
	return more, err
}

// jobRoom is how many items may be begun now: a sixth of the rate cap at a
// time, so that a minute's share does not come in one second.
func (s *Server) jobRoom(ctx context.Context, tx *store.Tx, j store.Job, counts map[string]int) (int, error) {
	room := min(jobBatch, jobMost-counts[store.ItemRunning])
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

func jobEvent(ctx context.Context, tx *store.Tx, name string, j store.Job, counts map[string]int) error {
	data := map[string]any{"job": j.ID, "kind": j.Kind}
	for k, n := range counts {
		data[k] = n
	}
	_, err := tx.AddEvent(ctx, store.Event{Name: name, Actor: "system", Data: data})
	return err
}

// beginItem begins one device's part. The device may have changed since the
// job was made: then its part says so, and the job goes on.
func (s *Server) beginItem(ctx context.Context, tx *store.Tx, j store.Job, item store.JobItem) error {
	var o api.JobOptions
	if err := json.Unmarshal(j.Options, &o); err != nil {
		return err
	}
	end := func(state, detail string) error {
		item.State, item.Detail = state, detail
		return tx.PutJobItem(ctx, item)
	}
	d, err := tx.Device(ctx, item.UUID)
	if errors.Is(err, store.ErrNotFound) {
		return end(store.ItemSkipped, "the device is no longer known")
	}
	if err != nil {
		return err
	}
	live, err := tx.LiveRun(ctx, d.UUID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	busy := err == nil
	actor := fmt.Sprintf("job:%d (%s)", j.ID, j.CreatedBy)
	if p := api.Refused(j.Kind, d); p != nil {
		return end(store.ItemSkipped, p.Detail)
	}
	t := store.Transition{UUID: d.UUID, Reason: d.Reason, Detail: d.Detail, Actor: actor, NextRetry: d.NextRetry, Data: map[string]any{"job": j.ID}}
	if o.Note != "" {
		t.Data["note"] = o.Note
	}
	switch j.Kind {
	case provision.KindMaintain, provision.KindRotate, provision.KindUnprovision:
	default:
		return s.commandItem(ctx, tx, j, o, d, live, busy, end, &item)
	}
	if busy {
		if live.Kind != j.Kind {
			return end(store.ItemFailed, fmt.Sprintf("run %d (%s) is at it", live.ID, live.Kind))
		}
		item.RunID = live.ID // somebody asked for the same
		return end(store.ItemRunning, "")
	}
	task := o.Task
	t.Event = "maintenance_requested"
	switch j.Kind {
	case provision.KindRotate:
		t.Event = "rotation_requested"
	case provision.KindUnprovision:
		task, t.Event = o.Mode, "unprovision_requested"
		t.To, t.Reason, t.Detail = store.Unprovisioning, "", ""
	}
	run, err := s.startManaged(ctx, tx, d, j.Kind, task, "api", t)
	if err != nil {
		return err
	}
	item.RunID = run.ID
	return end(store.ItemRunning, "")
}

// commandItem gives one device a command. What it began is not waited for: its
// number is in the result.
func (s *Server) commandItem(ctx context.Context, tx *store.Tx, j store.Job, o api.JobOptions, d store.Device, live store.Run, busy bool,
	end func(state, detail string) error, item *store.JobItem) error {
	var run *store.Run
	if busy {
		run = &live
	}
	who := api.Principal{Name: j.CreatedBy, User: j.CreatedBy, Job: j.ID}
	said, id, err := api.Bulk(ctx, tx, s.bulkDeps(), j.Kind, who, d, run, o.Note, o.Change)
	var refused *api.Problem
	switch {
	case errors.As(err, &refused):
		return end(store.ItemFailed, refused.Detail)
	case err != nil:
		return err
	}
	item.RunID = id
	return end(store.ItemDone, said)
}

// bulkDeps is what commands stand on that begin a run.
func (s *Server) bulkDeps() api.Deps {
	return api.Deps{StartRun: startRun, Enqueue: s.enqueue}
}

func startRun(ctx context.Context, tx *store.Tx, uuid uuidT, kind, trigger, profile string, at time.Time) (store.Run, error) {
	return admit.StartRun(ctx, tx, rand.Reader, uuid, kind, trigger, profile, at)
}

// startManaged makes a run for a managed device, with its event and its place
// in the queue. Priority 3: devices that wait for their setup go first.
func (s *Server) startManaged(ctx context.Context, tx *store.Tx, d store.Device, kind, task, trigger string, t store.Transition) (store.Run, error) {
	run, err := tx.CreateRun(ctx, store.NewRun{UUID: d.UUID, Kind: kind, Trigger: trigger, Profile: d.Profile, Task: task})
	if err != nil {
		return run, err
	}
	t.RunID = run.ID
	if err := tx.Transition(ctx, t); err != nil {
		return run, err
	}
	return run, s.enqueue(ctx, tx, run.ID, tx.Now(), 3)
}
