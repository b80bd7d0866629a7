package operate

import (
	"context"
	"slices"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// needsApprover says whether the configuration makes a job wait for another
// user. To decommission is to unprovision and to retire.
func (r *Room) needsApprover(kind, mode string, devices int) bool {
	return slices.Contains(r.SecondApprover, kind) || mode == "decommission" && slices.Contains(r.SecondApprover, "retire") ||
		r.SecondApproverAbove > 0 && devices > r.SecondApproverAbove
}

// latelyIs how long a job counts together with the next ones of its maker.
const latelyIs = 24 * time.Hour

// lately counts the devices that a user's jobs of this kind reach already with
// nobody's approval, but for those found now: whoever may not do something to
// many devices alone may not do it in several portions either. Jobs that begin at
// the same moment wait for each other here.
func (r *Room) lately(ctx context.Context, tx *store.Tx, user string, b api.JobRequest, found []amt.UUID) (n int, err error) {
	if r.SecondApproverAbove <= 0 {
		return 0, nil
	}
	if !b.DryRun {
		if err := tx.TakeTurns(ctx, "jobs of "+user); err != nil {
			return 0, err
		}
	}
	reached, err := tx.JobDevicesOf(ctx, b.Kind, user, latelyIs, r.SecondApproverAbove+len(found)+1)
	these := make(map[amt.UUID]bool, len(found))
	for _, u := range found {
		these[u] = true
	}
	for _, u := range reached {
		if !these[u] {
			n++
		}
	}
	return n, err
}

// alone refuses a command to one device that would go round the approver.
func (r *Room) alone(verb, mode string, u amt.UUID) error {
	if !r.needsApprover(verb, mode, 1) {
		return nil
	}
	how := verb + " " + u.String()
	if mode != "" {
		how += " --mode " + mode
	}
	return Conflict("the configuration (jobs.second_approver) wants another user to approve this, for a single device too: provctl job "+
		"start %s makes the job, and with provctl job approve another user lets it begin", how)
}
