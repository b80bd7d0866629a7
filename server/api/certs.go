package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
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

func (s *Server) certRoutes(api huma.API) {
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
	add(s, api, made(op("create-certificate-request", http.MethodPost, "certificates/requests", "Make a key and a request for a CA")), s.requestCertificate)
	add(s, api, op("list-certificate-requests", http.MethodGet, "certificates/requests", "Requests that wait for their certificate"), s.listRequests)
	add(s, api, op("get-certificate-request", http.MethodGet, "certificates/requests/{id}", "One request, with what to tell the CA"), s.getRequest)
	add(s, api, op("cancel-certificate-request", http.MethodDelete, "certificates/requests/{id}", "Give a request up"), s.cancelRequest)
	add(s, api, upload(op("import-certificate", http.MethodPost, "certificates/import", "Import what a CA sent")), s.importCertificate)
	add(s, api, op("get-certificate", http.MethodGet, "certificates/{id}", "One certificate and all that is to be said of it"), s.getCertificate)
	add(s, api, op("activate-certificate", http.MethodPost, "certificates/{id}/activate", "Put a certificate into use"), s.useCertificate((*desk.Desk).Activate))
	add(s, api, op("deactivate-certificate", http.MethodPost, "certificates/{id}/deactivate", "Take a certificate out of use and keep it"), s.useCertificate((*desk.Desk).Deactivate))
	add(s, api, op("remove-certificate", http.MethodPost, "certificates/{id}/remove", "Put a certificate into the trash, for 30 days"), s.useCertificate((*desk.Desk).Remove))
	add(s, api, op("restore-certificate", http.MethodPost, "certificates/{id}/restore", "Take a certificate back from the trash"), s.useCertificate((*desk.Desk).Restore))
	add(s, api, op("replace-certificate", http.MethodPost, "certificates/{id}/replace", "Put another certificate into use instead"), s.replaceCertificate)
	add(s, api, op("renew-certificate", http.MethodPost, "certificates/{id}/renew", "Begin the successor of a certificate, under the same names"), s.renewCertificate)
	add(s, api, op("check-certificate", http.MethodPost, "certificates/{id}/check", "Ask a simulated device of a generation"), s.checkCertificate)
	add(s, api, op("list-backups", http.MethodGet, "certificates/backups", "Encrypted backups"), s.listBackups)
	add(s, api, made(op("create-backup", http.MethodPost, "certificates/{id}/backup", "Write another backup")), s.createBackup)
	add(s, api, op("get-backup", http.MethodGet, "certificates/{id}/backup", "The encrypted PKCS#12, to be kept elsewhere"), s.getBackup)
	add(s, api, upload(op("verify-backup", http.MethodPost, "certificates/{id}/backup/verify", "Open a backup and compare its key")), s.verifyBackup)
	add(s, api, op("confirm-backup", http.MethodPost, "certificates/{id}/backup/confirm", "Say that a backup is kept elsewhere"), s.confirmBackup)
	add(s, api, upload(op("restore-backup", http.MethodPost, "certificates/backups/restore", "Import a backup again")), s.restoreBackup)
	add(s, api, op("advise-certificate", http.MethodGet, "certificates/advice", "Which roots would serve the fleet"), s.adviseCertificate)
	add(s, api, op("advise-names", http.MethodGet, "certificates/advice/names", "Which names to order a certificate for"), s.adviseNames)
	add(s, api, op("change-root", http.MethodGet, "certificates/advice/change", "Which devices a change of the root would cut off"), s.changeRoot)
	add(s, api, made(op("create-root", http.MethodPost, "root", "Make a root of one's own")), s.createRoot)
	add(s, api, op("get-root", http.MethodGet, "root", "The root of one's own and its hashes"), s.getRoot)
	add(s, api, made(op("issue-certificate", http.MethodPost, "root/certificates", "Issue and import a provisioning certificate under one's own root")), s.issueCertificate)
}

func (s *Server) theDesk() (*desk.Desk, error) {
	if s.Desk == nil {
		return nil, problem(http.StatusServiceUnavailable, CodeUnavailable, "this server has no certificate desk")
	}
	return s.Desk, nil
}

func actor(ctx context.Context) string {
	p, _ := PrincipalOf(ctx)
	return p.Actor()
}

func (s *Server) requestCertificate(ctx context.Context, in *bodyInput[NewCertificateRequest]) (CertificateRequested, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateRequested{}, err
	}
	b := in.Body
	return d.Request(ctx, actor(ctx), certs.RequestOptions{
		CommonName: b.CommonName, Names: b.Names, Organization: b.Organization, Country: b.Country, Province: b.Province, Locality: b.Locality,
		LegacyOU: b.LegacyOU, Bits: b.Bits, PrivateNames: b.PrivateNames,
	})
}

// requestQuery selects requests.
type requestQuery struct {
	All bool `query:"all" doc:"those issued and cancelled too"`
}

func (s *Server) listRequests(ctx context.Context, in *requestQuery) (CertificateRequestList, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateRequestList{}, err
	}
	l, err := d.Requests(ctx, in.All)
	return CertificateRequestList{l}, err
}

func (s *Server) getRequest(ctx context.Context, in *certID) (CertificateRequested, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateRequested{}, err
	}
	return d.RequestByID(ctx, in.ID)
}

func (s *Server) cancelRequest(ctx context.Context, in *certID) (CertificateRequest, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateRequest{}, err
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

func (s *Server) importCertificate(ctx context.Context, in *bodyInput[NewImport]) (ImportResult, error) {
	d, err := s.theDesk()
	if err != nil {
		return ImportResult{}, err
	}
	o := desk.ImportOptions{Passwords: secrets(in.Body.Passwords), AIA: in.Body.AIA, Activate: in.Body.Activate, DryRun: in.Body.DryRun, Handover: in.Body.desk(), Actor: actor(ctx)}
	for _, f := range in.Body.Files {
		o.Files = append(o.Files, certs.File{Name: clean(f.Name), Data: f.Data})
	}
	out, err := d.Import(ctx, o)
	return s.importResult(ctx, out, err)
}

func (s *Server) importResult(ctx context.Context, out desk.Imported, err error) (ImportResult, error) {
	if err != nil {
		return ImportResult{}, s.withFindings(ctx, out, err)
	}
	r := ImportResult{Report: out.Report, State: string(out.State), Known: out.Known, Activated: out.Activated, Requeued: out.Requeued, Passphrases: toPassphrases(out.Passphrase)}
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
	if p := (*Problem)(nil); errors.As(err, &p) && out.Report != nil {
		for _, f := range out.Report.Findings {
			p.Errors = append(p.Errors, ProblemField{Location: string(f.Code), Message: string(f.Severity) + ": " + clean(f.Detail)})
		}
	}
	return err
}

func (s *Server) getCertificate(ctx context.Context, in *certID) (CertificateDetail, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateDetail{}, err
	}
	e, r, err := d.Show(ctx, in.ID)
	if err != nil {
		return CertificateDetail{}, err
	}
	all, err := d.List(ctx)
	if err != nil {
		return CertificateDetail{}, err
	}
	counts, err := d.Counts(ctx, all)
	return CertificateDetail{Certificate: fromEntry(e, all, counts, s.now()), Report: r}, err
}

func fromEntry(e desk.Entry, all []desk.Entry, counts map[string]desk.Counts, now time.Time) Certificate {
	c := toCertificate(e.Provisioning, now)
	n := counts[e.ID]
	c.Devices, c.Waiting, c.Adds, c.Renews = n.SetUp, n.Waiting, n.Adds, desk.Renews(e, all, now)
	if now := e.Renewal(all); now != (desk.Renewal{}) {
		c.Renewal = &CertificateRenewal{Mode: string(now.Mode), Request: now.Request, Certificate: now.Certificate, By: now.By, At: timeOrNull(now.At)}
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

func toBackup(id string, b desk.Backup) BackupView {
	return BackupView{Certificate: id, File: b.File, Node: b.Node, SHA256: b.SHA256, At: timeOrNull(b.At), By: b.By, Handed: b.Handed, ConfirmedAt: timeOrNull(b.ConfirmedAt), ConfirmedBy: b.ConfirmedBy}
}

type useFunc func(d *desk.Desk, ctx context.Context, id string, o desk.UseOptions) (desk.Changed, error)

func (s *Server) useCertificate(do useFunc) func(context.Context, *certInput[UseCertificate]) (CertificateChanged, error) {
	return func(ctx context.Context, in *certInput[UseCertificate]) (CertificateChanged, error) {
		d, err := s.theDesk()
		if err != nil {
			return CertificateChanged{}, err
		}
		return do(d, ctx, in.ID, useOptions(ctx, in.Body))
	}
}

func useOptions(ctx context.Context, u UseCertificate) desk.UseOptions {
	return desk.UseOptions{Actor: actor(ctx), DryRun: u.DryRun, Overlap: u.Overlap, Force: u.Force}
}

func (s *Server) replaceCertificate(ctx context.Context, in *certInput[UseCertificate]) (CertificateChanged, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateChanged{}, err
	}
	if in.Body.With == "" {
		return CertificateChanged{}, problem(http.StatusUnprocessableEntity, CodeInvalid, "with: the id of the certificate that takes over is needed")
	}
	return d.Replace(ctx, in.ID, in.Body.With, useOptions(ctx, in.Body))
}

func (s *Server) renewCertificate(ctx context.Context, in *certInput[RenewCertificate]) (CertificateRenewed, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateRenewed{}, err
	}
	mode, err := desk.ParseMode(in.Body.Mode)
	if err != nil {
		return CertificateRenewed{}, err
	}
	out, err := d.Renew(ctx, in.ID, desk.RenewOptions{Actor: actor(ctx), Mode: mode, DryRun: in.Body.DryRun})
	r := CertificateRenewed{Renewed: out}
	if err != nil || out.Imported == nil {
		return r, err
	}
	made, err := s.importResult(ctx, *out.Imported, nil)
	r.Import = &made
	return r, err
}

func (s *Server) checkCertificate(ctx context.Context, in *certInput[CheckQuestion]) (CertificateVerdict, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateVerdict{}, err
	}
	v, err := amt.ParseVersion(in.Body.AMT)
	if err != nil {
		return CertificateVerdict{}, problem(http.StatusUnprocessableEntity, CodeInvalid, "amt: %q is no release; want one such as 11.8", clip(in.Body.AMT, 40))
	}
	return d.Prove(ctx, in.ID, desk.Question{Version: v, Suffix: in.Body.Suffix, RootAdded: in.Body.RootAdded})
}

// rootQuery names two roots.
type rootQuery struct {
	From string `query:"from" required:"true" maxLength:"200" doc:"a root's name, or a hash such as sha256:45140b…"`
	To   string `query:"to" required:"true" maxLength:"200"`
}

func (s *Server) adviseCertificate(ctx context.Context, _ *none) (CertificateAdvice, error) {
	d, err := s.theDesk()
	if err != nil {
		return CertificateAdvice{}, err
	}
	return d.Advise(ctx)
}

// namesQuery are suffixes beside those that are known.
type namesQuery struct {
	Suffix []string `query:"suffix,explode" maxItems:"100" doc:"a DNS suffix that devices have or will have, such as DHCP option 15 gives; may be repeated"`
}

func (s *Server) adviseNames(ctx context.Context, in *namesQuery) (NameAdvice, error) {
	d, err := s.theDesk()
	if err != nil {
		return NameAdvice{}, err
	}
	return d.Names(ctx, in.Suffix)
}

func (s *Server) changeRoot(ctx context.Context, in *rootQuery) (RootChange, error) {
	d, err := s.theDesk()
	if err != nil {
		return RootChange{}, err
	}
	return d.ChangeRoot(ctx, in.From, in.To)
}

func (s *Server) createRoot(ctx context.Context, in *bodyInput[NewRoot]) (OwnRoot, error) {
	d, err := s.theDesk()
	if err != nil {
		return OwnRoot{}, err
	}
	return d.CreateRoot(ctx, actor(ctx), in.Body.Name)
}

func (s *Server) getRoot(ctx context.Context, _ *none) (OwnRoot, error) {
	d, err := s.theDesk()
	if err != nil {
		return OwnRoot{}, err
	}
	return d.Root(ctx)
}

func (s *Server) issueCertificate(ctx context.Context, in *bodyInput[NewIssued]) (ImportResult, error) {
	d, err := s.theDesk()
	if err != nil {
		return ImportResult{}, err
	}
	out, err := d.Issue(ctx, actor(ctx), in.Body.Names, in.Body.Days)
	return s.importResult(ctx, out, err)
}
