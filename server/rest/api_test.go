package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// both runs a claim on SQLite and on Postgres.
func both(t *testing.T, claim func(*testing.T, *apitest.Bench)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); claim(t, apitest.New(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); claim(t, apitest.New(t, apitest.OnPostgres)) })
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// code is the code of a problem, or "" for success.
func code(err error) string {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestEveryRouteAsksWho: without a token, with a wrong one, and with each role
// that may not, every route of the API refuses; with one that may, it does not.
func TestEveryRouteAsksWho(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	tokens := map[api.Role]string{}
	for _, r := range api.Roles() {
		tokens[r] = b.Token(r)
	}
	const uuid = "11223344-5566-7788-99aa-bbccddeeff00"
	checked := 0
	for path, item := range b.API.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op == nil || op.OperationID == "stream-events" {
				continue
			}
			checked++
			url := strings.NewReplacer("{uuid}", uuid, "{id}", "4711").Replace(path)
			for token, want := range map[string]int{"": 401, "pvd_wrong": 401} {
				resp := b.Do(op.Method, url, token, "")
				if resp.StatusCode != want && resp.StatusCode != 429 {
					t.Errorf("%s %s with token %q: %d, want %d", op.Method, url, token, resp.StatusCode, want)
				}
				if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
					t.Errorf("%s %s: a refusal of type %s", op.Method, url, got)
				}
			}
			for _, role := range api.Roles() {
				resp := b.Do(op.Method, url, tokens[role], "")
				if may := role.May(op.OperationID); may == (resp.StatusCode == 403) || resp.StatusCode == 401 {
					t.Errorf("%s %s as %s: %d, may is %t", op.Method, url, role, resp.StatusCode, may)
				}
				if resp.StatusCode == 500 {
					t.Errorf("%s %s as %s: %s", op.Method, url, role, text(t, resp))
				}
			}
		}
	}
	if checked < 19 {
		t.Errorf("only %d operations were checked", checked)
	}
	for _, path := range []string{"/api/v1/openapi.json", "/api/v1/events/stream", "/api/v1/nothing"} {
		if got := b.Get(path, "").StatusCode; got != 401 && got != 404 && got != 429 {
			t.Errorf("%s without a token: %d", path, got)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		if got := b.Get(path, "").StatusCode; got != 200 {
			t.Errorf("%s: %d", path, got)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	body := text(t, b.Get("/api/v1/openapi.json", b.Admin))
	for _, want := range []string{`"openapi":"3.1.0"`, `"/api/v1/devices/{uuid}/secrets/reveal"`, `"Roles: admin, operator."`, `"bearer"`} {
		if !strings.Contains(strings.ReplaceAll(body, "\\n\\n", " "), strings.Trim(want, `"`)) {
			t.Errorf("the description lacks %s", want)
		}
	}
	if strings.Contains(body, "$schema") && strings.Contains(body, "ErrorModel.json") {
		t.Error("schemas are linked")
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	red := errors.New("the queue is not running")
	b := apitest.New(t, apitest.With(func(d *rest.Deps) {
		d.Parts = []rest.Part{{Name: "queue", Check: func(context.Context) error { return red }}}
	}))
	resp := b.Get("/readyz", "")
	var h api.Health
	if err := json.Unmarshal([]byte(text(t, resp)), &h); err != nil {
		t.Fatal(err)
	}
	want := api.Health{Status: "failing", Parts: []api.HealthPart{{Name: "database", Status: "ok"},
		{Name: "queue", Status: "failing", Detail: red.Error()}}}
	if d := cmp.Diff(want, h); d != "" || resp.StatusCode != 503 {
		t.Errorf("%d %s", resp.StatusCode, d)
	}
}

func TestAdminTokenFile(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	info, err := os.Stat(b.TokenFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
	// A second start leaves a good file alone; one whose file is gone makes a new token.
	if err := rest.EnsureAdminToken(t.Context(), b.DB, b.TokenFile()); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadFile(b.TokenFile()); strings.TrimSpace(string(again)) != b.Admin {
		t.Error("a good token was replaced")
	}
	if err := os.Remove(b.TokenFile()); err != nil {
		t.Fatal(err)
	}
	if err := rest.EnsureAdminToken(t.Context(), b.DB, b.TokenFile()); err != nil {
		t.Fatal(err)
	}
	fresh, _ := os.ReadFile(b.TokenFile())
	if who, err := b.Client(strings.TrimSpace(string(fresh))).Whoami(t.Context()); err != nil || who.Role != "admin" {
		t.Errorf("the new token: %v %v", who, err)
	}
}

// TestProblems: errors have a code, say what to do, and never repeat what was sent.
func TestProblems(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	u := b.Provisioned(apitest.Device{}, "Canary-1", "Canary-2").String()
	for _, c := range []struct {
		method, path, body string
		status             int
		code, says         string
	}{
		{"GET", "/api/v1/devices/nonsense", ``, 404, "device_unknown", "no device nonsense is known"},
		{"GET", "/api/v1/devices/11223344-5566-7788-99aa-bbccddeeff00", "", 404, "device_unknown", "is known"},
		{"GET", "/api/v1/devices?lifecycle=sleeping", "", 422, "invalid_request", "pending_approval"},
		{"GET", "/api/v1/devices?reason=tired", "", 422, "invalid_request", "/api/v1/reasons"},
		{"GET", "/api/v1/devices?network=10", "", 422, "invalid_request", "10.20.0.0/16"},
		{"GET", "/api/v1/devices?after=hunter2", "", 422, "invalid_request", "next of a page"},
		{"GET", "/api/v1/devices?colour=red", "", 422, "invalid_request", "unknown query parameter"},
		{"GET", "/api/v1/devices?limit=100000", "", 422, "invalid_request", "1000"},
		{"GET", "/api/v1/devices?q=seen:hunter2", "", 422, "invalid_request", "24h or 7d"},
		{"POST", "/api/v1/devices/" + u + "/secrets/reveal", `{"kind":"admin","reason":"x","password":"hunter2"}`, 422, "invalid_request", "password"},
		{"POST", "/api/v1/devices/" + u + "/secrets/reveal", `{"kind":"hunter2","reason":"because"}`, 422, "invalid_request", "admin"},
		{"POST", "/api/v1/devices/" + u + "/secrets/reveal", `{"kind":"admin","reason":"   "}`, 422, "invalid_request", "why"},
		{"POST", "/api/v1/devices/" + u + "/secrets/reveal", `hunter2`, 400, "invalid_request", ""},
		{"POST", "/api/v1/devices/" + u + "/secrets/reveal", ``, 400, "invalid_request", "required"},
		{"POST", "/api/v1/devices/" + u + "/retry", ``, 409, "device_managed", "under management already"},
		{"POST", "/api/v1/devices/" + u + "/restore", ``, 409, "device_not_taken_out", "only a retired"},
		{"POST", "/api/v1/hellos/decode", `{"hex":"ff"}`, 422, "hello_malformed", "byte 0"},
		{"POST", "/api/v1/hellos/decode", `{}`, 422, "invalid_request", "hex or base64"},
		{"POST", "/api/v1/tokens", `{"name":"session:x","role":"viewer"}`, 422, "invalid_request", "body.name"},
		{"DELETE", "/api/v1/tokens/99", ``, 404, "not_found", "no token 99"},
		{"DELETE", "/api/v1/tokens/1", ``, 409, "conflict", "last admin token"},
		{"GET", "/api/v1/nothing", "", 404, "not_found", "openapi.json"},
		{"PUT", "/api/v1/devices", "", 405, "invalid_request", "PUT"},
	} {
		resp := b.Do(c.method, c.path, b.Admin, c.body)
		body := text(t, resp)
		var p api.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Errorf("%s %s: %v: %s", c.method, c.path, err, body)
			continue
		}
		if resp.StatusCode != c.status || p.Status != c.status || p.Code != c.code || !strings.Contains(body, c.says) {
			t.Errorf("%s %s %s: %d %s\nwant %d %s with %q", c.method, c.path, c.body, resp.StatusCode, body, c.status, c.code, c.says)
		}
		if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
			t.Errorf("%s %s: type %s", c.method, c.path, got)
		}
		if strings.Contains(body, "hunter2") {
			t.Errorf("%s %s repeats what was sent: %s", c.method, c.path, body)
		}
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		want := map[string]bool{}
		for i := range 25 {
			fqdn := fmt.Sprintf("pc%02d.corp.example", i%5) // names that repeat must not trip the paging
			want[b.Seen(apitest.Device{Address: fmt.Sprintf("10.0.0.%d", i+1), Facts: store.DeviceFacts{FQDN: &fqdn}}).String()] = true
		}
		for _, order := range []string{"", "name", "last_seen"} {
			got, pages, q := map[string]bool{}, 0, api.DeviceQuery{Order: order, Limit: 10}
			for {
				page, err := b.Client(b.Admin).Devices(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				pages++
				for _, d := range page.Devices {
					if got[d.UUID] {
						t.Errorf("order %q: %s comes twice", order, d.UUID)
					}
					got[d.UUID] = true
				}
				if page.Next == "" {
					break
				}
				q.After = page.Next
			}
			if d := cmp.Diff(want, got); d != "" || pages != 3 {
				t.Errorf("order %q: %d pages: %s", order, pages, d)
			}
		}
		all, err := b.Client(b.Admin).AllDevices(t.Context(), api.DeviceQuery{Q: "net:10.0.0.0/29"}, 3)
		if err != nil || len(all) != 3 {
			t.Errorf("%d devices, %v; want 3", len(all), err)
		}
	})
}

func TestFilters(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		mac, fqdn, version := "00:11:22:aa:bb:cc", "lab7.corp.example", amt.Version{Major: 15, Minor: 0, Hotfix: 45, Build: 2411}
		one := b.Seen(apitest.Device{Address: "10.1.2.3", Lifecycle: store.Failed, Reason: reason.RootNotTrusted,
			Facts: store.DeviceFacts{MAC: &mac, FQDN: &fqdn, Version: &version}})
		b.Seen(apitest.Device{Address: "10.9.9.9"})
		b.Seen(apitest.Device{Address: "10.9.9.8", Facts: store.DeviceFacts{Version: &amt.Version{Major: 3, Minor: 2}}})
		for _, q := range []string{
			one.String(), one.String()[:13], strings.ToUpper(strings.ReplaceAll(one.String(), "-", "")), "LAB7", "10.1.2.3", "10.1.0.0/16",
			"00-11-22-AA-BB-CC", "001122aabbcc",
			"state:failed", "reason:root_not_trusted_by_device", "state:failed lab7", "net:10.1.0.0/16 seen:1h",
			"amt:15", "amt:15.0", "amt:>=15", "amt:>14", "amt:>=12 amt:<16", "amt:>3 state:failed",
			"uuid:" + one.String(), "name:lab7", "address:10.1.2.3", "address:10.1.0.0/16", "mac:001122AABBCC", "state:failed name:lab7",
		} {
			page, err := b.Client(b.Admin).Devices(t.Context(), api.DeviceQuery{Q: q})
			if err != nil || len(page.Devices) != 1 || page.Devices[0].UUID != one.String() {
				t.Errorf("%q finds %v, %v; want the one", q, page.Devices, err)
			}
		}
		page, err := b.Client(b.Admin).Devices(t.Context(), api.DeviceQuery{Q: "100%_"})
		if err != nil || len(page.Devices) != 0 {
			t.Errorf("a pattern's signs are taken as a pattern: %v %v", page.Devices, err)
		}
		for _, none := range []string{"amt:<3", "face:b00c::1", "amt:>15", "aa:bb:cc:dd:ee:ff"} {
			if page, err := b.Client(b.Admin).Devices(t.Context(), api.DeviceQuery{Q: none}); err != nil || len(page.Devices) != 0 {
				t.Errorf("%q finds %v, %v; want none", none, page.Devices, err)
			}
		}
		for q, want := range map[string]string{
			"stat:failed": `there is no term "stat:"; did you mean "state"?`, "State:failed": `did you mean "state"?`,
			"lab7 colour:red": "the keys here are state, reason",
			"amt:>=15.2":      "generations such as >=16", "amt:new": "want 11, 11.8", "seen:soon": "want an age",
		} {
			if _, err := b.Client(b.Admin).Devices(t.Context(), api.DeviceQuery{Q: q}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", q, err, want)
			}
		}
	})
}

func TestDeviceDetail(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		u := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!")
		body := text(t, b.Get("/api/v1/devices/"+u.String(), b.Admin))
		if strings.Contains(body, "Canary") {
			t.Error("the answer holds a password")
		}
		var d api.DeviceDetail
		if err := json.Unmarshal([]byte(body), &d); err != nil {
			t.Fatal(err)
		}
		if d.Lifecycle != "provisioned" || d.ProvisionedAt == nil || len(d.Runs) != 1 || len(d.Runs[0].Steps) != 2 ||
			d.Runs[0].Steps[1].Name != "commit" {
			t.Errorf("%s", body)
		}
		if len(d.Credentials) != 2 || d.Credentials[0].State != "active" || len(d.Events) == 0 || d.Events[0].Name != "verified" {
			t.Errorf("%s", body)
		}
	})
}

// TestHostileDevice: what a device says of itself is bounded and cannot steer a terminal.
func TestHostileDevice(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	evil := "\x1b]0;owned\x07<script>alert(1)</script>\u202egpj.exe" + strings.Repeat("A", 5000)
	u := b.Seen(apitest.Device{Lifecycle: store.Failed, Reason: reason.WSMANFault, Detail: evil,
		Facts: store.DeviceFacts{FQDN: &evil, HostName: &evil}})
	for _, path := range []string{"/api/v1/devices", "/api/v1/devices/" + u.String(), "/api/v1/devices/" + u.String() + "/why",
		"/api/v1/events"} {
		body := text(t, b.Get(path, b.Admin))
		if strings.Contains(body, "\\u001b") || strings.ContainsRune(body, '\u202e') || strings.Contains(body, strings.Repeat("A", 600)) {
			t.Errorf("%s passes on what the device said: %.300s", path, body)
		}
	}
}

func TestAuthFailuresAreCountedAndLimited(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	limited := false
	for i := range 15 {
		status := b.Get("/api/v1/whoami", "pvd_guess").StatusCode
		limited = status == 429
		if (i >= 10) != limited {
			t.Errorf("guess %d: %d", i, status)
		}
	}
	if _, err := b.Client(b.Admin).Whoami(t.Context()); err != nil {
		t.Errorf("a good token is locked out with the bad ones: %v", err)
	}
	if !limited {
		t.Error("guessing goes on for ever")
	}
	expect := `
# HELP provisiond_api_auth_failures_total Requests refused for their token.
# TYPE provisiond_api_auth_failures_total counter
provisiond_api_auth_failures_total{reason="expired"} 0
provisiond_api_auth_failures_total{reason="limited"} 5
provisiond_api_auth_failures_total{reason="missing"} 0
provisiond_api_auth_failures_total{reason="revoked"} 0
provisiond_api_auth_failures_total{reason="role"} 0
provisiond_api_auth_failures_total{reason="unknown"} 10
`
	if err := testutil.GatherAndCompare(b.Registry, strings.NewReader(expect), "provisiond_api_auth_failures_total"); err != nil {
		t.Error(err)
	}
}

// TestAGoodTokenIsNotLockedOut: whoever guesses as fast as he can behind the same
// address uses up what it may ask, and not what a token may that was good before.
func TestAGoodTokenIsNotLockedOut(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	var now atomic.Pointer[time.Time]
	at := time.Now()
	now.Store(&at)
	b.API.SetNow(func() time.Time { return *now.Load() })
	guess := func() {
		t.Helper()
		for range 120 {
			if status := b.Get("/api/v1/whoami", "pvd_guess").StatusCode; status != 401 && status != 429 {
				t.Fatalf("a guess: %d", status)
			}
		}
	}
	for what, later := range map[string]time.Duration{"its answer is not fresh any more": time.Minute,
		"another token was revoked meanwhile": 0} {
		if _, err := b.Client(b.Admin).Whoami(t.Context()); err != nil {
			t.Fatal(err)
		}
		guess()
		if other, err := b.Client(b.Admin).CreateToken(t.Context(), api.NewToken{Name: "n" + later.String(), Role: "viewer"}); err != nil {
			t.Fatal(err)
		} else if _, err := b.Client(b.Admin).RevokeToken(t.Context(), other.ID); err != nil {
			t.Fatal(err)
		}
		then := now.Load().Add(later)
		now.Store(&then)
		guess()
		if _, err := b.Client(b.Admin).Whoami(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		made, err := admin.CreateToken(ctx, api.NewToken{Name: "grafana", Role: "viewer", Days: 1})
		if err != nil || !strings.HasPrefix(made.Secret, "pvd_") || made.ExpiresAt == nil {
			t.Fatalf("%+v %v", made.Token, err)
		}
		if _, err := admin.CreateToken(ctx, api.NewToken{Name: "grafana", Role: "viewer"}); code(err) != "conflict" {
			t.Errorf("the same name again: %v", err)
		}
		session, who, err := b.API.Login(ctx, made.Secret, "127.0.0.1:1", time.Hour)
		if err != nil || who.Name != "grafana" {
			t.Fatalf("login: %v %v", who, err)
		}
		if w, err := b.Client(session).Whoami(ctx); err != nil || w.Name != "grafana" || w.Role != "viewer" {
			t.Errorf("the session is %+v, %v", w, err)
		}
		list, err := admin.Tokens(ctx)
		if err != nil || len(list.Tokens) != 2 {
			t.Errorf("%d tokens, want the admin's and grafana's without the session: %v", len(list.Tokens), err)
		}
		if _, err := admin.RevokeToken(ctx, made.ID); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{made.Secret, session} {
			if _, err := b.Client(text).Whoami(ctx); code(err) != "token_unknown" {
				t.Errorf("a revoked token still works: %v", err)
			}
		}
		if body := text(t, b.Get("/api/v1/tokens", b.Admin)); strings.Contains(body, made.Secret) || strings.Contains(body, "hash") {
			t.Error("the list of tokens holds their texts or hashes")
		}
	})
}

// TestMetricsHaveNoNames: nothing that a caller or a device chooses becomes a label.
func TestMetricsHaveNoNames(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	u := b.Seen(apitest.Device{})
	b.Get("/api/v1/devices/"+u.String(), b.Admin)
	b.Get("/wp-admin/"+u.String(), "")
	b.Do("BREW", "/api/v1/devices/"+u.String(), b.Admin, "")
	body := text(t, b.Get("/metrics", ""))
	for _, never := range []string{u.String(), "wp-admin", "BREW", "first-admin"} {
		if strings.Contains(body, never) {
			t.Errorf("/metrics has %s in it", never)
		}
	}
	for _, want := range []string{
		`provisiond_http_requests_total{code="200",method="GET",route="/api/v1/devices/{uuid}"} 1`,
		`provisiond_secret_reads_total{actor="viewer",result="denied"} 0`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// TestDatabaseGone: without the store nobody is let in, and the reason is said.
func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	if _, err := b.DB.SQL().ExecContext(t.Context(), "DROP TABLE tokens"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Client(b.Admin).Whoami(t.Context()); code(err) != "not_now" {
		t.Errorf("%v", err)
	}
	if got := b.Get("/healthz", "").StatusCode; got != 200 {
		t.Errorf("/healthz: %d", got)
	}
}
