//go:build e2e

package console_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api/apitest"
)

// TestBrowser drives Debian's chromium: the policy lets our own script run, what
// a device says does not run, and the pages follow the stream.
func TestBrowser(t *testing.T) {
	b := open(t)
	evil := `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`
	d := apitest.Device{Lifecycle: "failed", Reason: reason.WSMANFault, Detail: evil}
	d.Facts.FQDN = &evil
	u := b.Seen(d).String()

	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.ExecPath("/usr/bin/chromium"), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()

	if err := chromedp.Do(ctx, chromedp.Navigate(b.HTTP.URL+"/devices/"+u), chromedp.SendKeys("#token", b.Admin), chromedp.Click("button.main"), chromedp.WaitVisible("#timeline")); err != nil {
		t.Fatal(err)
	}
	title, err := chromedp.Run(ctx, chromedp.Title())
	if err != nil || !strings.HasPrefix(title, "<img src=x") {
		t.Errorf("the title is %q, %v", title, err)
	}
	if text, err := chromedp.Run(ctx, chromedp.Text("#timeline")); err != nil || !strings.Contains(text, "ago") && !strings.Contains(text, "now") {
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
