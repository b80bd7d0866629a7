package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// PausedNetwork is a network in which no attempts are made for a while, on no
// node: attempt after attempt failed there for the network's sake.
type PausedNetwork struct {
	Network netip.Prefix `json:"network"`
	Since   time.Time    `json:"since"` // of this pause
	Until   time.Time    `json:"until"`
	Pauses  int          `json:"pauses"` // in a row
	Node    string       `json:"node"`   // that saw the last failure
	// Probe is until when the one attempt that is let through after the pause has
	// the network for itself; zero before it has begun.
	Probe time.Time `json:"probe"`
}

// NetworkOf is the unit of limits and pauses: a /24 or a /64.
func NetworkOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return netip.Prefix{}
	}
	bits := 24
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

const pausedKey = "network_paused:"

// PausedNetwork reads what is known of a network's pause, over or not;
// ErrNotFound when it has none.
func (tx *Tx) PausedNetwork(ctx context.Context, network netip.Prefix) (p PausedNetwork, err error) {
	text, err := tx.Setting(ctx, pausedKey+network.String())
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, fmt.Errorf("pause of %s: %w", network, err)
	}
	return p, nil
}

// PauseNetwork writes a pause down for every node. The caller holds
// LockNetwork for the network.
func (tx *Tx) PauseNetwork(ctx context.Context, p PausedNetwork) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return tx.PutSetting(ctx, pausedKey+p.Network.String(), string(text))
}

// ResumeNetwork forgets a pause; done is false when there was none.
func (tx *Tx) ResumeNetwork(ctx context.Context, network netip.Prefix) (done bool, err error) {
	n, err := tx.exec(ctx, "DELETE FROM settings WHERE key = $1", pausedKey+network.String())
	return n > 0, err
}

// PausedNetworks lists the pauses that are not forgotten, in no order.
func (tx *Tx) PausedNetworks(ctx context.Context) ([]PausedNetwork, error) {
	texts, err := list(ctx, tx, func(s scanner) (text string, err error) { err = s.Scan(&text); return text, err },
		"SELECT value FROM settings WHERE key LIKE $1 ORDER BY key LIMIT 10000", pausedKey+"%")
	if err != nil {
		return nil, err
	}
	var all []PausedNetwork
	var bad error
	for _, text := range texts {
		var p PausedNetwork
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		all = append(all, p)
	}
	return all, bad
}
