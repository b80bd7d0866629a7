package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

var unprovisionModes = []string{"full", "partial", "decommission"}

func (p *program) unprovisionCommand() *cobra.Command {
	var b api.UnprovisionBody
	cmd := &cobra.Command{
		Use: "unprovision DEVICE --mode full|partial|decommission", Short: "Undo a device's setup", Args: cobra.ExactArgs(1),
		Long: "Undoes a device's setup over the network. full takes it back to its factory state; partial keeps its users and names,\n" +
			"and it says hello again; decommission is full, and retires the device once it shows that it is gone. Its record and its passwords are kept here: the MEBx password stays on the machine.\n" +
			"It cannot be undone, so it asks for the device to be typed once more; --confirm DEVICE is for scripts. For many devices: provctl job start unprovision.",
		Example: "  provctl unprovision 11223344-5566-7788-99aa-bbccddeeff00 --mode partial",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(unprovisionModes, b.Mode) {
				return usage("--mode: want full, partial or decommission")
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
	cmd.Flags().StringVar(&b.Mode, "mode", "", "full, partial or decommission")
	cmd.Flags().StringVar(&b.Confirm, "confirm", "", "the device once more, instead of typing it")
	cmd.Flags().StringVar(&b.Note, "note", "", "why, for the timeline and the audit")
	_ = cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions(unprovisionModes, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
