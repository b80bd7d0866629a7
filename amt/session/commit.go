package session

import (
	"context"

	"github.com/provisiond/provisiond/amt/reason"
)

// Commit makes the device operational with the settings it has got. Firmware
// may restart its network part before it answers, so an error with Sent is no
// failure: ask for the State over a new connection, after some seconds. Neither
// is success the last word.
func (s *Session) Commit(ctx context.Context) error {
	_, err := s.client.Invoke(ctx, setupService, "CommitChanges")
	return recode(reason.CommitFailed, err)
}
