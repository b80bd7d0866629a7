package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) certRenew() *cobra.Command {
	var r api.RenewCertificate
	var file string
	cmd := &cobra.Command{
		Use: "renew ID [--dry-run] [--mode MODE] [--out FILE]", Short: "Begin the successor of a certificate, under the same names", Args: cobra.ExactArgs(1),
		Long: "Begin the successor of a certificate, under the same names. The certificate itself stays in use.\n\n" +
			"Mode manual makes a request to order with; what the CA sends is imported as ever and follows ID. Mode own-root issues the successor at once,\n" +
			"where the root kept here issued ID too. Left out, the mode chosen last is taken, else the one that suits ID. It is stored with ID.\n\n" +
			"There is no mode acme: no public CA is known that issues the AMT usage by ACME.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.DryRun && file != "" {
				return usage("--dry-run makes no request to write to --out")
			}
			c, out, err := p.clientAndFile(file)
			if err != nil {
				return err
			}
			done, err := c.RenewCertificate(cmd.Context(), args[0], r)
			if err != nil {
				return p.withFindings(out.drop(err))
			}
			if done.Request == nil {
				_ = out.drop(nil)
			} else if err := out.write([]byte(done.Request.CSR)); err != nil {
				return &exitError{exitFailed, err}
			}
			if p.json {
				return p.printJSON(done)
			}
			return p.printRenewed(done, file)
		},
	}
	cmd.Flags().StringVar(&r.Mode, "mode", "", "`MODE`: manual or own-root")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be done and which devices keep or lose a match, and change nothing")
	cmd.Flags().StringVar(&file, "out", "", "mode manual: write the request to a new `FILE` instead of showing it")
	return cmd
}

func (p *program) printRenewed(r api.CertificateRenewed, file string) error {
	if r.DryRun {
		p.say("dry run, nothing was changed: %s\n", r.Said)
	} else {
		p.say("%s\n", r.Said)
	}
	p.say("  mode   %s\n  names  %s\n", r.Mode, strings.Join(r.Names, ", "))
	if r.Mode == "manual" {
		p.say("  root   %s, as far as the CA keeps to it; another one: provctl cert advise --from ROOT --to ROOT\n", dash(strings.Join(r.Roots, ", ")))
	} else {
		p.say("  root   %s\n", strings.Join(r.Roots, ", "))
	}
	p.printGroups("devices that keep their match only by a successor", r.Keep)
	p.printGroups("devices that would lose their match to it", r.Lose)
	if len(r.Keep)+len(r.Lose) == 0 {
		p.say("no recorded device depends on it alone\n")
	}
	switch {
	case r.Request != nil:
		p.say("\n")
		if err := p.printRequested(*r.Request, file); err != nil {
			return err
		}
		p.say("\nnext: order it, then provctl cert import FILE; provctl cert pending %s shows it again, --cancel gives it up\n", r.Request.ID)
	case r.Import != nil:
		p.say("\n")
		if err := p.printImport(*r.Import); err != nil {
			return err
		}
		p.say("next: provctl cert replace %s %s\n", r.Certificate, r.Import.Report.ID)
	case r.DryRun:
		p.say("do it: provctl cert renew %s --mode %s\n", r.Certificate, r.Mode)
	}
	return nil
}
