package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) tokenCommand() *cobra.Command {
	return group("token", "API tokens", p.tokenCreate(),
		list(p, verb[[]api.Token]{
			use: "list", short: "List tokens",
			ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.Token, error) {
				l, err := c.Tokens(ctx)
				return l.Tokens, err
			},
		}, "", "ID|NAME|USER|ROLE|MADE BY|CREATED|EXPIRES|LAST USED|REVOKED", func(k api.Token) []any {
			return []any{k.ID, k.Name, k.User, k.Role, k.CreatedBy, k.CreatedAt, k.ExpiresAt, k.LastUsed, k.RevokedAt}
		}),
		verb[api.Token]{
			use: "revoke ID", short: "Revoke a token, and the console logins made with it",
			args: number("the id of a token; provctl token list has them"),
			ask: func(ctx context.Context, c *api.Client, args []string) (api.Token, error) {
				return c.RevokeToken(ctx, idOf(args[0]))
			},
			show: func(t api.Token) { p.say("token %d, %s: revoked\n", t.ID, t.Name) },
		}.command(p))
}

func (p *program) tokenCreate() *cobra.Command {
	var n api.NewToken
	var file string
	roles := roleWords()
	return verb[api.TokenCreated]{
		use: "create --name NAME --role ROLE [--user USER]", short: "Make a token; its text is shown this once",
		long: "Make a token; its text is shown this once.\nRoles: " + strings.Join(roles, ", ") + ".",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&n.Name, "name", "", "appears in the audit, with the user")
			f.StringVar(&n.User, "user", "", "whose it is; without, the user of the token's own name, who is made when there is none")
			f.StringVar(&n.Role, "role", "", "what it may do")
			f.IntVar(&n.Days, "days", 0, "how long it is good for; 0 for ever")
			f.StringVar(&file, "out", "", "write the text to a new `FILE` (0600) instead of showing it")
		},
		choices: map[string][]string{"role": roles},
		check: func([]string) error {
			switch {
			case n.Name == "" || n.Role == "":
				return usage("--name and --role are needed; roles: %s", strings.Join(roles, ", "))
			case !api.Role(n.Role).Valid():
				return usage("--role %q: want one of %s", n.Role, strings.Join(roles, ", "))
			}
			return nil
		},
		out: &file,
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.TokenCreated, error) {
			return c.CreateToken(ctx, n)
		},
		bytes: func(t api.TokenCreated) []byte { return []byte(t.Secret + "\n") },
		kept:  func(t api.TokenCreated) string { return fmt.Sprintf("revoke token %d and make another", t.ID) },
		json: func(t api.TokenCreated) any {
			if file != "" {
				t.Secret = ""
			}
			return t
		},
		show: func(t api.TokenCreated) {
			if file != "" {
				p.say("token %d, %s, role %s: written to %s\n", t.ID, t.Name, t.Role, file)
				return
			}
			p.say("%s\n", t.Secret)
			p.note("token %d, %s, role %s: keep it now, it is shown nowhere else\n", t.ID, t.Name, t.Role)
		},
	}.command(p)
}
