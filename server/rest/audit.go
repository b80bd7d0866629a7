package rest

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/chain"
)

// auditFilter understands the query's texts.
func auditFilter(q *api.AuditQuery, now time.Time) (f store.AuditFilter, err error) {
	f = store.AuditFilter{Before: q.Before, Actor: q.Actor, Action: q.Action, Subject: q.Subject}
	if !q.Newest && q.Actor+q.Action+q.Subject+q.Since+q.Until != "" {
		return f, operate.WrongField("query.newest", "actor, action, subject, since and until go with newest=true")
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
	if age, err := api.ParseAge(text); err == nil && age >= 0 {
		return now.Add(-age), false, nil
	}
	return at, false, operate.WrongField(field, "want a time such as 2026-11-01T22:00:00Z, a day such as 2026-11-01, or an age such as "+
		"24h or 7d")
}

func (s *Server) auditRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "list-audit", Method: http.MethodGet, Path: "/api/v1/audit",
		Summary: "Who did what, oldest first", Description: "Newest first it can be searched, 100,000 records at a time: a page may be " +
			"short and have a next.", Tags: []string{"audit"}}, s.listAudit)
	add(s, to, huma.Operation{OperationID: "verify-audit", Method: http.MethodGet, Path: "/api/v1/audit/verify",
		Summary: "Check the chain of the audit",
		Description: "Each record holds the hash of the one before it, so a record that was changed, added or taken out is found; the " +
			"signed checkpoints tell when the whole chain was made anew.", Tags: []string{"audit"}}, s.verifyAudit)
	add(s, to, huma.Operation{OperationID: "sign-audit", Method: http.MethodPost, Path: "/api/v1/audit/checkpoint",
		Summary: "Sign the audit as it stands",
		Description: "It is also signed by itself, each thousand records or each hour. A copy of a checkpoint that is kept elsewhere " +
			"holds for all records before it.", Tags: []string{"audit"}}, s.signAudit)
	add(s, to, huma.Operation{OperationID: "export-audit", Method: http.MethodGet, Path: "/api/v1/audit/export",
		Summary:     "A page of the audit as lines that can be checked without a server",
		Description: "Written one after another, each with a line end, the lines are the file that provctl audit verify --file reads.",
		Tags:        []string{"audit"}}, s.exportAudit)
}

func (s *Server) listAudit(ctx context.Context, in *api.AuditQuery) (api.AuditPage, error) {
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	f, err := auditFilter(in, s.now())
	if err != nil {
		return api.AuditPage{}, err
	}
	f.Limit = limit
	page := api.AuditPage{Records: []api.AuditRecord{}}
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
		fqdn, err := operate.Names(ctx, tx, subjects)
		if err != nil {
			return err
		}
		for _, r := range found {
			page.Records = append(page.Records, api.AuditRecord{
				Seq: r.Seq, At: timeOrNull(r.At), Actor: api.Clean(r.Actor), Action: api.Clean(r.Action), Subject: api.Clean(r.Subject),
				FQDN:   fqdn[r.Subject],
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

func (s *Server) verifyAudit(ctx context.Context, _ *none) (api.AuditVerified, error) {
	out := api.AuditVerified{}
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

func toCheckpoint(c store.AuditCheckpoint) *api.AuditCheckpoint {
	return &api.AuditCheckpoint{Seq: c.Seq, At: timeOrNull(c.At), Hash: hex.EncodeToString(c.Hash),
		Signature: hex.EncodeToString(c.Signature)}
}

// signAudit makes a checkpoint. It is no record of the audit itself: that would
// have to be signed again.
func (s *Server) signAudit(ctx context.Context, _ *none) (api.AuditCheckpoint, error) {
	var out api.AuditCheckpoint
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		c, err := tx.SignAudit(ctx)
		if errors.Is(err, store.ErrNotFound) {
			return operate.Conflict("the audit has no record yet")
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

func (s *Server) exportAudit(ctx context.Context, in *api.AuditExportQuery) (api.AuditLines, error) {
	out := api.AuditLines{Lines: []string{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		key, err := tx.AuditKey(ctx)
		if errors.Is(err, store.ErrNotFound) {
			return operate.Conflict("the audit was never signed; sign it first")
		}
		if err != nil {
			return err
		}
		if in.After == 0 {
			out.Lines = append(out.Lines, chain.Head(key))
		}
		lines, next, err := tx.AuditFileLines(ctx, in.After, in.Through, 1000)
		out.Lines, out.Next = append(out.Lines, lines...), next
		return err
	})
	return out, err
}
