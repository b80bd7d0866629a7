package session_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var lab = sync.OnceValue(func() *certtest.Lab { return certtest.NewLab(time.Now()) })

// provisioning is a certificate chain a device of lab.test accepts, root last.
var provisioning = sync.OnceValue(func() certtest.Leaf {
	return lab().Plain("Session Lab", "provisionserver.lab.test")
})

func clientCertificate(f certtest.Leaf) *tls.Certificate {
	c := &tls.Certificate{PrivateKey: f.Key, Leaf: f.Cert}
	for _, x := range f.Chain() {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

var lastAddress atomic.Uint32

// startDevice starts a simulated device on an address of its own.
func startDevice(t *testing.T, cfg sim.Config) *sim.Device {
	t.Helper()
	n, pid := lastAddress.Add(1), os.Getpid() // two runs of these tests may share a machine
	cfg.Addr = netip.AddrFrom4([4]byte{127, 128 + byte(pid>>8)&63, byte(pid), byte(n)})
	cfg.UUID = amt.UUID{0x11, 0x22, 0x33, 0x44, 15: byte(n)}
	cfg.Suffix = "lab.test"
	cfg.Roots = amt.HashesOf(provisioning().Chain()[2].Raw)
	if cfg.Restart == 0 {
		cfg.Restart = 20 * time.Millisecond
	}
	d, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// patience is for a machine that stands still for half a minute.
const patience = 2 * time.Minute

var factory = session.Login{Name: "factory", User: "admin", Password: amt.NewSecret("admin")}

func newDialer() *session.Dialer {
	return session.NewDialer(session.Config{
		Control:        session.EgressGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, nil),
		ConnectTimeout: patience, HandshakeTimeout: patience, CallTimeout: patience, RefusedPatience: patience,
	}, nil, nil)
}

// dialSetup opens a setup session.
func dialSetup(t *testing.T, d *sim.Device, logins ...session.Login) *session.Session {
	t.Helper()
	if logins == nil {
		logins = []session.Login{factory}
	}
	s, err := newDialer().Dial(t.Context(), session.Target{Addr: d.Addr(), Client: clientCertificate(provisioning()), Logins: logins})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

const (
	adminPassword = "Adm1n!secret-of-32-chars+++++++#"
	mebxPassword  = "Mebx!secret-1234"
)

// setUp walks a device through everything a server does to it, as far as
// commit, whose error it returns.
func setUp(t *testing.T, ctx context.Context, s *session.Session) (session.Identity, error) {
	t.Helper()
	id, err := s.Identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	must("extend", s.ExtendSetup(ctx, 6))
	_, err = s.SetClock(ctx)
	must("clock", err)
	must("mebx", s.SetMEBxPassword(ctx, amt.NewSecret(mebxPassword)))
	must("admin", s.SetAdminPassword(ctx, "admin", id.Realm, amt.NewSecret(adminPassword)))
	must("name", s.SetHostName(ctx, "pc1", "lab.test"))

	var handle string
	key := lab().RSAKey("device", 2048)
	pub := &key.PublicKey
	if id.Version.AtLeast(6, 2) {
		for range 5 { // busy at first
			handle, err = s.GenerateKey(ctx, 2048)
			var status amt.Status
			if err == nil || !errors.As(err, &status) || status.Class() != amt.ClassWait && status != amt.StatusKeysMissing &&
				status != amt.StatusInternalError {
				break
			}
			wantCode(t, err, reason.KeypairGenerationFailed)
		}
		must("generate key", err)
		m, err := s.TLSMaterial(ctx)
		must("material", err)
		for _, k := range m.Keys {
			if k.Handle == handle {
				pub = k.Public
			}
		}
	} else {
		_, err = s.AddKey(ctx, key)
		must("add key", err)
	}
	root := lab().Root(certtest.Options{Name: "Device CA"})
	cert := root.Sign(certtest.Options{Name: "pc1.lab.test", Names: []string{"pc1.lab.test"}}, pub)
	handle, err = s.AddCertificate(ctx, cert.Raw)
	must("add certificate", err)
	_, err = s.AddCertificate(ctx, cert.Raw)
	var status amt.Status
	if !errors.As(err, &status) || status != amt.StatusDuplicate {
		t.Errorf("adding it twice: %v, want DUPLICATE", err)
	}
	must("use certificate", s.UseCertificate(ctx, handle))
	must("use it again", s.UseCertificate(ctx, handle))
	must("enable TLS", s.EnableTLS(ctx, false, nil))
	m, err := s.TLSMaterial(ctx)
	must("material", err)
	if m.Context != handle {
		t.Errorf("the certificate in use is %q, want %q", m.Context, handle)
	}
	found := false
	for _, c := range m.Certificates {
		found = found || c.Handle == handle && bytes.Equal(c.DER, cert.Raw)
	}
	if !found {
		t.Error("the certificate is not listed")
	}
	for _, set := range m.Settings {
		if network := set.InstanceID == "Intel(r) AMT 802.3 TLS Settings"; set.Enabled != network {
			t.Errorf("%s: enabled %v", set.InstanceID, set.Enabled)
		}
	}
	return id, s.Commit(ctx)
}

// verify waits for the device to come back and logs in with the new password.
func verify(t *testing.T, d *sim.Device, password string) *session.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	target := session.Target{Addr: d.Addr(), Logins: []session.Login{{Name: "candidate", User: "admin", Password: amt.NewSecret(password)}}}
	for {
		s, err := newDialer().Dial(ctx, target)
		if err == nil {
			state, err := s.State(ctx)
			if err == nil && state == amt.StatePost {
				t.Cleanup(func() { _ = s.Close() })
				return s
			}
			_ = s.Close()
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the device is not operational: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestEveryGenerationIsSetUp(t *testing.T) {
	t.Parallel()
	for _, name := range sim.Personalities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDevice(t, sim.Config{Personality: name})
			s := dialSetup(t, d)
			id, err := setUp(t, t.Context(), s)
			why := new(reason.Error)
			if err != nil && !(errors.As(err, &why) && why.Code == reason.ConnectionLost && why.Sent) {
				t.Fatalf("commit: %v", err)
			}
			p := d.Personality()
			if id.UUID != d.UUID() || id.Version != p.Version || id.Realm != d.Realm() || id.State != amt.StateIn ||
				id.DHCPSuffix != "lab.test" && p.Version.Major >= 9 {
				t.Errorf("identity: %+v", id)
			}
			if peer := s.Peer(); peer.TLSVersion != p.MaxTLS && peer.TLSVersion != tls.VersionTLS12 || !peer.ClientCertAsked ||
				!peer.ClientCertSent || len(peer.Fingerprint) != 32 {
				t.Errorf("peer: %+v", peer)
			}
			// A device that closes counts the old line until its own bookkeeping is done.
			closes := p.CloseAlways || p.EOFFramed || p.CloseOn401
			if now := d.Snapshot(); now.MaxConcurrent > 1 && !closes || now.MaxInFlight > 1 {
				t.Errorf("at once: %d connections, %d requests", now.MaxConcurrent, now.MaxInFlight)
			}
			_ = s.Close()

			v := verify(t, d, adminPassword)
			if v.LoginUsed() != "candidate" {
				t.Errorf("logged in as %q", v.LoginUsed())
			}
			rec, err := v.ProvisioningRecord(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if p.Version.Major >= 7 && (rec.Class != "IPS_TLSProvisioningRecord" || rec.ServerFQDN != "provisionserver.lab.test") {
				t.Errorf("record: %+v", rec)
			}
			snap := d.Snapshot()
			if snap.Commits != 1 || !snap.TLSEnabled || snap.HostName != "pc1" || snap.Domain != "lab.test" || !snap.ClockSet ||
				snap.AdminDefault || snap.MEBxDefault || snap.LMSTouched {
				t.Errorf("after setup: %+v", snap)
			}
			if !d.AcceptsAdmin("admin", adminPassword) || !d.AcceptsMEBx(mebxPassword) {
				t.Error("the passwords in force are not the ones sent")
			}
			failed := 0
			if p.PasswordAtCommit {
				failed = 1 // the new password, tried as soon as it was set
			}
			if snap.LoginsFailed > failed {
				t.Errorf("%d failed logins", snap.LoginsFailed)
			}
			if err := v.Unprovision(t.Context(), true); err != nil {
				if !errors.As(err, &why) || !why.Sent {
					t.Errorf("unprovision: %v", err)
				}
			}
			if state, _ := d.State(); state == amt.StatePost {
				t.Error("it is still operational")
			}
		})
	}
}

func wantCode(t *testing.T, err error, code reason.Code) *reason.Error {
	t.Helper()
	why := new(reason.Error)
	if !errors.As(err, &why) || why.Code != code {
		t.Fatalf("got %v, want %s", err, code)
	}
	return why
}

// A device set up without TLS answers on the port below, in clear.
func TestPlainAfterASetupWithoutTLS(t *testing.T) {
	t.Parallel()
	d := startDevice(t, sim.Config{Personality: "9"})
	s := dialSetup(t, d)
	ctx := t.Context()
	id, err := s.Identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, clock := s.SetClock(ctx)
	if err := errors.Join(clock, s.SetMEBxPassword(ctx, amt.NewSecret(mebxPassword)),
		s.SetAdminPassword(ctx, "admin", id.Realm, amt.NewSecret(adminPassword)), s.SetHostName(ctx, "pc1", "lab.test")); err != nil {
		t.Fatal(err)
	}
	why := new(reason.Error)
	if err := s.Commit(ctx); err != nil && !(errors.As(err, &why) && why.Sent) {
		t.Fatal(err)
	}
	_ = s.Close()
	target := session.Target{Addr: netip.AddrPortFrom(d.Addr().Addr(), d.Addr().Port()-1), Plain: true,
		Logins: []session.Login{{Name: "candidate", User: "admin", Password: amt.NewSecret(adminPassword)}}}
	v, err := newDialer().Dial(ctx, target) // patience covers the restart
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if state, err := v.State(ctx); err != nil || state != amt.StatePost || v.LoginUsed() != "candidate" {
		t.Errorf("%v, %v, login %q", state, err, v.LoginUsed())
	}
}
