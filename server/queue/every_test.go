package queue

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// TestAfterSlowWorkTheNextComesSoon: leases are renewed three times before they
// end. A renewal that waits for the database half a lease long must not be
// followed by the whole pause, or the runs end though the database is back.
func TestAfterSlowWorkTheNextComesSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const every = 10 * time.Second
		took := []time.Duration{0, 16 * time.Second, 0, time.Minute, 0}
		var began []time.Time
		ctx, stop := context.WithCancel(t.Context())
		timer{"beat", every, func(context.Context) error {
			n := len(began)
			began = append(began, time.Now())
			time.Sleep(took[n])
			if n == len(took)-1 {
				stop()
			}
			return nil
		}}.loop(ctx, zap.NewNop())
		for i, want := range []time.Duration{every, 16*time.Second + every/4, every, time.Minute + every/4} {
			if got := began[i+1].Sub(began[i]); got != want {
				t.Errorf("after work of %s the next began %s later, want %s", took[i], got, want)
			}
		}
	})
}
