package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) auditCommand() *cobra.Command {
	var after int64
	list := &cobra.Command{
		Use: "list", Short: "Who did what, oldest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			all := []api.AuditRecord{}
			q := api.AuditQuery{After: after, Limit: 1000}
			for {
				page, err := c.Audit(cmd.Context(), q)
				if err != nil {
					return err
				}
				all = append(all, page.Records...)
				if q.After = page.Next; q.After == 0 {
					break
				}
			}
			if p.json {
				return p.printJSON(all)
			}
			var t table
			t.row("SEQ", "AT", "ACTOR", "ACTION", "SUBJECT", "DETAIL")
			for _, r := range all {
				detail, _ := json.Marshal(r.Detail)
				t.row(fmt.Sprint(r.Seq), when(r.At), r.Actor, r.Action, dash(r.Subject), string(detail))
			}
			t.print(p.out)
			return nil
		},
	}
	list.Flags().Int64Var(&after, "after", 0, "only records behind this number")
	verify := &cobra.Command{
		Use: "verify", Short: "Check the chain of the audit; exit 1 when it is broken", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			v, err := c.VerifyAudit(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				if err := p.printJSON(v); err != nil {
					return err
				}
			} else if v.Intact {
				fmt.Fprintf(p.out, "the chain holds: %d records\n", v.Records)
			}
			if !v.Intact {
				return &exitError{exitFailed, errors.New("the chain is broken: " + v.Problem)}
			}
			return nil
		},
	}
	return group("audit", "Who did what", list, verify)
}
