package main

import (
	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) deviceAddress() *cobra.Command {
	var n api.NewAddress
	cmd := &cobra.Command{
		Use: "address DEVICE ADDRESS", Short: "Say where a device is", Args: cobra.ExactArgs(2),
		Long: "The device is called at ADDRESS from now on, also one under management; its key decides whether what answers there is the device.\n" +
			"Of two machines that say hello with one UUID it is the one at ADDRESS, and the other is kept out.",
		Example: "  provctl device address pc-24.corp.example.com 10.20.3.7 --note 'moved to the branch'",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			n.Address = args[1]
			res, err := c.AddressDevice(cmd.Context(), args[0], n)
			return p.printAction(args[0], res, err)
		},
	}
	cmd.Flags().StringVar(&n.Note, "note", "", "why, for the timeline and the audit")
	return cmd
}
