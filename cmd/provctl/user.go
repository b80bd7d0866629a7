package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) userCommand() *cobra.Command {
	return group("user", "People and services: whose tokens and console logins these are",
		p.userWithRoles("add NAME --role ROLE", "Add a user; tokens are made for it with provctl token create --user",
			"Of one person, all tokens should be of one user: who approves a job must be another user than who made it.\nRoles: "+
				strings.Join(roleWords(), ", ")+".",
			func(u api.User) string {
				return "added; provctl token create --user " + u.Name + " --name NAME --role ROLE makes its first token"
			},
			func(ctx context.Context, c *api.Client, name string, roles []string) (api.User, error) {
				return c.CreateUser(ctx, api.NewUser{Name: name, Roles: roles})
			}),
		list(p, verb[[]api.User]{
			use: "list", short: "List users",
			ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.User, error) {
				l, err := c.Users(ctx)
				return l.Users, err
			},
		}, "", "NAME|ROLES|TOKENS|LOGINS|MADE BY|CREATED|DISABLED", func(u api.User) []any {
			return []any{u.Name, strings.Join(u.Roles, ","), u.Tokens, u.Sessions, u.CreatedBy, u.CreatedAt, u.DisabledAt}
		}),
		p.userSwitch("disable", "End all tokens and console logins of a user, at once, and let nobody make new ones"),
		p.userSwitch("enable", "Let tokens of a disabled user be made again; those that ended stay ended"),
		p.userWithRoles("role NAME --role ROLE", "Give a user other roles; tokens of a role it no longer has are revoked", "",
			func(api.User) string { return "these are its roles now" },
			func(ctx context.Context, c *api.Client, name string, roles []string) (api.User, error) {
				return c.ChangeUser(ctx, name, api.UserChange{Roles: roles})
			}))
}

func roleWords() (out []string) {
	for _, r := range api.Roles() {
		out = append(out, string(r))
	}
	return out
}

// userWithRoles is a verb that gives a user roles.
func (p *program) userWithRoles(use, short, long string, done func(api.User) string,
	give func(ctx context.Context, c *api.Client, name string, roles []string) (api.User, error)) *cobra.Command {
	var roles []string
	words := roleWords()
	if long != "" {
		long = short + ".\n" + long
	}
	return verb[api.User]{
		use: use, short: short, long: long, args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.StringSliceVar(&roles, "role", nil, "what its tokens may be given; several divided by commas")
		},
		choices: map[string][]string{"role": words},
		check: func([]string) error {
			if len(roles) == 0 {
				return usage("--role is needed; roles: %s", strings.Join(words, ", "))
			}
			for _, r := range roles {
				if !api.Role(r).Valid() {
					return usage("--role %q: want one of %s", r, strings.Join(words, ", "))
				}
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.User, error) {
			return give(ctx, c, args[0], roles)
		},
		show: func(u api.User) { p.sayUser(u, done(u)) },
	}.command(p)
}

func (p *program) userSwitch(word, short string) *cobra.Command {
	disabled := word == "disable"
	return verb[api.User]{
		use: word + " NAME", short: short, args: cobra.ExactArgs(1),
		ask: func(ctx context.Context, c *api.Client, args []string) (api.User, error) {
			return c.ChangeUser(ctx, args[0], api.UserChange{Disabled: &disabled})
		},
		show: func(u api.User) { p.sayUser(u, word+"d") },
	}.command(p)
}

func (p *program) sayUser(u api.User, done string) {
	p.say("user %s, %s: %s\n", u.Name, strings.Join(u.Roles, ", "), done)
}
