//go:build bench

package endtoend

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/storetest"
)

var (
	scaleDevices = flag.Int("scale.devices", 1_000_000, "how many devices TestScale fills a store with")
	scaleDir     = flag.String("scale.dir", "", "keep the data directories here, and use those that are there")
	scaleMatch   = flag.String("scale.match", "", "only figures whose name this regular expression finds")
	scaleURL     = flag.String("scale.postgres", "",
		"fill this Postgres instead of one of the test's own; with -scale.dir, use it as it was filled before")
)

const (
	listGate  = 250 * time.Millisecond
	claimGate = 20 * time.Millisecond
	startGate = 5 * time.Second
	// far is by how much a figure may miss its gate before the test fails: what
	// else the machine does is in every figure, a scan of a million rows shows.
	far = 4
)

// TestScale fills a store with a million devices and measures what must not
// grow with them: the start of the real daemon, each list and filter that the
// console and provctl ask for, pages, /metrics, claims and the timers' own
// questions. Each figure is logged beside its gate; one that misses it by far
// fails.
func TestScale(t *testing.T) {
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			db := ""
			if engine == store.Postgres {
				if db = *scaleURL; db == "" {
					db = storetest.DurableURL(t)
				}
			}
			s := newSite(t, db)
			if *scaleDir != "" {
				dir := filepath.Join(*scaleDir, engine)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(dir, s.path("data")); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now()
			s.fill(*scaleDevices)
			t.Logf("filled, or found filled, after %.0f s", time.Since(began).Seconds())
			m := &scaling{site: s, t: t, engine: engine}
			m.store()
			m.daemon()
		})
	}
}

// A scaling measures one engine.
type scaling struct {
	*site
	t      *testing.T
	engine string
	asked  *os.Process // its CPU is counted, when there is one
}

// figure does the same thing up to twenty times, for six seconds at most, and
// logs the middle one and the slowest of them; of twenty that is their p99.
func (m *scaling) figure(what string, gate time.Duration, do func() string) {
	m.t.Helper()
	const most = 20
	if found, err := regexp.MatchString(*scaleMatch, what); err != nil || !found {
		return
	}
	began, least := time.Now(), 3
	said := do() // what is asked for the first time may read from the disk
	if time.Since(began) > 2*time.Second {
		least = 1 // nobody has to wait for more of these
	}
	var took []time.Duration
	var cpu time.Duration
	if m.asked != nil {
		cpu = cpuOf(m.asked)
	}
	for began = time.Now(); len(took) < most && (len(took) < least || time.Since(began) < 4*time.Second); {
		start := time.Now()
		said = do()
		took = append(took, time.Since(start))
	}
	if m.asked != nil {
		said = fmt.Sprintf("CPU %4d ms  %s", (cpuOf(m.asked)-cpu).Milliseconds()/int64(len(took)), said)
	}
	slices.Sort(took)
	m.say(what, gate, took[len(took)/2], took[len(took)-1], said)
}

func (m *scaling) say(what string, gate, middle, slowest time.Duration, said string) {
	m.t.Helper()
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	mark := ""
	if gate > 0 && slowest > gate {
		mark = fmt.Sprintf("  OVER %v", gate)
	}
	m.t.Logf("%-8s %-58s p50 %8.1f ms  p99 %8.1f ms  %s%s", m.engine, what, ms(middle), ms(slowest), said, mark)
	if gate > 0 && middle > far*gate {
		m.t.Errorf("%s: %s takes %v, which is far above %v", m.engine, what, middle, gate)
	}
}

// store measures what the daemon asks on its timers, and claims.
func (m *scaling) store() {
	ctx := m.t.Context()
	m.put(ctx, "UPDATE runs SET not_before = created_at WHERE state = 'queued'")
	db := m.filled()
	defer db.Close()
	read := func(what string, gate time.Duration, ask func(tx *store.Tx) (any, error)) {
		m.t.Helper()
		m.figure(what, gate, func() string {
			var said any
			if err := db.Read(ctx, func(tx *store.Tx) (err error) {
				said, err = ask(tx)
				return err
			}); err != nil {
				m.t.Fatalf("%s: %v", what, err)
			}
			return fmt.Sprint(said)
		})
	}
	m.figure("timer: facts (each 10 s)", 0, func() string {
		f, err := db.Facts(ctx)
		if err != nil {
			m.t.Fatal(err)
		}
		return fmt.Sprintf("%d due, %d expiring", f.Due, f.ExpiringCerts)
	})
	read("timer: runs left behind (each 5 s)", listGate, func(tx *store.Tx) (any, error) {
		r, err := tx.WaitingRuns(ctx, 10*time.Second, 500)
		return len(r), err
	})
	read("timer: runs that wait too long (each 5 s)", listGate, func(tx *store.Tx) (any, error) {
		r, err := tx.FarRuns(ctx, 4*time.Hour, 500)
		return len(r), err
	})
	read("timer: oldest waiting run (each 5 s)", listGate, func(tx *store.Tx) (any, error) { return tx.OldestWaiting(ctx) })
	var after amt.UUID
	read("timer: maintenance due among 10,000 (each minute ten)", listGate, func(tx *store.Tx) (any, error) {
		due := m.due()
		due.After, due.Among = after, 10_000
		d, next, err := tx.DueDevices(ctx, due)
		after = next
		return len(d), err
	})
	read("timer: maintenance under way (each minute)", 0, func(tx *store.Tx) (any, error) { return tx.CountLiveRuns(ctx, "maintain") })
	read("timer: names to look up (each 2 s)", listGate, func(tx *store.Tx) (any, error) {
		d, err := tx.DueForIdentity(ctx, 1)
		return len(d), err
	})
	read("timer: windows closing, counted (each 15 s)", 0, func(tx *store.Tx) (any, error) { return tx.CountClosing(ctx, time.Hour) })
	read("timer: windows closing (each 15 s)", 0, func(tx *store.Tx) (any, error) {
		d, err := tx.ClosingWindows(ctx, time.Hour, 500)
		return len(d), err
	})
	read("timer: windows over (each 15 s)", 0, func(tx *store.Tx) (any, error) {
		d, err := tx.ExpiredWindows(ctx, 10*time.Minute, 500)
		return len(d), err
	})
	read("timer: strangers (each 20 s)", 0, func(tx *store.Tx) (any, error) { return tx.CountStrangers(ctx) })
	read("trust atlas: groups", 0, func(tx *store.Tx) (any, error) {
		g, err := tx.FleetGroups(ctx)
		return len(g), err
	})
	m.claims(ctx, db)
}

// due is what maintenance asks with the shipped configuration.
func (m *scaling) due() store.Due {
	now := time.Now()
	return store.Due{CertBefore: now.AddDate(0, 0, 31), ContactBefore: now.AddDate(0, 0, -14), Names: true, Rest: 12 * time.Hour, Limit: 60}
}

// claims takes runs that wait among a hundred thousand, and gives them back.
func (m *scaling) claims(ctx context.Context, db *store.DB) {
	var waiting []store.Run
	if err := db.Read(ctx, func(tx *store.Tx) (err error) {
		waiting, err = tx.WaitingRuns(ctx, 0, 500)
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	var took []time.Duration
	for _, r := range waiting {
		start := time.Now()
		var c store.Claim
		if err := db.Write(ctx, func(tx *store.Tx) (err error) {
			c, err = tx.Claim(ctx, r.ID, "scale", time.Minute)
			return err
		}); err != nil {
			m.t.Fatal(err)
		}
		took = append(took, time.Since(start))
		if err := db.Write(ctx, func(tx *store.Tx) error { return tx.Release(ctx, r.UUID, c.Fence, time.Time{}) }); err != nil {
			m.t.Fatal(err)
		}
	}
	slices.Sort(took)
	m.say("claim of a run", claimGate, took[len(took)/2], took[len(took)*99/100], fmt.Sprintf("%d claims, durable", len(took)))
}

// sample is one managed device of the fleet, with all it can be found by.
type sample struct{ uuid, fqdn, mac, serial, address string }

func (m *scaling) sample() (s sample) {
	m.t.Helper()
	db, _ := m.beside("")
	defer db.Close()
	n := sampled(*scaleDevices)
	// Its address is another one once it said hello here.
	q := fmt.Sprintf("SELECT CAST(uuid AS text), fqdn, mac, serial, address FROM devices WHERE serial = 'SN%08X'", n)
	if err := db.QueryRowContext(m.t.Context(), q).Scan(&s.uuid, &s.fqdn, &s.mac, &s.serial, &s.address); err != nil {
		m.t.Fatal(err)
	}
	return s
}

// daemon measures the real program over its ports.
func (m *scaling) daemon() {
	t, ctx := m.t, m.t.Context()
	// The daemon would work on them; so they wait for an hour to come.
	m.put(ctx, "UPDATE runs SET not_before = "+map[string]string{store.SQLite: "(unixepoch() + 5400) * 1000",
		store.Postgres: "now() + interval '90 minutes'"}[m.engine]+" WHERE state = 'queued'")
	m.configure("  names: {sources: [assigned]}\n  pending_devices: 10000000\nmaintenance: {per_minute: 0}\n")
	one := m.sample()
	m.hello, m.api = freePort(t), freePort(t)
	bin := program(t, box.daemon)
	var d *daemon
	for range 2 { // the first start makes keys and the first token
		began := time.Now()
		d = m.launch(bin, nil)
		for {
			if status, _, err := fetch(ctx, "http://"+m.api+"/readyz"); err == nil && status == http.StatusOK {
				break
			}
			if time.Since(began) > 2*time.Minute {
				t.Fatalf("not ready after two minutes:\n%s", tail(d.errs.String(), 2000))
			}
			m.pause(20 * time.Millisecond)
		}
		took := time.Since(began)
		m.say("start of the daemon, to ready", startGate, took, took, "")
		d.hello, d.api = m.hello, m.api
		if b, err := os.ReadFile(d.token); err == nil && len(b) > 0 {
			d.stop()
		}
	}
	d = m.serve(nil)
	defer d.stop()
	m.asked = d.cmd.Process
	m.lists(d, one)
	m.pages(d, one)
	m.hellos(d, one)
	t.Logf("%s: the daemon's own memory, at most: %d MiB", m.engine, m.resident(d)>>10)
}

// get asks the API as provctl does.
func (m *scaling) ask(d *daemon, path string) string {
	m.t.Helper()
	c := d.client()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, c.Base+path, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	return m.answer(http.DefaultClient, req)
}

func (m *scaling) answer(c *http.Client, req *http.Request) string {
	m.t.Helper()
	res, err := c.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		m.t.Fatalf("%s: %d, %v: %.300s", req.URL, res.StatusCode, err, b)
	}
	return string(b)
}

// lists are the questions about many devices, in every order.
func (m *scaling) lists(d *daemon, one sample) {
	rows := func(v url.Values) func() string {
		return func() string {
			return fmt.Sprintf("%d rows", strings.Count(m.ask(d, "/api/v1/devices?"+v.Encode()), `"lifecycle":`))
		}
	}
	list := func(what string, v url.Values) {
		m.t.Helper()
		m.figure("list "+what, listGate, rows(v))
	}
	part := func(what string, v url.Values) {
		m.t.Helper()
		m.figure("part of a text, list "+what, 0, rows(v))
	}
	late := map[string]string{"": "fd000000-0000-4000-8000-000000000000",
		"last_seen": fmt.Sprintf("%d,%s", time.Now().AddDate(0, 0, -170).UnixMilli(), one.uuid),
		"name":      "pc-0990000.corp.example.com," + one.uuid}
	for _, order := range []string{"", "last_seen", "name"} {
		of := func(more ...string) url.Values {
			v := url.Values{"limit": {"50"}}
			if order != "" {
				v.Set("order", order)
			}
			for i := 0; i < len(more); i += 2 {
				v.Set(more[i], more[i+1])
			}
			return v
		}
		by := "by " + order + ": "
		if order == "" {
			by = "by uuid: "
		}
		list(by+"first page", of())
		list(by+"a late page", of("after", late[order]))
		list(by+"1000 rows", of("limit", "1000"))
		// A part of a text is looked for in every device: it is measured, and has no gate.
		for _, q := range []string{one.uuid[:8], one.fqdn[:10], "0123", one.mac[9:], one.address[:9], "nothing-like-this",
			"state:failed " + one.fqdn[:8]} {
			part(by+q, of("q", q))
		}
		for _, q := range []string{"state:provisioned", "state:failed", "state:quarantined", "state:verifying",
			"state:failed,pending_certificate,dormant", "reason:device_unreachable", "reason:uuid_duplicate", "reason:clock_skew",
			"amt:16", "amt:7.1", "amt:6", "suffix:s7.corp.example.com", "suffix:nowhere.example.com", "tag:lab", "tag:floor-3", "tag:none",
			"health:unreachable", "profile:lab", "profile:none",
			"seen:1h", "seen:24h", "silent:7d", "silent:179d", "net:" + one.address + "/16", "net:" + one.address + "/24", "net:10.0.0.0/8",
			one.uuid, one.fqdn, one.mac, strings.ReplaceAll(one.mac, ":", "-"), one.serial, one.address, one.address + "/32",
			"state:failed amt:16 seen:24h", "state:provisioned health:unreachable suffix:s7.corp.example.com"} {
			list(by+q, of("q", q))
		}
	}
}

// pages are the console's, and the API's other answers.
func (m *scaling) pages(d *daemon, one sample) {
	api := func(what, path string) {
		m.t.Helper()
		m.figure(what, listGate, func() string { return fmt.Sprintf("%d bytes", len(m.ask(d, path))) })
	}
	api("api: summary", "/api/v1/summary")
	api("api: device", "/api/v1/devices/"+one.uuid)
	for _, q := range []string{one.uuid, one.address, "127.200.1.1", one.mac, "02:00:ff:ff:ff:ff", one.fqdn, one.fqdn[:10], one.serial,
		"nothing-like-this"} {
		api("api: why "+q, "/api/v1/devices/"+url.PathEscape(q)+"/why")
	}
	api("api: events, newest", "/api/v1/events?newest=true")
	api("api: events of one name", "/api/v1/events?newest=true&name=provisioned")
	api("api: events of a name that is rare", "/api/v1/events?newest=true&name=job_finished")
	api("api: events of a device", "/api/v1/events?newest=true&uuid="+one.uuid)
	api("api: audit, newest", "/api/v1/audit?newest=true")
	api("api: audit, searched", "/api/v1/audit?newest=true&subject=nobody")
	m.figure("api: audit verify, 100,000 records", 0,
		func() string { return fmt.Sprintf("%d bytes", len(m.ask(d, "/api/v1/audit/verify"))) })
	m.figure("api: cert advise", 0, func() string { return fmt.Sprintf("%d bytes", len(m.ask(d, "/api/v1/certificates/advice"))) })
	api("api: certificates", "/api/v1/certificates")

	jar, err := cookiejar.New(nil)
	if err != nil {
		m.t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	res, err := browser.PostForm("http://"+d.api+"/login", url.Values{"token": {d.client().Token}})
	if err != nil {
		m.t.Fatal(err)
	}
	res.Body.Close()
	for _, path := range []string{"/", "/devices", "/devices?q=state:failed", "/devices?q=seen:24h", "/devices?q=" + one.fqdn,
		"/devices/" + one.uuid, "/why?q=" + one.address, "/events", "/certificates", "/audit"} {
		m.figure("page "+path, listGate, func() string {
			req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, "http://"+d.api+path, nil)
			if err != nil {
				m.t.Fatal(err)
			}
			return fmt.Sprintf("%d bytes", len(m.answer(browser, req)))
		})
	}
	// Prometheus asks each ten seconds or so; two at once are two servers.
	m.figure("a scrape of /metrics", listGate, func() string {
		_, text := d.get("/metrics")
		return fmt.Sprintf("%.0f provisioned", metricIn(text, `provisiond_devices{state="provisioned"}`))
	})
	cpu := cpuOf(d.cmd.Process)
	m.pause(30 * time.Second) // which is what is measured
	m.t.Logf("%s: CPU of the daemon while nobody asks: %.1f %% of one core", m.engine, 100*(cpuOf(d.cmd.Process)-cpu).Seconds()/30)
}

// pause lets time pass, unless the measuring is given up.
func (m *scaling) pause(d time.Duration) {
	m.t.Helper()
	passed := time.NewTimer(d)
	defer passed.Stop()
	select {
	case <-passed.C:
	case <-m.t.Context().Done():
		m.t.Fatal(m.t.Context().Err())
	}
}

// hellos are taken one after the other, each durable before its connection ends.
func (m *scaling) hellos(d *daemon, one sample) {
	msg, at := m.helloTemplate()
	say := func(u [16]byte) string {
		copy(msg[at:], u[:])
		c, err := (&net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 19, 0, 9)}}).DialContext(m.t.Context(),
			"tcp", d.hello)
		if err != nil {
			m.t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write(msg); err != nil {
			m.t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			m.t.Fatal(err)
		}
		return ""
	}
	known, err := amt.ParseUUID(one.uuid)
	if err != nil {
		m.t.Fatal(err)
	}
	m.figure("hello of a known device, durable", listGate, func() string { return say(amt.FromSMBIOS([16]byte(known))) })
	n := byte(0)
	m.figure("hello of a device never seen, durable", listGate, func() string {
		n++
		return say([16]byte{0xde, 0xad, 0xbe, 0xef, n, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, n})
	})
}
