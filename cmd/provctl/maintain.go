package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

// maintainCommand looks after one device, or makes a job for many.
func (p *program) maintainCommand() *cobra.Command {
	var f jobFlags
	due := false
	cmd := &cobra.Command{
		Use: "maintain DEVICE | QUERY | --all --due | --task clock,cert,name,tls,password,settings", Short: "Look after managed devices: clock, certificate, name, password",
		Long: "Looks after one device, or after all that a query finds, as a job. --due does only what is due: a clock that is off,\n" +
			"a certificate that ends within 30 days, a name that changed, a password older than its profile allows, TLS settings that differ.\n" +
			"--task does what is named, where it is needed; --task check looks and changes nothing.",
		Example: "  provctl maintain --all --due\n  provctl maintain 11223344-5566-7788-99aa-bbccddeeff00 --task clock,cert\n  provctl maintain net:10.20.0.0/16 --task check",
		RunE: func(cmd *cobra.Command, args []string) error {
			if due == (f.Task != "") {
				return usage("want --due, or --task with what is to be done")
			}
			if len(args) == 1 && f.at == "" && !f.DryRun && !f.NeedApprover {
				c, err := p.client()
				if err != nil {
					return err
				}
				res, err := c.Maintain(cmd.Context(), args[0], api.MaintainBody{Task: f.Task, Note: f.Note})
				var refused *api.Problem
				if !errors.As(err, &refused) || looksLikeUUID(args[0]) || refused.Code != api.CodeNoDevice && refused.Code != api.CodeAmbiguous {
					return p.printAction(args[0], res, err)
				}
			} // else it is a query
			f.Kind, f.Query = "maintain", strings.Join(args, " ")
			return p.startJob(cmd, f)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.Task, "task", "", "what to do: clock, cert, name, tls, password, check")
	cmd.Flags().BoolVar(&due, "due", false, "only what is due")
	return cmd
}

// looksLikeUUID tells a UUID from a query.
func looksLikeUUID(s string) bool {
	return len(s) >= 32 && len(s) <= 38 && strings.Trim(s, "0123456789abcdefABCDEF-{}") == ""
}

func (p *program) printAction(uuid string, res api.ActionResult, err error) error {
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(res)
	}
	fmt.Fprintf(p.out, "%s: %s\n", uuid, res.Said)
	return nil
}
