package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// dies is firmware that is gone for good once it is told a console's root, as the
// first step to mutual TLS.
func dies(c *sim.Config) {
	c.Faults = sim.With(sim.Fault{Kind: sim.PowerCycle, Call: "AddTrustedRootCertificate", Arg: "off"})
}

// A bad is a version of a profile, and the firmware that makes it one that loses
// the devices it reaches, or would.
type bad struct {
	name     string
	document map[string]any
	firmware func(*sim.Config)
	lost     int
}

var badProfiles = []bad{
	{"the device is gone", map[string]any{"tls": "mutual"}, dies, 1},
	// Another console is named, and of that name and our own the device keeps the first.
	{"the device does not keep our name", map[string]any{"tls": "mutual", "trusted_cn": []any{"console.lab.example"}},
		func(c *sim.Config) { c.KeepsNames = 1 }, 0},
}

// rollout waits for the newest rollout to be as wanted.
func (l *lab) rollout(what string, ok func(api.JobDetail) bool) api.JobDetail {
	l.t.Helper()
	list, err := l.api.Jobs(context.WithoutCancel(l.t.Context()), api.JobsInput{})
	if err != nil || len(list.Jobs) == 0 || list.Jobs[0].Kind != api.KindRollout {
		l.t.Fatalf("no rollout: %+v, %v", list, err)
	}
	return l.job(list.Jobs[0].ID, what, ok)
}

func stopped(j api.JobDetail) bool { return j.State == "stopped" }

// asked counts the devices that were told a console's root.
func asked(fleet []*sim.Device) (n int) {
	for _, d := range fleet {
		if slices.ContainsFunc(d.Snapshot().Changes, func(c sim.Change) bool { return c.Call == "AddTrustedRootCertificate" }) {
			n++
		}
	}
	return n
}

// movedDNS is a DNS of a test's own, in which devices are found that have moved.
type movedDNS struct {
	mu sync.Mutex
	at map[string]netip.Addr
}

func (z *movedDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if a, ok := z.at[strings.ToLower(strings.TrimSuffix(host, "."))]; ok {
		return []netip.Addr{a}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

func (z *movedDNS) LookupAddr(_ context.Context, addr string) ([]string, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for name, a := range z.at {
		if a.String() == addr {
			return []string{name + "."}, nil
		}
	}
	return nil, &net.DNSError{Err: "no such name", Name: addr, IsNotFound: true}
}

// move gives a device another address that only DNS knows.
func (z *movedDNS) move(t *testing.T, d *sim.Device) {
	t.Helper()
	a, s := address(), d.Snapshot()
	if err := d.Lease(a); err != nil {
		t.Fatal(err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.at[strings.ToLower(s.HostName+"."+s.Domain)] = a
}

// badProfile rolls a profile out that would lose each device of a fleet, a third of
// which has moved: one is asked, and lost only if nothing can put it back.
func badProfile(t *testing.T, n int, engine string, b bad, change func(*Options)) {
	z := &movedDNS{at: map[string]netip.Addr{}}
	l := newLab(t, engine, func(o *Options) {
		o.Lookup.ReverseDNS = z
		if change != nil {
			change(o)
		}
	})
	ctx := t.Context()
	fleet := l.fleet(n, b.firmware)
	for i, d := range fleet {
		if i%3 == 0 {
			z.move(t, d)
		}
	}
	dry, err := l.api.ApplyProfile(ctx, "default", api.NewProfile{Document: b.document, DryRun: true})
	if err != nil || dry.Devices != n || len(dry.Waves) != 3 || dry.Waves[0].Devices != 1 || dry.Waves[1].Devices != 10 ||
		dry.Waves[2].Devices != n-11 || len(dry.Risks) == 0 {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	if _, err := l.api.ApplyProfile(ctx, "default", api.NewProfile{Document: b.document}); err != nil {
		t.Fatal(err)
	}
	l.maintains()
	j := l.rollout("its stop", stopped)
	if j.Devices != n || j.Target != "default@2" || j.Counts["failed"] != 1 || j.Counts["waiting"] != n-1 {
		t.Errorf("%+v", j.Job)
	}
	one := l.only(j, "failed")
	if !strings.Contains(j.Detail, one.UUID) || !strings.Contains(j.Detail, "provctl job resume") {
		t.Errorf("it does not say which device, or what to do: %s", j.Detail)
	}
	for _, d := range fleet {
		if d.Snapshot().TLSMutual {
			t.Errorf("%s asks consoles for certificates: it was not put back, or never to be asked", d.UUID())
		}
	}
	if b.lost == 0 && !strings.Contains(j.Detail, string(reason.LockoutAverted)) {
		t.Errorf("it does not say that a change was put back: %s", j.Detail)
	}
	for _, d := range fleet {
		why, err := l.api.Why(ctx, d.UUID().String())
		if said := strings.Join(why.Tried, "\n"); err != nil || d.UUID().String() != one.UUID &&
			!strings.Contains(said, fmt.Sprintf("job %d (rollout to default@2) was stopped before its turn", j.ID)) {
			t.Errorf("why of a device that waits says: %s (%v)", said, err)
		}
	}
	// What waits stays as it was, whatever else is done to it; and so after a restart.
	other := fleet[0]
	if other.UUID().String() == one.UUID {
		other = fleet[1]
	}
	l.restart(func(*Options) {})
	name := "renamed.corp.example.com"
	l.write(func(ctx context.Context, tx *store.Tx) error {
		return tx.UpdateDevice(ctx, other.UUID(), store.DeviceFacts{FQDN: &name})
	})
	l.maintains()
	l.until(other.UUID(), "its new name", func(d store.Device) bool { return d.HostName == "renamed" && d.Lifecycle == store.Provisioned })
	if other.Snapshot().TLSMutual {
		t.Error("routine maintenance brought what the rollout was stopped for")
	}
	if n := asked(fleet); n != 1 {
		t.Errorf("%d devices were asked", n)
	}
	list, err := l.api.Jobs(ctx, api.JobsInput{})
	if err != nil || len(list.Jobs) != 1 || list.Jobs[0].State != "stopped" {
		t.Fatalf("after a restart: %+v, %v", list, err)
	}
	if got := l.metric("provisiond_jobs_stopped"); got != 1 {
		t.Errorf("%v jobs are stopped, says the metric", got)
	}
	if got := l.metric("provisiond_devices_lost"); got != float64(b.lost) {
		t.Errorf("%v devices are lost, says the metric", got)
	}
	if names := l.events(parseUUID(t, one.UUID)); slices.Contains(names, "contact_lost") != (b.lost > 0) {
		t.Errorf("of what became of it the timeline says: %v", names)
	}

	// The older version goes the same way, and ends what is left of this one.
	if _, err := l.api.ApplyProfile(ctx, "default", api.NewProfile{Document: map[string]any{"certificate_days": 500}}); err != nil {
		t.Fatal(err)
	}
	l.maintains()
	good := l.rollout("all that answer, the one that was put back among them",
		func(j api.JobDetail) bool { return j.Counts["done"] == n-b.lost })
	if good.ID == j.ID || good.Waves[0].Done != 1 || good.Waves[1].Done != 10 {
		t.Errorf("%+v", good.Job)
	}
	if old := l.job(j.ID, "its end", func(j api.JobDetail) bool { return j.State == "aborted" }); !strings.Contains(old.Detail,
		"default@3") || old.Counts["skipped"] != n-1 {
		t.Errorf("%+v", old.Job)
	}
	for _, d := range fleet {
		if u := d.UUID(); u.String() != one.UUID || b.lost == 0 {
			if dev := l.untilState(u, store.Provisioned); dev.ProfileVersion != 3 || !l.taken(d) {
				t.Errorf("%s is at version %d", u, dev.ProfileVersion)
			}
		}
		l.keeps(d)
	}
}

// only is the one device of a job in a state.
func (l *lab) only(j api.JobDetail, state string) (found api.JobResult) {
	l.t.Helper()
	for _, r := range j.Results {
		if r.State == state {
			found = r
		}
	}
	return found
}

func parseUUID(t *testing.T, s string) amt.UUID {
	t.Helper()
	u, err := amt.ParseUUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestABadProfileAsksOneDevice: of twelve devices that a new version would lose, one
// is asked, and put back where it still hears us; the others stay as they were until
// the version is put right.
func TestABadProfileAsksOneDevice(t *testing.T) {
	t.Parallel()
	for _, b := range badProfiles {
		for _, engine := range []string{store.SQLite, store.Postgres} {
			t.Run(b.name+"/"+engine, func(t *testing.T) {
				t.Parallel()
				badProfile(t, 12, engine, b, nil)
			})
		}
	}
}

// TestWavesFollowEachOther: one device, then as many as asked for, then the rest, and
// each of the first two waves is proved by a login of its own after the change.
func TestWavesFollowEachOther(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		fleet := l.fleet(6)
		canary := 2
		j, err := l.api.StartJob(t.Context(), api.JobRequest{Kind: "rotate", All: true, Confirm: "rotate 6", Canary: &canary})
		if err != nil {
			t.Fatal(err)
		}
		done := l.job(j.ID, "its end", over)
		if done.Counts["done"] != 6 || fmt.Sprint(done.Waves) != "[{first 1 1 0} {canary 2 2 0} {rest 3 3 0}]" {
			t.Fatalf("%+v", done.Job)
		}
		// Rows of runs tell the order: no wave began before the last run of the one before.
		last, first := map[int]int64{}, map[int]int64{}
		for _, r := range done.Results {
			l.read(func(ctx context.Context, tx *store.Tx) error {
				runs, err := tx.Runs(ctx, parseUUID(t, r.UUID), 10)
				proofs := 0
				for _, run := range runs {
					if run.ID < r.RunID {
						continue
					}
					if run.Kind == "maintain" && run.Task == "check,kept" && run.State == store.RunDone {
						proofs++
					}
					last[r.Wave] = max(last[r.Wave], run.ID)
					if first[r.Wave] == 0 || run.ID < first[r.Wave] {
						first[r.Wave] = run.ID
					}
				}
				if want := map[bool]int{true: 1}[r.Wave < 3]; proofs != want {
					t.Errorf("wave %d: %d logins prove it, want %d", r.Wave, proofs, want)
				}
				return err
			})
		}
		if first[2] < last[1] || first[3] < last[2] {
			t.Errorf("first runs %v, last runs %v", first, last)
		}
		for _, d := range fleet {
			if !l.taken(d) {
				t.Errorf("%s: its password is not known", d.UUID())
			}
		}
	})
}

// TestALostDeviceStopsAJob: the device that is gone in the middle of a change stops
// what waits, also in a job that a second user approved; resumed, the next one stops
// it again; aborted, the rest was never asked.
func TestALostDeviceStopsAJob(t *testing.T) {
	t.Parallel()
	l := newLab(t, store.SQLite, nil)
	ctx := t.Context()
	fleet := l.fleet(4, func(c *sim.Config) {
		c.Faults = sim.With(sim.Fault{Kind: sim.PowerCycle, Call: "SetAdminAclEntryEx", Nth: 2, Arg: "off"})
	})
	j, err := l.api.StartJob(ctx, api.JobRequest{Kind: "maintain", Task: "password", All: true, NeedApprover: true})
	if err != nil || j.State != "draft" {
		t.Fatalf("%+v, %v", j, err)
	}
	if _, err := l.api.JobCommand(ctx, j.ID, "resume"); err == nil {
		t.Error("a draft was resumed, and so approved, by its maker")
	}
	token, err := l.api.CreateToken(ctx, api.NewToken{Name: "second", Role: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	second := &api.Client{Base: l.api.Base, Token: token.Secret}
	if _, err := second.JobCommand(ctx, j.ID, "approve"); err != nil {
		t.Fatal(err)
	}
	one := l.job(j.ID, "its stop", stopped)
	if one.Counts["failed"] != 1 || one.Counts["waiting"] != 3 {
		t.Fatalf("%+v", one.Job)
	}
	if _, err := l.api.JobCommand(ctx, j.ID, "approve"); err == nil {
		t.Error("a stopped job was approved instead of resumed")
	}
	if _, err := l.api.JobCommand(ctx, j.ID, "resume"); err != nil {
		t.Fatal(err)
	}
	two := l.job(j.ID, "its second stop", func(j api.JobDetail) bool { return stopped(j) && j.Counts["failed"] == 2 })
	if two.Counts["waiting"] != 2 {
		t.Errorf("%+v", two.Job)
	}
	if _, err := l.api.JobCommand(ctx, j.ID, "abort"); err != nil {
		t.Fatal(err)
	}
	if end := l.job(j.ID, "its end", func(j api.JobDetail) bool { return j.State == "aborted" }); end.Counts["skipped"] != 2 {
		t.Errorf("%+v", end.Job)
	}
	// One that answers again counts no more.
	for _, d := range fleet {
		d.PowerCycle(true)
	}
	for _, r := range two.Results {
		if r.State != "failed" {
			continue
		}
		u := parseUUID(t, r.UUID)
		if _, err := l.api.Maintain(ctx, r.UUID, api.MaintainBody{Task: "check"}); err != nil {
			t.Fatal(err)
		}
		l.until(u, "its answer", func(d store.Device) bool { return d.Health == "ok" })
	}
	l.read(func(ctx context.Context, tx *store.Tx) error {
		lost, err := tx.LostDevices(ctx, tx.Now().AddDate(-1, 0, 0), 10)
		if len(lost) != 0 {
			t.Errorf("lost: %+v", lost)
		}
		return err
	})
	for _, d := range fleet {
		l.keeps(d)
	}
}

// TestAJobEndsWithWhatBecameOfItsDevices: to approve devices that then refuse our
// certificate is no success.
func TestAJobEndsWithWhatBecameOfItsDevices(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(o *Options) { o.Admission = admit.Approve }, func(t *testing.T, l *lab) {
		ctx := t.Context()
		good := l.device(sim.Faults{})
		bad := l.device(sim.With(sim.Fault{Kind: sim.RefuseCert, All: true}))
		for _, d := range []*sim.Device{good, bad} {
			l.says(d)
			l.untilState(d.UUID(), store.PendingApproval)
		}
		j, err := l.api.StartJob(ctx, api.JobRequest{Kind: "approve", All: true})
		if err != nil {
			t.Fatal(err)
		}
		done := l.job(j.ID, "its end", over)
		if done.Counts["done"] != 1 || done.Counts["failed"] != 1 {
			t.Fatalf("%+v %+v", done.Job, done.Results)
		}
		for _, r := range done.Results {
			switch {
			case r.UUID == good.UUID().String() && (r.State != "done" || !strings.Contains(r.Detail, "provisioned")):
				t.Errorf("the good one: %+v", r)
			case r.UUID == bad.UUID().String() && (r.State != "failed" ||
				!strings.HasPrefix(r.Detail, string(reason.TLSClientCertRefused)) &&
					!strings.HasPrefix(r.Detail, string(reason.TLSSuffixRejected))):
				t.Errorf("the bad one: %+v", r)
			}
		}
		again, err := l.api.StartJob(ctx, api.JobRequest{Kind: "retry", All: true})
		if err != nil {
			t.Fatal(err)
		}
		if done := l.job(again.ID, "its end", over); done.Counts["failed"] != 1 || done.Counts["done"] != 0 {
			t.Errorf("%+v", done.Job)
		}
	})
}

// TestLossesHoldRoutine: three devices that do not answer after a change within a day
// hold maintenance, and one that answers again lets it go on.
func TestLossesHoldRoutine(t *testing.T) {
	t.Parallel()
	forEachEngine(t, nil, func(t *testing.T, l *lab) {
		fleet := l.fleet(4)
		for _, d := range fleet[:3] {
			l.write(func(ctx context.Context, tx *store.Tx) error {
				lost, err := tx.MarkUnproved(ctx, d.UUID(), true, true)
				if !lost {
					t.Error("it is not lost")
				}
				return err
			})
		}
		name := "renamed.corp.example.com"
		l.write(func(ctx context.Context, tx *store.Tx) error {
			return tx.UpdateDevice(ctx, fleet[3].UUID(), store.DeviceFacts{FQDN: &name})
		})
		l.maintains()
		l.read(func(ctx context.Context, tx *store.Tx) error {
			if run, err := tx.LiveRun(ctx, fleet[3].UUID()); err == nil {
				t.Errorf("run %d began", run.ID)
			}
			return nil
		})
		l.write(func(ctx context.Context, tx *store.Tx) error { return tx.MarkAnswered(ctx, fleet[0].UUID()) })
		l.maintains()
		l.until(fleet[3].UUID(), "its new name", func(d store.Device) bool { return d.HostName == "renamed" })
	})
}
