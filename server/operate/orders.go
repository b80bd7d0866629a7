package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// maintenanceTasks are the words that a maintain run's task may hold.
var maintenanceTasks = []string{"clock", "name", "cert", "tls", "password", "settings", "check", "due"}

func checkTask(task string) error {
	for _, w := range strings.FieldsFunc(task, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.Contains(maintenanceTasks, w) {
			return Wrong("there is no maintenance task %q; they are %s", api.Clip(w, 32), strings.Join(maintenanceTasks, ", "))
		}
	}
	return nil
}

// An order is what a worker carries out on a managed device: what the timeline
// calls it, and where the device stands from then on; "" where it stood.
type order struct {
	event string
	to    store.Lifecycle
}

var orders = map[string]order{
	Maintain:    {event: "maintenance_requested"},
	Rotate:      {event: "rotation_requested"},
	Unprovision: {event: "unprovision_requested", to: store.Unprovisioning},
}

func (c *given) maintain() error {
	if err := checkTask(c.Task); err != nil {
		return err
	}
	return c.order(Maintain, c.task(), orders[Maintain])
}

func (c *given) rotate() error { return c.order(Rotate, "", orders[Rotate]) }

func (c *given) unprovision() error { return c.order(Unprovision, c.task(), orders[Unprovision]) }

// task is what the run of an order is told.
func (c *given) task() string {
	if c.Verb == Unprovision {
		return c.Mode
	}
	return c.Task
}

// order replaces a run that waits: an operator's word is newer than a timer's.
func (c *given) order(kind, task string, o order) error {
	if c.live != nil {
		if c.live.State == store.RunRunning {
			return working(*c.live)
		}
		if err := c.tx.FinishRun(c.ctx, c.live.ID, store.RunCancelled, reason.Cancelled, o.event+" by "+c.who.User,
			string(reason.ThePolicy)); err != nil {
			return err
		}
	}
	return c.begin(kind, task, o, queue.Urgent)
}

// begin makes the run of an order.
func (c *given) begin(kind, task string, o order, priority int) error {
	t := c.moved(o.to, c.device.Reason, c.device.Detail, o.event)
	if o.to != "" {
		t.Reason, t.Detail = "", ""
	}
	run, err := c.room.StartManaged(c.ctx, c.tx, c.device, kind, task, queue.Asked, priority, t)
	if errors.Is(err, store.ErrConflict) {
		return Conflict("another run of this device began in this moment; look again")
	}
	c.RunID, c.Said = run.ID, fmt.Sprintf("run %d is queued", run.ID)
	return err
}

// StartManaged makes a run for a managed device, with its event and its place in
// the queue.
func (r *Room) StartManaged(ctx context.Context, tx *store.Tx, d store.Device, kind, task, trigger string, priority int,
	t store.Transition) (store.Run, error) {
	run, err := tx.CreateRun(ctx, store.NewRun{UUID: d.UUID, Kind: kind, Trigger: trigger, Profile: d.Profile, Task: task})
	if err != nil {
		return run, err
	}
	t.RunID = run.ID
	if err := tx.Transition(ctx, t); err != nil {
		return run, err
	}
	return run, r.Enqueue(ctx, tx, run.ID, tx.Now(), priority)
}
