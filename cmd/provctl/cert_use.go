package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

func useFlags(f *pflag.FlagSet, u *api.UseCertificate) {
	f.BoolVar(&u.DryRun, "dry-run", false, "say which devices gain or lose a match, and change nothing")
	f.BoolVar(&u.Force, "force", false, "although waiting devices would lose their match, or it is not valid now")
}

func (p *program) certUse(word, short string) *cobra.Command {
	var u api.UseCertificate
	return verb[api.CertificateChanged]{
		use: word + " ID", short: short, args: cobra.ExactArgs(1), flags: func(f *pflag.FlagSet) { useFlags(f, &u) }, show: p.sayChanged,
		ask: func(ctx context.Context, c *api.Client, args []string) (api.CertificateChanged, error) {
			return c.UseCertificate(ctx, word, args[0], u)
		},
	}.command(p)
}

func (p *program) certReplace() *cobra.Command {
	var u api.UseCertificate
	var yes, dry bool
	var old string
	return verb[api.CertificateChanged]{
		use: "replace OLD NEW --yes", args: cobra.ExactArgs(2),
		short: "Put NEW into use and OLD into the trash, in one move; without --yes it only says what that would do",
		long: "Put NEW into use and OLD into the trash, in one move.\n\n" +
			"Without --yes nothing is changed: the devices that would gain or lose a match are listed. Devices that failed for a " +
			"certificate reason are\n" +
			"queued again, and provctl cert restore OLD takes it back for 30 days.",
		flags: func(f *pflag.FlagSet) {
			useFlags(f, &u)
			f.BoolVar(&yes, "yes", false, "do it")
			f.BoolVar(&u.Overlap, "overlap", false, "leave OLD in use beside NEW")
		},
		check: func([]string) error {
			if yes && u.DryRun {
				return usage("--yes and --dry-run exclude each other")
			}
			dry, u.DryRun = u.DryRun, !yes
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.CertificateChanged, error) {
			old, u.With = args[0], args[1]
			return c.UseCertificate(ctx, "replace", args[0], u)
		},
		show: func(r api.CertificateChanged) {
			p.sayChanged(r)
			if !yes && !dry {
				overlap := ""
				if u.Overlap {
					overlap = " --overlap"
				}
				p.say("do it: provctl cert replace %s %s%s --yes\n", old, u.With, overlap)
			}
		},
	}.command(p)
}

func (p *program) sayChanged(r api.CertificateChanged) {
	if r.DryRun {
		p.say("dry run, nothing was changed; afterwards: ")
	}
	p.say("%s\n", r.Said)
	p.sayGroups("devices that would find a certificate and do not now", r.Gain)
	p.sayGroups("devices that would find none any more", r.Lose)
	if r.Managed != "" {
		p.say("%s\n", r.Managed)
	}
	if len(r.Gain)+len(r.Lose) == 0 {
		p.say("no recorded device gains or loses a match\n")
	}
	if len(r.InUse) == 0 {
		p.say("no certificate is in use then: devices wait in pending_certificate\n")
	}
	p.lines("stays: %s\n", r.Shared)
	p.sayRequeued(r.Requeued.Devices, r.Requeued.Running)
}

func (p *program) certCheck() *cobra.Command {
	var q api.CheckQuestion
	return verb[api.CertificateVerdict]{
		use: "check ID --amt RELEASE --suffix SUFFIX", args: cobra.ExactArgs(1),
		short:   "Ask a simulated device of that generation, over a real handshake; exit 1 when it refuses",
		example: "  provctl cert check 0123456789abcdef --amt 11.8 --suffix corp.example.com",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&q.AMT, "amt", "", "the firmware's `RELEASE`, such as 11.8")
			f.StringVar(&q.Suffix, "suffix", "", "the device's DNS `SUFFIX`")
			f.BoolVar(&q.RootAdded, "root-added", false, "a device that was given the root's hash by USB, in MEBx or by its maker")
		},
		check: func([]string) error {
			if q.AMT == "" || q.Suffix == "" {
				return usage("--amt and --suffix are needed, such as --amt 11.8 --suffix corp.example.com")
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.CertificateVerdict, error) {
			return c.CheckCertificate(ctx, args[0], q)
		},
		show: func(v api.CertificateVerdict) {
			p.say("%s\n  simulated  AMT %s, suffix %s\n", v.Says, v.Firmware, v.Suffix)
			for i, name := range v.Chain {
				p.say("  chain %d    %s\n", i+1, name)
			}
			if v.TLS != "" {
				p.say("  handshake  %s\n", v.TLS)
			}
			if v.Devices > 0 {
				p.say("  recorded   %d of %d devices of that AMT release announced one of its roots\n", v.Trusting, v.Devices)
			}
			p.lines("  device     %s\n", v.DeviceSaid)
			if v.Code == "root_not_trusted_by_device" && !q.RootAdded {
				p.say("next: provctl cert advise shows which roots your devices know; " +
					"where you bring this root's hash into them yourself, ask with --root-added\n")
			}
		},
		status: func(v api.CertificateVerdict) error { return exit(exitFailed, !v.Accepted) },
	}.command(p)
}

func (p *program) certAdvise() *cobra.Command {
	var from, to string
	var limit int
	var names bool
	var suffixes []string
	change := verb[api.RootChange]{
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.RootChange, error) {
			return c.ChangeRoot(ctx, from, to)
		},
		show: func(r api.RootChange) {
			p.say("from %s to %s: %d devices trust both, %d only the new one, %d would be cut off\n", r.From, r.To, r.Served, r.Gain,
				r.CutOff)
			p.sayGroups("cut off", r.Devices)
		},
	}
	advise := verb[api.CertificateAdvice]{
		ask: none((*api.Client).AdviseCertificate),
		show: func(a api.CertificateAdvice) {
			if a.Devices == 0 {
				p.say("no device has announced what it trusts yet, so there is nothing to rank: " +
					"advice comes with the first hellos (provctl device list shows who said hello)\n")
				return
			}
			p.say("%s; the certificates in use serve %d\n",
				plural(a.Devices, "device has announced its roots", "devices have announced their roots"), a.Served)
			if limit > 0 {
				a.Roots = a.Roots[:min(limit, len(a.Roots))]
			}
			rows(p, "DEVICES|ADDS|REFUSED|HELD|ROOT|BY AMT|BY SUFFIX", a.Roots, func(r certs.RootAdvice) []any {
				return []any{r.Devices, r.Adds, r.Refused, map[bool]string{true: "yes"}[r.Held], r.Name, counts(r.ByVersion),
					counts(r.BySuffix)}
			})
		},
	}
	cmd := &cobra.Command{
		Use: "advise [--names | --from ROOT --to ROOT]", Args: cobra.NoArgs,
		Short: "Which roots would serve the devices that said hello, which names to buy, or whom a change of the root would cut off",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case names && (from != "" || to != ""):
				return usage("--names goes without --from and --to")
			case names:
				return p.suggestNames(cmd.Context(), suffixes)
			case (from == "") != (to == ""):
				return usage("--from and --to go together")
			case from != "":
				return change.run(cmd.Context(), p, args)
			}
			return advise.run(cmd.Context(), p, args)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&names, "names", false, "which names to order a certificate for, from the DNS suffixes of devices and zones")
	f.StringArrayVar(&suffixes, "suffix", nil, "with --names: a further DNS `SUFFIX`, such as DHCP option 15 gives; may be repeated")
	f.StringVar(&from, "from", "", "the `ROOT` in use, by name or hash")
	f.StringVar(&to, "to", "", "the `ROOT` to change to")
	f.IntVar(&limit, "limit", 20, "how many roots to show; 0 for all")
	return cmd
}

// counts are the largest numbers first, a few of them.
func counts(m map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		if m[a] != m[b] {
			return m[b] - m[a]
		}
		return strings.Compare(a, b)
	})
	var out []string
	for i, k := range keys {
		if i == 4 {
			out = append(out, fmt.Sprintf("%d more", len(keys)-i))
			break
		}
		out = append(out, fmt.Sprintf("%s: %d", k, m[k]))
	}
	return strings.Join(out, ", ")
}

// suggestNames proposes which names to order. Where neither devices nor zones
// nor arguments name a suffix, it asks for one.
func (p *program) suggestNames(ctx context.Context, suffixes []string) error {
	return verb[api.NameAdvice]{
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.NameAdvice, error) {
			a, err := c.AdviseNames(ctx, suffixes)
			if err != nil || len(a.Suffixes) > 0 || p.json {
				return a, err
			}
			p.note("no device has told its DNS suffix yet, and the configuration names no zones\n" +
				"DNS suffixes of your devices, as DHCP option 15 gives them, separated by spaces: ")
			line, _ := p.line() // the end of the input is an answer without a suffix
			typed := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ',' || r == ';' || r == '\t' })
			if len(typed) == 0 {
				p.note("\n")
				return a, usage("no suffix is known; give them with --suffix, such as --suffix corp.example.com")
			}
			return c.AdviseNames(ctx, typed)
		},
		show:   p.sayProposal,
		status: func(a api.NameAdvice) error { return exit(exitFailed, len(a.Names) == 0) },
	}.run(ctx, p, nil)
}

func (p *program) sayProposal(a api.NameAdvice) {
	rows(p, "SUFFIX|DEVICES|FROM|SERVED BY|WHY", a.Suffixes, func(s certs.ProposedSuffix) []any {
		return []any{s.Suffix, s.Devices, s.From, s.Name, s.Why}
	})
	for _, s := range a.Suffixes {
		if s.Unsure != "" {
			p.say("not certain: %s\n", s.Unsure)
		}
	}
	p.lines("note: %s\n", a.Notes)
	if len(a.Names) == 0 {
		p.say("\nno certificate of a public CA can serve these devices\n")
		return
	}
	line := "provctl cert request --cn " + a.Names[0].Name
	for _, n := range a.Names[1:] {
		line += " --san " + n.Name
	}
	p.say("\nask for %s:\n  %s --out order.csr\n", plural(len(a.Names), "name", "names"), line)
}

func (p *program) certRenew() *cobra.Command {
	var r api.RenewCertificate
	var file string
	return verb[api.CertificateRenewed]{
		use: "renew ID [--dry-run] [--mode MODE] [--out FILE]", args: cobra.ExactArgs(1),
		short: "Begin the successor of a certificate, under the same names",
		long: "Begin the successor of a certificate, under the same names. The certificate itself stays in use.\n\n" +
			"Mode manual makes a request to order with; what the CA sends is imported as ever and follows ID. Mode own-root issues the " +
			"successor at once,\n" +
			"where the root kept here issued ID too. Left out, the mode chosen last is taken, else the one that suits ID. It is stored " +
			"with ID.\n\n" +
			"There is no mode acme: no public CA is known that issues the AMT usage by ACME.",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&r.Mode, "mode", "", "`MODE`: manual or own-root")
			f.BoolVar(&r.DryRun, "dry-run", false, "say what would be done and which devices keep or lose a match, and change nothing")
			f.StringVar(&file, "out", "", "mode manual: write the request to a new `FILE` instead of showing it")
		},
		check: func([]string) error {
			if r.DryRun && file != "" {
				return usage("--dry-run makes no request to write to --out")
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.CertificateRenewed, error) {
			return c.RenewCertificate(ctx, args[0], r)
		},
		findings: true, out: &file,
		bytes: func(r api.CertificateRenewed) []byte {
			if r.Request == nil {
				return nil
			}
			return []byte(r.Request.CSR)
		},
		show: func(r api.CertificateRenewed) { p.sayRenewed(r, file) },
		status: func(r api.CertificateRenewed) error {
			if r.Import != nil {
				return wouldBeRefused(*r.Import)
			}
			return nil
		},
	}.command(p)
}

func (p *program) sayRenewed(r api.CertificateRenewed, file string) {
	if r.DryRun {
		p.say("dry run, nothing was changed: ")
	}
	p.say("%s\n  mode   %s\n  names  %s\n  root   %s", r.Said, r.Mode, strings.Join(r.Names, ", "), dash(strings.Join(r.Roots, ", ")))
	if r.Mode == "manual" {
		p.say(", as far as the CA keeps to it; another one: provctl cert advise --from ROOT --to ROOT")
	}
	p.say("\n")
	p.sayGroups("devices that keep their match only by a successor", r.Keep)
	p.sayGroups("devices that would lose their match to it", r.Lose)
	if len(r.Keep)+len(r.Lose) == 0 {
		p.say("no recorded device depends on it alone\n")
	}
	switch {
	case r.Request != nil:
		p.say("\n")
		p.sayRequested(*r.Request, file)
		p.say("\nnext: order it, then provctl cert import FILE; provctl cert pending %s shows it again, --cancel gives it up\n",
			r.Request.ID)
	case r.Import != nil:
		p.say("\n")
		p.sayImport(*r.Import)
		p.say("next: provctl cert replace %s %s\n", r.Certificate, r.Import.Report.ID)
	case r.DryRun:
		p.say("do it: provctl cert renew %s --mode %s\n", r.Certificate, r.Mode)
	}
}
