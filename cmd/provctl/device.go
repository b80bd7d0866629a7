package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) deviceCommand() *cobra.Command {
	cmd := group("device", "Devices: list, show, why, and commands about them", p.deviceList(),
		verb[api.DeviceDetail]{
			use: "show DEVICE", short: "Everything known of one device, with its runs and their steps", args: cobra.ExactArgs(1),
			ask: one((*api.Client).Device), show: p.sayDevice,
		}.command(p),
		verb[api.Why]{
			use: "why DEVICE", short: "Why a device is, or is not, under management", args: cobra.ExactArgs(1),
			long: "Says in plain words where a device stands, why, what happens next and what a person can do,\n" +
				"also for a device that this server has never heard of (exit status 5).",
			ask: one((*api.Client).Why), show: p.sayWhy,
			status: func(w api.Why) error { return exit(exitNotFound, !w.Found) },
		}.command(p),
		p.deviceExport(), p.deviceTag("tag", "Give a device tags"), p.deviceTag("untag", "Take tags away from a device"),
		p.deviceAssignProfile(),
		p.deviceImport(), p.deviceAuthorised(), p.deviceName(), p.deviceAddress(), p.deviceAdopt(), p.deviceTrust(),
		p.deviceAct("approve", "Let devices in", ""),
		p.deviceAct("reject", "Turn waiting devices away",
			"Their hellos are recorded and nothing else happens. The way back is device approve."),
		p.deviceAct("retry", "Try devices again now", ""),
		p.deviceAct("clear-failures", "Forget the failures of devices, and begin nothing",
			"The next hello of a device is looked at at once, and the pauses between attempts begin anew with the shortest.\n"+
				"An attempt that waits keeps its time; device retry makes one now."),
		p.deviceAct("restore", "Take retired or quarantined devices back", ""),
		p.deviceAct("release", "Let quarantined devices go on, after somebody has looked",
			"What was held against them, such as two machines with one UUID, is forgotten."),
		p.deviceAct("quarantine", "Keep devices out until somebody has looked", ""),
		p.deviceAct("retire", "Take devices out for good", "Their records and passwords are kept; the devices themselves are not touched."),
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
	cmd := list(p, verb[[]api.Device]{
		use: "list [QUERY]", short: "List devices", args: cobra.ArbitraryArgs,
		long: "List devices. QUERY is all of a UUID, name, address, MAC or serial, or else a part of one, and terms such as\n" +
			"state:failed reason:root_not_trusted_by_device amt:11.8 amt:>=16 net:10.20.0.0/16 suffix:x tag:x profile:x\n" +
			"health:unreachable seen:24h silent:7d.",
		example: "  provctl device list state:failed\n  provctl device list net:10.20.0.0/16 --json",
		flags: func(f *pflag.FlagSet) {
			f.StringSliceVar(&q.Lifecycle, "state", nil, "only these lifecycles, divided by commas")
			f.StringVar(&q.Reason, "reason", "", "only this reason")
			f.StringVar(&q.Version, "amt", "", "only this AMT version: 11, 11.8 or a whole one")
			f.StringVar(&q.Network, "network", "", "only addresses in this network")
			f.StringVar(&q.Order, "order", "", "uuid, name or last_seen")
			f.IntVar(&limit, "limit", 0, "at most so many; 0 for all")
		},
		ask: func(ctx context.Context, c *api.Client, args []string) ([]api.Device, error) {
			q.Q = strings.Join(args, " ")
			return c.AllDevices(ctx, q, limit)
		},
		json: func(all []api.Device) any {
			out := make([]api.DeviceSummary, len(all))
			for i, d := range all {
				out[i] = d.DeviceSummary
			}
			return out
		},
	}, "no device fits", "UUID|STATE|REASON|AMT|ADDRESS|NAME|FIRST SEEN", func(d api.Device) []any {
		return []any{d.UUID, d.Lifecycle, d.Reason, d.AMTVersion, d.Address, d.FQDN, d.FirstSeen}
	})
	cmd.Aliases = []string{"ls"}
	return cmd
}

func (p *program) sayDevice(d api.DeviceDetail) {
	heard, made := d.HeardFrom, d.Profile
	if heard == d.Address {
		heard = ""
	}
	if d.ProfileVersion > 0 {
		made += fmt.Sprintf(", version %d", d.ProfileVersion)
	}
	if d.AssignedProfile != "" && d.AssignedProfile != d.Profile {
		made = strings.TrimPrefix(made+"; given "+d.AssignedProfile, "; ")
	}
	p.fields("uuid", d.UUID, "state", d.Lifecycle, "reason", d.Reason, "detail", d.Detail, "mode", d.DeviceMode, "health", d.Health,
		"name", d.FQDN, "address", d.Address, "heard from", heard, "its agent says", d.AgentAddress, "suffix", d.Suffix, "mac", d.MAC,
		"serial", d.Serial, "amt", d.AMTVersion, "tls", d.TLSVersion, "profile", made, "tags", d.Tags, "certificate", d.Certificate,
		"first seen", d.FirstSeen, "last seen", d.LastSeen, "provisioned", d.ProvisionedAt, "next attempt", d.NextRetry,
		"window until", d.WindowUntil, "hellos", d.HelloCount)
	if len(d.Settings) > 0 {
		p.say("\nsettings\n")
		var settings table
		for _, s := range d.Settings {
			settings.row("  "+s.Name, s.State, when(&s.At), s.Detail)
		}
		p.print(settings)
	}
	for _, r := range d.Runs {
		p.say("%s\n", strings.TrimRight(fmt.Sprintf("\nrun %d  %s, %s, %s  %s", r.ID, r.Kind, r.State, when(r.CreatedAt), r.Reason), " "))
		if r.Detail != "" {
			p.say("  %s\n", r.Detail)
		}
		var steps table
		for _, s := range r.Steps {
			steps.row("  "+fmt.Sprint(s.Seq), s.Name, s.State, took(s.StartedAt, s.FinishedAt), s.Detail)
		}
		p.print(steps)
	}
	if len(d.Events) > 0 {
		p.say("\nevents, newest first\n")
		var events table
		for _, e := range d.Events[:min(len(d.Events), 20)] {
			events.row("  "+when(e.At), e.Name, e.Reason, e.Detail)
		}
		p.print(events)
	}
}

func took(from, to *time.Time) string {
	if from == nil || to == nil {
		return "-"
	}
	return to.Sub(*from).Round(time.Millisecond).String()
}

func (p *program) sayWhy(w api.Why) {
	p.say("%s\nnext: %s\n", w.Says, w.Next)
	if w.Since != nil {
		p.say("since: %s\n", when(w.Since))
	}
	p.bullets("tried:", w.Tried)
	if w.LastRun != nil {
		p.say("last run: %d, %s", w.LastRun.ID, w.LastRun.State)
		if n := len(w.LastRun.Steps); n > 0 {
			p.say(", came as far as %s", w.LastRun.Steps[n-1].Name)
		}
		p.say("\n")
	}
	p.bullets("look at:", w.Checks)
	for i, o := range w.Others {
		if i == 0 {
			p.say("this also fits:\n")
		}
		p.say("  %s  %s  %s\n", o.UUID, o.Lifecycle, dash(o.FQDN))
	}
}

// bullets prints lines under a title, and nothing when there are none.
func (p *program) bullets(title string, lines []string) {
	if len(lines) > 0 {
		p.say("%s\n  - %s\n", title, strings.Join(lines, "\n  - "))
	}
}

// deviceAct is a command about one or several devices. Those that fail do not
// keep the others from being done; the status tells.
func (p *program) deviceAct(verb, short, long string) *cobra.Command {
	note, seen, yes, destructive := "", "", false, verb == "retire"
	var v api.Vouch
	cmd := &cobra.Command{Use: verb + " DEVICE…", Short: short, Long: strings.TrimSpace(short + ".\n" + long), Args: cobra.MinimumNArgs(1)}
	noteFlag(cmd.Flags(), &note)
	if verb == "approve" {
		cmd.Flags().StringVar(&seen, "seen-at", "",
			"the address of the machine that you looked at the machine: refused when its UUID says hello from elsewhere by now")
	}
	if verb == "retry" {
		vouchFlags(cmd.Flags(), &v, "trust-first")
	}
	if destructive {
		cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := p.client()
		if err != nil {
			return err
		}
		if destructive && !yes {
			what := args[0]
			if len(args) > 1 {
				what = fmt.Sprintf("%d devices, the first of them %s", len(args), args[0])
			}
			if _, err := p.askFor(verb+" "+what, args[0][:min(8, len(args[0]))], "--yes does not ask"); err != nil {
				return err
			}
		}
		results := []api.ActionResult{}
		var firstErr error
		for _, u := range args {
			var res api.ActionResult
			var err error
			switch {
			case v != (api.Vouch{}):
				res, err = c.Retry(cmd.Context(), u, api.Retry{Vouch: v, Note: note})
			case seen != "":
				res, err = c.Approve(cmd.Context(), u, seen, note)
			default:
				res, err = c.Act(cmd.Context(), verb, u, note)
			}
			if err != nil {
				if _, text, _ := p.explain(err); len(args) > 1 {
					p.note("provctl: %s: %s\n", u, text)
				}
				if firstErr == nil {
					firstErr = err
				}
				continue
			}
			results = append(results, res)
			if !p.json {
				p.say("%s: %s\n", u, res.Said)
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
	}
	return cmd
}
