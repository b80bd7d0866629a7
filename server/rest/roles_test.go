package rest

import (
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/server/api"
)

// TestRolesAreComplete: every operation has a line in the table of roles, and
// every line has an operation.
func TestRolesAreComplete(t *testing.T) {
	t.Parallel()
	s := New(Deps{Log: zap.NewNop(), Metrics: NewMetrics(prometheus.NewRegistry())})
	var have []string
	for _, item := range s.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				have = append(have, op.OperationID)
			}
		}
	}
	for _, id := range api.Admin.Operations() {
		if !slices.Contains(have, id) {
			t.Errorf("the table of roles has %s, which is no operation", id)
		}
	}
	for _, id := range have {
		if _, known := api.Allowed(id); !known {
			t.Errorf("operation %s has no line in the table of roles", id)
		}
	}
}

// TestRolesKeepApart: what must never come together in one role.
func TestRolesKeepApart(t *testing.T) {
	t.Parallel()
	for _, r := range api.Roles() {
		if r != api.Admin && r != api.SecretReader && r.May("reveal-secret") {
			t.Errorf("%s may read passwords", r)
		}
		if r != api.Admin && r.May("create-token") {
			t.Errorf("%s may make tokens", r)
		}
		if !r.Valid() {
			t.Errorf("%s is not a role", r)
		}
	}
	for _, id := range api.Admin.Operations() {
		if id != "whoami" && id != "list-reasons" && !strings.HasSuffix(id, "-audit") && api.Auditor.May(id) {
			t.Errorf("an auditor may %s", id)
		}
	}
	if api.Role("root").Valid() || api.Role("root").May("whoami") || api.Admin.May("no-such-operation") {
		t.Error("an unknown role or operation is let through")
	}
}
