package console_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// chromium is Debian's, ended with the test.
func chromium(t *testing.T) context.Context {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.ExecPath("/usr/bin/chromium"),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	ctx, end := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(end)
	ctx, end = chromedp.NewContext(ctx)
	t.Cleanup(end)
	ctx, end = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(end)
	return ctx
}

// TestBrowser drives Debian's chromium: the policy lets our own script run, what
// a device says does not run, and the pages follow the stream.
func TestBrowser(t *testing.T) {
	t.Parallel()
	b := open(t)
	evil := `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`
	d := apitest.Device{Lifecycle: "failed", Reason: reason.WSMANFault, Detail: evil}
	d.Facts.FQDN = &evil
	u := b.Seen(d).String()

	ctx := chromium(t)
	if err := chromedp.Do(ctx, chromedp.Navigate(b.HTTP.URL+"/devices/"+u), chromedp.SendKeys("#token", b.Admin),
		chromedp.Click("button.main"), chromedp.WaitVisible("#timeline")); err != nil {
		t.Fatal(err)
	}
	title, err := chromedp.Run(ctx, chromedp.Title())
	if err != nil || !strings.HasPrefix(title, "<img src=x") {
		t.Errorf("the title is %q, %v", title, err)
	}
	if text, err := chromedp.Run(ctx, chromedp.Text("#timeline")); err != nil || !strings.Contains(text, "ago") &&
		!strings.Contains(text, "now") {
		t.Errorf("our own script did not run: %q %v", text, err)
	}
	if err := chromedp.Do(ctx, chromedp.WaitVisible(".live:not(.lost)")); err != nil {
		t.Errorf("the page is not live: %v", err)
	}
	// Somebody else quarantines the device: this page says so by itself.
	if _, err := b.Client(b.Admin).Act(t.Context(), "quarantine", u, "while somebody looks"); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.querySelector("#head .tag").textContent`))
		if err != nil {
			t.Fatalf("the page did not follow: %v", err)
		}
		if now == "quarantined" {
			break
		}
		<-tick.C
	}
}

// TestJobsAndAuditInTheBrowser: a second user approves a job by typing what it
// is about; what a job, a device and a record say does not run, and no page is
// wider than the screen, a telephone's included.
func TestJobsAndAuditInTheBrowser(t *testing.T) {
	t.Parallel()
	b := open(t)
	for range 3 {
		b.Seen(apitest.Device{Lifecycle: "failed"})
	}
	evil := `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>` + strings.Repeat("long", 40)
	j, err := b.Client(b.Token(api.Operator)).StartJob(t.Context(),
		api.JobRequest{Kind: "retire", Query: "state:failed", Confirm: "retire 3", NeedApprover: true, Note: evil})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.DB.Write(t.Context(), func(tx *store.Tx) error {
		items, err := tx.JobItems(t.Context(), j.ID, "", [16]byte{}, 1)
		if err != nil {
			return err
		}
		items[0].State, items[0].Detail = store.ItemFailed, evil
		return tx.PutJobItem(t.Context(), items[0])
	}); err != nil {
		t.Fatal(err)
	}
	ctx := chromium(t)
	path := fmt.Sprintf("%s/jobs/%d", b.HTTP.URL, j.ID)
	if err := chromedp.Do(ctx, chromedp.Navigate(path), chromedp.SendKeys("#token", b.Admin), chromedp.Click("button.main"),
		chromedp.WaitVisible("#results")); err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{path, b.HTTP.URL + "/jobs", b.HTTP.URL + "/audit", b.HTTP.URL + "/audit?check=yes&action=job"} {
		for _, wide := range []int64{1280, 400} {
			if err := chromedp.Do(ctx, chromedp.EmulateViewport(wide, 900), chromedp.Navigate(page),
				chromedp.WaitVisible("main")); err != nil {
				t.Fatal(err)
			}
			if w, err := chromedp.Run(ctx, chromedp.Evaluate[int64]("document.documentElement.scrollWidth")); err != nil || w > wide {
				t.Errorf("%s is %d wide on a screen of %d: %v", page, w, wide, err)
			}
			if title, err := chromedp.Run(ctx, chromedp.Title()); err != nil || title == "owned" {
				t.Errorf("%s: the title is %q, %v", page, title, err)
			}
			if text, err := chromedp.Run(ctx, chromedp.Text("main")); err != nil || page != b.HTTP.URL+"/audit?check=yes&action=job" &&
				!strings.Contains(text, "retire") && !strings.Contains(text, "job.start") {
				t.Errorf("%s shows %q, %v", page, text, err)
			}
		}
	}
	if err := chromedp.Do(ctx, chromedp.Navigate(path), chromedp.SendKeys("#confirm", "retire 3"),
		chromedp.Click(`form[action$="/approve"] button`), chromedp.WaitVisible(".note.good")); err != nil {
		t.Fatal(err)
	}
	if j, err := b.Client(b.Admin).Job(t.Context(), api.OneJob{ID: j.ID}); err != nil || j.State != "waiting" ||
		j.ApprovedBy != "first-admin" {
		t.Errorf("after the approval: %s by %q, %v", j.State, j.ApprovedBy, err)
	}
}

// TestPagesFitATelephone has every page with something on it, long names too.
func TestPagesFitATelephone(t *testing.T) {
	t.Parallel()
	leaf := certtest.NewLab(time.Now()).Plain("Vendor", "provisionserver."+strings.Repeat("longpart.", 4)+"corp.example.com")
	prov, err := certs.LoadPFX(t.Context(), leaf.PFX(certtest.Modern, "secret"), amt.NewSecret("secret"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, apitest.With(func(d *rest.Deps) { d.Certs = func() []*certs.Provisioning { return []*certs.Provisioning{prov} } }))
	d := apitest.Device{Lifecycle: "failed", Reason: reason.WSMANFault, Detail: strings.Repeat("a fault ", 30)}
	name := strings.Repeat("longname", 7) + ".corp.example.com"
	d.Facts.FQDN = &name
	u := b.Seen(d).String()
	ctx := chromium(t)
	if err := chromedp.Do(ctx, chromedp.Navigate(b.HTTP.URL+"/devices/"+u), chromedp.SendKeys("#token", b.Admin),
		chromedp.Click("button.main"), chromedp.WaitVisible("#timeline")); err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"/", "/devices", "/devices/" + u, "/certificates", "/events", "/why?q=" + u, "/reasons"} {
		for _, wide := range []int64{1280, 400} {
			if err := chromedp.Do(ctx, chromedp.EmulateViewport(wide, 900), chromedp.Navigate(b.HTTP.URL+page),
				chromedp.WaitVisible("h1")); err != nil {
				t.Fatalf("%s: %v", page, err)
			}
			if w, err := chromedp.Run(ctx, chromedp.Evaluate[int64]("document.documentElement.scrollWidth")); err != nil || w > wide {
				t.Errorf("%s is %d wide on a screen of %d: %v", page, w, wide, err)
			}
		}
	}
}
