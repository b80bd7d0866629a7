package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// The commands of the table in lifecycle.go, by their words on the wire.
const (
	Approve       = "approve"
	Reject        = "reject"
	Retry         = "retry"
	ClearFailures = "clear-failures"
	Trust         = "trust"
	Adopt         = "adopt"
	Quarantine    = "quarantine"
	Release       = "release"
	Restore       = "restore"
	Retire        = "retire"
	Maintain      = store.MaintainRun
	Rotate        = store.RotateRun
	Unprovision   = store.UnprovisionRun
	AssignProfile = "assign-profile"
	Tag           = "tag"
	Untag         = "untag"
	Address       = "address"
)

// A Command is what somebody wants done to one device.
type Command struct {
	Verb string
	Note string // why, for the timeline and the audit

	Change    api.Change // Tag, Untag, AssignProfile
	Vouch     api.Vouch  // Retry, Trust, Adopt
	Password  amt.Secret // Adopt
	Address   netip.Addr // Address
	Seen      string     // Approve: the address at which the person saw the device; "" for anywhere
	Task      string     // Maintain
	Mode      string     // Unprovision
	Confirmed amt.UUID   // Unprovision: the device once more
}

// Done is what became of a command.
type Done struct {
	RunID int64  // the run that was queued or hastened, 0 none
	Said  string // what was done, in a sentence
}

// given is one command on its way through a transaction.
type given struct {
	Command
	room   *Room
	ctx    context.Context
	tx     *store.Tx
	who    Principal
	device store.Device
	live   *store.Run // queued or running

	Done
	vouched string         // for whose certificate, in words
	audit   map[string]any // what else the audit keeps of it
}

// verbs says what each command does to a device that the table lets it be given to.
var verbs = map[string]func(*given) error{
	Approve: (*given).approve, Reject: (*given).reject, Retry: (*given).retry, ClearFailures: (*given).clearFailures, Trust: (*given).trust,
	Adopt:      (*given).adopt,
	Quarantine: (*given).quarantine, Release: (*given).release, Restore: (*given).restore, Retire: (*given).retire,
	Maintain: (*given).maintain, Rotate: (*given).rotate, Unprovision: (*given).unprovision,
	AssignProfile: (*given).assignProfile, Tag: (*given).tag, Untag: (*given).untag, Address: (*given).address,
}

// Do gives one device a command, with its event, its audit record and the nudge
// to a worker: the caller's transaction does all of it or nothing.
func (r *Room) Do(ctx context.Context, tx *store.Tx, who Principal, u amt.UUID, cmd Command) (Done, error) {
	if cmd.Verb == Unprovision && cmd.Confirmed != u {
		return Done{}, Conflict("this cannot be undone: confirm with the device's UUID, %s, or its name", u)
	}
	if err := r.alone(cmd.Verb, cmd.Mode, u); err != nil {
		return Done{}, err
	}
	d, err := tx.Device(ctx, u)
	if errors.Is(err, store.ErrNotFound) {
		return Done{}, NoDevice(u)
	}
	if err != nil {
		return Done{}, err
	}
	live, err := liveWork(ctx, tx, u)
	if err != nil {
		return Done{}, err
	}
	c := &given{Command: cmd, room: r, ctx: ctx, tx: tx, who: who, device: d, live: live}
	if err := c.do(); err != nil {
		return Done{}, err
	}
	return c.Done, c.auditIt()
}

// liveWork is the run of a device that a command may meet; nil for none.
func liveWork(ctx context.Context, tx *store.Tx, u amt.UUID) (*store.Run, error) {
	run, err := tx.LiveWork(ctx, u)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &run, nil
}

// do carries the command out, if it is one for the device as it stands.
func (c *given) do() error {
	do, known := verbs[c.Verb]
	if !known {
		return Conflict("there is no command %q", c.Verb)
	}
	if no := Refusal(c.Verb, c.device); no != nil {
		return no
	}
	return do(c)
}

func (c *given) auditIt() error {
	detail := map[string]any{"from": string(c.device.Lifecycle)}
	if c.Note != "" {
		detail["note"] = c.Note
	}
	if c.RunID != 0 {
		detail["run"] = c.RunID
	}
	if c.vouched != "" {
		detail["vouched_for"] = c.vouched
	}
	if len(c.Change.Tags) > 0 {
		detail["tags"] = c.Change.Tags
	}
	if c.Change.Profile != "" {
		detail["profile"] = c.Change.Profile
	}
	maps.Copy(detail, c.audit)
	return c.tx.Audit(c.ctx, store.AuditRecord{Actor: c.who.Actor(), Action: "device." + c.Verb, Subject: c.device.UUID.String(),
		Detail: detail})
}

// working is the refusal for a device that a run is working on.
func working(run store.Run) *Refused {
	return Refuse(api.CodeBusy, "run %d is working on it right now; ask again when it is over", run.ID)
}

// hasten brings the run that waits forward, to now or to when the worker's patience
// with the device is over. One at work goes on.
func (c *given) hasten(event string) error {
	c.RunID = c.live.ID
	if c.live.State == store.RunRunning {
		c.Said = fmt.Sprintf("run %d is working on it right now", c.live.ID)
		return nil
	}
	at, err := c.comes(*c.live, fmt.Sprintf("run %d comes", c.live.ID), fmt.Sprintf("run %d comes at once", c.live.ID))
	if err != nil {
		return err
	}
	if err := c.tx.AskForRun(c.ctx, c.live.ID, at); err != nil {
		return err
	}
	if err := c.event(event, c.live.ID); err != nil {
		return err
	}
	return c.room.Enqueue(c.ctx, c.tx, c.live.ID, at, queue.Urgent)
}

// start makes a run, its passwords and its job. said is the answer when it comes at
// once.
func (c *given) start(event, said string) error {
	d := c.device
	at, err := c.comes(store.Run{}, said+"; it comes", said)
	if err != nil {
		return err
	}
	run, err := c.room.StartRun(c.ctx, c.tx, d.UUID, store.ProvisionRun, queue.Asked, d.Profile, at)
	if errors.Is(err, store.ErrConflict) {
		return Conflict("another run of this device began in this moment; look again")
	}
	if err != nil {
		return err
	}
	c.RunID = run.ID
	if err := c.transition(store.Queued, "", "", event, &run); err != nil {
		return err
	}
	return c.room.Enqueue(c.ctx, c.tx, run.ID, at, queue.Urgent)
}

// stop takes a device out. A run that is under way is stopped at its next write:
// nothing is sent after that, but what was sent stays, so the device may be half
// set up. The passwords it may hold are kept.
func (c *given) stop(to store.Lifecycle, code reason.Code, event string) error {
	if c.live != nil {
		if err := c.tx.StopRun(c.ctx, c.device.UUID, c.live.ID, event+" by "+c.who.User); err != nil {
			return err
		}
		c.RunID = c.live.ID
		if c.live.State == store.RunRunning {
			c.Said += fmt.Sprintf("; run %d was working on it and is stopped, so the device may be half set up", c.live.ID)
		}
	}
	detail := c.Note
	if detail == "" && to == store.Quarantined {
		detail = event + " by " + c.who.User
	}
	return c.transition(to, code, detail, event, nil)
}

func (c *given) transition(to store.Lifecycle, code reason.Code, detail, event string, run *store.Run) error {
	t := c.moved(to, code, detail, event)
	if run != nil {
		t.RunID = run.ID
	}
	return c.tx.Transition(c.ctx, t)
}

// moved is the transition that the command makes; to "" leaves the device where
// it stands.
func (c *given) moved(to store.Lifecycle, code reason.Code, detail, event string) store.Transition {
	t := store.Transition{UUID: c.device.UUID, To: to, Reason: code, Detail: detail, Event: event, Actor: c.who.Actor(), Data: c.data()}
	if to == "" {
		t.NextRetry = c.device.NextRetry
	}
	return t
}

// data is what the timeline keeps of a command.
func (c *given) data() map[string]any {
	data := map[string]any{}
	if c.Note != "" {
		data["note"] = c.Note
	}
	if c.vouched != "" {
		data["vouched_for"] = c.vouched
	}
	if c.who.Job != 0 {
		data["job"] = c.who.Job
	}
	return data
}

// event adds to the timeline without moving the device.
func (c *given) event(name string, runID int64) error {
	_, err := c.tx.AddEvent(c.ctx, store.Event{UUID: c.device.UUID, RunID: runID, Name: name, Actor: c.who.Actor(), Data: c.data()})
	return err
}

// eventWith is event with one more thing to keep.
func (c *given) eventWith(name, key string, value any) error {
	data := c.data()
	data[key] = value
	_, err := c.tx.AddEvent(c.ctx, store.Event{UUID: c.device.UUID, Name: name, Actor: c.who.Actor(), Data: data})
	return err
}
