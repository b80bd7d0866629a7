package server

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// mutualFor wants mutual TLS for a console that is not this server.
func mutualFor(o *Options) {
	o.Profile = profile.Default()
	o.Profile.TLS, o.Profile.TrustedCN = profile.TLSMutual, []string{"console.lab.example"}
}

// TestConsoleCertificateOpensADevice: what the API issues lets openssl through the
// mutual TLS of a device that names the console, a stranger's does not come through,
// and this server still does, which nobody named.
func TestConsoleCertificateOpensADevice(t *testing.T) {
	t.Parallel()
	forEachEngine(t, mutualFor, func(t *testing.T, l *lab) {
		ctx := t.Context()
		d := l.device(sim.Faults{}, func(c *sim.Config) { c.Personality = "16" }) // speaks TLS 1.2
		l.says(d)
		l.untilState(d.UUID(), store.Provisioned)
		if names := d.Snapshot().TrustedCN; !slices.Equal(names, []string{"console.lab.example", l.s.Trust.ca.ConsoleName()}) {
			t.Errorf("the device lets in %v", names)
		}
		ca, err := l.api.DeviceCA(ctx)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		put := func(name, text string) string {
			name = filepath.Join(dir, name)
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return name
		}
		root := put("ca.pem", ca.PEM)
		for _, c := range []struct {
			name string
			good bool
		}{{"console.lab.example", true}, {"desk.console.lab.example", true}, {"console.other.example", false}} {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
			if err != nil {
				t.Fatal(err)
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			r, err := l.api.IssueConsoleCertificate(ctx,
				api.NewConsoleCertificate{Name: c.name,
					CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}))})
			if err != nil {
				t.Fatal(err)
			}
			if c.good != (r.Opens.Devices == 1) {
				t.Errorf("%s: said to open %+v", c.name, r.Opens)
			}
			cert := put(c.name+".pem", r.PEM)
			cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", d.Addr().String(), "-tls1_2", "-cert", cert, "-cert_chain",
				cert,
				"-key", put(c.name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))), "-CAfile", root,
				"-verify_return_error", "-cipher", "ALL:@SECLEVEL=0")
			cmd.Stdin = strings.NewReader("Q\n")
			out, err := cmd.CombinedOutput()
			if through := err == nil && strings.Contains(string(out), "Verify return code: 0 (ok)"); through != c.good {
				t.Errorf("%s comes through: %t (%v)\n%s", c.name, through, err, out)
			}
			if c.good && !strings.Contains(string(out), "TLSv1.2") {
				t.Errorf("openssl says\n%s", out)
			}
		}
		l.keeps(d)
	})
}

// TestOurNameStays: it is the same on two nodes and after a restart, whatever becomes
// of provisioning certificates, and our certificate is renewed before its end.
func TestOurNameStays(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		before, root := l.s.Trust.Console()
		l.s.Trust.Replace(nil)
		if after, _ := l.s.Trust.Console(); after != before {
			t.Error("without a provisioning certificate it is another one")
		}
		o := l.o
		o.Node, o.DataDir, o.Registry = "n2", t.TempDir(), prometheus.NewRegistry()
		if o.DatabaseURL == "" { // one SQLite is one node's: it is started again
			o.DataDir = l.o.DataDir
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
			defer cancel()
			if err := l.s.Stop(ctx); err != nil {
				t.Fatal(err)
			}
		}
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_ = s.Stop(ctx)
		})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		other, again := s.Trust.Console()
		if other.Leaf.Subject.CommonName != before.Leaf.Subject.CommonName || !slices.Equal(root, again) ||
			!other.PrivateKey.(*rsa.PrivateKey).Equal(before.PrivateKey) {
			t.Errorf("%s here, %s there", before.Leaf.Subject, other.Leaf.Subject)
		}
	})
	ca, err := certs.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	trust := NewTrust(ca, key, func() time.Time { return now })
	first, _ := trust.Console()
	now = first.Leaf.NotAfter.Add(-consoleRenew - time.Hour)
	if c, _ := trust.Console(); c != first {
		t.Error("renewed a day too early")
	}
	now = first.Leaf.NotAfter.Add(-consoleRenew + time.Hour)
	if c, _ := trust.Console(); c == first || !c.Leaf.NotAfter.After(first.Leaf.NotAfter) ||
		c.Leaf.Subject.CommonName != first.Leaf.Subject.CommonName {
		t.Error("not renewed in its last month")
	}
}

// TestAnUpgradeLosesNoDevice: a device that an earlier release set up with mutual TLS
// knows it by the name of its provisioning certificate. It is maintained after the
// upgrade, and goes on to be when that certificate is taken away.
func TestAnUpgradeLosesNoDevice(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) {
		mutualFor(o)
		o.Profile.TrustedCN = []string{"corp.example.com"}
		o.MaintainContact = -1
	}, func(t *testing.T, l *lab) {
		d := l.device(sim.Faults{})
		l.says(d)
		dev := l.untilState(d.UUID(), store.Provisioned)
		// As the earlier release left it: our own name is not among the trusted ones.
		old := l.s.Trust.ConsoleAs("prov.corp.example.com")
		var admin store.Credential
		l.read(func(ctx context.Context, tx *store.Tx) error {
			list, err := tx.Credentials(ctx, d.UUID(), store.KindAdmin)
			for _, c := range list {
				if c.State == store.CredentialActive {
					admin = c
				}
			}
			return err
		})
		s, err := session.NewDialer(session.Config{}, nil, nil).Dial(t.Context(), session.Target{Addr: d.Addr(), Client: old,
			Logins: []session.Login{{Name: "test", User: "admin", Password: admin.Password}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.EnableTLS(t.Context(), true, []string{"corp.example.com"}); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		own, _ := l.s.Trust.Console()
		comesIn := func(c *tls.Certificate) bool {
			s, err := session.NewDialer(session.Config{RefusedPatience: -1}, nil, nil).Dial(t.Context(),
				session.Target{Addr: d.Addr(), Client: c})
			if err == nil {
				_ = s.Close()
			}
			return err == nil
		}
		if comesIn(own) {
			t.Fatal("our own name comes in, so this shows nothing")
		}
		l.s.Trust.Replace(nil) // cert deactivate
		if _, err := l.api.Maintain(t.Context(), d.UUID().String(), api.MaintainBody{Task: "tls"}); err != nil {
			t.Fatal(err)
		}
		l.until(d.UUID(), "its TLS to be looked at", func(now store.Device) bool {
			return now.LastContact.After(dev.LastContact) && now.Lifecycle == store.Provisioned && now.Reason == ""
		})
		if !comesIn(own) {
			t.Errorf("it did not learn our name: %v\n%s", d.Snapshot().TrustedCN, l.story(d.UUID()))
		}
	})
}
