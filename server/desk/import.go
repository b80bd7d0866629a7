package desk

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// ImportOptions say what to import and how.
type ImportOptions struct {
	Files     []certs.File
	Passwords []amt.Secret // tried on each PFX in turn
	AIA       bool         // missing intermediates may be fetched from the addresses certificates name
	Activate  bool         // even if others are in use
	DryRun    bool         // report only
	Handover  Handover     // of the backup's passphrase
	Actor     string

	follows string // the certificate whose successor the root kept here issued
}

// Imported is what became of an import.
type Imported struct {
	Report *certs.Report
	// Refused says why it cannot be used; only a dry run gets this far then.
	Refused    error
	State      State
	Known      bool // it was here before; its chains are now those of the report
	Activated  bool // it came into use by this
	Backup     Backup
	Passphrase Passphrase // zero when no new backup was written
	Requeued   Requeued
}

// Import reads files, joins what is in them with its key and stores it, all or
// nothing. Errors are *reason.Error where the input is at fault.
func (d *Desk) Import(ctx context.Context, o ImportOptions) (Imported, error) {
	done, err := d.oneAtATime(ctx)
	if err != nil {
		return Imported{}, err
	}
	defer done()
	hand, err := o.Handover.prepare(ctx)
	if err != nil {
		return Imported{}, err
	}
	bundle, err := certs.ParseBundle(ctx, o.Files, o.Passwords...)
	if err != nil {
		return Imported{}, err
	}
	p, report, err := d.join(ctx, bundle, o.AIA)
	if err != nil {
		return Imported{}, err
	}
	out := Imported{Report: report, Refused: d.incomplete(report.Err(), o.AIA)}
	if _, ok := p.Leaf.PublicKey.(*rsa.PublicKey); !ok && out.Refused == nil {
		out.Refused = reason.Because(reason.KeyTypeUnsupported,
			"%s has a key of kind %s: AMT before 15 takes RSA only, and no source says which firmware takes another; order it again over "+
				"an RSA key", p.Name, certs.KeyKind(p.Leaf.PublicKey))
	}
	if o.DryRun {
		return out, nil
	}
	if out.Refused != nil {
		return out, out.Refused
	}
	return d.keep(ctx, out, p, o, hand)
}

// oneAtATime waits for its turn to open files; done gives it on.
func (d *Desk) oneAtATime(ctx context.Context) (done func(), err error) {
	select {
	case d.slots <- struct{}{}:
		return func() { <-d.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// incomplete says what to do about a missing intermediate.
func (d *Desk) incomplete(err error, aia bool) error {
	r, ok := reasoned(err)
	switch {
	case !ok || r.Code != reason.ChainIncomplete:
		return err
	case d.Fetch == nil && aia:
		return reason.Because(r.Code, "%w. It was not fetched: provisioning.issuer_networks names nothing that this server may fetch "+
			"from; import its file together with the certificate", r)
	case d.Fetch == nil || aia:
		return reason.Because(r.Code, "%w. Import its file together with the certificate", r)
	}
	return reason.Because(r.Code, "%w. Import its file together with the certificate, or let the server fetch it: --aia", r)
}

// join looks for the key in the files and among open requests, then among
// certificates and requests of earlier times: a renewal over the same key, or a
// certificate that comes again with a further intermediate.
func (d *Desk) join(ctx context.Context, b *certs.Bundle, aia bool) (*certs.Provisioning, *certs.Report, error) {
	var rows []store.CertificateRequest
	var all []Entry
	err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		if rows, err = tx.CertificateRequests(ctx); err != nil {
			return err
		}
		all, err = d.entries(ctx, tx)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read what is here already: %w", err)
	}
	o := certs.JoinOptions{Now: d.Now()}
	if aia {
		o.Fetch = d.Fetch
	}
	for _, e := range all {
		for _, path := range e.Paths {
			for _, c := range path.Certs[1:] {
				if !slices.ContainsFunc(o.Known, c.Equal) {
					o.Known = append(o.Known, c)
				}
			}
		}
	}
	if len(b.Keys) == 0 && !slices.ContainsFunc(b.Certs, func(c *x509.Certificate) bool { return !c.IsCA }) {
		if p, report := extended(ctx, b, all, o); p != nil {
			return p, report, nil
		}
	}
	open, err := pending(rows, true)
	if err != nil {
		return nil, nil, err
	}
	o.Pending = open
	p, report, err := certs.Join(ctx, b, o)
	r, isReason := reasoned(err)
	if !isReason || r.Code != reason.CertPrivateKeyMissing {
		return p, report, err
	}
	closed, err2 := pending(rows, false)
	if err2 != nil {
		return nil, nil, err2
	}
	o.Pending = append(open, closed...)
	for _, e := range all {
		o.Pending = append(o.Pending, certs.Pending{ID: e.Note.Request, Key: e.Key, CreatedAt: e.ImportedAt})
	}
	if p, report, err2 := certs.Join(ctx, b, o); err2 == nil {
		return p, report, nil
	}
	return nil, nil, err // it names the open requests only
}

// extended finds the one certificate that CA certificates alone give a further
// chain: a cross-certificate out of a vendor's repository, for devices that know
// the older root only. nil when none or several gain by it.
func extended(ctx context.Context, b *certs.Bundle, all []Entry, o certs.JoinOptions) (*certs.Provisioning, *certs.Report) {
	var found *certs.Provisioning
	var told *certs.Report
	for _, e := range all {
		if !e.Desk || e.State == Removed {
			continue
		}
		with := *b
		with.Certs = append(slices.Clone(b.Certs), e.Leaf)
		o.Pending = []certs.Pending{{ID: e.Note.Request, Key: e.Key, CreatedAt: e.ImportedAt}}
		p, report, err := certs.Join(ctx, &with, o)
		if err != nil || len(p.Paths) <= len(e.Paths) {
			continue
		}
		if found != nil {
			return nil, nil
		}
		found, told = p, report
	}
	return found, told
}

// keep writes the backup, proves it and stores everything.
func (d *Desk) keep(ctx context.Context, out Imported, p *certs.Provisioning, o ImportOptions,
	hand func(amt.Secret) (Passphrase, string, error)) (Imported, error) {
	row := store.Certificate{
		ID: p.ID, Name: p.Name, Names: p.Names, Source: "desk", Chain: chainPEM(p), NotBefore: p.Leaf.NotBefore, NotAfter: p.Leaf.NotAfter,
	}
	var err error
	if row.Key, err = certs.KeySecret(p.Key); err != nil {
		return out, fmt.Errorf("keep the key of %s: %w", p.Name, err)
	}
	var before Entry
	before, out.Known, err = d.present(ctx, p.ID)
	if err != nil {
		return out, err
	}
	var backup *certs.Backup
	if !out.Known || before.Note.Backup.File == "" {
		if backup, out.Backup, err = d.writeBackup(ctx, p); err != nil {
			return out, err
		}
		if out.Passphrase, out.Backup.Handed, err = hand(backup.Passphrase); err != nil {
			_ = os.Remove(d.backupPath(out.Backup.File))
			return out, err
		}
	}
	var now Entry
	record := store.AuditRecord{Actor: o.Actor, Action: "cert.import", Subject: p.ID,
		Detail: map[string]any{"name": p.Name, "not_after": p.Leaf.NotAfter.UTC().Format(time.RFC3339)}}
	err = d.change(ctx, record, func(tx *store.Tx) error {
		all, err := d.entries(ctx, tx)
		if err != nil {
			return err
		}
		now = Entry{State: Standby}
		others := 0
		for _, e := range all {
			if e.ID == p.ID && e.Desk {
				now = e
			} else if e.ID != p.ID && e.State == Active && e.Serving(d.Now()) {
				others++
			}
		}
		was := now.State
		if now.State == Removed {
			now.State, now.Note.RemovedAt, now.Note.RemovedBy = Standby, time.Time{}, ""
		}
		if (o.Activate || others == 0) && !d.Now().After(p.Leaf.NotAfter) { // an import puts nothing into use that has ended
			now.State = Active
		}
		out.State, out.Activated = now.State, now.State == Active && was != Active
		row.State = string(now.State)
		if err := tx.PutCertificate(ctx, row); err != nil {
			return err
		}
		n := now.Note
		n.ImportedBy, n.Key = o.Actor, ""
		if n.Key, err = certs.KeyFingerprint(p.Key.Public()); err != nil {
			return err
		}
		if out.Report.Request != "" {
			n.Request = out.Report.Request
			if err := closeRequest(ctx, tx, n.Request, p.ID); err != nil {
				return err
			}
		}
		if err := d.followed(ctx, tx, all, p.ID, o.follows, &n); err != nil {
			return err
		}
		if backup != nil {
			if err := d.noteBackup(ctx, tx, p.ID, o.Actor, &n, out.Backup, backup.Data); err != nil {
				return err
			}
		}
		out.Backup = n.Backup
		if err := d.putNote(ctx, tx, p.ID, n); err != nil {
			return err
		}
		name := "certificate_imported"
		if out.Activated {
			name = "certificate_activated"
		}
		_, err = tx.AddEvent(ctx, store.Event{Name: name, Actor: o.Actor, Detail: p.Name + " is " + string(now.State),
			Data: map[string]any{"certificate": p.ID}})
		return err
	})
	if err != nil {
		if backup != nil && !errors.Is(err, store.ErrUnknownOutcome) {
			_ = os.Remove(d.backupPath(out.Backup.File))
		}
		return out, err
	}
	d.Log.Info("cert.imported", zap.String("certificate", p.Name), zap.String("id", p.ID), zap.String("state", string(out.State)),
		zap.String("request", out.Report.Request))
	if out.State == Active {
		out.Requeued = d.requeue(ctx)
	}
	return out, nil
}

// present finds what the desk itself holds under an id.
func (d *Desk) present(ctx context.Context, id string) (e Entry, ok bool, err error) {
	all, err := d.List(ctx)
	for _, e := range all {
		if e.ID == id && e.Desk {
			return e, e.State != Removed, err
		}
	}
	return e, false, err
}

// closeRequest marks the request with this id as answered.
func closeRequest(ctx context.Context, tx *store.Tx, id, certificate string) error {
	rows, err := tx.CertificateRequests(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		v, err := viewRequest(r)
		if err != nil {
			return err
		}
		if v.ID == id {
			r.State, r.Certificate = "issued", certificate
			_, err := tx.PutCertificateRequest(ctx, r)
			return err
		}
	}
	return nil
}

// chainPEM is the leaf and every certificate of every path, once each.
func chainPEM(p *certs.Provisioning) []byte {
	all := []*x509.Certificate{p.Leaf}
	for _, path := range p.Paths {
		for _, c := range path.Certs {
			if !slices.ContainsFunc(all, c.Equal) {
				all = append(all, c)
			}
		}
	}
	var out []byte
	for _, c := range all {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
