package console

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/provisiond/provisiond/server/api"
)

// maxUpload is what the API takes of files, and room for the form around them.
const maxUpload = 17 << 20

type certificatesData struct {
	Certificates []api.Certificate
	Requests     []api.CertificateRequest
	Banners      []api.Banner
	Import       bool // whoever looks may import
}

func (c *Console) certificates(v *visit) error {
	return c.certificatesPage(v, http.StatusOK, page{})
}

func (c *Console) certificatesPage(v *visit, status int, p page) error {
	ctx := v.r.Context()
	l, err := v.api.Certificates(ctx)
	if err != nil {
		return err
	}
	s, err := v.api.Summary(ctx)
	if err != nil {
		return err
	}
	data := certificatesData{Certificates: l.Certificates, Import: v.who.Role.May("import-certificate")}
	for _, b := range s.Banners {
		if b.Code != "no_provisioning_certificate" || len(l.Certificates) > 0 {
			data.Banners = append(data.Banners, b)
		}
	}
	// A daemon without a desk has no requests either.
	if r, err := v.api.CertificateRequests(ctx, false); err == nil {
		data.Requests = r.Requests
	}
	p.Title, p.Nav, p.Data = "Certificates", "certificates", data
	return c.show(v, status, "certificates", p)
}

type certificateData struct {
	api.CertificateDetail
	Result  *api.ImportResult       // of the import this page answers
	Renewed *api.CertificateRenewed // of the renewal this page answers
	Renew   bool                    // whoever looks may renew
}

// Answers are the releases of AMT and what they are expected to say; neighbours
// that agree are one line.
func (d certificateData) Answers() []api.Acceptance {
	var out []api.Acceptance
	for _, a := range d.Report.Accepted {
		if n := len(out); n > 0 && out[n-1].Answer == a.Answer && out[n-1].Why == a.Why {
			first, _, _ := strings.Cut(out[n-1].Version, " ")
			out[n-1].Version = first + " to " + a.Version
			continue
		}
		out = append(out, a)
	}
	return out
}

func (c *Console) certificate(v *visit) error {
	return c.certificatePage(v, http.StatusOK, v.r.PathValue("id"), page{}, certificateData{})
}

func (c *Console) certificatePage(v *visit, status int, id string, p page, data certificateData) error {
	d, err := v.api.Certificate(v.r.Context(), id)
	if err != nil {
		return err
	}
	data.CertificateDetail, data.Renew = d, v.who.Role.May("renew-certificate") && d.State != "removed"
	p.Title, p.Nav, p.Data = d.Name, "certificates", data
	return c.show(v, status, "certificate", p)
}

// renewCertificate first says what a renewal takes, and begins it when that was
// seen. It answers the form itself: what to order with, or the passphrase of the
// successor's backup, is in this one answer.
func (c *Console) renewCertificate(v *visit) error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, 8<<10)
	id := v.r.PathValue("id")
	mode, begin := v.r.PostFormValue("mode"), v.r.PostFormValue("begin") == "yes"
	got, err := v.api.RenewCertificate(v.r.Context(), id, api.RenewCertificate{Mode: mode, DryRun: !begin})
	if err != nil {
		var p *api.Problem
		if !errors.As(err, &p) || p.Status >= 500 || p.Status == http.StatusForbidden || p.Status == http.StatusNotFound {
			return err
		}
		return c.certificatePage(v, p.Status, id, page{Trouble: &api.Problem{Title: "It was not renewed", Detail: p.Detail,
			Errors: p.Errors}}, certificateData{})
	}
	return c.certificatePage(v, http.StatusOK, id, page{}, certificateData{Renewed: &got})
}

// importCertificate takes files that were picked or dropped. It answers the form
// itself: the passphrase of the backup is in this one answer.
func (c *Console) importCertificate(v *visit) error {
	refuse := func(status int, detail string, found []api.ProblemField) error {
		return c.certificatesPage(v, status, page{Trouble: &api.Problem{Title: "Nothing was imported", Detail: detail, Errors: found}})
	}
	if !v.who.Role.May("import-certificate") {
		return refuse(http.StatusForbidden, "Your role may not import certificates.", nil)
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxUpload)
	form, err := v.r.MultipartReader()
	if err != nil {
		return refuse(http.StatusUnprocessableEntity, "Choose the files that the CA sent.", nil)
	}
	var in api.NewImport
	for {
		part, err := form.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		var data []byte
		if err == nil {
			data, err = io.ReadAll(part)
		}
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return refuse(http.StatusRequestEntityTooLarge,
				fmt.Sprintf("More than %d MB were sent; a CA's answer is a few KB.", maxUpload>>20), nil)
		case err != nil:
			return refuse(http.StatusUnprocessableEntity, "The form cannot be read; choose the files once more.", nil)
		}
		switch {
		case part.FormName() == "password" && len(data) > 0:
			in.Passwords = []string{string(data)}
		case part.FormName() == "activate":
			in.Activate = true
		case part.FormName() == "files" && part.FileName() != "":
			in.Files = append(in.Files, api.FileBytes{Name: clip(part.FileName(), 200), Data: append([]byte{}, data...)})
		}
	}
	if len(in.Files) == 0 {
		return refuse(http.StatusUnprocessableEntity, "Choose the files that the CA sent.", nil)
	}
	got, err := v.api.ImportCertificate(v.r.Context(), in)
	if err != nil {
		var p *api.Problem
		if !errors.As(err, &p) || p.Status >= 500 {
			return err
		}
		return refuse(p.Status, p.Detail, p.Errors)
	}
	return c.certificatePage(v, http.StatusOK, got.Report.ID, page{}, certificateData{Result: &got})
}
