package store

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/provisiond/provisiond/store/seal"
)

const certificateColumns = "id, name, names, state, source, chain, sealed_key, not_before, not_after, created_at, updated_at"

type certificateRow struct {
	Certificate
	sealed []byte
}

func (r *certificateRow) dest() []any {
	return []any{&r.ID, &r.Name, jsonOf{&r.Names}, &r.State, &r.Source, &r.Chain, &r.sealed, timeOf{&r.NotBefore}, timeOf{&r.NotAfter},
		timeOf{&r.CreatedAt}, timeOf{&r.UpdatedAt}}
}

func (tx *Tx) openCertificate(ctx context.Context, r certificateRow) (Certificate, error) {
	var err error
	if r.sealed != nil {
		r.Key, err = tx.open(ctx, r.sealed, seal.At("certificates", "sealed_key", r.ID))
	}
	return r.Certificate, err
}

// PutCertificate stores a provisioning certificate under its id. If c has no
// key, the stored key stays.
func (tx *Tx) PutCertificate(ctx context.Context, c Certificate) error {
	var sealed []byte
	var key int64
	var err error
	if !c.Key.IsZero() {
		sealed, key, err = tx.seal(c.Key, seal.At("certificates", "sealed_key", c.ID))
	}
	names := c.Names
	if names == nil {
		names = []string{}
	}
	text, err2 := jsonText(names)
	if err == nil && err2 == nil {
		_, err = tx.exec(ctx, `INSERT INTO certificates (id, name, names, state, source, chain, sealed_key, key_id, not_before, not_after,
			created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, {now}, {now})
			ON CONFLICT (id) DO UPDATE SET name = excluded.name, names = excluded.names, state = excluded.state, source = excluded.source,
				chain = excluded.chain, sealed_key = coalesce(excluded.sealed_key, certificates.sealed_key),
				key_id = CASE WHEN excluded.sealed_key IS NULL THEN certificates.key_id ELSE excluded.key_id END,
				not_before = excluded.not_before, not_after = excluded.not_after, updated_at = excluded.updated_at`,
			c.ID, c.Name, text, c.State, c.Source, c.Chain, sealed, key, c.NotBefore, c.NotAfter)
	}
	if err != nil {
		return fmt.Errorf("certificate %s: %w", c.ID, err)
	}
	return err2
}

// Certificate reads one certificate with its key.
func (tx *Tx) Certificate(ctx context.Context, id string) (Certificate, error) {
	var r certificateRow
	if err := tx.one(ctx, "SELECT "+certificateColumns+" FROM certificates WHERE id = $1", []any{id}, r.dest()...); err != nil {
		return Certificate{}, fmt.Errorf("certificate %s: %w", id, err)
	}
	return tx.openCertificate(ctx, r)
}

// Certificates lists all certificates with their keys.
func (tx *Tx) Certificates(ctx context.Context) ([]Certificate, error) {
	rows, err := list(ctx, tx, func(s scanner) (certificateRow, error) {
		var r certificateRow
		err := s.Scan(r.dest()...)
		return r, err
	}, "SELECT "+certificateColumns+" FROM certificates ORDER BY created_at, id")
	out := make([]Certificate, len(rows))
	for i, r := range rows {
		if out[i], err = tx.openCertificate(ctx, r); err != nil {
			return nil, fmt.Errorf("certificate %s: %w", r.ID, err)
		}
	}
	return out, err
}

// SetCertificateState makes a certificate active, standby or removed.
func (tx *Tx) SetCertificateState(ctx context.Context, id, state string) error {
	n, err := tx.exec(ctx, "UPDATE certificates SET state = $2, updated_at = {now} WHERE id = $1", id, state)
	return touched(n, err, ErrNotFound)
}

// DeleteCertificate deletes a certificate and its key, for good.
func (tx *Tx) DeleteCertificate(ctx context.Context, id string) error {
	n, err := tx.exec(ctx, "DELETE FROM certificates WHERE id = $1", id)
	return touched(n, err, ErrNotFound)
}

// PutCertificateRequest stores a new request and its key, or the new state of a
// request.
func (tx *Tx) PutCertificateRequest(ctx context.Context, r CertificateRequest) (int64, error) {
	if r.ID != 0 {
		n, err := tx.exec(ctx, "UPDATE certificate_requests SET state = $2, certificate = $3, updated_at = {now} WHERE id = $1", r.ID,
			r.State,
			r.Certificate)
		return r.ID, touched(n, err, ErrNotFound)
	}
	row := rand.Text() // the insert has yet to choose the id
	sealed, key, err := tx.seal(r.Key, seal.At("certificate_requests", "sealed_key", row))
	if err != nil {
		return 0, fmt.Errorf("certificate request: %w", err)
	}
	names := r.Names
	if names == nil {
		names = []string{}
	}
	text, err := jsonText(names)
	if err != nil {
		return 0, err
	}
	var id int64
	err = tx.one(ctx, `INSERT INTO certificate_requests (subject, names, csr, sealed_key, key_id, seal_row, state, certificate, created_by,
		created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, {now}, {now}) RETURNING id`,
		[]any{r.Subject, text, r.CSR, sealed, key, row, r.State, r.Certificate, r.CreatedBy}, &id)
	return id, about(err, "certificate request")
}

// CertificateRequests lists all requests with their keys, newest first.
func (tx *Tx) CertificateRequests(ctx context.Context) ([]CertificateRequest, error) {
	type row struct {
		CertificateRequest
		sealed []byte
		place  string
	}
	rows, err := list(ctx, tx, func(s scanner) (row, error) {
		var r row
		err := s.Scan(&r.ID, &r.Subject, jsonOf{&r.Names}, &r.CSR, &r.sealed, &r.place, &r.State, &r.Certificate, &r.CreatedBy,
			timeOf{&r.CreatedAt}, timeOf{&r.UpdatedAt})
		return r, err
	}, "SELECT id, subject, names, csr, sealed_key, seal_row, state, certificate, created_by, created_at, updated_at FROM "+
		"certificate_requests ORDER BY id DESC")
	out := make([]CertificateRequest, len(rows))
	for i, r := range rows {
		if r.Key, err = tx.open(ctx, r.sealed, seal.At("certificate_requests", "sealed_key", r.place)); err != nil {
			return nil, fmt.Errorf("certificate request %d: %w", r.ID, err)
		}
		out[i] = r.CertificateRequest
	}
	return out, err
}

// NoteBackup records that somebody exported a certificate.
func (tx *Tx) NoteBackup(ctx context.Context, b CertificateBackup) error {
	_, err := tx.exec(ctx, "INSERT INTO certificate_backups (certificate, digest, actor, at) VALUES ($1, $2, $3, {now})", b.Certificate,
		b.Digest, b.Actor)
	return err
}

// Backups lists the exports of a certificate, newest first.
func (tx *Tx) Backups(ctx context.Context, certificate string) ([]CertificateBackup, error) {
	return list(ctx, tx, func(s scanner) (CertificateBackup, error) {
		var b CertificateBackup
		err := s.Scan(&b.ID, &b.Certificate, &b.Digest, &b.Actor, timeOf{&b.At})
		return b, err
	}, "SELECT id, certificate, digest, actor, at FROM certificate_backups WHERE certificate = $1 ORDER BY id DESC", certificate)
}
