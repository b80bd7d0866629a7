package provision

import (
	"fmt"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// bury puts n passwords the device never took above the one it holds, as a bad
// day of lost answers would.
func (l *lab) bury(d *sim.Device, n int) {
	l.t.Helper()
	ctx := l.t.Context()
	if err := l.db.Write(ctx, func(tx *store.Tx) error {
		for i := range n {
			pw := amt.NewSecret(fmt.Sprintf("Never-taken-%d!", i))
			held, err := tx.Credentials(ctx, d.UUID(), store.KindAdmin)
			if err != nil {
				return err
			}
			if _, err := tx.StageWithin(ctx, d.UUID(), 0, held[0].Setup, pw, amt.Secret{}); err != nil {
				return err
			}
			list, err := tx.Credentials(ctx, d.UUID(), store.KindAdmin)
			if err != nil {
				return err
			}
			if err := tx.MarkSent(ctx, list[0].ID, "admin", list[0].Realm, list[0].Peer, d.Addr().Addr(), false); err != nil {
				return err
			}
			if i == n-1 {
				return tx.Activate(ctx, list[0].ID)
			}
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

// TestEveryStoredPasswordGetsItsTurn: the one that works is the oldest of eight.
// It is found, each of the others is tried once, and no attempt tries more than
// three, so that the device never sees a row of wrong logins.
func TestEveryStoredPasswordGetsItsTurn(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.managed("11")
		held, _ := l.active(d)
		l.bury(d, 7)
		before := d.Snapshot().LoginsFailed
		id, most := l.order(d, KindMaintain, ""), 0
		for id != 0 {
			was := d.Snapshot().LoginsFailed
			if _, err := l.engine.Work(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			most = max(most, d.Snapshot().LoginsFailed-was)
			_, id = l.look(d)
		}
		dev, _ := l.look(d)
		active, takes := l.active(d)
		if dev.Lifecycle != store.Provisioned || dev.Reason != "" || active.ID != held.ID || !takes {
			t.Fatalf("%s: %s: %s; active is generation %d, taken %t\n%s", dev.Lifecycle, dev.Reason, dev.Detail, active.Generation, takes,
				l.journal(d))
		}
		if n := d.Snapshot().LoginsFailed - before; n != 7 || most > maxProbes {
			t.Errorf("%d wrong logins, at most %d in one attempt: want 7 and %d", n, most, maxProbes)
		}
		if !active.RefusedAt.IsZero() {
			t.Error("the password that works is still noted as refused")
		}
	})
}

// TestCredentialsUnknownIsSaidLast: only when each stored password was refused.
func TestCredentialsUnknownIsSaidLast(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.managed("11")
		s := l.admin(d)
		id, err := s.Identify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetAdminPassword(t.Context(), "admin", id.Realm, amt.NewSecret("Somebody-else-1!")); err != nil {
			t.Fatal(err)
		}
		l.bury(d, 5)
		before := d.Snapshot().LoginsFailed
		dev := l.do(d, KindMaintain, "")
		if dev.Lifecycle != store.CredentialsUnknown || dev.Reason != reason.CredentialsUnknown {
			t.Fatalf("%s: %s: %s\n%s", dev.Lifecycle, dev.Reason, dev.Detail, l.journal(d))
		}
		if n := d.Snapshot().LoginsFailed - before; n != 6 {
			t.Errorf("%d wrong logins, and 6 passwords are stored", n)
		}
		for _, c := range l.credentials(d, store.KindAdmin) {
			if c.RefusedAt.IsZero() {
				t.Errorf("generation %d is not noted as refused", c.Generation)
			}
		}
	})
}
