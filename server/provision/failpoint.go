//go:build failpoints

package provision

import (
	"context"
	"crypto/rsa"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// Failpoints let a test kill the real binary, with SIGKILL and so without a
// word, right before or right after each durable write and each call to a
// device:
//
//	PROVISIOND_CRASH_AT=sending/set_mebx_password/after:1
//
// A site is a write (hello, claim, stage, settle, renew; journal and sending with
// the step they write down) or a call (call/SetClock), and the moment. :n is which
// passing of it, the first when left out. PROVISIOND_CRASH_TRACE names a file
// to which each site is written as it is passed, so that a test can learn them.
type failpoints struct {
	site  string
	nth   int
	trace *os.File

	mu     sync.Mutex
	passed map[string]int
}

func withFailpoints(c Config) Config {
	at, n, _ := strings.Cut(os.Getenv("PROVISIOND_CRASH_AT"), ":")
	f := &failpoints{site: at, nth: 1, passed: map[string]int{}}
	if i, err := strconv.Atoi(n); err == nil {
		f.nth = i
	}
	if name := os.Getenv("PROVISIOND_CRASH_TRACE"); name != "" {
		t, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			panic(fmt.Sprintf("PROVISIOND_CRASH_TRACE: %v", err))
		}
		f.trace = t
	}
	dial := c.Dial
	c.Dial = func(ctx context.Context, t session.Target) (d Device, err error) {
		f.around("call/Dial", func() { d, err = dial(ctx, t) })
		if err != nil {
			return nil, err
		}
		return &failingDevice{d, f}, nil
	}
	c.Store = &failingStore{c.Store, f}
	return c
}

// Failpoint is a site outside the engine: hello/before and hello/after.
func (e *Engine) Failpoint(site string) {
	if s, ok := e.Store.(*failingStore); ok {
		s.f.pass(site)
	}
}

func (f *failpoints) around(what string, do func()) {
	f.pass(what + "/before")
	do()
	f.pass(what + "/after")
}

func (f *failpoints) pass(site string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed[site]++
	if f.trace != nil {
		fmt.Fprintln(f.trace, site)
	}
	if site == f.site && f.passed[site] == f.nth {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // with the lock held: nothing passes any more
	}
}

type failingStore struct {
	Store
	f *failpoints
}

func last(steps []store.StepRecord) string {
	if len(steps) == 0 {
		return ""
	}
	return "/" + steps[len(steps)-1].Name
}

func (s *failingStore) Claim(ctx context.Context, id int64, lease time.Duration) (j *Job, err error) {
	s.f.around("claim", func() { j, err = s.Store.Claim(ctx, id, lease) })
	return j, err
}

func (s *failingStore) Journal(ctx context.Context, l Lease, steps []store.StepRecord, facts *Facts) (err error) {
	s.f.around("journal"+last(steps), func() { err = s.Store.Journal(ctx, l, steps, facts) })
	return err
}

func (s *failingStore) Stage(ctx context.Context, l Lease, setup int, admin, mebx amt.Secret) (a, m store.Credential, err error) {
	s.f.around("stage", func() { a, m, err = s.Store.Stage(ctx, l, setup, admin, mebx) })
	return a, m, err
}

func (s *failingStore) Sending(ctx context.Context, l Lease, steps []store.StepRecord, out Handout) (err error) {
	s.f.around("sending"+last(steps), func() { err = s.Store.Sending(ctx, l, steps, out) })
	return err
}

func (s *failingStore) Renew(ctx context.Context, leases []Lease) (lost []Lease, err error) {
	s.f.around("renew", func() { lost, err = s.Store.Renew(ctx, leases) })
	return lost, err
}

func (s *failingStore) Settle(ctx context.Context, l Lease, v Verdict) (err error) {
	s.f.around("settle", func() { err = s.Store.Settle(ctx, l, v) })
	return err
}

type failingDevice struct {
	Device
	f *failpoints
}

func (d *failingDevice) Identify(ctx context.Context) (id session.Identity, err error) {
	d.f.around("call/Identify", func() { id, err = d.Device.Identify(ctx) })
	return id, err
}

func (d *failingDevice) State(ctx context.Context) (s amt.ProvisioningState, err error) {
	d.f.around("call/State", func() { s, err = d.Device.State(ctx) })
	return s, err
}

func (d *failingDevice) ExtendSetup(ctx context.Context, hours int) (err error) {
	d.f.around("call/ExtendSetup", func() { err = d.Device.ExtendSetup(ctx, hours) })
	return err
}

func (d *failingDevice) Clock(ctx context.Context) (t time.Time, err error) {
	d.f.around("call/Clock", func() { t, err = d.Device.Clock(ctx) })
	return t, err
}

func (d *failingDevice) SetClock(ctx context.Context) (t time.Time, err error) {
	d.f.around("call/SetClock", func() { t, err = d.Device.SetClock(ctx) })
	return t, err
}

func (d *failingDevice) SetMEBxPassword(ctx context.Context, pw amt.Secret) (err error) {
	d.f.around("call/SetMEBxPassword", func() { err = d.Device.SetMEBxPassword(ctx, pw) })
	return err
}

func (d *failingDevice) SetAdminPassword(ctx context.Context, user, realm string, pw amt.Secret) (err error) {
	d.f.around("call/SetAdminPassword", func() { err = d.Device.SetAdminPassword(ctx, user, realm, pw) })
	return err
}

func (d *failingDevice) SetHostName(ctx context.Context, host, domain string) (err error) {
	d.f.around("call/SetHostName", func() { err = d.Device.SetHostName(ctx, host, domain) })
	return err
}

func (d *failingDevice) TLSMaterial(ctx context.Context) (m session.TLSMaterial, err error) {
	d.f.around("call/TLSMaterial", func() { m, err = d.Device.TLSMaterial(ctx) })
	return m, err
}

func (d *failingDevice) GenerateKey(ctx context.Context, bits int) (h string, err error) {
	d.f.around("call/GenerateKey", func() { h, err = d.Device.GenerateKey(ctx, bits) })
	return h, err
}

func (d *failingDevice) AddKey(ctx context.Context, k *rsa.PrivateKey) (h string, err error) {
	d.f.around("call/AddKey", func() { h, err = d.Device.AddKey(ctx, k) })
	return h, err
}

func (d *failingDevice) AddCertificate(ctx context.Context, der []byte) (h string, err error) {
	d.f.around("call/AddCertificate", func() { h, err = d.Device.AddCertificate(ctx, der) })
	return h, err
}

func (d *failingDevice) AddTrustedRoot(ctx context.Context, der []byte) (h string, err error) {
	d.f.around("call/AddTrustedRoot", func() { h, err = d.Device.AddTrustedRoot(ctx, der) })
	return h, err
}

func (d *failingDevice) Delete(ctx context.Context, handle string) (err error) {
	d.f.around("call/Delete", func() { err = d.Device.Delete(ctx, handle) })
	return err
}

func (d *failingDevice) UseCertificate(ctx context.Context, handle string) (err error) {
	d.f.around("call/UseCertificate", func() { err = d.Device.UseCertificate(ctx, handle) })
	return err
}

func (d *failingDevice) EnableTLS(ctx context.Context, mutual bool, cn []string) (err error) {
	d.f.around("call/EnableTLS", func() { err = d.Device.EnableTLS(ctx, mutual, cn) })
	return err
}

func (d *failingDevice) Commit(ctx context.Context) (err error) {
	d.f.around("call/Commit", func() { err = d.Device.Commit(ctx) })
	return err
}

func (d *failingDevice) ProvisioningRecord(ctx context.Context) (r session.Record, err error) {
	d.f.around("call/ProvisioningRecord", func() { r, err = d.Device.ProvisioningRecord(ctx) })
	return r, err
}

func (d *failingDevice) Unprovision(ctx context.Context, full bool) (err error) {
	d.f.around("call/Unprovision", func() { err = d.Device.Unprovision(ctx, full) })
	return err
}
