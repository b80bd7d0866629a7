package admit

import (
	"context"
	"fmt"

	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Astray is a managed device to which lists and rules give another profile now
// than it was set up with.
type Astray struct {
	Device  store.Device
	Profile string // the one it should have
}

// FindAstray looks through a page of managed devices after a cursor. next is
// where to go on, "" at the end. A device that nothing gives a profile to any
// more keeps what it has, as it does at each contact.
func FindAstray(ctx context.Context, tx *store.Tx, after string, limit int) (found []Astray, next string, err error) {
	return factsOf(tx).astray(ctx, after, limit)
}

// WouldStray counts the managed devices, by the profile that they have and the one
// that they would be given, that rules not yet stored would give another one.
func WouldStray(ctx context.Context, tx *store.Tx, rules []profile.Rule) (map[[2]string]int, error) {
	f, n := factsOf(tx), map[[2]string]int{}
	f.rules, f.haveRule = rules, true
	for after := ""; ; {
		found, next, err := f.astray(ctx, after, 500)
		if err != nil {
			return nil, err
		}
		for _, a := range found {
			n[[2]string{a.Device.Profile, a.Profile}]++
		}
		if after = next; after == "" {
			return n, nil
		}
	}
}

func (f *facts) astray(ctx context.Context, after string, limit int) (found []Astray, next string, err error) {
	devices, err := f.tx.Devices(ctx, store.DeviceFilter{Lifecycle: []store.Lifecycle{store.Provisioned, store.Drifted},
		Order: store.ByUUID, After: after, Limit: limit})
	if err != nil {
		return nil, "", fmt.Errorf("look for devices with another profile: %w", err)
	}
	if err := f.about(ctx, devices); err != nil {
		return nil, "", err
	}
	for _, d := range devices {
		as, _, _, err := f.assign(ctx, d)
		if err != nil {
			return nil, "", fmt.Errorf("device %s: %w", d.UUID, err)
		}
		if as.Profile == "" || as.Profile == d.Profile || as.Profile == "default" && d.Profile == "" {
			continue
		}
		if err := f.profile(ctx, as.Profile); err != nil && as.Profile != "default" {
			continue // a profile that does not exist is said where the rule is made
		}
		found = append(found, Astray{d, as.Profile})
	}
	if len(devices) == limit {
		next = devices[limit-1].Cursor(store.ByUUID)
	}
	return found, next, nil
}
