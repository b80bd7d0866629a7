package session

import (
	"context"

	"github.com/provisiond/provisiond/amt/reason"
)

// Commit makes the device operational with what it was told. Firmware may
// restart its network part before it answers, so an error with Sent is not a
// failure: ask for the State over a new connection, after some seconds. So is
// success not the last word.
func (s *Session) Commit(ctx context.Context) error {
	_, err := s.client.Invoke(ctx, setupService, "CommitChanges")
	return recode(reason.CommitFailed, err)
}
