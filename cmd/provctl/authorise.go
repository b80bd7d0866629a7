package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) deviceImport() *cobra.Command {
	var in api.DeviceImport
	return verb[api.ImportReport]{
		use: "import FILE", short: "Authorise the devices of a list (CSV or JSON)", args: cobra.ExactArgs(1),
		long: "Authorise the devices of a list; - reads standard input. The list is CSV with a heading, or a JSON list\n" +
			"of objects, with these words: uuid, serial, mac, network, address, fqdn, profile, tags, note, expires.\n" +
			"Any of the first four lets a device in; the address is where a device is found that says no hello,\n" +
			"since somebody else has set it up, until it does. Devices that wait for approval are let in at once.\n" +
			"A list with a mistake in it changes nothing.",
		example: "  provctl device import assets.csv --dry-run\n\n  uuid,fqdn,profile\n  " +
			"11223344-5566-7788-99aa-bbccddeeff00,pc7.corp.example.com,",
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&in.DryRun, "dry-run", false, "say what would be done and do nothing")
		},
		check: func(args []string) (err error) {
			in.File, err = p.file(args[0])
			return err
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.ImportReport, error) {
			return c.ImportDevices(ctx, in)
		},
		show:   p.sayImported,
		status: func(rep api.ImportReport) error { return exit(exitFailed, len(rep.Problems) > 0) },
	}.command(p)
}

// understood is a row of a list in words.
func understood(r api.ImportRow) string {
	var out []string
	for _, f := range [][2]string{{"uuid", r.UUID}, {"serial", r.Serial}, {"mac", r.MAC}, {"network", r.Network}, {"address", r.Address},
		{"fqdn", r.FQDN}, {"profile", r.Profile}, {"tags", strings.Join(r.Tags, " ")}, {"note", r.Note}, {"expires", r.Expires}} {
		if f[1] != "" {
			out = append(out, f[0]+" "+f[1])
		}
	}
	return strings.Join(out, ", ")
}

func (p *program) sayImported(rep api.ImportReport) {
	for i, b := range rep.Problems {
		if i == 20 {
			p.note("and %d more\n", len(rep.Problems)-i)
			break
		}
		p.note("line %d: %s\n", b.Line, b.Problem)
	}
	if len(rep.Problems) > 0 {
		p.note("nothing was changed\n")
		return
	}
	if rep.DryRun && rep.Read != "" {
		p.say("read as %s; the first:\n", rep.Read)
		for _, r := range rep.First {
			p.say("  %s\n", understood(r))
		}
	}
	p.say("%s: %s, %d changed, %d as before; %s\n", plural(rep.Rows, "line", "lines"), plural(rep.New, "new entry", "new entries"),
		rep.Changed, rep.Same, plural(rep.Names, "name", "names"))
	if rep.DryRun && rep.Waiting > 0 {
		p.say("%s for approval would be let in\n", plural(rep.Waiting, "device that waits", "devices that wait"))
		p.say("a dry run: nothing was changed\n")
		return
	}
	p.sayStarted(rep.Started, rep.DryRun)
}

// sayStarted says for how many devices that waited a change begins a run, and
// when nothing was changed. How a run ends, the runs will show.
func (p *program) sayStarted(n int, dry bool) {
	switch {
	case n > 0 && dry:
		p.say("%s would be called at once\n", plural(n, "device that waits", "devices that wait"))
	case n > 0:
		p.say("%s called now; how that ends: provctl device list state:queued,provisioning,failed\n",
			plural(n, "device that waited is", "devices that waited are"))
	}
	if dry {
		p.say("a dry run: nothing was changed\n")
	}
}

func (p *program) deviceAuthorised() *cobra.Command {
	remove := ""
	entry := number("the id of an entry; provctl device authorised has them")
	show := list(p, verb[[]api.Authorisation]{
		use: "authorised", short: "The list of authorised devices",
		ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.Authorisation, error) {
			all := []api.Authorisation{}
			for q := (api.AuthorisationQuery{Limit: 1000}); ; {
				page, err := c.Authorisations(ctx, q)
				all = append(all, page.Authorisations...)
				if q.After = page.Next; err != nil || q.After == 0 {
					return all, err
				}
			}
		},
	}, "the list is empty; provctl device import FILE fills it", "ID|KIND|VALUE|NAME|PROFILE|EXPIRES|USED|NOTE",
		func(a api.Authorisation) []any {
			return []any{a.ID, a.Kind, a.Value, a.FQDN, a.Profile, a.ExpiresAt, a.UsedAt, blank(a.Note)}
		})
	all := show.RunE
	show.RunE = func(cmd *cobra.Command, args []string) error {
		if remove == "" {
			return all(cmd, args)
		}
		if err := entry(cmd, []string{remove}); err != nil {
			return err
		}
		return verb[api.Removed]{
			ask: func(ctx context.Context, c *api.Client, _ []string) (api.Removed, error) {
				return c.RemoveAuthorisation(ctx, idOf(remove))
			},
			show: func(api.Removed) { p.say("entry %s: removed; devices it has let in stay\n", remove) },
		}.run(cmd.Context(), p, nil)
	}
	show.Flags().StringVar(&remove, "remove", "", "take the entry with this `ID` off the list")
	return show
}

// vouchFlags are a person's word for a device's certificate.
func vouchFlags(f *pflag.FlagSet, v *api.Vouch, first string) {
	f.StringVar(&v.Fingerprint, "fingerprint", "",
		"the `SHA256` of the certificate that the device shows: passwords are answered to whoever shows it")
	f.BoolVar(&v.TrustFirst, first, false, "answer passwords to whoever answers first; the audit keeps it")
}

func (p *program) deviceAdopt() *cobra.Command {
	file := ""
	var a api.Adoption
	cmd := &cobra.Command{
		Use: "adopt DEVICE --password-file FILE [--fingerprint SHA256 | --trust-first]", Short: "Try a password known from elsewhere",
		Args: cobra.ExactArgs(1),
		Long: "Try a password known from elsewhere on a device that takes none of ours; - reads it from standard input.\n" +
			"A run that waits takes it with it and comes at once. A device that refused passwords is not asked again within the hour, so " +
			"that nobody is locked out.\n\n" +
			"The password is answered to nobody for whose certificate no person has vouched: with --fingerprint for one that you know,\n" +
			"with --trust-first for whoever answers first. With neither, at a terminal, you are shown which certificate it is and asked.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usage("--password-file is needed; a password in an argument is seen by every user of this machine")
			}
			text, err := p.passwordsFrom([]string{file}, "")
			if err != nil {
				return err
			}
			a.Password = text[0]
			c, err := p.client()
			if err != nil {
				return err
			}
			res, err := c.AdoptDevice(cmd.Context(), args[0], a)
			if err := p.showAction(args[0], res, err); err != nil || p.json || a.Vouch != (api.Vouch{}) || !p.atTerminal() {
				return err
			}
			return p.askToTrust(cmd.Context(), c, res)
		},
	}
	cmd.Flags().StringVar(&file, "password-file", "", "a `FILE` with the password")
	noteFlag(cmd.Flags(), &a.Note)
	vouchFlags(cmd.Flags(), &a.Vouch, "trust-first")
	return cmd
}

// atTerminal reports whether a person types there.
func (p *program) atTerminal() bool {
	_, file := p.in.(*os.File)
	return file && onTerminal(p.in)
}

// askToTrust shows whose certificate it is that a password would be answered to, and
// asks, as ssh does with a host that it does not know.
func (p *program) askToTrust(ctx context.Context, c *api.Client, res api.ActionResult) error {
	seen := res.Device.PeerSeen
	for deadline := time.Now().Add(30 * time.Second); seen == "" && time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		d, err := c.Device(ctx, res.Device.UUID)
		if err != nil {
			return err
		}
		if over := len(d.Runs) == 0 || d.Runs[0].ID != res.RunID || d.Runs[0].FinishedAt != nil; over && d.PeerSeen == "" {
			return nil // it was let in by its known key, or nobody answered
		}
		seen = d.PeerSeen
	}
	if seen == "" {
		return nil
	}
	p.note("What answers at %s shows the certificate\n  sha256:%s\n", res.Device.Address, seen)
	if !p.yes("and nobody has vouched for it. Send the password to it?") {
		p.note("it is kept and sent to nobody\n")
		return nil
	}
	res, err := c.Trust(ctx, res.Device.UUID, api.Retry{Vouch: api.Vouch{Fingerprint: seen}})
	return p.showAction(res.Device.UUID, res, err)
}

func (p *program) deviceTrust() *cobra.Command {
	var r api.Retry
	return p.action(verb[api.ActionResult]{
		use: "trust DEVICE --fingerprint SHA256 | --first", short: "Vouch for the certificate that a device shows",
		args: cobra.ExactArgs(1),
		long: "For a device whose key is not known here, or is another than before: a new board, a reset, one that somebody else set " +
			"up.\n" +
			"Passwords that it may hold are answered to nobody else than its known key and whom you vouch for. device why shows which " +
			"certificate it was.\n" +
			"It is called at once; when it takes a password its key is the device's from then on, and the word is spent.",
		example: "  provctl device trust pc-24 --fingerprint 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		flags: func(f *pflag.FlagSet) {
			noteFlag(f, &r.Note)
			vouchFlags(f, &r.Vouch, "first")
		},
		check: func([]string) error {
			if r.Vouch == (api.Vouch{}) {
				return usage("want --fingerprint with the SHA-256 of its certificate, which device why shows, or --first")
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.ActionResult, error) {
			return c.Trust(ctx, args[0], r)
		},
	})
}
