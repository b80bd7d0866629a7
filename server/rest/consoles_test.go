package rest_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

func authority(t *testing.T, zones ...string) *certs.Authority {
	t.Helper()
	a, err := certs.NewAuthority("test device CA", time.Now(), zones...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func consoleRequest(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// TestConsoleCertificates: who gets one is in the list and the audit, until when
// and what it opens is said, and a revocation says what it cannot do.
func TestConsoleCertificates(t *testing.T) {
	t.Parallel()
	ca := authority(t)
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := []apitest.Option{apitest.With(func(d *rest.Deps) { d.Authority = ca })}
			if name == "postgres" {
				options = append(options, apitest.OnPostgres)
			}
			b := apitest.New(t, options...)
			ctx, admin, keys, viewer := t.Context(), b.Client(b.Admin), b.Client(b.Token(api.KeyAdmin)), b.Client(b.Token(api.Viewer))

			r, err := keys.IssueConsoleCertificate(ctx, api.NewConsoleCertificate{Name: "Console.lab.example.", CSR: consoleRequest(t),
				IssuedTo: "the help desk"})
			if err != nil {
				t.Fatal(err)
			}
			block, rest := pem.Decode([]byte(r.PEM))
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AddCert(ca.Certificate())
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots,
				KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil ||
				leaf.Subject.CommonName != "console.lab.example" {
				t.Errorf("%s: %v", leaf.Subject, err)
			}
			if days := time.Until(leaf.NotAfter).Hours() / 24; days < 89 || days > 91 {
				t.Errorf("good for %.0f days", days)
			}
			if block, _ = pem.Decode(rest); block == nil || string(block.Bytes) != string(ca.Certificate().Raw) {
				t.Error("the device CA is not behind it")
			}
			if !strings.Contains(r.Said, "no profile with mutual TLS") || len(r.Opens.Profiles) != 0 {
				t.Errorf("said %q", r.Said)
			}

			// A profile lets it in, and another does not.
			for name, trusted := range map[string][]string{"open": nil, "named": {"lab.example"}, "other": {"corp.example.com"}} {
				if _, err := admin.ApplyProfile(ctx, name,
					api.NewProfile{Document: map[string]any{"tls": "mutual", "trusted_cn": trusted}}); err != nil {
					t.Fatal(err)
				}
			}
			u := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!")
			named := "named"
			if err := b.DB.Write(ctx, func(tx *store.Tx) error {
				return tx.UpdateDevice(context.Background(), u, store.DeviceFacts{Profile: &named})
			}); err != nil {
				t.Fatal(err)
			}
			gone, err := keys.RevokeConsoleCertificate(ctx, r.ID, "left")
			if err != nil || gone.RevokedAt == nil || gone.Opens.Devices != 1 || strings.Join(gone.Opens.Profiles, ",") != "named,open" ||
				!strings.Contains(gone.Said, "devices hear nothing of it") || !strings.Contains(gone.Said, "1 devices") ||
				!strings.Contains(gone.Said, "trusted_cn") {
				t.Errorf("revoked: %+v, %v", gone, err)
			}
			list, err := viewer.ConsoleCertificates(ctx, false)
			if err != nil || len(list.Certificates) != 1 || list.Certificates[0].IssuedTo != "the help desk" ||
				list.Certificates[0].Why != "left" || list.Certificates[0].NotAfter == nil {
				t.Errorf("%+v, %v", list, err)
			}
			audit, err := admin.Audit(ctx, api.AuditQuery{Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"console-certificate.issue": "console.lab.example",
				"console-certificate.revoke": "console.lab.example"}
			for _, rec := range audit.Records {
				if want[rec.Action] == rec.Subject {
					delete(want, rec.Action)
				}
			}
			if len(want) > 0 {
				t.Errorf("not in the audit: %v", want)
			}
			if d, err := viewer.DeviceCA(ctx); err != nil || d.Server != ca.ConsoleName() || len(d.SHA256) != 64 ||
				!strings.Contains(d.PEM, "BEGIN CERTIFICATE") {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

// TestConsoleCertificatesRefused: what is not issued, with a code and a sentence.
func TestConsoleCertificatesRefused(t *testing.T) {
	t.Parallel()
	ca := authority(t, "corp.example.com")
	b := apitest.New(t, apitest.With(func(d *rest.Deps) { d.Authority = ca }))
	ctx, admin := t.Context(), b.Client(b.Admin)
	csr := consoleRequest(t)
	for _, c := range []struct {
		what, code, says string
		n                api.NewConsoleCertificate
	}{
		{"no name", "invalid_request", "whole DNS name", api.NewConsoleCertificate{CSR: csr}},
		{"one label", "invalid_request", "whole DNS name", api.NewConsoleCertificate{Name: "console", CSR: csr}},
		{"a wildcard", "invalid_request", "whole DNS name", api.NewConsoleCertificate{Name: "*.corp.example.com", CSR: csr}},
		{"our own name", "invalid_request", "servers like this one", api.NewConsoleCertificate{Name: ca.ConsoleName(), CSR: csr}},
		{"too long", "invalid_request", "397", api.NewConsoleCertificate{Name: "console.corp.example.com", CSR: csr, Days: 398}},
		{"no request", "cert_input_invalid", "this is not PEM", api.NewConsoleCertificate{Name: "console.corp.example.com", CSR: "x"}},
		{"outside the device CA's zones", "domain_not_allowed", "corp.example.com", api.NewConsoleCertificate{Name: "console.lab.example", CSR: csr}},
	} {
		if _, err := admin.IssueConsoleCertificate(ctx, c.n); code(err) != c.code || !strings.Contains(err.Error()+fields(err), c.says) {
			t.Errorf("%s: %s: %v", c.what, code(err), err)
		}
	}
	if _, err := admin.RevokeConsoleCertificate(ctx, 99, ""); code(err) != "not_found" {
		t.Errorf("an unknown one: %v", err)
	}
	if _, err := b.Client(b.Token(api.Operator)).IssueConsoleCertificate(ctx,
		api.NewConsoleCertificate{Name: "console.corp.example.com", CSR: csr}); code(err) != "role_missing" {
		t.Errorf("an operator: %v", err)
	}
	l, err := admin.ConsoleCertificates(ctx, true)
	if err != nil || len(l.Certificates) != 0 {
		t.Errorf("%+v, %v", l, err)
	}
}

func fields(err error) (out string) {
	if p, ok := err.(*api.Problem); ok {
		for _, f := range p.Errors {
			out += " " + f.Message
		}
	}
	return out
}

// TestAProfileThatWouldShutUsOut: it is refused with a sentence, and one that could
// lose something says what.
func TestAProfileThatWouldShutUsOut(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		apply := func(doc map[string]any) (api.ProfileView, error) {
			return admin.ApplyProfile(ctx, "branch", api.NewProfile{Document: doc})
		}
		for _, dry := range []bool{true, false} {
			_, err := admin.ApplyProfile(ctx, "branch",
				api.NewProfile{DryRun: dry, Document: map[string]any{"tls": "mutual",
					"trusted_cn": []string{"a.example", "b.example", "c.example", "d.example"}}})
			if code(err) != "invalid_request" || !strings.Contains(err.Error(), "could not log in any more") {
				t.Errorf("no room for us: %v", err)
			}
		}
		if _, err := apply(map[string]any{"tls": "none"}); code(err) != "invalid_request" ||
			!strings.Contains(err.Error(), "unprotected: true") {
			t.Errorf("none without its word: %v", err)
		}
		if v, err := apply(map[string]any{"tls": "none", "unprotected": true}); err != nil || len(v.Risks) != 1 ||
			!strings.Contains(v.Risks[0].Could, "pass our answers on") {
			t.Errorf("none with its word: %+v, %v", v, err)
		}
		if v, err := apply(map[string]any{"tls": "mutual", "trusted_cn": []string{"console.lab.example"}}); err != nil ||
			len(v.Risks) == 0 {
			t.Errorf("mutual: %+v, %v", v, err)
		}
		// One kept before the word was wanted is gone back to.
		if err := b.DB.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.PutProfile(context.Background(),
				store.Profile{Name: "branch", Document: []byte(`{"tls":"none"}`), CreatedBy: "test"})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if v, err := admin.Profile(ctx, "branch", 0); err != nil || v.Profile.TLS != string(profile.TLSNone) {
			t.Errorf("one of before: %+v, %v", v, err)
		}
		old := 3
		if _, err := apply(map[string]any{"tls": "server"}); err != nil {
			t.Fatal(err)
		}
		if v, err := admin.ApplyProfile(ctx, "branch", api.NewProfile{Version: old}); err != nil ||
			v.Profile.TLS != string(profile.TLSNone) || len(v.Risks) == 0 {
			t.Errorf("back to it: %+v, %v", v, err)
		}
	})
}

// TestWhyNamesWhoSharesAName: of two managed devices of one name each says so.
func TestWhyNamesWhoSharesAName(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		c := b.Client(b.Token(api.Viewer))
		name, host := "pc-7.corp.example.com", "pc-7"
		var u [2]string
		for i := range u {
			d := apitest.Device{}
			d.Facts.FQDN, d.Facts.HostName = &name, &host
			id := b.Provisioned(d, "Canary-Admin-9!", "Canary-Mebx-9!")
			now := time.Now()
			if err := b.DB.Write(t.Context(), func(tx *store.Tx) error {
				return tx.UpdateDevice(context.Background(), id, store.DeviceFacts{ProvisionedAt: &now})
			}); err != nil {
				t.Fatal(err)
			}
			u[i] = id.String()
		}
		for i := range u {
			w, err := c.Why(t.Context(), u[i])
			if err != nil || !strings.Contains(w.Says, "also that of "+u[1-i]) ||
				!strings.Contains(strings.Join(w.Checks, "\n"), "provctl device name "+u[i]) {
				t.Errorf("%+v, %v", w, err)
			}
		}
		alone := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!")
		if w, err := c.Why(t.Context(), alone.String()); err != nil || strings.Contains(w.Says, "also that of") {
			t.Errorf("%+v, %v", w, err)
		}
	})
}
