package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
)

// JobInput asks for a bulk operation.
type JobInput struct {
	Body JobRequest
}

// JobRequest says what to do with which devices.
type JobRequest struct {
	Kind    string   `json:"kind" enum:"maintain,rotate,unprovision,retire,approve,reject,retry,clear-failures,quarantine,release,restore,tag,untag,assign-profile"`
	Query   string   `json:"query,omitempty" maxLength:"200" doc:"which devices, as in the list of devices; empty with no devices named is all that the kind can be done to"`
	Devices []string `json:"devices,omitempty" maxItems:"10000" doc:"UUIDs, names, addresses or MACs, instead of a query"`

	Task string `json:"task,omitempty" maxLength:"64" doc:"maintain: clock, name, cert, tls, password, divided by commas; check looks and changes nothing; empty is what is due"`
	Mode string `json:"mode,omitempty" enum:"full,partial,decommission" doc:"unprovision; decommission is full, and retired once the device shows that it is gone"`
	Change
	Note      string     `json:"note,omitempty" maxLength:"500"`
	PerMinute int        `json:"per_minute,omitempty" minimum:"0" maximum:"100000" doc:"devices begun a minute; 0: no cap"`
	NotBefore *time.Time `json:"not_before,omitempty" doc:"when it begins; at once without"`

	DryRun       bool   `json:"dry_run,omitempty" doc:"say what would be done, and do nothing"`
	Confirm      string `json:"confirm,omitempty" maxLength:"64" doc:"for kinds that cannot be undone: the text the dry run asks for, such as unprovision 12"`
	NeedApprover bool   `json:"need_approver,omitempty" doc:"wait until another user approves"`
}

// Job is a bulk operation as it stands.
type Job struct {
	ID           int64          `json:"id" doc:"0 in a dry run"`
	Kind         string         `json:"kind"`
	Query        string         `json:"query"`
	Task         string         `json:"task"`
	Mode         string         `json:"mode"`
	Tags         []string       `json:"tags,omitempty"`
	Profile      string         `json:"profile,omitempty"`
	Note         string         `json:"note"`
	State        string         `json:"state" doc:"draft waits for an approver; waiting, running, done, aborted"`
	PerMinute    int            `json:"per_minute"`
	NotBefore    *time.Time     `json:"not_before"`
	NeedApprover bool           `json:"need_approver"`
	CreatedBy    string         `json:"created_by"`
	ApprovedBy   string         `json:"approved_by"`
	CreatedAt    *time.Time     `json:"created_at"`
	FinishedAt   *time.Time     `json:"finished_at"`
	Devices      int            `json:"devices"`
	Counts       map[string]int `json:"counts" doc:"devices by waiting, running, done, failed, skipped"`
	Lately       int            `json:"lately,omitempty" doc:"further devices that this maker's jobs of this kind reach within a day with nobody's approval: counted together with these for jobs.second_approver_above"`
	Sample       []string       `json:"sample,omitempty" doc:"the first devices of a dry run"`
	Confirm      string         `json:"confirm,omitempty" doc:"what has to be typed to start it"`
}

// JobList is a page of jobs.
type JobList struct {
	Jobs []Job `json:"jobs"`
}

// JobResult is one device's part.
type JobResult struct {
	UUID      string     `json:"uuid"`
	FQDN      string     `json:"fqdn"`
	State     string     `json:"state"`
	RunID     int64      `json:"run_id"`
	Detail    string     `json:"detail"`
	UpdatedAt *time.Time `json:"updated_at"`
}

// JobDetail is a job with a page of its devices.
type JobDetail struct {
	Job
	Results []JobResult `json:"results"`
	Next    string      `json:"next" doc:"give it as after to get the next page; empty on the last"`
}

// JobsInput selects jobs.
type JobsInput struct {
	State string `query:"state" enum:"draft,waiting,running,done,aborted"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000"`
}

// OneJob names a job and a page of its devices.
type OneJob struct {
	ID    int64  `path:"id"`
	State string `query:"state" enum:"waiting,running,done,failed,skipped"`
	After string `query:"after" maxLength:"64"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000"`
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
	Change
}

// maxJobDevices bounds one job: its devices are written in one transaction.
const maxJobDevices = 200_000

func (s *Server) jobRoutes(api huma.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"jobs"}}
	}
	add(s, api, op("list-jobs", http.MethodGet, "/api/v1/jobs", "Bulk operations, newest first"), s.listJobs)
	add(s, api, op("get-job", http.MethodGet, "/api/v1/jobs/{id}", "A bulk operation with a result for each device"), s.getJob)
	start := op("start-job", http.MethodPost, "/api/v1/jobs", "Do something to many devices")
	start.Description = "The devices are those the query finds at this moment. What cannot be undone asks for a typed confirmation, and with need_approver waits for another user, as it does when the configuration says so."
	add(s, api, start, s.startJob)
	add(s, api, op("abort-job", http.MethodPost, "/api/v1/jobs/{id}/abort", "Begin no further devices"), s.abortJob)
	add(s, api, op("approve-job", http.MethodPost, "/api/v1/jobs/{id}/approve", "Let another user's job begin"), s.approveJob)
}

// destructive kinds ask for a typed confirmation.
func destructive(kind string) bool { return kind == "unprovision" || kind == "retire" }

// MaintenanceTasks are the words a maintain run's task may hold.
var maintenanceTasks = []string{"clock", "name", "cert", "tls", "password", "check", "due"}

func checkTask(task string) error {
	for _, w := range strings.FieldsFunc(task, func(r rune) bool { return r == ',' || r == ' ' }) {
		if !slices.Contains(maintenanceTasks, w) {
			return problem(http.StatusUnprocessableEntity, CodeInvalid, "there is no maintenance task %q; they are %s", clip(w, 32), strings.Join(maintenanceTasks, ", "))
		}
	}
	return nil
}

func (s *Server) startJob(ctx context.Context, in *JobInput) (Job, error) {
	who, _ := PrincipalOf(ctx)
	b := in.Body
	if b.Kind != "maintain" && b.Task != "" || b.Kind != "unprovision" && b.Mode != "" {
		return Job{}, problem(http.StatusUnprocessableEntity, CodeInvalid, "task goes with maintain, and mode with unprovision")
	}
	if err := checkTask(b.Task); err != nil {
		return Job{}, err
	}
	if b.Kind == "unprovision" && b.Mode == "" {
		b.Mode = "full"
	}
	if len(b.Devices) > 0 && b.Query != "" {
		return Job{}, problem(http.StatusUnprocessableEntity, CodeInvalid, "name devices or give a query, not both")
	}
	var out Job
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
		options := JobOptions{Query: b.Query, Task: b.Task, Mode: b.Mode, Note: clean(b.Note), NeedApprover: needs, Lately: lately, Change: b.Change}
		j := store.Job{Kind: b.Kind, State: store.JobWaiting, PerMinute: b.PerMinute, CreatedBy: who.User}
		if b.NotBefore != nil {
			j.NotBefore = *b.NotBefore
		}
		if needs {
			j.State = store.JobDraft
		}
		word := confirmWord(b.Kind, found)
		if b.DryRun {
			out = toJob(j, options, map[string]int{store.ItemWaiting: len(found)})
			out.State, out.Confirm = "dry_run", word
			for _, u := range found[:min(10, len(found))] {
				out.Sample = append(out.Sample, u.String())
			}
			fqdn, err := names(ctx, tx, out.Sample)
			for i, u := range out.Sample {
				out.Sample[i] = called(u, fqdn[u])
			}
			return err
		}
		switch {
		case len(found) == 0:
			return conflict("no device fits, so there is nothing to do")
		case word != "" && b.Confirm != word:
			return conflict("this cannot be undone: to %s %s, confirm with %q", b.Kind, devices(len(found)), word)
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

// confirmWord is what has to be typed: the one device's UUID, or the kind and
// the count, so that a filter that finds more than was meant is noticed.
func confirmWord(kind string, found []amt.UUID) string {
	switch {
	case !destructive(kind):
		return ""
	case len(found) == 1:
		return found[0].String()
	}
	return fmt.Sprintf("%s %d", kind, len(found))
}

// jobDevices finds the devices a job is about, in the order of their UUIDs.
func (s *Server) jobDevices(ctx context.Context, tx *store.Tx, b JobRequest) ([]amt.UUID, error) {
	var found []amt.UUID
	for _, text := range b.Devices {
		d, err := s.known(ctx, tx, text)
		if err != nil {
			return nil, err
		}
		if p := Refused(b.Kind, d); p != nil {
			return nil, stands(p.Code, "%s: %s", called(d.UUID.String(), clean(d.FQDN)), p.Detail)
		}
		found = append(found, d.UUID)
	}
	if len(b.Devices) > 0 {
		slices.SortFunc(found, func(a, b amt.UUID) int { return strings.Compare(a.String(), b.String()) })
		return slices.Compact(found), nil
	}
	q := DeviceQuery{Q: b.Query}
	f, err := q.filter(s.now())
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

func (s *Server) listJobs(ctx context.Context, in *JobsInput) (JobList, error) {
	out := JobList{Jobs: []Job{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		list, err := tx.Jobs(ctx, in.State, in.Limit)
		if err != nil {
			return err
		}
		for _, j := range list {
			counts, err := tx.CountJobItems(ctx, j.ID)
			if err != nil {
				return err
			}
			out.Jobs = append(out.Jobs, toJob(j, optionsOf(j), counts))
		}
		return nil
	})
	return out, err
}

func (s *Server) getJob(ctx context.Context, in *OneJob) (JobDetail, error) {
	out := JobDetail{Results: []JobResult{}}
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
			out.Results = append(out.Results, JobResult{UUID: i.UUID.String(), FQDN: fqdn[i.UUID.String()], State: i.State, RunID: i.RunID, Detail: clean(i.Detail), UpdatedAt: timeOrNull(i.UpdatedAt)})
		}
		if len(items) == limit {
			out.Next = items[limit-1].UUID.String()
		}
		return err
	})
	return out, err
}

func (s *Server) abortJob(ctx context.Context, in *JobAct) (Job, error) {
	return s.moveJob(ctx, in.ID, "abort", func(tx *store.Tx, who Principal, j store.Job) error {
		if err := tx.SetJobState(ctx, j.ID, store.JobAborted, ""); err != nil {
			return err
		}
		_, err := tx.SkipJobItems(ctx, j.ID, "aborted by "+who.User)
		return err
	})
}

func (s *Server) approveJob(ctx context.Context, in *JobAct) (Job, error) {
	return s.moveJob(ctx, in.ID, "approve", func(tx *store.Tx, who Principal, j store.Job) error {
		switch {
		case j.State != store.JobDraft:
			return conflict("job %d is %s and waits for no approval", j.ID, j.State)
		case j.CreatedBy == who.User:
			return conflict("job %d was made by %s; another user has to approve it: provctl job approve %d with a token of theirs, of the role operator or admin", j.ID, j.CreatedBy, j.ID)
		}
		return tx.SetJobState(ctx, j.ID, store.JobWaiting, who.User)
	})
}

func (s *Server) moveJob(ctx context.Context, id int64, verb string, do func(*store.Tx, Principal, store.Job) error) (Job, error) {
	who, _ := PrincipalOf(ctx)
	var out Job
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

func readJob(ctx context.Context, tx *store.Tx, id int64) (Job, error) {
	j, err := tx.Job(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Job{}, notFound("there is no job %d", id)
	}
	if err != nil {
		return Job{}, err
	}
	counts, err := tx.CountJobItems(ctx, id)
	if err != nil {
		return Job{}, err
	}
	return toJob(j, optionsOf(j), counts), nil
}

func optionsOf(j store.Job) (o JobOptions) {
	_ = json.Unmarshal(j.Options, &o)
	return o
}

func toJob(j store.Job, o JobOptions, counts map[string]int) Job {
	out := Job{
		ID: j.ID, Kind: j.Kind, Query: o.Query, Task: o.Task, Mode: o.Mode, Tags: o.Tags, Profile: o.Profile, Note: o.Note, State: j.State, PerMinute: j.PerMinute, Lately: o.Lately,
		NotBefore: timeOrNull(j.NotBefore), NeedApprover: o.NeedApprover, CreatedBy: j.CreatedBy, ApprovedBy: j.ApprovedBy,
		CreatedAt: timeOrNull(j.CreatedAt), FinishedAt: timeOrNull(j.FinishedAt), Counts: map[string]int{},
	}
	for _, st := range []string{store.ItemWaiting, store.ItemRunning, store.ItemDone, store.ItemFailed, store.ItemSkipped} {
		out.Counts[st] = counts[st]
		out.Devices += counts[st]
	}
	return out
}

// devices writes a number of devices for people.
func devices(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}
