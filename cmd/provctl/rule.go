package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) ruleCommand() *cobra.Command {
	cmd := group("rule", "Assignment rules: which profile and name a device gets",
		verb[api.RuleList]{
			use: "list", short: "The rules in the order they are tried", ask: none((*api.Client).Rules), show: p.sayRules,
		}.command(p),
		verb[api.RuleVerdict]{
			use: "test DEVICE", short: "What the rules make of a device, and why", args: cobra.ExactArgs(1),
			ask: one((*api.Client).TestRules), show: p.sayVerdict,
		}.command(p),
		p.ruleApply())
	cmd.Aliases = []string{"rules"}
	return cmd
}

func (p *program) sayRules(l api.RuleList) {
	if len(l.Rules) == 0 {
		p.note("no rules: every device gets the profile default\n")
		return
	}
	var t table
	t.row("", "RULE", "IF", "PROFILE", "NAME FROM", "DOMAIN")
	for i, r := range l.Rules {
		if r.Disabled {
			r.Name += " (off)"
		}
		t.row(cell(i+1), r.Name, conditions(r.Match), dash(r.Assign.Profile), dash(joined(r.Assign.Names)), dash(r.Assign.Domain))
	}
	p.print(t)
}

// joined joins what the API has a type for.
func joined[T ~string](list []T) string {
	var out []string
	for _, w := range list {
		out = append(out, string(w))
	}
	return strings.Join(out, ", ")
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

func (p *program) sayVerdict(v api.RuleVerdict) {
	rule := "no rule fits"
	if v.Rule != "" {
		rule = "rule " + v.Rule
	}
	p.say("%s: profile %s\n", rule, v.Profile)
	if v.Assigned {
		p.say("a person gave it this profile, which goes before list and rules\n")
	}
	if v.By != "" {
		p.say("the list of authorised devices goes before the rules: %s\n", v.By)
	}
	if v.FQDN != "" {
		p.say("name: %s (assigned)\n", v.FQDN)
	} else {
		p.say("name: none assigned; asked in this order: %s\n", joined(v.Names))
	}
	for _, t := range v.Tried {
		p.say("  %-3s  %s: %s\n", map[bool]string{true: "yes", false: "no"}[t.Fits], t.Name, t.Why)
	}
}

func (p *program) ruleApply() *cobra.Command {
	var set api.RuleSet
	dry := false
	return verb[api.RulesReport]{
		use: "apply FILE", short: "Replace the rules with those of a file (YAML or JSON)", args: cobra.ExactArgs(1),
		long: "Replace the rules with those of a file (YAML or JSON); - reads standard input.\n" +
			"What the file does not name is removed. A file with a mistake changes nothing.",
		example: `  rules:
  - name: branch
    match: {networks: [10.20.0.0/16], amt: ">=11"}
    assign: {profile: kiosk, names: [assigned, reverse_dns], domain: branch.example.com}`,
		flags: func(f *pflag.FlagSet) { f.BoolVar(&dry, "dry-run", false, "say what would change and change nothing") },
		check: func(args []string) error { return p.document(args[0], &set) },
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.RulesReport, error) {
			set.DryRun = set.DryRun || dry
			return c.ApplyRules(ctx, set)
		},
		show: func(rep api.RulesReport) {
			for _, part := range []struct {
				what  string
				names []string
			}{{"added", rep.Added}, {"changed", rep.Changed}, {"removed", rep.Removed}} {
				if len(part.names) > 0 {
					p.say("%s: %s\n", part.what, strings.Join(part.names, ", "))
				}
			}
			p.say("the same as before: %d\n", rep.Same)
			for _, m := range rep.Moves {
				p.say("devices under management that go from profile %s to %s: %d\n", m.From, m.To, m.Devices)
				p.sayWaves(m.Waves)
				p.sayRisks(api.ProfileView{Risks: m.Risks})
			}
			p.sayStarted(rep.Started, rep.DryRun)
		},
	}.command(p)
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
