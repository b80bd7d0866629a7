package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

func newSelfTest() *cobra.Command {
	cmd := &cobra.Command{Use: "selftest", Short: "Set a simulated device up from end to end; exit 1 when that fails", Args: cobra.NoArgs,
		Long: `Takes the certificates that are in use, from the configuration and from its
database, and the default profile, and sets a simulated device up with each
certificate: hello, handshake, every step, and the reading back. All of it happens
on loopback, with a server and a database of its own in a temporary folder: the
configuration's database is only read, and a daemon may go on running on it.

What it cannot tell: whether real devices trust the certificates' roots (provctl
cert check and the trust atlas do), and whether they find this server (the doctor
does).`}
	given := configFlags(cmd)
	patience := cmd.Flags().Duration("timeout", time.Minute, "how long it may take in all")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, flags := given()
		cfg, _, err := loadConfig(cmd.Context(), cmd.ErrOrStderr(), path, flags)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), *patience)
		defer cancel()
		return selfTest(ctx, cmd.OutOrStdout(), cfg)
	}
	return cmd
}

// selfTest says a sentence for each certificate. The error is errSilent when one
// of these says that it failed.
func selfTest(ctx context.Context, out io.Writer, cfg Config) error {
	dir, err := os.MkdirTemp("", "provisiond-selftest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	stored, prof, err := borrowed(ctx, cfg)
	if err != nil {
		fmt.Fprintf(out, "what is in the database is left out: %v\n", err)
	}
	// Reading the certificates is bounded by itself; when the time is up it is the
	// test that says so, and not a file that was not read to its end.
	o, err := sandbox(context.WithoutCancel(ctx), cfg, dir)
	if err != nil {
		return err
	}
	if prof != nil {
		o.Profile = *prof
	}
	for _, p := range stored {
		if !slices.ContainsFunc(o.Certificates, func(q *certs.Provisioning) bool { return q.ID == p.ID }) {
			o.Certificates = append(o.Certificates, p)
		}
	}
	all := o.Certificates
	if len(all) == 0 {
		fmt.Fprintln(out, "no provisioning certificate is in use, so no device can be set up: devices wait in pending_certificate")
		return errSilent
	}
	failed := false
	for i, p := range all {
		// One certificate at a time: with all of them loaded another could do its work.
		o.Certificates, o.DataDir, o.Registry = []*certs.Provisioning{p}, filepath.Join(dir, fmt.Sprint(i)), nil
		said, err := setUpOne(ctx, o, cfg.Zones)
		if err != nil {
			failed = true
			said = fmt.Sprintf("with the certificate %s no device can be set up: %v", p.Name, err)
		}
		fmt.Fprintln(out, said)
	}
	if failed {
		return errSilent
	}
	return nil
}

// borrowed reads from the configuration's database what a device would be set up
// with, and leaves it as it is. One that no daemon has made yet lends nothing.
func borrowed(ctx context.Context, cfg Config) (list []*certs.Provisioning, prof *profile.Profile, err error) {
	if cfg.Database.URL == "" {
		if _, err := os.Stat(filepath.Join(cfg.DataDir, store.DatabaseFile)); err != nil {
			return nil, nil, nil
		}
	}
	db, err := openBeside(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	err = db.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Certificates(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.State != string(desk.Active) {
				continue
			}
			p, err := certs.FromStore(r.Chain, r.Key, time.Now())
			if err != nil {
				return fmt.Errorf("certificate %s: %w", r.Name, err)
			}
			list = append(list, p)
		}
		kept, err := tx.Profile(ctx, "default", 0)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		p := profile.Default()
		if err := json.Unmarshal(kept.Document, &p); err != nil {
			return fmt.Errorf("profile default version %d: %w", kept.Version, err)
		}
		p.Name, p.Version = kept.Name, kept.Version
		prof = &p
		return nil
	})
	return list, prof, err
}

// selfTestNetwork is where startCheck puts simulated devices.
var selfTestNetwork = netip.MustParsePrefix("127.111.0.0/16")

// sandbox is the configuration's server with its doors to the world shut: ports
// that the kernel chooses on loopback, a master key and a database of its own,
// no webhook, no traces, nothing by a timer.
func sandbox(ctx context.Context, cfg Config, dir string) (server.Options, error) {
	cfg.DataDir, cfg.Database, cfg.MasterKey = dir, Database{}, MasterKey{}
	cfg.Hello = Defaults().Hello
	cfg.Hello.Listen, cfg.API.Listen, cfg.API.TLS = "127.0.0.1:0", "127.0.0.1:0", APITLS{}
	cfg.Provisioning.Networks, cfg.Provisioning.Admission, cfg.Provisioning.OTP = []netip.Prefix{selfTestNetwork}, string(admit.Open),
		string(admit.OTPOff)
	cfg.Provisioning.Names, cfg.Provisioning.ODCA = Names{Sources: []string{string(profile.Pattern)}}, ODCA{}
	cfg.Tracing, cfg.Doctor, cfg.Zones = Tracing{}, Doctor{}, nil
	cfg.Node = Node{Name: "selftest", Drain: time.Second}
	log, err := newLogger(Log{Level: "error", Format: "json"}, io.Discard)
	if err != nil {
		return server.Options{}, err
	}
	o, err := options(ctx, cfg, log)
	o.MaintainPerMinute = -1
	return o, err
}

// setUpOne sets one simulated device up with the one certificate of o and says so.
func setUpOne(ctx context.Context, o server.Options, zones []string) (said string, err error) {
	p := o.Certificates[0]
	if out := p.Validity(time.Now()); out != nil && !o.Force[p.ID] {
		return "", out
	}
	if err := os.Mkdir(o.DataDir, 0o700); err != nil {
		return "", err
	}
	d, err := startCheck(simulated(p, zones))
	if err != nil {
		return "", err
	}
	defer d.Close()
	s, err := server.New(o)
	if err != nil {
		return "", err
	}
	run, cancel := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(run) }()
	defer func() {
		cancel()
		if end := <-stopped; err == nil && end != nil {
			err = fmt.Errorf("stop the server: %w", end)
		}
	}()
	for !s.Ready() {
		select {
		case end := <-stopped:
			stopped <- end
			return "", errors.Join(errors.New("the server ended before it was ready"), end)
		case <-ctx.Done():
			return "", errors.New("the server was not ready in time")
		case <-time.After(20 * time.Millisecond):
		}
	}
	start := time.Now()
	go func() { _ = d.Run(run, s.HelloAddr().String(), 1) }()
	steps, err := settled(ctx, s, d)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a simulated device with AMT %s in %s was set up with the certificate %s and read back: %d steps in %s",
		d.Personality().Version, d.Snapshot().Domain, p.Name, steps, time.Since(start).Round(10*time.Millisecond)), nil
}

// simulated is a device that trusts the certificate's roots and lives where it is
// valid: in the first configured zone that it serves, else in its own domain.
func simulated(p *certs.Provisioning, zones []string) sim.Config {
	c := sim.Config{Personality: "11", Log: zap.NewNop()}
	_, _ = rand.Read(c.UUID[:])
	for _, path := range p.Paths {
		c.Roots = append(c.Roots, path.RootHashes...)
	}
	_, c.Suffix, _ = strings.Cut(p.Name, ".")
	if v, err := sim.LookupPersonality(c.Personality); err == nil {
		for _, z := range zones {
			if p.Covers(z, v.Version).OK {
				c.Suffix = z
				break
			}
		}
	}
	return c
}

// settled waits until the store says that the device is managed, and asks the
// device itself. steps is how many there were.
func settled(ctx context.Context, s *server.Server, d *sim.Device) (steps int, err error) {
	var row store.Device
	for row.Lifecycle != store.Provisioned {
		err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
			if row, err = tx.Device(ctx, d.UUID()); err != nil {
				return err
			}
			runs, err := tx.Runs(ctx, d.UUID(), 1)
			if err != nil || len(runs) == 0 {
				return err
			}
			list, err := tx.Steps(ctx, runs[0].ID)
			steps = len(list)
			return err
		})
		switch {
		case ctx.Err() != nil && row.Lifecycle == "":
			return 0, errors.New("its hello did not arrive in time")
		case ctx.Err() != nil:
			return 0, fmt.Errorf("the device is %s after %d steps, and time is up: %s %s", row.Lifecycle, steps, row.Reason, row.Detail)
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return 0, err
		case row.Reason != "":
			return 0, fmt.Errorf("the device is %s: %s (%s): %s", row.Lifecycle, row.Reason, reason.Of(row.Reason).Title, row.Detail)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	if now := d.Snapshot(); now.State != amt.StatePost || now.AdminDefault {
		return steps, fmt.Errorf("the server calls the device managed, and the device itself does not: %s", now.State)
	}
	return steps, nil
}
