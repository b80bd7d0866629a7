package server

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
)

// TestExpiryIsSeen: the end of a certificate that was imported here is in the
// metric for as long as it is in use, and in the summary as a banner once it is
// near; the reminders themselves are held in package desk, over a moved clock.
func TestExpiryIsSeen(t *testing.T) {
	t.Parallel()
	vendor := certtest.NewLab(time.Now())
	forEachEngine(t, bare, func(t *testing.T, l *lab) {
		root := vendor.Root(certtest.Options{Name: "Ending Root"})
		leaf := root.Leaf(certtest.Options{Name: "prov.corp.example.com", Names: []string{"prov.corp.example.com"},
			NotAfter: time.Now().Add(12 * 24 * time.Hour)})
		r := l.imports(false, leaf.PFX(certtest.Modern, "secret"))
		line := func() string {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.s.APIAddr().String()+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+l.api.Token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			for s := range strings.Lines(string(text)) {
				if strings.HasPrefix(s, "provisiond_provisioning_certificate_not_after_timestamp_seconds{") {
					return strings.TrimSpace(s)
				}
			}
			return ""
		}
		var value float64
		if got := line(); got == "" {
			t.Error("the metric does not speak of it")
		} else if _, err := fmt.Sscanf(got[strings.LastIndexByte(got, ' ')+1:], "%g", &value); err != nil ||
			int64(value) != leaf.Cert.NotAfter.Unix() {
			t.Errorf("the metric says %s (%v), it ends at %d", got, err, leaf.Cert.NotAfter.Unix())
		}
		s, err := l.api.Summary(t.Context())
		if err != nil || len(s.Banners) == 0 || s.Banners[0].Code != "cert_expiring" || !strings.Contains(s.Banners[0].Text, "11 days") {
			t.Errorf("banners %+v, %v", s.Banners, err)
		}
		if _, err := l.api.UseCertificate(t.Context(), "remove", r.Report.ID, api.UseCertificate{}); err != nil {
			t.Fatal(err)
		}
		if got := line(); got != "" {
			t.Errorf("removed, and the metric still says %s", got)
		}
	})
}
