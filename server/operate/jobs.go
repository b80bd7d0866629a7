package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Waved reports whether jobs of a kind go in waves: they tell managed devices
// something that changes them.
func Waved(kind, task string) bool {
	switch kind {
	case Rotate, Unprovision, api.KindRollout:
		return true
	}
	return kind == Maintain && task != "check"
}

// Begins reports whether a command of this kind hands a device over to a run, so
// that its part ends with what becomes of the device.
func Begins(kind string) bool { return kind == Approve || kind == Retry || kind == Release }

// JobOptions is what a job's row keeps beside its own columns.
type JobOptions struct {
	Query        string `json:"query,omitempty"`
	Task         string `json:"task,omitempty"`
	Mode         string `json:"mode,omitempty"`
	Note         string `json:"note,omitempty"`
	NeedApprover bool   `json:"need_approver,omitempty"`
	Lately       int    `json:"lately,omitempty"`
	api.Change
}

// OptionsOf reads the options of a job's row.
func OptionsOf(j store.BulkJob) (o JobOptions, err error) {
	if len(j.Options) == 0 {
		return o, nil
	}
	err = json.Unmarshal(j.Options, &o)
	return o, err
}

// Job is a job as it stands.
type Job struct {
	store.BulkJob
	Options JobOptions
	Counts  map[string]int     // of its devices, by their state
	At      map[int]store.Wave // of a job that goes in waves

	Confirm string     // of a dry run: what has to be typed to start it
	Sample  []amt.UUID // of a dry run: its first devices
}

// maxJobDevices bounds one job: its devices are written in one transaction.
const maxJobDevices = 200_000

// StartJob makes a job of a request or, in a dry run, only says what it would be
// about.
func (r *Room) StartJob(ctx context.Context, tx *store.Tx, who Principal, b api.JobRequest) (Job, error) {
	if err := checkJob(ctx, tx, &b); err != nil {
		return Job{}, err
	}
	found, err := r.jobDevices(ctx, tx, b)
	if err != nil {
		return Job{}, err
	}
	j, err := r.newJob(ctx, tx, who, b, found)
	if err != nil {
		return j, err
	}
	word := confirmWord(b.Kind, found)
	switch {
	case b.DryRun:
		j.Counts, j.Confirm, j.Sample = map[string]int{store.ItemWaiting: len(found)}, word, found[:min(10, len(found))]
		return j, nil
	case len(found) == 0:
		return j, Conflict("no device fits, so there is nothing to do")
	}
	if err := confirmed(b.Kind, b.Confirm, word, len(found)); err != nil {
		return j, err
	}
	return keepJob(ctx, tx, who, j, found)
}

// checkJob refuses what no device could be told, and puts in what may be left out.
func checkJob(ctx context.Context, tx *store.Tx, b *api.JobRequest) error {
	if b.Kind != Maintain && b.Task != "" || b.Kind != Unprovision && b.Mode != "" {
		return Wrong("task goes with maintain, and mode with unprovision")
	}
	if err := checkTask(b.Task); err != nil {
		return err
	}
	if b.Kind == Unprovision && b.Mode == "" {
		b.Mode = "full"
	}
	switch named := len(b.Devices) > 0; {
	case named && b.Query != "" || b.All && (named || b.Query != ""):
		return Wrong("name devices, give a query, or say all: one of them")
	case !named && b.Query == "" && !b.All && !b.DryRun:
		return WrongField("body.query", "say which devices: with a query, by name, or with all: true (provctl: --all) every device that "+
			"%s can be done to", b.Kind)
	case b.Canary != nil && !Waved(b.Kind, b.Task):
		return WrongField("body.canary", "%s goes in no waves", b.Kind)
	}
	return checkChange(ctx, tx, b.Kind, b.Change)
}

// newJob is the job that a request asks for, with its pace and its approver.
func (r *Room) newJob(ctx context.Context, tx *store.Tx, who Principal, b api.JobRequest, found []amt.UUID) (Job, error) {
	lately, err := r.lately(ctx, tx, who.User, b, found)
	needs := b.NeedApprover || r.needsApprover(b.Kind, b.Mode, len(found)+lately)
	j := Job{
		BulkJob: store.BulkJob{Kind: b.Kind, State: store.JobWaiting, PerMinute: b.PerMinute, CreatedBy: who.User},
		Options: JobOptions{Query: b.Query, Task: b.Task, Mode: b.Mode, Note: api.Clean(b.Note), NeedApprover: needs, Lately: lately,
			Change: b.Change},
	}
	if b.NotBefore != nil {
		j.NotBefore = *b.NotBefore
	}
	if Waved(b.Kind, b.Task) {
		if j.Canary = max(r.Canary, 0); b.Canary != nil {
			j.Canary = *b.Canary
		}
		if j.PerMinute == 0 {
			j.PerMinute = r.WavePace
		}
	}
	if needs {
		j.State = store.JobDraft
	}
	return j, err
}

// keepJob writes a job and its devices.
func keepJob(ctx context.Context, tx *store.Tx, who Principal, j Job, found []amt.UUID) (_ Job, err error) {
	o := j.Options
	if j.BulkJob.Options, err = json.Marshal(o); err != nil {
		return j, err
	}
	if j.Filter, err = json.Marshal(map[string]string{"query": o.Query}); err != nil {
		return j, err
	}
	id, err := tx.CreateJob(ctx, j.BulkJob)
	if err != nil {
		return j, err
	}
	if err := tx.AddJobItems(ctx, id, found); err != nil {
		return j, err
	}
	if _, err := tx.AddEvent(ctx, store.Event{Name: "job_created", Actor: who.Actor(),
		Data: map[string]any{"job": id, "kind": j.Kind, "devices": len(found)}}); err != nil {
		return j, err
	}
	if err := tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "job.start", Subject: fmt.Sprint(id), Detail: map[string]any{
		"kind": j.Kind, "query": o.Query, "devices": len(found), "task": o.Task, "mode": o.Mode, "tags": o.Tags, "profile": o.Profile,
		"note": o.Note, "need_approver": o.NeedApprover,
	}}); err != nil {
		return j, err
	}
	return ReadJob(ctx, tx, id)
}

// fewDevices is up to how many a job that can be undone needs no confirmation for.
const fewDevices = 5

// confirmWord is what has to be typed: the one device's UUID, or the kind and
// the count, so that a filter that finds more than was meant is noticed.
func confirmWord(kind string, found []amt.UUID) string {
	switch {
	case !api.Destructive(kind) && len(found) <= fewDevices:
		return ""
	case len(found) == 1:
		return found[0].String()
	}
	return fmt.Sprintf("%s %d", kind, len(found))
}

// confirmed refuses a job whose size nobody has confirmed. A number that was right
// a moment ago is told from a word that is none: somebody looked, and the fleet
// has changed since.
func confirmed(kind, given, word string, n int) error {
	undone := !api.Destructive(kind)
	given = strings.TrimSpace(given)
	switch {
	case word == "", given == word, undone && (given == "yes" || given == strconv.Itoa(n)):
		return nil
	}
	if seen, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(given, kind))); err == nil && seen != n {
		return Refuse(api.CodeCount, "%s fit by now, not %d as was confirmed, so nothing was begun: look at them again, then confirm "+
			"with %q", devices(n), seen, word)
	}
	if undone {
		return Refuse(api.CodeConfirm, "to %s %s at once, confirm with %q", kind, devices(n), word)
	}
	return Refuse(api.CodeConfirm, "this cannot be undone: to %s %s, confirm with %q", kind, devices(n), word)
}

// jobDevices finds the devices a job is about, in the order of their UUIDs.
func (r *Room) jobDevices(ctx context.Context, tx *store.Tx, b api.JobRequest) ([]amt.UUID, error) {
	var found []amt.UUID
	for _, text := range b.Devices {
		d, err := Known(ctx, tx, text)
		if err != nil {
			return nil, err
		}
		if no := Refusal(b.Kind, d); no != nil {
			return nil, Refuse(no.Code, "%s: %s", amt.Called(d.UUID.String(), api.Clean(d.FQDN)), no.Why)
		}
		found = append(found, d.UUID)
	}
	if len(b.Devices) > 0 {
		slices.SortFunc(found, func(a, b amt.UUID) int { return strings.Compare(a.String(), b.String()) })
		return slices.Compact(found), nil
	}
	q := api.DeviceQuery{Q: b.Query}
	f, err := Filter(&q, r.now())
	if err != nil {
		return nil, err
	}
	fits := eligibleWhenNamed(b.Kind)
	if len(f.Lifecycle) == 0 {
		f.Lifecycle = Eligible(b.Kind)
	}
	f.Lifecycle = slices.DeleteFunc(f.Lifecycle, func(l store.Lifecycle) bool { return !slices.Contains(fits, l) })
	if len(f.Lifecycle) == 0 {
		return nil, Conflict("%s is for devices that are %s", b.Kind, lifecycleList(fits))
	}
	f.Order, f.Limit = store.ByUUID, 1000
	for {
		page, err := tx.Devices(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, d := range page {
			found = append(found, d.UUID)
		}
		if len(found) > maxJobDevices {
			return nil, Conflict("the query finds more than %d devices; use a narrower one", maxJobDevices)
		}
		if len(page) < 1000 {
			return found, nil
		}
		f.After = page[len(page)-1].Cursor(store.ByUUID)
	}
}

func lifecycleList(list []store.Lifecycle) string {
	words := make([]string, len(list))
	for i, l := range list {
		words[i] = string(l)
	}
	return strings.Join(words, ", ")
}

// AbortJob begins no further devices of a job.
func AbortJob(ctx context.Context, tx *store.Tx, who Principal, id int64) (Job, error) {
	return moveJob(ctx, tx, who, id, "abort", func(j store.BulkJob) error {
		if err := tx.SetJobState(ctx, j.ID, store.JobAborted, ""); err != nil {
			return err
		}
		_, err := tx.SkipJobItems(ctx, j.ID, "aborted by "+who.User)
		return err
	})
}

// ApproveJob lets another user's job begin.
func ApproveJob(ctx context.Context, tx *store.Tx, who Principal, id int64) (Job, error) {
	return moveJob(ctx, tx, who, id, "approve", func(j store.BulkJob) error {
		switch {
		case j.State != store.JobDraft:
			return Conflict("job %d is %s and waits for no approval", j.ID, j.State)
		case j.CreatedBy == who.User:
			return Conflict("job %d was made by %s; another user has to approve it: provctl job approve %d with a token of theirs, of "+
				"the role operator or admin", j.ID, j.CreatedBy, j.ID)
		}
		return tx.SetJobState(ctx, j.ID, store.JobWaiting, who.User)
	})
}

// ResumeJob lets a stopped job go on, after a person has looked.
func ResumeJob(ctx context.Context, tx *store.Tx, who Principal, id int64) (Job, error) {
	return moveJob(ctx, tx, who, id, "resume", func(j store.BulkJob) error {
		if j.State != store.JobStopped {
			return Conflict("job %d is %s and was not stopped", j.ID, j.State)
		}
		if err := tx.ResumeJob(ctx, j.ID); err != nil {
			return err
		}
		_, err := tx.AddEvent(ctx, store.Event{Name: "job_resumed", Actor: who.Actor(), Data: map[string]any{"job": j.ID, "kind": j.Kind}})
		return err
	})
}

func moveJob(ctx context.Context, tx *store.Tx, who Principal, id int64, verb string, do func(store.BulkJob) error) (Job, error) {
	j, err := tx.LockJob(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Job{}, noJob(id)
	}
	if err != nil {
		return Job{}, err
	}
	if j.State == store.JobDone || j.State == store.JobAborted {
		return Job{}, Conflict("job %d is %s already", id, j.State)
	}
	if err := do(j); err != nil {
		return Job{}, err
	}
	if err := tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "job." + verb, Subject: fmt.Sprint(id),
		Detail: map[string]any{"kind": j.Kind, "created_by": j.CreatedBy}}); err != nil {
		return Job{}, err
	}
	return ReadJob(ctx, tx, id)
}

func noJob(id int64) *Unknown { return NoSuch("there is no job %d", id) }

// ReadJob reads a job as it stands.
func ReadJob(ctx context.Context, tx *store.Tx, id int64) (Job, error) {
	j, err := tx.Job(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Job{}, noJob(id)
	}
	if err != nil {
		return Job{}, err
	}
	return countJob(ctx, tx, j)
}

// Jobs lists jobs, newest first.
func Jobs(ctx context.Context, tx *store.Tx, state string, limit int) ([]Job, error) {
	list, err := tx.Jobs(ctx, state, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Job, len(list))
	for i, j := range list {
		if out[i], err = countJob(ctx, tx, j); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func countJob(ctx context.Context, tx *store.Tx, j store.BulkJob) (out Job, err error) {
	out = Job{BulkJob: j}
	if out.Counts, err = tx.CountJobItems(ctx, j.ID); err != nil {
		return out, err
	}
	out.Options, _ = OptionsOf(j) // a row that cannot be read is shown without them
	if Waved(j.Kind, out.Options.Task) {
		out.At, err = tx.JobWaves(ctx, j.ID)
	}
	return out, err
}
