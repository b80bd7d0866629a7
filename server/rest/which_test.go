package rest_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestWhichDevice: each route about a device takes what names it alone, and answers
// what fits several with the list of them. A part of a name gives no command.
func TestWhichDevice(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		name := func(fqdn, mac string) store.DeviceFacts { return store.DeviceFacts{FQDN: &fqdn, MAC: &mac} }
		u := b.Provisioned(apitest.Device{Lifecycle: store.Provisioned, Address: "10.7.0.24",
			Facts: name("pc-24.corp.example.com", "02:00:00:00:07:24")}, "Admin!1", "MEBx!1").String()
		one := b.Seen(apitest.Device{Address: "10.7.0.31", Facts: name("pc-31.corp.example.com", "")}).String()
		two := b.Seen(apitest.Device{Address: "10.7.0.31", Facts: name("pc-31.branch.example.com", "")}).String()
		calls := map[string]func(id string) error{
			"show": func(id string) error { _, err := admin.Device(ctx, id); return err },
			"tag": func(id string) error {
				_, err := admin.Change(ctx, "tag", id, api.ChangeBody{Change: api.Change{Tags: []string{"x"}}})
				return err
			},
			"reveal":    func(id string) error { _, err := admin.Reveal(ctx, id, "admin", "a test"); return err },
			"history":   func(id string) error { _, err := admin.Secrets(ctx, id); return err },
			"rule test": func(id string) error { _, err := admin.TestRules(ctx, id); return err },
			"events":    func(id string) error { _, err := admin.Events(ctx, api.EventQuery{UUID: id}); return err },
			"a job": func(id string) error {
				_, err := admin.StartJob(ctx, api.JobRequest{Kind: "maintain", Devices: []string{id}, DryRun: true})
				return err
			},
			"maintain": func(id string) error { _, err := admin.Maintain(ctx, id, api.MaintainBody{Task: "check"}); return err },
			"rotate":   func(id string) error { _, err := admin.RotateSecret(ctx, id, ""); return err },
			"name": func(id string) error {
				_, err := admin.NameDevice(ctx, id, api.NewName{FQDN: "pc-24.corp.example.com"})
				return err
			},
			"unprovision": func(id string) error {
				_, err := admin.Unprovision(ctx, id, api.UnprovisionBody{Mode: "full", Confirm: id})
				return err
			},
		}
		for what, call := range calls {
			if what == "unprovision" {
				continue // last, since it is none of ours then
			}
			for _, id := range []string{u, strings.ToUpper(u), "pc-24", "PC-24.corp.example.com", "10.7.0.24", "02:00:00:00:07:24",
				"020000000724"} {
				if err := call(id); err != nil {
					t.Errorf("%s %s: %v", what, id, err)
				}
			}
		}
		for what, call := range calls {
			for id, want := range map[string]string{"pc-31": api.CodeAmbiguous, "10.7.0.31": api.CodeAmbiguous, "pc-2": api.CodeAmbiguous,
				"pc-99": api.CodeNoDevice} {
				err := call(id)
				var p *api.Problem
				if !errors.As(err, &p) || p.Code != want {
					t.Errorf("%s %s: %v, want %s", what, id, err, want)
					continue
				}
				if want == api.CodeAmbiguous && id != "pc-2" &&
					(len(p.Errors) != 2 || !strings.Contains(p.Detail, one) || !strings.Contains(p.Detail, two)) {
					t.Errorf("%s %s: the answer does not list both: %+v", what, id, p)
				}
				if id == "pc-2" && !strings.Contains(p.Detail, "a part of what they are called") {
					t.Errorf("%s %s: %s", what, id, p.Detail)
				}
			}
		}
		page, err := admin.Events(ctx, api.EventQuery{UUID: "pc-24"})
		if err != nil || len(page.Events) == 0 || page.Events[0].UUID != u || page.Events[0].FQDN != "pc-24.corp.example.com" {
			t.Errorf("events show no name: %+v %v", page.Events, err)
		}
		records, err := admin.Audit(ctx, api.AuditQuery{Newest: true, Subject: u})
		if err != nil || len(records.Records) == 0 || records.Records[0].FQDN != "pc-24.corp.example.com" {
			t.Errorf("the audit shows no name: %+v %v", records.Records, err)
		}
		if err := calls["unprovision"]("pc-24"); err != nil {
			t.Errorf("unprovision, confirmed with the name: %v", err)
		}
	})
}
