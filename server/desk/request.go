package desk

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Request is a certificate that was asked for.
type Request = api.CertificateRequest

// Requested is a new request with what to tell the CA.
type Requested = api.CertificateRequested

// Serves are the DNS suffixes that a generation accepts for a list of names.
type Serves = api.CertificateServes

// servesBy lists suffixes by generation; neighbours that agree are one line.
func servesBy(names []string) []Serves {
	var out []Serves
	for _, v := range certs.Generations() {
		s := Serves{Version: short(v), Suffixes: []string{}}
		for _, one := range certs.Serves(names, v) {
			if one.Unsure {
				s.Unsure = append(s.Unsure, one.String())
			} else {
				s.Suffixes = append(s.Suffixes, one.String())
			}
		}
		if n := len(out); n > 0 && slices.Equal(out[n-1].Suffixes, s.Suffixes) && slices.Equal(out[n-1].Unsure, s.Unsure) {
			first, _, _ := strings.Cut(out[n-1].Version, " ")
			out[n-1].Version = first + " to " + s.Version
			continue
		}
		out = append(out, s)
	}
	return out
}

func short(v amt.Version) string {
	if v.Minor == 0 {
		return fmt.Sprint(v.Major)
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// Request makes a key and a request and keeps both, the key sealed, before it
// answers. Refused names are a *reason.Error with cert_input_invalid.
func (d *Desk) Request(ctx context.Context, actor string, o certs.RequestOptions) (Requested, error) {
	r, err := certs.NewRequest(o)
	if err != nil {
		return Requested{}, err
	}
	row, err := requestRow(r, actor)
	if err != nil {
		return Requested{}, err
	}
	var at time.Time
	err = d.DB.Write(ctx, func(tx *store.Tx) error {
		at = tx.Now()
		if err := tx.Audit(ctx, store.AuditRecord{Actor: actor, Action: "cert.request", Subject: r.ID,
			Detail: map[string]any{"names": r.Names}}); err != nil {
			return err
		}
		_, err := tx.PutCertificateRequest(ctx, row)
		return err
	})
	if err != nil {
		return Requested{}, fmt.Errorf("keep the request: %w", err)
	}
	row.CreatedAt = at
	view, err := viewRequest(row)
	return Requested{CertificateRequest: view, OrderText: r.OrderText(), Serves: servesBy(r.Names)}, err
}

func requestRow(r *certs.Request, actor string) (store.CertificateRequest, error) {
	key, err := certs.KeySecret(r.Key)
	if err != nil {
		return store.CertificateRequest{}, fmt.Errorf("keep the key of a request: %w", err)
	}
	return store.CertificateRequest{Subject: r.Names[0], Names: r.Names, CSR: r.PEM(), Key: key, State: "open", CreatedBy: actor}, nil
}

func viewRequest(r store.CertificateRequest) (Request, error) {
	csr, err := parseCSR(r.CSR)
	if err != nil {
		return Request{}, fmt.Errorf("request %d: %w", r.ID, err)
	}
	print, err := certs.KeyFingerprint(csr.PublicKey)
	if err != nil {
		return Request{}, fmt.Errorf("request %d: %w", r.ID, err)
	}
	return Request{
		ID: print[:16], Name: r.Subject, Names: r.Names, Key: certs.KeyKind(csr.PublicKey), State: r.State, Certificate: r.Certificate,
		CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.UTC(), CSR: string(r.CSR),
	}, nil
}

func parseCSR(text []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("the stored PKCS#10 is no PEM")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// Requests lists them, newest first; all also those issued and cancelled.
func (d *Desk) Requests(ctx context.Context, all bool) ([]Request, error) {
	out := []Request{}
	err := d.DB.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.CertificateRequests(ctx)
		if err != nil {
			return err
		}
		known, err := d.entries(ctx, tx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.State != "open" && !all {
				continue
			}
			v, err := viewRequest(r)
			if err != nil {
				return err
			}
			if i := slices.IndexFunc(known, func(e Entry) bool { return e.Note.Renewal.Request == v.ID }); i >= 0 {
				v.Follows = known[i].ID
			}
			out = append(out, v)
		}
		return nil
	})
	return out, err
}

// RequestByID is one request with what to tell the CA, once more.
func (d *Desk) RequestByID(ctx context.Context, id string) (Requested, error) {
	all, err := d.Requests(ctx, true)
	if err != nil {
		return Requested{}, err
	}
	id = strings.ToLower(strings.TrimSpace(id))
	for _, r := range all {
		if r.ID == id || len(id) >= 4 && strings.HasPrefix(r.ID, id) {
			csr, err := parseCSR([]byte(r.CSR))
			if err != nil {
				return Requested{}, err
			}
			return Requested{CertificateRequest: r, OrderText: certs.OrderText(r.Names, csr.PublicKey), Serves: servesBy(r.Names)}, nil
		}
	}
	return Requested{}, &UnknownError{"request", id}
}

// CancelRequest gives a request up. Its key stays sealed: a CA may have issued
// already, and then the certificate can still be imported.
func (d *Desk) CancelRequest(ctx context.Context, actor, id string) (Request, error) {
	id = strings.ToLower(strings.TrimSpace(id))
	var out Request
	err := d.change(ctx, store.AuditRecord{Actor: actor, Action: "cert.request_cancel", Subject: id}, func(tx *store.Tx) error {
		rows, err := tx.CertificateRequests(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			v, err := viewRequest(r)
			if err != nil {
				return err
			}
			if v.ID != id {
				continue
			}
			if r.State != "open" {
				return refused("request %s is %s", id, r.State)
			}
			r.State = "cancelled"
			v.State = r.State
			out = v
			if _, err = tx.PutCertificateRequest(ctx, r); err != nil {
				return err
			}
			return d.givenUp(ctx, tx, v.ID)
		}
		return &UnknownError{"request", id}
	})
	return out, err
}

// pending are requests as certs.Join wants them.
func pending(rows []store.CertificateRequest, open bool) ([]certs.Pending, error) {
	var out []certs.Pending
	for _, r := range rows {
		if open != (r.State == "open") {
			continue
		}
		p, err := certs.PendingFromStore(r.CSR, r.Key, r.CreatedAt)
		if err != nil {
			return nil, fmt.Errorf("request %d: %w", r.ID, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// A Renewer would order a certificate without a person. Nothing implements it:
// the public CAs that put the AMT usage (2.16.840.1.113741.1.2.3) into a
// certificate do so for organisation-validated orders by hand, and none is known
// to offer it by ACME, whose orders carry names and nothing else (RFC 8555
// 7.1.3). Until one does, renewal is: Renew, order, import, replace, with reminders
// from 45 days before the end.
type Renewer interface {
	// Renew takes a PKCS#10 in DER and returns the chain, leaf first, in DER.
	Renew(ctx context.Context, csr []byte) ([][]byte, error)
}
