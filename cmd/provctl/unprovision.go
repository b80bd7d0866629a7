package main

import (
	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) unprovisionCommand() *cobra.Command {
	var b api.UnprovisionBody
	cmd := &cobra.Command{
		Use: "unprovision UUID --mode full|partial", Short: "Undo a device's setup", Args: cobra.ExactArgs(1),
		Long: "Undoes a device's setup over the network. full takes it back to its factory state; partial keeps its users and names,\n" +
			"and it says hello again. Its record and its passwords are kept here: the MEBx password stays on the machine.\n" +
			"It cannot be undone, so it asks for the UUID to be typed; --confirm UUID is for scripts. For many devices: provctl job start unprovision.",
		Example: "  provctl unprovision 11223344-5566-7788-99aa-bbccddeeff00 --mode partial",
		RunE: func(cmd *cobra.Command, args []string) error {
			if b.Mode != "full" && b.Mode != "partial" {
				return usage("--mode: want full or partial")
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			if b.Confirm == "" {
				if b.Confirm, err = p.askFor("unprovision "+args[0], args[0]); err != nil {
					return err
				}
			}
			res, err := c.Unprovision(cmd.Context(), args[0], b)
			return p.printAction(args[0], res, err)
		},
	}
	cmd.Flags().StringVar(&b.Mode, "mode", "", "full or partial")
	cmd.Flags().StringVar(&b.Confirm, "confirm", "", "the UUID once more, instead of typing it")
	cmd.Flags().StringVar(&b.Note, "note", "", "why, for the timeline and the audit")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"full", "partial"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
