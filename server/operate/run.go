package operate

import (
	"context"
	"strings"

	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// Part is what became of one device's part in a job.
type Part struct {
	State  string // store.ItemRunning, ItemHanded, ItemDone, ItemFailed or ItemSkipped
	Detail string
	RunID  int64
}

// Begin begins one device's part of a job, in the name of the job's maker. The
// device may have changed since the job was made: then its part says so, and the
// job goes on. The job was audited when it was made; the device's timeline names it.
func (r *Room) Begin(ctx context.Context, tx *store.Tx, j store.BulkJob, o JobOptions, d store.Device) (Part, error) {
	if no := Refusal(j.Kind, d); no != nil {
		return Part{State: store.ItemSkipped, Detail: no.Why}, nil
	}
	live, err := liveWork(ctx, tx, d.UUID)
	if err != nil {
		return Part{}, err
	}
	c := &given{Command: Command{Verb: j.Kind, Note: o.Note, Change: o.Change, Task: o.Task, Mode: o.Mode}, room: r, ctx: ctx, tx: tx,
		who: OfJob(j), device: d, live: live}
	state := store.ItemDone
	if ordered, is := orders[j.Kind]; is {
		state, err = c.ordered(ordered)
	} else if err = c.do(); c.RunID != 0 && Begins(j.Kind) {
		state = store.ItemHanded
		c.Said, _, _ = strings.Cut(c.Said, ";")
	}
	if why, is := Sentence(err); is {
		return Part{State: store.ItemFailed, Detail: why}, nil
	}
	return Part{State: state, Detail: c.Said, RunID: c.RunID}, err
}

// ordered begins the run of an order behind what timers and people began before.
// A run of the same kind that is there already does for it.
func (c *given) ordered(o order) (state string, err error) {
	switch {
	case c.live == nil:
		err = c.begin(c.Verb, c.task(), o, queue.Background)
	case c.live.Kind == c.Verb:
		c.RunID = c.live.ID
	default:
		return "", Conflict("run %d (%s) is at it", c.live.ID, c.live.Kind)
	}
	c.Said = ""
	return store.ItemRunning, err
}
