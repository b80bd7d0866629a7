package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// ProfileChange is one key that two versions differ in.
type ProfileChange = profile.Change

// ProfileView is one version of a profile.
type ProfileView struct {
	Name      string          `json:"name"`
	Version   int             `json:"version" doc:"0: the configuration's, not stored"`
	Profile   profile.Profile `json:"profile"`
	CreatedBy string          `json:"created_by"`
	CreatedAt *time.Time      `json:"created_at"`

	Changes []profile.Change `json:"changes,omitempty" doc:"what it says otherwise than the version before: in a history, and in the answer to a new version; or otherwise than the version of against"`
	Devices int              `json:"devices,omitempty" doc:"in the answer to a new version: devices under management with this profile, which differ from it now and are brought to it by a rollout, a job that goes in waves"`
	Waves   []Wave           `json:"waves,omitempty" doc:"in the answer to a new version: how those devices go. The first device that is lost stops the rest"`
	Started int              `json:"started,omitempty" doc:"in the answer to a new version: runs that began at once, of devices that waited for the profile; in a dry run: that would begin"`
	Risks   []profile.Risk   `json:"risks,omitempty" doc:"in the answer to a new version: what could be lost by it, and what keeps it from that"`
}

// ProfileList is the newest version of each profile.
type ProfileList struct {
	Profiles []ProfileView `json:"profiles"`
}

// ProfileQuery names a profile and, perhaps, a version.
type ProfileQuery struct {
	Name    string `path:"name" maxLength:"64"`
	Version int    `query:"version" minimum:"0" doc:"0 is the newest"`
	Against int    `query:"against" minimum:"0" doc:"say in changes what it says otherwise than this version"`
}

// ProfileInput is a new version.
type ProfileInput struct {
	Name string `path:"name" pattern:"^[a-z0-9][a-z0-9._-]{0,62}$" patternDescription:"lower-case letters, digits, dots, hyphens and underscores"`
	Body NewProfile
}

// NewProfile is what is wanted; what it does not say stays as in the built-in default.
type NewProfile struct {
	Document map[string]any `json:"document,omitempty"`
	Version  int            `json:"version,omitempty" minimum:"1" doc:"instead of a document: the older version to go back to, which becomes the newest"`
	DryRun   bool           `json:"dry_run,omitempty" doc:"check it, say what changes and for how many devices, and keep nothing"`
}

// ProfileHistoryQuery asks for a page of a profile's versions.
type ProfileHistoryQuery struct {
	Name   string `path:"name" maxLength:"64"`
	Before int    `query:"before" minimum:"0" doc:"only older versions than this"`
	Limit  int    `query:"limit" minimum:"0" maximum:"200" doc:"0 means 50"`
}

// ProfileHistory is a page of versions, newest first, each with what it changed.
type ProfileHistory struct {
	Versions []ProfileView `json:"versions"`
	Next     int           `json:"next" doc:"give it as before; 0 on the last page"`
}

func (s *Server) profileRoutes(api huma.API) {
	tags := []string{"rules"}
	add(s, api, huma.Operation{OperationID: "list-profiles", Method: http.MethodGet, Path: "/api/v1/profiles", Summary: "The newest version of each profile", Tags: tags}, s.listProfiles)
	add(s, api, huma.Operation{OperationID: "get-profile", Method: http.MethodGet, Path: "/api/v1/profiles/{name}", Summary: "One version of a profile", Tags: tags}, s.getProfile)
	add(s, api, huma.Operation{OperationID: "apply-profile", Method: http.MethodPut, Path: "/api/v1/profiles/{name}", Summary: "Keep a new version of a profile", Description: "Versions are never changed: going back to one makes a new one that says the same. A document like the newest one makes no new version.", Tags: tags}, s.applyProfile)
	add(s, api, huma.Operation{OperationID: "list-profile-versions", Method: http.MethodGet, Path: "/api/v1/profiles/{name}/versions", Summary: "The versions of a profile, newest first, and what each changed", Tags: tags}, s.profileHistory)
}

// configured is the profile of the configuration, which is called default.
func (s *Server) configured() ProfileView {
	p := profile.Default()
	if s.DefaultProfile.Name != "" {
		p = s.DefaultProfile
	}
	return ProfileView{Name: p.Name, Version: p.Version, Profile: p, CreatedBy: "configuration"}
}

func profileView(p store.Profile) (ProfileView, error) {
	doc := profile.Default()
	if err := json.Unmarshal(p.Document, &doc); err != nil {
		return ProfileView{}, fmt.Errorf("profile %s version %d: %w", p.Name, p.Version, err)
	}
	doc.Name, doc.Version = p.Name, p.Version
	return ProfileView{Name: p.Name, Version: p.Version, Profile: doc, CreatedBy: p.CreatedBy, CreatedAt: timeOrNull(p.CreatedAt)}, nil
}

func (s *Server) listProfiles(ctx context.Context, _ *none) (ProfileList, error) {
	out := ProfileList{Profiles: []ProfileView{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		all, err := tx.Profiles(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(p store.Profile) bool { return p.Name == s.configured().Name }) {
			out.Profiles = append(out.Profiles, s.configured())
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

func (s *Server) getProfile(ctx context.Context, in *ProfileQuery) (out ProfileView, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		one := func(version int) (ProfileView, error) {
			p, err := tx.Profile(ctx, in.Name, version)
			if errors.Is(err, store.ErrNotFound) {
				if own := s.configured(); in.Name == own.Name && version == 0 {
					return own, nil
				}
				if version == 0 {
					return ProfileView{}, notFound("there is no profile %s; provctl profile list shows them", clip(in.Name, 64))
				}
				return ProfileView{}, noVersion(in.Name, version)
			}
			if err != nil {
				return ProfileView{}, err
			}
			return profileView(p)
		}
		if out, err = one(in.Version); err != nil || in.Against == 0 {
			return err
		}
		other, err := one(in.Against)
		out.Changes = profile.Differences(other.Profile, out.Profile)
		return err
	})
	return out, err
}

func noVersion(name string, version int) error {
	name = clip(name, 64)
	return notFound("there is no version %d of the profile %s; provctl profile history %s lists them", version, name, name)
}

// wanted is the document of a request, checked: one that was sent, or that of an
// older version.
func (in *ProfileInput) wanted(ctx context.Context, tx *store.Tx) (p profile.Profile, err error) {
	p = profile.Default()
	switch {
	case in.Body.Version > 0 && in.Body.Document != nil:
		return p, invalid("body.version", "give a document, or the version to go back to, not both")
	case in.Body.Version > 0:
		kept, err := tx.Profile(ctx, in.Name, in.Body.Version)
		if errors.Is(err, store.ErrNotFound) {
			return p, noVersion(in.Name, in.Body.Version)
		}
		if err != nil {
			return p, err
		}
		v, err := profileView(kept)
		if err != nil {
			return p, err
		}
		if p = v.Profile; p.TLS == profile.TLSNone {
			p.Unprotected = true // one kept before that word was wanted stays good
		}
	case in.Body.Document == nil:
		return p, invalid("body.document", "give a document, or the version to go back to")
	default:
		if err := Strictly(in.Body.Document, &p); err != nil {
			return p, problem(http.StatusUnprocessableEntity, CodeInvalid, "the profile cannot be read: %v", err)
		}
	}
	p.Name, p.Version = in.Name, 0
	if err := p.Validate(); err != nil {
		return p, problem(http.StatusUnprocessableEntity, CodeInvalid, "the profile cannot be used: %v", err)
	}
	return p, nil
}

// newest is the version that devices are made by until another one is kept; ok
// reports that there is one. stored says whether it is in the database or the
// configuration's.
func (s *Server) newest(ctx context.Context, tx *store.Tx, name string) (v ProfileView, stored, ok bool, err error) {
	kept, err := tx.Profile(ctx, name, 0)
	switch {
	case err == nil:
		v, err = profileView(kept)
		return v, true, true, err
	case !errors.Is(err, store.ErrNotFound):
		return v, false, false, err
	}
	if own := s.configured(); own.Name == name {
		return own, false, true, nil
	}
	return v, false, false, nil
}

func (s *Server) applyProfile(ctx context.Context, in *ProfileInput) (out ProfileView, err error) {
	who, _ := PrincipalOf(ctx)
	do := s.db.Write
	if in.Body.DryRun {
		do = s.db.Read
	}
	same := false
	err = do(ctx, func(tx *store.Tx) error {
		p, err := in.wanted(ctx, tx)
		if err != nil {
			return err
		}
		doc, err := json.Marshal(p)
		if err != nil {
			return err
		}
		last, stored, ok, err := s.newest(ctx, tx, in.Name)
		if err != nil {
			return err
		}
		changes, devices := []profile.Change(nil), 0
		if ok {
			changes = profile.Differences(last.Profile, p)
		}
		if same = stored && len(changes) == 0; same {
			out = last
			return nil
		}
		if ok {
			if devices, err = tx.CountMatching(ctx, store.DeviceFilter{Profile: in.Name, Lifecycle: Eligible("maintain")}); err != nil {
				return err
			}
		}
		from := profile.Default()
		if ok {
			from = last.Profile
		}
		risks := profile.Risks(from, p)
		if in.Body.DryRun {
			out = ProfileView{Name: in.Name, Profile: p, Changes: changes, Devices: devices, Risks: risks, Waves: wavesOf(devices, s.Canary)}
			return nil
		}
		next := 0
		if ok && !stored {
			// The configuration's is version 1, and devices may have been made by it.
			next = last.Profile.Version + 1
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
		out.Changes, out.Devices, out.Risks, out.Waves = changes, devices, risks, wavesOf(devices, s.Canary)
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

func (s *Server) profileHistory(ctx context.Context, in *ProfileHistoryQuery) (ProfileHistory, error) {
	out := ProfileHistory{Versions: []ProfileView{}}
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
			out.Versions = append(out.Versions, own)
		}
		for i, p := range page {
			v, err := profileView(p)
			if err != nil {
				return err
			}
			if i > 0 {
				newer := &out.Versions[i-1]
				newer.Changes = profile.Differences(v.Profile, newer.Profile)
			}
			if i == limit {
				out.Next = page[i-1].Version
				break
			}
			out.Versions = append(out.Versions, v)
		}
		if len(out.Versions) == 0 && in.Before == 0 {
			return notFound("there is no profile %s; provctl profile list shows them", clip(in.Name, 64))
		}
		return nil
	})
	return out, err
}
