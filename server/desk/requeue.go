package desk

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// answerWithin is how long a caller waits for the count.
const answerWithin = 10 * time.Second

// requeue asks again about devices that failed for want of a certificate, and
// counts. When this node dies on the way, the daemon's timer finds the rest.
func (d *Desk) requeue(ctx context.Context) Requeued {
	if d.Reconsider == nil {
		return Requeued{}
	}
	counted := make(chan int, 1)
	d.work.Go(func() {
		d.again.Lock()
		defer d.again.Unlock()
		n, err := d.Reconsider(d.life)
		if err != nil && d.life.Err() == nil {
			d.Log.Error("cert.reconsider", zap.Error(err))
		}
		if n > 0 {
			d.Log.Info("cert.requeued", zap.Int("devices", n))
		}
		counted <- n
	})
	t := time.NewTimer(answerWithin)
	defer t.Stop()
	select {
	case n := <-counted:
		return Requeued{Devices: n}
	case <-t.C:
		return Requeued{Running: true}
	case <-ctx.Done():
		return Requeued{Running: true}
	}
}
