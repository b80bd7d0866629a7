package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

const mostInput = 32 << 20

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, mostInput+1))
	if err != nil {
		return nil, unusable("%w", err)
	}
	if len(text) > mostInput {
		return nil, unusable("more than %d MiB; divide it", mostInput>>20)
	}
	return text, nil
}

func (p *program) deviceImport() *cobra.Command {
	dry := false
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Authorise the devices of a list (CSV or JSON)", Args: cobra.ExactArgs(1),
		Long: "Authorise the devices of a list; - reads standard input. The list is CSV with a heading, or a JSON list\n" +
			"of objects, with these words: uuid, serial, mac, network, address, fqdn, profile, tags, note, expires.\n" +
			"Any of the first four lets a device in; the address is where a device is found that says no hello,\n" +
			"since somebody else has set it up, until it does. Devices that wait for approval are let in at once.\n" +
			"A list with a mistake in it changes nothing.",
		Example: "  provctl device import assets.csv --dry-run\n\n  uuid,fqdn,profile\n  11223344-5566-7788-99aa-bbccddeeff00,pc7.corp.example.com,",
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := p.file(args[0])
			if err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			rep, err := c.ImportDevices(cmd.Context(), api.DeviceImport{File: text, DryRun: dry})
			if err != nil {
				return err
			}
			if p.json {
				err = p.printJSON(rep)
			} else {
				p.printDevices(rep)
			}
			if err == nil && len(rep.Problems) > 0 {
				return &exitError{status: exitFailed}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done and do nothing")
	return cmd
}

// understood is a row of a list in words.
func understood(r api.ImportRow) string {
	var out []string
	for _, f := range [][2]string{{"uuid", r.UUID}, {"serial", r.Serial}, {"mac", r.MAC}, {"network", r.Network}, {"address", r.Address}, {"fqdn", r.FQDN},
		{"profile", r.Profile}, {"tags", strings.Join(r.Tags, " ")}, {"note", r.Note}, {"expires", r.Expires}} {
		if f[1] != "" {
			out = append(out, f[0]+" "+f[1])
		}
	}
	return strings.Join(out, ", ")
}

func (p *program) printDevices(rep api.ImportReport) {
	for i, b := range rep.Problems {
		if i == 20 {
			fmt.Fprintf(p.err, "and %d more\n", len(rep.Problems)-i)
			break
		}
		fmt.Fprintf(p.err, "line %d: %s\n", b.Line, b.Problem)
	}
	if len(rep.Problems) > 0 {
		fmt.Fprintln(p.err, "nothing was changed")
		return
	}
	if rep.DryRun && rep.Read != "" {
		fmt.Fprintf(p.out, "read as %s; the first:\n", rep.Read)
		for _, r := range rep.First {
			fmt.Fprintf(p.out, "  %s\n", understood(r))
		}
	}
	fmt.Fprintf(p.out, "%s: %s, %d changed, %d as before; %s\n", plural(rep.Rows, "line", "lines"), plural(rep.New, "new entry", "new entries"), rep.Changed, rep.Same, plural(rep.Names, "name", "names"))
	switch {
	case rep.DryRun && rep.Waiting > 0:
		fmt.Fprintf(p.out, "%s for approval would be let in\n", plural(rep.Waiting, "device that waits", "devices that wait"))
	default:
		p.printStarted(rep.Started, rep.DryRun)
	}
	if rep.DryRun {
		fmt.Fprintln(p.out, "a dry run: nothing was changed")
	}
}

// printStarted says for how many devices that waited a change begins a run: how it
// ends, the runs will show.
func (p *program) printStarted(n int, dry bool) {
	switch {
	case n > 0 && dry:
		fmt.Fprintf(p.out, "%s would be called at once\n", plural(n, "device that waits", "devices that wait"))
	case n > 0:
		fmt.Fprintf(p.out, "%s called now; how that ends: provctl device list state:queued,provisioning,failed\n", plural(n, "device that waited is", "devices that waited are"))
	}
}

func (p *program) deviceAuthorised() *cobra.Command {
	remove := ""
	cmd := &cobra.Command{
		Use: "authorised", Short: "The list of authorised devices", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			if remove != "" {
				id, err := strconv.ParseInt(remove, 10, 64)
				if err != nil || id < 1 {
					return usage("%q is not the id of an entry; provctl device authorised has them", remove)
				}
				if _, err := c.RemoveAuthorisation(cmd.Context(), id); err != nil {
					return err
				}
				fmt.Fprintf(p.out, "entry %d: removed; devices it has let in stay\n", id)
				return nil
			}
			all := []api.Authorisation{}
			for q := (api.AuthorisationQuery{Limit: 1000}); ; {
				page, err := c.Authorisations(cmd.Context(), q)
				if err != nil {
					return err
				}
				all = append(all, page.Authorisations...)
				if q.After = page.Next; q.After == 0 {
					break
				}
			}
			if p.json {
				return p.printJSON(all)
			}
			if len(all) == 0 {
				fmt.Fprintln(p.err, "the list is empty; provctl device import FILE fills it")
				return nil
			}
			var t table
			t.row("ID", "KIND", "VALUE", "NAME", "PROFILE", "EXPIRES", "USED", "NOTE")
			for _, a := range all {
				t.row(fmt.Sprint(a.ID), a.Kind, a.Value, dash(a.FQDN), dash(a.Profile), when(a.ExpiresAt), when(a.UsedAt), a.Note)
			}
			t.print(p.out)
			return nil
		},
	}
	cmd.Flags().StringVar(&remove, "remove", "", "take the entry with this `ID` off the list")
	return cmd
}

func (p *program) deviceName() *cobra.Command {
	note := ""
	cmd := &cobra.Command{
		Use: "name DEVICE [FQDN]", Short: "Give a device its name, or take the assigned one away", Args: cobra.RangeArgs(1, 2),
		Long: "Give a device its name, also before its first hello. Without FQDN the assigned name is taken away.",
		RunE: func(cmd *cobra.Command, args []string) error {
			n := api.NewName{Note: note}
			if len(args) > 1 {
				n.FQDN = args[1]
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			res, err := c.NameDevice(cmd.Context(), args[0], n)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(res)
			}
			if res.FQDN == "" {
				fmt.Fprintf(p.out, "%s: has no assigned name any more\n", res.UUID)
			} else {
				fmt.Fprintf(p.out, "%s: named %s\n", res.UUID, res.FQDN)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for the timeline and the audit")
	return cmd
}

// vouchFlags are a person's word for a device's certificate.
func vouchFlags(cmd *cobra.Command, v *api.Vouch, first string) {
	cmd.Flags().StringVar(&v.Fingerprint, "fingerprint", "", "the `SHA256` of the certificate that the device shows: passwords are answered to whoever shows it")
	cmd.Flags().BoolVar(&v.TrustFirst, first, false, "answer passwords to whoever answers first; the audit keeps it")
}

func (p *program) deviceAdopt() *cobra.Command {
	note, file := "", ""
	var v api.Vouch
	cmd := &cobra.Command{
		Use: "adopt DEVICE --password-file FILE [--fingerprint SHA256 | --trust-first]", Short: "Try a password known from elsewhere", Args: cobra.ExactArgs(1),
		Long: "Try a password known from elsewhere on a device that takes none of ours; - reads it from standard input.\n" +
			"A run that waits takes it with it and comes at once. A device that refused passwords is not asked again within the hour, so that nobody is locked out.\n\n" +
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
			c, err := p.client()
			if err != nil {
				return err
			}
			res, err := c.AdoptDevice(cmd.Context(), args[0], api.Adoption{Password: text[0], Note: note, Vouch: v})
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(res)
			}
			fmt.Fprintf(p.out, "%s: %s\n", args[0], res.Said)
			if v == (api.Vouch{}) && p.atTerminal() {
				return p.askToTrust(cmd.Context(), c, res)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "password-file", "", "a `FILE` with the password")
	cmd.Flags().StringVar(&note, "note", "", "why, for the timeline and the audit")
	vouchFlags(cmd, &v, "trust-first")
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
	fmt.Fprintf(p.err, "What answers at %s shows the certificate\n  sha256:%s\nand nobody has vouched for it. Send the password to it? [y/N] ", res.Device.Address, seen)
	line, err := p.line()
	if err != nil && line == "" || !strings.EqualFold(strings.TrimSpace(line), "y") && !strings.EqualFold(strings.TrimSpace(line), "yes") {
		fmt.Fprintln(p.err, "it is kept and sent to nobody")
		return nil
	}
	res, err = c.Trust(ctx, res.Device.UUID, api.Retry{Vouch: api.Vouch{Fingerprint: seen}})
	return p.printAction(res.Device.UUID, res, err)
}

func (p *program) deviceTrust() *cobra.Command {
	note := ""
	var v api.Vouch
	cmd := &cobra.Command{
		Use: "trust DEVICE --fingerprint SHA256 | --first", Short: "Vouch for the certificate that a device shows", Args: cobra.ExactArgs(1),
		Long: "For a device whose key is not known here, or is another than before: a new board, a reset, one that somebody else set up.\n" +
			"Passwords that it may hold are answered to nobody else than its known key and whom you vouch for. device why shows which certificate it was.\n" +
			"It is called at once; when it takes a password its key is the device's from then on, and the word is spent.",
		Example: "  provctl device trust pc-24 --fingerprint 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		RunE: func(cmd *cobra.Command, args []string) error {
			if v == (api.Vouch{}) {
				return usage("want --fingerprint with the SHA-256 of its certificate, which device why shows, or --first")
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			res, err := c.Trust(cmd.Context(), args[0], api.Retry{Vouch: v, Note: note})
			return p.printAction(args[0], res, err)
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for the timeline and the audit")
	vouchFlags(cmd, &v, "first")
	return cmd
}
