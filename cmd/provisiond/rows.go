package main

import (
	"errors"
	"fmt"
	"maps"
	"os/user"
	"slices"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/store"
)

func newRows() *cobra.Command {
	cmd := &cobra.Command{Use: "rows", Short: "Rows of the database that grant something: which ones this server did not write"}
	cmd.AddCommand(newRowsCheck(), newRowsSign())
	return cmd
}

func newRowsCheck() *cobra.Command {
	cmd := &cobra.Command{Use: "check", Short: "Name the rows that count for nothing, since nobody signed them; exit 1 when there are any"}
	return onStore(cmd, func(cmd *cobra.Command, db *store.DB) error {
		found, err := db.CheckRows(cmd.Context())
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		switch {
		case found.Count == 0:
			fmt.Fprintln(out, "every row that grants something is signed")
			return nil
		case !db.RowsStrict():
			fmt.Fprintf(out, "%d rows are not signed yet; the daemon signs them once, when no node of an earlier release is about\n",
				found.Count)
			return nil
		}
		for _, row := range found.Some {
			fmt.Fprintln(out, row)
		}
		if more := found.Count - len(found.Some); more > 0 {
			fmt.Fprintf(out, "and %d more\n", more)
		}
		return fmt.Errorf("%d rows were not written by this server and count for nothing: look at each, remove it or, if a node of an "+
			"earlier release wrote it, provisiond rows sign", found.Count)
	})
}

func newRowsSign() *cobra.Command {
	cmd := &cobra.Command{Use: "sign", Short: "Sign the rows that rows check names, so that they count; the audit keeps who and why"}
	reason := cmd.Flags().String("reason", "", "why they are to be believed; the audit keeps this `TEXT`")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *reason == "" {
			return errors.New("--reason is needed: signed rows grant what they say, and the audit keeps why")
		}
		return nil
	}
	return onStore(cmd, func(cmd *cobra.Command, db *store.DB) error {
		signed, err := db.ResignRows(cmd.Context(), "host:"+hostUser(), *reason)
		if err != nil {
			return err
		}
		for _, table := range slices.Sorted(maps.Keys(signed)) {
			if n := signed[table]; n > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %d\n", table, n)
			}
		}
		return nil
	})
}

// hostUser is who types at this machine.
func hostUser() string {
	u, err := user.Current()
	if err != nil {
		return "unknown"
	}
	return u.Username
}
