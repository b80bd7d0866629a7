package main

import "github.com/spf13/cobra"

// moreCommands are those beside serving and its configuration.
func moreCommands() []*cobra.Command {
	return []*cobra.Command{newDoctor(), newBackup(), newSupportBundle(), newSelfTest(), newRows()}
}
