package provision

import (
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// TestTakenForLost: a device that was managed, and that a hello from elsewhere was
// believed of, is brought back by its own answer wherever that hello led it. One
// that a person put aside, or that was never managed, is not.
func TestTakenForLost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at      store.Lifecycle
		why     reason.Code
		managed bool
		lost    bool
	}{
		{store.PendingApproval, reason.ReappearedUnprovisioned, true, true},
		{store.PendingApproval, reason.NotAuthorized, true, false},
		{store.Quarantined, reason.UUIDDuplicate, true, true},
		{store.Quarantined, "", true, false},
		{store.PendingCertificate, reason.RootNotTrusted, true, true},
		{store.PendingIdentity, reason.RootNotTrusted, true, true},
		{store.Queued, "", true, true},
		{store.Failed, reason.DeviceUnreachable, true, true},
		{store.CredentialsUnknown, reason.CredentialsUnknown, true, true},
		{store.Failed, reason.DeviceUnreachable, false, false},
		{store.PendingCertificate, reason.RootNotTrusted, false, false},
		{store.Provisioned, "", true, false},
		{store.Unprovisioned, "", true, false},
		{store.Retired, "", true, false},
	} {
		d := store.Device{Lifecycle: c.at, Reason: c.why}
		if c.managed {
			d.ProvisionedAt = time.Unix(1, 0)
		}
		if got := takenForLost(d); got != c.lost {
			t.Errorf("%s (%s), managed before %t: lost %t, want %t", c.at, c.why, c.managed, got, c.lost)
		}
	}
}
