package endtoend

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store"
)

// TestBoxFlood: hellos of machines nobody knows come in from everywhere, a few
// sources louder than the limit, while authorised devices say theirs.
func TestBoxFlood(t *testing.T) {
	t.Parallel()
	forEachDatabase(t, func(t *testing.T, s *site) { s.flooded(size(10, 5), 2*time.Second, 2000) })
}

// flooded holds what a flood of strangers may not touch: as many authorised
// devices as came before it become managed beside it, no stranger is called, what
// is too loud is refused, and neither memory nor tables grow with it. The flood
// goes on for at least the time given, and until the devices are managed.
func (s *site) flooded(devices int, least time.Duration, perSecond int) {
	t := s.t
	t.Helper()
	const remembered = 200
	s.configure(fmt.Sprintf("  pending_devices: %d\n", remembered))
	d := s.serve([]string{
		"PROVISIOND_PROVISIONING_ADMISSION=allow-list",
		"PROVISIOND_HELLO_LIMITS_PER_SOURCE_PER_MINUTE=20", "PROVISIOND_HELLO_LIMITS_PER_NETWORK_PER_MINUTE=2000", // the defaults
	})
	idle := s.resident(d)
	h := s.herd()
	list := "uuid,fqdn\n"
	for i, dev := range h.mixed(t, 2*devices) {
		list += fmt.Sprintf("%s,pc%d.corp.example.com\n", dev.UUID(), i)
	}
	if _, errs, status := d.provctl("device", "import", s.file("known.csv", []byte(list))); status != 0 {
		t.Fatalf("import: %s", errs)
	}

	calm := h.p95(d, h.devices[:devices], devices)
	f := s.flood(d.hello, perSecond)
	began := time.Now()
	flooded := h.p95(d, h.devices[devices:], 2*devices)
	for time.Since(began) < least {
		<-time.After(100 * time.Millisecond)
	}
	peak := s.resident(d)
	sent, lasted := f.end()
	rate := float64(sent) / lasted.Seconds()

	h.sound(d)
	var text string
	poll(t, "every hello is counted with what became of it", time.Minute, func() bool {
		_, text = d.get("/metrics")
		return metricSum(text, "provisiond_hello_received_total{") >= float64(sent)
	})
	refused := metricIn(text, `provisiond_hello_received_total{result="rate_limited"}`)
	over := metricIn(text, `provisiond_hello_received_total{result="overload"}`)
	strange := metricIn(text, `provisiond_hello_received_total{result="denied_device"}`)
	if refused+over < float64(sent)/10 || strange < 100 {
		t.Errorf("of %d hellos in %s %v were too loud, %v over what is taken at once and %v of strangers", sent, lasted, refused, over,
			strange)
	}
	if n := metricSum(text, "provisiond_sessions_started_total{"); n > float64(3*2*devices) {
		t.Errorf("%v attempts for %d devices: strangers are called", n, 2*devices)
	}
	if peak > 400<<10 {
		t.Errorf("%d MiB resident, %d before the flood", peak>>10, idle>>10)
	}
	// What the flood has left behind goes.
	count := s.counter()
	var rows, hellos, events int
	poll(t, "the strangers' rows make room", time.Minute, func() bool {
		rows, hellos, events = count("devices"), count("hellos"), count("events")
		return rows <= remembered+2*devices
	})
	if hellos > 20*(remembered+2*devices) || events > 60*(remembered+2*devices) {
		t.Errorf("%d devices have %d hellos and %d events", rows, hellos, events)
	}
	d.stop()
	t.Logf("%d of %d managed, 95 %% of them within %.1f s of saying hello all at once (%.1f s when all was calm), beside %.0f hellos/s "+
		"of strangers for %.1f s (%d: %v too loud, %v over what is taken at once, %v of nobody we know); %d MiB resident, %d before; "+
		"then %d devices, %d hellos, %d events",
		devices, devices, flooded.Seconds(), calm.Seconds(), rate, lasted.Seconds(), sent, refused, over, strange, peak>>10, idle>>10, rows,
		hellos, events)
}

// p95 lets devices begin to say hello, waits until the daemon has so many managed
// ones in all, and gives how long after their beginning 95 of 100 were set up.
func (h *herd) p95(d *daemon, devices []*sim.Device, managed int) time.Duration {
	h.s.t.Helper()
	began := time.Now()
	took := make([]time.Duration, len(devices))
	var wg sync.WaitGroup
	for i, dev := range devices {
		wg.Go(func() {
			for state, changed := dev.State(); state != amt.StatePost; state, changed = dev.State() {
				select {
				case <-changed:
				case <-h.ctx.Done():
					return
				}
			}
			took[i] = time.Since(began)
		})
	}
	h.live(5*time.Second, one(d.hello), devices...)
	d.managed(managed, 3*time.Minute)
	wg.Wait()
	slices.Sort(took)
	return took[len(took)*95/100]
}

// A flood is hellos of machines that do not exist.
type flood struct {
	sent  atomic.Int64
	began time.Time
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// flood begins one at a bounded rate, half of it from twenty sources, the other
// half from anywhere in a range of 127/8 that no device of a test has.
func (s *site) flood(server string, perSecond int) *flood {
	s.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	f := &flood{began: time.Now(), stop: stop}
	s.t.Cleanup(func() { f.end() })
	template, at := s.helloTemplate()
	due := make(chan struct{}, 256)
	f.wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for owed := 0.0; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// Who cannot keep up does not catch up: it is a rate, and no number.
			for owed += float64(perSecond) / 100; owed >= 1; owed-- {
				select {
				case due <- struct{}{}:
				default:
				}
			}
		}
	})
	for range 64 {
		f.wg.Go(func() {
			msg := bytes.Clone(template)
			for {
				select {
				case <-ctx.Done():
					return
				case <-due:
				}
				_, _ = rand.Read(msg[at : at+16])
				from := netip.AddrFrom4([4]byte{127, 250, 250, byte(1 + mathrand.IntN(20))})
				if mathrand.IntN(2) == 0 {
					from = netip.AddrFrom4([4]byte{127, byte(241 + mathrand.IntN(9)), byte(mathrand.IntN(256)),
						byte(1 + mathrand.IntN(254))})
				}
				dialer := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
				c, err := dialer.DialContext(ctx, "tcp", server)
				if err != nil {
					continue
				}
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := c.Write(msg); err == nil {
					f.sent.Add(1)
				}
				_ = c.Close()
			}
		})
	}
	return f
}

// end stops the flood and says how much of it there was.
func (f *flood) end() (sent int64, lasted time.Duration) {
	f.stop()
	f.wg.Wait()
	return f.sent.Load(), time.Since(f.began)
}

// helloTemplate is the bytes of a hello and where its UUID stands.
func (s *site) helloTemplate() (msg []byte, at int) {
	t := s.t
	t.Helper()
	u := [16]byte{0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	dev, err := sim.New(sim.Config{UUID: u, Personality: "11", Addr: netip.MustParseAddr("127.0.0.1"), Suffix: "corp.example.com",
		Roots: s.roots()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	said := make(chan error, 1)
	go func() { said <- dev.SayHello(t.Context(), l.Addr().String()) }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if msg, err = io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	if err := <-said; err != nil {
		t.Fatal(err)
	}
	if at = bytes.Index(msg, u[8:]) - 8; at < 0 { // its first half is in another order there
		t.Fatalf("no UUID in %x", msg)
	}
	return msg, at
}

// resident is the most memory of its own the daemon has had, in KiB.
func (s *site) resident(d *daemon) int {
	s.t.Helper()
	status := readFile(s.t, fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n := 0
			if _, err := fmt.Sscan(rest, &n); err == nil {
				return n
			}
		}
	}
	s.t.Fatalf("no VmHWM in %s", status)
	return 0
}

// metricSum adds up the series whose lines begin so.
func metricSum(text, begin string) (sum float64) {
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, begin) {
			var v float64
			if _, err := fmt.Sscan(l[strings.LastIndexByte(strings.TrimSpace(l), ' ')+1:], &v); err == nil {
				sum += v
			}
		}
	}
	return sum
}

// counter counts the rows of the site's tables, beside its daemon.
func (s *site) counter() func(table string) int {
	s.t.Helper()
	ctx := s.t.Context()
	if s.db == "" {
		db, err := sql.Open("sqlite", "file:"+filepath.Join(s.path("data"), store.DatabaseFile)+"?mode=ro&_pragma=busy_timeout(10000)")
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = db.Close() })
		return func(table string) (n int) {
			s.t.Helper()
			if err := db.QueryRowContext(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
	c, err := pgx.Connect(ctx, s.db)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.WithoutCancel(ctx)) })
	return func(table string) (n int) {
		s.t.Helper()
		if err := c.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			s.t.Fatal(err)
		}
		return n
	}
}
