package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) deviceCommand() *cobra.Command {
	cmd := group("device", "Devices: list, show, why, and commands about them", p.deviceList(), p.deviceShow(), p.deviceWhy(),
		p.deviceExport(), p.deviceTag("tag", "Give a device tags"), p.deviceTag("untag", "Take tags away from a device"), p.deviceAssignProfile(),
		p.deviceImport(), p.deviceAuthorised(), p.deviceName(), p.deviceAddress(), p.deviceAdopt(), p.deviceTrust(),
		p.deviceAct("approve", "Let devices in", "", false),
		p.deviceAct("reject", "Turn waiting devices away", "Their hellos are recorded and nothing else happens. The way back is device approve.", false),
		p.deviceAct("retry", "Try devices again now", "", false),
		p.deviceAct("clear-failures", "Forget the failures of devices, and begin nothing",
			"The next hello of a device is looked at at once, and the pauses between attempts begin anew with the shortest.\nAn attempt that waits keeps its time; device retry makes one now.", false),
		p.deviceAct("restore", "Take retired or quarantined devices back", "", false),
		p.deviceAct("release", "Let quarantined devices go on, after somebody has looked", "What was held against them, such as two machines with one UUID, is forgotten.", false),
		p.deviceAct("quarantine", "Keep devices out until somebody has looked", "", false),
		p.deviceAct("retire", "Take devices out for good", "Their records and passwords are kept; the devices themselves are not touched.", true),
	)
	cmd.Aliases = []string{"devices"}
	cmd.Long = cmd.Short + ".\n\n" + oneDevice
	return cmd
}

// oneDevice says what a DEVICE on the command line may be.
const oneDevice = "A DEVICE is its UUID, or all of its name, of the first label of its name, of its address, MAC or serial number.\n" +
	"What fits several is answered with the list of them, and nothing is done."

func (p *program) deviceList() *cobra.Command {
	var q api.DeviceQuery
	limit := 0
	cmd := &cobra.Command{
		Use: "list [QUERY]", Aliases: []string{"ls"}, Short: "List devices",
		Long:    "List devices. QUERY is all of a UUID, name, address, MAC or serial, or else a part of one, and terms such as\nstate:failed reason:root_not_trusted_by_device amt:11.8 amt:>=16 net:10.20.0.0/16 suffix:x tag:x profile:x\nhealth:unreachable seen:24h silent:7d.",
		Example: "  provctl device list state:failed\n  provctl device list net:10.20.0.0/16 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			q.Q = strings.Join(args, " ")
			devices, err := c.AllDevices(cmd.Context(), q, limit)
			if err != nil {
				return err
			}
			if p.json {
				out := make([]api.DeviceSummary, len(devices))
				for i, d := range devices {
					out[i] = d.DeviceSummary
				}
				return p.printJSON(out)
			}
			if len(devices) == 0 {
				fmt.Fprintln(p.err, "no device fits")
				return nil
			}
			var t table
			t.row("UUID", "STATE", "REASON", "AMT", "ADDRESS", "NAME", "FIRST SEEN")
			for _, d := range devices {
				t.row(d.UUID, d.Lifecycle, dash(d.Reason), dash(d.AMTVersion), dash(d.Address), dash(d.FQDN), when(d.FirstSeen))
			}
			t.print(p.out)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&q.Lifecycle, "state", nil, "only these lifecycles, divided by commas")
	f.StringVar(&q.Reason, "reason", "", "only this reason")
	f.StringVar(&q.Version, "amt", "", "only this AMT version: 11, 11.8 or a whole one")
	f.StringVar(&q.Network, "network", "", "only addresses in this network")
	f.StringVar(&q.Order, "order", "", "uuid, name or last_seen")
	f.IntVar(&limit, "limit", 0, "at most so many; 0 for all")
	return cmd
}

func (p *program) deviceShow() *cobra.Command {
	return &cobra.Command{
		Use: "show DEVICE", Short: "Everything known of one device, with its runs and their steps", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			d, err := c.Device(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(d)
			}
			p.printDevice(d)
			return nil
		},
	}
}

func (p *program) printDevice(d api.DeviceDetail) {
	var t table
	field := func(name, value string) {
		if value != "" && value != "-" {
			t.row(name, value)
		}
	}
	t.row("uuid", d.UUID)
	field("state", d.Lifecycle)
	field("reason", d.Reason)
	field("detail", d.Detail)
	field("mode", d.DeviceMode)
	field("health", d.Health)
	field("name", d.FQDN)
	field("address", d.Address)
	if d.HeardFrom != d.Address {
		field("heard from", d.HeardFrom)
	}
	field("its agent says", d.AgentAddress)
	field("suffix", d.Suffix)
	field("mac", d.MAC)
	field("serial", d.Serial)
	field("amt", d.AMTVersion)
	field("tls", d.TLSVersion)
	made := d.Profile
	if d.ProfileVersion > 0 {
		made += fmt.Sprintf(", version %d", d.ProfileVersion)
	}
	if d.AssignedProfile != "" && d.AssignedProfile != d.Profile {
		made = strings.TrimPrefix(made+"; given "+d.AssignedProfile, "; ")
	}
	field("profile", made)
	field("tags", strings.Join(d.Tags, ", "))
	field("certificate", d.Certificate)
	field("first seen", when(d.FirstSeen))
	field("last seen", when(d.LastSeen))
	field("provisioned", when(d.ProvisionedAt))
	field("next attempt", when(d.NextRetry))
	field("window until", when(d.WindowUntil))
	t.row("hellos", fmt.Sprint(d.HelloCount))
	t.print(p.out)
	for _, r := range d.Runs {
		line := fmt.Sprintf("\nrun %d  %s, %s, %s", r.ID, r.Kind, r.State, when(r.CreatedAt))
		if r.Reason != "" {
			line += "  " + r.Reason
		}
		fmt.Fprintln(p.out, line)
		if r.Detail != "" {
			fmt.Fprintln(p.out, "  "+r.Detail)
		}
		var steps table
		for _, s := range r.Steps {
			steps.row("  "+fmt.Sprint(s.Seq), s.Name, s.State, took(s.StartedAt, s.FinishedAt), s.Detail)
		}
		steps.print(p.out)
	}
	if len(d.Events) > 0 {
		fmt.Fprintln(p.out, "\nevents, newest first")
		var events table
		for i, e := range d.Events {
			if i == 20 {
				break
			}
			events.row("  "+when(e.At), e.Name, e.Reason, e.Detail)
		}
		events.print(p.out)
	}
}

func (p *program) deviceWhy() *cobra.Command {
	return &cobra.Command{
		Use: "why DEVICE", Short: "Why a device is, or is not, under management", Args: cobra.ExactArgs(1),
		Long: "Says in plain words where a device stands, why, what happens next and what a person can do,\nalso for a device that this server has never heard of (exit status 5).",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			w, err := c.Why(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.json {
				err = p.printJSON(w)
			} else {
				p.printWhy(w)
			}
			if err == nil && !w.Found {
				return &exitError{status: exitNotFound}
			}
			return err
		},
	}
}

func (p *program) printWhy(w api.Why) {
	fmt.Fprintln(p.out, w.Says)
	fmt.Fprintln(p.out, "next: "+w.Next)
	if w.Since != nil {
		fmt.Fprintln(p.out, "since: "+when(w.Since))
	}
	if len(w.Tried) > 0 {
		fmt.Fprintln(p.out, "tried:")
		for _, t := range w.Tried {
			fmt.Fprintln(p.out, "  - "+t)
		}
	}
	if w.LastRun != nil {
		line := fmt.Sprintf("last run: %d, %s", w.LastRun.ID, w.LastRun.State)
		if n := len(w.LastRun.Steps); n > 0 {
			line += ", came as far as " + w.LastRun.Steps[n-1].Name
		}
		fmt.Fprintln(p.out, line)
	}
	if len(w.Checks) > 0 {
		fmt.Fprintln(p.out, "look at:")
		for _, c := range w.Checks {
			fmt.Fprintln(p.out, "  - "+c)
		}
	}
	for i, o := range w.Others {
		if i == 0 {
			fmt.Fprintln(p.out, "this also fits:")
		}
		fmt.Fprintf(p.out, "  %s  %s  %s\n", o.UUID, o.Lifecycle, dash(o.FQDN))
	}
}

// deviceAct is a command about one or several devices. Those that fail do not
// keep the others from being done; the status tells.
func (p *program) deviceAct(verb, short, long string, destructive bool) *cobra.Command {
	note, yes := "", false
	var v api.Vouch
	cmd := &cobra.Command{
		Use: verb + " DEVICE…", Short: short, Long: strings.TrimSpace(short + ".\n" + long), Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			if destructive && !yes {
				if err := p.confirm(verb, args); err != nil {
					return err
				}
			}
			results := []api.ActionResult{}
			var firstErr error
			for _, u := range args {
				var res api.ActionResult
				var err error
				if v != (api.Vouch{}) {
					res, err = c.Retry(cmd.Context(), u, api.Retry{Vouch: v, Note: note})
				} else {
					res, err = c.Act(cmd.Context(), verb, u, note)
				}
				if err != nil {
					if _, text, _ := p.explain(err); len(args) > 1 {
						fmt.Fprintf(p.err, "provctl: %s: %s\n", u, text)
					}
					if firstErr == nil {
						firstErr = err
					}
					continue
				}
				results = append(results, res)
				if !p.json {
					fmt.Fprintf(p.out, "%s: %s\n", u, res.Said)
				}
			}
			if p.json {
				if err := p.printJSON(results); err != nil {
					return err
				}
			}
			if firstErr != nil && len(args) > 1 {
				status, _, _ := p.explain(firstErr)
				if len(results) > 0 {
					status = exitPartly
				}
				return &exitError{status: status}
			}
			return firstErr
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for the timeline and the audit")
	if verb == "retry" {
		vouchFlags(cmd, &v, "trust-first")
	}
	if destructive {
		cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	}
	return cmd
}

// confirm asks for the beginning of the first UUID to be typed.
func (p *program) confirm(verb string, uuids []string) error {
	word := uuids[0][:min(8, len(uuids[0]))]
	what := uuids[0]
	if len(uuids) > 1 {
		what = fmt.Sprintf("%d devices, the first of them %s", len(uuids), uuids[0])
	}
	fmt.Fprintf(p.err, "To %s %s, type %s: ", verb, what, word)
	line, err := bufio.NewReader(p.in).ReadString('\n')
	if err != nil && line == "" {
		fmt.Fprintln(p.err)
		return &exitError{exitFailed, errors.New("nothing was typed, so nothing was done; --yes does not ask")}
	}
	if strings.TrimSpace(line) != word {
		return &exitError{exitFailed, errors.New("that is something else, so nothing was done")}
	}
	return nil
}
