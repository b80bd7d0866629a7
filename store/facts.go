package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Facts are figures about the whole fleet, as the database has them now. Every
// node reads the same.
type Facts struct {
	Lifecycle map[Lifecycle]int
	Health    map[string]int // ok, warn, unreachable; "" unknown
	Secrets   map[string]int // passwords by candidate, active, retired

	Due           int           // runs that a worker could take now
	OldestRunning time.Duration // age of the oldest attempt under way, 0: none
	Lost          int           // managed devices that a run changed and that have not answered since
	Stopped       int           // stopped jobs that wait for a person
	ExpiringCerts int           // managed devices whose own certificate ends within 30 days
	Backup        time.Time     // time of the last backup, zero: none
	Bytes         int64         // the database's size
	ClockOffset   time.Duration // this process's clock less the database's
}

// Facts reads all figures from one picture of the database.
func (db *DB) Facts(ctx context.Context) (Facts, error) {
	f := Facts{Lifecycle: map[Lifecycle]int{}, Health: map[string]int{}, Secrets: map[string]int{}}
	err := db.Read(ctx, func(tx *Tx) (err error) {
		before := time.Now()
		now := tx.Now()
		if tx.pg != nil { // half the round trip, so that latency does not count as offset
			f.ClockOffset = before.Add(time.Since(before) / 2).Sub(now)
		}
		if err := tx.countFleet(ctx, &f, now.AddDate(0, 0, 30)); err != nil {
			return err
		}
		if err := countBy(ctx, tx, f.Secrets, "SELECT state, count(*) FROM credentials GROUP BY state"); err != nil {
			return fmt.Errorf("count passwords: %w", err)
		}
		if err := tx.one(ctx, "SELECT count(*) FROM runs WHERE "+liveRuns+" AND state = 'queued' AND not_before <= {now}", nil,
			&f.Due); err != nil {
			return fmt.Errorf("count waiting runs: %w", err)
		}
		lost, err := tx.LostDevices(ctx, time.UnixMilli(0), 1000)
		if err != nil {
			return err
		}
		f.Lost = len(lost)
		if err := tx.one(ctx, "SELECT count(*) FROM jobs WHERE state = 'draft' AND stopped_at IS NOT NULL", nil, &f.Stopped); err != nil {
			return fmt.Errorf("count stopped jobs: %w", err)
		}
		var since time.Time
		if err := tx.one(ctx, "SELECT min(started_at) FROM runs WHERE "+liveRuns+" AND state = 'running'", nil,
			timeOf{&since}); err != nil {
			return fmt.Errorf("find the longest run: %w", err)
		}
		if !since.IsZero() {
			f.OldestRunning = max(0, now.Sub(since))
		}
		last, err := tx.LastBackup(ctx)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		f.Backup = last.At
		return tx.size(ctx, &f.Bytes)
	})
	return f, err
}

// countFleet answers three questions in one walk, since the table can be large.
func (tx *Tx) countFleet(ctx context.Context, f *Facts, expiring time.Time) error {
	for _, l := range Lifecycles() {
		f.Lifecycle[l] = 0
	}
	err := tx.each(ctx, func(s scanner) error {
		var l Lifecycle
		var health string
		var n, ending int
		if err := s.Scan(&l, &health, &n, &ending); err != nil {
			return err
		}
		f.Lifecycle[l] += n
		if l != Retired {
			f.Health[health] += n
		}
		if l.Managed() {
			f.ExpiringCerts += ending
		}
		return nil
	}, "SELECT lifecycle, health, count(*), count(CASE WHEN device_cert_not_after < $1 THEN 1 END) FROM devices GROUP BY "+
		tx.noIndex("lifecycle")+", health", expiring)
	return about(err, "count devices")
}

// countBy adds the numbers of a query for words with their numbers.
func countBy[K ~string](ctx context.Context, tx *Tx, into map[K]int, q string, args ...any) error {
	return tx.each(ctx, func(s scanner) error {
		var word K
		var n int
		err := s.Scan(&word, &n)
		into[word] += n
		return err
	}, q, args...)
}

func (tx *Tx) size(ctx context.Context, bytes *int64) error {
	if tx.pg != nil {
		return tx.one(ctx, "SELECT pg_database_size(current_database())", nil, bytes)
	}
	for _, end := range []string{"", "-wal"} {
		if info, err := os.Stat(filepath.Join(tx.db.dir, DatabaseFile+end)); err == nil {
			*bytes += info.Size()
		}
	}
	return nil
}

// CheckAudit verifies the audit chain and counts the outcome in the metrics.
func (db *DB) CheckAudit(ctx context.Context) (records int64, err error) {
	err = db.Read(ctx, func(tx *Tx) error {
		records, err = tx.VerifyAudit(ctx)
		return err
	})
	var broken *AuditError
	switch {
	case errors.As(err, &broken):
		db.metrics.broken.Inc()
	case err == nil:
		db.metrics.verified.SetToCurrentTime()
	}
	return records, err
}
