package store

import (
	"context"
	"time"
)

// Name is the node's name in leases and in the queue. No two processes ever
// share it, since Boot is new at each start.
func (n Node) Name() string { return n.ID + "/" + n.Boot }

// Heartbeat records that a node lives.
func (tx *Tx) Heartbeat(ctx context.Context, n Node) error {
	_, err := tx.exec(ctx, `INSERT INTO nodes (id, boot, address, version, started_at, seen_at, signs) VALUES ($1, $2, $3, $4, {now},
		{now}, true)
		ON CONFLICT (id, boot) DO UPDATE SET address = excluded.address, version = excluded.version, seen_at = excluded.seen_at`,
		n.ID, n.Boot, n.Address, n.Version)
	return about(err, "heartbeat of %s", n.Name())
}

const nodeColumns = "id, boot, address, version, started_at, seen_at"

func scanNode(s scanner) (Node, error) {
	var n Node
	err := s.Scan(&n.ID, &n.Boot, &n.Address, &n.Version, timeOf{&n.StartedAt}, timeOf{&n.SeenAt})
	return n, err
}

// Nodes lists every process that nobody has forgotten yet.
func (tx *Tx) Nodes(ctx context.Context) ([]Node, error) {
	return list(ctx, tx, scanNode, "SELECT "+nodeColumns+" FROM nodes ORDER BY id, started_at")
}

// SilentNodes lists nodes without a heartbeat for age, by the database's clock.
func (tx *Tx) SilentNodes(ctx context.Context, age time.Duration) ([]Node, error) {
	return list(ctx, tx, scanNode, "SELECT "+nodeColumns+" FROM nodes WHERE seen_at <= {now+$1} ORDER BY seen_at", -age.Milliseconds())
}

// ForgetNode removes a node that has left or is given up. If it still lives,
// its next heartbeat brings it back.
func (tx *Tx) ForgetNode(ctx context.Context, n Node) error {
	_, err := tx.exec(ctx, "DELETE FROM nodes WHERE id = $1 AND boot = $2", n.ID, n.Boot)
	return err
}
