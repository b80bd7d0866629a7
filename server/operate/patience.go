package operate

import (
	"fmt"
	"time"

	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// comes says when a run that a person asks for comes, as the worker will see it:
// at once, or when the device may be asked again.
func (c *given) comes(run store.Run, later, atOnce string) (time.Time, error) {
	now := c.tx.Now()
	run.UUID, run.Trigger = c.device.UUID, queue.Asked
	wait, err := queue.Patience(c.ctx, c.tx, c.device, run, now)
	if err != nil {
		return now, err
	}
	if wait.Until.IsZero() {
		c.Said = atOnce
		return now, nil
	}
	c.Said = fmt.Sprintf("%s in %s: %s", later, Ago(wait.Until.Sub(now)), wait.Why)
	return wait.Until, nil
}
