package api

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Authorisation is one entry of the list of authorised devices.
type Authorisation struct {
	ID        int64      `json:"id"`
	Kind      string     `json:"kind" doc:"uuid, serial, mac or network"`
	Value     string     `json:"value"`
	Profile   string     `json:"profile"`
	FQDN      string     `json:"fqdn"`
	Note      string     `json:"note"`
	CreatedBy string     `json:"created_by"`
	CreatedAt *time.Time `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	UsedAt    *time.Time `json:"used_at" doc:"when a device was last let in by it"`
}

// AuthorisationPage is one page of the list.
type AuthorisationPage struct {
	Authorisations []Authorisation `json:"authorisations"`
	Next           int64           `json:"next" doc:"give it as after; 0 on the last page"`
}

// AuthorisationQuery pages through the list.
type AuthorisationQuery struct {
	After int64 `query:"after" minimum:"0"`
	Limit int   `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
}

// ImportInput is a list of devices to let in.
type ImportInput struct {
	Body DeviceImport
}

// DeviceImport is the file, and whether to do it or only to say what would be done.
type DeviceImport struct {
	Document string `json:"document,omitempty" maxLength:"33554432" doc:"CSV with a heading, or a JSON list of objects: uuid, serial, mac, network, address, fqdn, profile, tags, note, expires, fingerprint, trust_first; the address is where a device that says no hello is found, fingerprint the SHA-256 of the certificate it shows, trust_first instead of that believes whoever answers first"`
	File     []byte `json:"file,omitempty" doc:"the list's file as it is, instead of document: UTF-8 or UTF-16, with commas, semicolons or tabs"`
	DryRun   bool   `json:"dry_run,omitempty" doc:"say what would be done and do nothing"`
}

// ImportReport says what an import does. A file with a problem in it changes nothing.
type ImportReport struct {
	DryRun   bool            `json:"dry_run"`
	Rows     int             `json:"rows"`
	New      int             `json:"new" doc:"entries that were not on the list"`
	Changed  int             `json:"changed" doc:"entries that let in with something else than before"`
	Same     int             `json:"same"`
	Names    int             `json:"names" doc:"names assigned"`
	Vouched  int             `json:"vouched" doc:"devices for whose certificate the list vouches"`
	Waiting  int             `json:"waiting" doc:"devices that wait for approval and are on the list now"`
	Started  int             `json:"started" doc:"runs that began at once"`
	Problems []ImportProblem `json:"problems"`
	Read     string          `json:"read,omitempty" doc:"what the file was taken for: encoding, separator, columns"`
	First    []ImportRow     `json:"first,omitempty" doc:"dry run: the first rows, as they were understood"`
}

// Removed says what is gone.
type Removed struct {
	Removed string `json:"removed"`
}

// AuthorisationID names an entry in a path.
type AuthorisationID struct {
	ID int64 `path:"id" minimum:"1"`
}

// NameInput gives a device a name.
type NameInput struct {
	OneDevice
	Body NewName
}

// NewName is a device's name; empty takes the assigned one away.
type NewName struct {
	FQDN string `json:"fqdn" maxLength:"255"`
	Note string `json:"note,omitempty" maxLength:"500"`
}

// AdoptInput tells a password that a device may have.
type AdoptInput struct {
	OneDevice
	Body Adoption
}

// Adoption is a password known from elsewhere.
type Adoption struct {
	Password string `json:"password" minLength:"1" maxLength:"32" doc:"of the profile's admin user; kept sealed, and tried once"`
	Vouch
	Note string `json:"note,omitempty" maxLength:"500"`
}

func (s *Server) admissionRoutes(api huma.API) {
	tags := []string{"admission"}
	add(s, api, huma.Operation{OperationID: "list-authorisations", Method: http.MethodGet, Path: "/api/v1/authorisations", Summary: "List authorised devices", Tags: tags}, s.listAuthorisations)
	add(s, api, huma.Operation{OperationID: "import-authorisations", Method: http.MethodPost, Path: "/api/v1/authorisations/import", Summary: "Authorise devices from a list", MaxBodyBytes: 40 << 20, BodyReadTimeout: time.Minute,
		Description: "Devices that wait for approval and are on the list are let in at once.", Tags: tags}, s.importAuthorisations)
	add(s, api, huma.Operation{OperationID: "remove-authorisation", Method: http.MethodDelete, Path: "/api/v1/authorisations/{id}", Summary: "Take an entry off the list", Description: "Devices it has let in stay.", Tags: tags}, s.removeAuthorisation)
	add(s, api, huma.Operation{OperationID: "name-device", Method: http.MethodPut, Path: "/api/v1/devices/{uuid}/name", Summary: "Give a device its name", Description: "Also a device never heard of. An empty name takes the assigned one away.", Tags: []string{"devices"}}, s.nameDevice)
	add(s, api, huma.Operation{OperationID: "adopt-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/adopt", Summary: "Try a password known from elsewhere", Description: "It is tried before all others, within the limit of three tries an hour that keeps a device from locking us out.", Tags: []string{"devices"}}, s.adoptDevice)
}

func toAuthorisation(a store.AuthorisedDevice) Authorisation {
	return Authorisation{ID: a.ID, Kind: a.Kind, Value: clean(a.Value), Profile: clean(a.Profile), FQDN: clean(a.FQDN), Note: clean(a.Note), CreatedBy: a.CreatedBy,
		CreatedAt: timeOrNull(a.CreatedAt), ExpiresAt: timeOrNull(a.ExpiresAt), UsedAt: timeOrNull(a.UsedAt)}
}

func (s *Server) listAuthorisations(ctx context.Context, in *AuthorisationQuery) (AuthorisationPage, error) {
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	page := AuthorisationPage{Authorisations: []Authorisation{}}
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

func (s *Server) importAuthorisations(ctx context.Context, in *ImportInput) (ImportReport, error) {
	who, _ := PrincipalOf(ctx)
	text := in.Body.File
	if len(text) == 0 {
		text = []byte(in.Body.Document)
	}
	rows, read, problems := readImport(text, s.now())
	rep := ImportReport{DryRun: in.Body.DryRun, Rows: len(rows), Problems: problems, Read: read}
	if in.Body.DryRun && len(problems) == 0 {
		rep.First = rows[:min(len(rows), 3)]
	}
	if rep.Problems == nil {
		rep.Problems = []ImportProblem{}
	}
	if err := s.db.Read(ctx, func(tx *store.Tx) error { return rep.compare(ctx, tx, rows) }); err != nil {
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
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "authorisation.import", Subject: fmt.Sprintf("%d devices", len(rows)), Detail: map[string]any{"new": rep.New, "changed": rep.Changed, "names": rep.Names, "vouched_for": rep.Vouched}})
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

// compare counts what would change, and finds what only the store can know.
func (rep *ImportReport) compare(ctx context.Context, tx *store.Tx, rows []ImportRow) error {
	profiles := map[string]bool{"": true, "default": true}
	all, err := tx.Profiles(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		profiles[p.Name] = true
	}
	for _, r := range rows {
		if !profiles[r.Profile] {
			rep.Problems = append(rep.Problems, ImportProblem{r.line, "there is no profile " + clip(r.Profile, 64)})
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
		if r.word.given() {
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

func authorise(ctx context.Context, tx *store.Tx, r ImportRow, actor string) error {
	for _, e := range r.entries() {
		if _, err := tx.Authorise(ctx, store.AuthorisedDevice{Kind: e.kind, Value: e.value, Profile: r.Profile, FQDN: r.FQDN, Note: r.Note, CreatedBy: actor, ExpiresAt: r.expires}); err != nil {
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
	if f.Tags == nil && f.Serial == nil && r.MAC == "" && !r.address.IsValid() && !r.word.given() {
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
	if !managed(d.Lifecycle) { // whose key is known
		if err := r.vouch(ctx, tx); err != nil {
			return err
		}
	}
	f.MAC = nil // what the device itself said is better
	if r.address.IsValid() {
		if err := moveDevice(ctx, tx, d, r.address, by, "", actor); err != nil {
			return err
		}
		f.Address, f.AddressBy = nil, nil
	}
	return tx.UpdateDevice(ctx, r.uuid, f)
}

func (s *Server) removeAuthorisation(ctx context.Context, in *AuthorisationID) (Removed, error) {
	who, _ := PrincipalOf(ctx)
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Unauthorise(ctx, in.ID); errors.Is(err, store.ErrNotFound) {
			return notFound("no entry %d on the list of authorised devices", in.ID)
		} else if err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "authorisation.remove", Subject: fmt.Sprint(in.ID)})
	})
	return Removed{Removed: fmt.Sprint(in.ID)}, err
}

// Named says what a device is called now.
type Named struct {
	UUID    string `json:"uuid"`
	FQDN    string `json:"fqdn"`
	Started int    `json:"started" doc:"runs that began at once"`
}

func (s *Server) nameDevice(ctx context.Context, in *NameInput) (Named, error) {
	who, _ := PrincipalOf(ctx)
	u, err := s.which(ctx, in.UUID)
	if err != nil {
		return Named{}, err
	}
	row := ImportRow{UUID: u.String(), FQDN: in.Body.FQDN}
	if bad := row.check(s.now()); len(bad) > 0 {
		return Named{}, problem(http.StatusUnprocessableEntity, CodeInvalid, "%s", bad[0])
	}
	if err := s.db.Write(ctx, func(tx *store.Tx) error { return s.putName(ctx, tx, u, row.FQDN, clean(in.Body.Note), who) }); err != nil {
		return Named{}, err
	}
	n, err := s.reconsider(ctx)
	return Named{UUID: u.String(), FQDN: row.FQDN, Started: n}, err
}

func (s *Server) putName(ctx context.Context, tx *store.Tx, u amt.UUID, fqdn, note string, who Principal) error {
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
	return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "device.name", Subject: u.String(), Detail: map[string]any{"fqdn": fqdn}})
}

// callDevice has a known device called fqdn from now on; a managed one hears of
// it at its next maintenance.
func callDevice(ctx context.Context, tx *store.Tx, d store.Device, fqdn, note, actor string) error {
	if err := tx.UpdateDevice(ctx, d.UUID, store.DeviceFacts{FQDN: &fqdn}); err != nil {
		return err
	}
	_, err := tx.AddEvent(ctx, store.Event{UUID: d.UUID, Name: "identity_resolved", Actor: actor, Detail: fqdn, Data: map[string]any{"previous": d.FQDN, "note": note}})
	return err
}

// adoptDevice keeps a password as the newest candidate. The run that waits takes it
// with it and is brought forward, or a new one begins; where the device takes the
// password it is under management.
func (s *Server) adoptDevice(ctx context.Context, in *AdoptInput) (ActionResult, error) {
	return s.command(ctx, &ActionInput{OneDevice: in.OneDevice, Body: &Action{Note: in.Body.Note}}, "adopt", func(c *command) error {
		if c.live != nil && c.live.State == store.RunRunning {
			return busy(*c.live)
		}
		mebx, err := amt.NewMEBxPassword(rand.Reader)
		if err != nil {
			return err
		}
		if _, err := c.tx.StageCredentials(c.ctx, c.device.UUID, 0, amt.NewSecret(in.Body.Password), mebx); err != nil {
			return err
		}
		if err := c.vouch(in.Body.Vouch); err != nil {
			return err
		}
		if c.live == nil {
			err = c.start("adopted", "it is tried now")
		} else {
			err = c.hasten("adopted")
		}
		c.said = "the password is kept; " + c.said + c.unvouched()
		return err
	})
}

// profileKnown reports whether a profile of this name can be assigned.
func profileKnown(ctx context.Context, tx *store.Tx, name string) (bool, error) {
	if name == "" || name == profile.Default().Name {
		return true, nil
	}
	_, err := tx.Profile(ctx, name, 0)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
