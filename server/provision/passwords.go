package provision

import (
	"context"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// setMEBxPassword comes before the admin password: a release that couples the
// two would otherwise overwrite the second with the first.
var setMEBxPassword = Step{
	Name:   "set_mebx_password",
	Setup:  true,
	Needed: func(r *Run) bool { return r.Profile.MEBx == "set" },
	Hands:  func(r *Run) *store.Credential { return &r.mebx },
	Before: func(r *Run) { r.mebxNew = r.mebx.SentAt.IsZero() || !r.mebx.RefusedAt.IsZero() },
	Apply: func(ctx context.Context, r *Run) error {
		err := r.Device.SetMEBxPassword(ctx, r.mebx.Password)
		switch {
		case err == nil:
			r.mebxHeld = r.mebx.ID
			return nil
		case amt.Answered(err, amt.StatusNotPermitted):
			// MEBx policy "default password only": it was changed before. Either
			// by an earlier attempt of ours, or by a person, and then nobody here
			// knows it. One that it hears for the first time it does not have.
			if r.mebxNew {
				r.denied = append(r.denied, r.mebx.ID)
			}
			r.mebxHeld = r.mebxOf(r.admin)
			if r.mebxHeld == 0 {
				r.log.Info("mebx.unchanged", zap.String("detail",
					"the MEBx password was changed at the machine before and is not known here"))
			}
			return nil
		}
		return named(reason.MEBxPasswordRejected, err)
	},
}

// mebxOf is the MEBx password that a device has which went through the set-up of an
// admin password, 0: unknown. It is the newest one that was sent in that set-up or
// before, and not refused.
func (r *Run) mebxOf(admin store.Credential) int64 {
	setup := admin.Setup
	if setup == 0 {
		setup = admin.Generation
	}
	for _, c := range r.Job.MEBx {
		if c.Generation <= setup && !c.SentAt.IsZero() && c.RefusedAt.IsZero() && !slices.Contains(r.denied, c.ID) {
			return c.ID
		}
	}
	return 0
}

// setAdminPassword hands over the network admin password as
// MD5(user:realm:password); the realm is the device's own, read before.
var setAdminPassword = Step{
	Name:  "set_admin_password",
	Setup: true,
	Hands: func(r *Run) *store.Credential { return &r.admin },
	Apply: func(ctx context.Context, r *Run) error {
		if !goodRealm(r.Identity.Realm) {
			return reason.Because(reason.WSMANInvalid, "the device reports no digest realm, so its password cannot be computed")
		}
		err := r.Device.SetAdminPassword(ctx, r.user(), r.Identity.Realm, r.admin.Password)
		if err != nil {
			return named(reason.AdminPasswordRejected, err)
		}
		r.greetAgain(r.Device, r.admin)
		return nil
	},
}

func goodRealm(realm string) bool {
	return realm != "" && len(realm) <= 256 && !strings.ContainsAny(realm, "\"\r\n")
}
