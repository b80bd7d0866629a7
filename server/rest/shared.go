package rest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// sharedName says of a managed device whose name others bear that they do: an earlier
// release gave it to several.
func sharedName(ctx context.Context, tx *store.Tx, w *api.Why, d store.Device) error {
	if d.FQDN == "" || !managed(d.Lifecycle) {
		return nil
	}
	shared, err := tx.SharedNames(ctx, d.FQDN, 1)
	if err != nil {
		return err
	}
	for _, n := range shared {
		others := slices.DeleteFunc(n.Devices, func(u amt.UUID) bool { return u == d.UUID })
		var of []string
		for i, u := range others {
			if i == 3 {
				of = append(of, fmt.Sprintf("%d more", len(others)-i))
				break
			}
			of = append(of, u.String())
		}
		w.Says += fmt.Sprintf(" Its name %s is also that of %s; they keep it, and no other device gets it.", api.Clean(d.FQDN), strings.Join(of, ", "))
		w.Checks = append(w.Checks, "give it a name of its own: provctl device name UUID FQDN", "or, if the other is gone: provctl device retire "+others[0].String())
	}
	return nil
}
