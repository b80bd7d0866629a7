package endtoend

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
)

// TestBoxDates: of a certificate that begins later, everybody speaks of the clock
// and the hour, and nobody of a renewal. One that has ended is kept and not used.
// When the hour of one has come, who waits is set up by itself.
func TestBoxDates(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) {
		lab := certtest.NewLab(time.Now())
		root := lab.Root(certtest.Options{Name: "Dates Root"})
		issue := func(from, until time.Time) certtest.Leaf {
			return root.Leaf(certtest.Options{Name: "provisionserver.corp.example.com", Key: from.String(), NotBefore: from,
				NotAfter: until}, root.Cert)
		}
		now := time.Now().UTC().Truncate(time.Second)
		begins := now.Add(2 * time.Hour)
		s.leaf = issue(begins, now.AddDate(0, 6, 0))
		s.file("prov.pfx", s.leaf.PFX(certtest.Modern, sitePassword))
		d := s.serve(nil)
		h := s.herd()
		dev := h.add("11", nil)
		h.live(time.Second, one(d.hello), dev)
		poll(t, "it waits for a certificate", time.Minute, func() bool { return d.lifecycles()["pending_certificate"] == 1 })

		list, _, _ := d.provctl("cert", "list")
		why, _, _ := d.provctl("device", "why", dev.UUID().String())
		doctor, errs, _ := command(t, program(t, box.daemon), nil, "doctor", "--config", s.cfg, "--api-listen", d.api)
		preview, _, _ := d.provctl("cert", "import", "--dry-run", "--password-file", s.path("prov.pass"), s.path("prov.pfx"))
		for name, text := range map[string]string{"cert list": list, "device why": why, "doctor": doctor + errs, "cert import": preview} {
			if !strings.Contains(text, "begins at "+begins.Format(time.RFC3339)) ||
				!strings.Contains(text, "this server's clock says "+now.Format("2006-01-02")) || strings.Contains(text, "renew") ||
				strings.Contains(text, "cert request") {
				t.Errorf("%s:\n%s", name, text)
			}
		}
		events, _, _ := d.provctl("device", "show", dev.UUID().String())
		if n := strings.Count(events, "certificate_unmatched"); n != 1 {
			t.Errorf("%d events of a device that waits for one hour:\n%s", n, events)
		}
		if strings.Contains(list, ", usable") {
			t.Errorf("it is called usable:\n%s", list)
		}

		ended := issue(now.AddDate(0, -3, 0), now.AddDate(0, 0, -7))
		out, errs, status := d.provctl("cert", "import", "--activate", "--password-file", s.path("prov.pass"),
			s.file("ended.pfx", ended.PFX(certtest.Modern, sitePassword)))
		if list, _, _ := d.provctl("cert", "list"); status != 0 || !strings.Contains(out, "is on standby: it ended on") ||
			!strings.Contains(list, "standby, not usable, ended on") {
			t.Errorf("%d: %s%s\n%s", status, out, errs, list)
		}

		soon := issue(time.Now().Add(5*time.Second), now.AddDate(0, 6, 0))
		if out, errs, status := d.provctl("cert", "import", "--activate", "--password-file", s.path("prov.pass"),
			s.file("soon.pfx", soon.PFX(certtest.Modern, sitePassword))); status != 0 {
			t.Fatalf("%s%s", out, errs)
		}
		d.managed(1, 2*time.Minute)
		for _, args := range [][]string{{"device", "why", dev.UUID().String()}, {"cert", "show", certs.IDOf(soon.Cert)}} {
			if text, _, _ := d.provctl(args...); strings.Contains(text, "not valid yet") {
				t.Errorf("an old sentence stands: %s", text)
			}
		}
		if !slices.Contains(strings.Fields(list), "Dates") {
			t.Errorf("the root is not named:\n%s", list)
		}
	})
}
