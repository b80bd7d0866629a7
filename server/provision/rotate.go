package provision

import (
	"bytes"
	"context"
	"fmt"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// A password is changed in three steps, so that the device never holds one the
// store does not:
//
//  1. The new one is made durable as a candidate.
//  2. The device is told its hash, over a session it let us into.
//  3. A login with the new one, on a new connection, makes it the active one.
//     The old one is retired and kept.
//
// A run that ends between 2 and 3 leaves two passwords in the store, one of
// which the device takes: the next contact tries both and settles it.

var stagePassword = Step{
	Name:   "stage_password",
	Needed: func(r *Run) bool { return r.passwordDue() != "" },
	Done: func(_ context.Context, r *Run) (bool, error) {
		if r.tasks.only() {
			return r.differ(r.passwordDue()), nil
		}
		if r.changedBefore() {
			return true, nil
		}
		if r.derives(r.admin) {
			r.next = r.admin
			return true, nil
		}
		newest := r.Job.Admin[0]
		if newest.State != store.CredentialCandidate || newest.Typed() || newest.Setup != r.admin.Setup ||
			shownToAnother(newest, r.Device.Peer()) || r.Profile.DerivedPassword() && !r.derives(newest) {
			return false, nil
		}
		r.next = newest
		return true, nil
	},
	Apply: func(ctx context.Context, r *Run) error {
		pw, err := r.newAdminPassword()
		if err != nil {
			return err
		}
		t0 := r.e.Clock.Now()
		a, _, err := r.e.Store.Stage(ctx, r.lease.Lease, r.admin.Setup, pw, amt.Secret{})
		if err != nil {
			return storeError("store the new password", err)
		}
		r.lease.extend(t0.Add(r.e.Lease))
		r.next = a
		r.Job.Admin = append([]store.Credential{a}, r.Job.Admin...)
		return nil
	},
}

// shownToAnother reports whether a password went to a device with another key.
// Its address does not matter: a managed device is known by its certificate.
func shownToAnother(c store.Credential, p session.Peer) bool {
	return !c.SentAt.IsZero() && !bytes.Equal(c.Peer, p.Fingerprint)
}

// changedBefore reports whether the device let us in with the candidate of an
// earlier attempt whose answer was lost: then it has been changed.
func (r *Run) changedBefore() bool {
	c := r.admin
	return c.State == store.CredentialCandidate && !c.SentAt.IsZero() && c.ID == r.Job.Admin[0].ID
}

// newAdminPassword is random, or derived when the profile says so: then for every
// device and whatever characters come of it, since firmware hears a hash of it and
// cannot mind.
func (r *Run) newAdminPassword() (amt.Secret, error) {
	if r.Profile.DerivedPassword() {
		return r.derivedPassword()
	}
	pw, err := amt.NewAdminPassword(r.e.Rand)
	if err != nil {
		return amt.Secret{}, reason.Because(reason.SecretStoreUnavailable, "%w", err)
	}
	return pw, nil
}

// derivedPassword is what the digest master password of the device's domain gives
// for this device.
func (r *Run) derivedPassword() (amt.Secret, error) {
	if r.Master.IsZero() {
		return amt.Secret{}, reason.Because(reason.MasterPasswordMissing,
			"the profile %s derives passwords, and no digest master password is kept for the domain of %s, one above it, or *: provctl "+
				"secret master set DOMAIN", r.Profile.Name, first(r.FQDN, "this device"))
	}
	pw, err := amt.DerivePassword(r.Master, r.Identity.Realm, r.user())
	if err != nil {
		return pw, reason.Because(reason.SecretStoreUnavailable, "%w", err)
	}
	return pw, nil
}

// derives reports whether a password is the one that this device's profile
// derives: another one would be the same.
func (r *Run) derives(c store.Credential) bool {
	if !r.Profile.DerivedPassword() || r.Master.IsZero() {
		return false
	}
	pw, err := r.derivedPassword()
	return err == nil && pw.Equal(c.Password)
}

func (r *Run) holds(pw amt.Secret) bool {
	for _, c := range r.Job.Admin {
		if c.Password.Equal(pw) {
			return true
		}
	}
	return false
}

var changePassword = Step{
	Name:   "change_password",
	Hands:  func(r *Run) *store.Credential { return &r.next },
	Needed: func(r *Run) bool { return r.passwordDue() != "" && !r.tasks.only() },
	Done:   func(_ context.Context, r *Run) (bool, error) { return r.changedBefore() || r.derives(r.admin), nil },
	Apply: func(ctx context.Context, r *Run) error {
		if !goodRealm(r.Identity.Realm) {
			return reason.Because(reason.WSMANInvalid, "the device reports no digest realm, so its password cannot be computed")
		}
		if err := r.Device.SetAdminPassword(ctx, r.user(), r.Identity.Realm, r.next.Password); err != nil {
			return named(reason.AdminPasswordRejected, err)
		}
		r.hangUp()
		return nil
	},
}

// verifyPassword is a login with the new password alone, on a new connection.
var verifyPassword = Step{
	Name:   "verify_password",
	Needed: func(r *Run) bool { return r.passwordDue() != "" && !r.tasks.only() },
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if r.Device != nil && (r.changedBefore() || r.derives(r.admin)) {
			r.verified = true
			r.did(TaskPassword)
			return true, nil
		}
		was := r.admin
		r.admin = r.next
		if _, err := r.verify(ctx); err != nil {
			r.admin, r.verified = was, false
			if codeOf(err) == reason.AuthFailed {
				// It said yes and kept the old one, or somebody was faster. The
				// next contact tries all that are stored.
				err = &reason.Error{Code: reason.CommitUnverified, Sent: true,
					Err: fmt.Errorf("the device took a new password and refuses it: %w", err)}
			}
			return false, err
		}
		r.did(TaskPassword)
		return true, nil
	},
}
