package operate

import (
	"context"

	"github.com/provisiond/provisiond/store"
)

// ResealKey is the setting that says that secrets wait to be moved to the newest
// data key; the server's timer moves them and then empties it.
const ResealKey = "reseal"

// RotateKey makes a new data key. New secrets are sealed with it at once; the
// others are moved over in the background.
func RotateKey(ctx context.Context, tx *store.Tx, who Principal) error {
	id, err := tx.NewDataKey(ctx)
	if err != nil {
		return err
	}
	if err := tx.PutSetting(ctx, ResealKey, "wanted"); err != nil {
		return err
	}
	return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "key.rotate", Subject: "data key",
		Detail: map[string]any{"key": id}})
}
