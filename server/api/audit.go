package api

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/store"
)

// AuditQuery asks for a page of the audit.
type AuditQuery struct {
	After   int64  `query:"after" minimum:"0"`
	Limit   int    `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
	Newest  bool   `query:"newest" doc:"newest first, with before instead of after"`
	Before  int64  `query:"before" minimum:"0"`
	Actor   string `query:"actor" maxLength:"100" doc:"with newest: a part of who did it"`
	Action  string `query:"action" maxLength:"100" doc:"with newest: a part of what was done"`
	Subject string `query:"subject" maxLength:"100" doc:"with newest: a part of what it was done to"`
	Since   string `query:"since" maxLength:"40" doc:"with newest: a time such as 2026-11-01T22:00:00Z, a day of UTC such as 2026-11-01, or an age such as 24h or 7d"`
	Until   string `query:"until" maxLength:"40" doc:"with newest: the same; a day is meant to its end"`
}

// filter understands the query's texts.
func (q *AuditQuery) filter(now time.Time) (f store.AuditFilter, err error) {
	f = store.AuditFilter{Before: q.Before, Actor: q.Actor, Action: q.Action, Subject: q.Subject}
	if !q.Newest && q.Actor+q.Action+q.Subject+q.Since+q.Until != "" {
		return f, invalid("query.newest", "actor, action, subject, since and until go with newest=true")
	}
	if f.Since, _, err = moment("query.since", q.Since, now); err != nil {
		return f, err
	}
	until, day, err := moment("query.until", q.Until, now)
	if day {
		until = until.AddDate(0, 0, 1)
	}
	f.Until = until
	return f, err
}

// moment reads a time, a day or an age; day reports that it is the second. ""
// is the zero time.
func moment(field, text string, now time.Time) (at time.Time, day bool, err error) {
	if text == "" {
		return at, false, nil
	}
	if at, err = time.Parse(time.RFC3339, text); err == nil {
		return at, false, nil
	}
	if at, err = time.Parse(time.DateOnly, text); err == nil {
		return at, true, nil
	}
	if age, err := parseAge(text); err == nil && age >= 0 {
		return now.Add(-age), false, nil
	}
	return at, false, invalid(field, "want a time such as 2026-11-01T22:00:00Z, a day such as 2026-11-01, or an age such as 24h or 7d")
}

func (s *Server) auditRoutes(api huma.API) {
	add(s, api, huma.Operation{OperationID: "list-audit", Method: http.MethodGet, Path: "/api/v1/audit", Summary: "Who did what, oldest first", Description: "Newest first it can be searched, 100,000 records at a time: a page may be short and have a next.", Tags: []string{"audit"}}, s.listAudit)
	add(s, api, huma.Operation{OperationID: "verify-audit", Method: http.MethodGet, Path: "/api/v1/audit/verify", Summary: "Check the chain of the audit",
		Description: "Each record holds the hash of the one before it, so a record that was changed, added or taken out is found; the signed checkpoints tell when the whole chain was made anew.", Tags: []string{"audit"}}, s.verifyAudit)
	add(s, api, huma.Operation{OperationID: "sign-audit", Method: http.MethodPost, Path: "/api/v1/audit/checkpoint", Summary: "Sign the audit as it stands",
		Description: "It is also signed by itself, each thousand records or each hour. A copy of a checkpoint that is kept elsewhere holds for all records before it.", Tags: []string{"audit"}}, s.signAudit)
	add(s, api, huma.Operation{OperationID: "export-audit", Method: http.MethodGet, Path: "/api/v1/audit/export", Summary: "A page of the audit as lines that can be checked without a server",
		Description: "Written one after another, each with a line end, the lines are the file that provctl audit verify --file reads.", Tags: []string{"audit"}}, s.exportAudit)
}

func (s *Server) listAudit(ctx context.Context, in *AuditQuery) (AuditPage, error) {
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	f, err := in.filter(s.now())
	if err != nil {
		return AuditPage{}, err
	}
	f.Limit = limit
	page := AuditPage{Records: []AuditRecord{}}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		var found []store.AuditRecord
		var err error
		if in.Newest {
			found, page.Next, err = tx.NewestAudit(ctx, f)
			if err != nil {
				return err
			}
			switch c, err := tx.LastCheckpoint(ctx); {
			case err == nil:
				page.Checkpoint = toCheckpoint(c)
			case !errors.Is(err, store.ErrNotFound):
				return err
			}
		} else if found, err = tx.AuditRecords(ctx, in.After, limit); err != nil {
			return err
		}
		var subjects []string
		for _, r := range found {
			subjects = append(subjects, r.Subject)
		}
		fqdn, err := names(ctx, tx, subjects)
		if err != nil {
			return err
		}
		for _, r := range found {
			page.Records = append(page.Records, AuditRecord{
				Seq: r.Seq, At: timeOrNull(r.At), Actor: clean(r.Actor), Action: clean(r.Action), Subject: clean(r.Subject), FQDN: fqdn[r.Subject],
				Detail: cleanMap(r.Detail), Hash: hex.EncodeToString(r.Hash),
			})
		}
		return nil
	})
	if n := len(page.Records); err == nil && !in.Newest && n == limit {
		page.Next = page.Records[n-1].Seq
	}
	return page, err
}

func (s *Server) verifyAudit(ctx context.Context, _ *none) (AuditVerified, error) {
	out := AuditVerified{}
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		out.Records, err = tx.VerifyAudit(ctx)
		return err
	})
	var broken *store.AuditError
	if errors.As(err, &broken) {
		out.Problem = broken.Error()
		return out, nil
	}
	out.Intact = err == nil
	if err == nil {
		err = s.db.Read(ctx, func(tx *store.Tx) error {
			c, err := tx.LastCheckpoint(ctx)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			out.Checkpoint = toCheckpoint(c)
			return err
		})
	}
	return out, err
}

// AuditCheckpoint is the chain as it was, signed.
type AuditCheckpoint struct {
	Seq       int64      `json:"seq" doc:"the last record it holds for"`
	At        *time.Time `json:"at"`
	Hash      string     `json:"hash"`
	Signature string     `json:"signature" doc:"Ed25519"`
	Key       string     `json:"key,omitempty" doc:"the public key, in hexadecimal digits"`
}

func toCheckpoint(c store.AuditCheckpoint) *AuditCheckpoint {
	return &AuditCheckpoint{Seq: c.Seq, At: timeOrNull(c.At), Hash: hex.EncodeToString(c.Hash), Signature: hex.EncodeToString(c.Signature)}
}

// signAudit makes a checkpoint. It is no record of the audit itself: that would
// have to be signed again.
func (s *Server) signAudit(ctx context.Context, _ *none) (AuditCheckpoint, error) {
	var out AuditCheckpoint
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		c, err := tx.SignAudit(ctx)
		if errors.Is(err, store.ErrNotFound) {
			return conflict("the audit has no record yet")
		}
		if err != nil {
			return err
		}
		key, err := tx.AuditKey(ctx)
		out = *toCheckpoint(c)
		out.Key = hex.EncodeToString(key)
		return err
	})
	return out, err
}

// AuditExportQuery asks for lines of an export.
type AuditExportQuery struct {
	After   int64 `query:"after" minimum:"0" doc:"the last record of the page before; 0 begins the file"`
	Through int64 `query:"through" minimum:"1" doc:"the record of the checkpoint that ends the file"`
}

// AuditLines is a page of an export.
type AuditLines struct {
	Lines []string `json:"lines"`
	Next  int64    `json:"next" doc:"give it as after; 0 on the last page"`
}

func (s *Server) exportAudit(ctx context.Context, in *AuditExportQuery) (AuditLines, error) {
	out := AuditLines{Lines: []string{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		key, err := tx.AuditKey(ctx)
		if errors.Is(err, store.ErrNotFound) {
			return conflict("the audit was never signed; sign it first")
		}
		if err != nil {
			return err
		}
		if in.After == 0 {
			out.Lines = append(out.Lines, store.AuditFileHead(key))
		}
		lines, next, err := tx.AuditFileLines(ctx, in.After, in.Through, 1000)
		out.Lines, out.Next = append(out.Lines, lines...), next
		return err
	})
	return out, err
}

// AuditMark is what was kept elsewhere of a checkpoint.
type AuditMark = store.AuditMark

// AuditFileChecked is what an exported file was found to hold.
type AuditFileChecked struct {
	Records     int64     `json:"records"`
	Checkpoints int       `json:"checkpoints"`
	Key         string    `json:"key"`
	SignedAt    time.Time `json:"signed_at"`
	Hash        string    `json:"hash" doc:"of the last record"`
}

// CheckAuditFile checks an exported audit without a server: the chain, the
// signatures, and that each line is as it was written. Whether the key is the
// server's is for the caller to compare.
func CheckAuditFile(r io.Reader, marks ...AuditMark) (AuditFileChecked, error) {
	f, err := store.CheckAuditFile(r, marks...)
	return AuditFileChecked{f.Records, f.Checkpoints, hex.EncodeToString(f.Key), f.Last.At, hex.EncodeToString(f.Last.Hash)}, err
}
