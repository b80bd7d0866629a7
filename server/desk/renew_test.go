package desk_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
)

func (l *lab) entry(id string) desk.Entry {
	l.tb.Helper()
	e, _, err := l.desk.Show(l.tb.Context(), id)
	if err != nil {
		l.tb.Fatal(err)
	}
	return e
}

func (l *lab) list() []desk.Entry {
	l.tb.Helper()
	all, err := l.desk.List(l.tb.Context())
	if err != nil {
		l.tb.Fatal(err)
	}
	return all
}

// refusesRenewal: a renewal has to be refused, with these words and without a trace.
func (l *lab) refusesRenewal(id string, mode desk.Mode, words string) {
	l.tb.Helper()
	before := l.state()
	var refused *desk.RefusedError
	if _, err := l.desk.Renew(l.tb.Context(), id, desk.RenewOptions{Actor: "token:test", Mode: mode}); !errors.As(err, &refused) ||
		!strings.Contains(err.Error(), words) {
		l.tb.Errorf("want %q, got %v", words, err)
	}
	if d := cmp.Diff(before, l.state()); d != "" {
		l.tb.Errorf("a refused renewal changed something:\n%s", d)
	}
}

// TestRenewByHand: a request with the names and options of the certificate,
// which belongs to it over a restart; what the CA sends follows it, whatever
// else has the same names. A dry run leaves no trace.
func TestRenewByHand(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		root := l.vendor.Root(certtest.Options{Name: "Vendor Root"})
		first := root.Leaf(certtest.Options{Name: "prov.corp.example.com",
			Names: []string{"prov.corp.example.com", "prov.branch.example.net"}, OU: []string{certs.SetupOU}})
		old := l.imports(pfx(first.PFX(certtest.Modern, "secret"), "secret")).Report.ID
		managed := l.device(1, store.Provisioned, "11.8.50", "corp.example.com", first)

		before := l.state()
		dry, err := l.desk.Renew(ctx, old, desk.RenewOptions{Actor: "token:test", DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		want := []desk.Group{{Version: "11.8.50", Suffix: "corp.example.com", Devices: 1, Sample: []string{managed.String()}}}
		if d := cmp.Diff(want, dry.Keep); d != "" || dry.Mode != string(desk.Manual) || dry.Request != nil || len(dry.Lose) != 0 ||
			!slices.Equal(dry.Roots, []string{"Vendor Root"}) {
			t.Errorf("dry run: %+v\n%s", dry, d)
		}
		if d := cmp.Diff(before, l.state()); d != "" {
			t.Errorf("a dry run changed something:\n%s", d)
		}
		if open, err := l.desk.Requests(ctx, false); err != nil || len(open) != 0 {
			t.Errorf("a dry run left %v, %v", open, err)
		}

		made, err := l.desk.Renew(ctx, old, desk.RenewOptions{Actor: "token:test"})
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(made.Request.CSR))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(csr.DNSNames, first.Cert.DNSNames) || csr.Subject.CommonName != "prov.corp.example.com" ||
			!slices.Equal(csr.Subject.OrganizationalUnit, []string{certs.SetupOU}) {
			t.Errorf("asked for %v %v", csr.Subject, csr.DNSNames)
		}
		l.restart()
		open, err := l.desk.Requests(ctx, false)
		if err != nil || len(open) != 1 || open[0].Follows != old {
			t.Fatalf("pending after a restart: %+v %v", open, err)
		}
		if r := l.entry(old).Renewal(l.list()); r.Mode != desk.Manual || r.Request != made.Request.ID || r.By != "token:test" {
			t.Errorf("under way after a restart: %+v", r)
		}
		l.refusesRenewal(old, desk.Manual, "under way already: request "+made.Request.ID)

		// Given up, the mode stays and another renewal can begin.
		if _, err := l.desk.CancelRequest(ctx, "token:test", made.Request.ID); err != nil {
			t.Fatal(err)
		}
		if r := l.entry(old).Renewal(l.list()); r.Request != "" || r.Mode != desk.Manual {
			t.Errorf("after it was given up: %+v", r)
		}
		if made, err = l.desk.Renew(ctx, old, desk.RenewOptions{Actor: "token:test"}); err != nil {
			t.Fatal(err)
		}
		block, _ = pem.Decode([]byte(made.Request.CSR))
		if csr, err = x509.ParseCertificateRequest(block.Bytes); err != nil {
			t.Fatal(err)
		}

		// A twin with the same names is in use as well, and is not what it follows.
		twin := root.Leaf(certtest.Options{Name: "prov.corp.example.com", Key: "twin", Names: first.Cert.DNSNames})
		o := pfx(twin.PFX(certtest.Modern, "secret"), "secret")
		o.Activate = true
		l.imports(o)
		leaf := root.Sign(certtest.Options{Name: csr.Subject.CommonName, Names: csr.DNSNames,
			NotAfter: first.Cert.NotAfter.Add(90 * 24 * time.Hour)}, csr.PublicKey)
		got := l.imports(desk.ImportOptions{Files: []certs.File{{Name: "answer", Data: certtest.PEM(leaf, root.Cert)}}})
		fresh := l.entry(got.Report.ID)
		if got.Report.Request != made.Request.ID || got.State != desk.Standby || fresh.Note.Follows != old ||
			desk.Renews(fresh, l.list(), l.now) != old {
			t.Errorf("the answer is %s of request %s and follows %q", got.State, got.Report.Request, fresh.Note.Follows)
		}
		if r := l.entry(old).Renewal(l.list()); r.Request != "" || r.Certificate != fresh.ID {
			t.Errorf("the old one's renewal: %+v", r)
		}
		l.refusesRenewal(old, "", "provctl cert replace "+old+" "+fresh.ID)
		if _, err := l.desk.Remove(ctx, fresh.ID, desk.UseOptions{Actor: "token:test"}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.desk.Renew(ctx, old, desk.RenewOptions{Actor: "token:test", DryRun: true}); err != nil {
			t.Errorf("with the successor in the trash: %v", err)
		}
		l.refusesRenewal(fresh.ID, "", "provctl cert restore "+fresh.ID)
	})
}

// TestRenewUnderOwnRoot: what the root kept here issued is issued again, beside
// the old one, and nothing else is.
func TestRenewUnderOwnRoot(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		ctx := t.Context()
		bought, o := l.leaf("Vendor", "prov.corp.example.com")
		vendor := l.imports(o).Report.ID
		l.refusesRenewal(vendor, desk.OwnRoot, "was not issued by the root kept here")
		made, err := l.desk.CreateRoot(ctx, "token:test", "Example AMT root")
		if err != nil {
			t.Fatal(err)
		}
		l.refusesRenewal(vendor, desk.OwnRoot, "was not issued by the root kept here")
		issued, err := l.desk.Issue(ctx, "token:test", []string{"provisionserver.corp.local", "*.corp.local"}, 400)
		if err != nil {
			t.Fatal(err)
		}
		old := issued.Report.ID
		if _, err := l.desk.Activate(ctx, old, desk.UseOptions{Actor: "token:test"}); err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(made.PEM))
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		waits := l.device(1, store.PendingCertificate, "11.8.50", "corp.local", certtest.Leaf{Issuers: []*x509.Certificate{root}})
		l.device(2, store.PendingCertificate, "11.8.50", "corp.example.com", bought)
		want := []desk.Group{{Version: "11.8.50", Suffix: "corp.local", Waiting: true, Devices: 1, Sample: []string{waits.String()}}}

		l.now = l.now.Add(380 * 24 * time.Hour)
		before := l.state()
		dry, err := l.desk.Renew(ctx, old, desk.RenewOptions{Actor: "token:test", DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, dry.Keep); d != "" || dry.Mode != string(desk.OwnRoot) || len(dry.Lose) != 0 ||
			dry.NotAfter.Sub(l.now.Add(400*24*time.Hour)).Abs() > time.Minute {
			t.Errorf("dry run: %+v\n%s", dry, d)
		}
		if d := cmp.Diff(before, l.state()); d != "" {
			t.Errorf("a dry run changed something:\n%s", d)
		}
		backups := len(l.backups())

		done, err := l.desk.Renew(ctx, old, desk.RenewOptions{Actor: "token:test"})
		if err != nil {
			t.Fatal(err)
		}
		fresh := l.entry(done.Imported.Report.ID)
		if fresh.State != desk.Standby || !slices.Equal(fresh.Names, []string{"provisionserver.corp.local", "*.corp.local"}) ||
			fresh.Note.Follows != old || fresh.Note.Renewal.Mode != desk.OwnRoot ||
			done.Imported.Passphrase.IsZero() || len(l.backups()) != backups+1 {
			t.Errorf("issued: %+v %+v", fresh, done.Imported)
		}
		if !fresh.Paths[0].Root().Equal(root) || desk.Renews(fresh, l.list(), l.now) != old {
			t.Errorf("it ends in %s and follows %q", fresh.Paths[0].Root().Subject, desk.Renews(fresh, l.list(), l.now))
		}
		if r := l.entry(old).Renewal(l.list()); r.Mode != desk.OwnRoot || r.Certificate != fresh.ID {
			t.Errorf("the old one's renewal: %+v", r)
		}
		if !slices.Contains(l.inUse, old) {
			t.Error("the old one was taken out of use")
		}
		l.refusesRenewal(old, "", fresh.ID+" follows")
		if _, err := l.desk.Replace(ctx, old, fresh.ID, desk.UseOptions{Actor: "token:test"}); err != nil {
			t.Errorf("a waiting device is served by the successor too: %v", err)
		}

		// Where the root itself ends, there is no successor.
		l.now = root.NotAfter.Add(-24 * time.Hour)
		last, err := l.desk.Issue(ctx, "token:test", []string{"last.corp.local"}, 30)
		if err != nil {
			t.Fatal(err)
		}
		l.refusesRenewal(last.Report.ID, "", "nothing it issues outlives")
	})
}

// TestRenewModes: what is not offered is said to be, with the reason.
func TestRenewModes(t *testing.T) {
	t.Parallel()
	for in, says := range map[string]string{"acme": "no public CA is known", "est": "no public CA is known",
		"ca-api": "no public CA is known", "magic": "no renewal mode magic"} {
		if _, err := desk.ParseMode(in); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", in, err)
		}
	}
	for _, in := range []string{"", "manual", "own-root"} {
		if m, err := desk.ParseMode(in); err != nil || string(m) != in {
			t.Errorf("%q: %q, %v", in, m, err)
		}
	}
}

// TestReminderNamesNextStep: what reminds of an end says what to type next, as
// far as the renewal is.
func TestReminderNamesNextStep(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		_, o := l.leaf("Vendor", "prov.corp.example.com")
		old := l.imports(o).Report.ID
		l.now = l.entry(old).Leaf.NotAfter.Add(-20 * 24 * time.Hour)
		says := func(words string) {
			t.Helper()
			if !slices.ContainsFunc(l.desk.Banners(),
				func(b desk.Banner) bool { return b.Code == "cert_expiring" && strings.Contains(b.Text, words) }) {
				t.Errorf("no banner says %q: %+v", words, l.desk.Banners())
			}
		}
		says("provctl cert renew " + old)
		made, err := l.desk.Renew(t.Context(), old, desk.RenewOptions{Actor: "token:test"})
		if err != nil {
			t.Fatal(err)
		}
		says("renewal under way: request " + made.Request.ID)
	})
}
