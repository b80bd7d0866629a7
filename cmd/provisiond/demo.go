package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
)

func newDemo() *cobra.Command {
	var exit bool
	var addr string
	cmd := &cobra.Command{Use: "demo", Short: "Show the whole road with simulated devices on this machine", Args: cobra.NoArgs,
		Long: "Starts the real server on SQLite in a temporary folder, with a certificate of\nits own laboratory CA, and 25 simulated " +
			"devices of mixed generations. Three of\nthem must fail, each for another reason."}
	cmd.Flags().BoolVar(&exit, "exit", false, "end when all devices are settled; status 0 only if the outcome is the expected one")
	cmd.Flags().StringVar(&addr, "api", "127.0.0.1:8080", "`ADDRESS` of console and API; another port is taken when it is in use")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return runDemo(cmd.Context(), cmd.OutOrStdout(), exit, addr)
	}
	return cmd
}

// demoDevice is one simulated machine and what should become of it.
type demoDevice struct {
	dev    *sim.Device
	name   string
	expect reason.Code // "": managed
}

// demoFleet is the cast: every generation, and three that cannot succeed.
var demoFleet = []struct {
	personality string
	count       int
	expect      reason.Code
	change      func(*sim.Config)
}{
	{"3.2", 1, "", nil}, {"5", 1, "", nil}, {"6", 2, "", nil}, {"7", 2, "", nil}, {"9", 2, "", nil}, {"11", 4, "", nil},
	{"12", 3, "", nil}, {"15", 2, "", nil}, {"16", 3, "", nil}, {"18", 2, "", nil},
	{"11", 1, reason.RootNotTrusted, func(c *sim.Config) { c.Roots = nil }},
	{"16", 1, reason.TLSClientCertRefused, func(c *sim.Config) { c.Suffix = "branch.example.net" }},
	{"12", 1, reason.UUIDMismatch, func(c *sim.Config) { c.Faults = sim.With(sim.Fault{Kind: sim.WrongUUID}) }},
}

func runDemo(ctx context.Context, out io.Writer, exit bool, addr string) error {
	dir, err := os.MkdirTemp("", "provisiond-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	lab := certtest.NewLab(time.Now())
	leaf := lab.Plain("Demo Root CA", "provisionserver.corp.example.com")
	cert, err := certs.LoadPFX(ctx, leaf.PFX(certtest.Modern, "demo"), amt.NewSecret("demo"), time.Now())
	if err != nil {
		return fmt.Errorf("make the demo's certificate: %w", err)
	}
	s, err := demoServer(dir, addr, cert)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "provisiond %s demo: a laboratory CA, SQLite in %s, 25 simulated devices\n\n", buildVersion(), dir)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()
	for !s.Ready() {
		select {
		case err := <-stopped:
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
	fleet, err := startFleet(ctx, s, cert.Paths[0].RootHashes)
	defer func() {
		for _, d := range fleet {
			_ = d.dev.Close()
		}
	}()
	if err != nil {
		return err
	}
	rows, settled := watchDemo(ctx, out, s, fleet)
	printDemo(out, rows)
	wrong := judgeDemo(fleet, rows)
	for _, w := range wrong {
		fmt.Fprintln(out, "not as expected:", w)
	}
	if !settled && ctx.Err() == nil {
		fmt.Fprintln(out, "not all devices settled in time")
	}
	if !exit && ctx.Err() == nil {
		fmt.Fprintf(out, "\nThe server stays up. Console: http://%s/\n  sign in with the token in %s\n  provctl --address http://%s "+
			"--token-file %s device why pc-24\nCtrl-C ends it and removes the folder.\n",
			s.APIAddr(), s.TokenFile(), s.APIAddr(), s.TokenFile())
		select {
		case <-ctx.Done():
		case err := <-stopped:
			return err
		}
	}
	cancel()
	err = <-stopped
	if exit && (len(wrong) > 0 || !settled) {
		return errors.Join(errSilent, err)
	}
	return err
}

func demoServer(dir, addr string, cert *certs.Provisioning) (*server.Server, error) {
	master := make([]byte, 32)
	if _, err := rand.Read(master); err != nil {
		return nil, err
	}
	keys, err := seal.New(master)
	if err != nil {
		return nil, err
	}
	log, err := newLogger(Log{Level: "info", Format: "json"}, logFile(dir))
	if err != nil {
		return nil, err
	}
	o := server.Options{
		Version: buildVersion(), Revision: revision(), Node: "demo", DataDir: dir, Keys: keys, HelloListen: "127.0.0.1:0", APIListen: addr,
		Console: true, RevealsHour: 30, Sessions: time.Hour, Certificates: []*certs.Provisioning{cert}, CheckCertificate: checkCertificate,
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Admission: admit.Open, Reprovision: admit.ReprovisionAuto,
		CallTimeout: 20 * time.Second, Drain: 5 * time.Second, Registry: prometheus.NewRegistry(), Log: log,
	}
	s, err := server.New(o)
	if err != nil && strings.Contains(err.Error(), "in use") {
		host, _, _ := net.SplitHostPort(addr)
		o.APIListen, o.Registry = net.JoinHostPort(host, "0"), prometheus.NewRegistry()
		return server.New(o)
	}
	return s, err
}

// logFile keeps the log out of the picture; it is there for the curious.
func logFile(dir string) io.Writer {
	f, err := os.OpenFile(filepath.Join(dir, "provisiond.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return io.Discard
	}
	return f
}

func startFleet(ctx context.Context, s *server.Server, roots []amt.TrustHash) ([]demoDevice, error) {
	var fleet []demoDevice
	n := 0
	for _, kind := range demoFleet {
		for range kind.count {
			n++
			var u amt.UUID
			if _, err := rand.Read(u[:]); err != nil {
				return fleet, err
			}
			cfg := sim.Config{UUID: u, Personality: kind.personality, Addr: netip.AddrFrom4([4]byte{127, 77, 0, byte(n)}),
				Suffix: "corp.example.com", Roots: roots, Latency: 5 * time.Millisecond, Log: zap.NewNop()}
			if kind.change != nil {
				kind.change(&cfg)
			}
			d, err := sim.New(cfg)
			if err == nil {
				err = d.Start()
			}
			if err != nil {
				return fleet, fmt.Errorf("start a simulated device: %w", err)
			}
			name := fmt.Sprintf("pc-%02d", n)
			if err := s.DB.Write(ctx, func(tx *store.Tx) error { // as device name or an import does
				return tx.PutName(ctx, store.Name{UUID: u, FQDN: name + ".corp.example.com", Source: admit.FromImport})
			}); err != nil {
				return fleet, fmt.Errorf("name a simulated device: %w", err)
			}
			fleet = append(fleet, demoDevice{dev: d, name: name, expect: kind.expect})
		}
	}
	for _, d := range fleet {
		go func() { _ = d.dev.Run(ctx, s.HelloAddr().String(), 1) }()
	}
	return fleet, nil
}

// demoRow is a device as the store has it.
type demoRow struct {
	name    string
	device  store.Device
	version string
	took    time.Duration
}

// watchDemo shows progress until every device is managed or has its reason.
func watchDemo(ctx context.Context, out io.Writer, s *server.Server, fleet []demoDevice) (rows []demoRow, settled bool) {
	tty := terminal(out)
	said := map[amt.UUID]bool{}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		rows = rows[:0]
		counts := map[string]int{}
		done := 0
		_ = s.DB.Read(ctx, func(tx *store.Tx) error {
			for _, d := range fleet {
				row := demoRow{name: d.name, version: d.dev.Personality().Version.String()}
				if got, err := tx.Device(ctx, d.dev.UUID()); err == nil {
					row.device = got
					if !got.ProvisionedAt.IsZero() {
						row.took = got.ProvisionedAt.Sub(got.FirstSeen)
					}
				}
				rows = append(rows, row)
			}
			return nil
		})
		for i, r := range rows {
			l := r.device.Lifecycle
			if l == "" {
				l = "silent"
			}
			counts[string(l)]++
			if end := l == store.Provisioned || r.device.Reason != "" && r.device.Reason == fleet[i].expect; end {
				done++
				if !tty && !said[fleet[i].dev.UUID()] {
					said[fleet[i].dev.UUID()] = true
					fmt.Fprintf(out, "%s  AMT %-12s %-20s %s\n", r.name, r.version, l, r.device.Reason)
				}
			}
		}
		if tty {
			fmt.Fprintf(out, "\r\x1b[K%s", progress(counts, len(fleet)))
		}
		settled = done == len(fleet)
		if settled || ctx.Err() != nil || time.Now().After(deadline) {
			fmt.Fprintln(out)
			return rows, settled
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func progress(counts map[string]int, all int) string {
	const width = 25
	managed := counts[string(store.Provisioned)]
	bar := strings.Repeat("█", managed*width/all) + strings.Repeat("·", width-managed*width/all)
	text := fmt.Sprintf("%s %d of %d managed", bar, managed, all)
	for _, l := range store.Lifecycles() {
		if n := counts[string(l)]; n > 0 && l != store.Provisioned {
			text += fmt.Sprintf(", %d %s", n, strings.ReplaceAll(string(l), "_", " "))
		}
	}
	return text
}

func printDemo(out io.Writer, rows []demoRow) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tAMT\tSTATE\tHELLO TO MANAGED\tREASON")
	for _, r := range rows {
		took := "-"
		if r.took > 0 {
			took = r.took.Round(time.Millisecond).String()
		}
		why := "-"
		if c := r.device.Reason; c != "" {
			why = string(c) + ": " + reason.Of(c).Title
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.name, r.version, r.device.Lifecycle, took, why)
	}
	_ = w.Flush()
}

// judgeDemo compares the outcome with what the cast list says.
func judgeDemo(fleet []demoDevice, rows []demoRow) (wrong []string) {
	for i, r := range rows {
		want := fleet[i].expect
		switch {
		case want == "" && r.device.Lifecycle != store.Provisioned:
			wrong = append(wrong, fmt.Sprintf("%s (AMT %s) is %s: %s %s", r.name, r.version, r.device.Lifecycle, r.device.Reason,
				r.device.Detail))
		case want != "" && r.device.Reason != want:
			wrong = append(wrong, fmt.Sprintf("%s (AMT %s) should have failed with %s and is %s %s", r.name, r.version, want,
				r.device.Lifecycle, r.device.Reason))
		}
	}
	return wrong
}

// terminal reports whether a person looks at out.
func terminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
