package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func useFlags(cmd *cobra.Command, u *api.UseCertificate) {
	cmd.Flags().BoolVar(&u.DryRun, "dry-run", false, "say which devices gain or lose a match, and change nothing")
	cmd.Flags().BoolVar(&u.Force, "force", false, "although waiting devices would lose their match, or it is not valid now")
}

func (p *program) certUse(verb, short string) *cobra.Command {
	var u api.UseCertificate
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.useCertificate(cmd, verb, args[0], u) },
	}
	useFlags(cmd, &u)
	return cmd
}

func (p *program) certReplace() *cobra.Command {
	var u api.UseCertificate
	var yes bool
	cmd := &cobra.Command{
		Use: "replace OLD NEW --yes", Short: "Put NEW into use and OLD into the trash, in one move; without --yes it only says what that would do", Args: cobra.ExactArgs(2),
		Long: "Put NEW into use and OLD into the trash, in one move.\n\n" +
			"Without --yes nothing is changed: the devices that would gain or lose a match are listed. Devices that failed for a certificate reason are\n" +
			"queued again, and provctl cert restore OLD takes it back for 30 days.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if yes && u.DryRun {
				return usage("--yes and --dry-run exclude each other")
			}
			u.With = args[1]
			only := !yes && !u.DryRun
			u.DryRun = !yes
			if err := p.useCertificate(cmd, "replace", args[0], u); err != nil || !only || p.json {
				return err
			}
			overlap := ""
			if u.Overlap {
				overlap = " --overlap"
			}
			p.say("do it: provctl cert replace %s %s%s --yes\n", args[0], args[1], overlap)
			return nil
		},
	}
	useFlags(cmd, &u)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.Flags().BoolVar(&u.Overlap, "overlap", false, "leave OLD in use beside NEW")
	return cmd
}

func (p *program) useCertificate(cmd *cobra.Command, verb, id string, u api.UseCertificate) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	r, err := c.UseCertificate(cmd.Context(), verb, id, u)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(r)
	}
	if r.DryRun {
		p.say("dry run, nothing was changed; afterwards: %s\n", r.Said)
	} else {
		p.say("%s\n", r.Said)
	}
	p.printGroups("devices that would find a certificate and do not now", r.Gain)
	p.printGroups("devices that would find none any more", r.Lose)
	if r.Managed != "" {
		p.say("%s\n", r.Managed)
	}
	if len(r.Gain)+len(r.Lose) == 0 {
		p.say("no recorded device gains or loses a match\n")
	}
	if len(r.InUse) == 0 {
		p.say("no certificate is in use then: devices wait in pending_certificate\n")
	}
	for _, s := range r.Shared {
		p.say("stays: %s\n", s)
	}
	if r.Requeued.Devices > 0 || r.Requeued.Running {
		p.say("%s\n", requeuedText(r.Requeued.Devices, r.Requeued.Running))
	}
	return nil
}

func (p *program) certCheck() *cobra.Command {
	var q api.CheckQuestion
	cmd := &cobra.Command{
		Use: "check ID --amt RELEASE --suffix SUFFIX", Short: "Ask a simulated device of that generation, over a real handshake; exit 1 when it refuses", Args: cobra.ExactArgs(1),
		Example: "  provctl cert check 0123456789abcdef --amt 11.8 --suffix corp.example.com",
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.AMT == "" || q.Suffix == "" {
				return usage("--amt and --suffix are needed, such as --amt 11.8 --suffix corp.example.com")
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			v, err := c.CheckCertificate(cmd.Context(), args[0], q)
			if err != nil {
				return err
			}
			if p.json {
				err = p.printJSON(v)
			} else {
				p.say("%s\n", v.Says)
				p.say("  simulated  AMT %s, suffix %s\n", v.Firmware, v.Suffix)
				for i, name := range v.Chain {
					p.say("  chain %d    %s\n", i+1, name)
				}
				if v.TLS != "" {
					p.say("  handshake  %s\n", v.TLS)
				}
				if v.Devices > 0 {
					p.say("  recorded   %d of %d devices of that AMT release announced one of its roots\n", v.Trusting, v.Devices)
				}
				for _, s := range v.DeviceSaid {
					p.say("  device     %s\n", s)
				}
				if v.Code == "root_not_trusted_by_device" && !q.RootAdded {
					p.say("next: provctl cert advise shows which roots your devices know; where you bring this root's hash into them yourself, ask with --root-added\n")
				}
			}
			if err == nil && !v.Accepted {
				return &exitError{status: exitFailed}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&q.AMT, "amt", "", "the firmware's `RELEASE`, such as 11.8")
	cmd.Flags().StringVar(&q.Suffix, "suffix", "", "the device's DNS `SUFFIX`")
	cmd.Flags().BoolVar(&q.RootAdded, "root-added", false, "a device that was given the root's hash by USB, in MEBx or by its maker")
	return cmd
}

func (p *program) certAdvise() *cobra.Command {
	var from, to string
	var limit int
	var names bool
	var suffixes []string
	cmd := &cobra.Command{
		Use: "advise [--names | --from ROOT --to ROOT]", Short: "Which roots would serve the devices that said hello, which names to buy, or whom a change of the root would cut off", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if names && (from != "" || to != "") {
				return usage("--names goes without --from and --to")
			}
			if names {
				return p.suggestNames(cmd, suffixes)
			}
			if (from == "") != (to == "") {
				return usage("--from and --to go together")
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			if from != "" {
				r, err := c.ChangeRoot(cmd.Context(), from, to)
				if err != nil {
					return err
				}
				if p.json {
					return p.printJSON(r)
				}
				p.say("from %s to %s: %d devices trust both, %d only the new one, %d would be cut off\n", r.From, r.To, r.Served, r.Gain, r.CutOff)
				p.printGroups("cut off", r.Devices)
				return nil
			}
			a, err := c.AdviseCertificate(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(a)
			}
			if a.Devices == 0 {
				p.say("no device has announced what it trusts yet, so there is nothing to rank: advice comes with the first hellos (provctl device list shows who said hello)\n")
				return nil
			}
			p.say("%s; the certificates in use serve %d\n", plural(a.Devices, "device has announced its roots", "devices have announced their roots"), a.Served)
			var t table
			t.row("DEVICES", "ADDS", "REFUSED", "HELD", "ROOT", "BY AMT", "BY SUFFIX")
			for i, r := range a.Roots {
				if limit > 0 && i == limit {
					break
				}
				held := "-"
				if r.Held {
					held = "yes"
				}
				t.row(fmt.Sprint(r.Devices), fmt.Sprint(r.Adds), fmt.Sprint(r.Refused), held, r.Name, counts(r.ByVersion), counts(r.BySuffix))
			}
			t.print(clean{p.out})
			return nil
		},
	}
	cmd.Flags().BoolVar(&names, "names", false, "which names to order a certificate for, from the DNS suffixes of devices and zones")
	cmd.Flags().StringArrayVar(&suffixes, "suffix", nil, "with --names: a further DNS `SUFFIX`, such as DHCP option 15 gives; may be repeated")
	cmd.Flags().StringVar(&from, "from", "", "the `ROOT` in use, by name or hash")
	cmd.Flags().StringVar(&to, "to", "", "the `ROOT` to change to")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many roots to show; 0 for all")
	return cmd
}
