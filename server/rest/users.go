package rest

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// UserInput describes a user to be added.
type UserInput struct {
	Body api.NewUser
}

// UserChangeInput names a user and what is to be changed.
type UserChangeInput struct {
	Name string `path:"name" maxLength:"63"`
	Body api.UserChange
}

func (s *Server) userRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "list-users", Method: http.MethodGet, Path: "/api/v1/users", Summary: "List users",
		Tags: []string{"users"}}, s.listUsers)
	add(s, to, huma.Operation{OperationID: "create-user", Method: http.MethodPost, Path: "/api/v1/users", DefaultStatus: http.StatusCreated,
		Summary: "Add a user", Description: "It can do nothing before it has a token.", Tags: []string{"users"}}, s.createUser)
	add(s, to, huma.Operation{OperationID: "change-user", Method: http.MethodPost, Path: "/api/v1/users/{name}",
		Summary: "Disable or enable a user, or give it other roles", Description: "Other nodes hear of it within seconds.",
		Tags: []string{"users"}}, s.changeUser)
}

// covers reports whether a user of these roles may have a token of this one.
func covers(roles []string, role string) bool {
	return slices.Contains(roles, role) || slices.Contains(roles, string(api.Admin))
}

func toUser(u store.User) api.User {
	return api.User{Name: u.Name, Roles: u.Roles, Tokens: u.Tokens, Sessions: u.Sessions, CreatedBy: u.CreatedBy,
		CreatedAt: timeOrNull(u.CreatedAt), DisabledAt: timeOrNull(u.DisabledAt)}
}

func (s *Server) listUsers(ctx context.Context, _ *none) (api.UserList, error) {
	out := api.UserList{Users: []api.User{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		all, err := tx.Users(ctx)
		for _, u := range all {
			out.Users = append(out.Users, toUser(u))
		}
		return err
	})
	return out, err
}

// createUser adds a user and says so in the audit.
func createUser(ctx context.Context, tx *store.Tx, u store.User) error {
	if err := tx.CreateUser(ctx, u); errors.Is(err, store.ErrConflict) {
		return operate.Conflict("a user named %s is there already", u.Name)
	} else if err != nil {
		return err
	}
	return tx.Audit(ctx, store.AuditRecord{Actor: u.CreatedBy, Action: "user.add", Subject: u.Name,
		Detail: map[string]any{"roles": u.Roles}})
}

func (s *Server) createUser(ctx context.Context, in *UserInput) (api.User, error) {
	who, _ := PrincipalOf(ctx)
	var out api.User
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.AdoptUsers(ctx); err != nil {
			return err
		}
		all, err := tx.Tokens(ctx)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(all, func(t store.Token) bool { return t.Name == in.Body.Name && t.User != t.Name }); i >= 0 {
			return operate.Conflict("%s is a token of the user %s; the audit could not tell the two apart", in.Body.Name, all[i].User)
		}
		if err := createUser(ctx, tx, store.User{Name: in.Body.Name, Roles: tidyRoles(in.Body.Roles), CreatedBy: who.Actor()}); err != nil {
			return err
		}
		u, err := tx.User(ctx, in.Body.Name)
		out = toUser(u)
		return err
	})
	return out, err
}

func tidyRoles(roles []string) []string {
	roles = slices.Clone(roles)
	slices.Sort(roles)
	return slices.Compact(roles)
}

func (s *Server) changeUser(ctx context.Context, in *UserChangeInput) (api.User, error) {
	who, _ := PrincipalOf(ctx)
	var out api.User
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.AdoptUsers(ctx); err != nil {
			return err
		}
		u, err := tx.User(ctx, in.Name)
		if errors.Is(err, store.ErrNotFound) {
			return operate.NoSuch("there is no user %s; provctl user list has them", api.Clip(in.Name, 63))
		}
		if err != nil {
			return err
		}
		disabled := !u.DisabledAt.IsZero()
		if len(in.Body.Roles) > 0 {
			u.Roles = tidyRoles(in.Body.Roles)
		}
		if in.Body.Disabled != nil {
			disabled = *in.Body.Disabled
		}
		all, err := tx.Tokens(ctx)
		if err != nil {
			return err
		}
		ending := slices.DeleteFunc(slices.Clone(all), func(t store.Token) bool {
			return t.User != u.Name || !t.RevokedAt.IsZero() || !disabled && covers(u.Roles, t.Role)
		})
		if err := s.keepAnAdmin(all, ending...); err != nil {
			return err
		}
		names := []string{}
		for _, t := range ending {
			if err := tx.RevokeToken(ctx, t.ID); err != nil {
				return err
			}
			names = append(names, t.Name)
		}
		if err := tx.SetUser(ctx, u.Name, u.Roles, disabled); err != nil {
			return err
		}
		action := "user.role"
		if in.Body.Disabled != nil {
			action = map[bool]string{true: "user.disable", false: "user.enable"}[disabled]
		}
		if err := tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: action, Subject: u.Name,
			Detail: map[string]any{"roles": u.Roles, "tokens_revoked": names}}); err != nil {
			return err
		}
		u, err = tx.User(ctx, u.Name)
		out = toUser(u)
		return err
	})
	s.recent.stale()
	return out, err
}
