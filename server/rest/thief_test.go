package rest_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestWhatAThiefCanDo: what the manual's table says of who has a viewer's token, an
// operator's, or a copy of the database.
func TestWhatAThiefCanDo(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx := t.Context()
		known := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!").String()
		waits := b.Seen(apitest.Device{Lifecycle: store.PendingApproval, Reason: reason.NotAuthorized}).String()
		viewer, operator := b.Token(api.Viewer), b.Token(api.Operator)

		// A viewer's changes nothing. These two are questions, with a body.
		questions := []string{"decode-hello", "test-rules"}
		for path, item := range b.API.OpenAPI().Paths {
			for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
				if op == nil || op.OperationID == "stream-events" {
					continue
				}
				resp := b.Do(op.Method, strings.NewReplacer("{uuid}", known, "{id}", "1").Replace(path), viewer, "")
				if body := text(t, resp); strings.Contains(body, "Canary-") {
					t.Errorf("%s tells a viewer a password: %s", op.OperationID, body)
				}
				if op.Method != http.MethodGet && resp.StatusCode != 403 && !slices.Contains(questions, op.OperationID) {
					t.Errorf("%s as a viewer: %d", op.OperationID, resp.StatusCode)
				}
			}
		}

		// An operator's lets a device in, with a name to it, and reads no password,
		// makes no token and changes no rule.
		thief := b.Client(operator)
		if _, err := thief.Act(ctx, "approve", waits, ""); err != nil {
			t.Errorf("approve: %v", err)
		}
		if _, err := thief.Act(ctx, "retire", waits, "sold"); err != nil {
			t.Errorf("retire: %v", err)
		}
		audit, err := b.Client(b.Admin).Audit(ctx, api.AuditQuery{Newest: true, Limit: 1000, Subject: waits})
		for _, verb := range []string{"approve", "retire"} {
			if err != nil || !slices.ContainsFunc(audit.Records, func(r api.AuditRecord) bool {
				return strings.Contains(r.Action, verb) && strings.Contains(r.Actor, "t-operator")
			}) {
				t.Errorf("the audit does not say who did it, %s: %+v, %v", verb, audit.Records, err)
			}
		}
		if r, err := thief.Reveal(ctx, known, "admin", "for myself"); code(err) != api.CodeForbidden || r.Password != "" {
			t.Errorf("reveal: %v", err)
		}
		if made, err := thief.CreateToken(ctx, api.NewToken{Name: "mine", Role: "admin"}); code(err) != api.CodeForbidden ||
			made.Secret != "" {
			t.Errorf("a token: %v", err)
		}
		if _, err := thief.ApplyRules(ctx, api.RuleSet{}); code(err) != api.CodeForbidden {
			t.Errorf("rules: %v", err)
		}

		// What the database keeps of a token is no token.
		var kept []store.Token
		b.Read(func(ctx context.Context, tx *store.Tx) (err error) {
			kept, err = tx.Tokens(ctx)
			return err
		})
		if len(kept) < 3 {
			t.Fatalf("%d tokens are kept", len(kept))
		}
		for _, k := range kept[:2] {
			for _, guess := range []string{hex.EncodeToString(k.Hash), "pvd_" + base64.RawURLEncoding.EncodeToString(k.Hash)} {
				if status := b.Get("/api/v1/whoami", guess).StatusCode; status != 401 {
					t.Errorf("what is stored of the token %s: %d", k.Name, status)
				}
			}
		}
	})
}
