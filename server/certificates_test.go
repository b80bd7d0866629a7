package server

import (
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

func bare(o *Options) { o.Certificates = nil }

// imports what a vendor sent, as provctl does.
func (l *lab) imports(activate bool, data []byte) api.ImportResult {
	l.t.Helper()
	r, err := l.api.ImportCertificate(l.t.Context(), api.NewImport{
		Files: []api.FileBytes{{Name: "order.pfx", Data: data}}, Passwords: []string{"secret"}, Activate: activate,
	})
	if err != nil {
		l.t.Fatalf("import: %v", err)
	}
	return r
}

// trusting is a device with these roots beside its firmware's, on an address
// that no other test process uses either.
func trusting(hashes []amt.TrustHash) func(*sim.Config) {
	return func(c *sim.Config) { c.Roots, c.Addr = hashes, address() }
}

func rootOf(f certtest.Leaf) []amt.TrustHash { return amt.HashesOf(f.Issuers[len(f.Issuers)-1].Raw) }

// TestCertificateComesLater: with no certificate at all the daemon keeps every
// hello and the device waits; an import sets it going without a restart.
func TestCertificateComesLater(t *testing.T) {
	t.Parallel()
	forEachEngine(t, bare, func(t *testing.T, l *lab) {
		vendor := certtest.NewLab(time.Now()).Plain("Later Vendor", "prov.corp.example.com")
		d := l.device(sim.Faults{}, trusting(rootOf(vendor)))
		l.says(d)
		waits := l.untilState(d.UUID(), store.PendingCertificate)
		if waits.Reason != reason.NoProvisioningCertificate {
			t.Errorf("it waits for %s", waits.Reason)
		}
		r := l.imports(false, vendor.PFX(certtest.Modern, "secret"))
		if !r.Activated || r.Requeued.Devices != 1 {
			t.Errorf("imported: activated %v, %+v", r.Activated, r.Requeued)
		}
		got := l.untilState(d.UUID(), store.Provisioned)
		if got.HelloCount != 1 {
			t.Errorf("it took %d hellos", got.HelloCount)
		}
		l.keeps(d)
	})
}

// TestCertificateRefusedThenReplaced: a device that refused the certificate is
// queued again once another is active, and is set up with that one.
func TestCertificateRefusedThenReplaced(t *testing.T) {
	t.Parallel()
	forEachEngine(t, bare, func(t *testing.T, l *lab) {
		vendor := certtest.NewLab(time.Now())
		root := vendor.Root(certtest.Options{Name: "One Root"})
		wrong := root.Leaf(certtest.Options{Name: "prov.elsewhere.example.net", Names: []string{"prov.elsewhere.example.net"}})
		right := root.Leaf(certtest.Options{Name: "prov.corp.example.com", Names: []string{"prov.corp.example.com"}})
		old := l.imports(false, wrong.PFX(certtest.Modern, "secret"))
		d := l.device(sim.Faults{}, trusting(rootOf(right)))
		l.says(d)
		failed := l.until(d.UUID(), "a refusal", func(d store.Device) bool { return d.Lifecycle == store.Failed })
		if reason.Of(failed.Reason).Retry != reason.ForCertificate {
			t.Fatalf("it failed with %s", failed.Reason)
		}
		fresh := l.imports(false, right.PFX(certtest.Modern, "secret"))
		if fresh.Activated {
			t.Error("the second certificate came into use by itself")
		}
		changed, err := l.api.UseCertificate(t.Context(), "replace", old.Report.ID, api.UseCertificate{With: fresh.Report.ID})
		if err != nil {
			t.Fatal(err)
		}
		if changed.Requeued.Devices != 1 {
			t.Errorf("requeued: %+v", changed.Requeued)
		}
		l.untilState(d.UUID(), store.Provisioned)
		if name := d.Snapshot().PeerName; name != "prov.corp.example.com" {
			t.Errorf("it was set up by %s", name)
		}
	})
}

// TestSessionKeepsItsChain: a session under way when its certificate is removed
// ends on the chain it has.
func TestSessionKeepsItsChain(t *testing.T) {
	t.Parallel()
	forEachEngine(t, bare, func(t *testing.T, l *lab) {
		vendor := certtest.NewLab(time.Now())
		root := vendor.Root(certtest.Options{Name: "One Root"})
		first := root.Leaf(certtest.Options{Name: "first.corp.example.com", Names: []string{"first.corp.example.com"}})
		second := root.Leaf(certtest.Options{Name: "second.corp.example.com", Names: []string{"second.corp.example.com"}})
		old := l.imports(false, first.PFX(certtest.Modern, "secret"))
		fresh := l.imports(false, second.PFX(certtest.Modern, "secret"))
		d := l.device(sim.Faults{}, trusting(rootOf(first)), func(c *sim.Config) { c.Latency = 60 * time.Millisecond })
		l.says(d)
		for deadline := time.Now().Add(patience); d.Snapshot().Requests < 2; {
			if time.Now().After(deadline) {
				t.Fatal("no session began")
			}
			<-time.After(2 * time.Millisecond)
		}
		if _, err := l.api.UseCertificate(t.Context(), "replace", old.Report.ID, api.UseCertificate{With: fresh.Report.ID}); err != nil {
			t.Fatal(err)
		}
		l.untilState(d.UUID(), store.Provisioned)
		s := d.Snapshot()
		if s.PeerName != "first.corp.example.com" || s.BadHandshakes != 0 {
			t.Errorf("it was set up by %s with %d failed handshakes", s.PeerName, s.BadHandshakes)
		}
		other := l.device(sim.Faults{}, trusting(rootOf(first)))
		l.says(other)
		l.untilState(other.UUID(), store.Provisioned)
		if name := other.Snapshot().PeerName; name != "second.corp.example.com" {
			t.Errorf("the next device was set up by %s", name)
		}
	})
}

// TestCrossSignedShapes: one certificate in the shapes of Go Daddy G2 under
// Class 2 and USERTrust under AAA serves a device that knows the old root only
// and one that knows the new root only.
func TestCrossSignedShapes(t *testing.T) {
	t.Parallel()
	vendor := certtest.NewLab(time.Now())
	for name, shape := range map[string]certtest.CrossSigned{
		"go daddy": vendor.GoDaddy("prov.corp.example.com"), "sectigo": vendor.Sectigo("prov.corp.example.com"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forEachEngine(t, bare, func(t *testing.T, l *lab) {
				r := l.imports(false, certtest.PFX(certtest.Modern, "secret", shape.Leaf.Key, shape.All()...))
				if len(r.Report.Chains) != 2 {
					t.Fatalf("%d chains", len(r.Report.Chains))
				}
				old := l.device(sim.Faults{}, trusting(amt.HashesOf(shape.OldRoot.Raw)), func(c *sim.Config) { c.Personality = "9" })
				fresh := l.device(sim.Faults{}, trusting(amt.HashesOf(shape.NewRoot.Raw)), func(c *sim.Config) { c.Personality = "16" })
				l.says(old)
				l.says(fresh)
				for _, d := range []*sim.Device{old, fresh} {
					l.untilState(d.UUID(), store.Provisioned)
					if s := d.Snapshot(); s.BadHandshakes != 0 {
						t.Errorf("AMT %s refused a chain: %v", s.Version, s.Refusals)
					}
					l.keeps(d)
				}
			})
		})
	}
}
