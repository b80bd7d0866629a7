package store

import (
	"context"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// A SettingState is what became of one setting of a profile on one device.
type SettingState string

// The states of a setting.
const (
	SettingOK          SettingState = "ok"          // as wanted when it was last looked at
	SettingDiffers     SettingState = "differs"     // otherwise than wanted, and left so
	SettingRefused     SettingState = "refused"     // the device says no
	SettingUnsupported SettingState = "unsupported" // its firmware has none of it
	SettingElsewhere   SettingState = "elsewhere"   // another console writes it again and again
)

// A DeviceSetting is one setting of a profile on one device.
type DeviceSetting struct {
	Name           string
	State          SettingState
	Detail         string
	Firmware       string // the release that this was found on
	Profile        string
	ProfileVersion int
	Flips          int       // how often it was mended after it had been as this version wants it
	At             time.Time // when this was found
}

// DeviceSettings reads what became of a device's settings, by name.
func (tx *Tx) DeviceSettings(ctx context.Context, uuid amt.UUID) (map[string]DeviceSetting, error) {
	rows, err := list(ctx, tx, func(s scanner) (d DeviceSetting, err error) {
		err = s.Scan(&d.Name, &d.State, &d.Detail, &d.Firmware, &d.Profile, &d.ProfileVersion, &d.Flips, timeOf{&d.At})
		return d, err
	}, "SELECT name, state, detail, firmware, profile, profile_version, flips, at FROM device_settings WHERE uuid = $1 ORDER BY name", uuid)
	if err != nil {
		return nil, fmt.Errorf("settings of %s: %w", uuid, err)
	}
	out := make(map[string]DeviceSetting, len(rows))
	for _, d := range rows {
		out[d.Name] = d
	}
	return out, nil
}

// PutDeviceSettings keeps what became of settings. Rows of settings that are not
// named stay as they are.
func (tx *Tx) PutDeviceSettings(ctx context.Context, uuid amt.UUID, settings []DeviceSetting) error {
	var all []statement
	for _, d := range settings {
		all = append(all, statement{q: `INSERT INTO device_settings (uuid, name, state, detail, firmware, profile, profile_version, flips, at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {now})
			ON CONFLICT (uuid, name) DO UPDATE SET state = excluded.state, detail = excluded.detail, firmware = excluded.firmware,
				profile = excluded.profile, profile_version = excluded.profile_version, flips = excluded.flips, at = excluded.at`,
			args: []any{uuid, d.Name, string(d.State), d.Detail, d.Firmware, d.Profile, d.ProfileVersion, d.Flips}})
	}
	if err := tx.pipeline(ctx, all...); err != nil {
		return fmt.Errorf("settings of %s: %w", uuid, err)
	}
	return nil
}
