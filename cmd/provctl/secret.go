package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (p *program) secretCommand() *cobra.Command {
	var kind, reason string
	reveal := &cobra.Command{
		Use: "reveal UUID --kind admin|mebx --reason TEXT", Short: "Read one password; the audit keeps who, when and why", Args: cobra.ExactArgs(1),
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
	return group("secret", "Passwords of devices", reveal)
}
