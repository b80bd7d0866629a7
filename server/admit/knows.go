package admit

import (
	"context"
	"errors"
	"net/netip"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
)

// Knows reports whether a device that says hello from an address is ours, or was
// let in by a person, by the list or by the open door: strangers who use up the
// limits of the hello port do not keep it out. Whether it comes in is decided
// when its hello is.
func (a *Admitter) Knows(ctx context.Context, u amt.UUID, from netip.Addr) bool {
	p := a.Policy()
	if u.IsPlaceholder() || !allowed(p.Networks, from) {
		return false
	}
	known := p.Mode == Open
	err := a.DB.Read(ctx, func(tx *store.Tx) error {
		d, err := tx.Device(ctx, u)
		switch {
		case errors.Is(err, store.ErrNotFound):
			d = store.Device{UUID: u, Address: from}
		case err != nil:
			return err
		case d.Lifecycle == store.Retired, d.Lifecycle == store.Quarantined:
			known = false
			return nil
		case d.Approved || !d.ProvisionedAt.IsZero():
			known = true
		}
		if known {
			return nil
		}
		_, err = tx.AuthorisedFor(ctx, d)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		known = err == nil
		return err
	})
	if err != nil {
		a.Log.Warn("hello.known", zap.Stringer("device", u), zap.Stringer("from", from), zap.Error(err))
		return false
	}
	return known
}
