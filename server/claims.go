package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// Somebody says hello in the name of a device that may hold a password of ours,
// from elsewhere than where it should be. Then a node calls the device, and its
// key decides. However many hellos come, a device has one call waiting and a
// growing pause after each, and all these calls together get a share of the
// workers.

const (
	claimTick     = time.Second
	longestClaim  = 15 * time.Minute
	claimPriority = 3 // devices that wait for their setup go first
)

// callClaimed begins calls of devices in whose name somebody said hello
// elsewhere.
func (s *Server) callClaimed(ctx context.Context) error {
	share := max(2, s.o.Workers/8)
	var due []store.Device
	if err := s.DB.Read(ctx, func(tx *store.Tx) error {
		live, err := tx.CountLiveRuns(ctx, provision.KindProbe)
		if err != nil || live >= share {
			return err
		}
		due, err = tx.Claimed(ctx, share-live)
		return err
	}); err != nil {
		return fmt.Errorf("look for devices that are claimed from elsewhere: %w", err)
	}
	for _, d := range due {
		err := s.DB.Write(ctx, func(tx *store.Tx) error { return s.callOne(ctx, tx, d) })
		if err != nil && !errors.Is(err, store.ErrConflict) { // another run works on it
			return fmt.Errorf("device %s: %w", d.UUID, err)
		}
	}
	return nil
}

func (s *Server) callOne(ctx context.Context, tx *store.Tx, d store.Device) error {
	sent, err := tx.WasSent(ctx, d.UUID)
	if err != nil {
		return err
	}
	until := time.Time{}
	if sent || d.Generation > 0 {
		if until, err = s.claimRests(ctx, tx, d); err != nil {
			return err
		}
		if until.IsZero() {
			run, err := tx.CreateRun(ctx, store.NewRun{UUID: d.UUID, Kind: provision.KindProbe, Trigger: "hello", Profile: d.Profile})
			if err != nil {
				return err
			}
			s.log.Info("claim.called", zap.Stringer("device", d.UUID), zap.Int64("run", run.ID), zap.Stringer("claimed_from", d.HeardFrom))
			return s.enqueue(ctx, tx, run.ID, tx.Now(), claimPriority)
		}
	} // else the device holds nothing that could be lost
	return tx.UpdateDevice(ctx, d.UUID, store.DeviceFacts{ClaimDue: &until})
}

// claimRests says until when a device rests after a call, zero for not at all.
func (s *Server) claimRests(ctx context.Context, tx *store.Tx, d store.Device) (time.Time, error) {
	runs, err := tx.Runs(ctx, d.UUID, 10)
	if err != nil {
		return time.Time{}, err
	}
	now := tx.Now()
	var last time.Time
	pause := s.o.ClaimPause
	for _, r := range runs {
		if r.Kind != provision.KindProbe || r.State != store.RunDone || now.Sub(r.FinishedAt).Abs() > time.Hour {
			continue
		}
		if last.IsZero() {
			last = r.FinishedAt
			continue
		}
		pause = min(2*pause, longestClaim)
	}
	if until := last.Add(pause); !last.IsZero() && until.After(now) {
		return until, nil
	}
	return time.Time{}, nil
}
