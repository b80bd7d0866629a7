package api

import (
	"context"
	"net/http"
	"net/url"
)

func certPath(id string, more ...string) string {
	p := "/api/v1/certificates/" + url.PathEscape(id)
	for _, m := range more {
		p += "/" + m
	}
	return p
}

// RequestCertificate makes a key and a request.
func (c *Client) RequestCertificate(ctx context.Context, r NewCertificateRequest) (CertificateRequested, error) {
	return call[CertificateRequested](ctx, c, http.MethodPost, "/api/v1/certificates/requests", nil, r)
}

// CertificateRequests lists those that wait, or all.
func (c *Client) CertificateRequests(ctx context.Context, all bool) (CertificateRequestList, error) {
	return call[CertificateRequestList](ctx, c, http.MethodGet, "/api/v1/certificates/requests", values(RequestQuery{all}), nil)
}

// CertificateRequest is one request.
func (c *Client) CertificateRequest(ctx context.Context, id string) (CertificateRequested, error) {
	return call[CertificateRequested](ctx, c, http.MethodGet, certPath("requests", url.PathEscape(id)), nil, nil)
}

// CancelCertificateRequest gives a request up.
func (c *Client) CancelCertificateRequest(ctx context.Context, id string) (CertificateRequest, error) {
	return call[CertificateRequest](ctx, c, http.MethodDelete, certPath("requests", url.PathEscape(id)), nil, nil)
}

// ImportCertificate imports files.
func (c *Client) ImportCertificate(ctx context.Context, n NewImport) (ImportResult, error) {
	return call[ImportResult](ctx, c, http.MethodPost, certPath("import"), nil, n)
}

// Certificate is one with its report.
func (c *Client) Certificate(ctx context.Context, id string) (CertificateDetail, error) {
	return call[CertificateDetail](ctx, c, http.MethodGet, certPath(id), nil, nil)
}

// UseCertificate changes what is in use: activate, deactivate, remove, restore
// or replace.
func (c *Client) UseCertificate(ctx context.Context, verb, id string, u UseCertificate) (CertificateChanged, error) {
	return call[CertificateChanged](ctx, c, http.MethodPost, certPath(id, verb), nil, u)
}

// RenewCertificate begins the successor of a certificate.
func (c *Client) RenewCertificate(ctx context.Context, id string, r RenewCertificate) (CertificateRenewed, error) {
	return call[CertificateRenewed](ctx, c, http.MethodPost, certPath(id, "renew"), nil, r)
}

// CheckCertificate asks a simulated device.
func (c *Client) CheckCertificate(ctx context.Context, id string, q CheckQuestion) (CertificateVerdict, error) {
	return call[CertificateVerdict](ctx, c, http.MethodPost, certPath(id, "check"), nil, q)
}

// Backups lists the encrypted backups.
func (c *Client) Backups(ctx context.Context) (BackupList, error) {
	return call[BackupList](ctx, c, http.MethodGet, certPath("backups"), nil, nil)
}

// CreateBackup writes another backup.
func (c *Client) CreateBackup(ctx context.Context, id string, h Handover) (BackupFile, error) {
	return call[BackupFile](ctx, c, http.MethodPost, certPath(id, "backup"), nil, h)
}

// Backup gives the encrypted file.
func (c *Client) Backup(ctx context.Context, id string) (BackupFile, error) {
	return call[BackupFile](ctx, c, http.MethodGet, certPath(id, "backup"), nil, nil)
}

// VerifyBackup opens a backup.
func (c *Client) VerifyBackup(ctx context.Context, id string, p BackupProof) (BackupProven, error) {
	return call[BackupProven](ctx, c, http.MethodPost, certPath(id, "backup", "verify"), nil, p)
}

// ConfirmBackup says that a copy is kept elsewhere.
func (c *Client) ConfirmBackup(ctx context.Context, id string) (BackupView, error) {
	return call[BackupView](ctx, c, http.MethodPost, certPath(id, "backup", "confirm"), nil, nil)
}

// RestoreBackup imports a backup again.
func (c *Client) RestoreBackup(ctx context.Context, p BackupProof) (ImportResult, error) {
	return call[ImportResult](ctx, c, http.MethodPost, certPath("backups", "restore"), nil, p)
}

// AdviseCertificate ranks roots by the devices they serve.
func (c *Client) AdviseCertificate(ctx context.Context) (CertificateAdvice, error) {
	return call[CertificateAdvice](ctx, c, http.MethodGet, certPath("advice"), nil, nil)
}

// AdviseNames proposes which names to order, for the suffixes that are known and
// those given.
func (c *Client) AdviseNames(ctx context.Context, suffixes []string) (NameAdvice, error) {
	return call[NameAdvice](ctx, c, http.MethodGet, certPath("advice", "names"), url.Values{"suffix": suffixes}, nil)
}

// ChangeRoot says whom a change of the root would cut off.
func (c *Client) ChangeRoot(ctx context.Context, from, to string) (RootChange, error) {
	return call[RootChange](ctx, c, http.MethodGet, certPath("advice", "change"), values(RootQuery{from, to}), nil)
}

// CreateRoot makes a root of one's own.
func (c *Client) CreateRoot(ctx context.Context, n NewRoot) (OwnRoot, error) {
	return call[OwnRoot](ctx, c, http.MethodPost, "/api/v1/root", nil, n)
}

// Root is the root of one's own.
func (c *Client) Root(ctx context.Context) (OwnRoot, error) {
	return call[OwnRoot](ctx, c, http.MethodGet, "/api/v1/root", nil, nil)
}

// IssueCertificate issues one under the root of one's own.
func (c *Client) IssueCertificate(ctx context.Context, n NewIssued) (ImportResult, error) {
	return call[ImportResult](ctx, c, http.MethodPost, "/api/v1/root/certificates", nil, n)
}
