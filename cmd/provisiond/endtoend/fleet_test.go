package endtoend

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/api"
)

// amtsimReport is the part of amtsim's report that is compared here.
type amtsimReport struct {
	Devices, Operational, Managed int
	PerSecond                     float64        `json:"managed_per_second"`
	FaultRate                     float64        `json:"fault_rate"`
	FaultsFired                   map[string]int `json:"faults_fired"`
	List                          []struct {
		UUID, Address, State, Version string
		Commits                       int
		HostName                      string `json:"host_name"`
		MaxInFlight                   int    `json:"max_in_flight"`
	}
}

// amtsim starts a fleet of its own process against a daemon.
func (s *site) amtsim(d *daemon, devices int, more ...string) *proc {
	s.t.Helper()
	return start(s.t, program(s.t, box.amtsim), nil,
		append([]string{"fleet", "--devices", strconv.Itoa(devices), "--server", d.hello, "--base", s.base,
			"--trust", s.path("root.pem"), "--suffix", "corp.example.com", "--scale", "0.05", "--timeout", "8m", "--quiet",
			"--report", s.path("report.json"), "--secrets-file", s.path("secrets.json")}, more...)...)
}

// agrees holds the daemon's list and passwords against amtsim's own record.
func (s *site) agrees(d *daemon, devices int) amtsimReport {
	t := s.t
	t.Helper()
	var report amtsimReport
	var secrets []sim.Secrets
	for name, into := range map[string]any{"report.json": &report, "secrets.json": &secrets} {
		b, err := os.ReadFile(s.path(name))
		if err == nil {
			err = json.Unmarshal(b, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if report.Devices != devices || report.Operational != devices || report.Managed != devices {
		t.Errorf("the simulator says: %d devices, %d operational, %d managed; want %d", report.Devices, report.Operational, report.Managed,
			devices)
	}

	var listed []api.DeviceSummary
	d.must(&listed, "device", "list")
	of := map[string]api.DeviceSummary{}
	for _, l := range listed {
		of[l.UUID] = l
	}
	if len(listed) != devices {
		t.Errorf("provctl lists %d devices, want %d", len(listed), devices)
	}
	for _, r := range report.List {
		l := of[r.UUID]
		if l.Lifecycle != "provisioned" || l.Reason != "" || l.Address+":16993" != r.Address || l.AMTVersion == "" ||
			l.ProvisionedAt == nil {
			t.Errorf("the simulator: %+v; provctl: %+v", r, l)
		}
		if r.Commits != 1 {
			t.Errorf("%s was committed %d times", r.UUID, r.Commits)
		}
		if r.MaxInFlight > 1 {
			t.Errorf("%s had %d requests in flight at once", r.UUID, r.MaxInFlight)
		}
	}

	// Every password there is, compared.
	var wg sync.WaitGroup
	unknown := make(chan string, 2*devices)
	work := make(chan sim.Secrets)
	c := d.client()
	for range 4 {
		wg.Go(func() {
			for s := range work {
				admin, err := c.Reveal(t.Context(), s.UUID.String(), "admin", "the test compares")
				sum := md5.Sum([]byte(s.AdminUser + ":" + s.Realm + ":" + admin.Password))
				if err != nil || hex.EncodeToString(sum[:]) != s.AdminHA1 {
					unknown <- fmt.Sprintf("admin of %s: %v", s.UUID, err)
				}
				mebx, err := c.Reveal(t.Context(), s.UUID.String(), "mebx", "the test compares")
				if err != nil || mebx.Password != s.MEBx {
					unknown <- fmt.Sprintf("mebx of %s: %v", s.UUID, err)
				}
			}
		})
	}
	for _, s := range secrets {
		work <- s
	}
	close(work)
	wg.Wait()
	close(unknown)
	for u := range unknown {
		t.Errorf("unknown password: %s", u)
	}
	if len(secrets) != devices {
		t.Errorf("%d devices' secrets were compared, want %d", len(secrets), devices)
	}
	return report
}

// TestBoxFleet: a fleet of every generation becomes managed, every password is
// known, and provctl's list agrees with the simulator's own record.
func TestBoxFleet(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) { fleetRun(t, s, size(100, 20)) })
}

func fleetRun(t *testing.T, s *site, devices int) {
	s.bin = box.watched
	d := s.serve(nil)
	f := s.amtsim(d, devices)
	if status := f.wait(9 * time.Minute); status != 0 {
		t.Errorf("amtsim ended with status %d: %s", status, f.out.String())
	}
	d.managed(devices, time.Minute)
	r := s.agrees(d, devices)
	d.stop()
	// The devices were a nuisance all the while, as they are unless told otherwise.
	// Which kinds come up in a small fleet is chance.
	fired := 0
	for _, n := range r.FaultsFired {
		fired += n
	}
	if len(r.FaultsFired) < 2 || fired < devices/2 || r.FaultRate != .05 {
		t.Errorf("faults at %v of the requests: %v", r.FaultRate, r.FaultsFired)
	}
	t.Logf("%d of %d managed, 0 unknown passwords, %.1f devices/s, faults %v", r.Managed, r.Devices, r.PerSecond, r.FaultsFired)
}

// TestBoxKilled: kill -9 of the daemon in the middle of a fleet, started again:
// all managed, none twice, every password known.
func TestBoxKilled(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) { killedRun(t, s, size(60, 30)) })
}

func killedRun(t *testing.T, s *site, devices int) {
	d := s.serve(nil)
	// Slow devices, and not all at once, make the middle wide enough to hit.
	f := s.amtsim(d, devices, "--latency", "30ms", "--rate", strconv.Itoa(max(4, devices/10)))
	poll(t, "a quarter of the fleet managed", 3*time.Minute,
		func() bool { return d.metric(`provisiond_devices{state="provisioned"}`) >= float64(devices)/4 })
	live := d.metric("provisiond_sessions_active")
	d.kill()
	killed := time.Now()
	d = s.serve(nil)
	if n := d.metric(`provisiond_devices{state="provisioned"}`); n >= float64(devices) {
		t.Errorf("all were managed already when the daemon was killed")
	}
	d.managed(devices, 4*time.Minute)
	recovered := time.Since(killed)
	if status := f.wait(5 * time.Minute); status != 0 {
		t.Errorf("amtsim ended with status %d: %s", status, f.out.String())
	}
	s.agrees(d, devices)
	d.stop()
	t.Logf("%d devices, killed -9 with %.0f under way: all managed %.1f s later, none twice, 0 unknown passwords", devices, live,
		recovered.Seconds())
}

// TestBoxTwoDaemons: two daemons on one Postgres share a fleet; one is killed
// in the middle. The other ends what it left: all managed, none twice.
func TestBoxTwoDaemons(t *testing.T) {
	t.Parallel()
	twoDaemons(t, size(60, 20))
}
