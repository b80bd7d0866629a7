package rest

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

func (s *Server) deviceRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "list-devices", Method: http.MethodGet, Path: "/api/v1/devices", Summary: "List devices",
		Tags: []string{"devices"}}, s.listDevices)
	add(s, to, huma.Operation{OperationID: "get-device", Method: http.MethodGet, Path: "/api/v1/devices/{uuid}",
		Summary: "Everything known of one device", Tags: []string{"devices"}}, s.getDevice)
	add(s, to, huma.Operation{OperationID: "why-device", Method: http.MethodGet, Path: "/api/v1/devices/{id}/why",
		Summary:     "Why a device is, or is not, under management",
		Description: "The id is a UUID (in either byte order), an address, a MAC or a name; it may be of a device that was never seen.",
		Tags:        []string{"devices"}}, s.why)
}

func (s *Server) listDevices(ctx context.Context, in *api.DeviceQuery) (api.DevicePage, error) {
	page := api.DevicePage{Devices: []api.Device{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		found, next, err := s.Page(ctx, tx, in)
		page.Next = next
		for _, d := range found {
			page.Devices = append(page.Devices, toDevice(d))
		}
		return err
	})
	return page, err
}

const (
	recentRuns   = 20
	recentEvents = 100
)

func (s *Server) getDevice(ctx context.Context, in *OneDevice) (api.DeviceDetail, error) {
	var out api.DeviceDetail
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		d, err := operate.Known(ctx, tx, in.UUID)
		if err != nil {
			return err
		}
		u := d.UUID
		out = toDetail(d)
		hashes, err := tx.TrustHashes(ctx, d.TrustTable)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		out.TrustedRoots = api.Roots(hashes)
		if out.Credentials, err = s.credentials(ctx, tx, u); err != nil {
			return err
		}
		settings, err := tx.DeviceSettings(ctx, u)
		if err != nil {
			return err
		}
		out.Settings = toSettings(settings)
		runs, err := tx.Runs(ctx, u, recentRuns)
		if err != nil {
			return err
		}
		out.Runs = []api.Run{}
		for _, r := range runs {
			steps, err := tx.Steps(ctx, r.ID)
			if err != nil {
				return err
			}
			out.Runs = append(out.Runs, toRun(r, steps))
		}
		events, err := tx.Events(ctx, store.EventFilter{UUID: u, Newest: true, Limit: recentEvents})
		if err != nil {
			return err
		}
		out.Events = []api.Event{}
		for _, e := range events {
			out.Events = append(out.Events, toEvent(e, out.FQDN))
		}
		return nil
	})
	return out, err
}

// toSettings lists settings in the order in which a device gets them.
func toSettings(all map[string]store.DeviceSetting) []api.Setting {
	out := []api.Setting{}
	for _, name := range profile.Settings {
		if s, is := all[name]; is {
			out = append(out, api.Setting{Name: name, State: string(s.State), Detail: api.Clean(s.Detail), At: s.At})
		}
	}
	return out
}

func toDetail(d store.Device) api.DeviceDetail {
	return api.DeviceDetail{
		Device: toDevice(d), Realm: api.Clean(d.Realm), Domain: api.Clean(d.Domain), SecureDNS: d.SecureDNS,
		ProfileVersion: d.ProfileVersion, AssignedProfile: api.Clean(d.AssignedProfile),
		PeerFingerprint: hex.EncodeToString(d.PeerFingerprint), PeerVerified: d.PeerVerified,
		DeviceCertNotAfter: timeOrNull(d.DeviceCertNotAfter),
		PasswordChangedAt:  timeOrNull(d.PasswordChangedAt), Generation: d.Generation, Record: cleanJSON(d.Record),
	}
}

// credentials lists what there is without the passwords.
func (s *Server) credentials(ctx context.Context, tx *store.Tx, u amt.UUID) ([]api.Credential, error) {
	out := []api.Credential{}
	for _, kind := range []string{store.KindAdmin, store.KindMEBx} {
		list, err := tx.Credentials(ctx, u, kind)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		for _, c := range list {
			out = append(out, toCredential(c))
		}
	}
	users, err := tx.UserPasswords(ctx, u, "")
	for _, c := range users {
		out = append(out, toCredential(c.Credential()))
	}
	return out, err
}
