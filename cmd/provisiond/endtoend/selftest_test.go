package endtoend

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
)

// TestBoxSelfTest: beside a running daemon each certificate in use, from a file
// and from the database, sets a simulated device up, and the daemon and its
// database hear nothing of it.
func TestBoxSelfTest(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) {
		d := s.serve(nil)
		s.file("more.pfx", certtest.NewLab(time.Now()).Plain("More", "provisionserver.plant.example.net").PFX(certtest.Modern,
			sitePassword))
		if out, errs, status := d.provctl("cert", "import", s.path("more.pfx"), "--password-file", s.path("prov.pass"),
			"--activate"); status != 0 {
			t.Fatalf("cert import: %s%s", out, errs)
		}
		audit := func() int {
			page, err := d.client().Audit(t.Context(), api.AuditQuery{})
			if err != nil {
				t.Fatal(err)
			}
			return len(page.Records)
		}
		before := audit()
		out, errs, status := command(t, program(t, box.daemon), nil, "selftest", "--config", s.cfg)
		if status != 0 || strings.Count(out, "\n") != 2 {
			t.Errorf("exit status %d: %s%s", status, out, errs)
		}
		for _, want := range []string{
			"in corp.example.com was set up with the certificate provisionserver.corp.example.com and read back: ",
			"in plant.example.net was set up with the certificate provisionserver.plant.example.net and read back: ",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in %s", want, out)
			}
		}
		page, err := d.client().Devices(t.Context(), api.DeviceQuery{})
		if err != nil || len(page.Devices) != 0 || d.metric(`provisiond_hello_received_total{result="accepted"}`) != 0 ||
			audit() != before {
			t.Errorf("the daemon heard of it: %d devices, %v", len(page.Devices), err)
		}
	})
}

// TestSelfTestSaysWhatFails: each way in which no device could be set up is a
// sentence and exit status 1.
func TestSelfTestSaysWhatFails(t *testing.T) {
	t.Parallel()
	seat(t)
	const mine = "provisionserver.corp.example.com"
	for _, c := range []struct {
		name  string
		lab   *certtest.Lab // nil: no certificate at all
		force bool
		zones string
		args  []string
		want  string
	}{
		{name: "no certificate", want: "no provisioning certificate is in use"},
		{name: "expired", lab: certtest.NewLab(time.Now().AddDate(-5, 0, 0)), want: "with the certificate " + mine + " no device can be set up: certificate " + mine + " expired on"},
		{name: "expired and forced", lab: certtest.NewLab(time.Now().AddDate(-5, 0, 0)), force: true, want: "was set up with the certificate"},
		{name: "the zone decides", lab: certtest.NewLab(time.Now()), zones: "zones: [plant.example.net, lab.example.com]\n", want: "in lab.example.com was set up"},
		{name: "time is up", lab: certtest.NewLab(time.Now()), args: []string{"--timeout", "1ms"}, want: "no device can be set up: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &site{t: t, dir: t.TempDir()}
			list := ""
			if c.lab != nil {
				s.file("amt.pfx", c.lab.Plain("Self", mine).PFX(certtest.Modern, "secret"))
				s.file("amt.pass", []byte("secret"))
				list = fmt.Sprintf("certificates: [{pfx: %[1]s/amt.pfx, password_file: %[1]s/amt.pass, force: %[2]t}]", s.dir, c.force)
			}
			cfg := s.file("c.yaml", []byte("data_dir: "+s.dir+"/data\nprovisioning: {"+list+"}\n"+c.zones))
			out, errs, status := command(t, program(t, box.daemon), nil, append([]string{"selftest", "--config", cfg}, c.args...)...)
			if want := 1; strings.Contains(c.want, "was set up") && status != 0 || !strings.Contains(c.want, "was set up") &&
				status != want || !strings.Contains(out, c.want) {
				t.Errorf("exit status %d: %s%s; want %q", status, out, errs, c.want)
			}
		})
	}
}
