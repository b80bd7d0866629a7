package rest

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// MasterInput carries a digest master password.
type MasterInput struct {
	Body api.MasterBody
}

func (s *Server) secretRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "list-secrets", Method: http.MethodGet, Path: "/api/v1/devices/{uuid}/secrets",
		Summary: "History of a device's passwords, without values", Tags: []string{"secrets"}}, s.listSecrets)
	add(s, to, huma.Operation{OperationID: "list-keys", Method: http.MethodGet, Path: "/api/v1/keys",
		Summary: "What is sealed under which data key", Tags: []string{"secrets"}},
		func(ctx context.Context, _ *none) (out api.KeyList, err error) {
			err = s.db.Read(ctx, func(tx *store.Tx) error { out, err = keyList(ctx, tx); return err })
			return out, err
		})
	add(s, to, huma.Operation{OperationID: "rotate-key", Method: http.MethodPost, Path: "/api/v1/keys/rotate",
		Summary: "Make a new data key",
		Description: "New secrets are sealed with it at once; the others are moved over in the background, and that goes on after a " +
			"restart.", Tags: []string{"secrets"}}, s.rotateKey)
	add(s, to, huma.Operation{OperationID: "set-master-password", Method: http.MethodPost, Path: "/api/v1/secrets/masters",
		Summary: "Keep a domain's digest master password",
		Description: "For fleets that Intel SCS set up: the passwords of their devices are derived from it. It can be replaced and never " +
			"read.", Tags: []string{"secrets"}}, s.setMaster)
}

func (s *Server) listSecrets(ctx context.Context, in *OneDevice) (api.SecretList, error) {
	out := api.SecretList{Secrets: []api.SecretInfo{}}
	u, err := s.which(ctx, in.UUID)
	if err != nil {
		return out, err
	}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		if _, err := tx.Device(ctx, u); errors.Is(err, store.ErrNotFound) {
			return operate.NoDevice(u)
		} else if err != nil {
			return err
		}
		list, err := tx.Credentials(ctx, u, "")
		if err != nil {
			return err
		}
		users, err := tx.UserPasswords(ctx, u, "")
		if err != nil {
			return err
		}
		for _, c := range users {
			list = append(list, c.Credential())
		}
		for _, c := range list {
			to := ""
			if c.Address.IsValid() {
				to = c.Address.String()
			}
			out.Secrets = append(out.Secrets, api.SecretInfo{
				Generation: c.Generation, Kind: c.Kind, State: c.State, CreatedAt: timeOrNull(c.CreatedAt), SentAt: timeOrNull(c.SentAt),
				SentTo:      to,
				ActivatedAt: timeOrNull(c.ActivatedAt), RetiredAt: timeOrNull(c.RetiredAt), RunID: c.RunID,
			})
		}
		return nil
	})
	return out, err
}

func (s *Server) rotateKey(ctx context.Context, _ *none) (api.KeyList, error) {
	who, _ := PrincipalOf(ctx)
	err := s.db.Write(ctx, func(tx *store.Tx) error { return operate.RotateKey(ctx, tx, who) })
	if err != nil {
		return api.KeyList{}, err
	}
	var out api.KeyList
	err = s.db.Read(ctx, func(tx *store.Tx) error { out, err = keyList(ctx, tx); return err })
	return out, err
}

func keyList(ctx context.Context, tx *store.Tx) (api.KeyList, error) {
	out := api.KeyList{Keys: []api.KeyInfo{}}
	under, err := tx.SealedUnder(ctx)
	if err != nil {
		return out, err
	}
	ids, err := tx.DataKeys(ctx)
	if err != nil {
		return out, err
	}
	for i, id := range ids {
		k := api.KeyInfo{ID: id, Current: i == len(ids)-1, Secrets: under[id]}
		if !k.Current {
			out.Left += k.Secrets
		}
		out.Keys = append(out.Keys, k)
	}
	slices.Reverse(out.Keys)
	return out, nil
}

func (s *Server) setMaster(ctx context.Context, in *MasterInput) (api.MasterSet, error) {
	who, _ := PrincipalOf(ctx)
	domain := strings.ToLower(strings.Trim(strings.TrimSpace(in.Body.Domain), "."))
	if domain == "" || strings.ContainsAny(domain, " /\\:@") || domain != "*" && strings.Contains(domain, "*") {
		return api.MasterSet{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid,
			"want a DNS domain such as corp.example.com, or * for all")
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.PutSealedSetting(ctx, store.MasterPasswordKey(domain), amt.NewSecret(in.Body.Password)); err != nil {
			return err
		}
		return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "secret.master", Subject: domain})
	})
	return api.MasterSet{Domain: domain}, err
}
