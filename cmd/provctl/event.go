package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) eventCommand() *cobra.Command {
	var q api.EventQuery
	return group("event", "What happens", p.eventTail(),
		verb[[]api.Event]{
			use: "list", short: "The newest events, oldest of them first",
			flags: func(f *pflag.FlagSet) {
				f.StringVar(&q.UUID, "device", "", "only events of this `DEVICE`")
				f.StringVar(&q.Name, "name", "", "only events of this name")
				f.IntVar(&q.Limit, "limit", 50, "at most so many, up to 1000")
			},
			ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.Event, error) {
				q.Newest = true
				page, err := c.Events(ctx, q)
				return page.Events, err
			},
			show: func(all []api.Event) {
				for i := len(all) - 1; i >= 0; i-- {
					p.sayEvent(all[i])
				}
			},
		}.command(p))
}

func (p *program) eventTail() *cobra.Command {
	var device string
	var after int64
	cmd := &cobra.Command{
		Use: "tail", Short: "Follow what happens, until interrupted", Args: cobra.NoArgs,
		Long: "Follow what happens, until interrupted. A line that breaks is taken up again where it broke.\n" +
			"With --json each event is one line of JSON.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			err = c.Follow(cmd.Context(), after, device, func(e api.Event) error {
				if p.json {
					return json.NewEncoder(p.out).Encode(e)
				}
				return p.sayEvent(e)
			})
			if errors.Is(err, context.Canceled) {
				return nil // interrupted, which is how this ends
			}
			return err
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "only events of this `DEVICE`")
	cmd.Flags().Int64Var(&after, "after", -1, "begin behind this event's id; 0 is the very beginning, -1 now")
	return cmd
}

// sayEvent fails when nobody reads on.
func (p *program) sayEvent(e api.Event) error {
	line := fmt.Sprintf("%s  %-36s  %-24s  ", when(e.At), dash(e.UUID), dash(e.FQDN))
	if e.Reason+e.Detail == "" {
		line += e.Name
	} else {
		line += fmt.Sprintf("%-24s", e.Name)
	}
	for _, s := range []string{e.Reason, e.Detail} {
		if s != "" {
			line += "  " + s
		}
	}
	_, err := fmt.Fprintln(clean{p.out}, line)
	return err
}
