package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) jobCommand() *cobra.Command {
	cmd := group("job", "Bulk jobs: do something to many devices", p.jobStart(), p.jobList(), p.jobShow(),
		p.jobOrder("abort", "Begin no further devices; those under way are finished"),
		p.jobOrder("approve", "Let another user's job begin"),
		p.jobOrder("resume", "Let a stopped job go on, after you have looked at what stopped it"))
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

func (j *jobFlags) add(f *pflag.FlagSet) {
	f.BoolVar(&j.All, "all", false, "instead of a query: every device that it can be done to")
	f.BoolVar(&j.DryRun, "dry-run", false, "count the devices and do nothing")
	f.IntVar(&j.PerMinute, "per-minute", 0,
		"begin at most so many devices a minute; 0: no cap, or as the server is configured for what goes in waves")
	f.IntVar(&j.canary, "canary", -1,
		"maintain, rotate, unprovision: prove it on so many devices after the first one, before the rest; default: as the server is "+
			"configured")
	f.StringVar(&j.at, "at", "", "when to begin: a time such as 2026-12-24T22:00:00Z, or a delay such as 2h")
	noteFlag(f, &j.Note)
	f.BoolVar(&j.NeedApprover, "need-approver", false, "wait until another user approves it")
	f.BoolVar(&j.yes, "yes", false, "do not ask, for what can be undone; if the number of devices changes in this moment, nothing begins")
	f.StringVar(&j.Confirm, "confirm", "", "the number of devices you expect, or what the question would ask to be typed, for scripts")
}

// jobKinds are what can be done to many devices at once.
var jobKinds = []string{"maintain", "rotate", "unprovision", "retire", "approve", "reject", "retry", "clear-failures", "quarantine",
	"release",
	"restore", "tag", "untag", "assign-profile"}

const jobHelp = `Starts a job for the devices a query finds at this moment. QUERY is as in device list; --all is every device
it can be done to. Over more than 5 devices it asks first, and what cannot be undone asks for a typed confirmation.
What changes managed devices goes in waves: one device, --canary more, the rest; the first one that is lost stops it.

KIND is one of:
  maintain        what is due, or --task
  rotate          a new admin password
  unprovision     undo the setup; --mode full, partial or decommission
  retire          take out for good, and leave the device alone
  approve         let devices in that wait for it
  reject          turn devices away that wait
  retry           try devices again that failed or wait
  clear-failures  forget the failures of devices, and begin nothing
  quarantine      keep devices out
  release         let quarantined devices go on
  restore         take retired or quarantined devices back
  tag, untag      --tags
  assign-profile  --profile; - lets list and rules decide again`

const jobExample = `  provctl job start approve net:10.20.0.0/16 --dry-run
  provctl job start tag suffix:branch.example.com --tags branch,kiosk
  provctl job start rotate net:10.20.0.0/16 --per-minute 60
  provctl job start rotate --all --confirm 93
  provctl job start unprovision tag:sold --mode full --need-approver --dry-run`

func (p *program) jobStart() *cobra.Command {
	var j jobFlags
	cmd := &cobra.Command{
		Use: "start KIND [QUERY]", ValidArgs: jobKinds, Short: "Start a job for the devices a query finds now", Args: cobra.MinimumNArgs(1),
		Long: jobHelp, Example: jobExample,
		RunE: func(cmd *cobra.Command, args []string) error {
			j.Kind, j.Query = args[0], strings.Join(args[1:], " ")
			if !slices.Contains(jobKinds, j.Kind) {
				return usage("there is no job of kind %q; they are %s", j.Kind, strings.Join(jobKinds, ", "))
			}
			return p.startJob(cmd.Context(), j)
		},
	}
	f := cmd.Flags()
	j.add(f)
	f.StringVar(&j.Task, "task", "", "maintain: clock,name,cert,tls,password, or check to look only")
	f.StringVar(&j.Mode, "mode", "", "unprovision: full, partial or decommission")
	f.StringSliceVar(&j.Tags, "tags", nil, "tag, untag: which ones, divided by commas")
	f.StringVar(&j.Profile, "profile", "", "assign-profile: its name, or -")
	return cmd
}

// maintainCommand looks after one device, or makes a job for many.
func (p *program) maintainCommand() *cobra.Command {
	var j jobFlags
	due := false
	cmd := &cobra.Command{
		Use:   "maintain DEVICE | QUERY | --all --due | --task clock,cert,name,tls,password,settings",
		Short: "Look after managed devices: clock, certificate, name, password",
		Long: "Looks after one device, or after all that a query finds, as a job. --due does only what is due: a clock that is off,\n" +
			"a certificate that ends within 30 days, a name that changed, a password older than its profile allows, TLS settings that " +
			"differ.\n" +
			"--task does what is named, where it is needed; --task check looks and changes nothing.",
		Example: "  provctl maintain --all --due\n  provctl maintain 11223344-5566-7788-99aa-bbccddeeff00 --task clock,cert\n" +
			"  provctl maintain net:10.20.0.0/16 --task check",
		RunE: func(cmd *cobra.Command, args []string) error {
			if due == (j.Task != "") {
				return usage("want --due, or --task with what is to be done")
			}
			if len(args) == 1 && j.at == "" && !j.DryRun && !j.NeedApprover {
				c, err := p.client()
				if err != nil {
					return err
				}
				res, err := c.Maintain(cmd.Context(), args[0], api.MaintainBody{Task: j.Task, Note: j.Note})
				var refused *api.Problem
				if !errors.As(err, &refused) || looksLikeUUID(args[0]) || refused.Code != api.CodeNoDevice &&
					refused.Code != api.CodeAmbiguous {
					return p.showAction(args[0], res, err)
				}
			} // else it is a query
			j.Kind, j.Query = "maintain", strings.Join(args, " ")
			return p.startJob(cmd.Context(), j)
		},
	}
	j.add(cmd.Flags())
	cmd.Flags().StringVar(&j.Task, "task", "", "what to do: clock, cert, name, tls, password, check")
	cmd.Flags().BoolVar(&due, "due", false, "only what is due")
	return cmd
}

// looksLikeUUID tells a UUID from a query.
func looksLikeUUID(s string) bool {
	return len(s) >= 32 && len(s) <= 38 && strings.Trim(s, "0123456789abcdefABCDEF-{}") == ""
}

// startJob counts first, asks when it is about many or cannot be undone, and
// starts.
func (p *program) startJob(ctx context.Context, j jobFlags) error {
	if j.at != "" {
		at, err := time.Parse(time.RFC3339, j.at)
		if err != nil {
			d, err := time.ParseDuration(j.at)
			if err != nil {
				return usage("--at %q: want a time such as 2026-12-24T22:00:00Z, or a delay such as 2h", j.at)
			}
			at = time.Now().Add(d).UTC().Truncate(time.Second)
		}
		j.NotBefore = &at
	}
	switch {
	case j.Query == "" && !j.All && !j.DryRun:
		return usage("say which devices: a query such as net:10.20.0.0/16, or --all for every device that %s can be done to", j.Kind)
	case j.Query != "" && j.All:
		return usage("want a query or --all, not both")
	case j.yes && j.Confirm != "":
		return usage("want --yes or --confirm, not both")
	}
	if j.canary >= 0 {
		j.Canary = &j.canary
	}
	c, err := p.client()
	if err != nil {
		return err
	}
	for given := j.Confirm; ; j.Confirm = given {
		dry := j.JobRequest
		dry.DryRun = true
		preview, err := c.StartJob(ctx, dry)
		if err != nil {
			return err
		}
		if j.DryRun {
			return p.showJob(preview)
		}
		if preview.Devices == 0 {
			return &exitError{exitNotFound, errors.New("no device fits, so there is nothing to do")}
		}
		if preview.Confirm != "" && j.Confirm == "" {
			if j.Confirm, err = p.confirmJob(j, preview); err != nil {
				return err
			}
		}
		started, err := c.StartJob(ctx, j.JobRequest)
		var changed *api.Problem
		if errors.As(err, &changed) && changed.Code == api.CodeCount && given == "" && !j.yes {
			p.note("%s\n", changed.Detail)
			continue // whoever answered is asked again, with the new number
		}
		if err != nil {
			return err
		}
		return p.showJob(started)
	}
}

// confirmJob asks whether a job is to begin, and gives the word for it.
func (p *program) confirmJob(j jobFlags, preview api.Job) (word string, err error) {
	what := fmt.Sprintf("%s %d devices", j.Kind, preview.Devices)
	if preview.Devices == 1 {
		what = j.Kind + " one device"
	}
	switch {
	case api.Destructive(j.Kind):
		return p.askFor(what, preview.Confirm, fmt.Sprintf("for scripts: --confirm %q", preview.Confirm))
	case j.yes:
		return preview.Confirm, nil
	case !onTerminal(p.in):
		return "", usage("this would %s: give --yes, or --confirm %d to begin only if they are so many", what, preview.Devices)
	}
	if waves := wavesLine(preview.Waves, false); waves != "" {
		what += " (in waves: " + waves + ")"
	}
	if p.yes(strings.ToUpper(what[:1]) + what[1:] + "?") {
		return preview.Confirm, nil
	}
	return "", failed("nothing was done; for scripts: --yes, or --confirm %d", preview.Devices)
}

// yes asks a question; whatever is not yes is no.
func (p *program) yes(question string) bool {
	p.note("%s [y/N] ", question)
	line, err := p.line()
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	if err != nil {
		p.note("\n")
	}
	return false
}

// askFor asks for a word to be typed; instead says what spares the question.
func (p *program) askFor(what, word, instead string) (string, error) {
	p.note("To %s, type %s: ", what, word)
	line, err := p.line()
	if err != nil && line == "" {
		p.note("\n")
		return "", failed("nothing was typed, so nothing was done; %s", instead)
	}
	if strings.TrimSpace(line) != word {
		return "", failed("that is something else, so nothing was done")
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

// wavesLine is how a job goes: 1, then 10, then 82; or, once it does, how far it is.
func wavesLine(waves []api.Wave, begun bool) string {
	var parts []string
	for _, w := range waves {
		switch {
		case w.Devices == 0:
		case begun:
			parts = append(parts, fmt.Sprintf("%s %d of %d", w.Name, w.Done, w.Devices))
		default:
			parts = append(parts, fmt.Sprint(w.Devices))
		}
	}
	return strings.Join(parts, ", then ")
}

func (p *program) showJob(j api.Job) error {
	if p.json {
		return p.printJSON(j)
	}
	p.sayJob(j)
	return nil
}

func (p *program) sayJob(j api.Job) {
	var id, results, target, lately any
	if j.ID != 0 {
		id, results = j.ID, jobCounts(j)
	}
	if j.Target != "" {
		target = j.Target + ", for " + j.Cause
	}
	if j.Lately > 0 {
		lately = fmt.Sprintf("%d more in jobs of this kind of the last 24 hours, counted together with these", j.Lately)
	}
	switch {
	case j.Kind == api.KindRollout:
		j.Profile = ""
	case j.Profile == "-":
		j.Profile = "as list and rules say"
	}
	p.fields("job", id, "kind", j.Kind, "state", jobState(j), "why", j.Detail, "brings to", target, "query", j.Query, "task", j.Task,
		"mode", j.Mode, "tags", j.Tags, "profile", j.Profile, "devices", j.Devices, "waves", wavesLine(j.Waves, j.ID != 0), "lately",
		lately,
		"results", results, "per minute", ifAny(j.PerMinute), "not before", j.NotBefore, "made by", j.CreatedBy, "approved by",
		j.ApprovedBy,
		"made", j.CreatedAt, "finished", j.FinishedAt, "note", j.Note, "confirm with", j.Confirm)
	for i, u := range j.Sample {
		if i == 0 {
			p.say("first devices\n")
		}
		p.say("  %s\n", u)
	}
}

func jobState(j api.Job) string {
	switch j.State {
	case "draft":
		return fmt.Sprintf("draft: waits for another user: provctl job approve %d", j.ID)
	case "stopped":
		return fmt.Sprintf("stopped: waits for a person: provctl job resume %d, or provctl job abort %d", j.ID, j.ID)
	case "forged":
		return fmt.Sprintf("forged: this server did not write it; provctl job abort %d", j.ID)
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
	cmd := list(p, verb[[]api.Job]{
		use: "list", short: "List jobs, newest first",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&q.State, "state", "", "only jobs in this state: draft, waiting, running, stopped, done, aborted")
			f.IntVar(&q.Limit, "limit", 50, "at most so many")
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.Job, error) {
			l, err := c.Jobs(ctx, q)
			return l.Jobs, err
		},
	}, "there are no jobs", "JOB|KIND|STATE|DEVICES|RESULTS|MADE BY|MADE|FINISHED|QUERY", func(j api.Job) []any {
		return []any{j.ID, j.Kind, j.State, j.Devices, jobCounts(j), j.CreatedBy, j.CreatedAt, j.FinishedAt, j.Query}
	})
	cmd.Aliases = []string{"ls"}
	return cmd
}

// aJob is for a verb about one job.
var aJob = number("a job's number; provctl job list shows them")

func (p *program) jobShow() *cobra.Command {
	in := api.OneJob{Limit: 1000}
	return verb[api.JobDetail]{
		use: "show JOB", short: "A job with a result for each device", args: aJob,
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&in.State, "state", "", "only devices in this state: waiting, running, handed_over, done, failed, skipped")
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.JobDetail, error) {
			in.ID = idOf(args[0])
			j, err := c.Job(ctx, in)
			for err == nil && j.Next != "" {
				in.After = j.Next
				var page api.JobDetail
				page, err = c.Job(ctx, in)
				j.Results, j.Next = append(j.Results, page.Results...), page.Next
			}
			return j, err
		},
		show: func(j api.JobDetail) {
			p.sayJob(j.Job)
			p.say("\n")
			if len(j.Waves) == 0 {
				rows(p, "UUID|NAME|STATE|RUN|DETAIL", j.Results, func(r api.JobResult) []any {
					return []any{r.UUID, r.FQDN, r.State, ifAny(r.RunID), r.Detail}
				})
				return
			}
			rows(p, "UUID|NAME|STATE|WAVE|RUN|DETAIL", j.Results, func(r api.JobResult) []any {
				return []any{r.UUID, r.FQDN, r.State, []string{"-", "first", "canary", "rest"}[min(r.Wave, 3)], ifAny(r.RunID), r.Detail}
			})
		},
	}.command(p)
}

func (p *program) jobOrder(word, short string) *cobra.Command {
	return verb[api.Job]{
		use: word + " JOB", short: short, args: aJob, show: p.sayJob,
		ask: func(ctx context.Context, c *api.Client, args []string) (api.Job, error) {
			return c.JobCommand(ctx, idOf(args[0]), word)
		},
	}.command(p)
}
