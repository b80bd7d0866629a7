package server

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// restart ends the daemon and starts another one on the same store.
func (l *lab) restart(change func(*Options)) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.s.Stop(ctx); err != nil {
		l.t.Fatal(err)
	}
	l.o.Registry = prometheus.NewRegistry()
	change(&l.o)
	s, err := New(l.o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			l.t.Errorf("stop: %v", err)
		}
	})
	if err := s.Start(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	token, err := os.ReadFile(s.TokenFile())
	if err != nil {
		l.t.Fatal(err)
	}
	l.s, l.api = s, &api.Client{Base: "http://" + s.APIAddr().String(), Token: strings.TrimSpace(string(token))}
}

// drifted counts devices that were found to differ, for a reason with words in it.
func (l *lab) drifted(words string) (n int) {
	l.t.Helper()
	l.read(func(ctx context.Context, tx *store.Tx) error {
		n = 0
		events, err := tx.Events(ctx, store.EventFilter{Limit: 1000})
		for _, e := range events {
			if e.Name == "drift_found" && strings.Contains(e.Detail, words) {
				n++
			}
		}
		return err
	})
	return n
}

func (l *lab) maintains() {
	l.t.Helper()
	if err := l.s.maintainDue(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

// TestAnotherConfigurationIsDrift: after a restart with another profile in the
// configuration, managed devices are brought to it in a rollout;
// a restart with the same one changes nothing.
func TestAnotherConfigurationIsDrift(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.MaintainAtOnce = 2 }, func(t *testing.T, l *lab) {
		fleet := l.fleet(3)
		l.restart(func(o *Options) {})
		l.maintains()
		if n := l.drifted(""); n != 0 || l.s.o.Profile.Version != 1 {
			t.Fatalf("%d devices differ after a restart that changed nothing; version %d", n, l.s.o.Profile.Version)
		}
		l.restart(func(o *Options) {
			o.Profile = profile.Default()
			o.Profile.CertificateDays = 500
		})
		l.maintains()
		const why = "it was made by version 1 of the profile default, and version 2 is the newest"
		at := func(u amt.UUID) {
			t.Helper()
			l.until(u, "version 2", func(d store.Device) bool { return d.ProfileVersion == 2 && d.Lifecycle == store.Provisioned })
		}
		for _, d := range fleet {
			at(d.UUID())
		}
		l.restart(func(o *Options) {})
		l.maintains()
		if n := l.drifted(why); n != 3 || l.s.o.Profile.Version != 2 {
			t.Errorf("%d devices were found to differ, want each once; version %d", n, l.s.o.Profile.Version)
		}
		// A node that still runs with the older configuration judges nobody by it.
		seven := 7
		l.write(func(ctx context.Context, tx *store.Tx) error {
			if err := tx.PutSetting(ctx, ownProfileKey+"default", `{"digest":"another","version":7}`); err != nil {
				return err
			}
			return tx.UpdateDevice(ctx, fleet[0].UUID(), store.DeviceFacts{ProfileVersion: &seven})
		})
		l.maintains()
		if n := l.drifted("made by version 7"); n != 0 {
			t.Errorf("an older configuration found %d devices to differ", n)
		}
	})
}

// TestAChangedRuleIsDrift: a rule that gives managed devices another profile is
// announced, noticed, and brings each device there once.
func TestAChangedRuleIsDrift(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.MaintainAtOnce = 2 }, func(t *testing.T, l *lab) {
		fleet := l.fleet(3)
		l.maintains() // no rule: all is as wanted
		if n := l.drifted(""); n != 0 {
			t.Fatalf("%d devices differ", n)
		}
		if _, err := l.api.ApplyProfile(t.Context(), "kiosk",
			api.NewProfile{Document: map[string]any{"certificate_days": 300}}); err != nil {
			t.Fatal(err)
		}
		rule := map[string]any{"name": "all", "match": map[string]any{"networks": []string{"127.0.0.0/8"}},
			"assign": map[string]any{"profile": "kiosk"}}
		for _, dry := range []bool{true, false} {
			rep, err := l.api.ApplyRules(t.Context(), api.RuleSet{Rules: []map[string]any{rule}, DryRun: dry})
			if err != nil || len(rep.Moves) != 1 || rep.Moves[0].From != "default" || rep.Moves[0].To != "kiosk" ||
				rep.Moves[0].Devices != 3 || fmt.Sprint(rep.Moves[0].Waves) != "[{first 1 0 0} {canary 2 0 0} {rest 0 0 0}]" {
				t.Fatalf("%+v, %v", rep, err)
			}
		}
		l.maintains()
		const why = "the rule all gives it the profile kiosk and it still has default"
		kiosks := func() (n int) {
			for _, d := range fleet {
				l.read(func(ctx context.Context, tx *store.Tx) error {
					dev, err := tx.Device(ctx, d.UUID())
					if dev.Profile == "kiosk" && dev.Lifecycle == store.Provisioned {
						n++
					}
					return err
				})
			}
			return n
		}
		if !waitFor(t, func() bool { return kiosks() == 3 }) {
			t.Fatalf("%d devices have the profile kiosk", kiosks())
		}
		l.maintains()
		l.maintains()
		if n := l.drifted(why); n != 3 {
			t.Errorf("%d times a device was found to differ, want each once", n)
		}
	})
}
