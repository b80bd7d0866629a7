package certs

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs/certtest"
)

// vendor plays the CA: it answers a request with a leaf under its intermediate.
func vendor(t testing.TB, cn string) (root *x509.Certificate, middle *certtest.CA, pending Pending) {
	t.Helper()
	l := lab()
	r := l.Root(certtest.Options{Name: "Vendor Root", Org: "Vendor"})
	middle = r.Intermediate(certtest.Options{Name: "Vendor CA", Org: "Vendor"})
	key := l.RSAKey("request of "+cn, 2048)
	der, err := x509.CreateCertificateRequest(nil, requestTemplate(cn), key)
	if err != nil {
		t.Fatal(err)
	}
	return r.Cert, middle, Pending{ID: "0123456789abcdef", Key: key, DER: der, CreatedAt: now.AddDate(0, 0, -3), Host: "node1"}
}

func requestTemplate(cn string) *x509.CertificateRequest {
	r := &x509.CertificateRequest{DNSNames: []string{cn}, SignatureAlgorithm: x509.SHA256WithRSA}
	r.Subject.CommonName = cn
	r.Subject.Organization = []string{"Example GmbH"}
	return r
}

func bundleOf(t testing.TB, certs ...*x509.Certificate) *Bundle {
	t.Helper()
	b, err := ParseBundle(t.Context(), []File{{"bundle.pem", certtest.PEM(certs...)}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestJoinARequest(t *testing.T) {
	t.Parallel()
	const cn = "prov.corp.example.com"
	root, middle, pending := vendor(t, cn)
	leaf := middle.Sign(certtest.Options{Name: cn, Names: []string{cn, "www." + cn}, Org: "EXAMPLE GMBH",
		OU: []string{"Domain Control Validated"}}, pending.Key.Public())
	stranger := lab().Plain("Stranger", "y.example.com")
	p, r, err := Join(t.Context(), bundleOf(t, root, stranger.Issuers[0], leaf, middle.Cert),
		JoinOptions{Pending: []Pending{{ID: "other", Key: stranger.Key}, pending}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Usable() || r.Err() != nil || p.Key != pending.Key || r.Request != pending.ID {
		t.Fatalf("usable %v, request %q, %v", p.Usable(), r.Request, p.Findings)
	}
	if len(r.Chains) != 1 || len(r.Chains[0].Certs) != 3 || r.Chains[0].Root != "Vendor Root" || r.Chains[0].Certs[0].Key != "RSA 2048" {
		t.Errorf("chains: %+v", r.Chains)
	}
	want := []Difference{
		{"organization", "Example GmbH", "EXAMPLE GMBH"},
		{"organizational unit", "none", "Domain Control Validated"},
		{"DNS names", "prov.corp.example.com", "prov.corp.example.com, www.prov.corp.example.com"},
	}
	if d := cmp.Diff(want, r.Differences); d != "" {
		t.Errorf("differences (-want +got):\n%s", d)
	}
	if len(r.Unrelated) != 1 || r.Unrelated[0] != "Stranger Issuing CA" {
		t.Errorf("unrelated: %v", r.Unrelated)
	}
	if r.DaysLeft != 365 {
		t.Errorf("days left: %d", r.DaysLeft)
	}
	if a := p.Expect(version("11.8"), "corp.example.com"); a.Answer != AnswerMaybe || !strings.Contains(a.Why, "Vendor Root") ||
		!strings.Contains(a.Why, "ends in the device's suffix") {
		t.Errorf("expected of AMT 11.8: %+v", a)
	}
	if a := p.Expect(version("11.8"), "other.io"); a.Answer != AnswerNo || !strings.Contains(a.Why, "other.io") {
		t.Errorf("expected of AMT 11.8 in another domain: %+v", a)
	}
	if len(r.Accepted) != len(Generations()) || r.Accepted[0].Version != "3.2" || r.Accepted[0].Answer != AnswerMaybe ||
		!strings.Contains(r.Accepted[9].Why, "USB") {
		t.Errorf("acceptance: %+v", r.Accepted)
	}
}

func TestJoinOfAPFX(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Join", "prov.corp.example.com")
	b, err := ParseBundle(t.Context(), []File{{"a.pfx", f.PFX(certtest.Modern, "x")}}, secret("x"))
	if err != nil {
		t.Fatal(err)
	}
	p, r, err := Join(t.Context(), b, JoinOptions{Now: now})
	if err != nil || !p.Usable() || r.Request != "" || r.Differences != nil {
		t.Errorf("%v %+v %v", p, r, err)
	}
}

func TestJoinRefuses(t *testing.T) {
	t.Parallel()
	const cn = "prov.corp.example.com"
	root, middle, pending := vendor(t, cn)
	l := lab()
	foreign := l.Plain("Foreign", "prov.other.io")
	first := middle.Sign(certtest.Options{Name: cn}, pending.Key.Public())
	with := func(b *Bundle, keys ...crypto.Signer) *Bundle {
		b.Keys = keys
		return b
	}
	for name, c := range map[string]struct {
		b       *Bundle
		pending []Pending
		code    reason.Code
		says    string
	}{
		"a key that is nowhere":        {bundleOf(t, foreign.Chain()...), []Pending{pending}, reason.CertPrivateKeyMissing, "0123456789abcdef for prov.corp.example.com of 2026-11-19 on node1"},
		"no request pending":           {bundleOf(t, foreign.Chain()...), nil, reason.CertPrivateKeyMissing, "no request is pending"},
		"only the chain":               {bundleOf(t, root, middle.Cert), []Pending{pending}, reason.CertInputInvalid, "only CA certificates"},
		"somebody else's leaf and key": {with(bundleOf(t, foreign.Cert), pending.Key), nil, reason.CertKeyMismatch, "prov.other.io"},
		"a self-signed leaf":           {bundleOf(t, l.SelfSigned(certtest.Options{Name: cn}).Cert), []Pending{}, reason.CertSelfSigned, "signed itself"},
		"a key alone":                  {&Bundle{Keys: []crypto.Signer{foreign.Key}}, nil, reason.CertInputInvalid, "no certificate"},
		"two leaves with keys":         {with(bundleOf(t, append(foreign.Chain(), first)...), foreign.Key), []Pending{pending}, reason.CertAmbiguous, "one at a time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _, err := Join(t.Context(), c.b, JoinOptions{Pending: c.pending, Now: now})
			if codeOf(err) != c.code || p != nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want %s with %q, got %v", c.code, c.says, err)
			}
		})
	}
}

func TestJoinFetchesOnlyWhenAllowed(t *testing.T) {
	t.Parallel()
	l := lab()
	root := l.Root(certtest.Options{Name: "Fetch Root"})
	middle := root.Intermediate(certtest.Options{Name: "Fetch CA", Issuers: []string{"http://ca.example.com/root.p7c"}})
	leaf := middle.Leaf(certtest.Options{Name: "prov.corp.example.com", Issuers: []string{"ldap:///x", "http://ca.example.com/ca.crt"}},
		root.Cert)
	b := &Bundle{Certs: []*x509.Certificate{leaf.Cert}, Keys: []crypto.Signer{leaf.Key}}

	p, r, err := Join(t.Context(), b, JoinOptions{Now: now})
	if err != nil || p.Usable() || codeOf(r.Err()) != reason.ChainIncomplete || !strings.Contains(r.Err().Error(), `"Fetch CA"`) {
		t.Errorf("not allowed, the intermediate is named: %v, %v", r.Err(), err)
	}
	shelf := map[string][]byte{"http://ca.example.com/ca.crt": middle.Cert.Raw,
		"http://ca.example.com/root.p7c": pkcs7(t, "DER", root.Cert)}
	fetch := func(_ context.Context, url string) ([]byte, error) {
		if d, ok := shelf[url]; ok {
			return d, nil
		}
		return nil, errors.New("404")
	}
	p, r, err = Join(t.Context(), b, JoinOptions{Now: now, Fetch: fetch})
	if err != nil || !p.Usable() || len(r.Fetched) != 2 {
		t.Errorf("allowed, the chain is completed: %v, %v, %v", r.Fetched, r.Err(), err)
	}
	shelf["http://ca.example.com/ca.crt"] = l.Plain("Liar", "x.example.com").Issuers[0].Raw
	p, _, err = Join(t.Context(), b, JoinOptions{Now: now, Fetch: fetch})
	if err != nil || p.Usable() {
		t.Errorf("what is fetched has to fit: %v", err)
	}
	if p, _, err = Join(t.Context(), b, JoinOptions{Now: now, Known: []*x509.Certificate{root.Cert, middle.Cert}}); err != nil ||
		!p.Usable() {
		t.Errorf("known certificates complete it too: %v", err)
	}
}

func TestFetchOver(t *testing.T) {
	t.Parallel()
	f := lab().Plain("Fetched", "prov.corp.example.com")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ca.crt":
			_, _ = w.Write(f.Issuers[0].Raw)
		case "/endless":
			for range 100 {
				_, _ = w.Write(make([]byte, 64<<10))
			}
		case "/moved":
			http.Redirect(w, r, "/ca.crt", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	fetch := FetchOver(http.DefaultTransport)
	if got, err := fetch(t.Context(), srv.URL+"/ca.crt"); err != nil || len(got) != len(f.Issuers[0].Raw) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for path, says := range map[string]string{"/none": "404", "/endless": "1 MB", "/moved": "redirects are not followed"} {
		if _, err := fetch(t.Context(), srv.URL+path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, address := range []string{"https" + strings.TrimPrefix(srv.URL, "http"), "file:///etc/passwd",
		"http://who:secret@" + srv.Listener.Addr().String()} {
		if _, err := fetch(t.Context(), address); err == nil || !strings.Contains(err.Error(), "plain http") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestImportOrderRepeatsAndStrangersDoNotMatter(t *testing.T) {
	t.Parallel()
	const cn = "prov.corp.example.com"
	root, middle, pending := vendor(t, cn)
	leaf := middle.Sign(certtest.Options{Name: cn, Names: []string{cn}}, pending.Key.Public())
	parts := []*x509.Certificate{root, middle.Cert}
	strangers := append(lab().GoDaddy("x.example.com").All()[1:], lab().Plain("Stranger", "y.example.com").Issuers...)
	seven := pkcs7(t, "DER", strangers...)
	rapid.Check(t, func(t *rapid.T) {
		kept := rapid.SliceOfDistinct(rapid.SampledFrom(parts), func(c *x509.Certificate) string { return string(c.Raw) }).Draw(t, "kept")
		var plain []File
		for _, c := range append(kept, leaf) {
			plain = append(plain, File{"cert", c.Raw})
		}
		noisy := append([]File{}, plain...)
		for range rapid.IntRange(0, 3).Draw(t, "repeats") {
			noisy = append(noisy, rapid.SampledFrom(plain).Draw(t, "repeat"))
		}
		for range rapid.IntRange(0, 3).Draw(t, "strangers") {
			noisy = append(noisy, File{"stranger", certtest.PEM(rapid.SampledFrom(strangers).Draw(t, "stranger"))})
		}
		if rapid.Bool().Draw(t, "bundle of strangers") {
			noisy = append(noisy, File{"strangers.p7b", seven})
		}
		noisy = rapid.Permutation(noisy).Draw(t, "order")
		answer := func(files []File) []string {
			b, err := ParseBundle(t.Context(), files)
			if err != nil {
				t.Fatal(err)
			}
			p, r, err := Join(t.Context(), b, JoinOptions{Pending: []Pending{pending}, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			out := describe(p)
			for _, a := range r.Accepted {
				out = append(out, a.Version+" "+string(a.Answer)+" "+a.Why)
			}
			return out
		}
		if d := cmp.Diff(answer(plain), answer(noisy)); d != "" {
			t.Fatalf("another answer (-want +got):\n%s", d)
		}
	})
}
