package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) secretCommand() *cobra.Command {
	var kind, reason string
	reveal := &cobra.Command{
		Use: "reveal DEVICE --kind admin|mebx --reason TEXT", Short: "Read one password; the audit keeps who, when and why", Args: cobra.ExactArgs(1),
		Example: "  provctl secret reveal 11223344-5566-7788-99aa-bbccddeeff00 --kind admin --reason 'ticket 4711'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if kind != "admin" && kind != "mebx" {
				return usage("--kind: want admin or mebx")
			}
			if reason == "" {
				return usage("--reason: say why; the audit keeps it")
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			r, err := c.Reveal(cmd.Context(), args[0], kind, reason)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(r)
			}
			fmt.Fprintln(p.out, r.Password)
			return nil
		},
	}
	reveal.Flags().StringVar(&kind, "kind", "", "admin or mebx")
	reveal.Flags().StringVar(&reason, "reason", "", "why it is needed")
	_ = reveal.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions([]string{"admin", "mebx"}, cobra.ShellCompDirectiveNoFileComp))
	return group("secret", "Passwords of devices", reveal, p.secretRotate(), p.secretHistory(), p.secretMaster())
}

func (p *program) secretRotate() *cobra.Command {
	note := ""
	cmd := &cobra.Command{
		Use: "rotate DEVICE", Short: "Change a device's admin password; the old one is kept", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			res, err := c.RotateSecret(cmd.Context(), args[0], note)
			return p.printAction(args[0], res, err)
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for the timeline and the audit")
	return cmd
}

func (p *program) secretHistory() *cobra.Command {
	return &cobra.Command{
		Use: "history DEVICE", Short: "A device's passwords through time, without their values", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Secrets(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Secrets)
			}
			var t table
			t.row("GENERATION", "KIND", "STATE", "MADE", "SENT", "TO", "ACTIVE SINCE", "RETIRED", "RUN")
			for _, s := range l.Secrets {
				t.row(fmt.Sprint(s.Generation), s.Kind, s.State, when(s.CreatedAt), when(s.SentAt), dash(s.SentTo), when(s.ActivatedAt), when(s.RetiredAt), fmt.Sprint(s.RunID))
			}
			t.print(p.out)
			return nil
		},
	}
}

// secretMaster reads the password from standard input: an argument is seen by
// every user of the machine.
func (p *program) secretMaster() *cobra.Command {
	set := &cobra.Command{
		Use: "set DOMAIN", Short: "Keep a domain's digest master password, read from standard input", Args: cobra.ExactArgs(1),
		Long: "Keeps the digest master password that Intel SCS derived its devices' passwords from, for one DNS domain or * for all.\n" +
			"A device is given a derived password only when its profile says passwords: derived.",
		Example: "  provctl secret master set corp.example.com < master.txt",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			line, err := p.secretLine()
			if err == nil && line == "" {
				err = errors.New("is empty")
			}
			if err != nil {
				return unusable("the master password on standard input %w; want it in one line", err)
			}
			r, err := c.SetMaster(cmd.Context(), args[0], line)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(r)
			}
			fmt.Fprintf(p.out, "the master password of %s is kept\n", r.Domain)
			return nil
		},
	}
	return group("master", "Digest master passwords of fleets that Intel SCS set up", set)
}

// keyCommand is about the keys that secrets are sealed with.
func (p *program) keyCommand() *cobra.Command {
	show := func(l api.KeyList) error {
		if p.json {
			return p.printJSON(l)
		}
		var t table
		t.row("KEY", "", "SECRETS")
		for _, k := range l.Keys {
			now := ""
			if k.Current {
				now = "current"
			}
			t.row(fmt.Sprint(k.ID), now, fmt.Sprint(k.Secrets))
		}
		t.print(p.out)
		if l.Left > 0 {
			fmt.Fprintf(p.out, "%d secrets lie under older keys and are moved in the background\n", l.Left)
		}
		return nil
	}
	list := &cobra.Command{
		Use: "list", Short: "What is sealed under which data key", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Keys(cmd.Context())
			if err != nil {
				return err
			}
			return show(l)
		},
	}
	rotate := &cobra.Command{
		Use: "rotate", Short: "Make a new data key; secrets move over to it in the background", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.RotateKey(cmd.Context())
			if err != nil {
				return err
			}
			return show(l)
		},
	}
	return group("key", "Keys that secrets are sealed with", list, rotate)
}
