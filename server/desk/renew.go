package desk

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Mode is how a certificate gets its successor. Whichever it is, a person
// begins: nothing renews itself.
type Mode string

const (
	// Manual makes a request, which a person orders with and imports the answer of.
	Manual Mode = "manual"
	// OwnRoot issues under the root kept here.
	OwnRoot Mode = "own-root"
)

// ParseMode reads a mode; empty stays empty, which is the certificate's own.
func ParseMode(s string) (Mode, error) {
	switch s {
	case "", string(Manual), string(OwnRoot):
		return Mode(s), nil
	case "acme", "est", "ca-api":
		return "", refused("renewal by %s is not offered: no public CA is known that issues the AMT usage (%s) by ACME, EST or an "+
			"interface of its own; use manual, or own-root for what the root kept here issued", s, certs.SetupOID())
	}
	return "", refused("there is no renewal mode %s: manual or own-root", amt.Clip(s))
}

// Renewal is how a certificate is renewed and how far that is.
type Renewal struct {
	Mode        Mode      `json:"mode,omitempty"`        // empty until somebody chose
	Request     string    `json:"request,omitempty"`     // open: its answer is the successor
	Certificate string    `json:"certificate,omitempty"` // the successor, once it is here
	By          string    `json:"by,omitempty"`
	At          time.Time `json:"at,omitzero"`
}

// Renewal is what is under way for e: a successor that was removed, and is in no
// list any more, counts as none.
func (e Entry) Renewal(all []Entry) Renewal {
	r := e.Note.Renewal
	if !slices.ContainsFunc(all, func(o Entry) bool { return o.ID == r.Certificate && o.State != Removed }) {
		r.Certificate = ""
	}
	return r
}

// RenewOptions say how to renew.
type RenewOptions struct {
	Actor  string
	Mode   Mode // empty: the one that is stored, else what suits the certificate
	DryRun bool
}

// Renewed is what a renewal did, or would do.
type Renewed struct {
	api.CertificateRenewed
	Imported *Imported // with OwnRoot: the successor, once it is taken in
}

// Renew begins the successor of a certificate, under the same names. Mode
// Manual makes a pending request that belongs to it; OwnRoot issues the
// successor at once, beside the old one. Neither takes the old one out of use.
func (d *Desk) Renew(ctx context.Context, id string, o RenewOptions) (Renewed, error) {
	all, err := d.List(ctx)
	if err != nil {
		return Renewed{}, err
	}
	old, err := find(all, id)
	if err != nil {
		return Renewed{}, err
	}
	if err := renewable(old, all); err != nil {
		return Renewed{}, err
	}
	own := d.issuedHere(ctx, old)
	if o.Mode == "" {
		o.Mode = old.Note.Renewal.Mode
	}
	if o.Mode == "" {
		if o.Mode = Manual; own {
			o.Mode = OwnRoot
		}
	}
	out := Renewed{CertificateRenewed: api.CertificateRenewed{Certificate: old.ID, Mode: string(o.Mode), DryRun: o.DryRun,
		Names: old.Names}}
	if o.Mode == OwnRoot {
		if !own {
			return out, refused("%s (%s) was not issued by the root kept here, and its devices may not know that root: renew it with "+
				"--mode manual", old.Name, old.ID)
		}
		return d.renewOwn(ctx, out, old, all, o)
	}
	return d.renewManual(ctx, out, old, all, o)
}

// renewable refuses a second renewal beside one that is under way.
func renewable(old Entry, all []Entry) error {
	switch r := old.Renewal(all); {
	case old.State == Removed:
		return refused("%s was removed; take it back first: provctl cert restore %s", old.Name, old.ID)
	case r.Request != "":
		return refused("the renewal of %s (%s) is under way already: request %s. See it with provctl cert pending %s, or give it up with "+
			"--cancel", old.Name, old.ID, r.Request, r.Request)
	case r.Certificate != "":
		return refused("%s follows %s (%s) already: provctl cert replace %s %s", r.Certificate, old.Name, old.ID, old.ID, r.Certificate)
	}
	return nil
}

// issuedHere reports whether the root kept here signed e itself.
func (d *Desk) issuedHere(ctx context.Context, e Entry) bool {
	a, err := d.authority(ctx)
	return err == nil && e.Leaf.CheckSignatureFrom(a.Certificate()) == nil
}

func (d *Desk) renewManual(ctx context.Context, out Renewed, old Entry, all []Entry, o RenewOptions) (Renewed, error) {
	r, err := certs.NewRequest(sameAgain(old))
	if err != nil {
		return out, err
	}
	out.Names, out.Roots = r.Names, rootsOf(old.Provisioning)
	if out.Keep, out.Lose, err = d.succession(ctx, old, all, old.Provisioning); err != nil {
		return out, err
	}
	if o.DryRun {
		out.Said = fmt.Sprintf("a request for %s would be made, to follow %s (%s); ordering, importing and replacing stay with a person",
			strings.Join(r.Names, ", "), old.Name, old.ID)
		return out, nil
	}
	row, err := requestRow(r, o.Actor)
	if err != nil {
		return out, err
	}
	err = d.change(ctx, store.AuditRecord{Actor: o.Actor, Action: "cert.renew", Subject: old.ID,
		Detail: map[string]any{"mode": o.Mode, "request": r.ID}}, func(tx *store.Tx) error {
		n, err := d.renewableNote(ctx, tx, old)
		if err != nil {
			return err
		}
		row.CreatedAt = tx.Now()
		if _, err := tx.PutCertificateRequest(ctx, row); err != nil {
			return err
		}
		n.Renewal = Renewal{Mode: Manual, Request: r.ID, By: o.Actor, At: tx.Now().UTC()}
		if err := d.putNote(ctx, tx, old.ID, n); err != nil {
			return err
		}
		_, err = tx.AddEvent(ctx, store.Event{Name: "certificate_renewal_begun", Actor: o.Actor,
			Detail: fmt.Sprintf("%s: request %s is to follow %s", old.Name, r.ID, old.ID),
			Data:   map[string]any{"certificate": old.ID, "request": r.ID}})
		return err
	})
	if err != nil {
		return out, fmt.Errorf("keep the request that renews %s: %w", old.ID, err)
	}
	view, err := viewRequest(row)
	view.Follows = old.ID
	out.Request = &Requested{CertificateRequest: view, OrderText: r.OrderText(), Serves: servesBy(r.Names)}
	out.Said = fmt.Sprintf("request %s is to follow %s (%s), which stays as it is", r.ID, old.Name, old.ID)
	return out, err
}

// renewableNote reads the note again under the lock of the audit's head: two
// people may renew at a time.
func (d *Desk) renewableNote(ctx context.Context, tx *store.Tx, old Entry) (Note, error) {
	all, err := d.entries(ctx, tx)
	if err != nil {
		return Note{}, err
	}
	now, err := find(all, old.ID)
	if err != nil {
		return Note{}, err
	}
	return now.Note, renewable(now, all)
}

func (d *Desk) renewOwn(ctx context.Context, out Renewed, old Entry, all []Entry, o RenewOptions) (Renewed, error) {
	files, err := d.issue(ctx, sameAgain(old), old.Leaf.NotAfter.Sub(old.Leaf.NotBefore)-certs.Backdate)
	if err != nil {
		return out, err
	}
	bundle, err := certs.ParseBundle(ctx, files)
	if err != nil {
		return out, err
	}
	next, _, err := d.join(ctx, bundle, false)
	if err != nil {
		return out, err
	}
	end := next.Leaf.NotAfter.UTC()
	if !end.After(old.Leaf.NotAfter) {
		return out, refused("the root kept here ends on %s itself, so that nothing it issues outlives %s (%s)", end.Format(time.DateOnly),
			old.Name, old.ID)
	}
	out.Names, out.Roots, out.NotAfter = next.Names, rootsOf(next), &end
	if out.Keep, out.Lose, err = d.succession(ctx, old, all, next); err != nil {
		return out, err
	}
	if o.DryRun {
		out.Said = fmt.Sprintf("%s would be issued until %s, beside %s (%s), which stays as it is", strings.Join(next.Names, ", "),
			end.Format(time.DateOnly), old.Name, old.ID)
		return out, nil
	}
	made, err := d.Import(ctx, ImportOptions{Files: files, Actor: o.Actor, follows: old.ID})
	if err != nil {
		return out, err
	}
	out.Imported = &made
	out.Said = fmt.Sprintf("%s is to follow %s (%s), which stays as it is", made.Report.ID, old.Name, old.ID)
	return out, nil
}

// succession says what next does for the fleet in the place of old: which
// devices only old serves and next would, and which would be without any.
func (d *Desk) succession(ctx context.Context, old Entry, all []Entry, next *certs.Provisioning) (keep, lose []Group, err error) {
	var without []*certs.Provisioning
	for _, p := range inUse(all) {
		if p.ID != old.ID {
			without = append(without, p)
		}
	}
	with := append(slices.Clone(without), next)
	if keep, _, err = d.impact(ctx, without, with); err != nil {
		return nil, nil, err
	}
	_, lose, err = d.impact(ctx, append(slices.Clone(without), old.Provisioning), with)
	return keep, lose, err
}

// sameAgain asks for a certificate with the names and options of e. Private
// names are let through: whoever issued them once can do so again.
func sameAgain(e Entry) certs.RequestOptions {
	first := func(list []string) string { return strings.Join(list[:min(len(list), 1)], "") }
	s := e.Leaf.Subject
	o := certs.RequestOptions{
		CommonName: e.Names[0], Names: e.Names[1:], Organization: first(s.Organization), Country: first(s.Country),
		Province: first(s.Province), Locality: first(s.Locality),
		LegacyOU: slices.Contains(s.OrganizationalUnit, certs.SetupOU), PrivateNames: true,
	}
	if key, ok := e.Leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() == 3072 {
		o.Bits = 3072
	}
	return o
}

func rootsOf(p *certs.Provisioning) []string {
	out := []string{}
	for _, path := range p.Paths {
		if name := nameOf(path.Root()); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

func nameOf(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return c.Subject.String()
}

// followed joins what was just imported with the certificate it was made to
// follow: the one whose renewal its request belongs to, or follows.
func (d *Desk) followed(ctx context.Context, tx *store.Tx, all []Entry, id, follows string, n *Note) error {
	for _, old := range all {
		byRequest := n.Request != "" && old.Note.Renewal.Request == n.Request
		if old.ID == id || !byRequest && old.ID != follows {
			continue
		}
		if follows != "" {
			if err := renewable(old, all); err != nil {
				return err
			}
			old.Note.Renewal = Renewal{Mode: OwnRoot, At: tx.Now().UTC(), By: n.ImportedBy}
		}
		old.Note.Renewal.Request, old.Note.Renewal.Certificate = "", id
		n.Follows, n.Renewal.Mode = old.ID, old.Note.Renewal.Mode
		return d.putNote(ctx, tx, old.ID, old.Note)
	}
	return nil
}

// givenUp ends the renewal that a request was made for.
func (d *Desk) givenUp(ctx context.Context, tx *store.Tx, request string) error {
	all, err := d.entries(ctx, tx)
	if err != nil {
		return err
	}
	for _, e := range all {
		if e.Note.Renewal.Request == request {
			e.Note.Renewal.Request = ""
			return d.putNote(ctx, tx, e.ID, e.Note)
		}
	}
	return nil
}

// nextStep is the command that brings e's successor nearer.
func nextStep(e Entry, all []Entry) string {
	switch r := e.Renewal(all); {
	case r.Certificate != "":
		return fmt.Sprintf("%s follows it: provctl cert replace %s %s", r.Certificate, e.ID, r.Certificate)
	case r.Request != "":
		return fmt.Sprintf("renewal under way: request %s, then provctl cert import FILE", r.Request)
	}
	return "provctl cert renew " + e.ID
}
