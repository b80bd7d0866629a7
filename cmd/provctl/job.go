package main

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) jobCommand() *cobra.Command {
	cmd := group("job", "Bulk jobs: do something to many devices", p.jobStart(), p.jobList(), p.jobShow(),
		p.jobCommandOf("abort", "Begin no further devices; those under way are finished"),
		p.jobCommandOf("approve", "Let another user's job begin"),
		p.jobCommandOf("resume", "Let a stopped job go on, after you have looked at what stopped it"))
	cmd.Aliases = []string{"jobs"}
	return cmd
}

// jobFlags are what every command that makes a job takes.
type jobFlags struct {
	api.JobRequest
	at     string
	yes    bool
	canary int
}

func (f *jobFlags) add(cmd *cobra.Command) {
	g := cmd.Flags()
	g.BoolVar(&f.All, "all", false, "instead of a query: every device that it can be done to")
	g.BoolVar(&f.DryRun, "dry-run", false, "count the devices and do nothing")
	g.IntVar(&f.PerMinute, "per-minute", 0, "begin at most so many devices a minute; 0: no cap, or as the server is configured for what goes in waves")
	g.IntVar(&f.canary, "canary", -1, "maintain, rotate, unprovision: prove it on so many devices after the first one, before the rest; default: as the server is configured")
	g.StringVar(&f.at, "at", "", "when to begin: a time such as 2026-12-24T22:00:00Z, or a delay such as 2h")
	g.StringVar(&f.Note, "note", "", "why, for the timeline and the audit")
	g.BoolVar(&f.NeedApprover, "need-approver", false, "wait until another user approves it")
	g.BoolVar(&f.yes, "yes", false, "do not ask, for what can be undone; if the number of devices changes in this moment, nothing begins")
	g.StringVar(&f.Confirm, "confirm", "", "the number of devices you expect, or what the question would ask to be typed, for scripts")
}

// jobKinds are what can be done to many devices at once.
var jobKinds = []string{"maintain", "rotate", "unprovision", "retire", "approve", "reject", "retry", "clear-failures", "quarantine", "release", "restore", "tag", "untag", "assign-profile"}

func (p *program) jobStart() *cobra.Command {
	var f jobFlags
	cmd := &cobra.Command{
		Use: "start KIND [QUERY]", ValidArgs: jobKinds, Short: "Start a job for the devices a query finds now", Args: cobra.MinimumNArgs(1),
		Long: "Starts a job for the devices a query finds at this moment. QUERY is as in device list; --all is every device\nit can be done to. Over more than 5 devices it asks first, and what cannot be undone asks for a typed confirmation.\n" +
			"What changes managed devices goes in waves: one device, --canary more, the rest; the first one that is lost stops it.\n\n" +
			"KIND is one of:\n" +
			"  maintain        what is due, or --task\n  rotate          a new admin password\n  unprovision     undo the setup; --mode full, partial or decommission\n  retire          take out for good, and leave the device alone\n" +
			"  approve         let devices in that wait for it\n  reject          turn devices away that wait\n  retry           try devices again that failed or wait\n  clear-failures  forget the failures of devices, and begin nothing\n  quarantine      keep devices out\n  release         let quarantined devices go on\n  restore         take retired or quarantined devices back\n" +
			"  tag, untag      --tags\n  assign-profile  --profile; - lets list and rules decide again",
		Example: "  provctl job start approve net:10.20.0.0/16 --dry-run\n  provctl job start tag suffix:branch.example.com --tags branch,kiosk\n  provctl job start rotate net:10.20.0.0/16 --per-minute 60\n  provctl job start rotate --all --confirm 93\n  provctl job start unprovision tag:sold --mode full --need-approver --dry-run",
		RunE: func(cmd *cobra.Command, args []string) error {
			f.Kind, f.Query = args[0], strings.Join(args[1:], " ")
			if !slices.Contains(jobKinds, f.Kind) {
				return usage("there is no job of kind %q; they are %s", f.Kind, strings.Join(jobKinds, ", "))
			}
			return p.startJob(cmd, f)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.Task, "task", "", "maintain: clock,name,cert,tls,password, or check to look only")
	cmd.Flags().StringVar(&f.Mode, "mode", "", "unprovision: full, partial or decommission")
	cmd.Flags().StringSliceVar(&f.Tags, "tags", nil, "tag, untag: which ones, divided by commas")
	cmd.Flags().StringVar(&f.Profile, "profile", "", "assign-profile: its name, or -")
	return cmd
}

// startJob counts first, asks when it is about many or cannot be undone, and
// starts.
func (p *program) startJob(cmd *cobra.Command, f jobFlags) error {
	if f.at != "" {
		at, err := time.Parse(time.RFC3339, f.at)
		if err != nil {
			d, err := time.ParseDuration(f.at)
			if err != nil {
				return usage("--at %q: want a time such as 2026-12-24T22:00:00Z, or a delay such as 2h", f.at)
			}
			at = time.Now().Add(d).UTC().Truncate(time.Second)
		}
		f.NotBefore = &at
	}
	switch {
	case f.Query == "" && !f.All && !f.DryRun:
		return usage("say which devices: a query such as net:10.20.0.0/16, or --all for every device that %s can be done to", f.Kind)
	case f.Query != "" && f.All:
		return usage("want a query or --all, not both")
	case f.yes && f.Confirm != "":
		return usage("want --yes or --confirm, not both")
	}
	if f.canary >= 0 {
		f.Canary = &f.canary
	}
	c, err := p.client()
	if err != nil {
		return err
	}
	for given := f.Confirm; ; f.Confirm = given {
		dry := f.JobRequest
		dry.DryRun = true
		preview, err := c.StartJob(cmd.Context(), dry)
		if err != nil {
			return err
		}
		if f.DryRun {
			return p.printJob(preview)
		}
		if preview.Devices == 0 {
			return &exitError{exitNotFound, errors.New("no device fits, so there is nothing to do")}
		}
		if preview.Confirm != "" && f.Confirm == "" {
			if f.Confirm, err = p.confirmJob(f, preview); err != nil {
				return err
			}
		}
		j, err := c.StartJob(cmd.Context(), f.JobRequest)
		var changed *api.Problem
		if errors.As(err, &changed) && changed.Code == api.CodeCount && given == "" && !f.yes {
			fmt.Fprintln(p.err, changed.Detail)
			continue // whoever answered is asked again, with the new number
		}
		if err != nil {
			return err
		}
		return p.printJob(j)
	}
}

// confirmJob asks whether a job is to begin, and gives the word for it.
func (p *program) confirmJob(f jobFlags, preview api.Job) (word string, err error) {
	what := fmt.Sprintf("%s %d devices", f.Kind, preview.Devices)
	if preview.Devices == 1 {
		what = f.Kind + " one device"
	}
	switch {
	case api.Destructive(f.Kind):
		return p.askFor(what, preview.Confirm)
	case f.yes:
		return preview.Confirm, nil
	case !onTerminal(p.in):
		return "", usage("this would %s: give --yes, or --confirm %d to begin only if they are so many", what, preview.Devices)
	}
	if waves := wavesLine(preview); waves != "" {
		what += " (in waves: " + waves + ")"
	}
	fmt.Fprintf(p.err, "%s? [y/N] ", strings.ToUpper(what[:1])+what[1:])
	line, err := p.line()
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return preview.Confirm, nil
	}
	if err != nil {
		fmt.Fprintln(p.err)
	}
	return "", &exitError{exitFailed, fmt.Errorf("nothing was done; for scripts: --yes, or --confirm %d", preview.Devices)}
}

// wavesLine is how a job goes: 1, then 10, then 82.
func wavesLine(j api.Job) string {
	var parts []string
	for _, w := range j.Waves {
		switch {
		case w.Devices == 0:
		case j.ID == 0:
			parts = append(parts, fmt.Sprint(w.Devices))
		default:
			parts = append(parts, fmt.Sprintf("%s %d of %d", w.Name, w.Done, w.Devices))
		}
	}
	return strings.Join(parts, ", then ")
}

// askFor asks for a word to be typed.
func (p *program) askFor(what, word string) (string, error) {
	fmt.Fprintf(p.err, "To %s, type %s: ", what, word)
	line, err := p.line()
	if err != nil && line == "" {
		fmt.Fprintln(p.err)
		return "", &exitError{exitFailed, fmt.Errorf("nothing was typed, so nothing was done; for scripts: --confirm %q", word)}
	}
	if strings.TrimSpace(line) != word {
		return "", &exitError{exitFailed, errors.New("that is something else, so nothing was done")}
	}
	return word, nil
}

// line reads one line of standard input; what follows is for the next question.
func (p *program) line() (string, error) {
	if p.typed == nil {
		p.typed = bufio.NewReader(p.in)
	}
	text, err := p.typed.ReadString('\n')
	return strings.TrimRight(text, "\r\n"), err
}

func (p *program) printJob(j api.Job) error {
	if p.json {
		return p.printJSON(j)
	}
	var t table
	field := func(name, value string) {
		if value != "" && value != "-" {
			t.row(name, value)
		}
	}
	if j.ID != 0 {
		t.row("job", fmt.Sprint(j.ID))
	}
	t.row("kind", j.Kind)
	t.row("state", jobState(j))
	field("why", j.Detail)
	if j.Target != "" {
		t.row("brings to", j.Target+", for "+j.Cause)
	}
	field("query", j.Query)
	field("task", j.Task)
	field("mode", j.Mode)
	field("tags", strings.Join(j.Tags, ", "))
	if j.Kind == api.KindRollout {
		j.Profile = ""
	}
	if j.Profile == "-" {
		t.row("profile", "as list and rules say")
	} else {
		field("profile", j.Profile)
	}
	t.row("devices", fmt.Sprint(j.Devices))
	field("waves", wavesLine(j))
	if j.Lately > 0 {
		t.row("lately", fmt.Sprintf("%d more in jobs of this kind of the last 24 hours, counted together with these", j.Lately))
	}
	if j.ID != 0 {
		t.row("results", jobCounts(j))
	}
	if j.PerMinute > 0 {
		t.row("per minute", fmt.Sprint(j.PerMinute))
	}
	field("not before", when(j.NotBefore))
	field("made by", j.CreatedBy)
	field("approved by", j.ApprovedBy)
	field("made", when(j.CreatedAt))
	field("finished", when(j.FinishedAt))
	field("note", j.Note)
	field("confirm with", j.Confirm)
	t.print(p.out)
	for i, u := range j.Sample {
		if i == 0 {
			fmt.Fprintln(p.out, "first devices")
		}
		fmt.Fprintln(p.out, "  "+u)
	}
	return nil
}

func jobState(j api.Job) string {
	switch j.State {
	case "draft":
		return "draft: waits for another user: provctl job approve " + strconv.FormatInt(j.ID, 10)
	case "stopped":
		return "stopped: waits for a person: provctl job resume " + strconv.FormatInt(j.ID, 10) + ", or provctl job abort " + strconv.FormatInt(j.ID, 10)
	case "forged":
		return "forged: this server did not write it; provctl job abort " + strconv.FormatInt(j.ID, 10)
	case "dry_run":
		return "dry run: nothing was done"
	}
	return j.State
}

func jobCounts(j api.Job) string {
	var parts []string
	for _, s := range []string{"waiting", "running", "handed_over", "done", "failed", "skipped"} {
		if n := j.Counts[s]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(s, "_", " ")))
		}
	}
	return strings.Join(parts, ", ")
}

func (p *program) jobList() *cobra.Command {
	var q api.JobsInput
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List jobs, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.Jobs(cmd.Context(), q)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Jobs)
			}
			if len(l.Jobs) == 0 {
				fmt.Fprintln(p.err, "there are no jobs")
				return nil
			}
			var t table
			t.row("JOB", "KIND", "STATE", "DEVICES", "RESULTS", "MADE BY", "MADE", "FINISHED", "QUERY")
			for _, j := range l.Jobs {
				t.row(fmt.Sprint(j.ID), j.Kind, j.State, fmt.Sprint(j.Devices), dash(jobCounts(j)), j.CreatedBy, when(j.CreatedAt), when(j.FinishedAt), dash(j.Query))
			}
			t.print(p.out)
			return nil
		},
	}
	cmd.Flags().StringVar(&q.State, "state", "", "only jobs in this state: draft, waiting, running, stopped, done, aborted")
	cmd.Flags().IntVar(&q.Limit, "limit", 50, "at most so many")
	return cmd
}

func (p *program) jobShow() *cobra.Command {
	state := ""
	cmd := &cobra.Command{
		Use: "show JOB", Short: "A job with a result for each device", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			in := api.OneJob{ID: id, State: state, Limit: 1000}
			j, err := c.Job(cmd.Context(), in)
			for next := j.Next; err == nil && next != ""; {
				in.After = next
				var page api.JobDetail
				page, err = c.Job(cmd.Context(), in)
				j.Results, next = append(j.Results, page.Results...), page.Next
			}
			if err != nil {
				return err
			}
			j.Next = ""
			if p.json {
				return p.printJSON(j)
			}
			if err := p.printJob(j.Job); err != nil {
				return err
			}
			var t table
			head, waves := []string{"UUID", "NAME", "STATE", "RUN", "DETAIL"}, len(j.Waves) > 0
			if waves {
				head = slices.Insert(head, 3, "WAVE")
			}
			t.row(head...)
			for _, r := range j.Results {
				run := "-"
				if r.RunID != 0 {
					run = fmt.Sprint(r.RunID)
				}
				row := []string{r.UUID, dash(r.FQDN), r.State, run, dash(r.Detail)}
				if waves {
					row = slices.Insert(row, 3, []string{"-", "first", "canary", "rest"}[min(r.Wave, 3)])
				}
				t.row(row...)
			}
			fmt.Fprintln(p.out)
			t.print(p.out)
			return nil
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "only devices in this state: waiting, running, handed_over, done, failed, skipped")
	return cmd
}

func (p *program) jobCommandOf(verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " JOB", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			j, err := c.JobCommand(cmd.Context(), id, verb)
			if err != nil {
				return err
			}
			return p.printJob(j)
		},
	}
}

func jobID(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id <= 0 {
		return 0, usage("%q is not a job's number; provctl job list shows them", s)
	}
	return id, nil
}
