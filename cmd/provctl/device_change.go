package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) deviceTag(verb, short string) *cobra.Command {
	var b api.ChangeBody
	cmd := &cobra.Command{
		Use: verb + " DEVICE TAG…", Short: short, Args: cobra.MinimumNArgs(2),
		Long: short + ". Rules and searches see them (tag:NAME). For many devices: provctl job start " + verb + " QUERY --tags TAG.",
		RunE: func(cmd *cobra.Command, args []string) error {
			b.Tags = args[1:]
			return p.change(cmd, verb, args[0], b)
		},
	}
	cmd.Flags().StringVar(&b.Note, "note", "", "why, for the timeline and the audit")
	return cmd
}

func (p *program) deviceAssignProfile() *cobra.Command {
	var b api.ChangeBody
	cmd := &cobra.Command{
		Use: "assign-profile DEVICE PROFILE", Short: "Give a device its profile", Args: cobra.ExactArgs(2),
		Long: "Gives a device its profile, which then goes before the list of authorised devices and the rules; - takes that back.\n" +
			"A device under management is brought to it by a rollout. For many devices: provctl job start assign-profile QUERY --profile NAME.",
		RunE: func(cmd *cobra.Command, args []string) error {
			b.Profile = args[1]
			return p.change(cmd, "assign-profile", args[0], b)
		},
	}
	cmd.Flags().StringVar(&b.Note, "note", "", "why, for the timeline and the audit")
	return cmd
}

func (p *program) change(cmd *cobra.Command, verb, uuid string, b api.ChangeBody) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	res, err := c.Change(cmd.Context(), verb, uuid, b)
	return p.printAction(uuid, res, err)
}

func (p *program) deviceExport() *cobra.Command {
	var q api.DeviceQuery
	file, format := "", ""
	cmd := &cobra.Command{
		Use: "export [QUERY]", Short: "Write the list of devices as CSV or JSON",
		Long: "Writes all devices that QUERY finds, as in device list, with all columns of the list and no password.\n" +
			"CSV begins with a heading; times are UTC, tags are divided by spaces. A cell that a spreadsheet would take for a formula gets a ' in front.",
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
			q.Q = strings.Join(args, " ")
			devices, err := c.AllDevices(cmd.Context(), q, 0)
			if err != nil {
				return out.drop(err)
			}
			var w io.Writer = p.out
			if out != nil {
				w = out.f
			}
			if err := exportDevices(w, format, devices); err != nil {
				return out.drop(err)
			}
			if out == nil {
				return nil
			}
			if err := out.write(nil); err != nil {
				return err
			}
			fmt.Fprintf(p.err, "%s: written to %s\n", plural(len(devices), "device", "devices"), file)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "write it to a new `FILE` instead of showing it")
	cmd.Flags().StringVar(&format, "format", "", "csv or json (default csv, or by the name of --out)")
	return cmd
}

var exportColumns = []string{"uuid", "name", "lifecycle", "reason", "detail", "mode", "health", "amt", "sku", "profile", "suffix", "address", "mac", "serial", "tags", "approved",
	"first_seen", "last_seen", "provisioned_at", "next_retry", "window_until", "certificate", "tls", "hellos"}

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
		row := []string{d.UUID, d.FQDN, d.Lifecycle, d.Reason, d.Detail, d.DeviceMode, d.Health, d.AMTVersion, d.SKU, d.Profile, d.Suffix, d.Address, d.MAC, d.Serial,
			strings.Join(d.Tags, " "), strconv.FormatBool(d.Approved),
			stamp(d.FirstSeen), stamp(d.LastSeen), stamp(d.ProvisionedAt), stamp(d.NextRetry), stamp(d.WindowUntil), d.Certificate, d.TLSVersion, strconv.Itoa(d.HelloCount)}
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
