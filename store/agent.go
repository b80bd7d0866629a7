package store

import (
	"context"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store/seal"
)

// Agent is the peer that speaks for a device without a name: the one that
// announced the device first, until that expires.
type Agent struct {
	UUID    amt.UUID
	Peer    string // the name in its certificate
	Expires time.Time
	signed  []byte
}

const agentColumns = "uuid, peer, expires, signed"

func (a *Agent) dest() []any { return []any{&a.UUID, &a.Peer, timeOf{&a.Expires}, &a.signed} }

func (a *Agent) place() seal.Place { return place("agents", a.UUID, a.Peer, a.Expires) }

func (tx *Tx) agents(ctx context.Context, which string, arg any) ([]Agent, error) {
	return ours(ctx, tx, func(s scanner) (a Agent, ok bool, err error) {
		err = s.Scan(a.dest()...)
		return a, err == nil && tx.counts("agents", a.UUID, a.place(), a.signed), err
	}, "SELECT "+agentColumns+" FROM agents WHERE expires > {now} AND "+which+" = $1", arg)
}

// AnnouncedBy finds the device that a peer announced, or returns ErrNotFound.
func (tx *Tx) AnnouncedBy(ctx context.Context, peer string) (Agent, error) {
	return first(tx.agents(ctx, "peer", peer))
}

// Announce lets a peer speak for a device until a time, and removes
// announcements that have expired. ErrConflict: another peer announced the
// device first.
func (tx *Tx) Announce(ctx context.Context, a Agent) error {
	a.Expires = millis(a.Expires)
	mac, err := tx.sign(a.place())
	if err == nil {
		_, err = tx.exec(ctx, "DELETE FROM agents WHERE expires <= {now}")
	}
	var n int64
	if err == nil {
		n, err = tx.exec(ctx, `INSERT INTO agents (uuid, peer, expires, signed) VALUES ($1, $2, $3, $4)
			ON CONFLICT (uuid) DO UPDATE SET expires = excluded.expires, signed = excluded.signed WHERE agents.peer = excluded.peer`, a.UUID,
			a.Peer, a.Expires, mac)
	}
	return about(touched(n, err, ErrConflict), "agent of %s", a.UUID)
}
