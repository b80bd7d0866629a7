package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// TestDueAPartAtATime: devices looked through a part at a time are the same as
// all at once, each once, and the end is seen.
func TestDueAPartAtATime(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		const devices = 12
		long := time.Now().AddDate(0, -1, 0)
		for n := range devices {
			hello(t, db, n)
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				if n%3 == 0 { // nothing is due for it
					return tx.Transition(ctx, store.Transition{UUID: uuid(n), To: store.Failed, Event: "attempt_failed"})
				}
				if err := tx.UpdateDevice(ctx, uuid(n), store.DeviceFacts{LastContact: &long}); err != nil {
					return err
				}
				return tx.Transition(ctx, store.Transition{UUID: uuid(n), To: store.Provisioned, Event: "provisioned"})
			})
		}
		for _, d := range []store.Due{{Limit: 100}, {Among: 5, Limit: 100}, {Among: 5, Limit: 2}, {Among: 1, Limit: 1},
			{Among: 12, Limit: 100}} {
			d.ContactBefore, d.Rest = time.Now().AddDate(0, 0, -14), time.Hour
			seen := map[amt.UUID]int{}
			for questions := 0; ; questions++ {
				var found []store.Device
				read(t, db, func(ctx context.Context, tx *store.Tx) (err error) {
					found, d.After, err = tx.DueDevices(ctx, d)
					return err
				})
				for _, f := range found {
					seen[f.UUID]++
				}
				if d.After.IsZero() {
					break
				}
				if questions > 2*devices {
					t.Fatalf("among %d, at most %d: no end after %d questions", d.Among, d.Limit, questions)
				}
			}
			for n := range devices {
				if want := min(n%3, 1); seen[uuid(n)] != want {
					t.Errorf("among %d, at most %d: device %d was found %d times, want %d", d.Among, d.Limit, n, seen[uuid(n)], want)
				}
			}
		}
	})
}

// TestADeviceWithoutItsSetupIsLookedAt again, whereas one that differs from its
// profile rests until something changes.
func TestADeviceWithoutItsSetupIsLookedAt(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		now := time.Now()
		for n, why := range []reason.Code{reason.ProfileDrift, reason.ReappearedUnprovisioned} {
			hello(t, db, n)
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				if err := tx.UpdateDevice(ctx, uuid(n), store.DeviceFacts{LastContact: &now}); err != nil {
					return err
				}
				return tx.Transition(ctx, store.Transition{UUID: uuid(n), To: store.Drifted, Reason: why, Event: "attempt_failed"})
			})
		}
		read(t, db, func(ctx context.Context, tx *store.Tx) error {
			found, _, err := tx.DueDevices(ctx, store.Due{Rest: time.Hour, Limit: 10})
			if len(found) != 1 || found[0].UUID != uuid(1) {
				t.Errorf("%d due", len(found))
			}
			return err
		})
	})
}

// TestANewNameDoesNotWait: a name that a person gave goes to the device although
// it was looked at a moment ago, and a device that keeps another one rests.
func TestANewNameDoesNotWait(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		host, domain, old := "amt-1", "corp.example", "amt-1.corp.example"
		now := time.Now()
		hello(t, db, 1)
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			if err := tx.UpdateDevice(ctx, uuid(1),
				store.DeviceFacts{HostName: &host, Domain: &domain, FQDN: &old, LastContact: &now}); err != nil {
				return err
			}
			return tx.Transition(ctx, store.Transition{UUID: uuid(1), To: store.Provisioned, Event: "provisioned"})
		})
		looked := func(state, reasonCode string) {
			t.Helper()
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				run, err := tx.CreateRun(ctx, store.NewRun{UUID: uuid(1), Kind: "maintain", Trigger: "timer"})
				if err != nil {
					return err
				}
				return tx.FinishRun(ctx, run.ID, state, reason.Code(reasonCode), "", "none")
			})
		}
		due := func(want bool, when string) {
			t.Helper()
			read(t, db, func(ctx context.Context, tx *store.Tx) error {
				found, _, err := tx.DueDevices(ctx, store.Due{Names: true, Rest: time.Hour, Limit: 10})
				if (len(found) == 1) != want {
					t.Errorf("%s: %d due", when, len(found))
				}
				return err
			})
		}
		looked(store.RunDone, "")
		due(false, "named as it should be")
		name := "pc1.corp.example"
		write(t, db, func(ctx context.Context, tx *store.Tx) error {
			if err := tx.PutName(ctx, store.Name{UUID: uuid(1), FQDN: name, Source: "api"}); err != nil {
				return err
			}
			return tx.UpdateDevice(ctx, uuid(1), store.DeviceFacts{FQDN: &name})
		})
		due(true, "given a name just now")
		looked(store.RunFailed, "device_unreachable")
		due(true, "not reached since")
		looked(store.RunDone, "")
		due(false, "looked at since, and the device keeps its name")
	})
}
