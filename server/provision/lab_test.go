package provision

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/amt/sim/simtest"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
	"github.com/provisiond/provisiond/store/storetest"
)

// patience is how long what is to succeed may take: machines stand still for half a
// minute.
const patience = 3 * time.Minute

// lab is the shipped engine on a real store, with real TLS to simulated devices.
type lab struct {
	t      *testing.T
	db     *store.DB
	ca     *certtest.Lab
	engine *Engine
	trust  *labTrust
	jobs   chan int64
	prof   profile.Profile
	odca   *x509.Certificate // the root of hardware certificates, for engines made after it is set
	// again: the device's changes after setup are committed too
	again bool
}

// forEachEngine runs a claim on SQLite and on Postgres.
func forEachEngine(t *testing.T, f func(t *testing.T, l *lab)) {
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			f(t, newLab(t, engine))
		})
	}
}

func newLab(t *testing.T, engine string) *lab {
	t.Helper()
	master := make([]byte, 32)
	_, _ = rand.Read(master)
	keys, err := seal.New(master)
	if err != nil {
		t.Fatal(err)
	}
	o := storetest.Options(t, engine)
	o.Keys = keys
	db, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	l := &lab{t: t, db: db, ca: certtest.NewLab(time.Now()), jobs: make(chan int64, 64), prof: profile.Default()}
	if l.trust, err = newTrust(); err != nil {
		t.Fatal(err)
	}
	l.trust.load(t, l.ca.Plain("Test Root", "prov.corp.example.com"))
	l.engine = l.newEngine("node-1")
	return l
}

// newEngine is another daemon on the same store.
func (l *lab) newEngine(node string) *Engine {
	log := zaptest.NewLogger(l.t, zaptest.Level(zap.WarnLevel))
	var roots *x509.CertPool
	if l.odca != nil {
		roots = x509.NewCertPool()
		roots.AddCert(l.odca)
	}
	dialer := session.NewDialer(session.Config{
		ODCARoots:      roots,
		Control:        session.EgressGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, nil),
		ConnectTimeout: patience, HandshakeTimeout: patience, CallTimeout: patience, RefusedPatience: -1,
	}, log, nil)
	journal := &Journal{
		DB: l.db, Node: node,
		Enqueue: func(_ context.Context, _ *store.Tx, id int64, _ time.Time, _ int) error { return nil },
		Profile: func(context.Context, *store.Tx, store.Device, string) (profile.Profile, error) { return l.prof, nil },
	}
	return New(Config{
		Store: journal, Realm: journal.Realm,
		Dial: func(ctx context.Context, t session.Target) (Device, error) {
			s, err := dialer.Dial(ctx, t)
			if err != nil {
				return nil, err
			}
			return s, nil
		},
		Trust: l.trust, Clock: realClock{}, Rand: rand.Reader,
		Lease: patience, Margin: 500 * time.Millisecond, Quiet: 20 * time.Millisecond,
		Retry: []time.Duration{20 * time.Millisecond}, VerifyFor: 4 * time.Second, VerifyPause: 20 * time.Millisecond,
		KeyPause: 10 * time.Millisecond,
	}, log, simMetrics)
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }
func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// labTrust is server.Trust in small.
type labTrust struct {
	list    []*certs.Provisioning
	ca      *certs.Authority
	console *tls.Certificate
}

// newTrust begins with the authority and the console of all labs, whose keys take
// longer to make than most tests take.
func newTrust() (*labTrust, error) {
	ca, err := authority()
	if err != nil {
		return nil, err
	}
	own, err := console()
	return &labTrust{ca: ca, console: own}, err
}

var (
	authority = sync.OnceValues(func() (*certs.Authority, error) { return certs.NewAuthority("test device CA", time.Now()) })
	console   = sync.OnceValues(func() (*tls.Certificate, error) {
		ca, err := authority()
		if err != nil {
			return nil, err
		}
		return ca.Console("prov.corp.example.com", time.Now(), time.Hour)
	})
)

func (l *labTrust) load(t *testing.T, leaf certtest.Leaf) {
	t.Helper()
	p, err := certs.LoadPFX(t.Context(), leaf.PFX(certtest.Modern, "secret"), amt.NewSecret("secret"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l.list = append(l.list, p)
}

func (l *labTrust) Candidates(announced []amt.TrustHash, h certs.Hints) ([]certs.Candidate, error) {
	return certs.Match(l.list, announced, h, time.Now())
}
func (l *labTrust) IssueDevice(pub *rsa.PublicKey, uuid amt.UUID, fqdn, host string, v time.Duration) ([]byte, error) {
	return l.ca.IssueDevice(pub, uuid, fqdn, host, time.Now(), v)
}
func (l *labTrust) IssuedByUs(der []byte) bool {
	c, err := x509.ParseCertificate(der)
	return err == nil && c.CheckSignatureFrom(l.ca.Certificate()) == nil
}
func (l *labTrust) Console() (*tls.Certificate, []byte) {
	return l.console, l.ca.Certificate().Raw
}
func (l *labTrust) ConsoleAs(name string) *tls.Certificate {
	c, _ := l.ca.ConsoleFor(l.console.PrivateKey.(*rsa.PrivateKey), name, time.Now(), time.Hour)
	return c
}

// roots are the hashes a device must hold to trust the lab's certificate.
func (l *lab) roots() []amt.TrustHash { return l.trust.list[0].Paths[0].RootHashes }

// address is one that no other test of this machine uses.
func address() netip.Addr { return simtest.Addr() }

// device starts a simulated device on an address of its own.
func (l *lab) device(personality string, faults sim.Faults, change ...func(*sim.Config)) *sim.Device {
	l.t.Helper()
	var u amt.UUID
	_, _ = rand.Read(u[:])
	cfg := sim.Config{
		UUID: u, Personality: personality, Addr: address(),
		Suffix: "corp.example.com", Roots: l.roots(), Faults: faults, Restart: 20 * time.Millisecond,
	}
	for _, f := range change {
		f(&cfg)
	}
	d, err := sim.New(cfg)
	if err == nil {
		err = d.Start()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = d.Close() })
	return d
}

// hello records a device's hello and makes the run that follows from it.
func (l *lab) hello(d *sim.Device) int64 {
	l.t.Helper()
	var id int64
	err := l.db.Write(l.t.Context(), func(tx *store.Tx) error {
		ctx := l.t.Context()
		if _, _, err := tx.SeeHello(ctx, store.SeenHello{UUID: d.UUID(), From: netip.AddrPortFrom(d.Addr().Addr(), 40000),
			Address: d.Addr().Addr(), Version: 3, Hashes: l.roots()}); err != nil {
			return err
		}
		run, err := tx.CreateRun(ctx, store.NewRun{UUID: d.UUID(), Kind: "provision", Trigger: "hello"})
		if err != nil {
			return err
		}
		admin, _ := amt.NewAdminPassword(rand.Reader)
		mebx, _ := amt.NewMEBxPassword(rand.Reader)
		id = run.ID
		_, err = tx.StageCredentials(ctx, d.UUID(), run.ID, admin, mebx)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

// settle works a device's runs until nothing is under way any more.
func (l *lab) settle(e *Engine, d *sim.Device) store.Device {
	l.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		dev, live := l.look(d)
		if live == 0 || time.Now().After(deadline) {
			return dev
		}
		again, err := e.Work(l.t.Context(), live)
		if err != nil {
			l.t.Logf("work: %v", err)
		}
		if err != nil || !again.IsZero() {
			_ = realClock{}.Sleep(l.t.Context(), 20*time.Millisecond)
		}
	}
}

func (l *lab) look(d *sim.Device) (dev store.Device, live int64) {
	l.t.Helper()
	err := l.db.Read(context.WithoutCancel(l.t.Context()), func(tx *store.Tx) (err error) {
		if dev, err = tx.Device(context.Background(), d.UUID()); err != nil {
			return err
		}
		if r, err := tx.LiveRun(context.Background(), d.UUID()); err == nil {
			live = r.ID
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return dev, live
}

// invariants holds what must be true of every device whatever happened to it.
func (l *lab) invariants(d *sim.Device, dev store.Device) {
	l.t.Helper()
	snap := d.Snapshot()
	var admin, mebx []store.Credential
	if err := l.db.Read(l.t.Context(), func(tx *store.Tx) (err error) {
		if admin, err = tx.Credentials(l.t.Context(), d.UUID(), store.KindAdmin); err != nil {
			return err
		}
		mebx, err = tx.Credentials(l.t.Context(), d.UUID(), store.KindMEBx)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	accepts := func(list []store.Credential, f func(string) bool) (state string) {
		for _, c := range list {
			if f(c.Password.Reveal()) {
				return c.State
			}
		}
		return ""
	}
	adminState := accepts(admin, func(p string) bool { return d.AcceptsAdmin("admin", p) })
	mebxState := accepts(mebx, d.AcceptsMEBx)
	if adminState == "" && !d.AcceptsAdmin("admin", "admin") {
		l.t.Errorf("I1: the device holds an admin password the store does not")
	}
	if mebxState == "" && !d.AcceptsMEBx("admin") && l.prof.MEBx == "set" {
		l.t.Errorf("I1: the device holds a MEBx password the store does not")
	}
	if snap.MaxInFlight > 1 {
		l.t.Errorf("I2: %d requests in flight at once", snap.MaxInFlight)
	}
	if snap.Commits > 1 && !l.again {
		l.t.Errorf("I5: committed %d times", snap.Commits)
	}
	if dev.Lifecycle == store.Provisioned {
		if snap.State != amt.StatePost {
			l.t.Errorf("I7: provisioned, and the device is in %s mode", snap.State)
		}
		if adminState != store.CredentialActive {
			l.t.Errorf("I3: the password the device takes is %q in the store", adminState)
		}
		if mebxState != store.CredentialActive {
			l.t.Errorf("I3: the MEBx password the device takes is %q in the store", mebxState)
		}
	} else if reason.Code(dev.Reason) == "" {
		l.t.Errorf("I4: %s without a reason", dev.Lifecycle)
	}
}

func (l *lab) journal(d *sim.Device) string {
	out := ""
	_ = l.db.Read(context.Background(), func(tx *store.Tx) error {
		runs, _ := tx.Runs(context.Background(), d.UUID(), 20)
		for _, r := range runs {
			out += fmt.Sprintf("run %d %s %s %s\n", r.ID, r.State, r.Reason, r.Detail)
			steps, _ := tx.Steps(context.Background(), r.ID)
			for _, s := range steps {
				out += fmt.Sprintf("  %2d %-20s %-8s %6.1f ms %s\n", s.Seq, s.Name, s.State, s.FinishedAt.Sub(s.StartedAt).Seconds()*1000,
					s.Detail)
			}
		}
		return nil
	})
	return out
}
