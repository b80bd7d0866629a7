package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) secretCommand() *cobra.Command {
	var kind, reason, note string
	kinds := []string{"admin", "mebx"}
	return group("secret", "Passwords of devices",
		verb[api.Revealed]{
			use: "reveal DEVICE --kind admin|mebx|user:NAME --reason TEXT", short: "Read one password; the audit keeps who, when and why",
			example: "  provctl secret reveal 11223344-5566-7788-99aa-bbccddeeff00 --kind admin --reason 'ticket 4711'",
			args:    cobra.ExactArgs(1),
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&kind, "kind", "", "admin, mebx, or user:NAME of a user that the profile has")
				f.StringVar(&reason, "reason", "", "why it is needed")
			},
			choices: map[string][]string{"kind": kinds},
			check: func([]string) error {
				switch {
				case !slices.Contains(kinds, kind) && !strings.HasPrefix(kind, "user:"):
					return usage("--kind: want admin, mebx or user:NAME")
				case reason == "":
					return usage("--reason: say why; the audit keeps it")
				}
				return nil
			},
			ask: func(ctx context.Context, c *api.Client, args []string) (api.Revealed, error) {
				return c.Reveal(ctx, args[0], kind, reason)
			},
			show: func(r api.Revealed) { p.say("%s\n", r.Password) },
		}.command(p),
		p.action(verb[api.ActionResult]{
			use: "rotate DEVICE", short: "Change a device's admin password; the old one is kept", args: cobra.ExactArgs(1),
			flags: func(f *pflag.FlagSet) { noteFlag(f, &note) },
			ask: func(ctx context.Context, c *api.Client, args []string) (api.ActionResult, error) {
				return c.RotateSecret(ctx, args[0], note)
			},
		}),
		list(p, verb[[]api.SecretInfo]{
			use: "history DEVICE", short: "A device's passwords through time, without their values", args: cobra.ExactArgs(1),
			ask: func(ctx context.Context, c *api.Client, args []string) ([]api.SecretInfo, error) {
				l, err := c.Secrets(ctx, args[0])
				return l.Secrets, err
			},
		}, "", "GENERATION|KIND|STATE|MADE|SENT|TO|ACTIVE SINCE|RETIRED|RUN", func(s api.SecretInfo) []any {
			return []any{s.Generation, s.Kind, s.State, s.CreatedAt, s.SentAt, s.SentTo, s.ActivatedAt, s.RetiredAt, s.RunID}
		}),
		group("master", "Digest master passwords of fleets that Intel SCS set up", p.secretMaster()))
}

// secretMaster reads the password from standard input: an argument is seen by
// every user of the machine.
func (p *program) secretMaster() *cobra.Command {
	return verb[api.MasterSet]{
		use: "set DOMAIN", short: "Keep a domain's digest master password, read from standard input", args: cobra.ExactArgs(1),
		long: "Keeps the digest master password that Intel SCS derived its devices' passwords from, for one DNS domain or * for all.\n" +
			"A device is given a derived password only when its profile says passwords: derived.",
		example: "  provctl secret master set corp.example.com < master.txt",
		ask: func(ctx context.Context, c *api.Client, args []string) (api.MasterSet, error) {
			line, err := p.secretLine()
			if err == nil && line == "" {
				err = errors.New("is empty")
			}
			if err != nil {
				return api.MasterSet{}, unusable("the master password on standard input %w; want it in one line", err)
			}
			return c.SetMaster(ctx, args[0], line)
		},
		show: func(r api.MasterSet) { p.say("the master password of %s is kept\n", r.Domain) },
	}.command(p)
}

// keyCommand is about the keys that secrets are sealed with.
func (p *program) keyCommand() *cobra.Command {
	keys := func(use, short string, ask func(*api.Client, context.Context) (api.KeyList, error)) *cobra.Command {
		return verb[api.KeyList]{use: use, short: short, ask: none(ask), show: func(l api.KeyList) {
			var t table
			t.row("KEY", "", "SECRETS")
			for _, k := range l.Keys {
				now := ""
				if k.Current {
					now = "current"
				}
				t.row(cell(k.ID), now, cell(k.Secrets))
			}
			p.print(t)
			if l.Left > 0 {
				p.say("%d secrets lie under older keys and are moved in the background\n", l.Left)
			}
		}}.command(p)
	}
	return group("key", "Keys that secrets are sealed with",
		keys("list", "What is sealed under which data key", (*api.Client).Keys),
		keys("rotate", "Make a new data key; secrets move over to it in the background", (*api.Client).RotateKey))
}
