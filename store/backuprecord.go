package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// BackupSetting is the key under which the last backup is recorded.
const BackupSetting = "backup.last"

// LastBackup is what is remembered of the newest backup.
type LastBackup struct {
	At   time.Time `json:"at"`
	File string    `json:"file"`
	Size int64     `json:"size"` // bytes
}

// PutLastBackup remembers a backup that was made and opened again.
func (tx *Tx) PutLastBackup(ctx context.Context, b LastBackup) error {
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return tx.PutSetting(ctx, BackupSetting, string(text))
}

// LastBackup is the newest backup, or ErrNotFound.
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
