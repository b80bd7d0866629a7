package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// ProfileInput is a new version.
type ProfileInput struct {
	Name string `path:"name" pattern:"^[a-z0-9][a-z0-9._-]{0,62}$" patternDescription:"lower-case letters, digits, dots, hyphens and underscores"`
	Body api.NewProfile
}

func (s *Server) profileRoutes(to huma.API) {
	tags := []string{"rules"}
	add(s, to, huma.Operation{OperationID: "list-profiles", Method: http.MethodGet, Path: "/api/v1/profiles",
		Summary: "The newest version of each profile", Tags: tags}, s.listProfiles)
	add(s, to, huma.Operation{OperationID: "get-profile", Method: http.MethodGet, Path: "/api/v1/profiles/{name}",
		Summary: "One version of a profile", Tags: tags}, s.getProfile)
	add(s, to, huma.Operation{OperationID: "apply-profile", Method: http.MethodPut, Path: "/api/v1/profiles/{name}",
		Summary: "Keep a new version of a profile",
		Description: "Versions are never changed: going back to one makes a new one that says the same. A document like the newest one " +
			"makes no new version.", Tags: tags}, s.applyProfile)
	add(s, to, huma.Operation{OperationID: "list-profile-versions", Method: http.MethodGet, Path: "/api/v1/profiles/{name}/versions",
		Summary: "The versions of a profile, newest first, and what each changed", Tags: tags}, s.profileHistory)
}

// configured is the profile of the configuration, which is called default.
func (s *Server) configured() store.Profile {
	p := profile.Default()
	if s.DefaultProfile.Name != "" {
		p = s.DefaultProfile
	}
	doc, _ := json.Marshal(p) // texts, numbers and lists of texts
	return store.Profile{Name: p.Name, Version: p.Version, Document: doc, CreatedBy: "configuration"}
}

// documentOf reads what a version says.
func documentOf(p store.Profile) (profile.Profile, error) {
	doc := profile.Default()
	if err := json.Unmarshal(p.Document, &doc); err != nil {
		return doc, fmt.Errorf("profile %s version %d: %w", p.Name, p.Version, err)
	}
	doc.Name, doc.Version = p.Name, p.Version
	return doc, nil
}

func profileView(p store.Profile) (api.ProfileView, error) {
	doc, err := documentOf(p)
	return api.ProfileView{Name: p.Name, Version: p.Version, Profile: toProfile(doc), CreatedBy: p.CreatedBy,
		CreatedAt: timeOrNull(p.CreatedAt)}, err
}

func (s *Server) listProfiles(ctx context.Context, _ *none) (api.ProfileList, error) {
	out := api.ProfileList{Profiles: []api.ProfileView{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		all, err := tx.Profiles(ctx)
		if err != nil {
			return err
		}
		if own := s.configured(); !slices.ContainsFunc(all, func(p store.Profile) bool { return p.Name == own.Name }) {
			all = append([]store.Profile{own}, all...)
		}
		for _, p := range all {
			v, err := profileView(p)
			if err != nil {
				return err
			}
			out.Profiles = append(out.Profiles, v)
		}
		return nil
	})
	return out, err
}

func (s *Server) getProfile(ctx context.Context, in *api.ProfileQuery) (out api.ProfileView, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		one := func(version int) (kept store.Profile, doc profile.Profile, err error) {
			kept, err = tx.Profile(ctx, in.Name, version)
			if errors.Is(err, store.ErrNotFound) {
				own := s.configured()
				switch {
				case in.Name == own.Name && version == 0:
					kept, err = own, nil
				case version == 0:
					return kept, doc, operate.NoSuch("there is no profile %s; provctl profile list shows them", api.Clip(in.Name, 64))
				default:
					return kept, doc, noVersion(in.Name, version)
				}
			}
			if err == nil {
				doc, err = documentOf(kept)
			}
			return kept, doc, err
		}
		kept, doc, err := one(in.Version)
		if err == nil {
			out, err = profileView(kept)
		}
		if err != nil || in.Against == 0 {
			return err
		}
		_, other, err := one(in.Against)
		out.Changes = toChanges(profile.Differences(other, doc))
		return err
	})
	return out, err
}

func noVersion(name string, version int) error {
	name = api.Clip(name, 64)
	return operate.NoSuch("there is no version %d of the profile %s; provctl profile history %s lists them", version, name, name)
}

// wantedProfile is the document of a request, checked: one that was sent, or that of an
// older version.
func wantedProfile(ctx context.Context, tx *store.Tx, in *ProfileInput) (p profile.Profile, err error) {
	p = profile.Default()
	switch {
	case in.Body.Version > 0 && in.Body.Document != nil:
		return p, operate.WrongField("body.version", "give a document, or the version to go back to, not both")
	case in.Body.Version > 0:
		kept, err := tx.Profile(ctx, in.Name, in.Body.Version)
		if errors.Is(err, store.ErrNotFound) {
			return p, noVersion(in.Name, in.Body.Version)
		}
		if err != nil {
			return p, err
		}
		if p, err = documentOf(kept); err != nil {
			return p, err
		}
		if p.TLS == profile.TLSNone {
			p.Unprotected = true // one kept before that word was wanted stays good
		}
	case in.Body.Document == nil:
		return p, operate.WrongField("body.document", "give a document, or the version to go back to")
	default:
		if err := api.Strictly(in.Body.Document, &p); err != nil {
			return p, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "the profile cannot be read: %v", err)
		}
	}
	p.Name, p.Version = in.Name, 0
	if err := p.Validate(); err != nil {
		return p, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "the profile cannot be used: %v", err)
	}
	return p, nil
}

// newest is the version that devices are made by until another one is kept; ok
// reports that there is one. stored says whether it is in the database or the
// configuration's.
func (s *Server) newest(ctx context.Context, tx *store.Tx, name string) (v store.Profile, doc profile.Profile, stored, ok bool, err error) {
	v, err = tx.Profile(ctx, name, 0)
	stored = err == nil
	if errors.Is(err, store.ErrNotFound) {
		if v, err = s.configured(), nil; v.Name != name {
			return v, doc, false, false, nil
		}
	}
	if err == nil {
		doc, err = documentOf(v)
	}
	return v, doc, stored, err == nil, err
}

func (s *Server) applyProfile(ctx context.Context, in *ProfileInput) (out api.ProfileView, err error) {
	who, _ := PrincipalOf(ctx)
	do := s.db.Write
	if in.Body.DryRun {
		do = s.db.Read
	}
	same := false
	err = do(ctx, func(tx *store.Tx) error {
		p, err := wantedProfile(ctx, tx, in)
		if err != nil {
			return err
		}
		doc, err := json.Marshal(p)
		if err != nil {
			return err
		}
		last, before, stored, ok, err := s.newest(ctx, tx, in.Name)
		if err != nil {
			return err
		}
		changes, devices := []profile.Change(nil), 0
		if ok {
			changes = profile.Differences(before, p)
		}
		if same = stored && len(changes) == 0; same {
			out, err = profileView(last)
			return err
		}
		if ok {
			if devices, err = tx.CountMatching(ctx,
				store.DeviceFilter{Profile: in.Name, Lifecycle: operate.Eligible(operate.Maintain)}); err != nil {
				return err
			}
		}
		from := profile.Default()
		if ok {
			from = before
		}
		risks := toRisks(profile.Risks(from, p))
		if in.Body.DryRun {
			out = api.ProfileView{Name: in.Name, Profile: toProfile(p), Changes: toChanges(changes), Devices: devices, Risks: risks,
				Waves: wavesOf(devices, s.Canary)}
			return nil
		}
		next := 0
		if ok && !stored {
			// The configuration's is version 1, and devices may have been made by it.
			next = before.Version + 1
		}
		version, err := tx.PutProfile(ctx, store.Profile{Name: in.Name, Version: next, Document: doc, CreatedBy: who.Actor()})
		if err != nil {
			return err
		}
		kept, err := tx.Profile(ctx, in.Name, version)
		if err != nil {
			return err
		}
		if out, err = profileView(kept); err != nil {
			return err
		}
		out.Changes, out.Devices, out.Risks, out.Waves = toChanges(changes), devices, risks, wavesOf(devices, s.Canary)
		detail := map[string]any{"version": version}
		if in.Body.Version > 0 {
			detail["back_to"] = in.Body.Version
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "profile.apply", Subject: in.Name, Detail: detail})
	})
	switch {
	case err != nil || same:
	case in.Body.DryRun:
		out.Started, err = s.wouldStart(ctx, nil, in.Name)
	default:
		out.Started, err = s.reconsider(ctx)
	}
	return out, err
}

func (s *Server) profileHistory(ctx context.Context, in *api.ProfileHistoryQuery) (api.ProfileHistory, error) {
	out := api.ProfileHistory{Versions: []api.ProfileView{}}
	limit := in.Limit
	if limit == 0 {
		limit = 50
	}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		page, err := tx.ProfilePage(ctx, in.Name, in.Before, limit+1) // one more, for what the last one changed
		if err != nil {
			return err
		}
		if own := s.configured(); len(page) == 0 && own.Name == in.Name && in.Before == 0 {
			page = append(page, own)
		}
		var newer profile.Profile
		for i, p := range page {
			v, err := profileView(p)
			if err != nil {
				return err
			}
			doc, err := documentOf(p)
			if err != nil {
				return err
			}
			if i > 0 {
				out.Versions[i-1].Changes = toChanges(profile.Differences(doc, newer))
			}
			newer = doc
			if i == limit {
				out.Next = page[i-1].Version
				break
			}
			out.Versions = append(out.Versions, v)
		}
		if len(out.Versions) == 0 && in.Before == 0 {
			return operate.NoSuch("there is no profile %s; provctl profile list shows them", api.Clip(in.Name, 64))
		}
		return nil
	})
	return out, err
}
