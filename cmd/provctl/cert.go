package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	cmd := verb[api.CertificateRequested]{
		use:   "request --cn NAME [--san NAME]... --out FILE",
		short: "Make a key inside the server and a request for a CA; --suggest says which names to ask for",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&r.CommonName, "cn", "", "the common `NAME`: the most important one, old firmware reads no other")
			f.StringArrayVar(&r.Names, "san", nil, "a further DNS `NAME`; may be repeated")
			f.BoolVar(&suggest, "suggest", false, "make no request: propose the names, from the DNS suffixes of devices and zones")
			f.StringArrayVar(&suffixes, "suffix", nil,
				"with --suggest: a further DNS `SUFFIX`, such as DHCP option 15 gives; may be repeated")
			f.StringVar(&r.Organization, "org", "", "the organization")
			f.StringVar(&r.Country, "country", "", "two letters such as DE")
			f.StringVar(&r.Province, "province", "", "state or province")
			f.StringVar(&r.Locality, "locality", "", "city")
			f.BoolVar(&r.LegacyOU, "legacy-ou", false, "ask for the OU "+certs.SetupOU+" too: private CAs only")
			f.IntVar(&r.Bits, "bits", 2048, "length of the key, 2048 or 3072")
			f.BoolVar(&r.PrivateNames, "private-names", false, "allow names no public CA issues, such as .local: for a CA of your own")
			f.StringVar(&file, "out", "", "write the request to a new `FILE` instead of showing it")
		},
		check: func([]string) error {
			if r.CommonName == "" {
				return usage("--cn is needed, such as provisionserver.corp.example.com; provctl cert request --suggest proposes names " +
					"for your devices")
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.CertificateRequested, error) {
			return c.RequestCertificate(ctx, r)
		},
		out:   &file,
		bytes: func(r api.CertificateRequested) []byte { return []byte(r.CSR) },
		kept: func(r api.CertificateRequested) string {
			return "the request is kept: provctl cert pending " + r.ID + " --out FILE"
		},
		show: func(r api.CertificateRequested) { p.sayRequested(r, file) },
	}.command(p)
	request := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case !suggest:
			return request(cmd, args)
		case r.CommonName != "" || len(r.Names) > 0 || file != "":
			return usage("--suggest only proposes names; make the request with what it prints")
		}
		return p.suggestNames(cmd.Context(), suffixes)
	}
	return cmd
}

func (p *program) sayRequested(r api.CertificateRequested, file string) {
	p.say("request %s\n\n%s\nA device accepts it when its DNS suffix is one of these:\n", r.ID, r.OrderText)
	var t table
	for _, s := range r.Serves {
		list := strings.Join(s.Suffixes, ", ")
		if len(s.Unsure) > 0 {
			list = strings.TrimPrefix(list+"; not certain: "+strings.Join(s.Unsure, ", "), "; ")
		}
		t.row("  AMT "+s.Version, dash(list))
	}
	p.print(t)
	if file != "" {
		p.say("\nwritten to %s; the key stays in the server until the certificate is imported\n", file)
		return
	}
	p.say("\n%s", r.CSR)
}

func (p *program) certPending() *cobra.Command {
	var all, cancel bool
	var file string
	lists := verb[[]api.CertificateRequest]{
		ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.CertificateRequest, error) {
			l, err := c.CertificateRequests(ctx, all)
			return l.Requests, err
		},
		show: func(all []api.CertificateRequest) {
			if len(all) == 0 {
				p.say("no request is pending\n")
				return
			}
			rows(p, "ID|NAME|KEY|STATE|MADE BY|MADE|RENEWS|CERTIFICATE", all, func(r api.CertificateRequest) []any {
				return []any{r.ID, r.Name, r.Key, r.State, r.CreatedBy, r.CreatedAt, r.Follows, r.Certificate}
			})
		},
	}
	cancels := verb[api.CertificateRequest]{
		ask:  one((*api.Client).CancelCertificateRequest),
		show: func(r api.CertificateRequest) { p.say("request %s for %s: given up\n", r.ID, r.Name) },
	}
	shows := verb[api.CertificateRequested]{
		ask: one((*api.Client).CertificateRequest), out: &file,
		bytes: func(r api.CertificateRequested) []byte { return []byte(r.CSR) },
		show:  func(r api.CertificateRequested) { p.sayRequested(r, file) },
	}
	cmd := &cobra.Command{
		Use: "pending [ID]", Short: "Requests that wait for their certificate, or one of them once more", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case cancel && len(args) == 0:
				return unusable("--cancel: which request?")
			case cancel:
				return cancels.run(cmd.Context(), p, args)
			case len(args) == 1:
				return shows.run(cmd.Context(), p, args)
			}
			return lists.run(cmd.Context(), p, args)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "those issued and given up too")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "give the request up")
	outFlag(cmd.Flags(), &file, "the request")
	return cmd
}

func (p *program) certList() *cobra.Command {
	return verb[[]api.Certificate]{
		use: "list", short: "Provisioning certificates and what is to be said of them",
		ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.Certificate, error) {
			l, err := c.Certificates(ctx)
			return l.Certificates, err
		},
		show: func(all []api.Certificate) {
			if len(all) == 0 {
				p.note("no provisioning certificate is loaded; devices wait in pending_certificate\n")
			}
			for i, k := range all {
				if i > 0 {
					p.say("\n")
				}
				p.sayCertificate(k)
			}
		},
	}.command(p)
}

func (p *program) sayCertificate(k api.Certificate) {
	usable := "usable"
	if !k.Usable {
		usable = "not usable"
	}
	state := map[string]string{"active": "in use", "standby": "standby", "removed": "removed"}[k.State]
	life := fmt.Sprintf("%d days left (%s)", k.DaysLeft, day(k.NotAfter))
	for _, f := range k.Findings {
		switch {
		case f.Code == "cert_expired" && f.Severity == "warn":
			life = "ended on " + day(k.NotAfter)
		case f.Code == "cert_not_yet_valid":
			life = "begins at " + k.NotBefore.UTC().Format(time.RFC3339)
		}
	}
	p.say("%s  %s, %s, %s, %s, from %s\n", k.ID, k.Name, state, usable, life, k.Source)
	p.lines("  root %s\n", k.Roots)
	if k.Devices > 0 {
		p.say("  %s set up with it\n", plural(k.Devices, "device was", "devices were"))
	}
	switch {
	case k.State == "standby" && k.Adds > 0 && k.Usable:
		p.say("  recommended: %s served by it and by none in use: provctl cert activate %s\n",
			plural(k.Adds, "device that waits would be", "devices that wait would be"), k.ID)
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
		p.say("  can be taken back until %s: provctl cert restore %s\n", day(*k.UndoUntil), k.ID)
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
	return verb[api.CertificateDetail]{
		use: "show ID", short: "One certificate: chains, suffixes, generations, findings", args: cobra.ExactArgs(1),
		ask: one((*api.Client).Certificate),
		show: func(d api.CertificateDetail) {
			p.sayCertificate(d.Certificate)
			if d.Renewal == nil && d.State != "removed" {
				p.say("  renewal: no mode was chosen yet; provctl cert renew %s --dry-run says what it would take\n", d.ID)
			}
			p.say("\n")
			p.sayReport(d.Report, true)
		},
	}.command(p)
}

func (p *program) certImport() *cobra.Command {
	var n api.NewImport
	var passwords []string
	var h handoverFlags
	return verb[api.ImportResult]{
		use: "import FILE...", args: cobra.MinimumNArgs(1),
		short: "Import what a CA sent: PEM, DER, PKCS#7, PFX or zip, several at once, in any order",
		long: "Import what a CA sent: PEM, DER, PKCS#7, PFX or zip, several at once, in any order.\n\n" +
			"The certificate is joined by its public key with a pending request, or with the key in a PFX. It comes into use when it is " +
			"the only one.\n" +
			"The password of a PFX is read from --password-file (- is standard input) or PROVISIOND_PFX_PASSWORD, or asked for.\n\n" +
			"An encrypted backup is written at once. Its passphrase is shown this once, or wrapped to your public key (--wrap-to), or " +
			"split into parts of\n" +
			"which any two open the backup (--split).",
		flags: func(f *pflag.FlagSet) {
			f.StringArrayVar(&passwords, "password-file", nil, "a `FILE` with the password of a PFX, - for standard input; may be repeated")
			f.BoolVar(&n.AIA, "aia", false,
				"fetch missing intermediates from the addresses that certificates name, where provisioning.issuer_networks allows it")
			f.BoolVar(&n.Activate, "activate", false, "put it into use even if others are")
			f.BoolVar(&n.DryRun, "dry-run", false, "report only; nothing is stored")
			h.add(f)
		},
		check: func(args []string) (err error) {
			if n.Files, err = uploads(args); err != nil {
				return err
			}
			if err := h.read(p.ctx); err != nil {
				return err
			}
			n.Handover = h.Handover
			n.Passwords, err = p.passwordsFrom(passwords, "PROVISIOND_PFX_PASSWORD")
			return err
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.ImportResult, error) {
			r, err := c.ImportCertificate(ctx, n)
			var refused *api.Problem
			if errors.As(err, &refused) && refused.Code == "pfx_password_wrong" && len(n.Passwords) == 0 {
				password, notTyped := p.ask("password of the PFX")
				if notTyped != nil {
					return r, err
				}
				n.Passwords = []string{password}
				return c.ImportCertificate(ctx, n)
			}
			return r, err
		},
		findings: true, show: p.sayImport, status: wouldBeRefused,
	}.command(p)
}

// wouldBeRefused is how the dry run of an import ends.
func wouldBeRefused(r api.ImportResult) error {
	if r.Refused != "" {
		return failed("it would be refused: %s", r.Refused)
	}
	return nil
}

func (p *program) sayImport(r api.ImportResult) {
	p.sayReport(r.Report, false)
	switch {
	case r.Refused != "":
		return
	case r.State == "":
		p.say("\nnothing was stored\n")
		return
	case r.Activated:
		p.say("\n%s is in use\n", r.Report.ID)
	case r.State == "active":
		p.say("\n%s was in use and stays so\n", r.Report.ID)
	case r.Report.DaysLeft < 0:
		p.say("\n%s is on standby: it ended on %s, and an import puts nothing into use that has ended\n", r.Report.ID,
			day(r.Report.NotAfter))
	default:
		p.say("\n%s is on standby, since others are in use: provctl cert activate %s, or provctl cert replace OLD %s\n",
			r.Report.ID, r.Report.ID, r.Report.ID)
	}
	p.sayRequeued(r.Requeued.Devices, r.Requeued.Running)
	if r.Backup != nil && !r.Passphrases.None() {
		p.say("\n")
		p.sayBackup(r.Backup, r.Passphrases, r.Report.ID)
	}
}

// sayRequeued says which devices a certificate helps.
func (p *program) sayRequeued(n int, running bool) {
	switch {
	case running:
		p.say("devices that failed for want of it are being queued again; provctl event tail shows them\n")
	case n > 0:
		p.say("%s queued again\n", plural(n, "device that failed for want of it was", "devices that failed for want of it were"))
	}
}
