package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
)

// reasonCommand needs no daemon: the catalogue is built in.
func (p *program) reasonCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "The closed list of reasons", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if p.json {
				out := []api.Reason{}
				for _, e := range reason.All() {
					out = append(out, api.ReasonOf(e))
				}
				return p.printJSON(out)
			}
			var t table
			t.row("CODE", "PHASE", "WAITS FOR", "TITLE")
			for _, e := range reason.All() {
				t.row(string(e.Code), string(e.Phase), string(e.Retry), e.Title)
			}
			t.print(p.out)
			return nil
		},
	}
	show := &cobra.Command{
		Use: "show CODE", Short: "One reason: causes and fixes", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if !reason.Known(reason.Code(args[0])) {
				return &exitError{exitNotFound, fmt.Errorf("no reason %q; provctl reason list has them all", args[0])}
			}
			e := reason.Of(reason.Code(args[0]))
			if p.json {
				return p.printJSON(api.ReasonOf(e))
			}
			fmt.Fprintf(p.out, "%s: %s\n", e.Code, e.Title)
			fmt.Fprintf(p.out, "phase %s, another attempt waits for: %s\n", e.Phase, e.Retry)
			for i, c := range e.Causes {
				if i == 0 {
					fmt.Fprintln(p.out, "possible causes:")
				}
				fmt.Fprintln(p.out, "  - "+c)
			}
			for i, f := range e.Fix {
				if i == 0 {
					fmt.Fprintln(p.out, "what helps:")
				}
				fmt.Fprintln(p.out, "  - "+f)
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var codes []string
			for _, e := range reason.All() {
				codes = append(codes, string(e.Code))
			}
			return codes, cobra.ShellCompDirectiveNoFileComp
		},
	}
	return group("reason", "Why devices are not as wanted", list, show)
}
