package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
)

// shelf is a CA's web server; it counts who asks.
type shelf struct {
	*httptest.Server
	asked atomic.Int64
	files map[string]http.HandlerFunc
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{files: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if f, ok := s.files[r.URL.Path]; ok {
			f(w, r)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func gives(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) }
}

// orphan is a leaf whose intermediate is left out and which names an address for it.
func (l *lab) orphan(vendor *certtest.Lab, name, address string) (leaf certtest.Leaf, pfx []byte, middle *certtest.CA) {
	root := vendor.Root(certtest.Options{Name: name + " Root"})
	middle = root.Intermediate(certtest.Options{Name: name + " CA"})
	cn := "prov.corp.example.com"
	leaf = middle.Leaf(certtest.Options{Name: cn, Key: name, Names: []string{cn}, Issuers: []string{address}}, root.Cert)
	return leaf, certtest.PFX(certtest.Modern, "secret", leaf.Key, leaf.Cert, root.Cert), middle
}

func (l *lab) tries(pfx []byte, aia bool) (api.ImportResult, *api.Problem) {
	l.t.Helper()
	r, err := l.api.ImportCertificate(l.t.Context(),
		api.NewImport{Files: []api.FileBytes{{Name: "order.pfx", Data: pfx}}, Passwords: []string{"secret"}, AIA: aia})
	var p *api.Problem
	if err != nil && !errors.As(err, &p) {
		l.t.Fatal(err)
	}
	return r, p
}

func refusedFor(t *testing.T, p *api.Problem, words ...string) {
	t.Helper()
	if p == nil || p.Code != "chain_incomplete" {
		t.Fatalf("want chain_incomplete, got %+v", p)
	}
	said := p.Detail
	for _, e := range p.Errors {
		said += "\n" + e.Message
	}
	for _, w := range words {
		if !strings.Contains(said, w) {
			t.Errorf("%q is not in:\n%s", w, said)
		}
	}
}

// TestIssuerFetchedOnlyWhenAllowed: a missing intermediate is named; it is
// fetched from where the certificate says when the import asks for it and the
// configuration opens that network, and nobody is asked otherwise.
func TestIssuerFetchedOnlyWhenAllowed(t *testing.T) {
	t.Parallel()
	vendor := certtest.NewLab(time.Now())
	t.Run("the configuration names no network", func(t *testing.T) {
		t.Parallel()
		forEachEngine(t, bare, func(t *testing.T, l *lab) {
			s := newShelf(t)
			_, pfx, middle := l.orphan(vendor, "Closed", s.URL+"/ca.crt")
			s.files["/ca.crt"] = gives(middle.Cert.Raw)
			_, p := l.tries(pfx, true)
			refusedFor(t, p, `"Closed CA"`, s.URL+"/ca.crt", "provisioning.issuer_networks", "together with the certificate")
			if n := s.asked.Load(); n != 0 {
				t.Errorf("it was asked for %d times", n)
			}
		})
	})
	open := func(o *Options) {
		bare(o)
		o.IssuerNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	}
	t.Run("the configuration names loopback", func(t *testing.T) {
		t.Parallel()
		forEachEngine(t, open, func(t *testing.T, l *lab) {
			s := newShelf(t)
			leaf, pfx, middle := l.orphan(vendor, "Open", s.URL+"/ca.crt")
			s.files["/ca.crt"] = gives(middle.Cert.Raw)
			_, p := l.tries(pfx, false)
			refusedFor(t, p, `"Open CA"`, "--aia")
			if n := s.asked.Load(); n != 0 {
				t.Errorf("without --aia it was asked for %d times", n)
			}
			r, p := l.tries(pfx, true)
			if p != nil || !r.Activated || !slices.Equal(r.Report.Fetched, []string{s.URL + "/ca.crt"}) || s.asked.Load() != 1 {
				t.Fatalf("allowed: %+v, %+v, asked %d times", r, p, s.asked.Load())
			}
			// What was fetched is kept: a device is set up over the whole chain.
			d := l.device(sim.Faults{}, trusting(rootOf(leaf)))
			l.says(d)
			l.untilState(d.UUID(), "provisioned")
		})
	})
	t.Run("bounds", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, "sqlite", open)
		s := newShelf(t)
		s.files["/moved.crt"] = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ca.crt", http.StatusFound) }
		s.files["/endless.crt"] = func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i < 64 && r.Context().Err() == nil; i++ {
				_, _ = w.Write(make([]byte, 64<<10))
			}
		}
		s.files["/liar.crt"] = gives(vendor.Root(certtest.Options{Name: "Liar"}).Cert.Raw)
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		for i, c := range []struct{ address, says string }{
			{s.URL + "/moved.crt", "redirects are not followed"},
			{s.URL + "/endless.crt", "larger than 1 MB"},
			{s.URL + "/none.crt", "404"},
			{s.URL + "/liar.crt", "is missing"},
			{"https://127.0.0.1:" + port + "/ca.crt", "only plain http"},
			{"http://169.254.169.254/latest/meta-data/", "metadata"},
			{"http://[::1]:" + port + "/ca.crt", "loopback"},
			{"http://10.0.0.1/ca.crt", "none of the configured networks"},
		} {
			_, pfx, middle := l.orphan(vendor, fmt.Sprintf("Bound %d", i), c.address)
			s.files["/ca.crt"] = gives(middle.Cert.Raw)
			_, p := l.tries(pfx, true)
			refusedFor(t, p, c.says, fmt.Sprintf(`"Bound %d CA"`, i))
		}
		if all, err := l.api.Certificates(t.Context()); err != nil || len(all.Certificates) != 0 {
			t.Errorf("%d certificates were kept, %v", len(all.Certificates), err)
		}
	})
}
