package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/provisiond/provisiond/store/chain"
)

// AuditError says where the audit chain is broken.
type AuditError struct {
	Seq     int64
	Problem string
}

func (e *AuditError) Error() string {
	return fmt.Sprintf("audit record %d: %s", e.Seq, e.Problem)
}

// Audit appends to the chain, in the transaction of the change that the record
// describes. Each record's hash covers the one before. A lock on the head's row
// keeps one chain, whatever the number of nodes. On Postgres the append happens
// with the commit and not before: whoever holds that lock makes every other
// audited change wait.
func (tx *Tx) Audit(ctx context.Context, r AuditRecord) error {
	err := tx.audit(ctx, r)
	if err != nil {
		tx.db.metrics.audit.WithLabelValues("error").Inc()
		return fmt.Errorf("audit %s: %w", r.Action, err)
	}
	tx.after = append(tx.after, tx.db.metrics.audit.WithLabelValues("ok").Inc)
	return nil
}

func (tx *Tx) audit(ctx context.Context, r AuditRecord) error {
	if r.Detail == nil {
		r.Detail = map[string]any{}
	}
	detail, err := json.Marshal(r.Detail) // sorts the keys
	if err != nil {
		return err
	}
	if tx.pg != nil {
		tx.audits = append(tx.audits, auditRow{AuditRecord: r, detail: detail})
		return nil
	}
	var prev []byte
	if err := tx.one(ctx, "SELECT seq, hash FROM audit_head WHERE id = 1", nil, &r.Seq, &prev); err != nil {
		return err
	}
	if prev == nil {
		prev = []byte{}
	}
	r.Seq++
	if r.At.IsZero() {
		r.At = tx.Now()
	}
	r.At = millis(r.At)
	hash := auditHash(r, detail, prev)
	return tx.pipeline(ctx,
		statement{q: "INSERT INTO audit (seq, at, actor, action, subject, detail, prev_hash, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
			args: []any{r.Seq, r.At, r.Actor, r.Action, r.Subject, string(detail), prev, hash}},
		statement{q: "UPDATE audit_head SET seq = $1, hash = $2 WHERE id = 1", args: []any{r.Seq, hash}},
	)
}

// Postgres computes auditHash itself, so that no work of this process lies
// between the lock and the commit. The lock is a statement of its own: only the
// next statement is certain to see what the lock's last holder committed.
const (
	lockAudit   = "SELECT seq FROM audit_head WHERE id = 1 FOR UPDATE"
	appendAudit = `WITH r AS (
			SELECT seq + 1 AS seq, hash AS prev, coalesce(CAST($1 AS timestamptz), date_trunc('milliseconds', clock_timestamp())) AS at,
				CAST($2 AS text) AS actor, CAST($3 AS text) AS action, CAST($4 AS text) AS subject, CAST($5 AS text) AS detail
			FROM audit_head WHERE id = 1),
		kept AS (
			INSERT INTO audit (seq, at, actor, action, subject, detail, prev_hash, hash)
			SELECT seq, at, actor, action, subject, detail, prev, sha256(int8send(seq) || int8send(CAST(round(extract(epoch
			FROM at) * 1000) AS bigint))
				|| int4send(octet_length(convert_to(actor, 'UTF8'))) || convert_to(actor, 'UTF8')
				|| int4send(octet_length(convert_to(action, 'UTF8'))) || convert_to(action, 'UTF8')
				|| int4send(octet_length(convert_to(subject, 'UTF8'))) || convert_to(subject, 'UTF8')
				|| int4send(octet_length(convert_to(detail, 'UTF8'))) || convert_to(detail, 'UTF8')
				|| int4send(octet_length(prev)) || prev)
			FROM r RETURNING seq, hash)
		UPDATE audit_head SET seq = kept.seq, hash = kept.hash FROM kept WHERE id = 1`
)

// commitAudited appends the transaction's records and commits, in one round
// trip.
func (tx *Tx) commitAudited(ctx context.Context) error {
	b := &pgx.Batch{}
	b.Queue(lockAudit)
	for _, r := range tx.audits {
		b.Queue(appendAudit, tx.stamp(r.At), r.Actor, r.Action, r.Subject, string(r.detail))
	}
	b.Queue("COMMIT")
	res := tx.pg.SendBatch(ctx, b)
	for range b.Len() - 1 {
		if _, err := res.Exec(); err != nil {
			_ = res.Close()
			tx.db.metrics.audit.WithLabelValues("error").Inc()
			if p := (*pgconn.PgError)(nil); errors.As(err, &p) {
				return fmt.Errorf("audit: %w", kind(err)) // Postgres skipped the rest
			}
			return commitOutcome(err)
		}
	}
	tag, err := res.Exec()
	if err == nil && tag.String() != "COMMIT" {
		err = pgx.ErrTxCommitRollback
	}
	return commitOutcome(errors.Join(err, res.Close()))
}

// auditHash is the hash of a record whose detail is this text.
func auditHash(r AuditRecord, detail, prev []byte) []byte { return linked(r, detail).HashAfter(prev) }

// linked is a record as the chain holds it.
func linked(r AuditRecord, detail []byte) chain.Record {
	return chain.Record{Seq: r.Seq, At: r.At, Actor: r.Actor, Action: r.Action, Subject: r.Subject, Detail: detail, Hash: r.Hash}
}

type auditRow struct {
	AuditRecord
	detail, prev []byte
}

func scanAudit(s scanner) (auditRow, error) {
	var r auditRow
	var detail string
	err := s.Scan(&r.Seq, timeOf{&r.At}, &r.Actor, &r.Action, &r.Subject, &detail, &r.prev, &r.Hash)
	if err == nil {
		r.detail = []byte(detail)
		// VerifyAudit reports a detail that is not JSON any more.
		_ = json.Unmarshal(r.detail, &r.Detail)
	}
	return r, err
}

const auditColumns = "seq, at, actor, action, subject, detail, prev_hash, hash"

// VerifyAudit walks the whole chain, compares it with the signed checkpoints
// and with what this node remembers, and counts the records. An *AuditError
// says where the chain is broken.
func (tx *Tx) VerifyAudit(ctx context.Context) (int64, error) {
	// Load the memory before the first query, so that it is never newer than what
	// the query reads.
	var seen remembered
	if tx.db.keys != nil {
		seen = tx.db.memory.of(tx.db.lineage())
	}
	checkpoints, err := tx.AuditCheckpoints(ctx, 0, math.MaxInt64)
	if err != nil {
		return 0, err
	}
	signed := map[int64][]byte{}
	for _, c := range checkpoints {
		signed[c.Seq] = nil
	}
	var n int64
	prev := []byte{}
	err = tx.each(ctx, func(s scanner) error {
		r, err := scanAudit(s)
		switch {
		case err != nil:
			return err
		case r.Seq != n+1:
			return &AuditError{n + 1, "is missing"}
		case !bytes.Equal(r.prev, prev):
			return &AuditError{r.Seq, "does not follow the one before it"}
		case !bytes.Equal(r.Hash, auditHash(r.AuditRecord, r.detail, r.prev)):
			return &AuditError{r.Seq, "was changed"}
		}
		n, prev = r.Seq, r.Hash
		if _, is := signed[n]; is {
			signed[n] = r.Hash
		}
		return nil
	}, "SELECT "+auditColumns+" FROM audit ORDER BY seq")
	if err != nil {
		return n, err
	}
	if err := tx.asRemembered(ctx, seen, n); err != nil {
		return n, err
	}
	var seq int64
	var head []byte
	if err := tx.one(ctx, "SELECT seq, hash FROM audit_head WHERE id = 1", nil, &seq, &head); err != nil {
		return n, err
	}
	if seq != n || !bytes.Equal(head, prev) {
		return n, &AuditError{n + 1, "is missing: the chain ends before its head"}
	}
	return n, tx.verifyCheckpoints(ctx, checkpoints, signed, n)
}

// AuditFilter chooses records, newest first. Each text matches part of its
// column in any case; an empty text matches all.
type AuditFilter struct {
	Before                 int64 // seq; 0: from the newest
	Actor, Action, Subject string
	Since, Until           time.Time // zero: no bound; Until itself is excluded
	Limit                  int
}

// auditReach bounds how many records one query looks through: no index covers
// the searched columns, and the table only grows.
const auditReach = 100_000

// NewestAudit lists records, newest first. next is where the next page begins,
// 0 at the end. A page may be short or empty and still have a next.
func (tx *Tx) NewestAudit(ctx context.Context, f AuditFilter) (found []AuditRecord, next int64, err error) {
	if f.Before <= 0 {
		if err := tx.one(ctx, "SELECT seq + 1 FROM audit_head WHERE id = 1", nil, &f.Before); err != nil {
			return nil, 0, err
		}
	}
	from := max(f.Before-auditReach, 1)
	c := &clause{}
	c.add("seq < ?", f.Before)
	c.add("seq >= ?", from)
	part := func(s string) string {
		return "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.ToLower(s)) + "%"
	}
	c.add("lower(actor) LIKE ? ESCAPE '!'", part(f.Actor))
	c.add("lower(action) LIKE ? ESCAPE '!'", part(f.Action))
	c.add("lower(subject) LIKE ? ESCAPE '!'", part(f.Subject))
	if !f.Since.IsZero() {
		c.add("at >= ?", f.Since)
	}
	if !f.Until.IsZero() {
		c.add("at < ?", f.Until)
	}
	c.args = append(c.args, page(f.Limit))
	rows, err := list(ctx, tx, scanAudit, "SELECT "+auditColumns+" FROM audit"+c.where()+
		fmt.Sprintf(" ORDER BY seq DESC LIMIT $%d", len(c.args)), c.args...)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range rows {
		found = append(found, r.AuditRecord)
	}
	if int64(len(rows)) == page(f.Limit) {
		next = rows[len(rows)-1].Seq
	} else if next = from; next > 1 && !f.Since.IsZero() {
		early, err := tx.auditBefore(ctx, from, f.Since.Add(-auditSkew))
		if err != nil {
			return nil, 0, err
		}
		if early {
			next = 0
		}
	}
	if next <= 1 {
		next = 0
	}
	return found, next, nil
}

// auditSkew is how far the clocks of two nodes may differ. Apart from that,
// records' times rise with their numbers.
const auditSkew = time.Hour

// auditBefore reports whether record seq, or the first record after it, is
// older than a moment.
func (tx *Tx) auditBefore(ctx context.Context, seq int64, at time.Time) (bool, error) {
	var first time.Time
	err := tx.one(ctx, "SELECT at FROM audit WHERE seq >= $1 ORDER BY seq LIMIT 1", []any{seq}, timeOf{&first})
	return err == nil && first.Before(at), err
}

// AuditRecords lists a page of the chain, oldest first.
func (tx *Tx) AuditRecords(ctx context.Context, after int64, limit int) ([]AuditRecord, error) {
	rows, err := list(ctx, tx, scanAudit, "SELECT "+auditColumns+" FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2", after, page(limit))
	out := make([]AuditRecord, len(rows))
	for i, r := range rows {
		out[i] = r.AuditRecord
	}
	return out, err
}

// AuditFileLines are the next lines of an export: at most limit records after
// the record after and up to through, with their checkpoints. next is the last
// record's number; 0 when the lines reach through.
func (tx *Tx) AuditFileLines(ctx context.Context, after, through int64, limit int) (lines []string, next int64, err error) {
	rows, err := list(ctx, tx, scanAudit, "SELECT "+auditColumns+" FROM audit WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3", after,
		through, page(limit))
	if err != nil || len(rows) == 0 {
		return nil, 0, err
	}
	last := rows[len(rows)-1].Seq
	checkpoints, err := tx.AuditCheckpoints(ctx, after, last)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range rows {
		lines = append(lines, linked(r.AuditRecord, r.detail).Line())
		for len(checkpoints) > 0 && checkpoints[0].Seq <= r.Seq {
			lines, checkpoints = append(lines, checkpoints[0].Line()), checkpoints[1:]
		}
	}
	if last < through {
		next = last
	}
	return lines, next, nil
}
