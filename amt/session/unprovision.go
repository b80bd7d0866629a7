package session

import (
	"context"
	"errors"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

// Unprovision undoes the setup. Partial keeps users and names and puts the
// device back into setup mode, where it says hello again; full puts it back
// into its factory state and erases custom root hashes. The connection drops
// afterwards, so look into an error with Sent as after Commit.
func (s *Session) Unprovision(ctx context.Context, full bool) error {
	var err error
	if full {
		// From AMT 6 on, 1 (enterprise) is the only mode there is.
		_, err = s.client.Invoke(ctx, setupService, "Unprovision", wsman.Arg{Name: "ProvisioningMode", Value: "1"})
	} else {
		_, err = s.client.Invoke(ctx, setupService, "PartialUnprovision")
	}
	var status amt.Status
	if errors.As(err, &status) && status == amt.StatusBlockingComponent {
		return recode(reason.UnprovisionBlocked, err)
	}
	return err
}
