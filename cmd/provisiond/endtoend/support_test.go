package endtoend

import (
	"archive/zip"
	"crypto/tls"
	"encoding/base64"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
)

// TestBoxSupportBundleHoldsNoSecret reads every file of a bundle for every
// secret there is: those of the devices, of the API, of the certificate.
func TestBoxSupportBundleHoldsNoSecret(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) {
		bin := program(t, box.daemon)
		d := s.serve(nil, "--log-level", "debug")
		h := s.herd()
		h.live(time.Second, one(d.hello), h.mixed(t, 2)...)
		lost := h.add("11", func(c *sim.Config) { c.Roots = nil })
		der := []byte(readFile(t, "../../../amt/session/testdata/odd/padded-serial.cer"))
		odd := h.add("11", func(c *sim.Config) {
			c.SetupCertificate = &tls.Certificate{Certificate: [][]byte{der},
				PrivateKey: certtest.NewLab(time.Now()).SelfSigned(certtest.Options{Name: "odd"}).Key}
		})
		h.live(time.Second, one(d.hello), lost, odd)
		d.managed(2, time.Minute)
		poll(t, "the third waits for a certificate", time.Minute, func() bool { return d.lifecycles()["pending_certificate"] == 1 })

		poll(t, "the fourth has failed for its certificate", time.Minute, func() bool { return d.lifecycles()["failed"] == 1 })

		var secrets []string
		for _, dev := range h.devices[:2] {
			secrets = append(secrets, d.reveal(dev.UUID(), "admin"), d.reveal(dev.UUID(), "mebx"))
		}
		token := strings.TrimSpace(readFile(t, d.token))
		key := strings.TrimSpace(readFile(t, s.path("data/master.key")))
		secrets = append(secrets, token, key, sitePassword, "PRIVATE KEY")
		// A careless log, as another program's could be.
		log := s.file("daemon.log", []byte(d.errs.String()+"careless "+token+" and Authorization: Bearer abc.def\n"))

		for _, args := range [][]string{{}, {"--hash-uuids"}} {
			out := s.path("bundle.zip")
			said, errs, status := command(t, bin, nil,
				append([]string{"support-bundle", "--config", s.cfg, "--api-listen", d.api, "--out", out, "--log", log}, args...)...)
			if status != 0 {
				t.Fatalf("support-bundle: %d %s %s", status, said, errs)
			}
			z, err := zip.OpenReader(out)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			everything := ""
			for _, f := range z.File {
				r, err := f.Open()
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(r)
				if err != nil {
					t.Fatal(err)
				}
				_ = r.Close()
				names = append(names, f.Name)
				everything += string(text)
				for _, secret := range append(secrets, "abc.def") {
					if strings.Contains(string(text), secret) {
						t.Errorf("%s holds a secret (%.4s…)", f.Name, secret)
					}
				}
				if f.Name == "failed.json" && (!strings.Contains(string(text), "pending_certificate") ||
					strings.Contains(string(text), `"provisioned"`)) {
					t.Errorf("failed.json: %.300s", text)
				}
			}
			_ = z.Close()
			want := []string{"version.txt", "config.json", "doctor.json", "metrics.txt", "counts.json", "events.jsonl", "failed.json",
				"log.txt"}
			if !slices.Equal(names, want) {
				t.Errorf("the bundle has %v, want %v\n%s", names, want, said)
			}
			if !strings.Contains(everything, base64.StdEncoding.EncodeToString(der)) {
				t.Errorf("%v: the certificate that TLS could not take is not in it", args)
			}
			if has := strings.Contains(everything, lost.UUID().String()); has != (len(args) == 0) {
				t.Errorf("%v: the UUID is in it: %v", args, has)
			}
		}
	})
}
