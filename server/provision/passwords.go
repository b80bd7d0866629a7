package provision

import (
	"context"
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
	Apply: func(ctx context.Context, r *Run) error {
		err := r.Device.SetMEBxPassword(ctx, r.mebx.Password)
		switch {
		case err == nil:
			r.mebxHeld = r.mebx.ID
			return nil
		case isStatus(err, amt.StatusNotPermitted):
			// MEBx policy "default password only": it was changed before. Either
			// by an earlier attempt of ours, whose password is then the newest
			// one we ever sent, or by a person, and then nobody here knows it.
			r.mebxHeld = r.mebxSentBefore()
			if r.mebxHeld == 0 {
				r.log.Info("mebx.unchanged", zap.String("detail", "the MEBx password was changed at the machine before and is not known here"))
			}
			return nil
		}
		return named(reason.MEBxPasswordRejected, err)
	},
}

// mebxSentBefore is the newest MEBx password an earlier attempt sent, 0: none.
func (r *Run) mebxSentBefore() int64 {
	for _, c := range r.Job.MEBx {
		if !c.SentAt.IsZero() {
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
