package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// JobInput asks for a bulk operation.
type JobInput struct {
	Body api.JobRequest
}

// JobAct names a job for a command.
type JobAct struct {
	ID int64 `path:"id"`
}

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

// maxJobDevices bounds one job: its devices are written in one transaction.
const maxJobDevices = 200_000

func (s *Server) jobRoutes(to huma.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"jobs"}}
	}
	add(s, to, op("list-jobs", http.MethodGet, "/api/v1/jobs", "Bulk operations, newest first"), s.listJobs)
	add(s, to, op("get-job", http.MethodGet, "/api/v1/jobs/{id}", "A bulk operation with a result for each device"), s.getJob)
	start := op("start-job", http.MethodPost, "/api/v1/jobs", "Do something to many devices")
	start.Description = "The devices are those the query finds at this moment. What cannot be undone, or is about more than 5 devices, asks for a confirmation with their number: if that has changed meanwhile, nothing begins (count_changed). With need_approver it waits for another user, as it does when the configuration says so. What changes managed devices goes in waves: one device, some, the rest; the first that is lost by it stops the job."
	add(s, to, start, s.startJob)
	add(s, to, op("abort-job", http.MethodPost, "/api/v1/jobs/{id}/abort", "Begin no further devices"), s.abortJob)
	add(s, to, op("approve-job", http.MethodPost, "/api/v1/jobs/{id}/approve", "Let another user's job begin"), s.approveJob)
	resume := op("resume-job", http.MethodPost, "/api/v1/jobs/{id}/resume", "Let a stopped job go on")
	resume.Description = "For after a person has looked at what stopped it: devices lost until now no longer hold it."
	add(s, to, resume, s.resumeJob)
}

// Waved reports whether jobs of a kind go in waves: they tell managed devices
// something that changes them.
func Waved(kind, task string) bool {
	switch kind {
	case "rotate", "unprovision", api.KindRollout:
		return true
	}
	return kind == "maintain" && task != "check"
}

// Begins reports whether a command of this kind hands a device over to a run, so
// that its part ends with what becomes of the device.
func Begins(kind string) bool { return kind == "approve" || kind == "retry" || kind == "release" }

// MaintenanceTasks are the words a maintain run's task may hold.
var maintenanceTasks = []string{"clock", "name", "cert", "tls", "password", "settings", "check", "due"}

func checkTask(task string) error {
	for _, w := range strings.FieldsFunc(task, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.Contains(maintenanceTasks, w) {
			return api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "there is no maintenance task %q; they are %s", api.Clip(w, 32), strings.Join(maintenanceTasks, ", "))
		}
	}
	return nil
}

func (s *Server) startJob(ctx context.Context, in *JobInput) (api.Job, error) {
	who, _ := PrincipalOf(ctx)
	b := in.Body
	if b.Kind != "maintain" && b.Task != "" || b.Kind != "unprovision" && b.Mode != "" {
		return api.Job{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "task goes with maintain, and mode with unprovision")
	}
	if err := checkTask(b.Task); err != nil {
		return api.Job{}, err
	}
	if b.Kind == "unprovision" && b.Mode == "" {
		b.Mode = "full"
	}
	switch named := len(b.Devices) > 0; {
	case named && b.Query != "" || b.All && (named || b.Query != ""):
		return api.Job{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "name devices, give a query, or say all: one of them")
	case !named && b.Query == "" && !b.All && !b.DryRun:
		return api.Job{}, invalid("body.query", "say which devices: with a query, by name, or with all: true (provctl: --all) every device that %s can be done to", b.Kind)
	case b.Canary != nil && !Waved(b.Kind, b.Task):
		return api.Job{}, invalid("body.canary", "%s goes in no waves", b.Kind)
	}
	var out api.Job
	write := s.db.Write
	if b.DryRun {
		write = s.db.Read
	}
	err := write(ctx, func(tx *store.Tx) error {
		if err := checkChange(ctx, tx, b.Kind, b.Change); err != nil {
			return err
		}
		found, err := s.jobDevices(ctx, tx, b)
		if err != nil {
			return err
		}
		lately, err := s.lately(ctx, tx, who.User, b, found)
		if err != nil {
			return err
		}
		needs := b.NeedApprover || s.needsApprover(b.Kind, b.Mode, len(found)+lately)
		options := JobOptions{Query: b.Query, Task: b.Task, Mode: b.Mode, Note: api.Clean(b.Note), NeedApprover: needs, Lately: lately, Change: b.Change}
		j := store.BulkJob{Kind: b.Kind, State: store.JobWaiting, PerMinute: b.PerMinute, CreatedBy: who.User}
		if b.NotBefore != nil {
			j.NotBefore = *b.NotBefore
		}
		if Waved(b.Kind, b.Task) {
			if j.Canary = max(s.Canary, 0); b.Canary != nil {
				j.Canary = *b.Canary
			}
			if j.PerMinute == 0 {
				j.PerMinute = s.WavePace
			}
		}
		if needs {
			j.State = store.JobDraft
		}
		word := confirmWord(b.Kind, found)
		if b.DryRun {
			out = toJob(j, options, map[string]int{store.ItemWaiting: len(found)}, nil)
			out.State, out.Confirm = "dry_run", word
			for _, u := range found[:min(10, len(found))] {
				out.Sample = append(out.Sample, u.String())
			}
			fqdn, err := names(ctx, tx, out.Sample)
			for i, u := range out.Sample {
				out.Sample[i] = amt.Called(u, fqdn[u])
			}
			return err
		}
		if len(found) == 0 {
			return conflict("no device fits, so there is nothing to do")
		}
		if err := confirmed(b.Kind, b.Confirm, word, len(found)); err != nil {
			return err
		}
		if j.Options, err = json.Marshal(options); err != nil {
			return err
		}
		if j.Filter, err = json.Marshal(map[string]string{"query": b.Query}); err != nil {
			return err
		}
		id, err := tx.CreateJob(ctx, j)
		if err != nil {
			return err
		}
		if err := tx.AddJobItems(ctx, id, found); err != nil {
			return err
		}
		if _, err := tx.AddEvent(ctx, store.Event{Name: "job_created", Actor: who.Actor(), Data: map[string]any{"job": id, "kind": b.Kind, "devices": len(found)}}); err != nil {
			return err
		}
		if err := tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "job.start", Subject: fmt.Sprint(id), Detail: map[string]any{
			"kind": b.Kind, "query": b.Query, "devices": len(found), "task": b.Task, "mode": b.Mode, "tags": b.Tags, "profile": b.Profile, "note": options.Note, "need_approver": needs,
		}}); err != nil {
			return err
		}
		out, err = readJob(ctx, tx, id)
		return err
	})
	return out, err
}

// fewDevices is up to how many are spoken to without a word when it can be undone.
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
		return api.NewProblem(http.StatusConflict, api.CodeCount, "%s fit by now, not %d as was confirmed, so nothing was begun: look at them again, then confirm with %q", devices(n), seen, word)
	}
	if undone {
		return api.NewProblem(http.StatusConflict, api.CodeConfirm, "to %s %s at once, confirm with %q", kind, devices(n), word)
	}
	return api.NewProblem(http.StatusConflict, api.CodeConfirm, "this cannot be undone: to %s %s, confirm with %q", kind, devices(n), word)
}

// jobDevices finds the devices a job is about, in the order of their UUIDs.
func (s *Server) jobDevices(ctx context.Context, tx *store.Tx, b api.JobRequest) ([]amt.UUID, error) {
	var found []amt.UUID
	for _, text := range b.Devices {
		d, err := s.known(ctx, tx, text)
		if err != nil {
			return nil, err
		}
		if p := Refused(b.Kind, d); p != nil {
			return nil, stands(p.Code, "%s: %s", amt.Called(d.UUID.String(), api.Clean(d.FQDN)), p.Detail)
		}
		found = append(found, d.UUID)
	}
	if len(b.Devices) > 0 {
		slices.SortFunc(found, func(a, b amt.UUID) int { return strings.Compare(a.String(), b.String()) })
		return slices.Compact(found), nil
	}
	q := api.DeviceQuery{Q: b.Query}
	f, err := deviceFilter(&q, s.now())
	if err != nil {
		return nil, err
	}
	fits := eligibleWhenNamed(b.Kind)
	if len(f.Lifecycle) == 0 {
		f.Lifecycle = Eligible(b.Kind)
	}
	f.Lifecycle = slices.DeleteFunc(f.Lifecycle, func(l store.Lifecycle) bool { return !slices.Contains(fits, l) })
	if len(f.Lifecycle) == 0 {
		return nil, conflict("%s is for devices that are %s", b.Kind, lifecycleList(fits))
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
			return nil, conflict("the query finds more than %d devices; use a narrower one", maxJobDevices)
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

func (s *Server) listJobs(ctx context.Context, in *api.JobsInput) (api.JobList, error) {
	out := api.JobList{Jobs: []api.Job{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		list, err := tx.Jobs(ctx, in.State, in.Limit)
		if err != nil {
			return err
		}
		for _, j := range list {
			one, err := countJob(ctx, tx, j)
			if err != nil {
				return err
			}
			out.Jobs = append(out.Jobs, one)
		}
		return nil
	})
	return out, err
}

func (s *Server) getJob(ctx context.Context, in *api.OneJob) (api.JobDetail, error) {
	out := api.JobDetail{Results: []api.JobResult{}}
	var after amt.UUID
	if in.After != "" {
		var err error
		if after, err = uuidOf(in.After); err != nil {
			return out, err
		}
	}
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		if out.Job, err = readJob(ctx, tx, in.ID); err != nil {
			return err
		}
		items, err := tx.JobItems(ctx, in.ID, in.State, after, limit)
		if err != nil {
			return err
		}
		var uuids []string
		for _, i := range items {
			uuids = append(uuids, i.UUID.String())
		}
		fqdn, err := names(ctx, tx, uuids)
		for _, i := range items {
			out.Results = append(out.Results, api.JobResult{UUID: i.UUID.String(), FQDN: fqdn[i.UUID.String()], State: i.State, RunID: i.RunID, Wave: i.Wave, Detail: api.Clean(i.Detail), UpdatedAt: timeOrNull(i.UpdatedAt)})
		}
		if len(items) == limit {
			out.Next = items[limit-1].UUID.String()
		}
		return err
	})
	return out, err
}

func (s *Server) abortJob(ctx context.Context, in *JobAct) (api.Job, error) {
	return s.moveJob(ctx, in.ID, "abort", func(tx *store.Tx, who Principal, j store.BulkJob) error {
		if err := tx.SetJobState(ctx, j.ID, store.JobAborted, ""); err != nil {
			return err
		}
		_, err := tx.SkipJobItems(ctx, j.ID, "aborted by "+who.User)
		return err
	})
}

func (s *Server) approveJob(ctx context.Context, in *JobAct) (api.Job, error) {
	return s.moveJob(ctx, in.ID, "approve", func(tx *store.Tx, who Principal, j store.BulkJob) error {
		switch {
		case j.State != store.JobDraft:
			return conflict("job %d is %s and waits for no approval", j.ID, j.State)
		case j.CreatedBy == who.User:
			return conflict("job %d was made by %s; another user has to approve it: provctl job approve %d with a token of theirs, of the role operator or admin", j.ID, j.CreatedBy, j.ID)
		}
		return tx.SetJobState(ctx, j.ID, store.JobWaiting, who.User)
	})
}

func (s *Server) resumeJob(ctx context.Context, in *JobAct) (api.Job, error) {
	return s.moveJob(ctx, in.ID, "resume", func(tx *store.Tx, who Principal, j store.BulkJob) error {
		if j.State != store.JobStopped {
			return conflict("job %d is %s and was not stopped", j.ID, j.State)
		}
		if err := tx.ResumeJob(ctx, j.ID); err != nil {
			return err
		}
		_, err := tx.AddEvent(ctx, store.Event{Name: "job_resumed", Actor: who.Actor(), Data: map[string]any{"job": j.ID, "kind": j.Kind}})
		return err
	})
}

func (s *Server) moveJob(ctx context.Context, id int64, verb string, do func(*store.Tx, Principal, store.BulkJob) error) (api.Job, error) {
	who, _ := PrincipalOf(ctx)
	var out api.Job
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		j, err := tx.LockJob(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return notFound("there is no job %d", id)
		}
		if err != nil {
			return err
		}
		if j.State == store.JobDone || j.State == store.JobAborted {
			return conflict("job %d is %s already", id, j.State)
		}
		if err := do(tx, who, j); err != nil {
			return err
		}
		if err := tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "job." + verb, Subject: fmt.Sprint(id), Detail: map[string]any{"kind": j.Kind, "created_by": j.CreatedBy}}); err != nil {
			return err
		}
		out, err = readJob(ctx, tx, id)
		return err
	})
	return out, err
}

func readJob(ctx context.Context, tx *store.Tx, id int64) (api.Job, error) {
	j, err := tx.Job(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return api.Job{}, notFound("there is no job %d", id)
	}
	if err != nil {
		return api.Job{}, err
	}
	return countJob(ctx, tx, j)
}

func countJob(ctx context.Context, tx *store.Tx, j store.BulkJob) (api.Job, error) {
	counts, err := tx.CountJobItems(ctx, j.ID)
	if err != nil {
		return api.Job{}, err
	}
	o := optionsOf(j)
	var at map[int]store.Wave
	if Waved(j.Kind, o.Task) {
		if at, err = tx.JobWaves(ctx, j.ID); err != nil {
			return api.Job{}, err
		}
	}
	return toJob(j, o, counts, at), nil
}

func optionsOf(j store.BulkJob) (o JobOptions) {
	_ = json.Unmarshal(j.Options, &o)
	return o
}

func toJob(j store.BulkJob, o JobOptions, counts map[string]int, at map[int]store.Wave) api.Job {
	out := api.Job{
		ID: j.ID, Kind: j.Kind, Query: o.Query, Task: o.Task, Mode: o.Mode, Tags: o.Tags, Profile: o.Profile, Note: o.Note, State: j.State, PerMinute: j.PerMinute, Lately: o.Lately,
		NotBefore: timeOrNull(j.NotBefore), NeedApprover: o.NeedApprover, CreatedBy: j.CreatedBy, ApprovedBy: j.ApprovedBy,
		CreatedAt: timeOrNull(j.CreatedAt), FinishedAt: timeOrNull(j.FinishedAt), StoppedAt: timeOrNull(j.StoppedAt), Detail: api.Clean(j.Detail),
		Target: j.Target, Cause: j.Cause, Counts: map[string]int{},
	}
	for _, st := range []string{store.ItemWaiting, store.ItemRunning, store.ItemHanded, store.ItemDone, store.ItemFailed, store.ItemSkipped} {
		out.Counts[st] = counts[st]
		out.Devices += counts[st]
	}
	if n := counts[store.ItemForged]; n > 0 { // no devices of this job
		out.Counts[store.ItemForged] = n
	}
	if Waved(j.Kind, o.Task) {
		out.Waves = wavesOf(out.Devices-counts[store.ItemSkipped], j.Canary)
		for i := range out.Waves {
			out.Waves[i].Done, out.Waves[i].Running = at[i+1].Done, at[i+1].Running
		}
	}
	return out
}

// wavesOf is how so many devices go: one, some, the rest.
func wavesOf(n, canary int) []api.Wave {
	if n == 0 {
		return nil
	}
	first := min(n, 1)
	some := min(n-first, canary)
	return []api.Wave{{Name: "first", Devices: first}, {Name: "canary", Devices: some}, {Name: "rest", Devices: n - first - some}}
}

// devices writes a number of devices for people.
func devices(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}
