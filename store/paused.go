package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// PausedNetwork is a network in which no node makes attempts for a while, since
// attempt after attempt failed there because of the network.
type PausedNetwork struct {
	Network netip.Prefix `json:"network"`
	Since   time.Time    `json:"since"` // begin of this pause
	Until   time.Time    `json:"until"`
	Pauses  int          `json:"pauses"` // in a row
	Node    string       `json:"node"`   // the one that saw the last failure
	// Probe is the end of the time that the one attempt after the pause has the
	// network for itself; zero before that attempt begins.
	Probe time.Time `json:"probe"`
}

// NetworkOf is the network that limits and pauses count for an address: a /24
// or a /64.
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

// PausedNetwork reads a network's pause, over or not; ErrNotFound if it has
// none.
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

// PauseNetwork writes a pause for every node. The caller has called TakeTurns
// for the network.
func (tx *Tx) PauseNetwork(ctx context.Context, p PausedNetwork) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return tx.PutSetting(ctx, pausedKey+p.Network.String(), string(text))
}

// ResumeNetwork deletes a pause; done is false if there was none.
func (tx *Tx) ResumeNetwork(ctx context.Context, network netip.Prefix) (done bool, err error) {
	n, err := tx.exec(ctx, "DELETE FROM settings WHERE key = $1", pausedKey+network.String())
	return n > 0, err
}

// PausedNetworks lists all pauses, in no order.
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
