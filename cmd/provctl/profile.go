package main

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) profileCommand() *cobra.Command {
	version := 0
	cmd := group("profile", "Profiles: what a device is made into",
		verb[api.ProfileList]{
			use: "list", short: "The newest version of each profile", ask: none((*api.Client).Profiles),
			show: func(l api.ProfileList) {
				rows(p, "PROFILE|VERSION|TLS|HOST NAME|DOMAIN|MADE BY|SINCE", l.Profiles, func(v api.ProfileView) []any {
					return []any{v.Name, v.Version, v.Profile.TLS, v.Profile.HostName, v.Profile.Domain, v.CreatedBy, v.CreatedAt}
				})
			},
		}.command(p),
		verb[api.ProfileView]{
			use: "show NAME", short: "One profile as a document", args: cobra.ExactArgs(1),
			flags: func(f *pflag.FlagSet) { f.IntVar(&version, "version", 0, "an older version; 0 is the newest") },
			ask: func(ctx context.Context, c *api.Client, args []string) (api.ProfileView, error) {
				return c.Profile(ctx, args[0], version)
			},
			show: func(v api.ProfileView) {
				text, err := yaml.Marshal(v.Profile)
				if err != nil {
					text = []byte(err.Error() + "\n")
				}
				p.say("%s", text)
			},
		}.command(p),
		p.profileHistory(), p.profileDiff(), p.profileApply("validate", "Check a file and change nothing"),
		p.profileApply("apply", "Keep a file as a new version of a profile"), p.profileRollback())
	cmd.Aliases = []string{"profiles"}
	return cmd
}

func (p *program) profileApply(word, short string) *cobra.Command {
	n, name := api.NewProfile{DryRun: word == "validate"}, ""
	return verb[api.ProfileView]{
		use: word + " FILE", short: short, args: cobra.ExactArgs(1),
		long: short + ". The file is YAML or JSON with a name in it; - reads standard input.",
		flags: func(f *pflag.FlagSet) {
			if word == "apply" {
				profileDryFlag(f, &n)
			}
		},
		check: func(args []string) error {
			n.Document = map[string]any{}
			if err := p.document(args[0], &n.Document); err != nil {
				return err
			}
			if name, _ = n.Document["name"].(string); name == "" {
				return usage("%s: name: a profile needs a name", args[0])
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.ProfileView, error) {
			return c.ApplyProfile(ctx, name, n)
		},
		show: func(v api.ProfileView) {
			if word == "validate" {
				p.say("profile %s: good\n", v.Name)
				p.sayRisks(v)
				return
			}
			p.sayApplied(v, n.DryRun)
		},
	}.command(p)
}

func profileDryFlag(f *pflag.FlagSet, n *api.NewProfile) {
	f.BoolVar(&n.DryRun, "dry-run", false, "say what would change, and for how many devices, and change nothing")
}

func (p *program) profileRollback() *cobra.Command {
	n := api.NewProfile{}
	return verb[api.ProfileView]{
		use: "rollback NAME --to VERSION", short: "Go back to an older version of a profile", args: cobra.ExactArgs(1),
		long: "Keeps a new version that says what an older one said; no version is ever changed or removed.\n" +
			"Devices under management are brought to it by maintenance, as to any new version.",
		example: "  provctl profile history kiosk\n  provctl profile rollback kiosk --to 3 --dry-run\n  provctl profile rollback kiosk " +
			"--to 3",
		flags: func(f *pflag.FlagSet) {
			f.IntVar(&n.Version, "to", 0, "the `VERSION` to go back to")
			profileDryFlag(f, &n)
		},
		check: func(args []string) error {
			if n.Version < 1 {
				return usage("--to is needed: the version to go back to, as provctl profile history %s lists them", args[0])
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.ProfileView, error) {
			return c.ApplyProfile(ctx, args[0], n)
		},
		show: func(v api.ProfileView) { p.sayApplied(v, n.DryRun) },
	}.command(p)
}

// sayApplied says what a new version is, or would be.
func (p *program) sayApplied(v api.ProfileView, dry bool) {
	switch {
	case len(v.Changes) == 0 && v.Version > 0 && dry:
		p.say("profile %s: version %d says the same; nothing would change\n", v.Name, v.Version)
		return
	case dry:
		p.say("profile %s: a dry run, nothing was changed\n", v.Name)
	default:
		p.say("profile %s: version %d\n", v.Name, v.Version)
	}
	p.sayChanges(v.Changes)
	p.sayRisks(v)
	switch {
	case dry && v.Devices == 0:
		p.say("no device under management has this profile\n")
	case dry:
		p.say("devices under management that would drift, until a rollout has been there: %d\n", v.Devices)
	case v.Devices > 0:
		p.say("devices under management that drift, until a rollout has been there: %d\n", v.Devices)
	}
	p.sayWaves(v.Waves)
}

func (p *program) sayWaves(waves []api.Wave) {
	if line := wavesLine(waves, false); line != "" {
		p.say("  in waves: %s; the first device that is lost stops the rest (provctl job list)\n", line)
	}
}

func (p *program) sayRisks(v api.ProfileView) {
	for _, r := range v.Risks {
		p.say("  could be lost by %s: %s\n", r.Field, r.Could)
	}
}

func (p *program) sayChanges(list []api.ProfileChange) {
	for _, c := range list {
		p.say("  %s: %s -> %s\n", c.Field, dash(c.From), dash(c.To))
	}
}

func (p *program) profileHistory() *cobra.Command {
	limit := 50
	return list(p, verb[[]api.ProfileView]{
		use: "history NAME", short: "The versions of a profile, newest first: when, by whom, and what each changed",
		args:  cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) { f.IntVar(&limit, "limit", limit, "at most so many; 0 for all") },
		ask: func(ctx context.Context, c *api.Client, args []string) ([]api.ProfileView, error) {
			all := []api.ProfileView{}
			q := api.ProfileHistoryQuery{Name: args[0]}
			for {
				if q.Limit = 200; limit > 0 {
					q.Limit = min(q.Limit, limit-len(all))
				}
				page, err := c.ProfileHistory(ctx, q)
				all = append(all, page.Versions...)
				if q.Before = page.Next; err != nil || q.Before == 0 || limit > 0 && len(all) >= limit {
					return all, err
				}
			}
		},
	}, "", "VERSION|MADE BY|SINCE|CHANGED", func(v api.ProfileView) []any {
		var what []string
		for _, c := range v.Changes {
			what = append(what, c.Field+": "+dash(c.From)+" -> "+dash(c.To))
		}
		return []any{v.Version, v.CreatedBy, v.CreatedAt, strings.Join(what, "; ")}
	})
}

// profileDifference is what profile diff prints.
type profileDifference struct {
	Name    string              `json:"name"`
	From    int                 `json:"from"`
	To      int                 `json:"to"`
	Changes []api.ProfileChange `json:"changes"`
}

func (p *program) profileDiff() *cobra.Command {
	var d profileDifference
	return verb[profileDifference]{
		use: "diff NAME [V1 [V2]]", short: "What one version of a profile says otherwise than another", args: cobra.RangeArgs(1, 3),
		long: "Compares two versions of a profile: V1 with V2, V1 with the newest, or without either the newest with the one before it.",
		check: func(args []string) error {
			d = profileDifference{Name: args[0], Changes: []api.ProfileChange{}}
			for i, into := range []*int{&d.From, &d.To} {
				if len(args) <= i+1 {
					break
				}
				v, err := strconv.Atoi(args[i+1])
				if err != nil || v < 1 {
					return usage("%q is not a version; provctl profile history %s lists them", args[i+1], args[0])
				}
				*into = v
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (profileDifference, error) {
			var changes []api.ProfileChange
			if d.From == 0 {
				h, err := c.ProfileHistory(ctx, api.ProfileHistoryQuery{Name: d.Name, Limit: 2})
				if err != nil {
					return d, err
				}
				if len(h.Versions) < 2 {
					return d, failed("the profile %s has one version only, so there is nothing to compare it with", d.Name)
				}
				d.From, d.To, changes = h.Versions[1].Version, h.Versions[0].Version, h.Versions[0].Changes
			} else {
				v, err := c.DiffProfile(ctx, d.Name, d.From, d.To)
				if err != nil {
					return d, err
				}
				d.To, changes = v.Version, v.Changes
			}
			d.Changes = append(d.Changes, changes...)
			return d, nil
		},
		show: func(d profileDifference) {
			p.say("profile %s: from version %d to %d\n", d.Name, d.From, d.To)
			if len(d.Changes) == 0 {
				p.say("  they say the same\n")
			}
			p.sayChanges(d.Changes)
		},
	}.command(p)
}
