package server

import (
	"context"
	"crypto/x509"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/store"
)

// TestTheWayBackFromADowngrade: a device that shows less than it did before, an
// older TLS or no hardware certificate, is told nothing, whether it is tried again
// or approved again. When a person has looked at it, quarantined it and released
// it, what it showed before is forgotten, and its next hello is set up.
func TestTheWayBackFromADowngrade(t *testing.T) {
	t.Parallel()
	_, root := certtest.ODCA(time.Now())
	roots := x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range []struct {
		name, personality string
		tls, verified     string // what it showed before
		version           amt.Version
		refused           reason.Code
		then              string // the version and the proof kept in the end
	}{
		{"an older TLS", "7", "TLS 1.2", "", amt.Version{}, reason.TLSVersionRefused, "TLS 1.0"},
		{"no hardware certificate", "16", "", "odca", amt.Version{Major: 16, Minor: 1}, reason.ODCAVerificationFailed, "TLS 1.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, func(o *Options) {
				o.Admission, o.ODCARoots, o.ODCA = admit.Approve, roots, "prefer"
			}, func(t *testing.T, l *lab) {
				d := l.device(sim.Faults{}, func(cfg *sim.Config) { cfg.Personality = c.personality })
				u := d.UUID()
				l.says(d)
				l.untilState(u, store.PendingApproval)
				l.write(func(ctx context.Context, tx *store.Tx) error {
					f := store.DeviceFacts{TLSVersion: &c.tls, PeerVerified: &c.verified}
					if !c.version.IsZero() {
						f.Version = &c.version
					}
					return tx.UpdateDevice(ctx, u, f)
				})
				act := func(verb string) {
					t.Helper()
					if _, err := l.api.Act(t.Context(), verb, u.String(), "looked at it"); err != nil {
						t.Fatal(err)
					}
				}
				refused := func() {
					t.Helper()
					dev := l.until(u, "refused", func(d store.Device) bool { return d.Reason == c.refused })
					if s := d.Snapshot(); len(s.SecretsSeen)+len(s.AdminHA1Seen) != 0 || dev.TLSVersion != c.tls ||
						dev.PeerVerified != c.verified {
						t.Errorf("told %d passwords; kept: %q %q", len(s.SecretsSeen)+len(s.AdminHA1Seen), dev.TLSVersion, dev.PeerVerified)
					}
				}
				act("approve")
				refused()
				before := l.heard(u, 1).Attempts
				act("retry")
				l.until(u, "tried again", func(d store.Device) bool { return d.Attempts > before && d.Reason == c.refused })
				refused()

				act("quarantine")
				l.untilState(u, store.Quarantined)
				act("release")
				if dev := l.untilState(u, store.Discovered); dev.TLSVersion != "" || dev.PeerVerified != "" {
					t.Errorf("after its release %q and %q are kept of it", dev.TLSVersion, dev.PeerVerified)
				}
				l.says(d)
				if dev := l.untilState(u, store.Provisioned); dev.TLSVersion != c.then || dev.PeerVerified != "none" {
					t.Errorf("set up by %q, verified %q", dev.TLSVersion, dev.PeerVerified)
				}
				l.keeps(d)
			})
		})
	}
}
