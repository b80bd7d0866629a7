package queue

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/store"
)

// This file alone writes to River's own table. River gives a job of a dead
// node back only when the job's whole timeout is over, counted from its start;
// we know from heartbeats within seconds. A node thought dead may live: it
// then finds its lease taken at its next fenced write and stops.
//
// attempted_by is the list of clients that worked the job, the last one has
// it. Seen in River v0.49.0; its columns may change with a River upgrade,
// which the tests of this file would show.
const (
	rescuePostgres = `UPDATE river_job SET state = 'available', scheduled_at = now()
		WHERE state = 'running' AND attempted_by[array_upper(attempted_by, 1)] = $1`
	rescueSQLite = `UPDATE river_job SET state = 'available', scheduled_at = CURRENT_TIMESTAMP
		WHERE state = 'running' AND json_extract(attempted_by, '$[#-1]') = $1`
	rescueOthersSQLite = `UPDATE river_job SET state = 'available', scheduled_at = CURRENT_TIMESTAMP
		WHERE state = 'running' AND json_extract(attempted_by, '$[#-1]') <> $1`
)

// rescueSilent gives back the jobs of nodes that have fallen silent. Any node
// may do it, several at once as well.
func (q *Queue) rescueSilent(ctx context.Context) error {
	var silent []store.Node
	if err := q.db.Read(ctx, func(tx *store.Tx) (err error) {
		silent, err = tx.SilentNodes(ctx, q.cfg.Silent)
		return err
	}); err != nil {
		return err
	}
	for _, n := range silent {
		if n.Name() == q.node.Name() {
			continue // we were away ourselves; the next heartbeat says so
		}
		var jobs int64
		err := q.db.Write(ctx, func(tx *store.Tx) (err error) {
			if jobs, err = rescue(ctx, tx, n.Name()); err != nil {
				return err
			}
			return tx.ForgetNode(ctx, n)
		})
		if err != nil {
			return fmt.Errorf("rescue the jobs of %s: %w", n.Name(), err)
		}
		q.metrics.rescued.Add(float64(jobs))
		q.log.Warn("a node is silent, its jobs are given back", zap.String("node", n.Name()), zap.Time("last_heard", n.SeenAt),
			zap.Int64("jobs", jobs))
	}
	return nil
}

func rescue(ctx context.Context, tx *store.Tx, name string) (int64, error) {
	if p, ok := tx.Handle().(pgx.Tx); ok {
		tag, err := p.Exec(ctx, rescuePostgres, name)
		return tag.RowsAffected(), err
	}
	return execSQLite(tx, rescueSQLite, name)
}

// rescueAll gives back, at the start on SQLite, whatever is marked as running:
// the data directory has one process, so whoever ran it is dead.
func (q *Queue) rescueAll(ctx context.Context) error {
	var jobs int64
	err := q.db.Write(ctx, func(tx *store.Tx) (err error) {
		jobs, err = execSQLite(tx, rescueOthersSQLite, q.node.Name())
		return err
	})
	if err == nil && jobs > 0 {
		q.metrics.rescued.Add(float64(jobs))
		q.log.Info("jobs of the process before are given back", zap.Int64("jobs", jobs))
	}
	return err
}

func execSQLite(tx *store.Tx, statement, name string) (int64, error) {
	t, ok := tx.Handle().(*sql.Tx)
	if !ok {
		return 0, fmt.Errorf("a transaction of an unknown engine: %T", tx.Handle())
	}
	res, err := t.ExecContext(context.Background(), statement, name)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
