package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

// doctorCommand shows what the daemon's own checks found.
func (p *program) doctorCommand() *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "What the daemon's checks found last; exit 1 with a warning, 2 with a failure", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			ask := c.Doctor
			if again {
				ask = c.RunDoctor
			}
			r, err := ask(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				err = p.printJSON(map[string]any{"checks": r.Checks})
			} else {
				p.printDoctor(r)
			}
			if err != nil {
				return err
			}
			switch r.Worst {
			case "warn":
				return &exitError{status: 1}
			case "fail":
				return &exitError{status: 2}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&again, "run", false, "make all checks now; it takes up to 20 seconds")
	return cmd
}

func (p *program) printDoctor(r api.DoctorReport) {
	if r.At == nil {
		fmt.Fprintln(p.err, "the checks have not run yet; provctl doctor --run makes them now")
		return
	}
	var t table
	for _, c := range r.Checks {
		lines := strings.Split(strings.TrimRight(c.Detail, "\n"), "\n")
		t.row(c.Status, c.Name, lines[0])
		for _, l := range lines[1:] {
			t.row("", "", l)
		}
		for i, l := range strings.Split(c.Hint, "\n") {
			mark := "   "
			if i == 0 {
				mark = "-> "
			}
			if c.Hint != "" {
				t.row("", "", mark+l)
			}
		}
	}
	t.print(p.out)
	fmt.Fprintf(p.out, "\n%s on %s, at %s\n", r.Worst, r.Node, when(r.At))
}
