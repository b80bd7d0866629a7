package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// AddressInput says where a device is.
type AddressInput struct {
	OneDevice
	Body api.NewAddress
}

func (s *Server) addressRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "address-device", Method: http.MethodPut, Path: "/api/v1/devices/{uuid}/address", Summary: "Say where a device is",
		Description: "It is called there from now on, also a device under management; its key decides whether it is the device. Of two machines that say hello with one UUID it is the one at this address.", Tags: []string{"devices"}}, s.addressDevice)
}

func (s *Server) addressDevice(ctx context.Context, in *AddressInput) (api.ActionResult, error) {
	a, err := netip.ParseAddr(in.Body.Address)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return api.ActionResult{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "address %q: want the IP address of one device, such as 10.20.3.7", api.Clip(in.Body.Address, 64))
	}
	if s.Networks != nil && !inside(s.Networks, a) {
		return api.ActionResult{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "address %s: provisioning.networks names no network that it is in, so nobody would call there; add its network first", a)
	}
	return s.command(ctx, &ActionInput{OneDevice: in.OneDevice, Body: &api.Action{Note: in.Body.Note}}, "address", func(c *command) error { return c.address(a) })
}

func (c *command) address(a netip.Addr) error {
	d := c.device
	c.audit = map[string]any{"address": a.String(), "previous_address": amt.Text(d.Address)}
	if err := moveDevice(c.ctx, c.tx, d, a, store.ByOperator, c.note, c.who.Actor()); err != nil {
		return err
	}
	switch {
	case c.live != nil && c.live.State == store.RunQueued:
		c.runID = c.live.ID
		c.said = fmt.Sprintf("it is called at %s from now on; run %d comes at once", a, c.live.ID)
		if err := c.tx.HastenRun(c.ctx, c.live.ID, c.tx.Now()); err != nil {
			return err
		}
		return c.s.Enqueue(c.ctx, c.tx, c.live.ID, c.tx.Now(), priorityUrgent)
	case c.live != nil:
		c.said = fmt.Sprintf("it is called at %s from now on; run %d goes on where it is", a, c.live.ID)
	case mayBeManaged(d):
		c.said = fmt.Sprintf("it is looked at now, at %s: if it answers there as ours, it is under management again", a)
	case managed(d.Lifecycle):
		c.said = fmt.Sprintf("it is called at %s from now on; to have it looked at now: provctl maintain %s --task check", a, d.UUID)
	case d.Lifecycle == store.Quarantined && d.Reason == reason.UUIDDuplicate:
		c.said = fmt.Sprintf("of the machines with this UUID it is the one at %s; its next hello is looked at, and the others are kept out", a)
	default:
		c.said = fmt.Sprintf("it is called at %s from now on", a)
	}
	return nil
}

// moveDevice makes an address the believed one, on somebody's word. A device that
// waits because somebody said hello in its name, and that may be under management
// all the same, is called there at once.
func moveDevice(ctx context.Context, tx *store.Tx, d store.Device, a netip.Addr, by store.AddressBy, note, actor string) error {
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
	_, err := tx.AddEvent(ctx, store.Event{UUID: d.UUID, Name: "address_set", Actor: actor, Detail: "from " + orUnknown(d.Address) + " to " + a.String(),
		Data: map[string]any{"address": a.String(), "previous_address": amt.Text(d.Address), "note": note}})
	return err
}

func orUnknown(a netip.Addr) string {
	if !a.IsValid() {
		return "an unknown address"
	}
	return a.String()
}

// mayBeManaged reports whether a device waits for a person because somebody said
// hello in its name, and holds a password of ours unless it lost its setup.
func mayBeManaged(d store.Device) bool {
	return d.Generation > 0 && (d.Lifecycle == store.PendingApproval && d.Reason == reason.ReappearedUnprovisioned ||
		d.Lifecycle == store.Quarantined && d.Reason == reason.UUIDDuplicate)
}

func addressBy(d store.Device) string {
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
func (s *Server) whereabouts(ctx context.Context, tx *store.Tx, w *api.Why, d store.Device) error {
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
	text := fmt.Sprintf("its last hello came from %s, %s ago, and it is called at %s: it has moved, or somebody says hello in its name", d.HeardFrom, ago(s.now().Sub(d.LastSeen)), d.Address)
	switch {
	case !d.ClaimDue.IsZero() && !d.ClaimDue.After(s.now()):
		text += "; it is called now, and its key decides"
	case s.Networks != nil && !inside(s.Networks, d.HeardFrom):
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
