package provision

import (
	"context"
	"errors"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// ownRealm refuses a device that names another one's digest realm as its own.
// What is sent is MD5(user:realm:password), so that whoever copies a realm hears
// something in the form the other device takes. Each password is random and of
// one device, which makes it worthless there; still, nobody honest does this.
func (r *Run) ownRealm(ctx context.Context, id session.Identity) error {
	if r.e.Realm == nil || id.Realm == r.Job.Device.Realm || !distinctRealm(id.Realm) {
		return nil
	}
	other, err := r.e.Realm(ctx, r.Job.Device, r.Job.Run.ID, id.Realm)
	if err != nil {
		return storeError("look for the owner of the device's realm", err)
	}
	if other.IsZero() {
		return nil
	}
	return reason.Because(reason.IdentityConflict,
		"the device at %s says it is %s and has the digest realm of %s; if its UUID was changed, retire the other",
		r.Job.Device.Address, r.Job.Device.UUID, other)
}

// distinctRealm reports whether a realm can tell devices apart. Firmware up to
// 11.8 makes it of as little as 16 random bits and fills up with zeros, as in
// Digest:A4070000000000000000000000000000: of three hundred honest devices two
// share one. AMT 2 and 3 have the UUID in it, later releases 128 random bits.
func distinctRealm(realm string) bool {
	return len(strings.TrimRight(strings.TrimPrefix(realm, "Digest:"), "0")) >= 16
}

// Realm is Config.Realm. The finding goes into the timelines of both devices. A
// person who approved or released the device after such a finding has decided.
func (j *Journal) Realm(ctx context.Context, d store.Device, runID int64, realm string) (other amt.UUID, err error) {
	err = j.DB.Write(ctx, func(tx *store.Tx) error {
		if other, err = tx.RealmHolder(ctx, realm, d.UUID); errors.Is(err, store.ErrNotFound) {
			other = amt.UUID{}
			return nil
		} else if err != nil {
			return err
		}
		last := func(name string) (id int64, err error) {
			list, err := tx.Events(ctx, store.EventFilter{UUID: d.UUID, Name: name, Newest: true, Limit: 1})
			for _, e := range list {
				id = e.ID
			}
			return id, err
		}
		found, err := last("realm_conflict")
		if err != nil {
			return err
		}
		for _, word := range []string{"approved", "released", "rebound"} {
			if said, err := last(word); err != nil || found > 0 && said > found {
				other = amt.UUID{}
				return err
			}
		}
		for _, of := range []amt.UUID{d.UUID, other} {
			e := store.Event{UUID: of, Name: "realm_conflict", Reason: reason.IdentityConflict, Actor: "node:" + j.Node,
				Detail: d.UUID.String() + " at " + d.Address.String() + " shows the digest realm of " + other.String(),
				Data:   map[string]any{"device": d.UUID.String(), "realm_of": other.String(), "address": d.Address.String()}}
			if of == d.UUID {
				e.RunID = runID
			}
			if _, err := tx.AddEvent(ctx, e); err != nil {
				return err
			}
		}
		return nil
	})
	return other, err
}
