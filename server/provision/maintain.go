package provision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Tasks of a maintain run. Named in the run's task, divided by commas, they are
// looked at and done where needed; without any, all are. "check" alone looks at
// everything and changes nothing.
const (
	TaskClock    = "clock"    // set when it is off by more than clockSlack
	TaskName     = "name"     // host name and domain
	TaskCert     = "cert"     // renewed before its last renewBefore; when named, unless a day old
	TaskTLS      = "tls"      // TLS settings against the profile
	TaskPassword = "password" // at the profile's age; when named, always
	TaskCheck    = "check"
	// TaskKept, beside any of them, holds the device against the version of the
	// profile that it has: what is new reaches it in a rollout.
	TaskKept = "kept"
)

const (
	// clockSlack is what a device's clock may be off: it counts whole seconds,
	// and Kerberos and certificates mind minutes.
	clockSlack = 10 * time.Second
	// renewBefore is how long before its end a device certificate is replaced.
	renewBefore = 30 * 24 * time.Hour
	// renewedLately keeps a repeated attempt from renewing twice.
	renewedLately = 24 * time.Hour
	// issueBackdate is by how much our device CA dates certificates back.
	issueBackdate = 24 * time.Hour
)

type tasks struct {
	named map[string]bool // empty: what is due
	// blind reports that what the device was told is not known any more: its TLS
	// settings are left as they are.
	blind bool
}

func tasksOf(s string) tasks {
	t := tasks{named: map[string]bool{}}
	for _, w := range taskWords(s) {
		if w != "due" && w != TaskKept {
			t.named[w] = true
		}
	}
	return t
}

func taskWords(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// keeps reports whether a run leaves the device the version of the profile that
// it has. To change its password, or to take it back to the factory, is no reason
// to bring it to a newer one.
func keeps(r store.Run) bool {
	switch r.Kind {
	case KindRotate, KindUnprovision:
		return true
	}
	return r.Kind == KindMaintain && slices.Contains(taskWords(r.Task), TaskKept)
}

func (t tasks) wants(task string) bool {
	return (len(t.named) == 0 || t.named[task] || t.only()) && (task != TaskTLS || !t.blind)
}

// only reports that nothing is to be changed.
func (t tasks) only() bool { return len(t.named) == 1 && t.named[TaskCheck] }

// complete reports whether everything was looked at, so that the answer says
// whether the device is as its profile wants it.
func (t tasks) complete() bool { return (len(t.named) == 0 || t.only()) && !t.blind }

// differ answers a maintenance step's question: "" when all is well. What
// differs is put right by Apply, or only noted when the run is to check.
func (r *Run) differ(what string) (done bool) {
	if what == "" {
		return true
	}
	if r.tasks.only() {
		r.differs = append(r.differs, what)
		return true
	}
	return false
}

// did notes what was changed, once.
func (r *Run) did(what string) {
	if !slices.Contains(r.fixed, what) {
		r.fixed = append(r.fixed, what)
	}
}

var checkClock = Step{
	Name:   "check_clock",
	Needed: func(r *Run) bool { return r.tasks.wants(TaskClock) },
	Done: func(ctx context.Context, r *Run) (bool, error) {
		t, err := r.Device.Clock(ctx)
		if err != nil {
			return false, err
		}
		off := r.e.Clock.Now().Sub(t)
		if off.Abs() <= clockSlack {
			return true, nil
		}
		return r.differ(fmt.Sprintf("its clock is off by %s", off.Abs().Round(time.Second))), nil
	},
	Apply: func(ctx context.Context, r *Run) error {
		if _, err := r.Device.SetClock(ctx); err != nil {
			return named(reason.ClockSyncFailed, err)
		}
		r.did(TaskClock)
		return nil
	},
}

var checkName = Step{
	Name:   "check_name",
	Needed: func(r *Run) bool { return r.tasks.wants(TaskName) },
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if err := r.wantedName(ctx); err != nil {
			return false, err
		}
		if strings.EqualFold(r.Identity.HostName, r.host) && strings.EqualFold(r.Identity.DomainName, r.domain) {
			r.named()
			return true, nil
		}
		return r.differ(fmt.Sprintf("it calls itself %q, not %q", join(r.Identity.HostName, r.Identity.DomainName), r.fqdn())), nil
	},
	Apply: func(ctx context.Context, r *Run) error {
		if err := r.Device.SetHostName(ctx, r.host, r.domain); err != nil {
			return err
		}
		r.Identity.HostName, r.Identity.DomainName = r.host, r.domain
		r.named()
		r.did(TaskName)
		return nil
	},
}

// named records that the device has the name that it is to have.
func (r *Run) named() {
	if r.misnamed == nil {
		r.facts.HostName, r.facts.Domain = r.host, r.domain
	}
}

// wantedName decides the name without recording it: the device has it only
// after it was told. A device under management that may not have the name it is to
// have keeps the one it bears, and is maintained under that: a name is no reason to
// let its certificate or its password grow old. What is wrong with it is a finding.
func (r *Run) wantedName(ctx context.Context) error {
	host, domain := r.facts.HostName, r.facts.Domain
	err := r.nameDevice(ctx)
	r.facts.HostName, r.facts.Domain = host, domain
	switch codeOf(err) {
	case reason.NameTaken, reason.DomainNotAllowed, reason.IdentityIncomplete:
	default:
		return err
	}
	bears, in := r.Job.Device.HostName, r.Job.Device.Domain
	if bears == "" {
		bears, in = r.Identity.HostName, r.Identity.DomainName
	}
	if bears == "" {
		return err
	}
	r.host, r.domain, r.misnamed = bears, in, err
	return nil
}

func join(host, domain string) string {
	if domain == "" {
		return host
	}
	return host + "." + domain
}

func (r *Run) wantsCert() bool {
	return wantsTLS(r) && r.tasks.wants(TaskCert)
}

// checkTLS reads the device's certificate store and settings once. What they
// say decides whether the steps after it have anything to do.
var checkTLS = Step{
	Name:   "check_tls",
	Needed: func(r *Run) bool { return wantsTLS(r) && (r.tasks.wants(TaskCert) || r.tasks.wants(TaskTLS)) },
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if err := r.wantedName(ctx); err != nil {
			return false, err
		}
		if err := r.readMaterial(ctx); err != nil {
			return false, err
		}
		if until, ok := r.inUse(); ok {
			r.facts.CertUntil = until
		}
		r.unsaved = !r.tasks.only() && r.pending()
		if !r.tasks.only() {
			return true, nil
		}
		if why := r.certificateDue(); why != "" {
			r.differ(why)
		}
		if why := r.tlsDiffers(); why != "" && r.tasks.wants(TaskTLS) {
			r.differ(why)
		}
		return true, nil
	},
}

// pending reports whether what the device says of its TLS is not yet what it
// does: an earlier attempt ended between a change and its commit.
func (r *Run) pending() bool { return r.asksOtherwise() || r.showsAnother() }

// asksOtherwise reports whether the device speaks another TLS, or none, than it says:
// it asks consoles for certificates, or does not.
func (r *Run) asksOtherwise() bool {
	return slices.ContainsFunc(r.material.Settings, func(s session.TLSSetting) bool {
		return network(s) && s.Enabled && (s.Mutual != r.Device.Peer().ClientCertAsked || r.plain())
	})
}

// showsAnother reports whether the device shows another certificate than it says.
func (r *Run) showsAnother() bool {
	shown := r.Device.Peer().Fingerprint
	return slices.ContainsFunc(r.material.Certificates, func(c session.CertInstance) bool {
		sum := sha256.Sum256(c.DER)
		return c.Handle != "" && c.Handle == r.material.Context && len(c.DER) > 0 && !bytes.Equal(sum[:], shown)
	})
}

// inUse is until when the certificate the device shows is valid.
func (r *Run) inUse() (until time.Time, ok bool) {
	for _, c := range r.material.Certificates {
		if c.Handle == r.material.Context && c.Handle != "" {
			if x, err := x509.ParseCertificate(c.DER); err == nil {
				return x.NotAfter, true
			}
		}
	}
	return time.Time{}, false
}

// certificateDue says why the device's certificate has to be replaced; "" not.
func (r *Run) certificateDue() string {
	for _, c := range r.material.Certificates {
		if c.Handle != r.material.Context || c.Handle == "" {
			continue
		}
		x, err := x509.ParseCertificate(c.DER)
		now := r.e.Clock.Now()
		switch {
		case err != nil || !r.e.Trust.IssuedByUs(c.DER):
			return "the certificate it shows is not of our device CA"
		case !strings.EqualFold(x.Subject.CommonName, r.fqdn()):
			return fmt.Sprintf("its certificate is for %q, not %q", x.Subject.CommonName, r.fqdn())
		case x.NotAfter.Before(now.Add(renewBefore)):
			return "its certificate ends on " + x.NotAfter.UTC().Format(time.DateOnly)
		case r.tasks.named[TaskCert] && x.NotBefore.Add(issueBackdate).Before(now.Add(-renewedLately)):
			return "a new certificate was asked for"
		}
		return ""
	}
	return "it uses no certificate"
}

func (r *Run) renews() bool {
	return r.wantsCert() && !r.tasks.only() && r.material != nil && r.certificateDue() != ""
}

// renewed makes a step of the setup one of maintenance: the same questions and
// changes, on a device that is committed, when its certificate is due.
func renewed(s Step, name string) Step {
	apply := s.Apply
	return Step{
		Name: name, Done: s.Done, Before: s.Before,
		Needed: (*Run).renews,
		Apply: func(ctx context.Context, r *Run) error {
			err := apply(ctx, r)
			if err == nil {
				r.did(TaskCert)
			}
			return err
		},
	}
}

var (
	renewKey         = renewed(makeDeviceKey, "renew_key")
	renewCertificate = renewed(installCertificate, "renew_certificate")
)

var useRenewed = Step{
	Name:   "use_renewed",
	Needed: (*Run).renews,
	Done: func(_ context.Context, r *Run) (bool, error) {
		return r.material.Context != "" && r.material.Context == r.certHandle, nil
	},
	Apply: func(ctx context.Context, r *Run) error {
		if old := r.material.Context; old != "" {
			r.oldCerts = append(r.oldCerts, old)
		}
		if err := r.Device.UseCertificate(ctx, r.certHandle); err != nil {
			return named(reason.TLSEnableFailed, err)
		}
		r.material.Context = r.certHandle
		r.unsaved = true
		r.did(TaskCert)
		return nil
	},
}

// tlsDiffers says how the network's TLS settings differ from the profile's.
func (r *Run) tlsDiffers() string {
	mutual := r.Profile.TLS == profile.TLSMutual
	names, err := r.trustedNames()
	if err != nil {
		return err.Error()
	}
	for _, s := range r.material.Settings {
		if !network(s) {
			continue
		}
		switch {
		case !s.Enabled:
			return "TLS is off"
		case s.Mutual != mutual:
			return fmt.Sprintf("mutual TLS is %t, not %t", s.Mutual, mutual)
		case mutual && !sameNames(s.TrustedCN, names):
			return fmt.Sprintf("it trusts consoles named %v, not %v", s.TrustedCN, names)
		}
		return ""
	}
	return ""
}

func sameNames(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.EqualFunc(a, b, strings.EqualFold)
}

var restoreTLS = Step{
	Name: "restore_tls",
	Needed: func(r *Run) bool {
		return wantsTLS(r) && r.tasks.wants(TaskTLS) && !r.tasks.only() && r.material != nil && r.tlsDiffers() != ""
	},
	Apply: func(ctx context.Context, r *Run) error {
		if err := r.changeTLS(ctx); err != nil {
			return err
		}
		r.unsaved = true
		r.did(TaskTLS)
		return nil
	},
}

// saveChanges commits what waits for it. As in the setup, the answer proves
// nothing: the device restarts its network, and is met again.
var saveChanges = Step{
	Name:   "save_changes",
	Needed: func(r *Run) bool { return r.unsaved },
	Apply: func(ctx context.Context, r *Run) error {
		if err := r.guardPending(ctx); err != nil {
			return err
		}
		waited := r.pending() || slices.Contains(r.fixed, TaskCert) // what was read last does not hold a new certificate
		lost := r.Device.Commit(ctx)
		switch {
		case amt.Answered(lost):
			return named(reason.CommitFailed, lost)
		case lost != nil && !sent(lost):
			return lost
		case lost != nil:
			r.unanswered = true
			r.log.Info("commit.ambiguous", zap.Error(lost))
		}
		r.takeRope()
		r.other = r.metPlain() // from here on it has TLS: nothing is committed that takes it away
		if err := r.settled(ctx); err != nil {
			if shutsOut(err) && len(r.guarded) > 0 && !r.e.ungated {
				return r.takeBack(ctx, err)
			}
			r.dropRope()
			return err
		}
		r.proved()
		if r.unanswered && (!waited || r.pending()) {
			return lost // nothing that the device shows says that it came
		}
		r.unanswered, r.unsaved = false, false
		if until, ok := r.inUse(); ok {
			r.facts.CertUntil = until
		}
		if why := r.tlsDiffers(); why != "" && r.tasks.wants(TaskTLS) {
			return reason.Because(reason.TLSEnableFailed, "the device said yes, and still: %s", why)
		}
		return nil
	},
}

// settled meets the device again until it shows what was committed: the old
// listener may answer for a moment.
func (r *Run) settled(ctx context.Context) error {
	until := r.e.Clock.Now().Add(r.e.VerifyFor / 6)
	for pause := r.e.VerifyPause; ; pause = min(2*pause, 5*time.Second) {
		r.hangUp()
		if _, err := r.verify(ctx); err != nil {
			return err
		}
		r.material = nil
		if err := r.readMaterial(ctx); err != nil {
			return err
		}
		if !r.pending() {
			return nil
		}
		if r.e.Clock.Now().Add(pause).After(until) {
			if !r.asksOtherwise() && !r.showsOurs(r.Device.Peer()) {
				return nil // firmware that goes on showing its own: the verdict says so
			}
			return reason.Because(reason.CommitFailed, "the device says its new TLS settings and still shows the old ones")
		}
		if err := r.e.Clock.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// dropOldCertificates makes room: a device's store holds few. A refusal changes
// nothing that matters.
var dropOldCertificates = Step{
	Name:   "drop_old_certificates",
	Needed: func(r *Run) bool { return r.material != nil && !r.tasks.only() && len(r.leftovers()) > 0 },
	Apply: func(ctx context.Context, r *Run) error {
		for _, h := range r.leftovers() {
			err := r.Device.Delete(ctx, h)
			if err != nil && !sent(err) { // busy, perhaps; once more
				if err := r.e.Clock.Sleep(ctx, r.e.KeyPause); err != nil {
					return err
				}
				err = r.Device.Delete(ctx, h)
			}
			if sent(err) {
				return err
			}
			if err != nil {
				r.log.Info("certificate.kept", zap.String("handle", h), zap.Error(err))
			}
		}
		return nil
	},
}

// leftovers are certificates of our device CA that the device no longer uses,
// and then the keys that belonged to them.
func (r *Run) leftovers() []string {
	var list []string
	used := func(k session.KeyInstance) bool {
		return slices.ContainsFunc(r.material.Certificates, func(c session.CertInstance) bool {
			_, pub, _ := deviceCertificate(c.DER)
			return pub != nil && k.Public != nil && k.Public.Equal(pub) && !slices.Contains(list, c.Handle)
		})
	}
	if r.material.Context == "" {
		return nil
	}
	was := map[string]bool{}
	for _, k := range r.material.Keys {
		was[k.Handle] = used(k)
	}
	for _, c := range r.material.Certificates {
		if !c.Trusted && c.Handle != r.material.Context && r.e.Trust.IssuedByUs(c.DER) {
			list = append(list, c.Handle)
		}
	}
	for _, k := range r.material.Keys {
		if was[k.Handle] && !used(k) {
			list = append(list, k.Handle)
		}
	}
	return list
}

// passwordDue says why the admin password has to be changed; "" not.
func (r *Run) passwordDue() string {
	if r.Job.Run.Kind == KindRotate || r.tasks.named[TaskPassword] {
		return "a new password was asked for"
	}
	if r.Profile.DerivedPassword() && !r.Master.IsZero() && r.tasks.wants(TaskPassword) && !r.derives(r.admin) {
		return "its profile derives passwords, and it has another one"
	}
	days := r.Profile.PasswordDays
	if days <= 0 || !r.tasks.wants(TaskPassword) {
		return ""
	}
	if r.derives(r.admin) {
		return "" // its age changes nothing about it
	}
	changed := r.Job.Device.PasswordChangedAt
	if changed.IsZero() {
		return "the age of its password is not known"
	}
	if age := r.e.Clock.Now().Sub(changed); age > time.Duration(days)*24*time.Hour {
		return fmt.Sprintf("its password is %d days old, %d are allowed", int(age.Hours()/24), days)
	}
	return ""
}
