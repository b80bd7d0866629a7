package provision

import (
	"context"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestTakenForLost: a device that was managed, and that a hello from elsewhere was
// believed of, is brought back by its own answer wherever that hello led it. One
// that a person put aside, or that was never managed, is not.
func TestTakenForLost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at      store.Lifecycle
		why     reason.Code
		managed bool
		lost    bool
	}{
		{store.PendingApproval, reason.ReappearedUnprovisioned, true, true},
		{store.PendingApproval, reason.NotAuthorized, true, false},
		{store.Quarantined, reason.UUIDDuplicate, true, true},
		{store.Quarantined, "", true, false},
		{store.PendingCertificate, reason.RootNotTrusted, true, true},
		{store.PendingIdentity, reason.RootNotTrusted, true, true},
		{store.Queued, "", true, true},
		{store.Failed, reason.DeviceUnreachable, true, true},
		{store.CredentialsUnknown, reason.CredentialsUnknown, true, true},
		{store.Failed, reason.DeviceUnreachable, false, false},
		{store.PendingCertificate, reason.RootNotTrusted, false, false},
		{store.Provisioned, "", true, false},
		{store.Unprovisioned, "", true, false},
		{store.Retired, "", true, false},
	} {
		d := store.Device{Lifecycle: c.at, Reason: c.why}
		if c.managed {
			d.ProvisionedAt = time.Unix(1, 0)
		}
		if got := takenForLost(d); got != c.lost {
			t.Errorf("%s (%s), managed before %t: lost %t, want %t", c.at, c.why, c.managed, got, c.lost)
		}
	}
}

// nobody is told of claims.
type nobody struct{}

func (nobody) Answered(context.Context, *store.Tx, store.Device) (func(), error) {
	return func() {}, nil
}
func (nobody) Gone(context.Context, *store.Tx, store.Device) (func(), error) { return func() {}, nil }
func (nobody) Absent(context.Context, *store.Tx, store.Device) error         { return nil }

// TestAnUnverifiedSetUpEndsAtAProbe: a device that was committed, was not reached
// again, and whose set-up was then stopped by what somebody else said, is ours from
// its first answer on: with its MEBx password, and since a moment that is known.
func TestAnUnverifiedSetUpEndsAtAProbe(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.device("11", sim.Faults{})
		id := l.hello(d)
		e := l.newEngine("cut off")
		e.VerifyFor = time.Millisecond
		dial := e.Dial
		e.Dial = func(ctx context.Context, t session.Target) (Device, error) {
			if d.Snapshot().Commits > 0 {
				return nil, reason.Because(reason.DeviceUnreachable, "the line is cut")
			}
			return dial(ctx, t)
		}
		if _, err := e.Work(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if err := l.db.Write(t.Context(), func(tx *store.Tx) error {
			if r, err := tx.LiveRun(t.Context(), d.UUID()); err == nil {
				if err := tx.FinishRun(t.Context(), r.ID, store.RunFailed, reason.Cancelled, "", ""); err != nil {
					return err
				}
			}
			return tx.Transition(t.Context(), store.Transition{UUID: d.UUID(), To: store.PendingCertificate, Reason: reason.RootNotTrusted,
				Event: "refused", Actor: "system"})
		}); err != nil {
			t.Fatal(err)
		}
		if dev, _ := l.look(d); dev.Lifecycle != store.PendingCertificate || !dev.ProvisionedAt.IsZero() {
			t.Fatalf("%s, set up %s: this shows nothing\n%s", dev.Lifecycle, dev.ProvisionedAt, l.journal(d))
		}
		l.engine.Store.(*Journal).Claims = nobody{}
		dev := l.do(d, KindProbe, "")
		if dev.Lifecycle != store.Provisioned || dev.ProvisionedAt.IsZero() {
			t.Errorf("%s: %s, set up %s\n%s", dev.Lifecycle, dev.Reason, dev.ProvisionedAt, l.journal(d))
		}
		l.invariants(d, dev)
	})
}
