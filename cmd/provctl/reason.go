package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
)

// reasonCommand needs no daemon: the catalogue is built in.
func (p *program) reasonCommand() *cobra.Command {
	var codes []string
	for _, e := range reason.All() {
		codes = append(codes, string(e.Code))
	}
	return group("reason", "Why devices are not as wanted",
		&cobra.Command{Use: "list", Short: "The closed list of reasons", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			if p.json {
				out := []api.Reason{}
				for _, e := range reason.All() {
					out = append(out, api.ReasonOf(e))
				}
				return p.printJSON(out)
			}
			rows(p, "CODE|PHASE|WAITS FOR|TITLE", reason.All(),
				func(e reason.Entry) []any { return []any{e.Code, e.Phase, e.Retry, e.Title} })
			return nil
		}},
		&cobra.Command{
			Use: "show CODE", Short: "One reason: causes and fixes", Args: cobra.ExactArgs(1),
			ValidArgsFunction: cobra.FixedCompletions(codes, cobra.ShellCompDirectiveNoFileComp),
			RunE: func(_ *cobra.Command, args []string) error {
				if !reason.Known(reason.Code(args[0])) {
					return &exitError{exitNotFound, fmt.Errorf("no reason %q; provctl reason list has them all", args[0])}
				}
				e := reason.Of(reason.Code(args[0]))
				if p.json {
					return p.printJSON(api.ReasonOf(e))
				}
				p.say("%s: %s\nphase %s, another attempt waits for: %s\n", e.Code, e.Title, e.Phase, e.Retry)
				p.bullets("possible causes:", e.Causes)
				p.bullets("what helps:", e.Fix)
				return nil
			},
		})
}
