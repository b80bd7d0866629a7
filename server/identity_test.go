package server

import (
	"context"
	"testing"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// TestAnotherBoardUnderAKnownUUID is told nothing until a person has looked.
func TestAnotherBoardUnderAKnownUUID(t *testing.T) {
	t.Parallel()
	forEachEngine(t, approveMode, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{})
		l.says(d)
		l.untilState(d.UUID(), store.PendingApproval)
		mac := "02:00:5e:00:53:01" // of the machine known under this UUID
		l.write(func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, d.UUID(), store.DeviceFacts{MAC: &mac})
		})
		if _, err := l.api.Act(t.Context(), "approve", d.UUID().String(), ""); err != nil {
			t.Fatal(err)
		}
		dev := l.untilState(d.UUID(), store.Quarantined)
		if dev.Reason != reason.IdentityConflict || dev.MAC != mac {
			t.Errorf("%s, MAC %s: %s", dev.Reason, dev.MAC, dev.Detail)
		}
		if s := d.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen)+s.Commits != 0 {
			t.Error("it was told a password")
		}
		if _, err := l.api.Act(t.Context(), "release", d.UUID().String(), "the board was changed"); err != nil {
			t.Fatal(err)
		}
		l.says(d)
		if dev = l.untilState(d.UUID(), store.Provisioned); dev.MAC == mac {
			t.Error("the old MAC stands")
		}
		l.keeps(d)
	})
}

// TestARuleByVersion fits at the first contact, before anything is changed.
func TestARuleByVersion(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		if _, err := l.api.ApplyProfile(t.Context(), "modern",
			api.NewProfile{Document: map[string]any{"host_name": "new-{uuid8}", "domain": "modern.example.com"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.api.ApplyRules(t.Context(), api.RuleSet{Rules: []map[string]any{
			{"name": "modern", "match": map[string]any{"amt": ">=11", "suffixes": []string{"example.com"}}, "assign": map[string]any{"profile": "modern"}},
		}}); err != nil {
			t.Fatal(err)
		}
		d := l.device(sim.Faults{})
		l.says(d)
		want := "new-" + d.UUID().String()[:8] + ".modern.example.com"
		if dev := l.untilState(d.UUID(), store.Provisioned); dev.FQDN != want || dev.Profile != "modern" {
			t.Errorf("%s with profile %q, want %s", dev.FQDN, dev.Profile, want)
		}
	})
}
