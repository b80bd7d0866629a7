package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// TestWhoRefusedIsAskedAgainForACause: a device that refused our certificate is not
// called by the timer, nor when rules and profiles are applied, until something is
// another that could change its answer: its suffix, its address, the certificates
// that fit it. What a dry run says would begin is what begins.
func TestWhoRefusedIsAskedAgainForACause(t *testing.T) {
	t.Parallel()
	vendor := certtest.NewLab(time.Now())
	fits := vendor.Plain("Fitting Vendor", "prov.plant.local")
	strange := vendor.Plain("Strange Vendor", "prov.plant.local")
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		ctx := t.Context()
		d := l.device(sim.Faults{}, trusting(append(l.roots(), rootOf(fits)...)), func(c *sim.Config) { c.MEBxSuffix = "plant.local" })
		u := d.UUID()
		failed := func(n int) store.Device {
			t.Helper()
			return l.until(u, "so many attempts failed", func(dev store.Device) bool {
				count := 0
				for _, e := range l.events(u) {
					if e == store.AttemptFailed {
						count++
					}
				}
				return count == n && dev.Lifecycle == store.Failed
			})
		}
		waits := func(what string) {
			t.Helper()
			if n, err := l.s.Admit.Reconsider(ctx); n != 0 || err != nil {
				t.Errorf("%s: %d runs started, %v", what, n, err)
			}
		}
		l.says(d)
		failed(1)
		waits("at once")
		rule := func(name string) map[string]any {
			return map[string]any{"name": name, "assign": map[string]any{"profile": "default"}}
		}
		for i, r := range []api.RuleSet{{Rules: []map[string]any{rule("a")}}, {Rules: []map[string]any{rule("a")}},
			{Rules: []map[string]any{rule("b")}}, {Rules: []map[string]any{rule("b")}, DryRun: true}} {
			if rep, err := l.api.ApplyRules(ctx, r); err != nil || rep.Started != 0 {
				t.Errorf("rules %d: %+v, %v", i, rep, err)
			}
		}
		if v, err := l.api.ApplyProfile(ctx, "other", api.NewProfile{Document: map[string]any{"password_days": 30}}); err != nil ||
			v.Started != 0 {
			t.Errorf("a profile: %+v, %v", v, err)
		}
		if w, err := l.api.Why(ctx, u.String()); err != nil || !strings.Contains(w.Next, "suffix") || !strings.Contains(w.Next, "retry") {
			t.Errorf("why says: %q, %v", w.Next, err)
		}
		l.imports(true, strange.PFX(certtest.Modern, "secret"))
		waits("after a certificate that does not fit it")

		suffix := "plant.local"
		l.write(func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, u, store.DeviceFacts{Suffix: &suffix})
		})
		if rep, err := l.api.ApplyRules(ctx, api.RuleSet{Rules: []map[string]any{rule("b")}, DryRun: true}); err != nil ||
			rep.Started != 1 {
			t.Errorf("a dry run: %+v, %v", rep, err)
		}
		if n, err := l.s.Admit.Reconsider(ctx); n != 1 || err != nil {
			t.Errorf("after its suffix is known: %d runs started, %v", n, err)
		}
		failed(2)
		waits("after that")

		l.imports(true, fits.PFX(certtest.Modern, "secret"))
		l.untilState(u, store.Provisioned)
		l.keeps(d)
	})
}
