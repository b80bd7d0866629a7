package endtoend

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store/pgtest"
)

// pair is two sites whose daemons are nodes on one Postgres.
func pair(t *testing.T) (first, second *site) {
	seat(t)
	url := pgtest.URL(t)
	first, second = newSite(t, url), newSite(t, url)
	second.leaf = first.leaf
	second.dir = first.dir // the same certificate and master key, as nodes share them
	second.cfg = second.file("second.yaml", []byte(readFile(t, first.cfg)))
	first.bin, second.bin = box.watched, box.watched
	return first, second
}

// TestBoxWavesOfTwoNodes: a version of the profile is rolled out by two nodes, and
// one is killed whenever a wave has ended or is under way. No wave is lost, no device
// begun twice, each wave waits for the one before; and a version that would shut us
// out stops at the first device though the node that was at it dies.
func TestBoxWavesOfTwoNodes(t *testing.T) {
	t.Parallel()
	const devices, canary = 9, 3
	first, second := pair(t)
	for _, s := range []*site{first, second} {
		s.cfg = s.file(fmt.Sprintf("waves-%p.yaml", s),
			[]byte(readFile(t, s.cfg)+fmt.Sprintf("maintenance: {per_minute: 600, canary: %d}\n", canary)))
	}
	sites := []*site{first, second}
	nodes := []*daemon{first.serve(nil, "--node-name", "node-0"), second.serve(nil, "--node-name", "node-1")}
	h := first.herd()
	fleet := make([]*sim.Device, devices)
	for i := range fleet {
		fleet[i] = h.add("11", func(c *sim.Config) { c.Latency, c.KeepsNames = 40*time.Millisecond, 1 })
	}
	h.live(2*time.Second, turn(nodes[0].hello, nodes[1].hello), fleet...)
	nodes[0].managed(devices, 3*time.Minute)

	// die kills one node, starts it again, and gives the other.
	die := func(n int, when string) {
		t.Helper()
		t.Logf("node %d dies %s", n, when)
		nodes[n].kill()
		nodes[n] = sites[n].serve(nil, "--node-name", fmt.Sprintf("node-%d", n))
	}
	// busy is the node that is at a device, if one is.
	busy := func() int {
		if nodes[1].metric("provisiond_sessions_active") > 0 {
			return 1
		}
		return 0
	}
	rollout := func(version int, until string, over func(api.JobDetail) bool, each func(api.JobDetail)) (j api.JobDetail) {
		t.Helper()
		target := fmt.Sprintf("default@%d", version)
		poll(t, until, 6*time.Minute, func() bool {
			list, err := nodes[0].client().Jobs(t.Context(), api.JobsInput{})
			if err != nil {
				return false
			}
			i := slices.IndexFunc(list.Jobs, func(j api.Job) bool { return j.Kind == "rollout" && j.Target == target })
			if i < 0 {
				return false
			}
			if j, err = nodes[0].client().Job(t.Context(), api.OneJob{ID: list.Jobs[i].ID, Limit: 1000}); err != nil {
				return false
			}
			each(j)
			return over(j)
		})
		return j
	}

	if _, err := nodes[0].client().ApplyProfile(t.Context(), "default",
		api.NewProfile{Document: map[string]any{"tls": "mutual"}}); err != nil {
		t.Fatal(err)
	}
	killed := map[string]bool{}
	at := func(when string, now bool, n func() int) {
		if now && !killed[when] {
			killed[when] = true
			die(n(), when)
		}
	}
	j := rollout(2, "all have the new version", func(j api.JobDetail) bool { return j.State == "done" }, func(j api.JobDetail) {
		if len(j.Waves) != 3 {
			return
		}
		one, some, rest := j.Waves[0], j.Waves[1], j.Waves[2]
		at("in the first wave", one.Running > 0, busy)
		at("after the first wave", one.Done == 1 && some.Done == 0, func() int { return 0 })
		at("in the canary", some.Done > 0 && some.Done < canary, busy)
		at("after the canary", some.Done == canary && rest.Done == 0, func() int { return 1 })
	})
	if len(killed) < 2 {
		t.Errorf("nodes died only %v: this shows little", killed)
	}
	if j.Counts["done"] != devices || len(j.Waves) != 3 || j.Waves[0].Done != 1 || j.Waves[1].Done != canary ||
		j.Waves[2].Done != devices-1-canary {
		t.Errorf("%+v", j.Job)
	}
	began, ended := map[int]int64{}, map[int]int64{} // by wave, as the rows of runs tell the order
	for _, r := range j.Results {
		var own, proofs []api.Run
		dev, err := nodes[0].client().Device(t.Context(), r.UUID)
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range dev.Runs {
			switch {
			case run.Kind == "maintain" && strings.Contains(run.Task, "check") && run.ID > r.RunID && run.State == "done":
				proofs = append(proofs, run)
			case run.Kind == "maintain" && !strings.Contains(run.Task, "check"):
				own = append(own, run)
			}
		}
		if len(own) != 1 {
			t.Errorf("%s of wave %d was begun %d times: %+v", r.UUID, r.Wave, len(own), own)
			continue
		}
		if r.Wave < 3 && len(proofs) == 0 {
			t.Errorf("%s of wave %d is not proved", r.UUID, r.Wave)
		}
		last := own[0].ID
		for _, p := range proofs {
			last = max(last, p.ID)
		}
		if ended[r.Wave] = max(ended[r.Wave], last); began[r.Wave] == 0 || own[0].ID < began[r.Wave] {
			began[r.Wave] = own[0].ID
		}
	}
	if !(ended[1] < began[2] && ended[2] < began[3]) {
		t.Errorf("waves began at the runs %v and ended at %v", began, ended)
	}
	for _, d := range fleet {
		if s := d.Snapshot(); !s.TLSMutual || s.MaxInFlight > 1 {
			t.Errorf("%s: mutual %t, %d requests in flight at once", s.UUID, s.TLSMutual, s.MaxInFlight)
		}
	}

	// Of another console's name and our own these devices keep the first.
	puts := func(d *sim.Device) (n int) {
		for _, c := range d.Snapshot().Changes {
			if c.Call == "Put:AMT_TLSSettingData" {
				n++
			}
		}
		return n
	}
	were := map[*sim.Device]int{}
	for _, d := range fleet {
		were[d] = puts(d)
	}
	if _, err := nodes[0].client().ApplyProfile(t.Context(), "default",
		api.NewProfile{Document: map[string]any{"tls": "mutual", "trusted_cn": []any{"console.lab.example"}}}); err != nil {
		t.Fatal(err)
	}
	j = rollout(3, "it stopped", func(j api.JobDetail) bool { return j.State == "stopped" }, func(j api.JobDetail) {
		at("at the first device of the bad version", len(j.Waves) > 0 && j.Waves[0].Running > 0, busy)
	})
	if j.Counts["waiting"] != devices-1 || j.Counts["failed"] != 1 || !strings.Contains(j.Detail, "lockout_averted") {
		t.Errorf("%+v", j.Job)
	}
	heard := 0
	for _, d := range fleet {
		if puts(d) > were[d] {
			heard++
		}
		if s := d.Snapshot(); len(s.TrustedCN) != 0 {
			t.Errorf("%s lets in %v", s.UUID, s.TrustedCN)
		}
	}
	if heard != 1 {
		t.Errorf("%d devices heard of the bad version", heard)
	}
	t.Logf("nodes died %d times", len(killed))
}
