package rest_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
)

// TestJobsOfManyWantTheirNumber: no job is about everything by leaving something out,
// one of more than five devices wants their number, and nothing begins when that has
// changed since somebody looked.
func TestJobsOfManyWantTheirNumber(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	c := b.Client(b.Admin)
	for range 6 {
		b.Seen(apitest.Device{Lifecycle: "provisioned"})
	}
	start := func(j api.JobRequest, code, says string) api.Job {
		t.Helper()
		got, err := c.StartJob(t.Context(), j)
		var p *api.Problem
		switch {
		case code == "" && (err != nil || got.ID == 0):
			t.Errorf("%+v: %v", j, err)
		case code != "" && (!errors.As(err, &p) || p.Code != code || !strings.Contains(p.Detail, says)):
			t.Errorf("%+v: %v; want %s with %q", j, err, code, says)
		}
		return got
	}
	for _, kind := range []string{"maintain", "rotate", "quarantine", "tag", "assign-profile"} {
		more := api.Change{}
		switch kind {
		case "tag":
			more.Tags = []string{"kiosk"}
		case "assign-profile":
			more.Profile = "-"
		}
		start(api.JobRequest{Kind: kind, Change: more}, api.CodeInvalid, "all: true")
		start(api.JobRequest{Kind: kind, Change: more, All: true, Query: "net:10.0.0.0/8"}, api.CodeInvalid, "one of them")
		start(api.JobRequest{Kind: kind, Change: more, All: true}, api.CodeConfirm, `"`+kind+` 6"`)
		start(api.JobRequest{Kind: kind, Change: more, All: true, Confirm: "of course"}, api.CodeConfirm, "6 devices")
		start(api.JobRequest{Kind: kind, Change: more, All: true, Confirm: kind + " 7"}, api.CodeCount, "6 devices fit by now, not 7")
		start(api.JobRequest{Kind: kind, Change: more, All: true, Confirm: "93"}, api.CodeCount, "not 93")
		dry, err := c.StartJob(t.Context(), api.JobRequest{Kind: kind, Change: more, DryRun: true})
		if err != nil || dry.Devices != 6 || dry.Confirm != kind+" 6" {
			t.Errorf("%s: %+v, %v", kind, dry, err)
		}
	}
	list, err := c.Jobs(t.Context(), api.JobsInput{})
	if err != nil || len(list.Jobs) != 0 {
		t.Fatalf("refused, and still there: %+v, %v", list, err)
	}
	for _, word := range []string{"rotate 6", "6", "yes"} {
		start(api.JobRequest{Kind: "rotate", All: true, Confirm: word}, "", "")
	}
	// What cannot be undone takes the whole word and nothing else.
	for _, word := range []string{"yes", "6", "rotate 6"} {
		start(api.JobRequest{Kind: "retire", All: true, Confirm: word}, api.CodeConfirm, "cannot be undone")
	}
	start(api.JobRequest{Kind: "retire", All: true, Confirm: "retire 5"}, api.CodeCount, `"retire 6"`)
	// One more device: the number that somebody saw is no longer the one.
	b.Seen(apitest.Device{Lifecycle: "provisioned"})
	start(api.JobRequest{Kind: "retire", All: true, Confirm: "retire 6"}, api.CodeCount, "7 devices fit by now, not 6")
	// Waves are of kinds that change managed devices.
	none := 0
	start(api.JobRequest{Kind: "tag", All: true, Confirm: "7", Change: api.Change{Tags: []string{"a"}}, Canary: &none}, api.CodeInvalid,
		"waves")
	j := start(api.JobRequest{Kind: "unprovision", All: true, Confirm: "unprovision 7", Canary: &none}, "", "")
	if len(j.Waves) != 3 || j.Waves[0].Devices != 1 || j.Waves[1].Devices != 0 || j.Waves[2].Devices != 6 {
		t.Errorf("%+v", j.Waves)
	}
}
