package console_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
)

const hostile = `<script>document.title='owned'</script>`

// TestJobPages: a job is seen with a result for each device, approved by another
// user who types what it is about, and aborted.
func TestJobPages(t *testing.T) {
	t.Parallel()
	b := open(t)
	for range 3 {
		b.Seen(apitest.Device{Lifecycle: "failed"})
	}
	admin := b.Client(b.Admin)
	started, err := admin.StartJob(t.Context(), api.JobRequest{Kind: "retire", Query: "state:failed", Confirm: "retire 3",
		NeedApprover: true, Note: hostile})
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/jobs/%d", started.ID)
	state := func() string {
		t.Helper()
		j, err := admin.Job(t.Context(), api.OneJob{ID: started.ID})
		if err != nil {
			t.Fatal(err)
		}
		return j.State
	}
	maker, second, viewer := loggedIn(t, b, b.Admin), loggedIn(t, b, b.Token(api.Operator)), loggedIn(t, b, b.Token(api.Viewer))
	for _, br := range []*browser{maker, second, viewer} {
		for _, page := range []string{"/jobs", path, "/jobs?state=draft", path + "?state=waiting"} {
			resp, body := br.get(page)
			if resp.StatusCode != http.StatusOK || !strings.Contains(body, "needs approval") || strings.Contains(body, hostile) {
				t.Errorf("%s: %d, or it lacks the state, or has the note as it is", page, resp.StatusCode)
			}
		}
	}
	if _, body := viewer.get(path); strings.Count(body, `href="/devices/`) != 3 || strings.Contains(body, path+"/a") {
		t.Error("a viewer does not see three devices, or is offered a command")
	}
	if _, body := maker.get(path); strings.Contains(body, path+"/approve") || !strings.Contains(body, "another user has to approve it") {
		t.Error("the maker is offered to approve it")
	}
	if resp, body := maker.post(path+"/approve", "confirm", "retire 3"); resp.StatusCode != http.StatusConflict || state() != "draft" ||
		!strings.Contains(body, "another user has to approve it") {
		t.Errorf("the maker approved it: %d, it is %s", resp.StatusCode, state())
	}
	for _, typed := range []string{"", "retire 2", "retire"} {
		if resp, body := second.post(path+"/approve", "confirm", typed); resp.StatusCode != http.StatusUnprocessableEntity ||
			state() != "draft" || !strings.Contains(body, "type retire 3") {
			t.Errorf("approved with %q typed: %d, it is %s", typed, resp.StatusCode, state())
		}
	}
	if resp, _ := second.post(path+"/approve", "confirm", "retire 3"); resp.StatusCode != http.StatusSeeOther || state() != "waiting" {
		t.Errorf("approved: %d, it is %s", resp.StatusCode, state())
	}
	if resp, _ := viewer.post(path + "/abort"); resp.StatusCode != http.StatusForbidden || state() != "waiting" {
		t.Errorf("a viewer's abort: %d, it is %s", resp.StatusCode, state())
	}
	if resp, _ := second.post(path + "/abort"); resp.StatusCode != http.StatusSeeOther || state() != "aborted" {
		t.Errorf("aborted: %d, it is %s", resp.StatusCode, state())
	}
	if _, body := second.get(path); strings.Count(body, ">skipped<") != 3 || strings.Contains(body, path+"/a") {
		t.Error("after the abort three devices are not skipped, or commands are still offered")
	}
	for _, page := range []string{"/jobs/99", "/jobs/x", "/jobs/9999999999999999999999"} {
		if resp, _ := maker.get(page); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", page, resp.StatusCode)
		}
	}
}

// TestAuditPage: newest first, searched, checked, and for auditors alone.
func TestAuditPage(t *testing.T) {
	t.Parallel()
	b := open(t)
	u := b.Seen(apitest.Device{Lifecycle: "pending_approval"}).String()
	if _, err := b.Client(b.Admin).Act(t.Context(), "approve", u, hostile); err != nil {
		t.Fatal(err)
	}
	if resp, body := loggedIn(t, b, b.Token(api.Viewer)).get("/audit"); resp.StatusCode != http.StatusForbidden ||
		strings.Contains(body, "device.approve") {
		t.Errorf("a viewer: %d", resp.StatusCode)
	}
	if _, body := loggedIn(t, b, b.Token(api.Operator)).get("/"); strings.Contains(body, `href="/audit"`) {
		t.Error("an operator is shown the way to the audit")
	}
	br := loggedIn(t, b, b.Token(api.Auditor))
	if resp, _ := br.get("/"); resp.Header.Get("Location") != "/audit" {
		t.Errorf("an auditor's first page is %q", resp.Header.Get("Location"))
	}
	resp, body := br.get("/audit")
	newest, oldest := strings.Index(body, "console.login"), strings.Index(body, ">device.approve<")
	if resp.StatusCode != http.StatusOK || newest < 0 || oldest < newest || strings.Contains(body, hostile) ||
		!strings.Contains(body, "/devices/"+u) || strings.Contains(body, `href="/devices"`) {
		t.Errorf("%d: console.login at %d, device.approve at %d, or a note as it is", resp.StatusCode, newest, oldest)
	}
	if _, body := br.get("/audit?actor=FIRST-admin&action=device.&subject=" + u[:13]); strings.Count(body, "<tr>") != 2 ||
		!strings.Contains(body, ">device.approve<") {
		t.Error("the search finds something else")
	}
	if _, body := br.get("/audit?actor=%25"); !strings.Contains(body, "No record fits") {
		t.Error("a percent sign is more than itself")
	}
	if _, body := br.get("/audit?action=device.&since=1h"); !strings.Contains(body, ">device.approve<") ||
		!strings.Contains(body, `value="1h"`) {
		t.Error("what was done within the hour is not found")
	}
	if _, body := br.get("/audit?until=2020-02-29"); !strings.Contains(body, "No record fits") {
		t.Error("what was done since is found as well")
	}
	if resp, body := br.get("/audit?since=yesterday"); resp.StatusCode != http.StatusOK ||
		!strings.Contains(body, "query.since: want a time") || !strings.Contains(body, `value="yesterday"`) {
		t.Errorf("%d: a time that is none is not explained", resp.StatusCode)
	}
	if _, body := br.get("/audit?check=yes"); !strings.Contains(body, "The chain holds") {
		t.Error("the chain is not checked")
	}
	if _, err := b.DB.SQL().ExecContext(t.Context(), "DROP TRIGGER audit_kept_update"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.DB.SQL().ExecContext(t.Context(), "UPDATE audit SET actor = 'nobody' WHERE action = 'device.approve'"); err != nil {
		t.Fatal(err)
	}
	if _, body := br.get("/audit?check=yes"); !strings.Contains(body, "The chain is broken") || strings.Contains(body, "The chain holds") {
		t.Error("a changed record is not told")
	}
}
