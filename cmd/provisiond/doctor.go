package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/doctor"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
)

func newDoctor() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Look at everything around the daemon; exit 0, 1 (warn) or 2 (fail)", Args: cobra.NoArgs,
		Long: `Looks at everything that has to be true before a device can be managed: ports,
DNS, DHCP, certificates, clock, database, keys, disk. It changes nothing, works
while the daemon runs and while it is stopped, and ends within 20 seconds.

Exit status: 0 all is well, 1 there are warnings, 2 something fails.`}
	given := configFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print as JSON")
	iface := cmd.Flags().String("interface", "", "ask DHCP on this interface; overrides doctor.dhcp_interface")
	device := cmd.Flags().String("device", "", "try the road to the device at this address; overrides doctor.sample_device")
	client := cmd.Flags().Bool("from-client", false,
		"only print what to type on a machine of a device network to see that it reaches this server")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, flags := given()
		cfg, _, problems := Load(cmd.Context(), path, os.Environ(), flags)
		if *client {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.TrimPrefix(doctor.FromClient(cfg.Zones), "\n"))
			return err
		}
		report := doctor.Report{Checks: []doctor.Check{configuration(path, problems)}}
		if *iface != "" {
			cfg.Doctor.DHCPInterface = *iface
		}
		if *device != "" {
			cfg.Doctor.SampleDevice = *device
			if _, err := netip.ParseAddr(*device); err != nil {
				return fmt.Errorf("--device: %q is not an address", amt.Clip(*device))
			}
		}
		if !unread(problems) {
			d := doctorConfig(cfg, nil)
			d.Force = map[string]bool{}
			list, errs := certificateFiles(cmd.Context(), cfg, d.Force)
			d.Certificates = func() ([]*certs.Provisioning, []error) { return list, errs }
			d.TLS = tlsFilesNow(cmd.Context(), cfg)
			var running api.DoctorReport
			d.Running = func(ctx context.Context) (out doctor.Daemon) {
				out, running = askDaemon(ctx, cfg)
				return out
			}
			found, _ := doctor.New(d).Run(cmd.Context())
			report.Checks = append(report.Checks, found.Checks...)
			borrowDescriptors(report.Checks, running)
			if serviceOnly(cfg) {
				borrow(report.Checks, running)
			}
		}
		var err error
		if *asJSON {
			err = printJSON(cmd.OutOrStdout(), report)
		} else {
			err = report.Print(cmd.OutOrStdout())
		}
		if err == nil && report.Worst() != doctor.Pass {
			return exitCode(report.Worst().Level())
		}
		return err
	}
	return cmd
}

// configuration is the first check. What can be understood in spite of a
// problem is looked at all the same.
func configuration(path string, problems []Problem) doctor.Check {
	c := doctor.Check{Name: "configuration", Status: doctor.Pass, Detail: path + " is good"}
	if path == "" {
		c.Detail = "no file is named (--config); the defaults and the environment are good"
	}
	if len(problems) > 0 {
		var lines []string
		for _, p := range problems {
			lines = append(lines, p.String())
		}
		c.Status, c.Detail, c.Hint = doctor.Fail, strings.Join(lines, "\n"),
			"provisiond config keys explains every key; the daemon does not start before this is mended"
	}
	return c
}

// credentials is where systemd shows a service what is for it alone.
const credentials = "/run/credentials/"

// serviceOnly reports whether the certificates, the API's key or the master key are systemd
// credentials that this process, which is not the service, cannot read.
func serviceOnly(cfg Config) bool {
	for _, c := range cfg.Provisioning.Certificates {
		if strings.HasPrefix(string(c.PFX), credentials) {
			if f, err := os.Open(string(c.PFX)); err != nil {
				return true
			} else {
				_ = f.Close()
			}
		}
	}
	if key := string(cfg.API.TLS.Key); strings.HasPrefix(key, credentials) {
		if _, err := certs.ReadFile(key); err != nil {
			return true
		}
	}
	return cfg.MasterKey.Credential != "" && os.Getenv("CREDENTIALS_DIRECTORY") == ""
}

// borrow takes what only the service can know from the daemon's own last round;
// without one it is not known, which is no failure.
func borrow(checks []doctor.Check, running api.DoctorReport) {
	theirs := map[string]api.DoctorCheck{}
	for _, c := range running.Checks {
		theirs[c.Name] = c
	}
	for i, c := range checks {
		switch c.Name {
		case "certificates", "suffixes", "master_key", "tls:api", "tls:relays":
			if t, ok := theirs[c.Name]; ok {
				checks[i] = doctor.Check{Name: c.Name, Status: doctor.Status(t.Status),
					Detail: "as the running daemon sees it: " + t.Detail, Hint: t.Hint}
				continue
			}
		case "configuration":
			if _, ok := theirs["certificates"]; !ok || strings.Count(c.Detail, "\n")+1 != strings.Count(c.Detail, credentials) {
				continue
			}
			checks[i] = doctor.Check{Name: c.Name, Status: doctor.Pass, Detail: "good as far as it can be seen from here: files under " +
				credentials + " are for the service alone, and the running daemon has read them"}
			continue
		default:
			continue
		}
		if c.Status == doctor.Fail {
			checks[i].Status, checks[i].Hint = doctor.Warn,
				"files under "+credentials+" and systemd's master key are for the service alone: run the doctor while the service runs"
		}
	}
}

// borrowDescriptors takes over what the daemon says of its own limit: ours is
// another one.
func borrowDescriptors(checks []doctor.Check, running api.DoctorReport) {
	for _, t := range running.Checks {
		for i, c := range checks {
			if t.Name == "descriptors" && c.Name == t.Name {
				checks[i] = doctor.Check{Name: c.Name, Status: doctor.Status(t.Status),
					Detail: "as the running daemon sees it: " + t.Detail, Hint: t.Hint}
			}
		}
	}
}

// unread reports whether nothing of the file could be understood.
func unread(problems []Problem) bool {
	for _, p := range problems {
		if p.Key == "" {
			return true
		}
	}
	return false
}

// doctorConfig is what the checks look at, for the daemon and for the command.
func doctorConfig(cfg Config, force map[string]bool) doctor.Config {
	d := doctor.Config{
		HelloListen: string(cfg.Hello.Listen), Zones: cfg.Zones, Addresses: cfg.Doctor.Addresses,
		DHCPInterface: cfg.Doctor.DHCPInterface, NTP: cfg.Doctor.NTP,
		Networks: cfg.Provisioning.Networks, MinTLS: tlsVersion(cfg.Provisioning.MinTLS), Force: force, DataDir: cfg.DataDir,
		Look: func(ctx context.Context) (store.Survey, error) { return lookAt(ctx, cfg) },
	}
	for _, r := range cfg.Doctor.Resolvers {
		d.Resolvers = append(d.Resolvers, netip.AddrPortFrom(r.Addr(), 53))
	}
	if a, err := netip.ParseAddr(cfg.Doctor.SampleDevice); err == nil {
		d.Sample = a
	}
	if f := string(cfg.Doctor.BackupPassphraseFile); f != "" {
		d.Passphrase = func() (amt.Secret, error) { return passphraseIn(f) }
	}
	return d
}

// lookAt surveys the database with the master key as it is now, so that a key
// that was changed under a running daemon is found before its next start. It
// never makes a key.
func lookAt(ctx context.Context, cfg Config) (store.Survey, error) {
	o := store.Options{URL: string(cfg.Database.URL), Dir: cfg.DataDir}
	src := masterKeySource(cfg)
	src.Create = false
	master, err := seal.Load(ctx, src)
	if err == nil {
		o.Keys, err = seal.New(master)
	}
	return store.Look(ctx, o), err
}

// certificateFiles loads what the configuration names.
func certificateFiles(ctx context.Context, cfg Config, force map[string]bool) (list []*certs.Provisioning, errs []error) {
	ctx = certs.WithBudget(ctx)
	for _, c := range cfg.Provisioning.Certificates {
		p, err := certs.LoadFile(ctx, string(c.PFX), string(c.PasswordFile), time.Now())
		if err != nil {
			errs = append(errs, certificateError(string(c.PFX), err))
			continue
		}
		if c.Force {
			force[p.ID] = true
		}
		list = append(list, p)
	}
	return list, errs
}

// askDaemon asks the daemon of this configuration, if it runs on this machine,
// for what only it knows.
func askDaemon(ctx context.Context, cfg Config) (out doctor.Daemon, last api.DoctorReport) {
	base, client, err := ownDaemon(ctx, cfg, 4*time.Second)
	if err != nil {
		return doctor.Daemon{Unknown: err.Error()}, last
	}
	c := &api.Client{Base: base, HTTP: client}
	if _, err := c.Ready(ctx); err != nil {
		return doctor.Daemon{Unknown: "no daemon answers at " + c.Base}, last
	}
	token, err := os.ReadFile(filepath.Join(cfg.DataDir, "admin.token"))
	if err != nil {
		why := "its token in " + cfg.DataDir + " cannot be read"
		if errors.Is(err, fs.ErrNotExist) {
			why = "there is no admin.token in " + cfg.DataDir
		}
		return doctor.Daemon{Up: true, Unknown: "the daemon runs, but " + why}, last
	}
	c.Token = strings.TrimSpace(string(token))
	last, err = c.Doctor(ctx)
	if err != nil {
		return doctor.Daemon{Up: true, Unknown: "the daemon runs, but does not say: " + err.Error()}, last
	}
	out = doctor.Daemon{Up: true}
	if last.Started != nil {
		out.Since = *last.Started
	}
	if last.Scraped != nil {
		out.Scraped = *last.Scraped
	}
	return out, last
}
