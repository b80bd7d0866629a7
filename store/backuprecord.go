package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// BackupSetting is the key of the setting that records the last backup.
const BackupSetting = "backup.last"

// LastBackup describes the newest backup.
type LastBackup struct {
	At   time.Time `json:"at"`
	File string    `json:"file"`
	Size int64     `json:"size"` // bytes
}

// PutLastBackup records a backup that was written and opened again.
func (tx *Tx) PutLastBackup(ctx context.Context, b LastBackup) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return tx.PutSetting(ctx, BackupSetting, string(text))
}

// LastBackup reads the record of the newest backup, or returns ErrNotFound.
func (tx *Tx) LastBackup(ctx context.Context) (LastBackup, error) {
	var b LastBackup
	v, err := tx.Setting(ctx, BackupSetting)
	if err != nil {
		return b, err
	}
	if err := json.Unmarshal([]byte(v), &b); err != nil {
		return b, fmt.Errorf("setting %s: %w", BackupSetting, err)
	}
	return b, nil
}
