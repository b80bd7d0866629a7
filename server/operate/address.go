package operate

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/store"
)

func (c *given) address() error {
	a, d := c.Command.Address, c.device
	c.audit = map[string]any{"address": a.String(), "previous_address": amt.Text(d.Address)}
	if err := MoveDevice(c.ctx, c.tx, d, a, store.ByOperator, c.Note, c.who.Actor()); err != nil {
		return err
	}
	switch {
	case c.live != nil && c.live.State == store.RunQueued:
		c.RunID = c.live.ID
		c.Said = fmt.Sprintf("it is called at %s from now on; run %d comes at once", a, c.live.ID)
		if err := c.tx.HastenRun(c.ctx, c.live.ID, c.tx.Now()); err != nil {
			return err
		}
		return c.room.Enqueue(c.ctx, c.tx, c.live.ID, c.tx.Now(), queue.Urgent)
	case c.live != nil:
		c.Said = fmt.Sprintf("it is called at %s from now on; run %d goes on where it is", a, c.live.ID)
	case mayBeManaged(d):
		c.Said = fmt.Sprintf("it is looked at now, at %s: if it answers there as ours, it is under management again", a)
	case d.Lifecycle.Managed():
		c.Said = fmt.Sprintf("it is called at %s from now on; to have it looked at now: provctl maintain %s --task check", a, d.UUID)
	case d.Lifecycle == store.Quarantined && d.Reason == reason.UUIDDuplicate:
		c.Said = fmt.Sprintf("of the machines with this UUID it is the one at %s; its next hello is looked at, and the others are kept out",
			a)
	default:
		c.Said = fmt.Sprintf("it is called at %s from now on", a)
	}
	return nil
}

// MoveDevice makes an address the believed one, on somebody's word. A device that
// waits because somebody said hello in its name, and that may be under management
// all the same, is called there at once.
func MoveDevice(ctx context.Context, tx *store.Tx, d store.Device, a netip.Addr, by store.AddressBy, note, actor string) error {
	if d.Address == a && d.AddressBy == by {
		return nil
	}
	f := store.DeviceFacts{Address: &a, AddressBy: &by, AgentAddress: &netip.Addr{}}
	if now := tx.Now(); mayBeManaged(d) {
		f.ClaimDue = &now
	}
	if err := tx.UpdateDevice(ctx, d.UUID, f); err != nil {
		return err
	}
	_, err := tx.AddEvent(ctx, store.Event{UUID: d.UUID, Name: "address_set", Actor: actor,
		Detail: "from " + orUnknown(d.Address) + " to " + a.String(),
		Data:   map[string]any{"address": a.String(), "previous_address": amt.Text(d.Address), "note": note}})
	return err
}

func orUnknown(a netip.Addr) string {
	if !a.IsValid() {
		return "an unknown address"
	}
	return a.String()
}

func AddressBy(d store.Device) string {
	switch {
	case !d.Address.IsValid():
		return ""
	case d.AddressBy == store.ByHello:
		return "hello"
	}
	return string(d.AddressBy)
}

// whereabouts says where a device was looked for in vain, and who else says hello
// in its name.
func (r *Room) whereabouts(ctx context.Context, tx *store.Tx, w *Answer, d store.Device) error {
	if d.Health == "unreachable" || reason.Of(d.Reason).Blame == reason.TheNet && d.Reason != "" {
		last, err := tx.Events(ctx, store.EventFilter{UUID: d.UUID, Name: store.AttemptFailed, Newest: true, Limit: 1})
		if err != nil {
			return err
		}
		for _, e := range last {
			for _, l := range looked(e) {
				w.Tried = append(w.Tried, "looked for at "+api.Clean(l))
			}
		}
	}
	if !d.HeardFrom.IsValid() || d.HeardFrom == d.Address || !d.Address.IsValid() {
		return nil
	}
	text := fmt.Sprintf("its last hello came from %s, %s ago, and it is called at %s: it has moved, or somebody says hello in its name",
		d.HeardFrom, Ago(r.now().Sub(d.LastSeen)), d.Address)
	switch {
	case !d.ClaimDue.IsZero() && !d.ClaimDue.After(r.now()):
		text += "; it is called now, and its key decides"
	case r.Networks != nil && !Inside(r.Networks, d.HeardFrom):
		text += "; provisioning.networks does not name that one, so it is not believed"
	default:
		text += fmt.Sprintf("; once you know that it is there: provctl device address %s %s", d.UUID, d.HeardFrom)
	}
	w.Checks = append(w.Checks, text)
	return nil
}

// looked reads where a device was looked for out of the event of the attempt.
func looked(e store.Event) (list []string) {
	all, _ := e.Data["looked"].([]any)
	for _, one := range all {
		l, _ := one.(map[string]any)
		word := func(key string) string { text, _ := l[key].(string); return text }
		at := word("by")
		if a := word("address"); a != "" {
			at = a + " (" + at + ")"
		}
		list = append(list, at+": "+word("answer"))
	}
	return list
}
