package rest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestUsers: a person is a user, whatever the number of tokens: two of them do
// not make a second pair of eyes, and all of them end at once.
func TestUsers(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		if _, err := admin.CreateUser(ctx, api.NewUser{Name: "alice", Roles: []string{"operator"}}); err != nil {
			t.Fatal(err)
		}
		made := func(user, name string) string {
			t.Helper()
			tok, err := admin.CreateToken(ctx, api.NewToken{Name: name, User: user, Role: "operator"})
			if err != nil {
				t.Fatal(err)
			}
			return tok.Secret
		}
		laptop, phone, bob := made("alice", "alice-laptop"), made("alice", "alice-phone"), made("", "bob")
		u := b.Seen(apitest.Device{Lifecycle: store.Failed}).String()
		j, err := b.Client(laptop).StartJob(ctx, api.JobRequest{Kind: "retire", Devices: []string{u}, Confirm: u, NeedApprover: true})
		if err != nil || j.CreatedBy != "alice" {
			t.Fatalf("%+v, %v", j, err)
		}
		session, who, err := b.API.Login(ctx, phone, "127.0.0.1:1", time.Hour)
		if err != nil || who.User != "alice" {
			t.Fatalf("%+v, %v", who, err)
		}
		for _, text := range []string{laptop, phone, session} {
			if _, err := b.Client(text).JobCommand(ctx, j.ID, "approve"); code(err) != "conflict" {
				t.Errorf("alice approves her own job with another token: %v", err)
			}
		}
		if j, err := b.Client(bob).JobCommand(ctx, j.ID, "approve"); err != nil || j.ApprovedBy != "bob" {
			t.Errorf("%+v, %v", j, err)
		}
		if _, _, err := b.API.Login(ctx, session, "127.0.0.1:1", time.Hour); code(err) != "token_unknown" {
			t.Errorf("a login made a longer one: %v", err)
		}

		yes := true
		if u, err := admin.ChangeUser(ctx, "alice", api.UserChange{Disabled: &yes}); err != nil || u.Tokens != 0 || u.Sessions != 0 ||
			u.DisabledAt == nil {
			t.Errorf("%+v, %v", u, err)
		}
		for _, text := range []string{laptop, phone, session} {
			if _, err := b.Client(text).Whoami(ctx); code(err) != "token_unknown" {
				t.Errorf("of a disabled user: %v", err)
			}
		}
		if _, err := b.Client(bob).Whoami(ctx); err != nil {
			t.Errorf("another user: %v", err)
		}
		if _, err := admin.ChangeUser(ctx, "first-admin", api.UserChange{Roles: []string{"viewer"}}); code(err) != "conflict" {
			t.Errorf("the last admin gave the role away: %v", err)
		}
		// Fewer roles: what they no longer cover ends.
		if _, err := admin.ChangeUser(ctx, "bob", api.UserChange{Roles: []string{"viewer"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Client(bob).Whoami(ctx); code(err) != "token_unknown" {
			t.Errorf("an operator's token of a viewer: %v", err)
		}
		list, err := admin.Audit(ctx, api.AuditQuery{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"user.add": "alice", "user.disable": "alice", "user.role": "bob", "console.login": "alice"}
		for _, r := range list.Records {
			if want[r.Action] == r.Subject {
				delete(want, r.Action)
			}
		}
		if len(want) > 0 {
			t.Errorf("not in the audit: %v", want)
		}
	})
}

// TestTheConfigurationWantsASecondApprover: it holds whatever the maker says,
// for jobs and for a command to one device, and the refusal says how to go on.
func TestTheConfigurationWantsASecondApprover(t *testing.T) {
	t.Parallel()
	claim := func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		u := b.Seen(apitest.Device{Lifecycle: store.Failed}).String()
		_, err := admin.Act(ctx, "retire", u, "sold")
		if code(err) != "conflict" || !strings.Contains(err.Error(), "provctl job start retire "+u) {
			t.Fatalf("retired alone: %v", err)
		}
		ask := api.JobRequest{Kind: "retire", Query: u, DryRun: true}
		if j, err := admin.StartJob(ctx, ask); err != nil || !j.NeedApprover || j.Devices != 1 {
			t.Errorf("the dry run does not say so: %+v, %v", j, err)
		}
		ask.DryRun, ask.Confirm = false, u
		j, err := admin.StartJob(ctx, ask)
		if err != nil || j.State != "draft" || !j.NeedApprover {
			t.Fatalf("%+v, %v", j, err)
		}
		if _, err := admin.JobCommand(ctx, j.ID, "approve"); code(err) != "conflict" ||
			!strings.Contains(err.Error(), "provctl job approve") {
			t.Errorf("its maker approved it: %v", err)
		}
		other := b.Client(b.Token(api.Operator))
		if j, err := other.JobCommand(ctx, j.ID, "approve"); err != nil || j.State != "waiting" {
			t.Errorf("%+v, %v", j, err)
		}
		// To decommission is to retire as well.
		v := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!").String()
		if _, err := admin.Unprovision(ctx, v, api.UnprovisionBody{Mode: "decommission", Confirm: v}); code(err) != "conflict" ||
			!strings.Contains(err.Error(), "--mode decommission") {
			t.Errorf("decommissioned alone: %v", err)
		}
		if _, err := admin.Unprovision(ctx, v, api.UnprovisionBody{Mode: "partial", Confirm: v}); err != nil {
			t.Errorf("what the configuration does not name: %v", err)
		}
		// Above the number any kind waits.
		for n, state := range map[int]string{2: "waiting", 3: "draft"} {
			var some []string
			for range n {
				some = append(some, b.Seen(apitest.Device{Lifecycle: store.PendingApproval, Reason: reason.NotAuthorized}).String())
			}
			if j, err := admin.StartJob(ctx, api.JobRequest{Kind: "approve", Devices: some}); err != nil || j.State != state {
				t.Errorf("%d devices: %s, %v", n, j.State, err)
			}
		}

		// Nor is it gone round by several smaller ones.
		var all []string
		for range 5 {
			all = append(all, b.Seen(apitest.Device{Lifecycle: store.Failed}).String())
		}
		start := func(who *api.Client, want string, lately int, kind string, devices ...string) api.Job {
			t.Helper()
			q := api.JobRequest{Kind: kind, Devices: devices, DryRun: true}
			if dry, err := who.StartJob(ctx, q); err != nil || dry.NeedApprover != (want == "draft") || dry.Lately != lately {
				t.Errorf("the dry run of %s for %d: %+v, %v", kind, len(devices), dry, err)
			}
			q.DryRun = false
			j, err := who.StartJob(ctx, q)
			if err != nil || j.State != want || j.Lately != lately {
				t.Errorf("%s of %d devices: %s, %d lately, %v; want %s, %d", kind, len(devices), j.State, j.Lately, err, want, lately)
			}
			return j
		}
		start(admin, "waiting", 0, "retry", all[0])
		begun := start(admin, "waiting", 1, "retry", all[1])
		same := start(admin, "waiting", 0, "retry", all[0], all[1]) // the same two devices are no more than two
		start(admin, "draft", 2, "retry", all[2])
		start(admin, "waiting", 0, "quarantine", all[3]) // another kind
		start(other, "waiting", 0, "retry", all[3])      // another maker
		// What was approved by a second pair of eyes is not counted again, nor what was aborted before it began.
		approved := start(admin, "draft", 2, "retry", all[4])
		if _, err := other.JobCommand(ctx, approved.ID, "approve"); err != nil {
			t.Fatal(err)
		}
		start(admin, "draft", 2, "retry", all[2])
		for _, j := range []int64{begun.ID, same.ID} {
			if _, err := admin.JobCommand(ctx, j, "abort"); err != nil {
				t.Fatal(err)
			}
		}
		start(admin, "waiting", 1, "retry", all[2])
		// What had begun before it was aborted was done.
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			u, err := amt.ParseUUID(all[1])
			if err != nil {
				return err
			}
			return tx.PutJobItem(ctx, store.JobItem{JobID: begun.ID, UUID: u, State: store.ItemDone})
		})
		start(admin, "draft", 3, "retry", all[3])
	}
	with := apitest.With(func(d *rest.Deps) { d.SecondApprover, d.SecondApproverAbove = []string{"retire"}, 2 })
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); claim(t, apitest.New(t, with)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); claim(t, apitest.New(t, with, apitest.OnPostgres)) })
}
