package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// ImportInput is a list of devices to let in.
type ImportInput struct {
	Body api.DeviceImport
}

// AuthorisationID names an entry in a path.
type AuthorisationID struct {
	ID int64 `path:"id" minimum:"1"`
}

// NameInput gives a device a name.
type NameInput struct {
	OneDevice
	Body api.NewName
}

// AdoptInput tells a password that a device may have.
type AdoptInput struct {
	OneDevice
	Body api.Adoption
}

func (s *Server) admissionRoutes(to huma.API) {
	tags := []string{"admission"}
	add(s, to, huma.Operation{OperationID: "list-authorisations", Method: http.MethodGet, Path: "/api/v1/authorisations",
		Summary: "List authorised devices", Tags: tags}, s.listAuthorisations)
	add(s, to, huma.Operation{OperationID: "import-authorisations", Method: http.MethodPost, Path: "/api/v1/authorisations/import",
		Summary: "Authorise devices from a list", MaxBodyBytes: 40 << 20, BodyReadTimeout: time.Minute,
		Description: "Devices that wait for approval and are on the list are let in at once.", Tags: tags}, s.importAuthorisations)
	add(s, to, huma.Operation{OperationID: "remove-authorisation", Method: http.MethodDelete, Path: "/api/v1/authorisations/{id}",
		Summary: "Take an entry off the list", Description: "Devices it has let in stay.", Tags: tags}, s.removeAuthorisation)
	add(s, to, huma.Operation{OperationID: "name-device", Method: http.MethodPut, Path: "/api/v1/devices/{uuid}/name",
		Summary: "Give a device its name", Description: "Also a device never heard of. An empty name takes the assigned one away.",
		Tags: []string{"devices"}}, s.nameDevice)
	add(s, to, huma.Operation{OperationID: "adopt-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/adopt",
		Summary:     "Try a password known from elsewhere",
		Description: "It is tried before all others, within the limit of three tries an hour that keeps a device from locking us out.",
		Tags:        []string{"devices"}}, s.adoptDevice)
}

func toAuthorisation(a store.AuthorisedDevice) api.Authorisation {
	return api.Authorisation{ID: a.ID, Kind: a.Kind, Value: api.Clean(a.Value), Profile: api.Clean(a.Profile), FQDN: api.Clean(a.FQDN),
		Note: api.Clean(a.Note), CreatedBy: a.CreatedBy,
		CreatedAt: timeOrNull(a.CreatedAt), ExpiresAt: timeOrNull(a.ExpiresAt), UsedAt: timeOrNull(a.UsedAt)}
}

func (s *Server) listAuthorisations(ctx context.Context, in *api.AuthorisationQuery) (api.AuthorisationPage, error) {
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	page := api.AuthorisationPage{Authorisations: []api.Authorisation{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		list, err := tx.AuthorisedDevices(ctx, in.After, limit)
		for _, a := range list {
			page.Authorisations = append(page.Authorisations, toAuthorisation(a))
		}
		if len(list) == limit {
			page.Next = list[limit-1].ID
		}
		return err
	})
	return page, err
}

// importChunk is how many rows one transaction takes, so that hellos do not
// wait behind a large file. Each row stands by itself, and doing it twice is
// doing it once.
const importChunk = 500

func (s *Server) importAuthorisations(ctx context.Context, in *ImportInput) (api.ImportReport, error) {
	who, _ := PrincipalOf(ctx)
	text := in.Body.File
	if len(text) == 0 {
		text = []byte(in.Body.Document)
	}
	rows, read, problems := readImport(text, s.now())
	rep := api.ImportReport{DryRun: in.Body.DryRun, Rows: len(rows), Problems: problems, Read: read}
	if in.Body.DryRun && len(problems) == 0 {
		for _, r := range rows[:min(len(rows), 3)] {
			rep.First = append(rep.First, r.ImportRow)
		}
	}
	if rep.Problems == nil {
		rep.Problems = []api.ImportProblem{}
	}
	if err := s.db.Read(ctx, func(tx *store.Tx) error { return compareImport(ctx, tx, &rep, rows) }); err != nil {
		return rep, err
	}
	if len(rep.Problems) > 0 || in.Body.DryRun {
		return rep, nil
	}
	for from := 0; from < len(rows); from += importChunk {
		if err := s.db.Write(ctx, func(tx *store.Tx) error {
			for _, r := range rows[from:min(from+importChunk, len(rows))] {
				if err := authorise(ctx, tx, r, who.Actor()); err != nil {
					return fmt.Errorf("line %d: %w", r.line, err)
				}
			}
			return nil
		}); err != nil {
			return rep, err
		}
	}
	if err := s.db.Write(ctx, func(tx *store.Tx) error {
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "authorisation.import",
			Subject: fmt.Sprintf("%d devices", len(rows)),
			Detail:  map[string]any{"new": rep.New, "changed": rep.Changed, "names": rep.Names, "vouched_for": rep.Vouched}})
	}); err != nil {
		return rep, err
	}
	var err error
	rep.Started, err = s.reconsider(ctx)
	return rep, err
}

// reconsider lets in at once what waited for what was just changed.
func (s *Server) reconsider(ctx context.Context) (int, error) {
	if s.Reconsider == nil {
		return 0, nil
	}
	return s.Reconsider(ctx)
}

// wouldStart counts what reconsider would begin, for a dry run.
func (s *Server) wouldStart(ctx context.Context, rules []profile.Rule, made string) (n int, err error) {
	if s.WouldStart == nil {
		return 0, nil
	}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		n, err = s.WouldStart(ctx, tx, rules, made)
		return err
	})
	return n, err
}

// compareImport counts what would change, and finds what only the store can know.
func compareImport(ctx context.Context, tx *store.Tx, rep *api.ImportReport, rows []importRow) error {
	profiles := map[string]bool{"": true, "default": true}
	all, err := tx.Profiles(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		profiles[p.Name] = true
	}
	for _, r := range rows {
		if r.garbled {
			continue // its problem is in the report
		}
		if !profiles[r.Profile] {
			rep.Problems = append(rep.Problems, api.ImportProblem{Line: r.line, Problem: "there is no profile " + api.Clip(r.Profile, 64)})
		}
		for _, e := range r.entries() {
			have, err := tx.AuthorisationOf(ctx, e.kind, e.value)
			switch {
			case errors.Is(err, store.ErrNotFound):
				rep.New++
			case err != nil:
				return err
			case have.Profile != r.Profile || have.FQDN != r.FQDN || have.Note != r.Note || !have.ExpiresAt.Equal(r.expires):
				rep.Changed++
			default:
				rep.Same++
			}
		}
		if r.uuid.IsZero() {
			continue
		}
		if operate.Vouches(r.word) {
			rep.Vouched++
		}
		if r.FQDN != "" {
			if n, err := tx.NameOf(ctx, r.uuid); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			} else if n.FQDN != r.FQDN {
				rep.Names++
			}
		}
		if d, err := tx.Device(ctx, r.uuid); err == nil && d.Lifecycle == store.PendingApproval && d.Reason == reason.NotAuthorized {
			rep.Waiting++
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

func authorise(ctx context.Context, tx *store.Tx, r importRow, actor string) error {
	for _, e := range r.entries() {
		if _, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: e.kind, Value: e.value, Profile: r.Profile, FQDN: r.FQDN, Note: r.Note,
			CreatedBy: actor, ExpiresAt: r.expires}); err != nil {
			return err
		}
	}
	if r.uuid.IsZero() {
		return nil
	}
	if r.FQDN != "" {
		if err := tx.PutName(ctx, store.Name{UUID: r.uuid, FQDN: r.FQDN, Source: "import"}); err != nil {
			return err
		}
		d, err := tx.Device(ctx, r.uuid)
		if err == nil && !strings.EqualFold(d.FQDN, r.FQDN) {
			err = callDevice(ctx, tx, d, r.FQDN, "", actor)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	// What a rule may ask for is kept beside the device, heard of or not.
	var f store.DeviceFacts
	if len(r.Tags) > 0 {
		f.Tags = &r.Tags
	}
	if r.Serial != "" {
		f.Serial = &r.Serial
	}
	if f.Tags == nil && f.Serial == nil && r.MAC == "" && !r.address.IsValid() && !operate.Vouches(r.word) {
		return nil
	}
	if r.MAC != "" {
		f.MAC = &r.MAC
	}
	if r.FQDN != "" {
		f.FQDN = &r.FQDN
	}
	by := store.ByImport
	if r.address.IsValid() {
		f.Address, f.AddressBy = &r.address, &by
	}
	err := tx.ImportDevice(ctx, r.uuid, actor, f)
	if err == nil {
		return r.vouch(ctx, tx)
	}
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	d, err := tx.Device(ctx, r.uuid)
	if err != nil {
		return err
	}
	if !d.Lifecycle.Managed() { // whose key is known
		if err := r.vouch(ctx, tx); err != nil {
			return err
		}
	}
	f.MAC = nil // what the device itself said is better
	if r.address.IsValid() {
		if err := operate.MoveDevice(ctx, tx, d, r.address, by, "", actor); err != nil {
			return err
		}
		f.Address, f.AddressBy = nil, nil
	}
	return tx.UpdateDevice(ctx, r.uuid, f)
}

func (s *Server) removeAuthorisation(ctx context.Context, in *AuthorisationID) (api.Removed, error) {
	who, _ := PrincipalOf(ctx)
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Unauthorise(ctx, in.ID); errors.Is(err, store.ErrNotFound) {
			return operate.NoSuch("no entry %d on the list of authorised devices", in.ID)
		} else if err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "authorisation.remove", Subject: fmt.Sprint(in.ID)})
	})
	return api.Removed{Removed: fmt.Sprint(in.ID)}, err
}

func (s *Server) nameDevice(ctx context.Context, in *NameInput) (api.Named, error) {
	who, _ := PrincipalOf(ctx)
	u, err := s.which(ctx, in.UUID)
	if err != nil {
		return api.Named{}, err
	}
	row := importRow{ImportRow: api.ImportRow{UUID: u.String(), FQDN: in.Body.FQDN}}
	if bad := row.check(s.now()); len(bad) > 0 {
		return api.Named{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "%s", bad[0])
	}
	if err := s.db.Write(ctx, func(tx *store.Tx) error {
		return s.putName(ctx, tx, u, row.FQDN, api.Clean(in.Body.Note),
			who)
	}); err != nil {
		return api.Named{}, err
	}
	n, err := s.reconsider(ctx)
	return api.Named{UUID: u.String(), FQDN: row.FQDN, Started: n}, err
}

func (s *Server) putName(ctx context.Context, tx *store.Tx, u amt.UUID, fqdn, note string, who operate.Principal) error {
	var err error
	if fqdn == "" {
		if err = tx.DeleteName(ctx, u); errors.Is(err, store.ErrNotFound) {
			err = nil
		}
	} else {
		err = tx.PutName(ctx, store.Name{UUID: u, FQDN: fqdn, Source: "api"})
	}
	if err != nil {
		return err
	}
	d, err := tx.Device(ctx, u)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return err
	default:
		if err := callDevice(ctx, tx, d, fqdn, note, who.Actor()); err != nil {
			return err
		}
	}
	return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "device.name", Subject: u.String(),
		Detail: map[string]any{"fqdn": fqdn}})
}

// callDevice has a known device called fqdn from now on; a managed one hears of
// it at its next maintenance.
func callDevice(ctx context.Context, tx *store.Tx, d store.Device, fqdn, note, actor string) error {
	if err := tx.UpdateDevice(ctx, d.UUID, store.DeviceFacts{FQDN: &fqdn}); err != nil {
		return err
	}
	_, err := tx.AddEvent(ctx, store.Event{UUID: d.UUID, Name: "identity_resolved", Actor: actor, Detail: fqdn,
		Data: map[string]any{"previous": d.FQDN, "note": note}})
	return err
}

func (s *Server) adoptDevice(ctx context.Context, in *AdoptInput) (api.ActionResult, error) {
	return s.command(ctx, in.UUID, operate.Command{Verb: operate.Adopt, Note: in.Body.Note, Vouch: in.Body.Vouch,
		Password: amt.NewSecret(in.Body.Password)})
}
