package store

import (
	"context"
	"fmt"
	"time"
)

// Retention bounds what grows; zero keeps for ever. Prune never touches
// credentials, the audit chain, or what a live run may need.
type Retention struct {
	HelloAge        time.Duration // Prune removes hellos older than this
	HellosPerDevice int           // and all but the newest so many of each device
	EventAge        time.Duration
	EventsPerDevice int
	RunAge          time.Duration // of ended runs with their steps; a device's newest run stays
	RunsPerDevice   int
	StepAge         time.Duration // of the steps of ended runs, which go before the run
	JobAge          time.Duration // ended bulk jobs
	OTPAge          time.Duration // of one-time passwords, from their end
	SessionAge      time.Duration // of console logins, from their end
	LatelyAge       time.Duration // of events counted under limits
	Batch           int           // rows per transaction: 500
}

// Pruned counts the removed rows.
type Pruned struct {
	Hellos, Events, Runs, Steps, Jobs, OTPs, Sessions, Lately, TrustTables int64
}

const (
	defaultPruneBatch = 500
	// trustGrace is far above trustCacheAge, so that Prune removes no hash list
	// whose id a node may still hand out.
	trustGrace = 24 * time.Hour
)

// Prune removes what is past its time, in many short transactions, so that
// hellos never wait long. Any node may run it, and stop it at any moment.
func (db *DB) Prune(ctx context.Context, r Retention) (Pruned, error) {
	var p Pruned
	batch := int64(r.Batch)
	if batch <= 0 {
		batch = defaultPruneBatch
	}
	aged := func(name string, n *int64, age time.Duration, table, key, cond string) error {
		if age <= 0 {
			return nil
		}
		q := "DELETE FROM " + table + " WHERE " + key + " IN (SELECT " + key + " FROM " + table + " WHERE " + cond + " LIMIT $2)"
		if err := db.repeat(ctx, n, q, -age.Milliseconds(), batch); err != nil {
			return fmt.Errorf("prune %s: %w", name, err)
		}
		return nil
	}
	// ids grow with time, so a table's first rows by id are its oldest, and finding
	// them needs no index on the time.
	log := func(n *int64, age time.Duration, table string) error {
		if age <= 0 {
			return nil
		}
		q := "DELETE FROM " + table + " WHERE id IN (SELECT id FROM (SELECT id, at FROM " + table +
			" ORDER BY id LIMIT $2) AS first WHERE at < {now+$1})"
		if err := db.repeat(ctx, n, q, -age.Milliseconds(), batch); err != nil {
			return fmt.Errorf("prune %s: %w", table, err)
		}
		return nil
	}
	if err := log(&p.Hellos, r.HelloAge, "hellos"); err != nil {
		return p, err
	}
	if err := db.pruneEach(ctx, &p.Hellos, "hellos", r.HellosPerDevice, batch); err != nil {
		return p, fmt.Errorf("prune hellos: %w", err)
	}
	if err := log(&p.Events, r.EventAge, "events"); err != nil {
		return p, err
	}
	if err := db.pruneEach(ctx, &p.Events, "events", r.EventsPerDevice, batch); err != nil {
		return p, fmt.Errorf("prune events: %w", err)
	}
	if err := aged("steps", &p.Steps, r.StepAge, "run_steps", "run_id",
		"run_id IN (SELECT id FROM runs WHERE finished_at < {now+$1})"); err != nil {
		return p, err
	}
	if err := aged("runs", &p.Runs, r.RunAge, "runs", "id", `finished_at < {now+$1} AND state NOT IN ('queued', 'running')
		AND EXISTS (SELECT 1 FROM runs newer WHERE newer.uuid = runs.uuid AND newer.id > runs.id)`); err != nil {
		return p, err
	}
	if err := db.pruneEach(ctx, &p.Runs, "runs", r.RunsPerDevice, batch); err != nil {
		return p, fmt.Errorf("prune runs: %w", err)
	}
	if err := aged("jobs", &p.Jobs, r.JobAge, "jobs", "id", "finished_at < {now+$1}"); err != nil {
		return p, err
	}
	if err := aged("one-time passwords", &p.OTPs, r.OTPAge, "otps", "id", "expires_at < {now+$1}"); err != nil {
		return p, err
	}
	if err := aged("sessions", &p.Sessions, r.SessionAge, "sessions", "id", "expires_at < {now+$1}"); err != nil {
		return p, err
	}
	if err := aged("limits", &p.Lately, r.LatelyAge, "lately", "id", "at < {now+$1}"); err != nil {
		return p, err
	}
	err := aged("hash lists", &p.TrustTables, trustGrace, "trust_tables", "id", `used_at < {now+$1}
		AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.trust_table = trust_tables.id)
		AND NOT EXISTS (SELECT 1 FROM hellos h WHERE h.trust_table = trust_tables.id)`)
	return p, err
}

// repeat runs a bounded deletion until it deletes less than a batch.
func (db *DB) repeat(ctx context.Context, total *int64, q string, age, batch int64) error {
	for {
		var n int64
		err := db.Write(ctx, func(tx *Tx) (err error) {
			n, err = tx.exec(ctx, q, age, batch)
			return err
		})
		if err != nil {
			return err
		}
		*total += n
		if n == 0 {
			return nil
		}
	}
}

// pruneEach keeps the newest keep rows of each device. It walks the devices by
// UUID, a page at a time.
func (db *DB) pruneEach(ctx context.Context, total *int64, table string, keep int, batch int64) error {
	if keep <= 0 {
		return nil
	}
	type over struct {
		uuid string
		from int64 // the oldest id that stays
	}
	after := "00000000-0000-0000-0000-000000000000"
	for {
		var page []string
		var found []over
		err := db.Read(ctx, func(tx *Tx) error {
			var err error
			page, err = list(ctx, tx, func(s scanner) (string, error) {
				var u string
				err := s.Scan(&u)
				return u, err
			}, "SELECT uuid FROM devices WHERE uuid > $1 ORDER BY uuid LIMIT 500", after)
			if err != nil || len(page) == 0 {
				return err
			}
			found, err = list(ctx, tx, func(s scanner) (over, error) {
				var o over
				err := s.Scan(&o.uuid, &o.from)
				return o, err
			}, `SELECT d.uuid, (SELECT t.id FROM `+table+` t WHERE t.uuid = d.uuid ORDER BY t.id DESC LIMIT 1 OFFSET $3) AS keep_from
				FROM devices d WHERE d.uuid > $1 AND d.uuid <= $2
					AND EXISTS (SELECT 1 FROM `+table+` t WHERE t.uuid = d.uuid ORDER BY t.id DESC LIMIT 1 OFFSET $4)`,
				after, page[len(page)-1], int64(keep-1), int64(keep))
			return err
		})
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return nil
		}
		for _, o := range found {
			for {
				var n int64
				err := db.Write(ctx, func(tx *Tx) (err error) {
					n, err = tx.exec(ctx, "DELETE FROM "+table+" WHERE id IN (SELECT id FROM "+table+
						" WHERE uuid = $1 AND id < $2 ORDER BY id LIMIT $3)", o.uuid, o.from, batch)
					return err
				})
				if err != nil {
					return err
				}
				*total += n
				if n < batch {
					break
				}
			}
		}
		after = page[len(page)-1]
	}
}
