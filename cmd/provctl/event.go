package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) eventCommand() *cobra.Command {
	var device string
	var after int64
	tail := &cobra.Command{
		Use: "tail", Short: "Follow what happens, until interrupted", Args: cobra.NoArgs,
		Long: "Follow what happens, until interrupted. A line that breaks is taken up again where it broke.\nWith --json each event is one line of JSON.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			err = c.Follow(cmd.Context(), after, device, p.printEvent)
			if errors.Is(err, context.Canceled) {
				return nil // interrupted, which is how this ends
			}
			return err
		},
	}
	tail.Flags().StringVar(&device, "device", "", "only events of this `DEVICE`")
	tail.Flags().Int64Var(&after, "after", -1, "begin behind this event's id; 0 is the very beginning, -1 now")

	var q api.EventQuery
	list := &cobra.Command{
		Use: "list", Short: "The newest events, oldest of them first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			q.Newest = true
			page, err := c.Events(cmd.Context(), q)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(page.Events)
			}
			for i := len(page.Events) - 1; i >= 0; i-- {
				if err := p.printEvent(page.Events[i]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	list.Flags().StringVar(&q.UUID, "device", "", "only events of this `DEVICE`")
	list.Flags().StringVar(&q.Name, "name", "", "only events of this name")
	list.Flags().IntVar(&q.Limit, "limit", 50, "at most so many, up to 1000")
	return group("event", "What happens", tail, list)
}

func (p *program) printEvent(e api.Event) error {
	if p.json {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(p.out, string(b))
		return err
	}
	line := fmt.Sprintf("%s  %-36s  %-24s  %-24s", when(e.At), dash(e.UUID), dash(e.FQDN), e.Name)
	if e.Reason != "" {
		line += "  " + e.Reason
	}
	if e.Detail != "" {
		line += "  " + e.Detail
	}
	_, err := fmt.Fprintln(p.out, strings.TrimRight(line, " "))
	return err
}
