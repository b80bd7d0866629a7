package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
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

func (s *Server) jobRoutes(to huma.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"jobs"}}
	}
	add(s, to, op("list-jobs", http.MethodGet, "/api/v1/jobs", "Bulk operations, newest first"), s.listJobs)
	add(s, to, op("get-job", http.MethodGet, "/api/v1/jobs/{id}", "A bulk operation with a result for each device"), s.getJob)
	start := op("start-job", http.MethodPost, "/api/v1/jobs", "Do something to many devices")
	start.Description = "The devices are those the query finds at this moment. What cannot be undone, or is about more than 5 devices, " +
		"asks for a confirmation with their number: if that has changed meanwhile, nothing begins (count_changed). With need_approver it " +
		"waits for another user, as it does when the configuration says so. What changes managed devices goes in waves: one device, " +
		"some, the rest; the first that is lost by it stops the job."
	add(s, to, start, s.startJob)
	add(s, to, op("abort-job", http.MethodPost, "/api/v1/jobs/{id}/abort", "Begin no further devices"), s.moveJob(operate.AbortJob))
	add(s, to, op("approve-job", http.MethodPost, "/api/v1/jobs/{id}/approve", "Let another user's job begin"),
		s.moveJob(operate.ApproveJob))
	resume := op("resume-job", http.MethodPost, "/api/v1/jobs/{id}/resume", "Let a stopped job go on")
	resume.Description = "For after a person has looked at what stopped it: devices lost until now no longer hold it."
	add(s, to, resume, s.moveJob(operate.ResumeJob))
}

func (s *Server) startJob(ctx context.Context, in *JobInput) (out api.Job, err error) {
	who, _ := PrincipalOf(ctx)
	do := s.db.Write
	if in.Body.DryRun {
		do = s.db.Read
	}
	err = do(ctx, func(tx *store.Tx) error {
		j, err := s.StartJob(ctx, tx, who, in.Body)
		if err != nil {
			return err
		}
		out = toJob(j)
		if !in.Body.DryRun {
			return nil
		}
		out.State, out.Confirm = "dry_run", j.Confirm
		for _, u := range j.Sample {
			out.Sample = append(out.Sample, u.String())
		}
		fqdn, err := operate.Names(ctx, tx, out.Sample)
		for i, u := range out.Sample {
			out.Sample[i] = amt.Called(u, fqdn[u])
		}
		return err
	})
	return out, err
}

func (s *Server) listJobs(ctx context.Context, in *api.JobsInput) (api.JobList, error) {
	out := api.JobList{Jobs: []api.Job{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		list, err := operate.Jobs(ctx, tx, in.State, in.Limit)
		for _, j := range list {
			out.Jobs = append(out.Jobs, toJob(j))
		}
		return err
	})
	return out, err
}

func (s *Server) getJob(ctx context.Context, in *api.OneJob) (api.JobDetail, error) {
	out := api.JobDetail{Results: []api.JobResult{}}
	var after amt.UUID
	if in.After != "" {
		var err error
		if after, err = amt.ParseUUID(in.After); err != nil {
			return out, operate.WrongField("query.after", "%s", err)
		}
	}
	limit := in.Limit
	if limit == 0 {
		limit = 100
	}
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		j, err := operate.ReadJob(ctx, tx, in.ID)
		if err != nil {
			return err
		}
		out.Job = toJob(j)
		items, err := tx.JobItems(ctx, in.ID, in.State, after, limit)
		if err != nil {
			return err
		}
		var uuids []string
		for _, i := range items {
			uuids = append(uuids, i.UUID.String())
		}
		fqdn, err := operate.Names(ctx, tx, uuids)
		for _, i := range items {
			out.Results = append(out.Results, api.JobResult{UUID: i.UUID.String(), FQDN: fqdn[i.UUID.String()], State: i.State,
				RunID: i.RunID, Wave: i.Wave, Detail: api.Clean(i.Detail), UpdatedAt: timeOrNull(i.UpdatedAt)})
		}
		if len(items) == limit {
			out.Next = items[limit-1].UUID.String()
		}
		return err
	})
	return out, err
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

type jobCommand func(ctx context.Context, tx *store.Tx, who operate.Principal, id int64) (operate.Job, error)

// moveJob answers a command about one job.
func (s *Server) moveJob(do jobCommand) func(context.Context, *JobAct) (api.Job, error) {
	return func(ctx context.Context, in *JobAct) (out api.Job, err error) {
		who, _ := PrincipalOf(ctx)
		err = s.db.Write(ctx, func(tx *store.Tx) error {
			j, err := do(ctx, tx, who, in.ID)
			out = toJob(j)
			return err
		})
		return out, err
	}
}

func toJob(j operate.Job) api.Job {
	o := j.Options
	out := api.Job{
		ID: j.ID, Kind: j.Kind, Query: o.Query, Task: o.Task, Mode: o.Mode, Tags: o.Tags, Profile: o.Profile, Note: o.Note, State: j.State,
		PerMinute: j.PerMinute, Lately: o.Lately,
		NotBefore: timeOrNull(j.NotBefore), NeedApprover: o.NeedApprover, CreatedBy: j.CreatedBy, ApprovedBy: j.ApprovedBy,
		CreatedAt: timeOrNull(j.CreatedAt), FinishedAt: timeOrNull(j.FinishedAt), StoppedAt: timeOrNull(j.StoppedAt),
		Detail: api.Clean(j.Detail),
		Target: j.Target, Cause: j.Cause, Counts: map[string]int{},
	}
	for _, st := range []string{store.ItemWaiting, store.ItemRunning, store.ItemHanded, store.ItemDone, store.ItemFailed,
		store.ItemSkipped} {
		out.Counts[st] = j.Counts[st]
		out.Devices += j.Counts[st]
	}
	if n := j.Counts[store.ItemForged]; n > 0 { // no devices of this job
		out.Counts[store.ItemForged] = n
	}
	if operate.Waved(j.Kind, o.Task) {
		out.Waves = wavesOf(out.Devices-j.Counts[store.ItemSkipped], j.Canary)
		for i := range out.Waves {
			out.Waves[i].Done, out.Waves[i].Running = j.At[i+1].Done, j.At[i+1].Running
		}
	}
	return out
}
