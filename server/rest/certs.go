package rest

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/desk"
)

// certInput names a certificate in a path and carries a body.
type certInput[T any] struct {
	ID   string `path:"id" maxLength:"64"`
	Body T
}

// certID names a certificate or a request in a path.
type certID struct {
	ID string `path:"id" maxLength:"64"`
}

// bodyInput carries a body only.
type bodyInput[T any] struct {
	Body T
}

// uploadLimit is 16 MB of files in base64, and room for the rest.
const uploadLimit = 24 << 20

func (s *Server) certRoutes(to huma.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/api/v1/" + path, Summary: summary, Tags: []string{"certificates"}}
	}
	upload := func(o huma.Operation) huma.Operation {
		o.MaxBodyBytes, o.BodyReadTimeout = uploadLimit, time.Minute
		return o
	}
	made := func(o huma.Operation) huma.Operation {
		o.DefaultStatus = http.StatusCreated
		return o
	}
	add(s, to, made(op("create-certificate-request", http.MethodPost, "certificates/requests", "Make a key and a request for a CA")),
		s.requestCertificate)
	add(s, to, op("list-certificate-requests", http.MethodGet, "certificates/requests", "Requests that wait for their certificate"),
		s.listRequests)
	add(s, to, op("get-certificate-request", http.MethodGet, "certificates/requests/{id}", "One request, with what to tell the CA"),
		s.getRequest)
	add(s, to, op("cancel-certificate-request", http.MethodDelete, "certificates/requests/{id}", "Give a request up"), s.cancelRequest)
	add(s, to, upload(op("import-certificate", http.MethodPost, "certificates/import", "Import what a CA sent")), s.importCertificate)
	add(s, to, op("get-certificate", http.MethodGet, "certificates/{id}", "One certificate and all that is to be said of it"),
		s.getCertificate)
	add(s, to, op("activate-certificate", http.MethodPost, "certificates/{id}/activate", "Put a certificate into use"),
		s.useCertificate((*desk.Desk).Activate))
	add(s, to, op("deactivate-certificate", http.MethodPost, "certificates/{id}/deactivate", "Take a certificate out of use and keep it"),
		s.useCertificate((*desk.Desk).Deactivate))
	add(s, to, op("remove-certificate", http.MethodPost, "certificates/{id}/remove", "Put a certificate into the trash, for 30 days"),
		s.useCertificate((*desk.Desk).Remove))
	add(s, to, op("restore-certificate", http.MethodPost, "certificates/{id}/restore", "Take a certificate back from the trash"),
		s.useCertificate((*desk.Desk).Restore))
	add(s, to, op("replace-certificate", http.MethodPost, "certificates/{id}/replace", "Put another certificate into use instead"),
		s.replaceCertificate)
	add(s, to, op("renew-certificate", http.MethodPost, "certificates/{id}/renew",
		"Begin the successor of a certificate, under the same names"), s.renewCertificate)
	add(s, to, op("check-certificate", http.MethodPost, "certificates/{id}/check", "Ask a simulated device of a generation"),
		s.checkCertificate)
	add(s, to, op("list-backups", http.MethodGet, "certificates/backups", "Encrypted backups"), s.listBackups)
	add(s, to, made(op("create-backup", http.MethodPost, "certificates/{id}/backup", "Write another backup")), s.createBackup)
	add(s, to, op("get-backup", http.MethodGet, "certificates/{id}/backup", "The encrypted PKCS#12, to be kept elsewhere"), s.getBackup)
	add(s, to, upload(op("verify-backup", http.MethodPost, "certificates/{id}/backup/verify", "Open a backup and compare its key")),
		s.verifyBackup)
	add(s, to, op("confirm-backup", http.MethodPost, "certificates/{id}/backup/confirm", "Say that a backup is kept elsewhere"),
		s.confirmBackup)
	add(s, to, upload(op("restore-backup", http.MethodPost, "certificates/backups/restore", "Import a backup again")), s.restoreBackup)
	add(s, to, op("advise-certificate", http.MethodGet, "certificates/advice", "Which roots would serve the fleet"), s.adviseCertificate)
	add(s, to, op("advise-names", http.MethodGet, "certificates/advice/names", "Which names to order a certificate for"), s.adviseNames)
	add(s, to, op("change-root", http.MethodGet, "certificates/advice/change", "Which devices a change of the root would cut off"),
		s.changeRoot)
	add(s, to, made(op("create-root", http.MethodPost, "root", "Make a root of one's own")), s.createRoot)
	add(s, to, op("get-root", http.MethodGet, "root", "The root of one's own and its hashes"), s.getRoot)
	add(s, to, made(op("issue-certificate", http.MethodPost, "root/certificates",
		"Issue and import a provisioning certificate under one's own root")), s.issueCertificate)
}

func (s *Server) theDesk() (*desk.Desk, error) {
	if s.Desk == nil {
		return nil, api.NewProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this server has no certificate desk")
	}
	return s.Desk, nil
}

func actor(ctx context.Context) string {
	p, _ := PrincipalOf(ctx)
	return p.Actor()
}

func (s *Server) requestCertificate(ctx context.Context, in *bodyInput[api.NewCertificateRequest]) (api.CertificateRequested, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateRequested{}, err
	}
	b := in.Body
	return d.Request(ctx, actor(ctx), certs.RequestOptions{
		CommonName: b.CommonName, Names: b.Names, Organization: b.Organization, Country: b.Country, Province: b.Province,
		Locality: b.Locality,
		LegacyOU: b.LegacyOU, Bits: b.Bits, PrivateNames: b.PrivateNames,
	})
}

func (s *Server) listRequests(ctx context.Context, in *api.RequestQuery) (api.CertificateRequestList, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateRequestList{}, err
	}
	l, err := d.Requests(ctx, in.All)
	return api.CertificateRequestList{Requests: l}, err
}

func (s *Server) getRequest(ctx context.Context, in *certID) (api.CertificateRequested, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateRequested{}, err
	}
	return d.RequestByID(ctx, in.ID)
}

func (s *Server) cancelRequest(ctx context.Context, in *certID) (api.CertificateRequest, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateRequest{}, err
	}
	return d.CancelRequest(ctx, actor(ctx), in.ID)
}

func secrets(texts []string) []amt.Secret {
	var out []amt.Secret
	for _, t := range texts {
		out = append(out, amt.NewSecret(t))
	}
	return out
}

func (s *Server) importCertificate(ctx context.Context, in *bodyInput[api.NewImport]) (api.ImportResult, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.ImportResult{}, err
	}
	o := desk.ImportOptions{Passwords: secrets(in.Body.Passwords), AIA: in.Body.AIA, Activate: in.Body.Activate, DryRun: in.Body.DryRun,
		Handover: handover(&in.Body.Handover), Actor: actor(ctx)}
	for _, f := range in.Body.Files {
		o.Files = append(o.Files, certs.File{Name: api.Clean(f.Name), Data: f.Data})
	}
	out, err := d.Import(ctx, o)
	return s.importResult(ctx, out, err)
}

func (s *Server) importResult(ctx context.Context, out desk.Imported, err error) (api.ImportResult, error) {
	if err != nil {
		return api.ImportResult{}, s.withFindings(ctx, out, err)
	}
	r := api.ImportResult{Report: out.Report, State: string(out.State), Known: out.Known, Activated: out.Activated, Requeued: out.Requeued,
		Passphrases: toPassphrases(out.Passphrase)}
	if out.Refused != nil {
		r.Refused = out.Refused.Error()
	}
	if out.Backup.File != "" {
		v := toBackup(out.Report.ID, out.Backup)
		r.Backup = &v
	}
	return r, nil
}

// withFindings tells everything that is to be said of a refused certificate.
func (s *Server) withFindings(ctx context.Context, out desk.Imported, err error) error {
	err = s.explain(ctx, "import-certificate", err)
	if p := (*api.Problem)(nil); errors.As(err, &p) && out.Report != nil {
		for _, f := range out.Report.Findings {
			p.Errors = append(p.Errors, api.ProblemField{Location: string(f.Code),
				Message: string(f.Severity) + ": " + api.Clean(f.Detail)})
		}
	}
	return err
}

func (s *Server) getCertificate(ctx context.Context, in *certID) (api.CertificateDetail, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateDetail{}, err
	}
	e, r, err := d.Show(ctx, in.ID)
	if err != nil {
		return api.CertificateDetail{}, err
	}
	all, err := d.List(ctx)
	if err != nil {
		return api.CertificateDetail{}, err
	}
	counts, err := d.Counts(ctx, all)
	return api.CertificateDetail{Certificate: fromEntry(e, all, counts, s.now()), Report: r}, err
}

func fromEntry(e desk.Entry, all []desk.Entry, counts map[string]desk.Counts, now time.Time) api.Certificate {
	c := toCertificate(e.Provisioning, now)
	n := counts[e.ID]
	c.Devices, c.Waiting, c.Adds, c.Renews = n.SetUp, n.Waiting, n.Adds, desk.Renews(e, all, now)
	if now := e.Renewal(all); now != (desk.Renewal{}) {
		c.Renewal = &api.CertificateRenewal{Mode: string(now.Mode), Request: now.Request, Certificate: now.Certificate, By: now.By,
			At: timeOrNull(now.At)}
	}
	c.Follows = e.Note.Follows
	c.State, c.Source, c.Request, c.ImportedBy = string(e.State), e.Source(), e.Note.Request, e.Note.ImportedBy
	c.ImportedAt, c.RemovedAt, c.UndoUntil = timeOrNull(e.ImportedAt), timeOrNull(e.Note.RemovedAt), timeOrNull(e.UndoUntil())
	if e.Note.Backup.File != "" {
		b := toBackup(e.ID, e.Note.Backup)
		c.Backup = &b
	}
	return c
}

func toBackup(id string, b desk.Backup) api.BackupView {
	return api.BackupView{Certificate: id, File: b.File, Node: b.Node, SHA256: b.SHA256, At: timeOrNull(b.At), By: b.By, Handed: b.Handed,
		ConfirmedAt: timeOrNull(b.ConfirmedAt), ConfirmedBy: b.ConfirmedBy}
}

type useFunc func(d *desk.Desk, ctx context.Context, id string, o desk.UseOptions) (desk.Changed, error)

func (s *Server) useCertificate(do useFunc) func(context.Context, *certInput[api.UseCertificate]) (api.CertificateChanged, error) {
	return func(ctx context.Context, in *certInput[api.UseCertificate]) (api.CertificateChanged, error) {
		d, err := s.theDesk()
		if err != nil {
			return api.CertificateChanged{}, err
		}
		return do(d, ctx, in.ID, useOptions(ctx, in.Body))
	}
}

func useOptions(ctx context.Context, u api.UseCertificate) desk.UseOptions {
	return desk.UseOptions{Actor: actor(ctx), DryRun: u.DryRun, Overlap: u.Overlap, Force: u.Force}
}

func (s *Server) replaceCertificate(ctx context.Context, in *certInput[api.UseCertificate]) (api.CertificateChanged, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateChanged{}, err
	}
	if in.Body.With == "" {
		return api.CertificateChanged{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid,
			"with: the id of the certificate that takes over is needed")
	}
	return d.Replace(ctx, in.ID, in.Body.With, useOptions(ctx, in.Body))
}

func (s *Server) renewCertificate(ctx context.Context, in *certInput[api.RenewCertificate]) (api.CertificateRenewed, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateRenewed{}, err
	}
	mode, err := desk.ParseMode(in.Body.Mode)
	if err != nil {
		return api.CertificateRenewed{}, err
	}
	out, err := d.Renew(ctx, in.ID, desk.RenewOptions{Actor: actor(ctx), Mode: mode, DryRun: in.Body.DryRun})
	r := out.CertificateRenewed
	if err != nil || out.Imported == nil {
		return r, err
	}
	made, err := s.importResult(ctx, *out.Imported, nil)
	r.Import = &made
	return r, err
}

func (s *Server) checkCertificate(ctx context.Context, in *certInput[api.CheckQuestion]) (api.CertificateVerdict, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateVerdict{}, err
	}
	v, err := amt.ParseVersion(in.Body.AMT)
	if err != nil {
		return api.CertificateVerdict{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid,
			"amt: %q is no release; want one such as 11.8", api.Clip(in.Body.AMT, 40))
	}
	return d.Prove(ctx, in.ID, desk.Question{Version: v, Suffix: in.Body.Suffix, RootAdded: in.Body.RootAdded})
}

func (s *Server) adviseCertificate(ctx context.Context, _ *none) (api.CertificateAdvice, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.CertificateAdvice{}, err
	}
	return d.Advise(ctx)
}

// namesQuery are suffixes beside those that are known.
type namesQuery struct {
	Suffix []string `query:"suffix,explode" maxItems:"100" doc:"a DNS suffix that devices have or will have, such as DHCP option 15 gives; may be repeated"`
}

func (s *Server) adviseNames(ctx context.Context, in *namesQuery) (api.NameAdvice, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.NameAdvice{}, err
	}
	return d.Names(ctx, in.Suffix)
}

func (s *Server) changeRoot(ctx context.Context, in *api.RootQuery) (api.RootChange, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.RootChange{}, err
	}
	return d.ChangeRoot(ctx, in.From, in.To)
}

func (s *Server) createRoot(ctx context.Context, in *bodyInput[api.NewRoot]) (api.OwnRoot, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.OwnRoot{}, err
	}
	return d.CreateRoot(ctx, actor(ctx), in.Body.Name)
}

func (s *Server) getRoot(ctx context.Context, _ *none) (api.OwnRoot, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.OwnRoot{}, err
	}
	return d.Root(ctx)
}

func (s *Server) issueCertificate(ctx context.Context, in *bodyInput[api.NewIssued]) (api.ImportResult, error) {
	d, err := s.theDesk()
	if err != nil {
		return api.ImportResult{}, err
	}
	out, err := d.Issue(ctx, actor(ctx), in.Body.Names, in.Body.Days)
	return s.importResult(ctx, out, err)
}
