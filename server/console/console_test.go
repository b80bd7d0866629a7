package console_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/console"
	"github.com/provisiond/provisiond/server/rest/apitest"
)

// browser is somebody with a cookie jar who does not follow redirects.
type browser struct {
	t    *testing.T
	base string
	http *http.Client
}

func open(t *testing.T, opts ...apitest.Option) *apitest.Bench {
	t.Helper()
	b := apitest.New(t, opts...)
	c, err := console.New(b.API, console.Config{SessionLifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	b.API.Mount(c)
	return b
}

func browse(t *testing.T, s *httptest.Server) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Client{Transport: s.Client().Transport, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &browser{t, s.URL, h}
}

// loggedIn is a browser with a session of the token.
func loggedIn(t *testing.T, b *apitest.Bench, token string) *browser {
	t.Helper()
	br := browse(t, b.HTTP)
	if resp, body := br.post("/login", "token", token); resp.StatusCode != http.StatusSeeOther {
		t.Fatalf("login: %d %s", resp.StatusCode, body)
	}
	return br
}

func (br *browser) do(req *http.Request) (*http.Response, string) {
	br.t.Helper()
	resp, err := br.http.Do(req)
	if err != nil {
		br.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		br.t.Fatal(err)
	}
	return resp, string(b)
}

func (br *browser) get(path string) (*http.Response, string) {
	br.t.Helper()
	req, err := http.NewRequestWithContext(br.t.Context(), http.MethodGet, br.base+path, nil)
	if err != nil {
		br.t.Fatal(err)
	}
	return br.do(req)
}

func (br *browser) post(path string, fields ...string) (*http.Response, string) {
	br.t.Helper()
	return br.do(br.form(path, fields...))
}

func (br *browser) form(path string, fields ...string) *http.Request {
	br.t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(fields); i += 2 {
		v.Add(fields[i], fields[i+1])
	}
	req, err := http.NewRequestWithContext(br.t.Context(), http.MethodPost, br.base+path, strings.NewReader(v.Encode()))
	if err != nil {
		br.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

func TestLogin(t *testing.T) {
	t.Parallel()
	b := open(t)
	br := browse(t, b.HTTP)
	for path, want := range map[string]string{"/": "/login", "/devices?q=x": "/login?next=%2Fdevices%3Fq%3Dx"} {
		if resp, _ := br.get(path); resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != want {
			t.Errorf("%s without a session: %d to %s", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	if resp, _ := br.get("/stream"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the stream without a session: %d", resp.StatusCode)
	}
	if resp, body := br.post("/login", "token", "pvd_wrong"); resp.StatusCode != http.StatusUnauthorized || len(resp.Cookies()) != 0 ||
		!strings.Contains(body, "unknown, revoked or expired") || strings.Contains(body, "pvd_wrong") {
		t.Errorf("a wrong token: %d %v", resp.StatusCode, resp.Cookies())
	}
	resp, _ := br.post("/login", "token", b.Admin, "next", "/events")
	if resp.Header.Get("Location") != "/events" || len(resp.Cookies()) != 1 {
		t.Fatalf("login goes to %s with %v", resp.Header.Get("Location"), resp.Cookies())
	}
	k := resp.Cookies()[0]
	if !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || k.Path != "/" || k.Value == b.Admin || k.MaxAge != 3600 {
		t.Errorf("the cookie is %+v", k)
	}
	if resp, _ := br.get("/"); resp.StatusCode != http.StatusOK {
		t.Errorf("with a session: %d", resp.StatusCode)
	}
	if _, err := b.Client(k.Value).Whoami(t.Context()); err != nil {
		t.Errorf("the session is not a token of its own: %v", err)
	}
	if resp, _ := br.post("/logout"); resp.Header.Get("Location") != "/login" {
		t.Errorf("logout: %d", resp.StatusCode)
	}
	if _, err := b.Client(k.Value).Whoami(t.Context()); err == nil {
		t.Error("the session lives on after the logout")
	}
}

func TestCookieOverTLS(t *testing.T) {
	t.Parallel()
	b := open(t)
	s := httptest.NewTLSServer(b.API)
	defer s.Close()
	resp, _ := browse(t, s).post("/login", "token", b.Admin)
	if k := resp.Cookies(); len(k) != 1 || k[0].Name != "__Host-provisiond" || !k[0].Secure {
		t.Errorf("%v", k)
	}
	if resp.Header.Get("Strict-Transport-Security") == "" {
		t.Error("no Strict-Transport-Security")
	}
}

func TestRedirectsStayHere(t *testing.T) {
	t.Parallel()
	b := open(t)
	for _, next := range []string{"//evil.example", "https://evil.example/", `/\evil.example`, "javascript:alert(1)", "devices", ""} {
		resp, _ := browse(t, b.HTTP).post("/login", "token", b.Admin, "next", next)
		if to := resp.Header.Get("Location"); to != "/" {
			t.Errorf("next=%s leads to %s", next, to)
		}
	}
}

// TestOtherSitesCannotAct: a form of another site is refused even with a cookie.
func TestOtherSitesCannotAct(t *testing.T) {
	t.Parallel()
	b := open(t)
	u := b.Seen(apitest.Device{Lifecycle: "pending_approval", Reason: reason.NotAuthorized})
	br := loggedIn(t, b, b.Admin)
	for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
		req := br.form("/devices/" + u.String() + "/approve")
		req.Header.Set(name, value)
		if resp, _ := br.do(req); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s is let through: %d", name, value, resp.StatusCode)
		}
	}
	d, err := b.Client(b.Admin).Device(t.Context(), u.String())
	if err != nil || d.Lifecycle != "pending_approval" {
		t.Errorf("the device is %s, %v", d.Lifecycle, err)
	}
}

var (
	inline = regexp.MustCompile(`(?i)<script(?:\s[^>]*)?>\s*[^<\s]|<style|<[a-z][^<>]*\s(?:style|srcdoc|on[a-z]+)=|<iframe|<object`)
	values = regexp.MustCompile(`"[^"]*"`)
	remote = regexp.MustCompile(`(?i)\s(?:src|href|action)="(?:[a-z]+:|//)`)
)

// TestPages: every page stands, holds nothing that its own policy would refuse,
// and nothing from elsewhere.
func TestPages(t *testing.T) {
	t.Parallel()
	b := open(t)
	u := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!").String()
	b.Seen(apitest.Device{Lifecycle: "failed", Reason: reason.DeviceUnreachable, Detail: "no route to host"})
	br := loggedIn(t, b, b.Admin)
	for path, says := range map[string]string{
		"/": "of 2 devices under management", "/devices": "no route to host", "/devices?q=state:failed": "device unreachable",
		"/devices?q=zzz": "No device fits",
		"/devices/" + u:  "run 1", "/certificates": "None is loaded", "/events": "verified", "/events?name=verified": "Only",
		"/reasons": "root_not_trusted_by_device",
		"/why":     "seen or not", "/why?q=10.99.0.1": "No hello from 10.99.0.1", "/why?q=" + u: "is under management",
	} {
		resp, body := br.get(path)
		if resp.StatusCode != http.StatusOK || !strings.Contains(body, says) {
			t.Errorf("%s: %d without %q", path, resp.StatusCode, says)
		}
		check(t, path, resp, body)
		if strings.Contains(body, "Canary") {
			t.Errorf("%s holds a password", path)
		}
	}
	for path, want := range map[string]int{
		"/nothing": 404, "/devices/nonsense": 404, "/devices/11223344-5566-7788-99aa-bbccddeeff00": 404, "/devices?q=state:sleeping": 422,
		"/devices?q=stat:failed": 422, "/devices?after=x": 422, "/static/none.js": 404,
	} {
		resp, body := br.get(path)
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
		if want == 422 && strings.Contains(body, "No device fits") {
			t.Errorf("%s says that no device fits what cannot be understood", path)
		}
		check(t, path, resp, body)
	}
}

func check(t *testing.T, path string, resp *http.Response, body string) {
	t.Helper()
	// A quote in text is escaped, so what stands between two is an attribute's value.
	if found := inline.FindString(values.ReplaceAllString(body, `""`)); found != "" {
		t.Errorf("%s has something inline: %q", path, found)
	}
	if found := remote.FindString(body); found != "" {
		t.Errorf("%s reaches elsewhere: %q", path, found)
	}
	csp := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'; script-src 'self'") || strings.Contains(csp, "unsafe") ||
		!strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("%s: policy %q", path, csp)
	}
	if resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("%s: headers %v", path, resp.Header)
	}
}

// TestHostileDevice: every string of this device is a payload; no page runs or
// even holds it unescaped.
func TestHostileDevice(t *testing.T) {
	t.Parallel()
	b := open(t)
	evil := `"><script>alert(1)</script><img src=x onerror=alert(2)>' onmouseover='alert(3)` + "\u202e\x1b[2J" + strings.Repeat("W", 3000)
	var d apitest.Device
	d.Lifecycle, d.Reason, d.Detail = "failed", reason.WSMANFault, evil
	for _, f := range []**string{&d.Facts.FQDN, &d.Facts.HostName, &d.Facts.Domain, &d.Facts.Suffix, &d.Facts.MAC, &d.Facts.Serial,
		&d.Facts.SKU, &d.Facts.Realm, &d.Facts.DeviceMode, &d.Facts.Health, &d.Facts.TLSVersion, &d.Facts.Certificate} {
		*f = &evil
	}
	d.Facts.Tags = &[]string{evil}
	u := b.Seen(d).String()
	br := loggedIn(t, b, b.Admin)
	for _, path := range []string{"/", "/devices", "/devices/" + u, "/events", "/why?q=" + u, "/devices?q=" + url.QueryEscape(evil[:150]),
		"/why?q=" + url.QueryEscape(evil[:150])} {
		resp, body := br.get(path)
		check(t, path, resp, body)
		for _, never := range []string{"<script>alert", "<img", "\x1b", "\u202e", strings.Repeat("W", 600)} {
			if strings.Contains(body, never) {
				t.Errorf("%s holds %q", path, never)
			}
		}
		if !strings.Contains(body, "alert(1)") && strings.HasPrefix(path, "/devices/") {
			t.Errorf("%s does not show the name at all", path)
		}
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	b := open(t)
	u := b.Seen(apitest.Device{Lifecycle: "pending_approval", Reason: reason.NotAuthorized}).String()
	br := loggedIn(t, b, b.Admin)
	state := func() string {
		d, err := b.Client(b.Admin).Device(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		return d.Lifecycle
	}
	if resp, _ := br.post("/devices/"+u+"/approve", "note", "seen at the desk"); resp.StatusCode != http.StatusSeeOther ||
		state() != "queued" {
		t.Errorf("approve: %d, it is %s", resp.StatusCode, state())
	}
	if _, body := br.get("/devices/" + u + "?done=approve"); !strings.Contains(body, "Approved.") {
		t.Error("the page does not say what was done")
	}
	if _, body := br.get("/devices/" + u + "?done=<b>"); strings.Contains(body, "role=\"status\"") {
		t.Error("the page says what the address says")
	}
	for _, typed := range []string{"", "wrong", u} {
		if resp, body := br.post("/devices/"+u+"/retire", "confirm", typed); resp.StatusCode != http.StatusUnprocessableEntity ||
			state() != "queued" || !strings.Contains(body, "Nothing was done") {
			t.Errorf("retire with %q typed: %d, it is %s", typed, resp.StatusCode, state())
		}
	}
	if resp, _ := br.post("/devices/"+u+"/retire", "confirm", u[:8]); resp.StatusCode != http.StatusSeeOther || state() != "retired" {
		t.Errorf("retire: %d, it is %s", resp.StatusCode, state())
	}
	if resp, body := br.post("/devices/" + u + "/retry"); resp.StatusCode != http.StatusConflict ||
		!strings.Contains(body, "take it back first") {
		t.Errorf("retry of a retired device: %d", resp.StatusCode)
	}
	if resp, _ := br.post("/devices/" + u + "/explode"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown command: %d", resp.StatusCode)
	}
	two := b.Seen(apitest.Device{Lifecycle: "pending_approval", Reason: reason.NotAuthorized}).String()
	resp, _ := br.post("/devices/bulk", "verb", "approve", "uuid", two, "uuid", u, "q", "state:pending_approval")
	if to := resp.Header.Get("Location"); to != "/devices?done=1&q=state%3Apending_approval&refused=1" {
		t.Errorf("approve two at once: %d to %s", resp.StatusCode, to)
	}
	if resp, body := br.post("/devices/bulk", "verb", "approve"); resp.StatusCode != http.StatusUnprocessableEntity ||
		!strings.Contains(body, "No device is ticked") {
		t.Errorf("approve none: %d", resp.StatusCode)
	}
	if resp, _ := br.post("/devices/bulk", "verb", "retire", "uuid", two); resp.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("retire several: %d", resp.StatusCode)
	}
}

// TestViewerSeesAndDoesNothing: no command is offered, and asking anyway is refused.
func TestViewerSeesAndDoesNothing(t *testing.T) {
	t.Parallel()
	b := open(t)
	u := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!").String()
	br := loggedIn(t, b, b.Token(api.Viewer))
	if resp, body := br.get("/devices/" + u); resp.StatusCode != http.StatusOK || strings.Contains(body, `action="/devices/`) {
		t.Errorf("%d, or a form is offered", resp.StatusCode)
	}
	for _, path := range []string{"/devices/" + u + "/retry", "/devices/" + u + "/reveal"} {
		if resp, body := br.post(path, "kind", "admin", "reason", "just looking"); resp.StatusCode != http.StatusForbidden ||
			strings.Contains(body, "Canary") {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if resp, body := loggedIn(t, b, b.Token(api.Auditor)).get("/"); resp.Header.Get("Location") != "/audit" || strings.Contains(body, u) {
		t.Errorf("an auditor sees %d", resp.StatusCode)
	}
}

func TestReveal(t *testing.T) {
	t.Parallel()
	b := open(t)
	u := b.Provisioned(apitest.Device{}, "Canary-<Admin>-9!", "Canary-Mebx-9!").String()
	br := loggedIn(t, b, b.Token(api.SecretReader))
	if resp, body := br.post("/devices/"+u+"/reveal", "kind", "admin", "reason", " "); resp.StatusCode != http.StatusUnprocessableEntity ||
		strings.Contains(body, "Canary") {
		t.Errorf("without a reason: %d", resp.StatusCode)
	}
	resp, body := br.post("/devices/"+u+"/reveal", "kind", "admin", "reason", "ticket 4711")
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, "<output>Canary-&lt;Admin&gt;-9!</output>") ||
		resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d, Cache-Control %s", resp.StatusCode, resp.Header.Get("Cache-Control"))
	}
	if strings.Contains(body, "data-live") {
		t.Error("the page with the password reloads itself")
	}
	if resp, body := br.get("/devices/" + u + "/reveal"); resp.StatusCode == http.StatusOK || strings.Contains(body, "Canary") {
		t.Errorf("a password by GET: %d", resp.StatusCode)
	}
	audit, err := b.Client(b.Admin).Audit(t.Context(), api.AuditQuery{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var said []api.AuditRecord
	for _, r := range audit.Records {
		if r.Action == "secret.reveal" {
			said = append(said, r)
		}
	}
	if len(said) != 1 || said[0].Actor != "token:t-secret-reader" || said[0].Detail["reason"] != "ticket 4711" {
		t.Errorf("the audit says %+v", said)
	}
}

func TestStreamWithCookie(t *testing.T) {
	t.Parallel()
	b := open(t)
	br := loggedIn(t, b, b.Admin)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, br.base+"/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := br.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	told := false
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "retry:") {
			b.Say("something_new") // the stream is open: what happens now must come
		}
		if strings.Contains(lines.Text(), `"name":"something_new"`) {
			told = true
			break
		}
	}
	if !told || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%s: told %t", resp.Header.Get("Content-Type"), told)
	}
}

func TestStatic(t *testing.T) {
	t.Parallel()
	b := open(t)
	br := browse(t, b.HTTP)
	for name, kind := range map[string]string{"console.css": "text/css", "console.js": "text/javascript", "icon.svg": "image/svg+xml"} {
		resp, body := br.get("/static/" + name)
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), kind) || body == "" {
			t.Errorf("%s: %d %s", name, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, br.base+"/static/"+name, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-None-Match", resp.Header.Get("ETag"))
		if again, _ := br.do(req); again.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: %d", name, again.StatusCode)
		}
	}
}

// TestCommandsOffered: a page offers what can be done to the device as it stands.
func TestCommandsOffered(t *testing.T) {
	t.Parallel()
	b := open(t)
	br := loggedIn(t, b, b.Admin)
	tag := "lobby"
	for _, c := range []struct {
		d         apitest.Device
		has, none []string
	}{
		{apitest.Device{Lifecycle: "quarantined", Reason: reason.IdentityConflict}, []string{"/release", "/approve", "/retire"}, []string{"/quarantine"}},
		{apitest.Device{Lifecycle: "quarantined", Reason: reason.UUIDInvalid}, []string{"/retire"}, []string{"/release", "/approve"}},
		{apitest.Device{Lifecycle: "quarantined", Reason: reason.UUIDDuplicate}, []string{"/release"}, []string{"/approve"}},
		{apitest.Device{Lifecycle: "provisioned", Reason: reason.TLSPinnedKeyChanged}, []string{"/release"}, []string{"/approve"}},
		{apitest.Device{Lifecycle: "provisioned"}, []string{"/retire"}, []string{"/release", "/approve"}},
		{apitest.Device{Lifecycle: "unprovisioned"}, []string{"/approve"}, []string{"/release"}},
	} {
		c.d.Facts.Tags = &[]string{tag}
		u := b.Seen(c.d).String()
		resp, body := br.get("/devices/" + u)
		if resp.StatusCode != http.StatusOK || !strings.Contains(body, `href="/devices?q=tag:lobby"`) {
			t.Errorf("%s %s: %d, without its tag", c.d.Lifecycle, c.d.Reason, resp.StatusCode)
		}
		for _, path := range c.has {
			if !strings.Contains(body, u+path+`"`) {
				t.Errorf("%s %s: %s is not offered", c.d.Lifecycle, c.d.Reason, path)
			}
		}
		for _, path := range c.none {
			if strings.Contains(body, u+path+`"`) {
				t.Errorf("%s %s: %s is offered", c.d.Lifecycle, c.d.Reason, path)
			}
		}
	}
}
