package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) deviceTag(word, short string) *cobra.Command {
	var b api.ChangeBody
	return p.action(verb[api.ActionResult]{
		use: word + " DEVICE TAG…", short: short, args: cobra.MinimumNArgs(2),
		long:  short + ". Rules and searches see them (tag:NAME). For many devices: provctl job start " + word + " QUERY --tags TAG.",
		flags: func(f *pflag.FlagSet) { noteFlag(f, &b.Note) },
		ask: func(ctx context.Context, c *api.Client, args []string) (api.ActionResult, error) {
			b.Tags = args[1:]
			return c.Change(ctx, word, args[0], b)
		},
	})
}

func (p *program) deviceAssignProfile() *cobra.Command {
	var b api.ChangeBody
	return p.action(verb[api.ActionResult]{
		use: "assign-profile DEVICE PROFILE", short: "Give a device its profile", args: cobra.ExactArgs(2),
		long: "Gives a device its profile, which then goes before the list of authorised devices and the rules; - takes that back.\n" +
			"A device under management is brought to it by a rollout. For many devices: provctl job start assign-profile QUERY --profile " +
			"NAME.",
		flags: func(f *pflag.FlagSet) { noteFlag(f, &b.Note) },
		ask: func(ctx context.Context, c *api.Client, args []string) (api.ActionResult, error) {
			b.Profile = args[1]
			return c.Change(ctx, "assign-profile", args[0], b)
		},
	})
}

func (p *program) deviceAddress() *cobra.Command {
	var n api.NewAddress
	return p.action(verb[api.ActionResult]{
		use: "address DEVICE ADDRESS", short: "Say where a device is", args: cobra.ExactArgs(2),
		long: "The device is called at ADDRESS from now on, also one under management; its key decides whether what answers there is the " +
			"device.\n" +
			"Of two machines that say hello with one UUID it is the one at ADDRESS, and the other is kept out.",
		example: "  provctl device address pc-24.corp.example.com 10.20.3.7 --note 'moved to the branch'",
		flags:   func(f *pflag.FlagSet) { noteFlag(f, &n.Note) },
		ask: func(ctx context.Context, c *api.Client, args []string) (api.ActionResult, error) {
			n.Address = args[1]
			return c.AddressDevice(ctx, args[0], n)
		},
	})
}

func (p *program) deviceName() *cobra.Command {
	var n api.NewName
	return verb[api.Named]{
		use: "name DEVICE [FQDN]", short: "Give a device its name, or take the assigned one away", args: cobra.RangeArgs(1, 2),
		long:  "Give a device its name, also before its first hello. Without FQDN the assigned name is taken away.",
		flags: func(f *pflag.FlagSet) { noteFlag(f, &n.Note) },
		ask: func(ctx context.Context, c *api.Client, args []string) (api.Named, error) {
			n.FQDN = strings.Join(args[1:], "")
			return c.NameDevice(ctx, args[0], n)
		},
		show: func(r api.Named) {
			if r.FQDN == "" {
				p.say("%s: has no assigned name any more\n", r.UUID)
			} else {
				p.say("%s: named %s\n", r.UUID, r.FQDN)
			}
		},
	}.command(p)
}

func (p *program) deviceExport() *cobra.Command {
	file, format := "", ""
	cmd := &cobra.Command{
		Use: "export [QUERY]", Short: "Write the list of devices as CSV or JSON",
		Long: "Writes all devices that QUERY finds, as in device list, with all columns of the list and no password.\n" +
			"CSV begins with a heading; times are UTC, tags are divided by spaces. A cell that a spreadsheet would take for a formula " +
			"gets a ' in front.",
		Example: "  provctl device export state:provisioned --out fleet.csv\n  provctl device export --format json > fleet.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if format == "" {
				format = "csv"
				if p.json || strings.HasSuffix(file, ".json") {
					format = "json"
				}
			}
			if format != "csv" && format != "json" {
				return usage("--format %q: want csv or json", format)
			}
			c, out, err := p.clientAndFile(file)
			if err != nil {
				return err
			}
			devices, err := c.AllDevices(cmd.Context(), api.DeviceQuery{Q: strings.Join(args, " ")}, 0)
			var text bytes.Buffer
			if err == nil {
				err = exportDevices(&text, format, devices)
			}
			if err == nil && out == nil {
				_, err = p.out.Write(text.Bytes())
			}
			if err != nil {
				return out.drop(err)
			}
			if out != nil {
				if err := out.write(text.Bytes()); err != nil {
					return &exitError{exitFailed, err}
				}
				p.note("%s: written to %s\n", plural(len(devices), "device", "devices"), file)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "write it to a new `FILE` instead of showing it")
	cmd.Flags().StringVar(&format, "format", "", "csv or json (default csv, or by the name of --out)")
	return cmd
}

var exportColumns = []string{"uuid", "name", "lifecycle", "reason", "detail", "mode", "health", "amt", "sku", "profile", "suffix",
	"address",
	"mac", "serial", "tags", "approved", "first_seen", "last_seen", "provisioned_at", "next_retry", "window_until", "certificate", "tls",
	"hellos"}

func exportDevices(w io.Writer, format string, devices []api.Device) error {
	if format == "json" {
		return (&program{out: w}).printJSON(devices)
	}
	out := csv.NewWriter(w)
	_ = out.Write(exportColumns) // the first error stays
	stamp := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	for _, d := range devices {
		row := []string{d.UUID, d.FQDN, d.Lifecycle, d.Reason, d.Detail, d.DeviceMode, d.Health, d.AMTVersion, d.SKU, d.Profile, d.Suffix,
			d.Address,
			d.MAC, d.Serial, strings.Join(d.Tags, " "), strconv.FormatBool(d.Approved), stamp(d.FirstSeen), stamp(d.LastSeen),
			stamp(d.ProvisionedAt),
			stamp(d.NextRetry), stamp(d.WindowUntil), d.Certificate, d.TLSVersion, strconv.Itoa(d.HelloCount)}
		for i, cell := range row {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r") {
				row[i] = "'" + cell // devices choose some of these words, and spreadsheets obey them
			}
		}
		_ = out.Write(row)
	}
	out.Flush()
	return out.Error()
}

var unprovisionModes = []string{"full", "partial", "decommission"}

func (p *program) unprovisionCommand() *cobra.Command {
	var b api.UnprovisionBody
	return p.action(verb[api.ActionResult]{
		use: "unprovision DEVICE --mode full|partial|decommission", short: "Undo a device's setup", args: cobra.ExactArgs(1),
		long: "Undoes a device's setup over the network. full takes it back to its factory state; partial keeps its users and names,\n" +
			"and it says hello again; decommission is full, and retires the device once it shows that it is gone. Its record and its\n" +
			"passwords are kept here: the MEBx password stays on the machine.\n" +
			"It cannot be undone, so it asks for the device to be typed once more; --confirm DEVICE is for scripts. For many devices: " +
			"provctl job start unprovision.",
		example: "  provctl unprovision 11223344-5566-7788-99aa-bbccddeeff00 --mode partial",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&b.Mode, "mode", "", "full, partial or decommission")
			f.StringVar(&b.Confirm, "confirm", "", "the device once more, instead of typing it")
			noteFlag(f, &b.Note)
		},
		choices: map[string][]string{"mode": unprovisionModes},
		check: func([]string) error {
			for _, m := range unprovisionModes {
				if b.Mode == m {
					return nil
				}
			}
			return usage("--mode: want full, partial or decommission")
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (r api.ActionResult, err error) {
			if b.Confirm == "" {
				if b.Confirm, err = p.askFor("unprovision "+args[0], args[0],
					fmt.Sprintf("for scripts: --confirm %q", args[0])); err != nil {
					return r, err
				}
			}
			return c.Unprovision(ctx, args[0], b)
		},
	})
}
