package admit

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// zone answers like two DNS zones of a test.
type zone struct {
	names map[string][]string // of an address
	addrs map[string]string   // of a name
	err   error
}

func (z zone) LookupAddr(_ context.Context, a string) ([]string, error) {
	if z.err != nil {
		return nil, z.err
	}
	if n, ok := z.names[a]; ok {
		return n, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

func (z zone) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if a, ok := z.addrs[host]; ok {
		return []netip.Addr{netip.MustParseAddr(a)}, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

// TestReverseDNS: only a name that leads back to the address is one.
func TestReverseDNS(t *testing.T) {
	t.Parallel()
	d := store.Device{Address: netip.MustParseAddr("10.1.2.3")}
	for name, row := range map[string]struct {
		zone zone
		want string
		err  string
	}{
		"leads back":               {zone{names: map[string][]string{"10.1.2.3": {"PC7.Corp.Example."}}, addrs: map[string]string{"pc7.corp.example": "10.1.2.3"}}, "pc7.corp.example", ""},
		"leads back, v4 in v6":     {zone{names: map[string][]string{"10.1.2.3": {"pc7.corp.example."}}, addrs: map[string]string{"pc7.corp.example": "::ffff:10.1.2.3"}}, "pc7.corp.example", ""},
		"one of two leads back":    {zone{names: map[string][]string{"10.1.2.3": {"aa.corp.example.", "pc7.corp.example."}}, addrs: map[string]string{"pc7.corp.example": "10.1.2.3", "aa.corp.example": "10.9.9.9"}}, "pc7.corp.example", ""},
		"leads elsewhere":          {zone{names: map[string][]string{"10.1.2.3": {"victim.corp.example."}}, addrs: map[string]string{"victim.corp.example": "10.9.9.9"}}, "", "does not lead back"},
		"leads nowhere":            {zone{names: map[string][]string{"10.1.2.3": {"pc7.corp.example."}}}, "", "does not lead back"},
		"no name":                  {zone{}, "", ""},
		"not a host name":          {zone{names: map[string][]string{"10.1.2.3": {"a_b.corp.example."}}, addrs: map[string]string{"a_b.corp.example": "10.1.2.3"}}, "", "does not lead back"},
		"the server does not know": {zone{err: errors.New("timeout")}, "", "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Lookup{ReverseDNS: row.zone}.reverse(t.Context(), d)
			if got != row.want || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	if _, err := (Lookup{}).reverse(t.Context(), d); err == nil {
		t.Error("asked without a resolver")
	}
}

// TestWebhook: what it is told, and what of its answers is believed.
func TestWebhook(t *testing.T) {
	t.Parallel()
	d := store.Device{UUID: amt.UUID{0x11}, Address: netip.MustParseAddr("10.1.2.3"), Suffix: "corp.example"}
	for name, row := range map[string]struct {
		answer http.HandlerFunc
		want   string
		err    string
	}{
		"a name": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"fqdn":" pc7.corp.example "}`)
		}, "pc7.corp.example", ""},
		"none":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, "", ""},
		"not found": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, "", ""},
		"empty":     {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"fqdn":""}`) }, "", ""},
		"broken":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "", "answered 502"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, "", "answered 302"},
		"a page":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "", "want {"},
		"too much": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat(" ", 1<<20)) }, "", "more than"},
		"no end":   {func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); <-r.Context().Done() }, "", "no answer"},
		"told enough": {func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = io.WriteString(w, `{"fqdn":"`+verdictOn(string(b), r)+`"}`)
		}, "told", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewTLSServer(row.answer)
			defer s.Close()
			patience := 2 * time.Minute
			if name == "no end" {
				patience = 2 * time.Second
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got, err := Lookup{Webhook: s.URL + "/name", HTTP: s.Client().Transport.(*http.Transport)}.webhook(ctx, d)
			if got != row.want || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	stranger := httptest.NewTLSServer(http.NotFoundHandler())
	defer stranger.Close()
	if _, err := (Lookup{Webhook: stranger.URL, HTTP: &http.Transport{}}).webhook(t.Context(), d); err == nil {
		t.Error("a certificate of nobody's was believed")
	}
}

// TestAPatternWaitsForASourceThatFails: a new device is not named by the pattern
// because the webhook is down for a moment; one that has waited is.
func TestAPatternWaitsForASourceThatFails(t *testing.T) {
	t.Parallel()
	down := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(down.Close)
	p := openPolicy()
	p.Names = []profile.Source{profile.Webhook, profile.Pattern}
	d := newDesk(t, store.SQLite, false, p)
	d.Lookup = Lookup{Webhook: down.URL, HTTP: down.Client().Transport.(*http.Transport), Timeout: time.Minute}
	fresh, old := plain(1, ours), plain(2, ours)
	old.At = time.Now().Add(-failedFor)
	for _, h := range []hello.Hello{fresh, old} {
		if _, err := d.HandleHello(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.ResolveNames(t.Context()); err != nil {
		t.Fatal(err)
	}
	for u, want := range map[amt.UUID]store.Lifecycle{fresh.UUID: store.PendingIdentity, old.UUID: store.Queued} {
		err := d.DB.Read(t.Context(), func(tx *store.Tx) error {
			dev, err := tx.Device(t.Context(), u)
			if dev.Lifecycle != want || want == store.PendingIdentity && dev.Detail != "webhook: answered 502" {
				t.Errorf("%s is %s %s (%s), want %s", u, dev.Lifecycle, dev.Reason, dev.Detail, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func verdictOn(body string, r *http.Request) string {
	if r.Method != http.MethodPost || !strings.Contains(body, `"uuid":"11000000-0000-0000-0000-000000000000"`) ||
		!strings.Contains(body, `"address":"10.1.2.3"`) {
		return "wrong: " + body
	}
	return "told"
}
