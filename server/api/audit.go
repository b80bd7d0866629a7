package api

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/store"
)

// AuditQuery asks for a page of the audit.
type AuditQuery struct {
	After int64 `query:"after" minimum:"0"`
	Limit int   `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
}

func (s *Server) auditRoutes(api huma.API) {
	add(s, api, huma.Operation{OperationID: "list-audit", Method: http.MethodGet, Path: "/api/v1/audit", Summary: "Who did what, oldest first", Tags: []string{"audit"}}, s.listAudit)
	add(s, api, huma.Operation{OperationID: "verify-audit", Method: http.MethodGet, Path: "/api/v1/audit/verify", Summary: "Check the chain of the audit",
		Description: "Each record holds the hash of the one before it, so a record that was changed, added or taken out is found.", Tags: []string{"audit"}}, s.verifyAudit)
}

func (s *Server) listAudit(ctx context.Context, in *AuditQuery) (AuditPage, error) {
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	page := AuditPage{Records: []AuditRecord{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		found, err := tx.AuditRecords(ctx, in.After, limit)
		if err != nil {
			return err
		}
		for _, r := range found {
			page.Records = append(page.Records, AuditRecord{
				Seq: r.Seq, At: timeOrNull(r.At), Actor: clean(r.Actor), Action: clean(r.Action), Subject: clean(r.Subject),
				Detail: cleanMap(r.Detail), Hash: hex.EncodeToString(r.Hash),
			})
		}
		return nil
	})
	if n := len(page.Records); err == nil && n == limit {
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
	return out, err
}
