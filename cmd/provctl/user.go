package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) userCommand() *cobra.Command {
	return group("user", "People and services: whose tokens and console logins these are", p.userAdd(), p.userList(),
		p.userChange("disable", "End all tokens and console logins of a user, at once, and let nobody make new ones"),
		p.userChange("enable", "Let tokens of a disabled user be made again; those that ended stay ended"),
		p.userRole())
}

// rolesFlag is --role, which may be given several times or divided by commas.
func rolesFlag(cmd *cobra.Command, roles *[]string) {
	cmd.Flags().StringSliceVar(roles, "role", nil, "what its tokens may be given; several divided by commas")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roleWords(), cobra.ShellCompDirectiveNoFileComp))
}

func roleWords() (out []string) {
	for _, r := range api.Roles() {
		out = append(out, string(r))
	}
	return out
}

func checkRoles(roles []string) error {
	if len(roles) == 0 {
		return usage("--role is needed; roles: %s", strings.Join(roleWords(), ", "))
	}
	for _, r := range roles {
		if !api.Role(r).Valid() {
			return usage("--role %q: want one of %s", r, strings.Join(roleWords(), ", "))
		}
	}
	return nil
}

func (p *program) userAdd() *cobra.Command {
	var roles []string
	cmd := &cobra.Command{
		Use: "add NAME --role ROLE", Short: "Add a user; tokens are made for it with provctl token create --user", Args: cobra.ExactArgs(1),
		Long: "Add a user; tokens are made for it with provctl token create --user.\nOf one person, all tokens should be of one user: who approves a job must be another user than who made it.\nRoles: " + strings.Join(roleWords(), ", ") + ".",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkRoles(roles); err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			u, err := c.CreateUser(cmd.Context(), api.NewUser{Name: args[0], Roles: roles})
			if err != nil {
				return err
			}
			return p.showUser(u, "added; provctl token create --user "+u.Name+" --name NAME --role ROLE makes its first token")
		},
	}
	rolesFlag(cmd, &roles)
	return cmd
}

func (p *program) showUser(u api.User, done string) error {
	if p.json {
		return p.printJSON(u)
	}
	fmt.Fprintf(p.out, "user %s, %s: %s\n", u.Name, strings.Join(u.Roles, ", "), done)
	return nil
}

func (p *program) userList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List users", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Users(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Users)
			}
			var t table
			t.row("NAME", "ROLES", "TOKENS", "LOGINS", "MADE BY", "CREATED", "DISABLED")
			for _, u := range l.Users {
				t.row(u.Name, strings.Join(u.Roles, ","), fmt.Sprint(u.Tokens), fmt.Sprint(u.Sessions), u.CreatedBy, when(u.CreatedAt), when(u.DisabledAt))
			}
			t.print(p.out)
			return nil
		},
	}
}

func (p *program) userChange(verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			disabled := verb == "disable"
			u, err := c.ChangeUser(cmd.Context(), args[0], api.UserChange{Disabled: &disabled})
			if err != nil {
				return err
			}
			return p.showUser(u, verb+"d")
		},
	}
}

func (p *program) userRole() *cobra.Command {
	var roles []string
	cmd := &cobra.Command{
		Use: "role NAME --role ROLE", Short: "Give a user other roles; tokens of a role it no longer has are revoked", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkRoles(roles); err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			u, err := c.ChangeUser(cmd.Context(), args[0], api.UserChange{Roles: roles})
			if err != nil {
				return err
			}
			return p.showUser(u, "these are its roles now")
		},
	}
	rolesFlag(cmd, &roles)
	return cmd
}
