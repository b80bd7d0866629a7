package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) profileCommand() *cobra.Command {
	cmd := group("profile", "Profiles: what a device is made into", p.profileList(), p.profileShow(), p.profileHistory(), p.profileDiff(),
		p.profileApply("validate"), p.profileApply("apply"), p.profileRollback())
	cmd.Aliases = []string{"profiles"}
	return cmd
}

func (p *program) profileList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "The newest version of each profile", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Profiles(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l)
			}
			var t table
			t.row("PROFILE", "VERSION", "TLS", "HOST NAME", "DOMAIN", "MADE BY", "SINCE")
			for _, v := range l.Profiles {
				t.row(v.Name, fmt.Sprint(v.Version), string(v.Profile.TLS), v.Profile.HostName, dash(v.Profile.Domain), v.CreatedBy, when(v.CreatedAt))
			}
			t.print(p.out)
			return nil
		},
	}
}

func (p *program) profileShow() *cobra.Command {
	version := 0
	cmd := &cobra.Command{
		Use: "show NAME", Short: "One profile as a document", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			v, err := c.Profile(cmd.Context(), args[0], version)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(v)
			}
			text, err := yaml.Marshal(v.Profile)
			if err == nil {
				_, err = p.out.Write(text)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&version, "version", 0, "an older version; 0 is the newest")
	return cmd
}

func (p *program) profileApply(verb string) *cobra.Command {
	short := "Keep a file as a new version of a profile"
	if verb == "validate" {
		short = "Check a file and change nothing"
	}
	dry := false
	cmd := &cobra.Command{
		Use: verb + " FILE", Short: short, Args: cobra.ExactArgs(1),
		Long: short + ". The file is YAML or JSON with a name in it; - reads standard input.",
		RunE: func(cmd *cobra.Command, args []string) error {
			doc := map[string]any{}
			if err := p.document(args[0], &doc); err != nil {
				return err
			}
			name, _ := doc["name"].(string)
			if name == "" {
				return usage("%s: name: a profile needs a name", args[0])
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			v, err := c.ApplyProfile(cmd.Context(), name, api.NewProfile{Document: doc, DryRun: dry || verb == "validate"})
			if err != nil {
				return err
			}
			if verb == "validate" && !p.json {
				fmt.Fprintf(p.out, "profile %s: good\n", v.Name)
				for _, r := range v.Risks {
					fmt.Fprintf(p.out, "  could be lost by %s: %s\n", r.Field, r.Could)
				}
				return nil
			}
			return p.printApplied(v, dry)
		},
	}
	if verb == "apply" {
		cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would change, and for how many devices, and change nothing")
	}
	return cmd
}

func (p *program) profileRollback() *cobra.Command {
	n := api.NewProfile{}
	cmd := &cobra.Command{
		Use: "rollback NAME --to VERSION", Short: "Go back to an older version of a profile", Args: cobra.ExactArgs(1),
		Long: "Keeps a new version that says what an older one said; no version is ever changed or removed.\n" +
			"Devices under management are brought to it by maintenance, as to any new version.",
		Example: "  provctl profile history kiosk\n  provctl profile rollback kiosk --to 3 --dry-run\n  provctl profile rollback kiosk --to 3",
		RunE: func(cmd *cobra.Command, args []string) error {
			if n.Version < 1 {
				return usage("--to is needed: the version to go back to, as provctl profile history %s lists them", args[0])
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			v, err := c.ApplyProfile(cmd.Context(), args[0], n)
			if err != nil {
				return err
			}
			return p.printApplied(v, n.DryRun)
		},
	}
	cmd.Flags().IntVar(&n.Version, "to", 0, "the `VERSION` to go back to")
	cmd.Flags().BoolVar(&n.DryRun, "dry-run", false, "say what would change, and for how many devices, and change nothing")
	return cmd
}

// printApplied says what a new version is, or would be.
func (p *program) printApplied(v api.ProfileView, dry bool) error {
	if p.json {
		return p.printJSON(v)
	}
	switch {
	case len(v.Changes) == 0 && v.Version > 0 && dry:
		fmt.Fprintf(p.out, "profile %s: version %d says the same; nothing would change\n", v.Name, v.Version)
		return nil
	case dry:
		fmt.Fprintf(p.out, "profile %s: a dry run, nothing was changed\n", v.Name)
	default:
		fmt.Fprintf(p.out, "profile %s: version %d\n", v.Name, v.Version)
	}
	p.printChanges(v.Changes)
	for _, r := range v.Risks {
		fmt.Fprintf(p.out, "  could be lost by %s: %s\n", r.Field, r.Could)
	}
	switch {
	case dry && v.Devices == 0:
		fmt.Fprintln(p.out, "no device under management has this profile")
	case dry:
		fmt.Fprintf(p.out, "devices under management that would drift, until a rollout has been there: %d\n", v.Devices)
	case v.Devices > 0:
		fmt.Fprintf(p.out, "devices under management that drift, until a rollout has been there: %d\n", v.Devices)
	}
	if line := wavesLine(api.Job{Waves: v.Waves}); line != "" {
		fmt.Fprintf(p.out, "  in waves: %s; the first device that is lost stops the rest (provctl job list)\n", line)
	}
	return nil
}

func (p *program) printChanges(list []api.ProfileChange) {
	for _, c := range list {
		fmt.Fprintf(p.out, "  %s: %s -> %s\n", c.Field, dash(c.From), dash(c.To))
	}
}

func (p *program) profileHistory() *cobra.Command {
	limit := 50
	cmd := &cobra.Command{
		Use: "history NAME", Short: "The versions of a profile, newest first: when, by whom, and what each changed", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			all := []api.ProfileView{}
			q := api.ProfileHistoryQuery{Name: args[0]}
			for {
				if q.Limit = 200; limit > 0 {
					q.Limit = min(q.Limit, limit-len(all))
				}
				page, err := c.ProfileHistory(cmd.Context(), q)
				if err != nil {
					return err
				}
				all = append(all, page.Versions...)
				if q.Before = page.Next; q.Before == 0 || limit > 0 && len(all) >= limit {
					break
				}
			}
			if p.json {
				return p.printJSON(all)
			}
			var t table
			t.row("VERSION", "MADE BY", "SINCE", "CHANGED")
			for _, v := range all {
				var what []string
				for _, c := range v.Changes {
					what = append(what, c.Field+": "+dash(c.From)+" -> "+dash(c.To))
				}
				t.row(fmt.Sprint(v.Version), v.CreatedBy, when(v.CreatedAt), dash(strings.Join(what, "; ")))
			}
			t.print(p.out)
			return nil
		},
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "at most so many; 0 for all")
	return cmd
}

// profileDifference is what profile diff prints.
type profileDifference struct {
	Name    string              `json:"name"`
	From    int                 `json:"from"`
	To      int                 `json:"to"`
	Changes []api.ProfileChange `json:"changes"`
}

func (p *program) profileDiff() *cobra.Command {
	return &cobra.Command{
		Use: "diff NAME [V1 [V2]]", Short: "What one version of a profile says otherwise than another", Args: cobra.RangeArgs(1, 3),
		Long: "Compares two versions of a profile: V1 with V2, V1 with the newest, or without either the newest with the one before it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			d := profileDifference{Name: args[0]}
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
			c, err := p.client()
			if err != nil {
				return err
			}
			if d.From == 0 {
				err = d.last(cmd.Context(), c)
			} else {
				var v api.ProfileView
				v, err = c.DiffProfile(cmd.Context(), d.Name, d.From, d.To)
				d.To, d.Changes = v.Version, v.Changes
			}
			if err != nil {
				return err
			}
			if d.Changes == nil {
				d.Changes = []api.ProfileChange{}
			}
			if p.json {
				return p.printJSON(d)
			}
			fmt.Fprintf(p.out, "profile %s: from version %d to %d\n", d.Name, d.From, d.To)
			if len(d.Changes) == 0 {
				fmt.Fprintln(p.out, "  they say the same")
			}
			p.printChanges(d.Changes)
			return nil
		},
	}
}

// last compares the newest version with the one before.
func (d *profileDifference) last(ctx context.Context, c *api.Client) error {
	h, err := c.ProfileHistory(ctx, api.ProfileHistoryQuery{Name: d.Name, Limit: 2})
	if err != nil {
		return err
	}
	if len(h.Versions) < 2 {
		return &exitError{exitFailed, fmt.Errorf("the profile %s has one version only, so there is nothing to compare it with", d.Name)}
	}
	d.From, d.To, d.Changes = h.Versions[1].Version, h.Versions[0].Version, h.Versions[0].Changes
	return nil
}
