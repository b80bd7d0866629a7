package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

func (p *program) certCommand() *cobra.Command {
	cmd := group("cert", "Provisioning certificates: from order form to proof",
		p.certRequest(), p.certPending(), p.certImport(), p.certList(), p.certShow(),
		p.certUse("activate", "Put a certificate into use beside those that are"),
		p.certUse("deactivate", "Take a certificate out of use and keep it"),
		p.certRenew(), p.certReplace(),
		p.certUse("remove", "Put a certificate into the trash; 30 days to take it back"),
		p.certUse("restore", "Take a certificate back from the trash"),
		p.certCheck(), p.certAdvise(), p.certBackup())
	cmd.Long = `Provisioning certificates: from order form to proof.

  provctl cert advise                     under which root to buy
  provctl cert request --suggest          for which names
  provctl cert request --cn provisionserver.corp.example.com --out order.csr
      ... order it, with the text that is printed ...
  provctl cert import what-the-ca-sent.zip
  provctl cert check ID --amt 11.8 --suffix corp.example.com

Renewal, of which events, banners and metrics remind from 45 days on:

  provctl cert renew ID --dry-run         what it would take, for which devices
  provctl cert renew ID                   a request with the same names, or a
                                          successor where our own root issued ID
  provctl cert replace ID NEW --yes       when the successor was imported

It is a person's act: no CA is known that issues the AMT usage by ACME.`
	return cmd
}

func (p *program) certRequest() *cobra.Command {
	var r api.NewCertificateRequest
	var file string
	var suggest bool
	var suffixes []string
	cmd := &cobra.Command{
		Use: "request --cn NAME [--san NAME]... --out FILE", Short: "Make a key inside the server and a request for a CA; --suggest says which names to ask for", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if suggest && (r.CommonName != "" || len(r.Names) > 0 || file != "") {
				return usage("--suggest only proposes names; make the request with what it prints")
			}
			if suggest {
				return p.suggestNames(cmd, suffixes)
			}
			if r.CommonName == "" {
				return usage("--cn is needed, such as provisionserver.corp.example.com; provctl cert request --suggest proposes names for your devices")
			}
			c, out, err := p.clientAndFile(file)
			if err != nil {
				return err
			}
			made, err := c.RequestCertificate(cmd.Context(), r)
			if err != nil {
				return out.drop(err)
			}
			if err := out.write([]byte(made.CSR)); err != nil {
				return &exitError{exitFailed, fmt.Errorf("%w; the request is kept: provctl cert pending %s --out FILE", err, made.ID)}
			}
			return p.printRequested(made, file)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.CommonName, "cn", "", "the common `NAME`: the most important one, old firmware reads no other")
	f.StringArrayVar(&r.Names, "san", nil, "a further DNS `NAME`; may be repeated")
	f.BoolVar(&suggest, "suggest", false, "make no request: propose the names, from the DNS suffixes of devices and zones")
	f.StringArrayVar(&suffixes, "suffix", nil, "with --suggest: a further DNS `SUFFIX`, such as DHCP option 15 gives; may be repeated")
	f.StringVar(&r.Organization, "org", "", "the organization")
	f.StringVar(&r.Country, "country", "", "two letters such as DE")
	f.StringVar(&r.Province, "province", "", "state or province")
	f.StringVar(&r.Locality, "locality", "", "city")
	f.BoolVar(&r.LegacyOU, "legacy-ou", false, "ask for the OU "+certs.SetupOU+" too: private CAs only")
	f.IntVar(&r.Bits, "bits", 2048, "length of the key, 2048 or 3072")
	f.BoolVar(&r.PrivateNames, "private-names", false, "allow names no public CA issues, such as .local: for a CA of your own")
	f.StringVar(&file, "out", "", "write the request to a new `FILE` instead of showing it")
	return cmd
}

func (p *program) printRequested(r api.CertificateRequested, file string) error {
	if p.json {
		return p.printJSON(r)
	}
	p.say("request %s\n\n%s\n", r.ID, r.OrderText)
	p.say("A device accepts it when its DNS suffix is one of these:\n")
	var t table
	for _, s := range r.Serves {
		list := strings.Join(s.Suffixes, ", ")
		if len(s.Unsure) > 0 {
			list = strings.TrimPrefix(list+"; not certain: "+strings.Join(s.Unsure, ", "), "; ")
		}
		t.row("  AMT "+s.Version, dash(list))
	}
	t.print(clean{p.out})
	if file != "" {
		p.say("\nwritten to %s; the key stays in the server until the certificate is imported\n", file)
		return nil
	}
	p.say("\n%s", r.CSR)
	return nil
}

func (p *program) certPending() *cobra.Command {
	var all, cancel bool
	var file string
	cmd := &cobra.Command{
		Use: "pending [ID]", Short: "Requests that wait for their certificate, or one of them once more", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cancel && len(args) == 0 {
				return unusable("--cancel: which request?")
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			switch {
			case cancel:
				r, err := c.CancelCertificateRequest(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(r)
				}
				p.say("request %s for %s: given up\n", r.ID, r.Name)
				return nil
			case len(args) == 1:
				out, err := newFile("--out", file)
				if err != nil {
					return err
				}
				r, err := c.CertificateRequest(cmd.Context(), args[0])
				if err != nil {
					return out.drop(err)
				}
				if err := out.write([]byte(r.CSR)); err != nil {
					return &exitError{exitFailed, err}
				}
				return p.printRequested(r, file)
			}
			l, err := c.CertificateRequests(cmd.Context(), all)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Requests)
			}
			if len(l.Requests) == 0 {
				p.say("no request is pending\n")
				return nil
			}
			var t table
			t.row("ID", "NAME", "KEY", "STATE", "MADE BY", "MADE", "RENEWS", "CERTIFICATE")
			for _, r := range l.Requests {
				t.row(r.ID, r.Name, r.Key, r.State, r.CreatedBy, when(&r.CreatedAt), dash(r.Follows), dash(r.Certificate))
			}
			t.print(clean{p.out})
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "those issued and given up too")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "give the request up")
	cmd.Flags().StringVar(&file, "out", "", "write the request to a new `FILE`")
	return cmd
}

func (p *program) certList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Provisioning certificates and what is to be said of them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Certificates(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Certificates)
			}
			if len(l.Certificates) == 0 {
				fmt.Fprintln(p.err, "no provisioning certificate is loaded; devices wait in pending_certificate")
				return nil
			}
			for i, k := range l.Certificates {
				if i > 0 {
					p.say("\n")
				}
				p.printCertificate(k)
			}
			return nil
		},
	}
}

func (p *program) printCertificate(k api.Certificate) {
	usable := "usable"
	if !k.Usable {
		usable = "not usable"
	}
	state := map[string]string{"active": "in use", "standby": "standby", "removed": "removed"}[k.State]
	life := fmt.Sprintf("%d days left (%s)", k.DaysLeft, k.NotAfter.Format("2006-01-02"))
	for _, f := range k.Findings {
		switch {
		case f.Code == "cert_expired" && f.Severity == "warn":
			life = "ended on " + k.NotAfter.Format("2006-01-02")
		case f.Code == "cert_not_yet_valid":
			life = "begins at " + k.NotBefore.Format(time.RFC3339)
		}
	}
	p.say("%s  %s, %s, %s, %s, from %s\n", k.ID, k.Name, state, usable, life, k.Source)
	for _, r := range k.Roots {
		p.say("  root %s\n", r)
	}
	if k.Devices > 0 {
		p.say("  %s set up with it\n", plural(k.Devices, "device was", "devices were"))
	}
	switch {
	case k.State == "standby" && k.Adds > 0 && k.Usable:
		p.say("  recommended: %s served by it and by none in use: provctl cert activate %s\n", plural(k.Adds, "device that waits would be", "devices that wait would be"), k.ID)
	case k.Waiting > 0:
		p.say("  %s\n", plural(k.Waiting, "device that waits could be set up with it", "devices that wait could be set up with it"))
	}
	if k.Renews != "" {
		p.say("  follows %s, same names and a longer life: provctl cert replace %s %s\n", k.Renews, k.Renews, k.ID)
	}
	if r := k.Renewal; r != nil {
		switch {
		case r.Certificate != "":
			p.say("  renewal (%s): %s follows it\n", r.Mode, r.Certificate)
		case r.Request != "":
			p.say("  renewal under way (%s): request %s, then provctl cert import FILE\n", r.Mode, r.Request)
		default:
			p.say("  renewal (%s): provctl cert renew %s\n", r.Mode, k.ID)
		}
	}
	switch {
	case k.UndoUntil != nil:
		p.say("  can be taken back until %s: provctl cert restore %s\n", k.UndoUntil.Format("2006-01-02"), k.ID)
	case k.Backup != nil && k.Backup.ConfirmedAt == nil:
		p.say("  backup %s on %s: not confirmed to be kept elsewhere\n", k.Backup.File, k.Backup.Node)
	case k.Backup != nil:
		p.say("  backup confirmed by %s\n", k.Backup.ConfirmedBy)
	}
	for _, f := range k.Findings {
		p.say("  %s %s: %s\n", f.Severity, f.Code, f.Detail)
	}
}

func (p *program) certShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "One certificate: chains, suffixes, generations, findings", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			d, err := c.Certificate(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(d)
			}
			p.printCertificate(d.Certificate)
			if d.Renewal == nil && d.State != "removed" {
				p.say("  renewal: no mode was chosen yet; provctl cert renew %s --dry-run says what it would take\n", d.ID)
			}
			p.say("\n")
			p.printReport(d.Report, true)
			return nil
		},
	}
}

func (p *program) certImport() *cobra.Command {
	var n api.NewImport
	var passwords []string
	var wrapTo string
	cmd := &cobra.Command{
		Use: "import FILE...", Short: "Import what a CA sent: PEM, DER, PKCS#7, PFX or zip, several at once, in any order", Args: cobra.MinimumNArgs(1),
		Long: "Import what a CA sent: PEM, DER, PKCS#7, PFX or zip, several at once, in any order.\n\n" +
			"The certificate is joined by its public key with a pending request, or with the key in a PFX. It comes into use when it is the only one.\n" +
			"The password of a PFX is read from --password-file (- is standard input) or PROVISIOND_PFX_PASSWORD, or asked for.\n\n" +
			"An encrypted backup is written at once. Its passphrase is shown this once, or wrapped to your public key (--wrap-to), or split into parts of\n" +
			"which any two open the backup (--split).",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if n.Files, err = uploads(args); err != nil {
				return err
			}
			if err := p.wrapKey(wrapTo, &n.Handover); err != nil {
				return err
			}
			if n.Passwords, err = p.passwordsFrom(passwords, "PROVISIOND_PFX_PASSWORD"); err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			r, err := c.ImportCertificate(cmd.Context(), n)
			var refused *api.Problem
			if errors.As(err, &refused) && refused.Code == "pfx_password_wrong" && len(n.Passwords) == 0 {
				password, err2 := p.ask("password of the PFX")
				if err2 != nil {
					return err
				}
				n.Passwords = []string{password}
				r, err = c.ImportCertificate(cmd.Context(), n)
			}
			if err != nil {
				return p.withFindings(err)
			}
			return p.printImport(r)
		},
	}
	cmd.Flags().StringArrayVar(&passwords, "password-file", nil, "a `FILE` with the password of a PFX, - for standard input; may be repeated")
	cmd.Flags().BoolVar(&n.AIA, "aia", false, "fetch missing intermediates from the addresses that certificates name, where provisioning.issuer_networks allows it")
	cmd.Flags().BoolVar(&n.Activate, "activate", false, "put it into use even if others are")
	cmd.Flags().BoolVar(&n.DryRun, "dry-run", false, "report only; nothing is stored")
	handoverFlags(cmd, &wrapTo, &n.Handover)
	return cmd
}

// uploads reads files that are no larger than what the server takes.
func uploads(names []string) ([]api.FileBytes, error) {
	var out []api.FileBytes
	total := 0
	for _, name := range names {
		f, err := certs.ReadFile(name)
		if err != nil {
			return nil, unusable("%w", err)
		}
		if total += len(f.Data); total > certs.MaxBundle {
			return nil, unusable("%s is too large beside the others: at most %d MB together are read, so import fewer at a time", name, certs.MaxBundle>>20)
		}
		out = append(out, api.FileBytes{Name: filepath.Base(name), Data: f.Data})
	}
	return out, nil
}

// withFindings prints what was found before the refusal.
func (p *program) withFindings(err error) error {
	var refused *api.Problem
	if errors.As(err, &refused) && refused.Code != "" && refused.Status != 401 && refused.Status != 403 {
		for _, f := range refused.Errors {
			fmt.Fprintf(clean{p.err}, "  %s %s\n", f.Location, f.Message)
		}
		if refused.Status == 409 {
			return &exitError{exitFailed, fmt.Errorf("%s: %s", refused.Code, refused.Detail)}
		}
	}
	return err
}

func (p *program) printImport(r api.ImportResult) error {
	if p.json {
		if err := p.printJSON(r); err != nil {
			return err
		}
	} else {
		p.printReport(r.Report, false)
	}
	if r.Refused != "" {
		return &exitError{exitFailed, errors.New("it would be refused: " + r.Refused)}
	}
	if p.json {
		return nil
	}
	if r.State == "" {
		p.say("\nnothing was stored\n")
		return nil
	}
	p.say("\n")
	switch {
	case r.Activated:
		p.say("%s is in use\n", r.Report.ID)
	case r.State == "active":
		p.say("%s was in use and stays so\n", r.Report.ID)
	case r.Report.DaysLeft < 0:
		p.say("%s is on standby: it ended on %s, and an import puts nothing into use that has ended\n", r.Report.ID, r.Report.NotAfter.Format("2006-01-02"))
	default:
		p.say("%s is on standby, since others are in use: provctl cert activate %s, or provctl cert replace OLD %s\n", r.Report.ID, r.Report.ID, r.Report.ID)
	}
	if r.Requeued.Devices > 0 || r.Requeued.Running {
		p.say("%s\n", requeuedText(r.Requeued.Devices, r.Requeued.Running))
	}
	if r.Backup != nil && !r.Passphrases.None() {
		p.say("\nencrypted backup: backups/%s in the data_dir of %s, opened again to prove it\n", r.Backup.File, r.Backup.Node)
		p.printPassphrase(r.Passphrases, r.Backup.Handed)
		p.say("keep a copy elsewhere: provctl cert backup export %s --out FILE; then: provctl cert backup confirm %s\n", r.Report.ID, r.Report.ID)
	}
	return nil
}

func requeuedText(n int, running bool) string {
	if running {
		return "devices that failed for want of it are being queued again; provctl event tail shows them"
	}
	if n == 1 {
		return "1 device that failed for want of it was queued again"
	}
	return fmt.Sprintf("%d devices that failed for want of it were queued again", n)
}
