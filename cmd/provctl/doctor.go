package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

// doctorCommand shows what the daemon's own checks found.
func (p *program) doctorCommand() *cobra.Command {
	var again bool
	return verb[api.DoctorReport]{
		use: "doctor", short: "What the daemon's checks found last; exit 1 with a warning, 2 with a failure",
		flags: func(f *pflag.FlagSet) {
			f.BoolVar(&again, "run", false, "make all checks now; it takes up to 20 seconds")
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.DoctorReport, error) {
			if again {
				return c.RunDoctor(ctx)
			}
			return c.Doctor(ctx)
		},
		json: func(r api.DoctorReport) any { return map[string]any{"checks": r.Checks} },
		show: p.sayDoctor,
		status: func(r api.DoctorReport) error {
			n := map[string]int{"warn": 1, "fail": 2}[r.Worst]
			return exit(n, n > 0)
		},
	}.command(p)
}

func (p *program) sayDoctor(r api.DoctorReport) {
	if r.At == nil {
		p.note("the checks have not run yet; provctl doctor --run makes them now\n")
		return
	}
	var t table
	for _, c := range r.Checks {
		text := strings.TrimRight(c.Detail, "\n")
		if c.Hint != "" {
			text += "\n-> " + strings.ReplaceAll(c.Hint, "\n", "\n   ")
		}
		for i, line := range strings.Split(text, "\n") {
			if i == 0 {
				t.row(c.Status, c.Name, line)
			} else {
				t.row("", "", line)
			}
		}
	}
	p.print(t)
	p.say("\n%s on %s, at %s\n", r.Worst, r.Node, when(r.At))
}

// daemonStatus is what status --json shows.
type daemonStatus struct {
	Health  api.Health  `json:"health"`
	Summary api.Summary `json:"summary"`
}

func (p *program) statusCommand() *cobra.Command {
	return verb[daemonStatus]{
		use: "status", short: "The daemon and the fleet at a glance; exit 1 when the daemon is not ready",
		ask: func(ctx context.Context, c *api.Client, _ []string) (s daemonStatus, err error) {
			if s.Health, err = c.Ready(ctx); err == nil {
				s.Summary, err = c.Summary(ctx)
			}
			return s, err
		},
		show:   p.sayStatus,
		status: func(s daemonStatus) error { return exit(exitFailed, s.Health.Status != "ok") },
	}.command(p)
}

func (p *program) sayStatus(st daemonStatus) {
	h, s := st.Health, st.Summary
	var t table
	t.row("daemon", fmt.Sprintf("%s %s on %s", s.Version, h.Status, s.Engine))
	for _, part := range h.Parts {
		if part.Status != "ok" {
			t.row("  "+part.Name, part.Status+": "+part.Detail)
		}
	}
	for _, b := range s.Banners {
		t.row(b.Level, b.Text)
	}
	t.row("certificates", fmt.Sprintf("%d usable", s.Certificates))
	t.row("last hello", when(s.LastHello))
	t.row("devices", fmt.Sprint(s.Total))
	var states []string
	for l, n := range s.Devices {
		if n > 0 {
			states = append(states, l)
		}
	}
	slices.Sort(states)
	for _, l := range states {
		t.row("  "+l, fmt.Sprint(s.Devices[l]))
	}
	p.print(t)
	if len(s.Reasons) > 0 {
		p.say("\nnot as wanted\n")
		var r table
		for _, c := range s.Reasons {
			r.row(fmt.Sprintf("%5d", c.Count), c.Reason, c.Title)
		}
		p.print(r)
	}
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "The version of provctl, and of the daemon where one answers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server := ""
			if c, err := p.client(); err == nil {
				if w, err := c.Whoami(cmd.Context()); err == nil {
					server = w.Server
				}
			}
			if p.json {
				return p.printJSON(map[string]string{"provctl": version, "go": runtime.Version(), "provisiond": server})
			}
			p.say("provctl %s (%s)\n", version, runtime.Version())
			if server != "" {
				p.say("provisiond %s at %s\n", server, p.address)
			}
			return nil
		},
	}
}
