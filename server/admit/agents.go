package admit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// Who may speak for a device. A hello in mutual TLS says of whom it comes, and
// that decides for which devices it counts:
//
//  1. a relay (hello.relays) speaks for every device;
//  2. an agent speaks for the device whose name its certificate carries;
//  3. of a device that has no name yet, whoever announced it first speaks, for a
//     day from its last word. An agent announces one device.
//
// So a stolen certificate of an agent is good for one device, the one it was
// stolen from, or for one that nobody knows.

// announcedFor is how long the first to announce a device speaks for it.
const announcedFor = 24 * time.Hour

// speaks lets the sender of an authenticated hello speak for its device, or says
// in a sentence why it may not.
func (a *Admitter) speaks(ctx context.Context, h hello.Hello) (refused string, err error) {
	names := h.PeerNames
	if slices.ContainsFunc(names, a.relay) {
		return "", nil
	}
	if len(names) == 0 {
		return "its certificate carries no name, so it speaks for no device", nil
	}
	shown := strings.Join(names, ", ")
	if h.FQDN != "" && !slices.Contains(names, h.FQDN) {
		return fmt.Sprintf("its certificate is for %s, and the request names %s: an agent names its own device only; a relay, which "+
			"names others, has to be listed in hello.relays", shown, h.FQDN), nil
	}
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		refused = ""
		own, err := namesOf(ctx, tx, h.UUID)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(own, func(n string) bool { return slices.Contains(names, n) }) {
			return nil
		}
		if len(own) > 0 {
			refused = fmt.Sprintf("its certificate is for %s, and device %s has another name: an agent speaks for its own device only; a "+
				"relay has to be listed in hello.relays", shown, h.UUID)
			return nil
		}
		peer := names[0]
		if err := tx.TakeTurns(ctx, "agent "+peer); err != nil {
			return err
		}
		switch one, err := tx.AnnouncedBy(ctx, peer); {
		case err == nil && one.UUID != h.UUID:
			refused = fmt.Sprintf("%s speaks for device %s, which it announced first; until %s it announces no other; a relay has to be "+
				"listed in hello.relays", peer, one.UUID, one.Expires.UTC().Format(time.RFC3339))
			return nil
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		}
		err = tx.Announce(ctx, store.Agent{UUID: h.UUID, Peer: peer, Expires: tx.Now().Add(announcedFor)})
		if errors.Is(err, store.ErrConflict) {
			refused, err = fmt.Sprintf("another agent announced device %s first and speaks for it", h.UUID), nil
		}
		return err
	})
	return refused, err
}

func (a *Admitter) relay(name string) bool {
	return slices.ContainsFunc(a.Policy().Relays, func(r string) bool { return strings.EqualFold(r, name) })
}

// namesOf are the names that a device has by somebody else's word than its
// agent's: an operator's, a list's, and what it was set up with.
func namesOf(ctx context.Context, tx *store.Tx, uuid amt.UUID) (out []string, err error) {
	add := func(name string) {
		if name = strings.ToLower(strings.Trim(name, ".")); name != "" && name != "." && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	d, err := tx.Device(ctx, uuid)
	switch {
	case err == nil:
		if !d.ProvisionedAt.IsZero() {
			add(d.FQDN)
			if d.HostName != "" {
				add(d.HostName + "." + d.Domain)
			}
		}
	case errors.Is(err, store.ErrNotFound):
		d = store.Device{UUID: uuid}
	default:
		return nil, err
	}
	n, err := tx.NameOf(ctx, uuid)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if n.Source != FromAgent {
		add(n.FQDN)
	}
	entry, err := tx.AuthorisedFor(ctx, d)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if entry.Kind != "network" {
		add(entry.FQDN)
	}
	return out, nil
}

// told answers for a hello whose sender may not speak for its device. Nothing of
// it is kept: what is recorded of a device, devices and their own agents said.
func (a *Admitter) told(h hello.Hello, why string) hello.Result {
	if h.Tell != nil {
		h.Tell(string(reason.AgentNotItsDevice), why)
	}
	return hello.DeniedDevice
}
