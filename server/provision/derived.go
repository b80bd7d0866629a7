package provision

import (
	"context"
	"fmt"
	"slices"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// askDerived tries, on a device that was imported and took none of the stored
// passwords, what Intel SCS may have derived from the digest master password of
// its domain: as many readings as the attempt has logins left. What the device
// takes is made durable and is a password like any other from then on. refusal
// is its answer to the stored ones, and the answer here when no master password
// is known.
func (r *Run) askDerived(ctx context.Context, refusal error) (session.Identity, error) {
	realmOf, ok := r.Device.(interface{ Realm() string })
	left := maxProbes - len(r.offered)
	if !ok || !r.unheard || r.setup || r.Master.IsZero() || left <= 0 || codeOf(refusal) != reason.AuthFailed ||
		!goodRealm(realmOf.Realm()) {
		return session.Identity{}, refusal
	}
	realm := realmOf.Realm()
	// Whoever shows the realm of another device hears nothing of that device's.
	if err := r.ownRealm(ctx, session.Identity{Realm: realm}); err != nil {
		return session.Identity{}, err
	}
	readings, err := amt.DerivedPasswords(r.Master, realm, r.Profile.AdminUser)
	if err != nil {
		return session.Identity{}, reason.Because(reason.SecretStoreUnavailable, "%w", err)
	}
	readings = slices.DeleteFunc(readings, r.holds)
	var logins []session.Login
	for i, pw := range readings[:min(left, len(readings))] {
		logins = append(logins, session.Login{Name: fmt.Sprintf("derived-%d", i+1), User: r.Profile.AdminUser, Password: pw})
	}
	if err := r.greetDerived(r.Device, logins); err != nil {
		return session.Identity{}, err
	}
	id, err := r.Device.Identify(ctx)
	if codeOf(err) == reason.AuthFailed && err != nil {
		return id, fmt.Errorf("%w; and %d passwords derived from the digest master password", refusal, len(logins))
	}
	i := slices.IndexFunc(logins, func(l session.Login) bool { return l.Name == r.Device.LoginUsed() })
	if err != nil || i < 0 {
		return id, err
	}
	t0 := r.e.Clock.Now()
	kept, _, err := r.e.Store.Stage(ctx, r.lease.Lease, 0, logins[i].Password, amt.Secret{})
	if err != nil {
		return id, storeError("store the derived password", err)
	}
	r.lease.extend(t0.Add(r.e.Lease))
	r.Job.Admin = append([]store.Credential{kept}, r.Job.Admin...)
	if err := r.greetWith(r.Device, kept); err != nil {
		return id, err
	}
	return r.Device.Identify(ctx) // as that login, which the verdict makes the active one
}
