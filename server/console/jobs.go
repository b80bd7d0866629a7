package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/server/api"
)

// jobView is a job with what its bar shows.
type jobView struct {
	api.Job
}

// Parts are the job's devices by state, in the order in which they get there.
func (j jobView) Parts() []share {
	out := []share{
		{Name: "Done", Tone: "good", Search: "done"}, {Name: "Failed", Tone: "bad", Search: "failed"}, {Name: "Skipped", Tone: "calm", Search: "skipped"},
		{Name: "Handed over", Tone: "busy", Search: "handed_over"}, {Name: "Under way", Tone: "busy", Search: "running"}, {Name: "To come", Tone: "", Search: "waiting"},
	}
	x := 0
	for i := range out {
		out[i].Count = j.Counts[out[i].Search]
		if j.Devices > 0 && out[i].Tone != "" {
			out[i].X, out[i].W = x*1000/j.Devices, width(out[i].Count, j.Devices)*10
		}
		x += out[i].Count
	}
	return out
}

// Says is the bar in words.
func (j jobView) Says() string {
	var parts []string
	for _, p := range j.Parts() {
		if p.Count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.Count, strings.ToLower(p.Name)))
		}
	}
	return strings.Join(parts, ", ")
}

// waveView is a wave as the page shows it.
type waveView struct {
	api.Wave
	Word string
	Tone string
}

// WaveList are the waves that are about any device.
func (j jobView) WaveList() []waveView {
	words := map[string]string{"first": "One device", "canary": "Some more", "rest": "The rest"}
	var out []waveView
	for _, w := range j.Waves {
		if w.Devices == 0 {
			continue
		}
		v := waveView{w, words[w.Name], ""}
		switch {
		case w.Done >= w.Devices:
			v.Tone = "good"
		case w.Running > 0:
			v.Tone = "busy"
		}
		out = append(out, v)
	}
	return out
}

// What is the job in a few words.
func (j jobView) What() string {
	if j.Kind == api.KindRollout {
		return "roll out " + j.Target + " to"
	}
	return j.Kind
}

// jobword is a job's state, or that of a device in it, for people.
func jobword(state string) string {
	switch state {
	case "handed_over":
		return "handed over"
	case "draft":
		return "needs approval"
	case "waiting":
		return "not begun"
	}
	return state
}

type jobsData struct {
	Jobs   []jobView
	State  string
	States []string
}

func (c *Console) jobs(v *visit) error {
	d := jobsData{States: []string{"", "draft", "waiting", "running", "stopped", "done", "aborted"}, State: v.r.URL.Query().Get("state")}
	if !slices.Contains(d.States, d.State) {
		d.State = ""
	}
	l, err := v.api.Jobs(v.r.Context(), api.JobsInput{State: d.State, Limit: 100})
	if err != nil {
		return err
	}
	for _, j := range l.Jobs {
		d.Jobs = append(d.Jobs, jobView{j})
	}
	return c.show(v, http.StatusOK, "jobs", page{Title: "Jobs", Nav: "jobs", Live: true, Data: d})
}

type jobData struct {
	Job     jobView
	Results []api.JobResult
	State   string // of the results shown
	First   string // address of the first page, on later ones
	Next    string
	Word    string // what has to be typed to approve it
	Approve bool
	Others  bool // only another user may approve it
	Abort   bool
	Resume  bool
}

func (c *Console) job(v *visit) error {
	said := map[string]string{"abort": "No further device is begun.", "approve": "Approved; it begins within seconds.",
		"resume": "It goes on within seconds."}[v.r.URL.Query().Get("done")]
	return c.jobPage(v, http.StatusOK, page{Said: said, Live: true})
}

func (c *Console) jobPage(v *visit, status int, p page) error {
	in := v.r.URL.Query()
	id, err := strconv.ParseInt(v.r.PathValue("id"), 10, 64)
	if err != nil {
		return c.nowhere(v)
	}
	q := api.OneJob{ID: id, State: in.Get("state"), After: clip(in.Get("after"), 64), Limit: 100}
	if !slices.Contains([]string{"waiting", "running", "handed_over", "done", "failed", "skipped"}, q.State) {
		q.State = ""
	}
	j, err := v.api.Job(v.r.Context(), q)
	if err != nil {
		return err
	}
	address := func(after string) string {
		u := url.Values{}
		if q.State != "" {
			u.Set("state", q.State)
		}
		if after != "" {
			u.Set("after", after)
		}
		return "/jobs/" + strconv.FormatInt(id, 10) + "?" + u.Encode()
	}
	d := jobData{Job: jobView{j.Job}, Results: j.Results, State: q.State, Word: approveWord(j.Job)}
	if j.Next != "" {
		d.Next = address(j.Next)
	}
	if q.After != "" {
		d.First = address("")
	}
	if j.State == "draft" && v.who.Role.May("approve-job") {
		d.Others = j.CreatedBy == v.who.User
		d.Approve = !d.Others
	}
	d.Abort = v.who.Role.May("abort-job") && (j.State == "draft" || j.State == "waiting" || j.State == "running" || j.State == "stopped" ||
		j.State == "forged")
	d.Resume = v.who.Role.May("resume-job") && j.State == "stopped"
	p.Title, p.Nav, p.Data = fmt.Sprintf("Job %d", id), "jobs", d
	return c.show(v, status, "job", p)
}

// approveWord is what an approver types: the kind and the count, so that a job
// that is about more than was meant is noticed by the second pair of eyes too.
func approveWord(j api.Job) string { return fmt.Sprintf("%s %d", j.Kind, j.Devices) }

func (c *Console) jobAct(v *visit) error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, 8<<10)
	verb := v.r.PathValue("verb")
	id, err := strconv.ParseInt(v.r.PathValue("id"), 10, 64)
	if err != nil || verb != "abort" && verb != "approve" && verb != "resume" {
		return c.nowhere(v)
	}
	if verb == "approve" {
		j, err := v.api.Job(v.r.Context(), api.OneJob{ID: id, Limit: 1})
		if err != nil {
			return err
		}
		if word := approveWord(j.Job); strings.TrimSpace(v.r.PostFormValue("confirm")) != word {
			return c.jobPage(v, http.StatusUnprocessableEntity,
				page{Trouble: &api.Problem{Title: "Nothing was done", Detail: "To approve this job, type " + word + "."}})
		}
	}
	if _, err := v.api.JobCommand(v.r.Context(), id, verb); err != nil {
		var p *api.Problem
		if errors.As(err, &p) && p.Status == http.StatusConflict {
			return c.jobPage(v, p.Status, page{Trouble: &api.Problem{Title: "Not possible now", Detail: p.Detail}})
		}
		return err
	}
	http.Redirect(v.w, v.r, fmt.Sprintf("/jobs/%d?done=%s", id, verb), http.StatusSeeOther)
	return nil
}
