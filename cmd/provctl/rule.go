package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) ruleCommand() *cobra.Command {
	cmd := group("rule", "Assignment rules: which profile and name a device gets", p.ruleList(), p.ruleTest(), p.ruleApply())
	cmd.Aliases = []string{"rules"}
	return cmd
}

func (p *program) ruleList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "The rules in the order they are tried", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Rules(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l)
			}
			if len(l.Rules) == 0 {
				fmt.Fprintln(p.err, "no rules: every device gets the profile default")
				return nil
			}
			var t table
			t.row("", "RULE", "IF", "PROFILE", "NAME FROM", "DOMAIN")
			for i, r := range l.Rules {
				name := r.Name
				if r.Disabled {
					name += " (off)"
				}
				var from []string
				for _, s := range r.Assign.Names {
					from = append(from, string(s))
				}
				t.row(fmt.Sprint(i+1), name, conditions(r.Match), dash(r.Assign.Profile), dash(strings.Join(from, ", ")), dash(r.Assign.Domain))
			}
			t.print(p.out)
			return nil
		},
	}
}

// conditions writes what a rule asks for in one line.
func conditions(match any) string {
	b, err := json.Marshal(match)
	if err != nil {
		return "?"
	}
	s := strings.Trim(strings.NewReplacer(`\u003e`, ">", `\u003c`, "<").Replace(string(b)), "{}")
	if s == "" {
		return "always"
	}
	return strings.NewReplacer(`"`, "", "],", "] ").Replace(s)
}

func (p *program) ruleTest() *cobra.Command {
	return &cobra.Command{
		Use: "test DEVICE", Short: "What the rules make of a device, and why", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			v, err := c.TestRules(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(v)
			}
			rule := "no rule fits"
			if v.Rule != "" {
				rule = "rule " + v.Rule
			}
			fmt.Fprintf(p.out, "%s: profile %s\n", rule, v.Profile)
			if v.Assigned {
				fmt.Fprintln(p.out, "a person gave it this profile, which goes before list and rules")
			}
			if v.By != "" {
				fmt.Fprintf(p.out, "the list of authorised devices goes before the rules: %s\n", v.By)
			}
			var from []string
			for _, s := range v.Names {
				from = append(from, string(s))
			}
			switch {
			case v.FQDN != "":
				fmt.Fprintf(p.out, "name: %s (assigned)\n", v.FQDN)
			default:
				fmt.Fprintf(p.out, "name: none assigned; asked in this order: %s\n", strings.Join(from, ", "))
			}
			for _, t := range v.Tried {
				mark := "no "
				if t.Fits {
					mark = "yes"
				}
				fmt.Fprintf(p.out, "  %s  %s: %s\n", mark, t.Name, t.Why)
			}
			return nil
		},
	}
}

func (p *program) ruleApply() *cobra.Command {
	dry := false
	cmd := &cobra.Command{
		Use: "apply FILE", Short: "Replace the rules with those of a file (YAML or JSON)", Args: cobra.ExactArgs(1),
		Long: "Replace the rules with those of a file (YAML or JSON); - reads standard input.\nWhat the file does not name is removed. A file with a mistake changes nothing.",
		Example: `  rules:
  - name: branch
    match: {networks: [10.20.0.0/16], amt: ">=11"}
    assign: {profile: kiosk, names: [assigned, reverse_dns], domain: branch.example.com}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var set api.RuleSet
			if err := p.document(args[0], &set); err != nil {
				return err
			}
			set.DryRun = set.DryRun || dry
			c, err := p.client()
			if err != nil {
				return err
			}
			rep, err := c.ApplyRules(cmd.Context(), set)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(rep)
			}
			for _, part := range []struct {
				what  string
				names []string
			}{{"added", rep.Added}, {"changed", rep.Changed}, {"removed", rep.Removed}} {
				if len(part.names) > 0 {
					fmt.Fprintf(p.out, "%s: %s\n", part.what, strings.Join(part.names, ", "))
				}
			}
			fmt.Fprintf(p.out, "the same as before: %d\n", rep.Same)
			for _, m := range rep.Moves {
				fmt.Fprintf(p.out, "devices under management that go from profile %s to %s: %d\n  in waves: %s; the first device that is lost stops the rest (provctl job list)\n", m.From, m.To, m.Devices, wavesLine(api.Job{Waves: m.Waves}))
				for _, r := range m.Risks {
					fmt.Fprintf(p.out, "  could be lost by %s: %s\n", r.Field, r.Could)
				}
			}
			p.printStarted(rep.Started, rep.DryRun)
			if rep.DryRun {
				fmt.Fprintln(p.out, "a dry run: nothing was changed")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would change and change nothing")
	return cmd
}

// document reads YAML, which JSON is too, into what the API takes.
func (p *program) document(file string, into any) error {
	text, err := p.file(file)
	if err != nil {
		return err
	}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return unusable("%s: %w", file, err)
	}
	if err := api.Strictly(doc, into); err != nil {
		return unusable("%s: %w", file, err)
	}
	return nil
}

// file reads a file, or standard input for "-".
func (p *program) file(name string) ([]byte, error) {
	if name == "-" {
		return readAll(p.in)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, unusable("%w", err)
	}
	defer f.Close()
	return readAll(f)
}
