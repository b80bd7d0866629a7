package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestCommands: what a command makes of a device in each state.
func TestCommands(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		for _, c := range []struct {
			from store.Lifecycle
			why  reason.Code
			verb string
			to   store.Lifecycle
			code string // of the problem, else success
			run  bool   // a worker is nudged
		}{
			{store.PendingApproval, reason.NotAuthorized, "approve", store.Queued, "", true},
			{store.PendingApproval, reason.NotAuthorized, "retry", store.PendingApproval, "device_not_approved", false},
			{store.Quarantined, reason.UUIDInvalid, "approve", store.Quarantined, "uuid_invalid", false},
			{store.Quarantined, reason.IdentityConflict, "approve", store.Queued, "", true},
			{store.PendingCertificate, reason.RootNotTrusted, "approve", store.PendingCertificate, "", false},
			{store.PendingCertificate, reason.RootNotTrusted, "retry", store.Queued, "", true},
			{store.Failed, reason.DeviceUnreachable, "retry", store.Queued, "", true},
			{store.Dormant, reason.SetupWindowExpired, "retry", store.Queued, "", true},
			{store.Provisioned, "", "retry", store.Provisioned, "device_managed", false},
			{store.Provisioned, "", "approve", store.Provisioned, "", false},
			{store.Provisioned, "", "retire", store.Retired, "", false},
			{store.Retired, "", "retire", store.Retired, "", false},
			{store.Retired, "", "approve", store.Retired, "device_retired", false},
			{store.Retired, "", "retry", store.Retired, "device_retired", false},
			{store.Retired, "", "restore", store.Discovered, "", false},
			{store.PendingApproval, reason.NotAuthorized, "reject", store.Quarantined, "", false},
			{store.PendingCertificate, reason.RootNotTrusted, "reject", store.Quarantined, "", false},
			{store.Quarantined, reason.Rejected, "reject", store.Quarantined, "", false},
			{store.Quarantined, reason.Rejected, "approve", store.Queued, "", true},
			{store.Quarantined, reason.Rejected, "retry", store.Quarantined, "device_quarantined", false},
			{store.Quarantined, reason.KeptOut, "reject", store.Quarantined, "device_quarantined", false},
			{store.Provisioned, "", "reject", store.Provisioned, "device_not_waiting", false},
			{store.Failed, reason.DeviceUnreachable, "clear-failures", store.Failed, "", false},
			{store.CredentialsUnknown, reason.CredentialsUnknown, "clear-failures", store.CredentialsUnknown, "device_not_failed", false},
			{store.Provisioned, "", "clear-failures", store.Provisioned, "device_not_failed", false},
			{store.Failed, reason.WSMANFault, "quarantine", store.Quarantined, "", false},
			{store.Quarantined, reason.KeptOut, "restore", store.Discovered, "", false},
			{store.Quarantined, reason.IdentityConflict, "release", store.Discovered, "", false},
			{store.Quarantined, reason.UUIDInvalid, "release", store.Quarantined, "uuid_invalid", false},
			{store.Provisioned, reason.TLSPinnedKeyChanged, "release", store.Provisioned, "", false},
			{store.Drifted, reason.IdentityConflict, "release", store.Drifted, "", false},
			{store.Provisioned, "", "release", store.Provisioned, "device_not_kept_out", false},
			{store.Failed, reason.WSMANFault, "restore", store.Failed, "device_not_taken_out", false},
		} {
			t.Run(fmt.Sprintf("%s %s", c.verb, c.from), func(t *testing.T) {
				u := b.Seen(apitest.Device{Lifecycle: c.from, Reason: c.why})
				before := len(b.Enqueued())
				res, err := b.Client(b.Admin).Act(t.Context(), c.verb, u.String(), "because of a test")
				if code(err) != c.code {
					t.Fatalf("%v, want %q", err, c.code)
				}
				var d store.Device
				var audit []store.AuditRecord
				b.Read(func(ctx context.Context, tx *store.Tx) (err error) {
					if d, err = tx.Device(ctx, u); err == nil {
						audit, err = tx.AuditRecords(ctx, 0, 1000)
					}
					return err
				})
				if d.Lifecycle != c.to {
					t.Errorf("it is %s, want %s", d.Lifecycle, c.to)
				}
				if got := len(b.Enqueued()) > before; got != c.run {
					t.Errorf("a worker was nudged: %t, want %t", got, c.run)
				}
				audited := false
				for _, r := range audit {
					audited = audited || r.Subject == u.String() && r.Action == "device."+c.verb &&
						strings.HasPrefix(r.Actor, "token:first-admin")
				}
				if audited != (err == nil) {
					t.Errorf("audited: %t for %v", audited, err)
				}
				if err == nil && (res.Device.Lifecycle != string(c.to) || res.Said == "" || (res.RunID != 0) != c.run) {
					t.Errorf("the answer is %+v", res)
				}
			})
		}
	})
}

// TestApprovedWhereItWasSeen: a device is let in where a person has looked at it. One
// whose UUID says hello from elsewhere by then is not.
func TestApprovedWhereItWasSeen(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		u := b.Seen(apitest.Device{Lifecycle: store.PendingApproval, Reason: reason.NotAuthorized})
		d, err := admin.Device(ctx, u.String())
		if err != nil || d.Address == "" {
			t.Fatalf("%+v %v", d, err)
		}
		var p *api.Problem
		if _, err := admin.Approve(ctx, u.String(), "10.99.0.1", ""); !errors.As(err, &p) || p.Code != "address_moved" ||
			p.Status != http.StatusConflict ||
			!strings.Contains(p.Detail, d.Address) || !strings.Contains(p.Detail, "10.99.0.1") {
			t.Errorf("seen elsewhere: %v", err)
		}
		if _, err := admin.Approve(ctx, u.String(), "upstairs", ""); !errors.As(err, &p) || p.Status != http.StatusUnprocessableEntity {
			t.Errorf("no address: %v", err)
		}
		if got, _ := admin.Device(ctx, u.String()); got.Approved || got.Lifecycle != string(store.PendingApproval) {
			t.Errorf("refused, and it is %s, approved %t", got.Lifecycle, got.Approved)
		}
		if res, err := admin.Approve(ctx, u.String(), d.Address, ""); err != nil || res.RunID == 0 ||
			!strings.Contains(res.Said, d.Address) {
			t.Errorf("seen here: %+v %v", res, err)
		}
	})
}

// TestTakenBack: a device that was under management says no hello, so whoever
// lets it in again need not wait for one.
func TestTakenBack(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		operational, now := amt.StatePost.String(), time.Now().Add(time.Minute)
		met := apitest.Device{Facts: store.DeviceFacts{DeviceMode: &operational, LastContact: &now}}
		act := func(u amt.UUID, verb string) api.ActionResult {
			t.Helper()
			res, err := admin.Act(ctx, verb, u.String(), "")
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		u := b.Provisioned(met, "Admin!1", "MEBx!1")
		act(u, "quarantine")
		before := len(b.Enqueued())
		if res := act(u, "release"); res.Device.Lifecycle != string(store.Queued) || res.RunID == 0 || len(b.Enqueued()) == before {
			t.Errorf("released: %+v", res)
		}

		u = b.Provisioned(met, "Admin!2", "MEBx!2")
		act(u, "retire")
		if res := act(u, "restore"); res.Device.Lifecycle != string(store.Discovered) ||
			!strings.Contains(res.Said, "provctl device retry "+u.String()) {
			t.Errorf("restored: %+v", res)
		}
		w, err := admin.Why(ctx, u.String())
		if err != nil || !strings.Contains(w.Says, "was under management") || !strings.Contains(w.Next, "provctl device retry") {
			t.Errorf("why after that: %+v %v", w, err)
		}

		// One that lost its setup says hello again, and that hello decides.
		u = b.Provisioned(met, "Admin!3", "MEBx!3")
		long := time.Now().Add(-time.Hour)
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, u, store.DeviceFacts{LastContact: &long})
		})
		act(u, "quarantine")
		if res := act(u, "release"); res.Device.Lifecycle != string(store.Discovered) || res.RunID != 0 {
			t.Errorf("released after a hello: %+v", res)
		}
	})
}

// TestCommandsAndLiveRuns: a waiting run is hastened or cancelled, one at work is left alone.
func TestCommandsAndLiveRuns(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		u := b.Seen(apitest.Device{Lifecycle: store.PendingApproval, Reason: reason.NotAuthorized})
		first, err := admin.Act(ctx, "approve", u.String(), "")
		if err != nil {
			t.Fatal(err)
		}
		again, err := admin.Act(ctx, "retry", u.String(), "")
		if err != nil || again.RunID != first.RunID {
			t.Errorf("retry of a waiting run: %+v %v, want run %d", again, err, first.RunID)
		}
		if _, err := admin.Act(ctx, "retire", u.String(), ""); err != nil {
			t.Fatal(err)
		}
		b.Read(func(ctx context.Context, tx *store.Tx) error {
			run, err := tx.Run(ctx, first.RunID)
			if run.State != store.RunCancelled || run.Reason != reason.Cancelled {
				t.Errorf("the run of a retired device is %s %s", run.State, run.Reason)
			}
			return err
		})

		busy := b.Seen(apitest.Device{Lifecycle: store.PendingApproval, Reason: reason.NotAuthorized})
		res, err := admin.Act(ctx, "approve", busy.String(), "")
		if err != nil {
			t.Fatal(err)
		}
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.Claim(ctx, res.RunID, "n1", time.Minute)
			return err
		})
		if res, err := admin.Act(ctx, "retry", busy.String(), ""); err != nil || !strings.Contains(res.Said, "right now") {
			t.Errorf("retry while at work: %+v %v", res, err)
		}
		if gone, err := admin.Act(ctx, "retire", busy.String(), ""); err != nil || gone.RunID != res.RunID ||
			!strings.Contains(gone.Said, "is stopped") {
			t.Errorf("retired while a worker talks to it: %+v %v", gone, err)
		}
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			d, err := tx.Device(ctx, busy)
			if err != nil {
				return err
			}
			if err := tx.CheckFence(ctx, busy, d.Fence-1); !errors.Is(err, store.ErrFenced) {
				t.Errorf("the worker's fence still holds: %v", err)
			}
			return nil
		})
	})
}

// TestRevealIsAuditedFirst: the record is there when the answer comes, it names
// who, what and why, and without a record there is no password.
func TestRevealIsAuditedFirst(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		u := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!")
		reader := b.Token(api.SecretReader)
		for kind, want := range map[string]string{"admin": "Canary-Admin-9!", "mebx": "Canary-Mebx-9!"} {
			resp := b.Do(http.MethodPost, "/api/v1/devices/"+u.String()+"/secrets/reveal", reader,
				`{"kind":"`+kind+`","reason":"ticket 4711"}`)
			var got map[string]any
			if err := json.Unmarshal([]byte(text(t, resp)), &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(map[string]any{"password": want}, got); d != "" || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, Cache-Control %s", d, resp.Header.Get("Cache-Control"))
			}
		}
		audit, err := b.Client(b.Token(api.Auditor)).Audit(t.Context(), api.AuditQuery{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		said := 0
		for _, r := range audit.Records {
			if r.Action == "secret.reveal" && r.Subject == u.String() && r.Actor == "token:t-secret-reader" &&
				r.Detail["reason"] == "ticket 4711" {
				said++
			}
			if strings.Contains(fmt.Sprint(r), "Canary") {
				t.Errorf("the audit holds a password: %v", r)
			}
		}
		if said != 2 {
			t.Errorf("%d records of 2 readings: %v", said, audit.Records)
		}
		if v, err := b.Client(b.Admin).VerifyAudit(t.Context()); err != nil || !v.Intact || v.Records == 0 {
			t.Errorf("%+v %v", v, err)
		}
		for _, line := range b.Logs.All() {
			if strings.Contains(fmt.Sprint(line), "Canary") {
				t.Errorf("the log holds a password: %v", line)
			}
		}
	})
}

// TestNoRecordNoPassword: the store fails under the audit, and nothing is revealed.
func TestNoRecordNoPassword(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	u := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!")
	if _, err := b.Client(b.Admin).Whoami(t.Context()); err != nil { // the token is fresh in memory
		t.Fatal(err)
	}
	if _, err := b.DB.SQL().ExecContext(t.Context(), "DROP TABLE audit"); err != nil {
		t.Fatal(err)
	}
	resp := b.Do(http.MethodPost, "/api/v1/devices/"+u.String()+"/secrets/reveal", b.Admin, `{"kind":"admin","reason":"ticket 4711"}`)
	if body := text(t, resp); resp.StatusCode != 500 || strings.Contains(body, "Canary") || strings.Contains(body, "audit") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if got := text(t, b.Get("/metrics", "")); !strings.Contains(got, `provisiond_secret_reads_total{actor="admin",result="error"} 1`) {
		t.Error("the failed reading is not counted")
	}
}

func TestRevealPicksWhatTheDeviceTakes(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	ctx, admin := t.Context(), b.Client(b.Admin)
	u := b.Seen(apitest.Device{Lifecycle: store.PendingApproval, Reason: reason.NotAuthorized})
	if _, err := admin.Reveal(ctx, u.String(), "admin", "nothing yet"); code(err) != "not_found" {
		t.Errorf("a device without passwords: %v", err)
	}
	if _, err := admin.Act(ctx, "approve", u.String(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Reveal(ctx, u.String(), "admin", "not sent yet"); code(err) != "not_found" {
		t.Errorf("a password that was never sent: %v", err)
	}
	b.Write(func(ctx context.Context, tx *store.Tx) error {
		list, err := tx.Credentials(ctx, u, store.KindAdmin)
		if err != nil {
			return err
		}
		return tx.MarkSent(ctx, list[0].ID, "admin", "r", nil, netip.MustParseAddr("10.0.0.1"), false)
	})
	if r, err := admin.Reveal(ctx, u.String(), "admin", "sent, not confirmed"); err != nil || r.Password != "Canary-Admin-1!" {
		t.Errorf("the password that the device may hold: %v %v", r, err)
	}
}

// TestRevealLimit: it is of a token, however it comes and whichever node it
// asks, and a restart forgets nothing.
func TestRevealLimit(t *testing.T) {
	t.Parallel()
	claim := func(t *testing.T, b *apitest.Bench) {
		u := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!").String()
		// A login is no way around the limit: it is the same person.
		session, _, err := b.API.Login(t.Context(), b.Admin, "127.0.0.1:1", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		other := b.Second()
		for i := range 5 {
			token, node := b.Admin, b.Client
			if i%2 == 1 {
				token, node = session, other.Client
			}
			_, err := node(token).Reveal(t.Context(), u, "admin", "again and again")
			if want := map[bool]string{true: "", false: "rate_limited"}[i < 3]; code(err) != want {
				t.Errorf("reading %d: %v, want %q", i, err, want)
			}
		}
		if _, err := b.Second().Client(b.Admin).Reveal(t.Context(), u, "admin", "after a restart"); code(err) != "rate_limited" {
			t.Errorf("a node that has just started: %v", err)
		}
		if _, err := b.Client(b.Token(api.SecretReader)).Reveal(t.Context(), u, "admin", "somebody else"); err != nil {
			t.Errorf("another person is limited too: %v", err)
		}
	}
	three := apitest.With(func(d *rest.Deps) { d.RevealsPerHour = 3 })
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); claim(t, apitest.New(t, three)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); claim(t, apitest.New(t, three, apitest.OnPostgres)) })
}

func TestAuditTamperingIsFound(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	if _, err := b.Client(b.Admin).CreateToken(t.Context(), api.NewToken{Name: "x", Role: "viewer"}); err != nil {
		t.Fatal(err)
	}
	for _, trigger := range []string{"audit_no_update", "audit_no_delete", "audit_append_only_update", "audit_append_only_delete"} {
		_, _ = b.DB.SQL().ExecContext(t.Context(), "DROP TRIGGER IF EXISTS "+trigger)
	}
	if _, err := b.DB.SQL().ExecContext(t.Context(), "UPDATE audit SET actor = 'token:nobody' WHERE seq = 1"); err != nil {
		return // the store itself refuses, which is better still
	}
	v, err := b.Client(b.Admin).VerifyAudit(t.Context())
	if err != nil || v.Intact || v.Problem == "" {
		t.Errorf("%+v %v, want the broken link named", v, err)
	}
}

// TestWhy: plain words for every lifecycle, by whatever name is at hand.
func TestWhy(t *testing.T) {
	t.Parallel()
	b := apitest.New(t, apitest.With(func(d *rest.Deps) { d.HelloAt, d.Zones = "127.0.0.1:9971", []string{"corp.example"} }))
	admin := b.Client(b.Admin)
	if w, err := admin.Why(t.Context(), "10.77.0.1"); err != nil || w.Found ||
		!strings.Contains(strings.Join(w.Checks, "\n"), "no device at all has said hello") {
		t.Errorf("%+v %v", w, err)
	}
	mac, fqdn := "00:11:22:aa:bb:cc", "lab7.corp.example"
	u := b.Seen(apitest.Device{Address: "10.1.2.3", Lifecycle: store.Failed, Reason: reason.RootNotTrusted,
		Detail: "it trusts none of ours", Facts: store.DeviceFacts{MAC: &mac, FQDN: &fqdn}})
	swapped := u.SMBIOS()
	for _, id := range []string{u.String(), fmt.Sprintf("%x", swapped[:]), "10.1.2.3", "0011.22aa.bbcc", "LAB7.corp.example"} {
		w, err := admin.Why(t.Context(), id)
		if err != nil || !w.Found || w.Device.UUID != u.String() || w.Reason == nil || w.Reason.Code != string(reason.RootNotTrusted) {
			t.Errorf("%s: %+v %v", id, w, err)
			continue
		}
		if !strings.Contains(w.Says, "lab7.corp.example is not under management") || !strings.Contains(w.Says, "it trusts none of ours") ||
			w.Next == "" || len(w.Checks) == 0 {
			t.Errorf("%s: %+v", id, w)
		}
	}
	w, err := admin.Why(t.Context(), "11223344-5566-7788-99aa-bbccddeeff00")
	if err != nil || w.Found || !strings.Contains(strings.Join(w.Checks, "\n"), "provisionserver.corp.example") ||
		!strings.Contains(strings.Join(w.Checks, "\n"), "hello.listen is loopback") {
		t.Errorf("%+v %v", w, err)
	}
	for _, l := range store.Lifecycles() {
		id := b.Seen(apitest.Device{Lifecycle: l})
		w, err := admin.Why(t.Context(), id.String())
		if err != nil || !strings.HasPrefix(w.Says, id.String()+" ") || len(w.Says) < len(id.String())+10 || w.Next == "" {
			t.Errorf("%s: %+v %v", l, w, err)
		}
	}
}

// TestStreamResumes: what happens is told in order, and a reader who comes back
// with the last id misses nothing and hears nothing twice.
func TestStreamResumes(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		u := b.Seen(apitest.Device{}) // events from before the stream
		say := func(n int) {
			for i := range n {
				b.Write(func(ctx context.Context, tx *store.Tx) error {
					_, err := tx.AddEvent(ctx, store.Event{UUID: u, Name: "contact_ok", Actor: "system", Data: map[string]any{"n": i}})
					return err
				})
			}
		}
		enough := errors.New("enough")
		listen := func(after int64, want int, uuid string) (ids []int64) {
			err := b.Client(b.Admin).Follow(ctx, after, uuid, func(e api.Event) error {
				ids = append(ids, e.ID)
				if len(ids) == want {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) {
				t.Errorf("the stream ended: %v after %d events", err, len(ids))
			}
			return ids
		}
		first := listen(0, 1, "")
		say(250) // more than one page
		rest := listen(first[0], 250, u.String())
		for i := 1; i < len(rest); i++ {
			if rest[i] <= rest[i-1] {
				t.Fatalf("event %d comes after %d", rest[i], rest[i-1])
			}
		}
		if rest[0] <= first[0] {
			t.Errorf("event %d is told twice", first[0])
		}
		resp := stream(ctx, b, fmt.Sprint(rest[248]))
		if line := firstData(t, resp); !strings.Contains(line, fmt.Sprintf(`"id":%d`, rest[249])) {
			t.Errorf("behind Last-Event-ID %d comes %s", rest[248], line)
		}
	})
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 64 {
		if resp := stream(ctx, b, ""); resp.StatusCode != 200 {
			t.Fatalf("stream %d: %d", i, resp.StatusCode)
		}
	}
	if resp := stream(ctx, b, ""); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one stream too many: %d", resp.StatusCode)
	}
	b.API.Close() // the streams end, or the test's own end would wait for ever
}

func TestEventsAreAStreamForWhoAsksForOne(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.HTTP.URL+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+b.Admin)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := b.HTTP.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || !strings.HasPrefix(got, "text/event-stream") {
		t.Errorf("status %d, content type %q", resp.StatusCode, got)
	}
	b.API.Close()
}

// stream opens the stream of events.
func stream(ctx context.Context, b *apitest.Bench, lastID string) *http.Response {
	b.TB.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.HTTP.URL+"/api/v1/events/stream", nil)
	if err != nil {
		b.TB.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+b.Admin)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := b.HTTP.Client().Do(req)
	if err != nil {
		b.TB.Fatal(err)
	}
	b.TB.Cleanup(func() { resp.Body.Close() })
	return resp
}

// firstData is the first event's data of a stream.
func firstData(t *testing.T, resp *http.Response) string {
	t.Helper()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			return data
		}
	}
	t.Error("the stream ended without an event")
	return ""
}
