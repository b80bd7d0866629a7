package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

// plural is a number with the words that go with it.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// suggestNames proposes which names to order. Where neither devices nor zones
// nor arguments name a suffix, it asks for one.
func (p *program) suggestNames(cmd *cobra.Command, suffixes []string) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	a, err := c.AdviseNames(cmd.Context(), suffixes)
	if err != nil {
		return err
	}
	if len(a.Suffixes) == 0 && !p.json {
		fmt.Fprint(p.err, "no device has told its DNS suffix yet, and the configuration names no zones\nDNS suffixes of your devices, as DHCP option 15 gives them, separated by spaces: ")
		line, _ := p.line() // the end of the input is an answer without a suffix
		typed := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ',' || r == ';' || r == '\t' })
		if len(typed) == 0 {
			fmt.Fprintln(p.err)
			return usage("no suffix is known; give them with --suffix, such as --suffix corp.example.com")
		}
		if a, err = c.AdviseNames(cmd.Context(), typed); err != nil {
			return err
		}
	}
	if p.json {
		err = p.printJSON(a)
	} else {
		p.printProposal(a)
	}
	if err == nil && len(a.Names) == 0 {
		return &exitError{status: exitFailed}
	}
	return err
}

func (p *program) printProposal(a api.NameAdvice) {
	var t table
	t.row("SUFFIX", "DEVICES", "FROM", "SERVED BY", "WHY")
	for _, s := range a.Suffixes {
		t.row(dash(s.Suffix), fmt.Sprint(s.Devices), dash(strings.Join(s.From, ", ")), dash(s.Name), s.Why)
	}
	t.print(clean{p.out})
	for _, s := range a.Suffixes {
		if s.Unsure != "" {
			p.say("not certain: %s\n", s.Unsure)
		}
	}
	for _, n := range a.Notes {
		p.say("note: %s\n", n)
	}
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
