package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

const mostInput = 32 << 20

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, mostInput+1))
	if err != nil {
		return nil, usage("standard input: %w", err)
	}
	if len(text) > mostInput {
		return nil, usage("more than %d MiB; divide it", mostInput>>20)
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
			rep, err := c.ImportDevices(cmd.Context(), api.DeviceImport{Document: string(text), DryRun: dry})
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
		Use: "name UUID [FQDN]", Short: "Give a device its name, or take the assigned one away", Args: cobra.RangeArgs(1, 2),
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

func (p *program) deviceAdopt() *cobra.Command {
	note, file := "", ""
	cmd := &cobra.Command{
		Use: "adopt UUID --password-file FILE", Short: "Try a password known from elsewhere", Args: cobra.ExactArgs(1),
		Long: "Try a password known from elsewhere on a device that takes none of ours; - reads it from standard input.\nA device that refused passwords is not asked again within the hour, so that nobody is locked out.",
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
			res, err := c.AdoptDevice(cmd.Context(), args[0], api.Adoption{Password: text[0], Note: note})
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(res)
			}
			fmt.Fprintf(p.out, "%s: %s\n", args[0], res.Said)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "password-file", "", "a `FILE` with the password")
	cmd.Flags().StringVar(&note, "note", "", "why, for the timeline and the audit")
	return cmd
}
