package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) tokenCommand() *cobra.Command {
	return group("token", "API tokens", p.tokenCreate(), p.tokenList(), p.tokenRevoke())
}

func (p *program) tokenCreate() *cobra.Command {
	var n api.NewToken
	var file string
	roles := roleWords()
	cmd := &cobra.Command{
		Use: "create --name NAME --role ROLE [--user USER]", Short: "Make a token; its text is shown this once", Args: cobra.NoArgs,
		Long: "Make a token; its text is shown this once.\nRoles: " + strings.Join(roles, ", ") + ".",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n.Name == "" || n.Role == "" {
				return usage("--name and --role are needed; roles: %s", strings.Join(roles, ", "))
			}
			if !api.Role(n.Role).Valid() {
				return usage("--role %q: want one of %s", n.Role, strings.Join(roles, ", "))
			}
			var out *os.File
			if file != "" {
				// Made before the token, so that no token is lost to a full disk or a wrong name.
				var err error
				if out, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
					return unusable("--out: %w", err)
				}
				defer out.Close()
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			t, err := c.CreateToken(cmd.Context(), n)
			if err != nil {
				if out != nil {
					_ = os.Remove(file)
				}
				return err
			}
			if out != nil {
				if _, err := fmt.Fprintln(out, t.Secret); err != nil {
					return &exitError{exitFailed, fmt.Errorf("write %s: %w; revoke token %d and make another", file, err, t.ID)}
				}
				t.Secret = ""
			}
			if p.json {
				return p.printJSON(t)
			}
			if out != nil {
				fmt.Fprintf(p.out, "token %d, %s, role %s: written to %s\n", t.ID, t.Name, t.Role, file)
				return nil
			}
			fmt.Fprintln(p.out, t.Secret)
			fmt.Fprintf(p.err, "token %d, %s, role %s: keep it now, it is shown nowhere else\n", t.ID, t.Name, t.Role)
			return nil
		},
	}
	cmd.Flags().StringVar(&n.Name, "name", "", "appears in the audit, with the user")
	cmd.Flags().StringVar(&n.User, "user", "", "whose it is; without, the user of the token's own name, who is made when there is none")
	cmd.Flags().StringVar(&n.Role, "role", "", "what it may do")
	cmd.Flags().IntVar(&n.Days, "days", 0, "how long it is good for; 0 for ever")
	cmd.Flags().StringVar(&file, "out", "", "write the text to a new `FILE` (0600) instead of showing it")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (p *program) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Tokens)
			}
			var t table
			t.row("ID", "NAME", "USER", "ROLE", "MADE BY", "CREATED", "EXPIRES", "LAST USED", "REVOKED")
			for _, k := range l.Tokens {
				t.row(fmt.Sprint(k.ID), k.Name, k.User, k.Role, k.CreatedBy, when(k.CreatedAt), when(k.ExpiresAt), when(k.LastUsed), when(k.RevokedAt))
			}
			t.print(p.out)
			return nil
		},
	}
}

func (p *program) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "Revoke a token, and the console logins made with it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return usage("%q is not the id of a token; provctl token list has them", args[0])
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			t, err := c.RevokeToken(cmd.Context(), id)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(t)
			}
			fmt.Fprintf(p.out, "token %d, %s: revoked\n", t.ID, t.Name)
			return nil
		},
	}
}
