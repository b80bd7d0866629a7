package main

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "The daemon and the fleet at a glance; exit 1 when the daemon is not ready", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			health, err := c.Ready(cmd.Context())
			if err != nil {
				return err
			}
			s, err := c.Summary(cmd.Context())
			if err != nil {
				return err
			}
			if p.json {
				err = p.printJSON(map[string]any{"health": health, "summary": s})
			} else {
				p.printStatus(health, s)
			}
			if err == nil && health.Status != "ok" {
				return &exitError{status: exitFailed}
			}
			return err
		},
	}
}

func (p *program) printStatus(h api.Health, s api.Summary) {
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
	t.print(p.out)
	if len(s.Reasons) > 0 {
		fmt.Fprintln(p.out, "\nnot as wanted")
		var r table
		for _, c := range s.Reasons {
			r.row(fmt.Sprintf("%5d", c.Count), c.Reason, c.Title)
		}
		r.print(p.out)
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
			fmt.Fprintf(p.out, "provctl %s (%s)\n", version, runtime.Version())
			if server != "" {
				fmt.Fprintf(p.out, "provisiond %s at %s\n", server, p.address)
			}
			return nil
		},
	}
}
