package rest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

// ActionInput is an operator's command about one device.
type ActionInput struct {
	OneDevice
	Body *api.Action `required:"false"`
}

// command is one command on its way through a transaction.
type command struct {
	s      *Server
	ctx    context.Context
	tx     *store.Tx
	who    Principal
	note   string
	seen   string // where the device was seen that is approved
	more   api.Change
	device store.Device
	live   *store.Run // queued or running

	runID   int64
	said    string
	vouched string         // for whose certificate, in words
	audit   map[string]any // what else the audit keeps of it
}

// bulk are the commands that a job can give, one device at a time.
var bulk = map[string]func(*command) error{
	"approve": (*command).approve, "reject": (*command).reject, "retry": (*command).retry, "clear-failures": (*command).clearFailures, "quarantine": (*command).quarantine, "release": (*command).release,
	"retire": (*command).retire, "restore": (*command).restore, "tag": (*command).tag, "untag": (*command).untag, "assign-profile": (*command).assignProfile,
}

// Bulk gives one device a command of a job, in the caller's transaction: what
// it did, in words, and the run that it began, if any. What cannot be done to
// this device as it stands is a *Problem. The job was audited when it was made;
// the device's timeline names it.
func Bulk(ctx context.Context, tx *store.Tx, d Deps, verb string, who Principal, device store.Device, live *store.Run, note string, more api.Change) (said string, runID int64, err error) {
	do, known := bulk[verb]
	if !known {
		return "", 0, conflict("there is no job of kind %q", verb)
	}
	c := &command{s: &Server{Deps: d}, ctx: ctx, tx: tx, who: who, note: note, more: more, device: device, live: live}
	err = c.do(verb, do)
	return c.said, c.runID, err
}

// do gives the command, if it is one for such a device.
func (c *command) do(verb string, do func(*command) error) error {
	if p := Refused(verb, c.device); p != nil {
		return p
	}
	return do(c)
}

func (s *Server) actionRoutes(to huma.API) {
	s.vouchRoutes(to)
	for _, a := range []struct {
		verb, summary, description string
		do                         func(*command) error
	}{
		{"approve", "Let a device in", "It is set up at once when it waited for nothing else.", (*command).approve},
		{"reject", "Turn a waiting device away", "It is kept out as rejected: its hellos are recorded and nothing else happens, until it is approved after all.", (*command).reject},
		{"clear-failures", "Forget a device's failures", "Nothing is begun. Its next hello is looked at at once, and the pauses between attempts begin anew with the shortest.", (*command).clearFailures},
		{"retire", "Take a device out for good", "Its record and its passwords are kept; a hello of it raises an alarm. The device itself is not touched.", (*command).retire},
		{"restore", "Take a retired or quarantined device back", "It starts over as discovered and needs approval again.", (*command).restore},
		{"release", "Let a quarantined device go on", "For after a person has looked: what was held against it, such as two machines with one UUID, is forgotten, and its next hello is looked at; one that was under management when it was kept out says none, and is looked at now. A device under management that showed another key or MAC than before stays under management, and what it shows next is believed.", (*command).release},
		{"quarantine", "Keep a device out until somebody has looked", "Hellos are recorded, nothing else happens.", (*command).quarantine},
	} {
		add(s, to, huma.Operation{
			OperationID: a.verb + "-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/" + a.verb, Summary: a.summary, Description: a.description, Tags: []string{"devices"},
		}, func(ctx context.Context, in *ActionInput) (api.ActionResult, error) {
			return s.command(ctx, in, a.verb, a.do)
		})
	}
	for _, a := range []struct {
		verb, summary, description string
		do                         func(*command) error
	}{
		{"tag", "Give a device tags", "Rules and searches see them.", (*command).tag},
		{"untag", "Take tags away from a device", "", (*command).untag},
		{"assign-profile", "Give a device its profile", "It goes before the list of authorised devices and the rules. A device under management is brought to it by a rollout, a job of its own.", (*command).assignProfile},
	} {
		add(s, to, huma.Operation{
			OperationID: a.verb + "-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/" + a.verb, Summary: a.summary, Description: a.description, Tags: []string{"devices"},
		}, func(ctx context.Context, in *ChangeInput) (api.ActionResult, error) {
			return s.command(ctx, &ActionInput{OneDevice: in.OneDevice, Body: &api.Action{Note: in.Body.Note}}, a.verb, func(c *command) error {
				c.more = in.Body.Change
				return a.do(c)
			})
		})
	}
}

// ChangeInput is a command that takes more than a note.
type ChangeInput struct {
	OneDevice
	Body api.ChangeBody
}

// command runs do in one transaction with its event, its audit record and the
// nudge to a worker: all of it happens or nothing.
func (s *Server) command(ctx context.Context, in *ActionInput, verb string, do func(*command) error) (api.ActionResult, error) {
	u, err := s.which(ctx, in.UUID)
	if err != nil {
		return api.ActionResult{}, err
	}
	who, _ := PrincipalOf(ctx)
	if err := s.alone(verb, "", u); err != nil {
		return api.ActionResult{}, err
	}
	var out api.ActionResult
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		c := &command{s: s, ctx: ctx, tx: tx, who: who}
		if in.Body != nil {
			c.note, c.seen = api.Clean(in.Body.Note), in.Body.Address
		}
		var err error
		if c.device, err = tx.Device(ctx, u); errors.Is(err, store.ErrNotFound) {
			return unknownDevice(u)
		} else if err != nil {
			return err
		}
		switch run, err := tx.LiveWork(ctx, u); {
		case err == nil:
			c.live = &run
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		if err := c.do(verb, do); err != nil {
			return err
		}
		detail := map[string]any{"from": string(c.device.Lifecycle)}
		if c.note != "" {
			detail["note"] = c.note
		}
		if c.runID != 0 {
			detail["run"] = c.runID
		}
		if c.vouched != "" {
			detail["vouched_for"] = c.vouched
		}
		if len(c.more.Tags) > 0 {
			detail["tags"] = c.more.Tags
		}
		if c.more.Profile != "" {
			detail["profile"] = c.more.Profile
		}
		maps.Copy(detail, c.audit)
		if err := tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "device." + verb, Subject: u.String(), Detail: detail}); err != nil {
			return err
		}
		after, err := tx.Device(ctx, u)
		if err != nil {
			return err
		}
		out = api.ActionResult{Device: toDevice(after), RunID: c.runID, Said: c.said}
		return nil
	})
	return out, err
}

func (c *command) approve() error {
	d := c.device
	if err := c.sameAddress(); err != nil {
		return err
	}
	yes, facts := true, store.DeviceFacts{}
	facts.Approved = &yes
	if d.Lifecycle == store.Quarantined {
		facts.MAC, facts.PeerFingerprint, facts.PeerVerified = new(string), &[]byte{}, new(string) // whoever approves has looked at the machine
	}
	if err := c.tx.UpdateDevice(c.ctx, d.UUID, facts); err != nil {
		return err
	}
	switch d.Lifecycle {
	case store.Dormant:
		c.said = "approved; it has fallen silent, so it is set up at its next hello"
		return c.transition("", d.Reason, d.Detail, "approved", nil)
	case store.PendingApproval, store.Quarantined, store.Unprovisioned:
		if c.live == nil {
			said := "approved"
			if d.Address.IsValid() {
				said += " at " + d.Address.String()
			}
			return c.start("approved", said+"; the run is queued")
		}
	}
	c.said = "approved"
	if d.Lifecycle == store.Unprovisioning {
		c.said = "approved; its setup is being undone all the same"
	} else if d.Approved {
		c.said = "it was approved already"
	}
	return c.transition("", d.Reason, d.Detail, "approved", nil)
}

// sameAddress refuses to approve another machine than the one that was looked at:
// whoever can say hello in the device's name may have done so since.
func (c *command) sameAddress() error {
	if c.seen == "" {
		return nil
	}
	a, err := netip.ParseAddr(c.seen)
	if a = a.Unmap(); err != nil {
		return invalid("body.address", "want the address at which the device was seen, such as 10.20.3.7")
	}
	if d := c.device; a != d.Address {
		return stands("address_moved", "its UUID says hello from %[1]s by now, and not from %[2]s, so nobody is let in: find out which machine it is (provctl device why %[3]s), then approve that address; if it is the one at %[2]s: provctl device address %[3]s %[2]s",
			amt.Text(d.Address), a, d.UUID)
	}
	return nil
}

func (c *command) retry() error {
	if c.live == nil {
		return c.start("retry_requested", "the run is queued")
	}
	return c.hasten("retry_requested")
}

// hasten brings the run that waits forward, to now or to when the worker's patience
// with the device is over. One at work goes on.
func (c *command) hasten(event string) error {
	c.runID = c.live.ID
	if c.live.State == store.RunRunning {
		c.said = fmt.Sprintf("run %d is working on it right now", c.live.ID)
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
	return c.s.Enqueue(c.ctx, c.tx, c.live.ID, at, priorityUrgent)
}

// comes says when a run that a person asks for comes, as the worker will see it:
// at once, or when the device may be asked again.
func (c *command) comes(run store.Run, later, atOnce string) (time.Time, error) {
	now := c.tx.Now()
	run.UUID, run.Trigger = c.device.UUID, queue.Asked
	wait, err := queue.Patience(c.ctx, c.tx, c.device, run, now)
	if err != nil {
		return now, err
	}
	if wait.Until.IsZero() {
		c.said = atOnce
		return now, nil
	}
	c.said = fmt.Sprintf("%s in %s: %s", later, ago(wait.Until.Sub(now)), wait.Why)
	return wait.Until, nil
}

// reject is a person's no to a device that waits: what approve is the yes to,
// and takes back.
func (c *command) reject() error {
	if c.device.Lifecycle == store.Quarantined {
		c.said = "it was turned away already"
		return nil
	}
	no := false
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Approved: &no}); err != nil {
		return err
	}
	c.said = "turned away; its hellos are recorded and nothing else happens"
	return c.stop(store.Quarantined, reason.Rejected, "rejected")
}

// clearFailures begins nothing: a run that waits keeps its time.
func (c *command) clearFailures() error {
	none := 0
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Attempts: &none}); err != nil {
		return err
	}
	c.said = "its failures are forgotten; its next hello is looked at at once"
	if c.live != nil {
		c.said = fmt.Sprintf("its failures are forgotten; run %d comes when it was due, or at its next hello", c.live.ID)
	}
	return c.event("failures_cleared", 0)
}

func (c *command) retire() error {
	if c.device.Lifecycle == store.Retired {
		c.said = "it was retired already"
		return nil
	}
	c.said = "retired; its record and passwords are kept"
	return c.stop(store.Retired, "", "retired")
}

func (c *command) quarantine() error {
	if c.device.Lifecycle == store.Quarantined {
		c.said = "it was quarantined already"
		return nil
	}
	c.said = "quarantined; its hellos are recorded and nothing else happens"
	return c.stop(store.Quarantined, reason.KeptOut, "quarantined")
}

func (c *command) restore() error {
	no := false
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Approved: &no}); err != nil {
		return err
	}
	c.said = "restored; its next hello is looked at as if it were the first"
	if takenOut(c.device) {
		c.said += "; it was under management, and such a device says none: provctl device retry " + c.device.UUID.String() + " looks whether it still is"
	}
	return c.transition(store.Discovered, "", "", "restored", nil)
}

// takenOut reports whether the device was under management when it was last
// met, with a password of ours, and has said no hello since from where it is: it
// will say none now either.
func takenOut(d store.Device) bool {
	silent := !d.LastSeen.After(d.LastContact) || d.HeardFrom.IsValid() && d.HeardFrom != d.Address
	return d.DeviceMode == amt.StatePost.String() && d.Generation > 0 && silent
}

// release forgets what was held against a device: the hellos before this
// moment, and what it looked like at its last contact.
func (c *command) release() error {
	d := c.device
	rebind := managed(d.Lifecycle)
	mac, version, peer := "", "", []byte{}
	if err := c.tx.UpdateDevice(c.ctx, d.UUID, store.DeviceFacts{MAC: &mac, TLSVersion: &version, PeerFingerprint: &peer, PeerVerified: new(string)}); err != nil {
		return err
	}
	if rebind {
		c.said = "what it looked like before is forgotten: the next contact is believed; for one now: provctl maintain " + d.UUID.String() + " --task check"
		return c.transition("", "", "", "rebound", nil)
	}
	if takenOut(d) && c.live == nil {
		return c.start("released", "released; it was under management, and such a device says no hello, so it is looked at now")
	}
	c.said = "released; its next hello is looked at"
	return c.transition(store.Discovered, "", "", "released", nil)
}

// anotherFace are the reasons of a managed device that looked like another
// machine at its last contact, so that it was told nothing.
func anotherFace(code reason.Code) bool {
	switch code {
	case reason.TLSPinnedKeyChanged, reason.IdentityConflict, reason.UUIDDuplicate, reason.RealmChanged:
		return true
	}
	return false
}

const priorityUrgent = 1

// start makes a run, its passwords and its job. said is the answer when it comes at
// once.
func (c *command) start(event, said string) error {
	d := c.device
	at, err := c.comes(store.Run{}, said+"; it comes", said)
	if err != nil {
		return err
	}
	run, err := c.s.StartRun(c.ctx, c.tx, d.UUID, "provision", queue.Asked, d.Profile, at)
	if errors.Is(err, store.ErrConflict) {
		return conflict("another run of this device began in this moment; look again")
	}
	if err != nil {
		return err
	}
	c.runID = run.ID
	if err := c.transition(store.Queued, "", "", event, &run); err != nil {
		return err
	}
	return c.s.Enqueue(c.ctx, c.tx, run.ID, at, priorityUrgent)
}

// stop takes a device out. A run that is under way is stopped at its next write:
// nothing is sent after that, but what was sent stays, so the device may be half
// set up. The passwords it may hold are kept.
func (c *command) stop(to store.Lifecycle, code reason.Code, event string) error {
	if c.live != nil {
		if err := c.tx.StopRun(c.ctx, c.device.UUID, c.live.ID, event+" by "+c.who.User); err != nil {
			return err
		}
		c.runID = c.live.ID
		if c.live.State == store.RunRunning {
			c.said += fmt.Sprintf("; run %d was working on it and is stopped, so the device may be half set up", c.live.ID)
		}
	}
	detail := c.note
	if detail == "" && to == store.Quarantined {
		detail = event + " by " + c.who.User
	}
	return c.transition(to, code, detail, event, nil)
}

func (c *command) transition(to store.Lifecycle, code reason.Code, detail, event string, run *store.Run) error {
	t := store.Transition{UUID: c.device.UUID, To: to, Reason: code, Detail: detail, Event: event, Actor: c.who.Actor(), Data: map[string]any{}}
	if to == "" {
		t.NextRetry = c.device.NextRetry
	}
	if c.note != "" {
		t.Data["note"] = c.note
	}
	if c.vouched != "" {
		t.Data["vouched_for"] = c.vouched
	}
	if run != nil {
		t.RunID = run.ID
	}
	return c.tx.Transition(c.ctx, t)
}

// event adds to the timeline without moving the device.
func (c *command) event(name string, runID int64) error {
	data := map[string]any{}
	if c.note != "" {
		data["note"] = c.note
	}
	if c.vouched != "" {
		data["vouched_for"] = c.vouched
	}
	_, err := c.tx.AddEvent(c.ctx, store.Event{UUID: c.device.UUID, RunID: runID, Name: name, Actor: c.who.Actor(), Data: data})
	return err
}
