package server

import (
	"context"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// TestAttemptsEnd: where the operator has set a limit, a device that does not
// answer is left to a person after so many attempts; its hellos are heard and
// change nothing, and the person's word makes another attempt.
func TestAttemptsEnd(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Attempts = 1 }, func(t *testing.T, l *lab) {
		u, from := newUUID(), address() // nothing listens there
		l.hello(from, u, 0, l.roots())
		ended := func(runs int) {
			t.Helper()
			d := l.until(u, "the end of its attempts", func(d store.Device) bool {
				over := false
				l.read(func(ctx context.Context, tx *store.Tx) error {
					list, err := tx.Runs(ctx, u, 10)
					over = len(list) == runs && list[0].State == store.RunFailed
					return err
				})
				return over && d.Lifecycle == store.Failed && d.Owner == ""
			})
			if d.Reason != reason.DeviceUnreachable || !strings.HasPrefix(d.Detail, "given up at attempt ") || !d.NextRetry.IsZero() {
				t.Errorf("%s %s, next %s", d.Reason, d.Detail, d.NextRetry)
			}
		}
		ended(1)
		l.hello(from, u, 1, l.roots())
		l.heard(u, 2)
		ended(1)
		why, err := l.api.Why(t.Context(), u.String())
		if err != nil || !strings.Contains(why.Next, "until a person has looked: attempts in a row that failed: 1") {
			t.Errorf("%q, %v", why.Next, err)
		}
		if _, err := l.api.Act(t.Context(), "retry", u.String(), ""); err != nil {
			t.Fatal(err)
		}
		ended(2)
	})
}
