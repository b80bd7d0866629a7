package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// What happens to a managed fleet by itself: devices that need it get a
// maintain run, devices that differ from their profile join a rollout, secrets
// move to the newest data key, and old rows go. Any node can do each of these,
// several at once, and stop at any moment.

const (
	dueTick = time.Minute
	// dueCertificate is 30 days before a device certificate's end, and a day for
	// the queue.
	dueCertificate = 31 * 24 * time.Hour
	// dueRest keeps nodes from looking all day at a device that stays due whatever
	// they do.
	dueRest = 12 * time.Hour
	// One query looks through dueAmong devices, and a tick makes dueSlices of them:
	// nodes look at 100,000 devices each minute, at a million in ten.
	dueAmong  = 10_000
	dueSlices = 10
)

// dueLook is the look for due devices, of one goroutine at a time.
type dueLook struct {
	mu    sync.Mutex
	after amt.UUID // the last device that the timer looked at
}

// maintainDue begins runs for devices that need one.
func (s *Server) maintainDue(ctx context.Context) error {
	s.due.mu.Lock()
	defer s.due.mu.Unlock()
	if s.o.MaintainPerMinute < 0 {
		return nil // only commands maintain
	}
	if err := s.rollOut(ctx); err != nil {
		return err
	}
	held, err := s.routineHeld(ctx)
	if err != nil {
		return err
	}
	if held != "" {
		s.log.Error("maintenance.held", zap.String("why", held))
		return nil
	}
	now := time.Now()
	due := store.Due{CertBefore: now.Add(dueCertificate), Names: true, Rest: dueRest, Passwords: map[string]time.Time{}}
	if s.o.MaintainContact > 0 {
		due.ContactBefore = now.Add(-s.o.MaintainContact)
	}
	age := func(name string, p profile.Profile) {
		if p.PasswordDays > 0 {
			due.Passwords[name] = now.Add(-time.Duration(p.PasswordDays) * 24 * time.Hour)
		}
	}
	if err := s.DB.Read(ctx, func(tx *store.Tx) error {
		names, err := tx.Profiles(ctx)
		if err != nil {
			return err
		}
		for _, n := range append(names, store.Profile{Name: "default"}) {
			p, err := s.profileNamed(ctx, tx, n.Name)
			if err != nil {
				return err
			}
			age(n.Name, p)
			if n.Name == "default" {
				age("", p)
			}
		}
		live, err := tx.CountLiveRuns(ctx, provision.KindMaintain)
		due.Limit = min(s.o.MaintainPerMinute, s.o.MaintainAtOnce-live)
		return err
	}); err != nil {
		return err
	}
	if due.Limit <= 0 {
		return nil
	}
	found, err := s.findDue(ctx, due)
	if err != nil {
		return err
	}
	begun := 0
	for _, d := range found {
		err := s.DB.Write(ctx, func(tx *store.Tx) error {
			t := store.Transition{UUID: d.UUID, Reason: d.Reason, Detail: d.Detail, Event: "maintenance_due", Actor: "system"}
			_, err := s.startManaged(ctx, tx, d, provision.KindMaintain, provision.TaskKept, "timer", t)
			return err
		})
		switch {
		case errors.Is(err, store.ErrConflict): // another node was faster
		case err != nil:
			return fmt.Errorf("device %s: %w", d.UUID, err)
		default:
			begun++
		}
	}
	if begun > 0 {
		s.log.Info("maintenance.due", zap.Int("devices", begun))
	}
	return nil
}

// findDue looks through the next devices, from where the last tick ended.
func (s *Server) findDue(ctx context.Context, due store.Due) (found []store.Device, err error) {
	due.After, due.Among = s.due.after, dueAmong
	room, began, around := due.Limit, due.After, false
	for range dueSlices {
		due.Limit = room - len(found)
		var more []store.Device
		if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
			more, due.After, err = tx.DueDevices(ctx, due)
			return err
		}); err != nil {
			return nil, err
		}
		found, s.due.after = append(found, more...), due.After
		if due.After.IsZero() {
			if around || began.IsZero() {
				break
			}
			around = true
		}
		if len(found) >= room {
			break
		}
	}
	return found, nil
}

const (
	resealTick  = 10 * time.Second
	resealBatch = 200
)

// reseal moves secrets to the newest data key in short transactions, until none
// is left under another key.
func (s *Server) reseal(ctx context.Context) error {
	wanted := ""
	err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		wanted, err = tx.Setting(ctx, operate.ResealKey)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && wanted == "" {
		return nil
	}
	total := 0
	for err == nil {
		n := 0
		if err = s.DB.Write(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Reseal(ctx, resealBatch)
			if err == nil && n == 0 {
				err = tx.PutSetting(ctx, operate.ResealKey, "")
			}
			return err
		}); err == nil && n == 0 {
			s.log.Info("secrets.resealed", zap.Int("moved", total))
			return nil
		}
		total += n
	}
	return fmt.Errorf("move secrets to the newest key, %d moved: %w", total, err)
}

const pruneTick = time.Hour

// How many rows of one device stay whatever their age, so that a device in a
// loop does not fill the disk before its rows are old.
const (
	keepHellosEach = 200
	keepEventsEach = 1000
	keepRunsEach   = 100
	keepSteps      = 30 * 24 * time.Hour
	keepJobs       = 365 * 24 * time.Hour
	keepOTPs       = 24 * time.Hour
	keepSessions   = 30 * 24 * time.Hour
	keepLately     = 2 * time.Hour
)

// prune removes old rows.
func (s *Server) prune(ctx context.Context) error {
	r := s.retention()
	p, err := s.DB.Prune(ctx, r)
	if p != (store.Pruned{}) {
		s.log.Info("store.pruned", zap.Int64("hellos", p.Hellos), zap.Int64("events", p.Events), zap.Int64("runs", p.Runs),
			zap.Int64("steps", p.Steps),
			zap.Int64("jobs", p.Jobs), zap.Int64("one_time_passwords", p.OTPs), zap.Int64("sessions", p.Sessions),
			zap.Int64("limits", p.Lately),
			zap.Int64("hash_lists", p.TrustTables))
	}
	return err
}

func (s *Server) retention() store.Retention {
	steps := keepSteps
	if s.o.KeepRuns > 0 {
		steps = min(steps, s.o.KeepRuns)
	}
	return store.Retention{
		HelloAge: s.o.KeepHellos, HellosPerDevice: keepHellosEach, EventAge: s.o.KeepEvents, EventsPerDevice: keepEventsEach,
		RunAge: s.o.KeepRuns, RunsPerDevice: keepRunsEach, StepAge: steps, JobAge: keepJobs, OTPAge: keepOTPs, SessionAge: keepSessions,
		LatelyAge: keepLately,
	}
}
